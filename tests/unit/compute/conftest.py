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

"""A server, its ports, and os-vif, which stands still."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import os_vif
import pytest
from nova.compute import power_state, vm_states
from os_vif import exception as os_vif_exception
from os_vif.objects import vif as os_vif_objects
from oslo_config import cfg
from oslo_config import fixture as config_fixture

from nova import objects
from ovznovadriver.compute import (
    drive,
    evacuation,
    interfaces,
    lifecycle,
    livemigration,
    network,
    rescue,
    restart,
)
from ovznovadriver.openvz import node as ovz_node
from tests import support
from tests.simulator.node import SimNode
from tests.unit.compute import ports

objects.register_all()


@pytest.fixture
def flags() -> Iterator[Callable[..., None]]:
    """Set options of nova.conf."""
    with config_fixture.Config(cfg.CONF) as config:
        config.config(vif_plugging_timeout=300, vif_plugging_is_fatal=True)
        yield config.config


@pytest.fixture
def own_places(
    flags: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directories that a service works in are the test's own."""
    flags(group="openvz", snapshot_dir=str(tmp_path / "snapshots"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def instance() -> objects.Instance:
    """A server of 512 MB."""
    return objects.Instance(
        id=7,
        uuid=support.UUID,
        display_name="web-1",
        hostname="web-1",
        key_data=None,
        project_id="project",
        host=support.HOST,
        deleted=False,
        system_metadata={},
        device_metadata=None,
        flavor=objects.Flavor(
            memory_mb=512, vcpus=1, root_gb=1, ephemeral_gb=0, swap=0, extra_specs={}
        ),
    )


class OpenVSwitch:
    """What os-vif was asked.

    :ivar calls: what happened, in order; others may add to it
    :ivar times: each plug and unplug: time of day in seconds, and which it was
    :ivar failing: the ports that cannot be plugged or unplugged
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.times: list[tuple[float, str]] = []
        self.failing: set[str] = set()

    def stand_in(self, name: str, error: Callable[..., Exception]) -> Any:
        """What stands in for os_vif.plug or os_vif.unplug."""

        def call(vif: Any, info: Any) -> None:
            self.calls.append((name, vif.id))
            self.times.append((time.time(), name))
            assert info.uuid == support.UUID
            # vzctl makes the interface, and nobody else the port.
            hybrid = isinstance(vif, os_vif_objects.VIFBridge)
            assert hybrid or vif.port_profile.create_port
            assert not vif.port_profile.create_tap
            if vif.id in self.failing:
                raise error(vif=vif.id, err="no ovsdb")

        return call


@pytest.fixture
def ovs(monkeypatch: pytest.MonkeyPatch) -> OpenVSwitch:
    """os-vif, whose calls are noted."""
    switch = OpenVSwitch()
    for name, error in (
        ("plug", os_vif_exception.PlugException),
        ("unplug", os_vif_exception.UnplugException),
    ):
        monkeypatch.setattr(os_vif, name, switch.stand_in(name, error))
    return switch


class VirtAPI:
    """Nova's side of waiting for events.

    :ivar outcome: called at the end of the wait
    :ivar timeout: how long it would have waited, in seconds
    """

    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self._calls = calls
        self.outcome: Callable[..., None] | None = None
        self.timeout: float | None = None

    @contextlib.contextmanager
    def wait_for_instance_event(
        self, instance: Any, names: Any, deadline: float, error_callback: Any
    ) -> Iterator[None]:
        """See nova.compute.manager.ComputeVirtAPI."""
        self._calls.append(("wait for", tuple(names)))
        self.timeout = deadline
        yield
        self._calls.append(("events",))
        if self.outcome is not None:
            self.outcome(instance, error_callback)


@pytest.fixture
def events(ovs: OpenVSwitch) -> VirtAPI:
    """What Neutron says of the ports."""
    return VirtAPI(ovs.calls)


@pytest.fixture
def net(ovs: OpenVSwitch, events: VirtAPI) -> network.Network:
    """The network of a host."""
    return network.Network(events)


@pytest.fixture
def life(
    node: ovz_node.Node,
    image: str,
    net: network.Network,
    flags: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> lifecycle.Lifecycle:
    """The servers of a node; their image is there already."""
    # The metadata comes from Nova's database.
    monkeypatch.setattr(drive, "config_drive", lambda *args, **kwargs: ())
    monkeypatch.setattr(network, "describe_devices", lambda *args: None)
    images = SimpleNamespace(prepare=lambda context, instance, meta: image)
    return lifecycle.Lifecycle(node, net, images)


@pytest.fixture
def boot(
    life: lifecycle.Lifecycle, instance: objects.Instance, sim: SimNode
) -> Callable[..., str]:
    """Spawn the server, with other arguments by name; its CTID."""

    def spawn(power_on: bool = True, **changes: Any) -> str:
        options = {
            "context": None,
            "instance": instance,
            "image_meta": objects.ImageMeta.from_dict({}),
            "injected_files": None,
            "admin_password": None,
            "network_info": ports.network_info(),
            "block_device_info": None,
            "power_on": power_on,
        }
        life.spawn(**{**options, **changes})
        return sim.containers()[0]

    return spawn


@pytest.fixture
def second(sim: SimNode, tmp_path: Path) -> SimNode:
    """Another node with the same private areas."""
    return support.neighbour(sim, tmp_path / "second")


@pytest.fixture
def journal(sim: SimNode, ovs: OpenVSwitch) -> Callable[[], list[str]]:
    """What vzctl and os-vif were asked, in order; runs of one word are one."""

    def read() -> list[str]:
        commands = [(c.start, c.subcommand) for c in sim.commands("vzctl")]
        words = [word for _, word in sorted(commands + ovs.times) if word != ""]
        pairs = zip([None, *words], words, strict=False)
        return [word for before, word in pairs if word != before]

    return read


@pytest.fixture
def quiet(sim: SimNode, ovs: OpenVSwitch) -> Callable[[], None]:
    """Forget what happened so far."""

    def forget() -> None:
        sim.clear_commands()
        ovs.calls.clear()
        ovs.times.clear()

    return forget


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What Nova's database was told of servers: vm_state, task_state, and the task
    that it was to have for them before.
    """
    told: list[tuple[Any, ...]] = []

    def save(self: Any, expected_task_state: Any = None) -> None:
        told.append((self.vm_state, self.task_state, expected_task_state))

    monkeypatch.setattr(objects.Instance, "save", save)
    return told


@pytest.fixture
def nova_server(
    instance: objects.Instance, database: Any, monkeypatch: pytest.MonkeyPatch
) -> objects.Instance:
    """The server as Nova has it: active, without a task, and with two ports."""
    instance.vm_state = vm_states.ACTIVE
    instance.task_state = None
    instance.power_state = power_state.RUNNING
    instance.migration_context = None
    info = ports.network_info()
    monkeypatch.setattr(objects.Instance, "get_network_info", lambda self: info)
    return instance


@pytest.fixture
def migrations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Nova knows of migrations."""
    known: list[Any] = []

    def fits(record: Any, name: str, wanted: Any) -> bool:
        value = getattr(record, name)
        return value in wanted if isinstance(wanted, list) else bool(value == wanted)

    monkeypatch.setattr(
        objects.MigrationList,
        "get_by_filters",
        lambda context, filters: [
            record
            for record in known
            if all(fits(record, name, wanted) for name, wanted in filters.items())
        ],
    )
    monkeypatch.setattr(
        objects.InstanceList, "get_by_filters", lambda context, filters, **_: []
    )
    return known


@pytest.fixture
def start_service(
    node: ovz_node.Node,
    life: lifecycle.Lifecycle,
    net: network.Network,
    database: Any,
    migrations: Any,
) -> Callable[..., None]:
    """Start a service that has these servers."""

    def process(*instances: Any) -> None:
        subject = restart.Restart(
            node,
            life,
            rescue.Rescue(node, life, net, life._images),
            interfaces.Interfaces(node, net),
            net,
            livemigration.LiveMigrations(node, life, net),
            evacuation.Evacuations(node, life, net),
        )
        subject.process(None, list(instances))

    return process
