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

"""With vzlist failing, no operation reports success that it did not do.

The methods are those of the driver's class: a new one has an entry here, or the suite
fails. Each is called while vzlist answers as a broken one does. It may raise; it may
go on without asking; or it has asked, and what it reports is true all the same, which
its entry says and checks.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from nova.compute import provider_tree, task_states

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import driver
from ovznovadriver.compute import coldmigration, console, host, livemigration
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import transfer
from tests import support
from tests.simulator.node import SimNode
from tests.unit.compute import ports

#: How vzlist is broken: its exit code, and a shell's way to what it says.
BROKEN = {
    "fails": (1, "echo 'Error: unable to allocate' >&2"),
    "fails without a word": (8, ":"),
    "is killed": (137, "printf '       101 runn'"),
    "answers garbage": (0, "echo 'Segmentation fault'; echo"),
    "answers half a line": (0, "printf '       101 running  5  5  5  0d00h:00'"),
    "answers a lot": (0, "head -c 10000000 /dev/zero | tr '\\0' 'x'; echo"),
    "answers no text": (0, "printf '       101 \\377\\376 5 5 5 - -\\n'"),
    "answers twice": (0, "echo '101 stopped - - - - -'; echo '101 stopped - - - - -'"),
    "sees nothing": (0, "echo 'Unable to open /proc/vz/veinfo: No such file' >&2"),
    "does not know us": (0, "echo 'Usage: vzlist [-a]' >&2"),
}
#: Those that the test command has; the others come to the same.
USUAL = ("fails", "answers half a line", "sees nothing")


@dataclasses.dataclass(frozen=True)
class World:
    """A service with one server."""

    driver: driver.OvzDriver
    sim: SimNode
    node: ovz_node.Node
    instance: objects.Instance
    ctid: str

    def container_is(self, state: str) -> bool:
        said = self.sim.run("vzctl", "status", self.ctid).stdout
        return state in said.split()


@dataclasses.dataclass(frozen=True)
class Call:
    """How a method is called.

    :ivar call: calls it
    :ivar honest: what it reports, though it asked vzlist in vain: why that is true
    :ivar done: whether what it reports is true
    :ivar alone: why it does not ask vzlist
    :ivar running: whether the server runs before
    """

    call: Callable[[World], Any]
    honest: str = ""
    alone: str = ""
    done: Callable[[World, Any], bool] = lambda world, result: True
    running: bool = True


def _nics() -> Any:
    return ports.network_info()


def _meta() -> objects.ImageMeta:
    return objects.ImageMeta.from_dict({})


def _other(world: World) -> objects.Instance:
    other = world.instance.obj_clone()
    other.id, other.uuid = 8, support.OTHER_UUID
    return other


def _spawn(world: World) -> None:
    world.driver.spawn(None, _other(world), _meta(), None, None, {}, [])


def _destroy(world: World) -> None:
    world.instance.task_state = task_states.DELETING
    world.driver.destroy(None, world.instance, _nics())


def _reboot(kind: str) -> Callable[[World], Any]:
    return lambda w: w.driver.reboot(None, w.instance, _nics(), kind)


def _tree(world: World) -> Any:
    tree = provider_tree.ProviderTree()
    tree.new_root(world.node.host, support.UUID)
    world.driver.update_provider_tree(tree, world.node.host)
    return tree.data(world.node.host).inventory


def _leave(world: World) -> Any:
    flavor = world.instance.flavor
    return world.driver.migrate_disk_and_power_off(
        None, world.instance, world.driver.get_host_ip_addr(), flavor, _nics()
    )


def _migration(world: World) -> SimpleNamespace:
    return SimpleNamespace(
        source_compute=world.node.host,
        dest_compute=world.node.host,
        uuid=support.OTHER_UUID,
    )


def _arrive(world: World) -> None:
    info = json.dumps({"version": coldmigration.VERSION})
    world.driver.finish_migration(
        None, _migration(world), world.instance, info, _nics(), _meta(), True, {}
    )


def _return(world: World) -> None:
    world.driver.finish_revert_migration(
        None, world.instance, _nics(), _migration(world)
    )


def _live(name: str, *before: Any) -> Callable[[World], Any]:
    """A method that is given a context, a server, and last what a host has told."""

    def call(world: World) -> Any:
        facts = transfer.local_facts(world.node).as_dict()
        ends = sorted(vif["devname"] for vif in _nics())
        told = {"facts": facts, "ctid": world.ctid, "ends": ends}
        data = objects.LibvirtLiveMigrateData(
            filename=".ovz-proof-" + "0" * 32,
            image_type=json.dumps({"version": livemigration.VERSION, **told}),
            target_connect_addr="192.0.2.9",
        )
        if name == "cleanup_live_migration_destination_check":
            return world.driver.cleanup_live_migration_destination_check(None, data)
        method = getattr(world.driver, name)
        names = list(inspect.signature(method).parameters)[2 + len(before) :]
        given = {
            name: data if name in ("migrate_data", "dest_check_data") else None
            for name in names
        }
        return method(None, world.instance, *before, **given)

    return call


def _never(*_args: Any) -> None:
    raise AssertionError("Nova is told of a move that nobody has seen")


def _is_running(world: World, _result: object) -> bool:
    return world.container_is("running")


def _server(name: str, *args: Any) -> Callable[[World], Any]:
    """A method that is given a server, and then what else."""
    return lambda w: getattr(w.driver, name)(w.instance, *args)


def _nova(name: str, *args: Any) -> Callable[[World], Any]:
    """A method that is given a context and a server, and then what else."""
    return lambda w: getattr(w.driver, name)(None, w.instance, *args)


#: Each method that has to do with containers.
CALLS: dict[str, Call] = {
    "init_host": Call(lambda w: w.driver.init_host(w.node.host)),
    "process_instances_at_startup": Call(
        lambda w: w.driver.process_instances_at_startup(None, [w.instance]),
        honest="it says what it could not settle, and the server stays as it is",
        done=_is_running,
    ),
    "get_available_resource": Call(
        lambda w: w.driver.get_available_resource(w.node.host)
    ),
    "update_provider_tree": Call(_tree, alone="it tells what the host has"),
    "list_instances": Call(lambda w: w.driver.list_instances()),
    "list_instance_uuids": Call(lambda w: w.driver.list_instance_uuids()),
    "get_num_instances": Call(lambda w: w.driver.get_num_instances()),
    "instance_exists": Call(_server("instance_exists")),
    "get_info": Call(_server("get_info", False)),
    "get_diagnostics": Call(_server("get_diagnostics")),
    "get_instance_diagnostics": Call(_server("get_instance_diagnostics")),
    "spawn": Call(_spawn),
    "destroy": Call(_destroy),
    "cleanup": Call(_nova("cleanup", [])),
    "power_on": Call(_nova("power_on", []), running=False),
    "power_off": Call(_server("power_off")),
    "reboot": Call(_reboot("SOFT")),
    "reboot hard": Call(_reboot("HARD")),
    "poll_rebooting_instances": Call(
        lambda w: w.driver.poll_rebooting_instances(1, [w.instance]),
        honest="a later pass looks again",
        done=_is_running,
    ),
    "pause": Call(_server("pause")),
    "unpause": Call(_server("unpause")),
    "suspend": Call(_nova("suspend")),
    "resume": Call(_nova("resume", []), running=False),
    "resume_state_on_host_boot": Call(
        _nova("resume_state_on_host_boot", [], None), running=False
    ),
    "rescue": Call(_nova("rescue", [], _meta(), "password", None, None)),
    "unrescue": Call(_nova("unrescue")),
    "snapshot": Call(_nova("snapshot", "image", lambda *a, **k: None)),
    "migrate_disk_and_power_off": Call(_leave),
    "finish_migration": Call(_arrive),
    "finish_revert_migration": Call(_return),
    "confirm_migration": Call(
        lambda w: w.driver.confirm_migration(None, _migration(w), w.instance, [])
    ),
    "delete_instance_files": Call(
        _server("delete_instance_files"),
        honest="False is 'not deleted', and Nova tries again",
        done=lambda world, result: result is False,
    ),
    "check_can_live_migrate_destination": Call(
        _nova("check_can_live_migrate_destination", None, None, None)
    ),
    "cleanup_live_migration_destination_check": Call(
        _live("cleanup_live_migration_destination_check"),
        alone="it removes a file",
    ),
    "check_can_live_migrate_source": Call(_live("check_can_live_migrate_source")),
    "check_source_migrate_data_at_dest": Call(
        _live("check_source_migrate_data_at_dest")
    ),
    "pre_live_migration": Call(_live("pre_live_migration", None, _nics(), None)),
    "live_migration": Call(_live("live_migration", "host9", *[_never] * 2)),
    "live_migration_abort": Call(_server("live_migration_abort")),
    "rollback_live_migration_at_destination": Call(
        _live("rollback_live_migration_at_destination", [], None)
    ),
    "post_live_migration_at_source": Call(
        _nova("post_live_migration_at_source", []), alone="it unplugs ports"
    ),
    "post_live_migration_at_destination": Call(
        _nova("post_live_migration_at_destination", [])
    ),
    "instance_on_disk": Call(
        _server("instance_on_disk"), alone="it looks at claims and files"
    ),
    "set_admin_password": Call(_server("set_admin_password", "secret")),
    "get_console_output": Call(
        _nova("get_console_output"), alone="it asks the console service"
    ),
    "get_serial_console": Call(
        _nova("get_serial_console"), alone="it asks the console service"
    ),
    "plug_vifs": Call(_server("plug_vifs", _nics()), alone="os-vif makes ports"),
    "unplug_vifs": Call(_server("unplug_vifs", _nics()), alone="os-vif removes ports"),
    "attach_interface": Call(
        lambda w: w.driver.attach_interface(None, w.instance, None, ports.vif())
    ),
    "detach_interface": Call(
        lambda w: w.driver.detach_interface(None, w.instance, ports.vif())
    ),
}

#: Those that have to do with the host or images alone; and rebuild, which is here by
#: destroy and spawn, and from a lost host in test_evacuation.py.
OTHERS = {
    "rebuild",
    "cleanup_host",
    "get_available_nodes",
    "get_host_ip_addr",
    "get_host_uptime",
    "get_volume_connector",
    "cache_image",
    "manage_image_cache",
}


def test_each_method_is_here() -> None:
    methods = {
        name
        for name, method in vars(driver.OvzDriver).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }
    assert {name.split(" ")[0] for name in CALLS} | OTHERS == methods


@pytest.fixture(
    params=["4", pytest.param("9", marks=pytest.mark.slow)], ids=["vzctl4", "vzctl9"]
)
def sim(request: Any, tmp_path: Any, own_privileged_side: None) -> SimNode:
    """A simulated node."""
    kernel = {"openvz_kernel": True} if request.param == "4" else {}
    return support.simulated(tmp_path / "node", request.param, **kernel)


@pytest.fixture
def world(
    sim: SimNode,
    node: ovz_node.Node,
    life: Any,
    net: Any,
    boot: Callable[..., str],
    instance: objects.Instance,
    events: Any,
    flags: Any,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """A server that runs, as a driver has it that was opened before."""
    instance.migration_context = None
    # There is no database to write a fault into.
    monkeypatch.setattr(
        "nova.compute.utils.add_instance_fault_from_exc", lambda *a, **k: None
    )
    flags(group="openvz", snapshot_dir=str(tmp_path / "snapshots"))
    flags(group="openvz", **_places(sim))
    made = driver.OvzDriver(events)
    made._network, made._node, made._host = net, node, host.Host(node)
    made._consoles = console.Consoles(str(tmp_path / "socket"))
    made._open_subjects(life._images)
    return World(made, sim, node, instance, boot())


def _places(sim: SimNode) -> dict[str, Any]:
    return {
        "vz_conf": str(sim.root / "etc/vz/vz.conf"),
        "ve_conf_dir": str(sim.conf_dir),
        "names_dir": str(sim.names_dir),
        "lock_dir": str(sim.root / "claims"),
        "sysfs_dir": str(sim.root / "sys"),
        "program_dirs": [str(sim.bin_dir)],
    }


def _break(sim: SimNode, how: str) -> Callable[[], bool]:
    """Break vzlist; what is returned says whether it was asked."""
    code, said = BROKEN[how]
    asked = sim.root / "asked"
    support.script(sim.bin_dir / "vzlist", f"echo >> {asked}", said, f"exit {code}")
    return asked.exists


@pytest.mark.parametrize(
    "how",
    [
        how if how in USUAL else pytest.param(how, marks=pytest.mark.slow)
        for how in BROKEN
    ],
)
def test_no_success_is_reported_that_is_none(world: World, how: str) -> None:
    wrong = {}
    for state in (True, False):
        if not state:
            world.sim.run("vzctl", "stop", world.ctid, "--fast")
        world.node.look.forget()
        for name, call in CALLS.items():
            if call.running is not state:
                continue
            if "live_migra" in name and not world.node.family.moves_live:
                continue
            vzlist = (world.sim.bin_dir / "vzlist").read_text()
            asked = _break(world.sim, how)
            try:
                result = call.call(world)
            except nova_exception.NovaException as error:
                if not asked() and not call.alone:
                    wrong[name] = f"failed, and not by vzlist: {error!r}"
                continue
            except Exception as error:
                wrong[name] = repr(error)
                continue
            finally:
                was_asked = asked()
                (world.sim.bin_dir / "vzlist").write_text(vzlist)
                (world.sim.root / "asked").unlink(missing_ok=True)
            if not was_asked and not call.alone:
                wrong[name] = "did not ask"
            elif was_asked and not call.honest:
                wrong[name] = f"asked in vain, and reported {result!r}"
            elif not call.done(world, result):
                wrong[name] = f"reported {result!r}, which is not so"
    assert wrong == {}
