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

"""Spawn and destroy, where they go wrong, over both families of vzctl."""

import pytest

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import guest, lifecycle
from ovznovadriver.openvz import resources
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.compute import diskimage, ports

TAPS = [ports.vif(port)["devname"] for port in ports.PORTS]


# -- spawn --------------------------------------------------------------------------


def test_a_spawn_asks_each_once_and_in_order(sim, boot, journal, quiet):
    quiet()
    ctid = boot()

    assert journal() == ["create", "set", "plug", "start"]
    assert sim.state(ctid) == "running"
    assert ports.taps(sim) == TAPS
    assert len(sim.commands("vzctl")) == 3
    assert len(sim.commands("vzlist")) <= 1


def test_a_server_that_is_to_stay_off_is_plugged_and_not_started(
    sim, boot, journal, quiet
):
    quiet()
    ctid = boot(power_on=False)

    assert journal() == ["create", "set", "plug"]
    assert sim.state(ctid) == "stopped"


UNDONE = {
    "create": ["create", "destroy"],
    "set": ["create", "set", "destroy"],
    "guest": ["create", "set", "destroy"],
    "plug": ["create", "set", "plug", "unplug", "destroy"],
    "start": ["create", "set", "plug", "start", "stop", "unplug", "destroy"],
    "veth": ["create", "set", "plug", "start", "stop", "unplug", "destroy"],
    "event": ["create", "set", "plug", "start", "stop", "unplug", "destroy"],
}


@pytest.mark.parametrize("step", UNDONE)
def test_each_failure_undoes_what_was_done_in_reverse(
    sim, node, boot, ovs, events, journal, quiet, monkeypatch, step
):
    def fail(*args, **kwargs):
        raise exception.ImageUnsuitable("no /etc/shadow")

    def time_out(*args):
        raise nova_exception.InstanceEventTimeout

    if step in ("create", "set", "start"):
        sim.fail("vzctl", step, rc=96, when="after")
        error = exception.CommandFailed
    elif step == "guest":
        monkeypatch.setattr(guest, "prepare", fail)
        error = exception.ImageUnsuitable
    elif step == "plug":
        ovs.failing.add(ports.PORTS[1])
        error = nova_exception.VirtualInterfacePlugException
    elif step == "veth":
        sim.fail("vzctl", "start", rc=0, stderr="no veth\n")
        error = exception.InterfaceMissing
    else:
        events.outcome = time_out
        error = nova_exception.VirtualInterfaceCreateException
    quiet()

    with pytest.raises(error):
        boot()

    assert journal() == UNDONE[step]
    assert support.traces(sim, node) == {}


def test_undoing_goes_on_after_a_step_of_it_failed(
    sim, node, boot, ovs, journal, quiet, caplog
):
    sim.fail("vzctl", "start", rc=96, stderr="first failure\n", when="after")
    sim.fail("vzctl", "stop", rc=97, stderr="second failure\n", when="after")
    sim.fail("vzctl", "destroy", rc=98, stderr="third failure\n")
    quiet()

    with pytest.raises(exception.CommandFailed, match="first failure"):
        boot()

    assert journal()[-3:] == ["stop", "unplug", "destroy"]
    assert "stopping failed" in caplog.text
    assert "removing the container failed" in caplog.text
    assert "third failure" in caplog.text


@pytest.mark.parametrize(
    ("mapping", "ephemeral", "said"),
    [
        ({"block_device_mapping": [{"mount_device": "/dev/sda"}]}, 0, "volumes"),
        ({"ephemerals": [{"size": 1}]}, 0, "ephemeral disks"),
        (None, 1, "ephemeral disks"),
    ],
)
def test_disks_that_a_container_cannot_have_are_refused_first(
    sim, boot, instance, quiet, mapping, ephemeral, said
):
    instance.flavor.ephemeral_gb = ephemeral
    quiet()

    with pytest.raises(nova_exception.InvalidInput, match=said):
        boot(block_device_info=mapping)
    assert sim.commands() == []


def test_a_port_that_cannot_be_plugged_is_refused_first(sim, boot, quiet):
    quiet()

    with pytest.raises(exception.NetworkUnsupported):
        boot(network_info=ports.network_info(ports.vif(type="bridge")))
    assert sim.commands() == []


# -- what the flavor says -----------------------------------------------------------


def sample_given(sim):
    argv = sim.commands("vzctl", "create")[0].argv
    return argv[argv.index("--config") + 1] if "--config" in argv else None


def test_a_flavor_may_name_a_sample(sim, boot, instance):
    name = {"4": "vswap-1g", "9": "vswap.256MB"}[sim.family]
    instance.flavor.extra_specs = {"vz_config_file": name}

    boot()

    assert sample_given(sim) == name


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("missing", nova_exception.InvalidInput),
        ("../../vz", exception.InvalidValue),
    ],
)
def test_a_sample_that_is_not_there_is_refused_first(
    sim, boot, instance, quiet, name, error
):
    instance.flavor.extra_specs = {"vz_config_file": name}
    quiet()

    with pytest.raises(error, match=f"vz_config_file = .?{name}"):
        boot()
    assert sim.commands() == []


