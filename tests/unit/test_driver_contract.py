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

"""Nova's contract for any driver, over a simulated node.

Nova's tests take NotImplementedError for a pass. Here each of them is strict,
but for those of features that the driver has not; those must say so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import fixtures

from tests import functional  # noqa: F401 - prepares the process for nova.test

# isort: split
import pytest
from nova.network import model
from nova.tests.unit import utils as test_utils
from nova.tests.unit.virt import test_virt_drivers

from nova import exception as nova_exception
from nova import objects
from nova import test as nova_test
from nova.virt import driver as nova_driver
from ovznovadriver import driver
from ovznovadriver.openvz import privsep
from tests.functional import base
from tests.functional import fixtures as cloud_fixtures
from tests.simulator.node import SimNode
from tests.unit.console.running import Running

_Suite = test_virt_drivers._VirtDriverTestCase

#: Tests of what the driver does not do: it raises NotImplementedError.
NOT_THERE = (
    "test_attach_detach_different_power_states",
    "test_attach_detach_volume",
    "test_block_stats",
    "test_get_device_name_for_instance",
    "test_get_host_cpu_stats",
    "test_get_instance_disk_info",
    "test_get_mks_console",
    "test_get_spice_console",
    "test_get_vnc_console",
    "test_host_power_action_reboot",
    "test_host_power_action_shutdown",
    "test_host_power_action_startup",
    "test_restore_running",
    "test_restore_soft_deleted",
    "test_set_host_enabled",
    "test_soft_delete",
    "test_swap_volume",
    "test_trigger_crash_dump",
)


def _refused(contract: Callable[..., None]) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        with pytest.raises(NotImplementedError):
            contract(self)

    return test


class _Contract(_Suite):
    """Nova's suite, with our driver, a node, and an image that has content."""

    FAMILY = "4"
    REQUIRES_LOCKING = True

    def setUp(self) -> None:
        self.driver_module = "ovznovadriver.driver.OvzDriver"
        # A driver asks for no policy and looks for no flavor; to set them up takes
        # half of the time that Nova's set-up takes.
        with (
            mock.patch("nova.tests.fixtures.PolicyFixture", fixtures.Fixture),
            mock.patch("nova.tests.fixtures.DefaultFlavorsFixture", fixtures.Fixture),
        ):
            super().setUp()
        root = Path(self.useFixture(fixtures.TempDir()).path)
        self.node = SimNode(root / "node", self.FAMILY)
        self.flags(state_path=str(root))
        self.flags(group="openvz", **base.node_options(self.node))
        self.useFixture(fixtures.MonkeyPatch("os.uname", base.REAL_UNAME))
        self.useFixture(fixtures.MockPatchObject(privsep.context, "client_mode", False))
        cloud = SimpleNamespace(
            nodes={},
            node_of_instance=lambda uuid: self.node,
            neutron=SimpleNamespace(active_ports=set),
        )
        self.useFixture(cloud_fixtures.OpenVSwitch(cloud, agent_works=False))
        # The config drive names the server's security groups.
        self.useFixture(cloud_fixtures.Neutron(self))
        self.glance = self.image_service = self.useFixture(cloud_fixtures.Glance(self))
        self.image_id = self.glance.add_image(cloud_fixtures.rootfs_tarball())
        self.connection.init_host("myhostname")

    def _setup_fakelibvirt(self) -> None:
        """Nothing here is libvirt's; not setting it up halves the time."""

    def _teardown_fakelibvirt(self) -> None:
        """Nothing was set up."""

    def _clear_attrs(self) -> None:
        base.keep_test_method(self, super()._clear_attrs)

    def _get_running_instance(self, obj: bool = True) -> tuple[Any, Any]:
        # As Nova's own, with an image that exists, and no ephemeral disk.
        flavor = test_utils.get_test_flavor(self.ctxt, options={"ephemeral_gb": 0})
        instance = test_utils.get_test_instance(flavor=flavor, obj=True)
        # Nova has set these when it lets a driver spawn.
        instance.metadata, instance.system_metadata = {}, {}
        instance.hostname = "web-1"
        instance.image_ref = self.image_id
        network_info = test_utils.get_test_network_info()
        for subnet in network_info[0]["network"]["subnets"]:
            # Neutron's addresses are fixed ones, which have floating ones.
            subnet["ips"] = [
                model.FixedIP(address=ip["address"]) for ip in subnet["ips"]
            ]
        image = objects.ImageMeta.from_dict(self.glance.show(None, self.image_id))
        self.connection.spawn(
            self.ctxt, instance, image, [], "herp", {}, network_info=network_info
        )
        return instance, network_info

    def _start_consoles(self) -> None:
        place = Path(self.useFixture(fixtures.TempDir()).path)
        service = Running(self.node, place, host="myhostname")
        self.addCleanup(service.stop)
        self.flags(console_socket=service.socket, group="openvz")
        self.connection.init_host("myhostname")

    def test_get_console_output(self) -> None:
        # Nova's own test wants a str; its compute manager wants bytes.
        self._start_consoles()
        instance, _ = self._get_running_instance()
        output = self.connection.get_console_output(self.ctxt, instance)
        assert isinstance(output, bytes)

    def test_get_serial_console(self) -> None:
        self._start_consoles()
        _Suite.test_get_serial_console.__wrapped__(self)

    def test_unrescue_rescued_instance(self) -> None:
        # Nova's own lets nothing be unlinked meanwhile.
        _Suite.test_unrescue_rescued_instance.__wrapped__.__wrapped__(self, None)

    def test_migrate_disk_and_power_off(self) -> None:
        """Nova's own names a host that nothing is known of."""
        instance, network_info = self._get_running_instance()
        with pytest.raises(nova_exception.InstanceFaultRollback):
            self.connection.migrate_disk_and_power_off(
                self.ctxt, instance, "dest_host", instance.flavor, network_info
            )

    def test_live_migration(self) -> None:
        """Nova's own has data of another driver's host."""
        instance, _ = self._get_running_instance()
        data = objects.LibvirtLiveMigrateData(block_migration=False)
        with pytest.raises(nova_exception.NovaException, match="this driver's"):
            self.connection.live_migration(
                self.ctxt, instance, "otherhost", None, None, migrate_data=data
            )

    def test_live_migration_abort(self) -> None:
        """Nova's own has none under way."""
        instance, _ = self._get_running_instance()
        with (
            mock.patch("ovznovadriver.openvz.firstpass._START", 0),
            pytest.raises(nova_exception.NovaException, match="cannot be aborted"),
        ):
            self.connection.live_migration_abort(instance)

    def test_live_migration_force_complete(self) -> None:
        instance, _ = self._get_running_instance()
        with pytest.raises(NotImplementedError):
            self.connection.live_migration_force_complete(instance)


for _name, _test in vars(_Suite).items():
    if hasattr(_test, "__wrapped__") and _name not in vars(_Contract):
        _strict = _test.__wrapped__
        setattr(_Contract, _name, _refused(_strict) if _name in NOT_THERE else _strict)


class TestContractWithVzctl4(_Contract, nova_test.TestCase):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"


class TestContractWithVzctl9(_Contract, nova_test.TestCase):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"


def test_the_list_of_what_is_not_there_names_tests_of_nova() -> None:
    assert set(NOT_THERE) <= set(vars(_Suite))


def test_every_method_takes_what_novas_own_takes() -> None:
    nova = vars(nova_driver.ComputeDriver)
    for name, method in vars(driver.OvzDriver).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        ours, theirs = (
            inspect.getfullargspec(inspect.unwrap(function))._replace(annotations={})
            for function in (method, nova[name])
        )
        assert ours == theirs, name
