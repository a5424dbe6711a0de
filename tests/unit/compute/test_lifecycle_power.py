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

"""A server's states, over both families of vzctl."""

import subprocess
import time
from types import SimpleNamespace

import pytest
from nova.compute import power_state

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import host, interfaces, lifecycle, servers
from ovznovadriver.openvz import utils, vzctl
from tests import support
from tests.unit.compute import ports

TAPS = [ports.vif(port)["devname"] for port in ports.PORTS]
LIMIT = 60  # seconds for a process of a test to end


# -- power --------------------------------------------------------------------------


def test_a_server_has_its_time_to_stop(sim, life, boot, instance):
    ctid = boot()

    life.power_off(instance, timeout=30)

    assert ports.stops(sim) == [()]
    assert sim.state(ctid) == "stopped"


def test_a_clean_stop_that_passes_its_limit_is_followed_by_a_kill(
    sim, life, boot, instance, monkeypatch
):
    ctid = boot()
    sim.hang("vzctl", "stop", detached=True)
    support.end_what_hangs(sim, monkeypatch)

    life.power_off(instance, timeout=1)

    # What holds the lock may take a moment to end: then it is waited for.
    first, *others = [(c.argv[3:], c.rc) for c in sim.commands("vzctl", "stop")]
    assert first == ((), None)
    assert {arguments for arguments, _ in others} == {("--fast",)}
    assert [code for _, code in others] == [9] * (len(others) - 1) + [0]
    assert sim.state(ctid) == "stopped"


def test_a_stop_in_progress_is_waited_for(sim, life, boot, instance, monkeypatch):
    ctid = boot()
    sim.slow_stop(3600)
    with subprocess.Popen([sim.bin_dir / "vzctl", "stop", ctid]) as other:

        def pause(_seconds):
            sim.go_on()
            other.wait(LIMIT)

        clock = SimpleNamespace(sleep=pause, monotonic=time.monotonic)
        monkeypatch.setattr(utils, "time", clock)
        while not (sim.lock_dir / f"{ctid}.lck").exists():
            assert other.poll() is None

        life.power_off(instance)

        assert other.wait(LIMIT) == 0
    codes = [c.rc for c in sim.commands("vzctl", "stop")]
    assert codes[1] == 9
    assert codes[-1] == 0
    assert sim.state(ctid) == "stopped"


def test_a_server_that_halted_from_inside_is_unmounted(sim, life, boot, instance):
    ctid = boot()
    sim.halt(ctid)
    assert life.get_info(instance, use_cache=False).state == power_state.SHUTDOWN

    life.power_off(instance)

    assert sim.state(ctid) == "stopped"
    assert len(sim.commands("vzctl", "umount")) == 1


def test_a_server_that_still_runs_is_no_stopped_one(sim, life, boot, instance):
    boot()
    sim.fail("vzctl", "stop", rc=0)

    with pytest.raises(nova_exception.InstancePowerOffFailure, match="is running"):
        life.power_off(instance)


def test_a_stopped_server_is_not_stopped_again(sim, life, boot, instance, quiet):
    boot(power_on=False)
    quiet()

    life.power_off(instance, timeout=30)

    assert sim.commands("vzctl") == []


@pytest.mark.parametrize("state", ["pause", "suspend"])
def test_a_server_is_stopped_from_any_state(sim, life, boot, instance, state):
    ctid = boot()
    getattr(life, state)(instance)

    life.power_off(instance, timeout=30)

    assert sim.state(ctid) == "stopped"


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize("asked", ["off", "reboot", "destroy"])
def test_a_server_that_was_let_run_on_by_hand_obeys(sim, life, boot, instance, asked):
    """vzlist 4 does not tell a paused one from one that runs."""
    ctid = boot()
    life.pause(instance)
    assert sim.run("vzctl", "chkpnt", ctid, "--resume").rc == 0

    if asked == "off":
        life.power_off(instance)
    elif asked == "reboot":
        life.reboot(instance, ports.network_info(), hard=True)
    else:
        life.destroy(instance, ports.network_info())

    assert sim.state(ctid) == ("running" if asked == "reboot" else "stopped")
    assert sim.containers() == ([] if asked == "destroy" else [ctid])


