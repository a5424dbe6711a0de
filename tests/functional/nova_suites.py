# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.


"""Nova's own functional tests, with our driver in the place of Nova's fake one.

A class of Nova's is inherited, not copied: what it starts as a compute service runs
our driver over a simulated node.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import fixtures
import pytest
from oslo_config import cfg

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.virt import fake
from ovznovadriver.driver import OvzDriver
from ovznovadriver.openvz import resources
from tests.functional import fixtures as cloud_fixtures
from tests.functional import twohosts

CONF = cfg.CONF
FAMILIES = ("4", "9")


class StockGlance(cloud_fixtures.Glance):
    """Glance with Nova's own images, each of which a container can be made from."""

    def __init__(self, test: Any) -> None:
        super().__init__(test)
        self._rootfs = cloud_fixtures.rootfs_tarball()
        self._imagedata: dict[str, bytes] = {}

    def setUp(self) -> None:
        super().setUp()
        self._imagedata = dict.fromkeys(self.images, self._rootfs)

    def create(
        self, context: Any, metadata: dict[str, Any], data: Any = None
    ) -> dict[str, Any]:
        """Store an image; one that Nova's tests make without data gets some."""
        # That of a snapshot has no size before it is uploaded.
        if data is not None or "size" not in metadata:
            return dict(super().create(context, metadata, data))
        image: dict[str, Any] = super().create(context, metadata)
        image.update(disk_format="raw", container_format="bare")
        image.update(cloud_fixtures.facts_of(self._rootfs))
        self._imagedata[image["id"]] = self._rootfs
        return image

    def detail(self, context: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The images, the first one first, as Nova's tests take that."""
        return super().detail(context, **kwargs)[::-1]


class SilentOpenVSwitch(cloud_fixtures.OpenVSwitch):
    """Without an agent: no test of Nova's waits for Neutron."""

    def _agent(self) -> None:
        """Tell nobody anything."""


class Patience(fixtures.Fixture):
    """Has Nova's tests wait longer than ten times half a second.

    Processes take longer than the fake driver does, above all on a busy machine. So
    between two looks nothing may have happened for four times as long. And as what
    happens to a server on its way ends a pause, they look ten times as often.
    """

    #: What a number of looks, as Nova's helpers have it, is multiplied by.
    LOOKS = 10

    def _setUp(self) -> None:
        changes = self.useFixture(cloud_fixtures.InstanceChanges()).event

        def sleep(seconds: float) -> None:
            time.sleep(seconds)
            changes.wait(3 * seconds)
            changes.clear()

        def looks(number: int) -> range:
            # All loops of theirs that wait have these numbers, and no other ones do.
            return range(number * self.LOOKS if number in (10, 40) else number)

        helpers = "nova.tests.functional.integrated_helpers"
        for name, ours in (("time", SimpleNamespace(sleep=sleep)), ("range", looks)):
            self.useFixture(fixtures.MonkeyPatch(f"{helpers}.{name}", ours))


class OnSimulatedNodes(twohosts.ReachableHosts):
    """Put before a class of Nova's: our driver, on a node for each compute service.

    :cvar SIZE: the fake driver that Nova has the class's tests on. The nodes are as
        large as it says, as Nova's tests count on that.
    :cvar FAULTS: methods of it that only fail, and stand in the place of ours
    """

    SIZE: type[Any]
    FAULTS: tuple[str, ...] = ()

    def setUp(self) -> None:
        self._choose_driver()
        self._simulates = False
        self._managers: dict[str, Any] = {}
        self.useFixture(
            fixtures.MonkeyPatch("nova.tests.fixtures.GlanceFixture", StockGlance)
        )
        # What they patch of the fake driver, they patch of ours.
        self.useFixture(fixtures.MonkeyPatch("nova.virt.fake.FakeDriver", OvzDriver))
        for name in self.FAULTS:
            self.useFixture(
                fixtures.MonkeyPatch(
                    f"ovznovadriver.driver.OvzDriver.{name}", vars(self.SIZE)[name]
                )
            )
        super().setUp()

    def start_service(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Start a service; before the first one, see to its surroundings."""
        if not self._simulates:
            self._simulates = True
            self._simulate_nodes()
        service = super().start_service(name, *args, **kwargs)
        if name == "compute":
            self._managers[service.host] = service.manager
        return service

    def tearDown(self) -> None:
        """Besides what Nova's test has asked: nothing is left of deleted servers."""
        super().tearDown()
        assert self.nodes, "no compute service has had our driver"
        left = [
            f"{uuid} on {host}" for host in self.nodes for uuid in self._left_on(host)
        ]
        assert not left, f"left of deleted servers: {left}"

    def _left_on(self, host: str) -> Iterator[str]:
        """The deleted servers that have a container on a host that is up."""
        context = nova_context.get_admin_context()
        mapping = self.host_mappings[host].cell_mapping
        with nova_context.target_cell(context, mapping) as cell:
            service = objects.Service.get_by_compute_host(cell, host)
            if service is None or service.forced_down:
                return
            # What Nova could not remove at once.
            self._managers[host]._cleanup_running_deleted_instances(cell)
            node = self.nodes[host]
            for ctid in node.containers():
                uuid = node.conf(ctid).get("NAME", ctid)
                try:
                    objects.Instance.get_by_uuid(cell, uuid)
                except nova_exception.InstanceNotFound:
                    yield uuid

    def _simulate_nodes(self) -> None:
        super()._simulate_nodes()
        self.useFixture(SilentOpenVSwitch(self))
        self.useFixture(Patience())
        size = resources.HostFacts(
            memory_mb=self.SIZE.memory_mb, cpus=self.SIZE.vcpus, page_size=4096
        )
        self.useFixture(
            fixtures.MonkeyPatch("ovznovadriver.compute.host.facts", lambda: size)
        )
        disk = (self.SIZE.local_gb, 0, self.SIZE.local_gb)
        self.useFixture(
            fixtures.MonkeyPatch(
                "ovznovadriver.compute.host.Host._disk", lambda _host: disk
            )
        )

    def _wait_for_server_parameter(
        self,
        server: dict[str, Any],
        expected_params: dict[str, Any],
        max_retries: int = 10,
        **kwargs: Any,
    ) -> dict[str, Any]:
        found: dict[str, Any] = super()._wait_for_server_parameter(
            server, expected_params, Patience.LOOKS * max_retries, **kwargs
        )
        return found

    def _create_flavor(self, *args: Any, **kwargs: Any) -> str:
        # The driver has no ephemeral disks. Nova's helper gives each flavor one.
        flavor_id: str = super()._create_flavor(*args, **{"ephemeral": 0, **kwargs})
        return flavor_id

    def _address(self, host: str) -> str:
        return f"192.0.2.{1 + list(self.nodes).index(host)}"

    def restart_compute_service(
        self, compute: Any, keep_hypervisor_state: bool = True
    ) -> Any:
        """End a compute service and start a new one, with a driver of its own.

        :param keep_hypervisor_state: False for a node that has lost its containers
        """
        compute.stop()
        if not keep_hypervisor_state:
            shutil.rmtree(self.nodes[compute.host].root)
            self.make_node(compute.host)
        # Nova hands its fake driver on, as that has the containers in memory.
        return super().restart_compute_service(compute, keep_hypervisor_state=False)


@dataclasses.dataclass(frozen=True)
class Suite:
    """A class of Nova's, and what of it runs.

    :ivar case: the class
    :ivar left_out: the tests that do not run, by name, and why
    :ivar quick: the tests that always run; all others are slow
    :ivar faults: see :attr:`OnSimulatedNodes.FAULTS`
    """

    case: type[Any]
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    quick: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def tests(self) -> list[str]:
        """The names of all tests of the class."""
        return [name for name in dir(self.case) if name.startswith("test")]

    @property
    def size(self) -> type[Any]:
        """The fake driver that Nova has the class's tests on."""
        name = getattr(self.case, "compute_driver", "fake.SmallFakeDriver")
        driver: type[Any] = getattr(fake, name.removeprefix("fake."))
        return driver

    def classes(self) -> Iterator[type[Any]]:
        """Our classes, two for each family: the quick tests, and the others."""
        slow = {*self.tests} - {*self.quick} - {*self.left_out}
        for family in FAMILIES:
            if self.quick:
                yield self._only(f"TestQuick{{}}WithVzctl{family}", self.quick, family)
            yield pytest.mark.slow(
                self._only(f"Test{{}}WithVzctl{family}", slow, family)
            )

    def _only(self, name: str, tests: Any, family: str) -> type[Any]:
        return type(
            name.format(self.case.__name__.removeprefix("Test")),
            (OnSimulatedNodes, self.case),
            {
                # A test that is no function is none.
                **{name: None for name in self.tests if name not in tests},
                "__doc__": f"{self.case.__doc__ or self.case.__name__}",
                "FAMILY": family,
                "SIZE": self.size,
                "FAULTS": self.faults,
                "compute_driver": "openvz.OvzDriver",
            },
        )