def test_the_image_tells_the_distribution(sim, boot):
    distro = {"os_distro": "debian"}

    ctid = boot(image_meta=objects.ImageMeta.from_dict({"properties": distro}))

    name = {"4": "OSTEMPLATE", "9": "DISTRIBUTION"}[sim.family]
    assert sim.conf(ctid)[name] == "debian"


def test_a_sample_with_beancounters_is_refused_under_vswap(node4, net, instance):
    instance.flavor.extra_specs = {"vz_config_file": "light"}
    life = lifecycle.Lifecycle(node4, net, None)

    with pytest.raises(nova_exception.InvalidInput, match="use_ubc is off"):
        life.sample(instance.flavor.extra_specs)


def test_limits_reach_the_configuration(sim4, node4, image4):
    container = support.create(node4, image4)
    limits = resources.Limits(
        ubc=resources.Ubc(
            vmguarpages=131072,
            privvmpages=131072,
            kmemsize_barrier=4096 * 9,
            kmemsize_limit=4096 * 10,
        ),
        cpuunits=777,
        cpulimit=50,
        cpus=1,
        ioprio=3,
        numfile=8192,
        numflock=4096,
        diskspace=resources.Diskspace(soft_kb=1000, hard_kb=1100),
    )
    sim4.clear_commands()

    with container.changes():
        lifecycle.apply_limits(container, limits)

    kept = sim4.conf("101")
    assert support.subcommands(sim4) == ["set"]
    assert kept["PRIVVMPAGES"].split(":")[0] == "131072"
    assert kept["KMEMSIZE"] == "36864:40960"
    assert (kept["CPUUNITS"], kept["CPULIMIT"], kept["CPUS"]) == ("777", "50", "1")
    assert (kept["NUMFILE"].split(":")[0], kept["IOPRIO"]) == ("8192", "3")
    # Never 0.
    assert kept["NUMTCPSOCK"].split(":")[0] == "1"
    assert kept["DISKSPACE"] == "1000:1100"


def test_a_disk_image_has_the_size_of_the_flavors_disk(tmp_path, own_privileged_side):
    sim = support.simulated(tmp_path / "node", "4", ploop=True)
    node = support.open_node(sim, layout="ploop")
    disk = resources.Limits(diskspace=resources.Diskspace(soft_kb=10, hard_kb=11))

    assert lifecycle._image_size(node, disk) == (10, 11)
    assert lifecycle._image_size(node, resources.Limits()) is None
    assert lifecycle._image_size(support.open_node(sim), disk) is None


# -- destroy ------------------------------------------------------------------------


def test_a_running_server_is_stopped_removed_and_unplugged(
    sim, node, life, boot, instance, journal, quiet
):
    boot()
    quiet()

    life.destroy(instance, ports.network_info())

    assert journal() == ["stop", "unplug", "destroy"]
    assert ports.stops(sim) == [("--fast",)]
    assert support.traces(sim, node) == {}


def test_a_port_that_nova_has_forgotten_goes_with_its_server(
    life, boot, instance, ovs, quiet
):
    boot()
    quiet()

    first, second = ports.network_info()
    life.destroy(instance, ports.network_info(first))

    # Of the other one only what is in the name of its interface is known.
    head = second["devname"].removeprefix("tap")
    assert ovs.calls == [
        ("unplug", first["id"]),
        ("unplug", f"{head}00-0000-0000-000000000000"),
    ]


def test_a_port_that_is_not_bound_any_more_goes_with_its_server(
    life, boot, instance, ovs, quiet
):
    """As after a move for which Neutron's agent was down."""
    first, _ = info = ports.network_info()
    boot()
    quiet()
    info[1]["type"] = "binding_failed"

    life.destroy(instance, info)

    head = info[1]["devname"].removeprefix("tap")
    assert ovs.calls == [
        ("unplug", first["id"]),
        ("unplug", f"{head}00-0000-0000-000000000000"),
    ]


def test_where_ports_stay_plugged_forgotten_ones_do_too(
    life, boot, instance, ovs, quiet
):
    boot()
    quiet()

    life.destroy(instance, [], destroy_vifs=False)

    assert ovs.calls == []


@pytest.mark.parametrize("state", ["pause", "suspend", "mount"])
def test_a_server_is_removed_from_any_state(sim, node, life, boot, instance, state):
    boot()
    container = OvzContainer.find(node, uuid=instance.uuid)
    if state == "mount":
        container.stop()
    getattr(container, state)()

    life.destroy(instance, ports.network_info())

    assert support.traces(sim, node) == {}