def test_a_start_does_not_go_on_from_a_stale_dump(sim, life, boot, instance):
    ctid = boot(power_on=False)
    if sim.family == "4":
        dump = sim.dump_dir / f"Dump.{ctid}"
    else:
        dump = sim.private_dir / ctid / "dump/Dump"
        dump.parent.mkdir(exist_ok=True)
    dump.touch()
    assert sim.state(ctid) == "suspended"

    life.power_on(instance, ports.network_info())

    assert sim.state(ctid) == "running"
    assert not dump.exists()
    said = sim.run("vzctl", "status", ctid).stdout
    assert "suspended" not in said


def test_power_on_does_what_the_state_asks_for(
    sim, life, boot, instance, journal, quiet
):
    ctid = boot()
    for state, expected in (
        (None, []),
        (life.pause, [{"4": "chkpnt", "9": "resume"}[sim.family]]),
        (life.power_off, ["plug", "start"]),
    ):
        if state is not None:
            state(instance)
        quiet()
        life.power_on(instance, ports.network_info())
        assert journal() == expected
        assert sim.state(ctid) == "running"


@pytest.mark.parametrize(("hard", "expected"), [(False, [()]), (True, [("--fast",)])])
def test_a_reboot_stops_as_asked_and_starts(sim, life, boot, instance, hard, expected):
    ctid = boot()

    life.reboot(instance, ports.network_info(), hard=hard)

    assert ports.stops(sim) == expected
    assert sim.state(ctid) == "running"
    assert ports.taps(sim) == TAPS


@pytest.mark.parametrize("hard", [False, True])
def test_a_hard_reboot_ends_a_resize_that_was_interrupted(life, boot, instance, hard):
    boot()
    container = servers.find(life._node, instance)
    container.keep()

    life.reboot(instance, ports.network_info(), hard=hard)

    assert container.is_kept is not hard


def test_a_soft_reboot_that_passes_its_limit_becomes_a_hard_one(
    sim, net, boot, image, instance, monkeypatch
):
    boot()
    limits = vzctl.TimeLimits(stop=1)
    life = lifecycle.Lifecycle(support.open_node(sim, limits=limits), net, None)
    sim.hang("vzctl", "stop")
    support.end_what_hangs(sim, monkeypatch)

    life.reboot(instance, ports.network_info(), hard=False)

    assert ports.stops(sim) == [(), ("--fast",)]
    assert sim.state(sim.containers()[0]) == "running"


def test_a_reboot_brings_back_what_halted_from_inside(sim, life, boot, instance):
    ctid = boot()
    sim.halt(ctid)

    life.reboot(instance, ports.network_info(), hard=False)

    assert ports.stops(sim) == []
    assert sim.state(ctid) == "running"


def test_a_server_whose_reboot_takes_long_is_rebooted_hard_unless_it_runs(
    sim, life, boot, instance, monkeypatch
):
    asked = []
    api = SimpleNamespace(
        reboot=lambda context, server, kind: asked.append((server.uuid, kind))
    )
    monkeypatch.setattr(lifecycle.compute_api, "API", lambda: api)
    boot()

    life.poll_rebooting([instance])
    assert asked == []

    life.power_off(instance)
    life.poll_rebooting([(instance, None), instance])
    assert asked == [(instance.uuid, "HARD")] * 2


def test_a_paused_server_runs_on_when_it_is_asked_to(sim, life, boot, instance):
    ctid = boot()

    life.pause(instance)
    assert sim.state(ctid) == "paused"
    assert life.get_info(instance, use_cache=False).state == power_state.PAUSED

    life.unpause(instance)
    assert sim.state(ctid) == "running"


