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

"""A cloud in one process: Nova's services, and a simulated node per compute host."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fixtures
from nova.db.api import api as api_db
from nova.db.main import api as db
from nova.tests import fixtures as nova_fixtures
from nova.tests.functional import fixtures as func_fixtures
from nova.tests.functional import integrated_helpers
from nova.tests.functional.api import client as api_client
from oslo_config import cfg
from oslo_utils.fixture import uuidsentinel

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova import test as nova_test
from ovznovadriver import conf as ovz_conf
from ovznovadriver.driver import OvzDriver
from ovznovadriver.openvz import privsep
from tests.functional import fixtures as cloud_fixtures
from tests.simulator.node import SimNode

CONF = cfg.CONF
ovz_conf.register_opts(CONF)

#: Nova's tests forbid it; the driver asks for the node's architecture.
REAL_UNAME = os.uname


def simulated_node(root: Path, family: Any) -> SimNode:
    """A fresh node; where owners can be shifted (root), containers' owners are."""
    return SimNode(root, family, uid_offset=100000 if os.geteuid() == 0 else None)


def node_options(node: SimNode) -> dict[str, Any]:
    """The options that nova.conf of a simulated node has in ``[openvz]``."""
    root = Path(node.root)
    return {
        "vz_conf": str(root / "etc/vz/vz.conf"),
        "ve_conf_dir": str(node.conf_dir),
        "names_dir": str(node.names_dir),
        "lock_dir": str(root / "claims"),
        "sysfs_dir": str(node.root / "sys"),
        "program_dirs": [str(node.bin_dir)],
        # The tests count commands, and look by themselves.
        "event_interval": 0,
        # Limits cost four processes a start; tests/network measures them.
        "tc_mbit_per_unit": 0,
    }


def keep_test_method(case: Any, clear: Callable[[], None]) -> None:
    """Let nova forget a test's attributes, but for the method: pytest wants it."""
    name = case._testMethodName
    method = case.__dict__.get(name)
    clear()
    if method is not None:
        setattr(case, name, method)


class SimulatedNodes:
    """For Nova's test cases: our driver, and a simulated node per compute host.

    A class that has it calls :meth:`_choose_driver` before Nova's own set-up and
    :meth:`_simulate_nodes` after it.
    """

    #: The family of vzctl on the nodes: "4" or "9".
    FAMILY = "4"

    def _choose_driver(self) -> None:
        """Have Nova load our driver."""
        self.flags(
            api_paste_config=str(Path(sys.prefix) / "etc" / "nova" / "api-paste.ini"),
            group="wsgi",
        )
        self.flags(compute_driver="openvz.OvzDriver")

    def _simulate_nodes(self) -> None:
        """Have each compute service find a node of its own when it starts."""
        self.useFixture(cloud_fixtures.OpenDatabases(self._engines()))
        self.useFixture(fixtures.MonkeyPatch("os.uname", REAL_UNAME))
        self._init_host = OvzDriver.init_host
        self.useFixture(
            fixtures.MonkeyPatch(
                "ovznovadriver.driver.OvzDriver.init_host",
                lambda driver, host: self._begin(driver, host),
            )
        )
        self._directory = self._make_directory()
        self.nodes: dict[str, SimNode] = {}
        state = self._directory / "state"
        state.mkdir(exist_ok=True)
        self.flags(state_path=str(state))
        self.flags(lock_path=str(self._directory / "locks"), group="oslo_concurrency")
        self.useFixture(fixtures.MockPatchObject(privsep.context, "client_mode", False))

    def _clear_attrs(self) -> None:
        keep_test_method(self, super()._clear_attrs)

    def _engines(self) -> Iterator[Any]:
        """The databases: the API's, and each cell's."""
        yield api_db.get_engine()
        for mapping in self.cell_mappings.values():
            context = nova_context.get_admin_context()
            nova_context.set_target_cell(context, mapping)
            yield db.get_engine(context=context)

    def _make_directory(self) -> Path:
        """Where the nodes and the service's own files lie."""
        return Path(self.useFixture(fixtures.TempDir()).path)

    def make_node(self, host: str) -> SimNode:
        """A new simulated node for a compute host."""
        self.nodes[host] = simulated_node(self._directory / host, self.FAMILY)
        return self.nodes[host]

    def _begin(self, driver: Any, host: str) -> None:
        """Stands for init_host: the options are those of the host's node."""
        self._acting_host = host
        self.configure(self.nodes.get(host) or self.make_node(host))
        self._init_host(driver, host)
        self._identify(driver, self._identity())

    def _identify(self, driver: Any, identity: str) -> None:
        """Have Nova take a host's identity from its driver, not from the process."""
        (name,) = driver.get_available_nodes()
        identities = {identity: name}
        driver.get_nodenames_by_uuid = lambda refresh=False: identities
        resource = type(driver).get_available_resource
        driver.get_available_resource = lambda nodename: {
            **resource(driver, nodename),
            "uuid": identity,
        }

    def _identity(self) -> str:
        """What the identity file of a host says; one process has but one file."""
        return str(getattr(uuidsentinel, f"node_{self._acting_host}"))

    def configure(self, node: SimNode) -> None:
        """Set the options that nova.conf of a node's compute service has."""
        self.flags(group="openvz", **node_options(node))

    def net_dir(self, node: SimNode) -> Path:
        """Where a node lists its network interfaces, as /sys/class/net does."""
        return node.net_dir

    def node_of_instance(self, instance_uuid: str) -> SimNode:
        """The node of the compute host that a server is on."""
        if len(self.nodes) == 1:
            (node,) = self.nodes.values()
            return node
        server = self.admin_api.get_server(instance_uuid)
        return self.nodes[server["OS-EXT-SRV-ATTR:host"]]


