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

"""Servers with a task when the service starts."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from nova.compute import power_state, rpcapi, task_states, vm_states

from nova import exception as nova_exception
from nova import objects
from ovznovadriver.compute import inventory, recovery
from ovznovadriver.compute.scene import Scene
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import procfs, vzconf, vzctl
from ovznovadriver.openvz.container import OvzContainer
from ovznovadriver.openvz.vzlist import State
from tests import support
from tests.unit.compute import ports
from tests.unit.compute.abandoned import rescued
from tests.unit.compute.tasks import is_settled

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID


@pytest.fixture(
    params=["4", pytest.param("9", marks=pytest.mark.slow)], ids=["vzctl4", "vzctl9"]
)
def sim(request, tmp_path, own_privileged_side):
    """A simulated node."""
    return support.simulated(tmp_path / "node", request.param)


def state(node):
    return OvzContainer.find(node, uuid=UUID).state


def test_a_server_without_a_task_is_left_alone(
    sim, boot, nova_server, start_service, database, quiet
):
    boot()
    quiet()

    start_service(nova_server)

    assert database == []
    assert [c.program for c in sim.commands()] == ["vzlist"]


# -- pause --------------------------------------------------------------------------


@pytest.mark.parametrize("task", [task_states.PAUSING, task_states.UNPAUSING])
@pytest.mark.parametrize(
    ("frozen", "noted"), [(True, False), (False, True), (True, True)]
)
def test_a_server_killed_while_it_was_paused_runs_on(
    sim, node, boot, nova_server, start_service, task, frozen, noted
):
    ctid = boot()
    nova_server.task_state = task
    if frozen:
        node.vzctl.pause(ctid)
    if noted and not node.family.lists_paused:
        node.claims.note_paused(ctid, True)

    start_service(nova_server)

    assert sim.state(ctid) == "running"
    assert state(node) is State.RUNNING


def test_a_paused_server_stays_paused(sim, node, boot, nova_server, start_service):
    ctid = boot()
    OvzContainer.find(node, uuid=UUID).pause()
    nova_server.vm_state = vm_states.PAUSED

    start_service(nova_server)

    assert sim.state(ctid) == "paused"


def test_a_server_that_has_halted_meanwhile_is_left_to_nova(
    sim, boot, nova_server, start_service, database, quiet, caplog
):
    ctid = boot()
    sim.run("vzctl", "stop", ctid, "--fast")
    quiet()

    for task in (
        *(task_states.POWERING_ON, task_states.REBOOTING, task_states.POWERING_OFF),
    ):
        nova_server.task_state = task
        start_service(nova_server)
        assert nova_server.task_state == task

    assert sim.state(ctid) == "stopped"
    assert sim.commands("vzctl") == []
    assert database == []
    assert "Recovery" not in caplog.text


@pytest.mark.parametrize(
    ("task", "vm_state", "settled"),
    [
        (task_states.PAUSING, vm_states.ACTIVE, vm_states.ACTIVE),
        (task_states.UNPAUSING, vm_states.PAUSED, vm_states.PAUSED),
        (task_states.SUSPENDING, vm_states.ACTIVE, vm_states.ACTIVE),
        (task_states.RESUMING, vm_states.SUSPENDED, vm_states.STOPPED),
    ],
)
def test_a_server_that_was_frozen_when_the_node_died_is_not_stuck(
    sim, boot, nova_server, start_service, task, vm_state, settled
):
    """Nova does nothing about these tasks when the server does not run."""
    ctid = boot()
    sim.run("vzctl", "stop", ctid, "--fast")
    nova_server.task_state, nova_server.vm_state = task, vm_state

    start_service(nova_server)

    assert is_settled(nova_server, settled)


# -- suspend ------------------------------------------------------------------------


@pytest.mark.parametrize("task", [task_states.SUSPENDING, task_states.RESUMING])
def test_nova_learns_whether_a_server_is_suspended(
    node, boot, nova_server, start_service, task
):
    boot()
    nova_server.task_state = task
    start_service(nova_server)
    assert is_settled(nova_server)

    OvzContainer.find(node, uuid=UUID).suspend()
    nova_server.task_state = task
    start_service(nova_server)

    assert is_settled(nova_server, vm_states.SUSPENDED)
    assert nova_server.power_state == power_state.SUSPENDED


# -- starts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", [task_states.POWERING_ON, task_states.REBOOT_STARTED_HARD]
)
def test_the_interfaces_of_a_server_that_was_started_are_connected(
    sim, node, boot, nova_server, start_service, task
):
    boot()
    tap = ports.taps(sim)[0]
    sim.note_link(tap, up=False)
    nova_server.task_state = task

    start_service(nova_server)

    assert sim.link(tap)["up"]
    # Nova does the rest, and clears it.
    assert nova_server.task_state == task


# -- rescue -------------------------------------------------------------------------


def test_a_rescue_that_was_not_begun_disturbs_nobody(
    sim, boot, nova_server, start_service, quiet
):
    boot()
    nova_server.task_state = task_states.RESCUING
    quiet()

    start_service(nova_server)

    assert sim.commands("vzctl") == []
    assert is_settled(nova_server)


@pytest.mark.parametrize("was", [vm_states.ACTIVE, vm_states.STOPPED])
def test_a_rescue_that_was_not_done_is_undone(
    sim, node, image, boot, nova_server, start_service, was
):
    ctid = boot()
    (sim.tree(ctid) / "mine").touch()
    OvzContainer.find(node, uuid=UUID).stop(fast=True)
    rescued(node, image)
    nova_server.vm_state, nova_server.task_state = was, task_states.RESCUING

    start_service(nova_server)

    assert (sim.tree(ctid) / "mine").exists()
    assert is_settled(nova_server, was)
    assert sim.state(ctid) == ("running" if was == vm_states.ACTIVE else "stopped")


def test_a_rescue_that_nova_did_not_hear_of_is_one(
    sim, node, image, boot, life, nova_server, start_service
):
    boot()
    container = OvzContainer.find(node, uuid=UUID)
    container.stop(fast=True)
    rescued(node, image)
    life.boot(container, nova_server, ports.network_info(), rescue=True)
    nova_server.task_state = task_states.RESCUING

    start_service(nova_server)

    assert is_settled(nova_server, vm_states.RESCUED)
    assert state(node) is State.RUNNING


@pytest.mark.parametrize("running", [True, False])
def test_the_end_of_a_rescue_is_completed(
    sim, node, image, boot, life, nova_server, start_service, running
):
    ctid = boot()
    (sim.tree(ctid) / "mine").touch()
    container = OvzContainer.find(node, uuid=UUID)
    container.stop(fast=True)
    rescued(node, image)
    if running:
        life.boot(container, nova_server, ports.network_info(), rescue=True)
    nova_server.vm_state, nova_server.task_state = (
        vm_states.RESCUED,
        task_states.UNRESCUING,
    )

    start_service(nova_server)

    assert (sim.tree(ctid) / "mine").exists()
    assert is_settled(nova_server)
    assert sim.state(ctid) == "running"


def test_the_end_of_a_rescue_that_nova_did_not_hear_of_is_one(
    sim, boot, nova_server, start_service, quiet
):
    boot()
    nova_server.vm_state = vm_states.RESCUED
    nova_server.task_state = task_states.UNRESCUING
    quiet()

    start_service(nova_server)

    assert is_settled(nova_server)
    assert nova_server.power_state == power_state.RUNNING
    # It runs on.
    assert sim.commands("vzctl") == []


def test_a_rescue_that_cannot_be_ended_is_an_error(
    sim, boot, nova_server, start_service, caplog
):
    ctid = boot()
    sim.run("vzctl", "stop", ctid, "--fast")
    nova_server.vm_state, nova_server.task_state = (
        vm_states.RESCUED,
        task_states.UNRESCUING,
    )
    sim.fail("vzctl", "start", rc=5, stderr="no way")

    start_service(nova_server)

    assert is_settled(nova_server, vm_states.ERROR)
    assert "no way" in caplog.text


# -- moves --------------------------------------------------------------------------


def test_a_server_that_was_arriving_is_for_a_hard_reboot(
    boot, nova_server, start_service, monkeypatch
):
    boot()
    migration = SimpleNamespace(status="post-migrating", save=lambda: None)
    monkeypatch.setattr(
        objects.Migration,
        "get_by_id_and_instance",
        lambda context, number, uuid: migration,
    )
    nova_server.migration_context = objects.MigrationContext(migration_id=3)
    nova_server.task_state = task_states.RESIZE_FINISH

    start_service(nova_server)

    assert is_settled(nova_server, vm_states.ERROR)
    assert migration.status == "error"


def test_a_resize_here_without_a_record_of_it_is_for_a_hard_reboot(
    boot, nova_server, start_service
):
    boot()
    nova_server.task_state = task_states.RESIZE_FINISH

    start_service(nova_server)

    assert is_settled(nova_server, vm_states.ERROR)


@pytest.fixture
def reverts(monkeypatch):
    """What Nova is asked to revert, while it has such a migration to this host."""
    asked = []
    found = SimpleNamespace(dest_compute=support.HOST)
    monkeypatch.setattr(
        objects.Migration, "get_by_instance_and_status", lambda *args: found
    )
    monkeypatch.setattr(objects.RequestSpec, "get_by_instance_uuid", lambda *args: None)
    monkeypatch.setattr(
        rpcapi.ComputeAPI,
        "revert_resize",
        lambda self, context, instance, migration, host, wanted: asked.append(
            (instance.uuid, host)
        ),
    )
    return SimpleNamespace(asked=asked, migration=found)


def test_a_revert_begins_anew_also_when_the_container_is_gone(
    nova_server, start_service, reverts
):
    nova_server.vm_state = vm_states.RESIZED
    start_service(nova_server)
    assert reverts.asked == []

    nova_server.task_state = task_states.RESIZE_REVERTING
    start_service(nova_server)
    assert reverts.asked == [(UUID, support.HOST)]


def test_a_revert_that_nova_has_no_record_of_is_left_alone(
    nova_server, start_service, reverts, database, monkeypatch, caplog
):
    def get(context, uuid, status):
        assert status == "reverting"
        raise nova_exception.MigrationNotFoundByStatus(instance_id=uuid, status=status)

    monkeypatch.setattr(objects.Migration, "get_by_instance_and_status", get)
    nova_server.vm_state = vm_states.RESIZED
    nova_server.task_state = task_states.RESIZE_REVERTING

    start_service(nova_server)

    assert reverts.asked == database == []
    assert "cannot be dealt with" not in caplog.text


def test_a_revert_goes_on_where_nova_began_it(nova_server, start_service, reverts):
    nova_server.vm_state = vm_states.RESIZED
    nova_server.task_state = task_states.RESIZE_REVERTING
    reverts.migration.dest_compute = "host2"
    start_service(nova_server)
    assert reverts.asked == []


@pytest.mark.parametrize(
    ("vm_state", "task", "stays"),
    [
        (vm_states.ACTIVE, None, False),
        (vm_states.RESIZED, None, True),
        pytest.param(vm_states.STOPPED, None, False, marks=pytest.mark.slow),
        pytest.param(vm_states.ERROR, None, True, marks=pytest.mark.slow),
        (vm_states.ACTIVE, task_states.RESIZE_MIGRATING, True),
    ],
)
def test_what_a_resize_kept_goes_when_it_is_over(
    node, boot, nova_server, start_service, vm_state, task, stays
):
    boot()
    container = OvzContainer.find(node, uuid=UUID)
    container.keep()
    nova_server.vm_state, nova_server.task_state = vm_state, task

    start_service(nova_server)

    assert container.is_kept is stays


# -- the rest -----------------------------------------------------------------------


@pytest.mark.parametrize("was", [vm_states.ACTIVE, vm_states.STOPPED])
def test_a_server_that_was_being_shelved_is_as_before(
    sim, boot, nova_server, start_service, was
):
    ctid = boot()
    sim.run("vzctl", "stop", ctid, "--fast")
    nova_server.vm_state = was
    nova_server.task_state = task_states.SHELVING_IMAGE_UPLOADING

    start_service(nova_server)

    assert is_settled(nova_server, was)
    assert sim.state(ctid) == ("running" if was == vm_states.ACTIVE else "stopped")


def test_a_server_whose_password_was_being_set_has_no_task_any_more(
    sim, boot, nova_server, start_service, quiet, caplog
):
    boot()
    nova_server.task_state = task_states.UPDATING_PASSWORD
    quiet()

    start_service(nova_server)

    assert is_settled(nova_server)
    assert "its password was being set: set it again" in caplog.text
    assert sim.commands("vzctl") == []


def test_a_task_that_nova_has_changed_meanwhile_is_its_own(
    boot, nova_server, start_service, monkeypatch, caplog
):
    boot()
    nova_server.task_state = task_states.UPDATING_PASSWORD

    def save(self, expected_task_state=None):
        raise nova_exception.UnexpectedDeletingTaskStateError(
            instance_uuid=UUID, expected="x", actual="deleting"
        )

    monkeypatch.setattr(objects.Instance, "save", save)

    start_service(nova_server)

    assert "cannot be dealt with" in caplog.text


def test_a_task_in_error_and_a_server_of_another_host_are_left_alone(
    boot, nova_server, start_service, database
):
    boot()
    nova_server.task_state = task_states.SUSPENDING
    nova_server.vm_state = vm_states.ERROR
    start_service(nova_server)
    nova_server.vm_state = vm_states.ACTIVE
    nova_server.host = "host2"
    start_service(nova_server)

    assert database == []


# -- interfaces ---------------------------------------------------------------------


@pytest.mark.parametrize("runs", [True, False])
def test_a_server_gets_the_interface_of_a_port_that_it_lacks(
    sim, node, boot, nova_server, start_service, runs
):
    ctid = boot(network_info=ports.network_info(ports.vif(ports.PORTS[0])))
    if not runs:
        OvzContainer.find(node, uuid=UUID).stop(fast=True)

    start_service(nova_server)

    assert "eth1" in sim.conf(ctid)["NETIF"]
    kept = OvzContainer.find(node, uuid=UUID).wiring.kept()
    assert len(kept) == 2
    assert len(ports.taps(sim)) == (2 if runs else 0)


def test_an_interface_without_a_port_is_told_and_stays(
    sim, node, boot, nova_server, start_service, monkeypatch, caplog
):
    """Nova's view of the ports can be incomplete for a while."""
    ctid = boot()
    one = ports.network_info(ports.vif(ports.PORTS[0]))
    monkeypatch.setattr(objects.Instance, "get_network_info", lambda self: one)

    start_service(nova_server)

    assert "eth1" in sim.conf(ctid)["NETIF"]
    assert ports.vif(ports.PORTS[1])["devname"] in caplog.text