def test_a_suspend_that_fails_leaves_a_server_that_runs(sim, life, boot, instance):
    ctid = boot()
    sim.fail("vzctl", "suspend", rc=16, stderr="no checkpoint\n")

    with pytest.raises(nova_exception.InstanceFaultRollback) as raised:
        life.suspend(instance)

    inner = raised.value.inner_exception
    assert isinstance(inner, nova_exception.InstanceSuspendFailure)
    assert "no checkpoint" in str(inner)
    assert sim.state(ctid) == "running"


def test_a_suspend_that_fails_late_is_a_failure_of_a_server_that_does_not_run(
    sim, life, boot, instance
):
    ctid = boot()
    sim.fail("vzctl", "suspend", rc=16, stderr="no checkpoint\n", when="after")

    with pytest.raises(nova_exception.InstanceSuspendFailure, match="no checkpoint"):
        life.suspend(instance)
    assert sim.state(ctid) == "suspended"


def test_a_resume_plugs_the_ports_and_may_fail(
    sim, life, boot, instance, journal, quiet
):
    ctid = boot()
    life.suspend(instance)
    sim.fail("vzctl", "resume", rc=17, stderr="no restore\n")
    quiet()
    with pytest.raises(nova_exception.InstanceFaultRollback) as raised:
        life.resume(instance, ports.network_info())
    inner = raised.value.inner_exception
    assert isinstance(inner, nova_exception.InstanceResumeFailure)
    assert "no restore" in str(inner)

    life.resume(instance, ports.network_info())

    assert journal() == ["plug", "resume", "plug", "resume"]
    assert sim.state(ctid) == "running"


def test_a_resume_without_its_ports_loses_no_memory(sim, life, boot, instance, ovs):
    ctid = boot()
    life.suspend(instance)
    ovs.failing.update(ports.PORTS)

    with pytest.raises(nova_exception.InstanceFaultRollback) as raised:
        life.resume(instance, ports.network_info())

    inner = raised.value.inner_exception
    assert isinstance(inner, nova_exception.NovaException)
    assert "no ovsdb" in str(inner)
    assert sim.state(ctid) == "suspended"


def test_a_resume_that_cannot_be_connected_loses_no_memory(sim, life, boot, instance):
    ctid = boot()
    life.suspend(instance)
    sim.fail("ip", rc=2, stderr="no memory\n")

    with pytest.raises(nova_exception.InstanceFaultRollback, match="no memory"):
        life.resume(instance, ports.network_info())

    assert sim.state(ctid) == "suspended"
    life.resume(instance, ports.network_info())
    assert sim.state(ctid) == "running"


def test_a_resume_that_cannot_be_undone_leaves_a_stopped_server(
    sim, life, boot, instance, caplog
):
    ctid = boot()
    life.suspend(instance)
    sim.fail("ip", rc=2, stderr="no memory\n")
    sim.fail("vzctl", "suspend", rc=16, stderr="no checkpoint\n")

    with pytest.raises(nova_exception.InstanceResumeFailure, match="no memory"):
        life.resume(instance, ports.network_info())

    assert sim.state(ctid) == "stopped"
    assert "no checkpoint" in caplog.text


def test_a_start_that_lacks_no_interface_is_not_tried_again(
    sim, life, boot, instance, quiet
):
    ctid = boot(power_on=False)
    broken = ports.network_info(ports.vif(details={"ovs_hybrid_plug": True}))
    quiet()

    with pytest.raises(exception.InterfaceMissing, match="bridge"):
        life.power_on(instance, broken)

    assert support.subcommands(sim).count("start") == 1
    assert sim.state(ctid) == "stopped"


def test_a_server_gets_an_interface_again_that_a_failed_detach_took(
    sim, node, net, life, boot, instance, ovs, monkeypatch
):
    """Nova has the port still, and ends in ERROR with a server that cannot start."""
    ctid = boot()
    known = ports.network_info()
    monkeypatch.setattr(objects.Instance, "get_network_info", lambda self: known)
    monkeypatch.setattr(objects.Instance, "save", lambda self: None)
    ovs.failing = {ports.PORTS[1]}
    with pytest.raises(exception.CleanupFailed, match="no ovsdb"):
        interfaces.Interfaces(node, net).detach(None, instance, known[1])
    ovs.failing = set()

    life.reboot(instance, known, hard=True)

    assert sim.state(ctid) == "running"
    assert len(ports.taps(sim)) == 2