class OpenVZFunctionalTest(
    SimulatedNodes, nova_test.TestCase, integrated_helpers.PlacementInstanceHelperMixin
):
    """Everything from the REST API down to processes of the simulated tools.

    Nothing of the driver is replaced: os-vif's plug and unplug are, and what
    Nova's own functional tests replace (database, message bus, Keystone,
    Glance, Neutron).
    """

    #: The compute hosts that are started before the test.
    HOSTS: tuple[str, ...] = ("compute1",)
    #: What Nova talks to.
    GLANCE: type[cloud_fixtures.Glance] = cloud_fixtures.Glance
    NEUTRON: type[cloud_fixtures.Neutron] = cloud_fixtures.Neutron
    OPEN_VSWITCH: type[cloud_fixtures.OpenVSwitch] = cloud_fixtures.OpenVSwitch
    #: Longest wait for a server to come to a state, in seconds.
    PATIENCE = 90.0

    def setUp(self) -> None:
        self._choose_driver()
        super().setUp()
        self._simulate_nodes()
        self._start_neighbours()
        self._start_control_plane()
        self._furnish()
        for host in self.HOSTS:
            self.start_compute(host)

    def _furnish(self) -> None:
        """Put into Nova and Glance what servers are made of."""
        self.flavor_id = self._create_flavor(
            name="ct1.small", memory_mb=512, vcpu=1, disk=1, ephemeral=0
        )
        self.image_id = self.glance.add_image(cloud_fixtures.rootfs_tarball())

    def _start_neighbours(self) -> None:
        self.policy = self.useFixture(nova_fixtures.RealPolicyFixture())
        self.glance = self.useFixture(self.GLANCE(self))
        self.neutron = self.useFixture(self.NEUTRON(self))
        self.placement = self.useFixture(func_fixtures.PlacementFixture()).api
        self.useFixture(nova_fixtures.AllServicesCurrent())
        self.notifier = self.useFixture(nova_fixtures.NotificationFixture(self))
        self.changes = self.useFixture(cloud_fixtures.InstanceChanges()).event

    def _start_control_plane(self) -> None:
        self.api_fixture = self.useFixture(
            nova_fixtures.OSAPIFixture(api_version="v2.1")
        )
        self.admin_api = self.api_fixture.admin_api
        self.admin_api.microversion = "latest"
        self.api = self.admin_api
        # A server that failed shows why, not that there is no other host.
        self.flags(max_attempts=1, group="scheduler")
        self.start_service("conductor")
        self.scheduler = self.start_service("scheduler")
        self.ovs = self.useFixture(self.OPEN_VSWITCH(self))

    # -- nodes and compute services ------------------------------------------

    @property
    def node(self) -> SimNode:
        """The simulated node of a test that has one."""
        (node,) = self.nodes.values()
        return node

    def start_compute(self, host: str) -> Any:
        """Start (or start again) nova-compute of a host on its simulated node."""
        return self._start_compute(host)

    def restart_compute(self, host: str) -> Any:
        """End a compute service and start a new one on the same node."""
        self.computes.pop(host).stop()
        return self.start_compute(host)

    def driver(self, host: str | None = None) -> Any:
        """The driver that a compute service has loaded."""
        return self.computes[host or self.HOSTS[0]].manager.driver

    def run_periodic(self, task: str, host: str | None = None) -> None:
        """Run one of nova-compute's periodic tasks now."""
        manager = self.computes[host or self.HOSTS[0]].manager
        getattr(manager, task)(self.cell_context())

    def subcommands(self, node: SimNode) -> list[str]:
        """What vzctl was asked on a node, in order."""
        return [command.subcommand for command in node.commands("vzctl")]

    def add_container(
        self, node: SimNode, ctid: str, *, name: str = "", description: str = ""
    ) -> None:
        """A stopped container on a node, as another program may have made it.

        It is only a configuration file and an init: cheap, where many are wanted.
        """
        sample = (node.conf_dir / "ve-basic.conf-sample").read_text()
        private = node.private_dir / ctid
        init = private / ("fs/sbin/init" if self.FAMILY == "9" else "sbin/init")
        init.parent.mkdir(parents=True)
        init.touch(mode=0o755)
        if node.uid_offset:
            os.chown(private, node.uid_offset, node.uid_offset)
        (node.conf_dir / f"{ctid}.conf").write_text(
            f'{sample}\nVE_PRIVATE="{private}"\nVE_ROOT="{node.root_dir / ctid}"\n'
            f'OSTEMPLATE="debian"\nNAME="{name}"\nDESCRIPTION="{description}"\n'
        )

    # -- servers -------------------------------------------------------------

    def boot(
        self,
        name: str = "web-1",
        *,
        networks: list[dict[str, str]] | str | None = None,
        status: str = "ACTIVE",
        image_id: str | None = None,
        **request: Any,
    ) -> dict[str, Any]:
        """Create a server by the API and wait for its state.

        :param networks: as in the API; None is one port on the private network
        :param request: further members of the request
        """
        if networks is None:
            networks = [{"uuid": self.neutron.network_1["id"]}]
        body = {
            "name": name,
            "imageRef": image_id or self.image_id,
            "flavorRef": self.flavor_id,
            "networks": networks,
            **request,
        }
        server = self.api.post_server({"server": body})
        found = self._wait_for_state_change(server, status)
        if "adminPass" in server:
            found["adminPass"] = server["adminPass"]
        return found

    def act(
        self, server: dict[str, Any], action: str, arguments: Any = None
    ) -> dict[str, Any]:
        """Ask for a server action and wait until Nova has no task for it."""
        self.api.post_server_action(server["id"], {action: arguments})
        return self.settle(server)

    def settle(self, server: dict[str, Any]) -> dict[str, Any]:
        """Wait until Nova does nothing with a server any more."""
        return self._wait_for_server_parameter(server, {"OS-EXT-STS:task_state": None})

    def delete(self, server: dict[str, Any]) -> None:
        """Delete a server by the API and wait until it is gone."""
        self.api.delete_server(server["id"])
        self._wait_until_deleted(server)

    def fault(self, server: dict[str, Any]) -> str:
        """What a failed server's owner is shown; Nova cuts it to 255 characters."""
        message: str = self.api.get_server(server["id"])["fault"]["message"]
        return message

    def instance(self, server: dict[str, Any]) -> Any:
        """Nova's own object of a server."""
        return objects.Instance.get_by_uuid(
            self.cell_context(), server["id"], expected_attrs=["flavor", "info_cache"]
        )

    def cell_context(self) -> Any:
        """An administrator's context for the cell's database."""
        context = nova_context.get_admin_context()
        nova_context.set_target_cell(context, self.cell_mappings["cell1"])
        return context

    def container(self, server: dict[str, Any], node: SimNode | None = None) -> str:
        """The CTID of a server's container: its UUID, or of a container so named."""
        node = node or self.node_of_instance(server["id"])
        found = [
            ctid
            for ctid in node.containers()
            if server["id"] in (ctid, node.conf(ctid).get("NAME"))
        ]
        assert len(found) == 1, f"containers of {server['id']}: {found}"
        return str(found[0])

    def tree(self, server: dict[str, Any]) -> Path:
        """The root of a server's files, as the node sees it."""
        node = self.node_of_instance(server["id"])
        return node.tree(self.container(server, node))

    def left_on(self, node: SimNode) -> list[str]:
        """What containers have left on a node, as paths beneath its root."""
        root = Path(node.root)
        places = [
            *("vz/private", "vz/root", "vz/lock", "vz/dump", "claims", "sim/state"),
            *("etc/vz/conf", "etc/vz/names", "sys/class/net", "ovs/ports"),
        ]
        return sorted(
            str(path.relative_to(root))
            for place in places
            if (root / place).is_dir()
            for path in (root / place).iterdir()
            if not path.name.endswith("-sample") and path.name not in ("lo", ".lock")
        )

    # -- waiting: as nova's own helpers do, but without half a second a look --

    def wait_until(self, what: str, look: Callable[[], Any]) -> Any:
        """Look again and again until the answer is true; fail after PATIENCE."""
        return self._look_until(what, look, lambda: time.sleep(0.05))

    def _wait_for_server(self, what: str, look: Callable[[], Any]) -> Any:
        """Look again whenever a server was changed, and now and then without."""
        return self._look_until(what, look, lambda: self.changes.wait(0.5))

    def _look_until(
        self, what: str, look: Callable[[], Any], pause: Callable[[], object]
    ) -> Any:
        deadline = time.monotonic() + self.PATIENCE
        self.changes.clear()
        while not (answer := look()):
            if time.monotonic() > deadline:
                self.fail(f"{what}: not within {self.PATIENCE:g} s")
            pause()
            self.changes.clear()
        return answer

    def _wait_for_server_parameter(
        self,
        server: dict[str, Any],
        expected_params: dict[str, Any],
        max_retries: int = 10,
        api: Any = None,
        wait_for_fault_key: bool = True,
    ) -> dict[str, Any]:
        api = api or self.admin_api
        # Nova stores the fault after the state.
        fault = wait_for_fault_key and expected_params.get("status") == "ERROR"
        found: dict[str, Any] = {}
        busy = self._is_busy(server, absent=True)

        def arrived() -> bool:
            nonlocal found
            if busy():
                return False
            found = api.get_server(server["id"])
            if found["status"] == "ERROR" != expected_params.get("status", "ERROR"):
                self.fail(
                    f"the server is in ERROR: {found.get('fault', {}).get('message')}"
                )
            return all(found[key] == expected_params[key] for key in expected_params)

        self._wait_for_server(f"server {server['id']} {expected_params}", arrived)
        if fault and "fault" not in found:
            self.wait_until("fault", lambda: "fault" in api.get_server(server["id"]))
            found = api.get_server(server["id"])
        return found

    def _is_busy(self, server: dict[str, Any], absent: bool) -> Callable[[], bool]:
        """Whether asking the API is not worth it yet, as Nova has a task for a server.

        An answer of the API costs ten times what its database does, and this process
        is also the one that works. Now and then it is asked all the same: some
        states belong to a task, and some servers never get as far as a cell.

        :param absent: whether Nova is busy where its cell does not have the server
        """
        asked = time.monotonic()

        def busy() -> bool:
            nonlocal asked
            if time.monotonic() < asked + 1 and self._has_task(server, absent):
                return True
            asked = time.monotonic()
            return False

        return busy

    def _has_task(self, server: dict[str, Any], absent: bool) -> bool:
        try:
            row = db.instance_get_by_uuid(self.cell_context(), server["id"], [])
        except nova_exception.InstanceNotFound:
            return absent
        return row.task_state is not None

    def _wait_until_deleted(self, server: dict[str, Any]) -> None:
        was_in_error = server.get("status") == "ERROR"
        busy = self._is_busy(server, absent=False)

        def gone() -> bool:
            if busy():
                return False
            try:
                status = self.admin_api.get_server(server["id"])["status"]
            except api_client.OpenStackApiNotFoundException:
                return True
            if status == "ERROR" and not was_in_error:
                self.fail("the server went to ERROR instead of going away")
            return False

        self._wait_for_server(f"deletion of {server['id']}", gone)