def test_an_interface_stays_where_nova_knows_no_port_of_the_server(
    sim, boot, nova_server, start_service, monkeypatch, caplog
):
    """As above: of all of them."""
    ctid = boot()
    none = ports.model.NetworkInfo([])
    monkeypatch.setattr(objects.Instance, "get_network_info", lambda self: none)

    start_service(nova_server)

    assert sim.conf(ctid)["NETIF"].count("ifname=eth") == 2
    assert "Recovery" not in caplog.text


@pytest.mark.parametrize(
    "vm_state",
    [
        vm_states.ERROR,
        pytest.param(vm_states.BUILDING, marks=pytest.mark.slow),
        pytest.param(vm_states.RESIZED, marks=pytest.mark.slow),
    ],
)
def test_a_server_that_nova_does_not_look_at_gets_no_interface(
    sim, boot, nova_server, start_service, vm_state
):
    ctid = boot(network_info=ports.network_info(ports.vif(ports.PORTS[0])))
    nova_server.vm_state = vm_state

    start_service(nova_server)

    assert "eth1" not in sim.conf(ctid)["NETIF"]


# -- whatever fails -----------------------------------------------------------------


@pytest.mark.parametrize("program", ["vzlist", "survey"])
def test_where_nothing_can_be_seen_nothing_is_done_and_the_service_starts(
    sim, node, boot, nova_server, start_service, database, caplog, program
):
    boot()
    nova_server.task_state = task_states.SUSPENDING
    if program == "vzlist":
        node.look.forget()
        sim.fail("vzlist", rc=1, stderr="Unable to read\n")
    else:
        sim.dump_dir.rename(sim.root / "elsewhere")
        sim.dump_dir.touch()

    start_service(nova_server)

    assert "What was under way with the servers is not known" in caplog.text
    assert database == []
    assert nova_server.task_state == task_states.SUSPENDING