@pytest.mark.parametrize(
    ("before", "expected"),
    [("suspend", ["plug", "resume"]), ("power_off", ["plug", "start"])],
)
def test_after_a_boot_of_the_node_servers_come_back(
    sim, life, boot, instance, journal, quiet, before, expected
):
    ctid = boot()
    getattr(life, before)(instance)
    quiet()

    life.resume_after_boot(instance, ports.network_info())

    assert journal() == expected
    assert sim.state(ctid) == "running"


# -- what is there ------------------------------------------------------------------


def test_a_server_without_a_container_is_not_found(life, instance):
    for call in (
        lambda: life.get_info(instance, use_cache=True),
        lambda: life.power_on(instance, None),
        lambda: life.reboot(instance, None, hard=True),
        lambda: life.suspend(instance),
        lambda: life.set_admin_password(instance, "secret-word"),
    ):
        with pytest.raises(nova_exception.InstanceNotFound, match=instance.uuid):
            call()
    assert not life.exists(instance)
    assert life.list_uuids() == life.list_names() == []


def test_a_server_without_a_container_is_off(sim, life, instance, quiet):
    quiet()
    life.power_off(instance, timeout=30)
    assert support.subcommands(sim) == []


def test_a_failing_vzlist_is_no_missing_server(sim, life, boot, instance):
    ctid = boot()
    for call in (
        lambda: life.get_info(instance, use_cache=False),
        lambda: life.exists(instance),
        lambda: life.power_off(instance),
    ):
        sim.fail("vzlist", rc=1, stderr="Unable to read\n")
        with pytest.raises(exception.CommandFailed):
            call()
    assert sim.state(ctid) == "running"


def test_servers_are_listed(life, boot, instance):
    boot()

    assert life.list_uuids() == [instance.uuid]
    assert life.list_names() == [instance.name] == ["instance-00000007"]
    assert life.exists(instance)


def test_reports_share_a_look_and_news_are_looked_at_anew(
    sim, node, life, boot, instance, monkeypatch
):
    ctid = boot()
    now = [1000.0]
    monkeypatch.setattr(node.look, "_clock", lambda: now[0])

    def report(seconds):
        now[0] += seconds
        sim.clear_commands()
        found = life.get_info(instance, use_cache=True)
        return found.state, len(sim.commands("vzlist"))

    instance.power_state = power_state.RUNNING
    life.get_info(instance, use_cache=False)
    assert report(1) == (power_state.RUNNING, 0)
    sim.run("vzctl", "stop", ctid)
    assert report(host.REPORT_MAX_AGE) == (power_state.SHUTDOWN, 1)
    assert report(1) == (power_state.SHUTDOWN, 0)
    sim.run("vzctl", "start", ctid)
    # Nova would act on a state that is not the one that it knows.
    assert report(5) == (power_state.RUNNING, 1)
    assert life.get_info(instance, use_cache=False).internal_id == ctid


def test_the_password_of_a_running_server_is_changed(sim, life, boot, instance):
    ctid = boot()

    life.set_admin_password(instance, "secret-word")

    assert sim.password_matches(ctid, "root", "secret-word")


def test_ports_are_plugged_and_unplugged_on_demand(life, instance, ovs):
    life.plug_vifs(instance, ports.network_info())
    life.unplug_vifs(instance, ports.network_info())

    assert [call[0] for call in ovs.calls] == ["plug", "plug", "unplug", "unplug"]


@pytest.mark.parametrize("kind", ["binding_failed", "unbound", "bridge"])
def test_a_port_that_has_become_unusable_does_not_keep_the_service_from_starting(
    life, instance, ovs, kind
):
    """Of one server Nova takes this error alone when it starts."""
    broken = ports.network_info(ports.vif(type=kind))

    with pytest.raises(nova_exception.VirtualInterfacePlugException, match=kind):
        life.plug_vifs(instance, broken)

    assert ovs.calls == []