def test_what_is_gone_is_only_unplugged(sim, life, instance, journal, quiet):
    quiet()

    life.destroy(instance, ports.network_info())

    assert journal() == ["unplug"]


def test_a_number_that_was_claimed_and_never_used_is_given_back(
    sim4, node4, net, instance
):
    node4.claims.claim(instance.uuid, tuple)

    lifecycle.Lifecycle(node4, net, None).destroy(instance, None)

    assert support.traces(sim4, node4) == {}


def test_a_container_may_be_kept_and_ports_too(
    sim, node, life, boot, instance, journal, quiet
):
    ctid = boot()
    quiet()

    life.destroy(instance, None, destroy_disks=False, destroy_vifs=False)

    assert journal() == ["stop"]
    assert sim.containers() == [ctid]


def test_what_is_kept_of_a_server_that_is_made_anew_elsewhere_is_no_guest(
    sim, node, life, boot, instance
):
    ctid = boot()

    life.destroy(instance, ports.network_info(), destroy_disks=False)
    node.look.forget()

    assert life.list_uuids() == life.list_names() == []
    assert not life.exists(instance)
    assert life.get_info(instance, False).internal_id == ctid

    life.reboot(instance, ports.network_info(), hard=True)
    node.look.forget()

    assert life.list_uuids() == [instance.uuid]
    assert life.list_names() == [instance.name]
    assert life.exists(instance)


def test_a_suspended_server_that_was_set_aside_is_a_guest_when_it_is_resumed(
    life, boot, instance
):
    boot()
    life.suspend(instance)
    life.destroy(instance, None, destroy_disks=False, destroy_vifs=False)

    life.resume(instance, ports.network_info())

    assert life.exists(instance)


def test_what_is_kept_of_a_server_can_be_removed(sim, node, life, boot, instance):
    boot()
    life.destroy(instance, ports.network_info(), destroy_disks=False)

    life.destroy(instance, ports.network_info())

    assert support.traces(sim, node) == {}


def test_a_container_that_stays_does_not_keep_its_ports(
    sim, life, boot, instance, journal, quiet
):
    boot()
    sim.fail("vzctl", "destroy", rc=97, stderr="busy\n")
    quiet()

    with pytest.raises(exception.CleanupFailed, match="busy"):
        life.destroy(instance, ports.network_info())
    assert journal() == ["stop", "unplug", "destroy"]

    life.destroy(instance, ports.network_info())
    assert sim.containers() == []


def test_ports_that_stay_do_not_keep_the_container(sim, life, boot, ovs, instance):
    boot()
    ovs.failing.update(ports.PORTS)

    with pytest.raises(exception.CleanupFailed, match="no ovsdb"):
        life.destroy(instance, ports.network_info())
    assert sim.containers() == []


def test_nothing_is_taken_from_under_a_server_that_cannot_be_stopped(
    sim, life, boot, instance, journal, quiet
):
    ctid = boot()
    sim.fail("vzctl", "stop", rc=96)
    quiet()

    with pytest.raises(exception.MayRun, match="vzctl stop"):
        life.destroy(instance, ports.network_info())
    assert journal() == ["stop"]
    assert sim.state(ctid) == "running"


def test_a_server_that_cannot_be_seen_may_run(
    sim, life, boot, instance, journal, quiet
):
    ctid = boot()
    sim.fail("vzlist", rc=1, stderr="no /dev/vzctl\n")
    quiet()

    with pytest.raises(exception.MayRun, match="no /dev/vzctl"):
        life.destroy(instance, ports.network_info())
    assert journal() == []
    assert sim.state(ctid) == "running"


# -- layout ploop -------------------------------------------------------------------


class TestDiskImage(diskimage.OnDiskImages):
    """A server whose root tree is in a disk image."""

    def test_is_mounted_once_to_be_made(self, sim, boot, journal, quiet):
        quiet()
        ctid = boot()

        assert journal() == ["create", "set", "mount", "umount", "plug", "start"]
        assert len(sim.commands("vzctl")) == 5
        assert len(sim.commands("vzlist")) <= 1
        # It has that size already.
        (change,) = (c for c in sim.commands("vzctl") if c.subcommand == "set")
        assert "--diskspace" not in change.argv
        assert sim.conf(ctid)["DISKSPACE"] == f"{1 << 20}:{1 << 20}"
        assert sim.image_kb(ctid) == (1 << 20) - 4096

    def test_is_removed_in_any_state(self, sim, node, boot, life, instance):
        for action in ("pause", "suspend", "stop", "mount"):
            boot()
            container = OvzContainer.find(node, uuid=instance.uuid)
            if action == "mount":
                container.stop()
            getattr(container, action)()

            life.destroy(instance, ports.network_info())

            assert support.traces(sim, node) == {}