def test_one_server_that_cannot_be_helped_does_not_keep_others(
    sim, node, image, boot, nova_server, start_service, caplog
):
    boot()
    nova_server.task_state = task_states.PAUSING
    broken = SimpleNamespace(uuid=OTHER_UUID, host=support.HOST)
    support.create(node, image, OTHER_UUID)
    node.vzctl.pause(OvzContainer.find(node, uuid=UUID).ovz_id)

    start_service(broken, nova_server)

    assert state(node) is State.RUNNING
    assert "cannot be dealt with" in caplog.text


# -- what is not this driver's, or not this process's --------------------------------


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_server_of_2014_keeps_its_interface_until_it_is_rebooted(
    sim, node, image, life, nova_server, start_service, own_places, caplog
):
    support.legacy(sim, image, "150")
    mac = ports.vif()["address"].upper()
    netif = f"eth0,{mac},veth150.0,{vzctl.HOST_MAC}"
    assert sim.run("vzctl", "set", "150", "--netif_add", netif, "--save").rc == 0
    assert sim.run("vzctl", "start", "150").rc == 0
    inventory.adopt(Scene(node), "150", support.HOST)
    info = nova_server.get_network_info()
    del info[1:]

    start_service(nova_server)

    assert sim.nics() == ["veth150.0"]
    assert "the host ends of its interfaces are veth150.0" in caplog.text

    life.reboot(nova_server, info, hard=True)

    assert sim.state("150") == "running"
    assert sim.nics() == [info[0]["devname"]]
    (nic,) = vzconf.interfaces(sim.conf("150")["NETIF"])
    assert (nic["ifname"], nic["mac"]) == ("eth0", mac)


def test_what_another_service_of_the_host_has_under_way_is_left_alone(
    sim, node, boot, nova_server, start_service, own_places
):
    boot()
    pid = os.getppid()
    other = ovz_ctid.Owner.this_process("", node.host)
    other = dataclasses.replace(other, pid=pid, started=procfs.start_time(pid))
    place = Path(node.options.lock_dir, ".lock", f"service-{node.host}")
    place.parent.mkdir(exist_ok=True)
    other.write(place)
    nova_server.task_state = task_states.SUSPENDING

    recovery.recover(node)
    start_service(nova_server)

    assert nova_server.task_state == task_states.SUSPENDING
    assert node.claims.served_by() == pid
