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

"""Cold migration: what is done in which order, and what is refused."""

import contextlib
import dataclasses
import json
import shutil

import pytest
from nova.compute import task_states

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import coldmigration, migration, resize
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import transfer
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.compute import moves, ports
from tests.unit.compute.moves import ADDRESS


class Way:
    """Stands for Transfer: notes what is asked, where os-vif's calls are noted.

    :cvar changes: what the other host says of itself that is not what this one says
    """

    calls: list
    node = None
    shared = False
    claims_shared = False
    changes: dict
    failing = ""

    def __init__(self, node, peer):
        assert peer.host == ADDRESS

    def _note(self, name):
        self.calls.append((name,))
        if name == self.failing:
            raise exception.TransferError(f"no {name} today")

    def hello(self):
        self._note("hello")
        ours = transfer.local_facts(self.node)
        return dataclasses.replace(ours, host="host2", **self.changes)

    def is_shared(self, key):
        self._note("is_shared")
        return self.shared

    def sees_claim(self, ctid, key):
        self._note("sees_claim")
        return self.claims_shared

    def tree_kb(self, ctid):
        return 100

    def send(self, ctid, key, *, progress):
        self._pass("send", progress)

    @contextlib.contextmanager
    def connected(self, ctid, key, progress, *, holes):
        assert holes
        self._note("connect")
        yield lambda: self._pass("final send", progress)

    def _pass(self, name, progress):
        self._note(name)
        for part in (0.0, 0.01, 0.5, 1.0):
            progress(part)

    def verify(self, ctid, key):
        self._note("verify")

    def discard(self, key):
        self._note("discard")


@pytest.fixture
def way(node, ovs, monkeypatch):
    """The way to the other host."""
    kind = type("ThisWay", (Way,), {"node": node, "calls": ovs.calls, "changes": {}})
    monkeypatch.setattr(transfer, "Transfer", kind)
    return kind


@pytest.fixture
def saved(monkeypatch):
    """The progress that Nova's database was told."""
    told = []
    monkeypatch.setattr(
        objects.Instance, "save", lambda self: told.append(self.progress)
    )
    return told


@pytest.fixture
def cold(node, life, net, way, saved):
    """The migrations of a node."""
    return coldmigration.ColdMigrations(
        node, life, net, resize.Resizes(node, life, net)
    )


@pytest.fixture
def leave(cold, instance):
    """Send the server to the other host."""
    instance.progress = 0

    def leaving():
        return cold.leave(
            instance, ADDRESS, instance.flavor, ports.network_info(), timeout=30
        )

    return leaving


def _words(calls):
    """What was asked, in order; runs of one word are one."""
    words = [call[0] for call in calls if call[0] not in ("wait for", "events")]
    pairs = zip([None, *words], words, strict=False)
    return [word for before, word in pairs if word != before]


def test_all_is_asked_and_sent_before_the_server_stops(
    sim, boot, leave, ovs, quiet, saved
):
    ctid = boot()
    quiet()

    said = leave()

    assert _words(ovs.calls) == [
        *("hello", "is_shared", "send", "connect", "unplug", "final send", "verify")
    ]
    assert sim.state(ctid) == "stopped"
    assert json.loads(said) == {"version": 1, "key": support.UUID}
    assert saved == sorted(set(saved))
    assert (saved[0], saved[-1]) == (40, 100)


@pytest.mark.parametrize("passes", [0, 3])
def test_the_operator_says_how_often_a_running_server_is_sent(
    boot, leave, ovs, quiet, flags, passes
):
    flags(rsync_iterations=passes, group="openvz")
    boot()
    quiet()

    leave()

    assert ovs.calls.count(("send",)) == passes


def test_a_stopped_server_is_sent_once(boot, leave, ovs, quiet):
    boot(power_on=False)
    quiet()

    leave()

    assert "send" not in _words(ovs.calls)
    assert "final send" in _words(ovs.calls)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"family": "vzctl 5"}, "vzctl 5 on host host2"),
        ({"layout": "ploop"}, "layout is simfs here"),
        ({"architecture": "vax"}, "vax on host host2"),
        ({"guest_ids": (7, 7)}, "LOCAL_UID"),
        ({"free_kb": 99}, "has 99 KiB free"),
    ],
)
def test_another_kind_of_host_is_refused_before_anything_changes(
    sim, boot, leave, way, quiet, ovs, changes, reason
):
    way.changes = changes
    boot()
    quiet()

    with pytest.raises(nova_exception.InstanceFaultRollback) as raised:
        leave()

    inner = raised.value.inner_exception
    assert isinstance(inner, nova_exception.MigrationPreCheckError)
    assert reason in str(inner)
    assert support.subcommands(sim) == []
    # Where the files need not be sent they need no room.
    asked = ["hello", "is_shared"] if "free_kb" in changes else ["hello"]
    assert _words(ovs.calls) == asked


def test_a_server_in_a_disk_image_is_refused_where_the_other_host_has_none(
    sim, boot, leave, node
):
    if node.family.template_paths:
        pytest.skip("a node has one layout there")
    path = sim.conf_dir / f"{boot()}.conf"
    path.write_text(path.read_text().replace('"simfs"', '"ploop"'))

    with pytest.raises(nova_exception.InstanceFaultRollback, match="ploop here"):
        leave()


def test_the_tree_that_rescues_a_server_does_not_go_in_its_place(sim, boot, leave):
    """Nobody would know on the other host that its own is inside."""
    ctid = boot()
    (sim.conf_dir / f"{ctid}.rescue").touch()

    with pytest.raises(nova_exception.InstanceFaultRollback, match="that rescues it"):
        leave()
    assert sim.state(ctid) == "running"


def test_a_node_cannot_hold_a_server_twice_under_its_uuid(boot, leave, way, node, sim):
    way.shared = True
    ctid = boot()

    if node.family.uuid_ctids:
        with pytest.raises(nova_exception.InstanceFaultRollback, match="twice in one"):
            leave()
        assert sim.state(ctid) == "running"
    else:
        leave()
        assert sim.conf(ctid)["NAME"] == f"{support.UUID}-migrated"


def test_files_that_the_other_host_can_rename_are_not_sent(
    boot, leave, way, node, sim, ovs, quiet, saved
):
    if node.family.uuid_ctids:
        pytest.skip("a server has one place there")
    way.shared = way.claims_shared = True
    # They need no room there.
    way.changes = {"free_kb": 0}
    ctid = boot()
    quiet()

    said = json.loads(leave())

    assert _words(ovs.calls) == ["hello", "is_shared", "sees_claim", "unplug"]
    assert sim.state(ctid) == "stopped"
    assert sim.tree(ctid).is_dir()
    assert node.claims.has(ctid, ovz_ctid.LENT)
    assert said == {"version": 2, "key": support.UUID}
    assert saved == [100]


@pytest.mark.parametrize("left", ["incoming", "lent"])
def test_a_server_that_has_not_got_its_files_yet_does_not_go(
    boot, leave, node, sim, come, tmp_path, left
):
    if left == "lent":
        if node.family.uuid_ctids:
            pytest.skip("a server has one place there")
        shutil.rmtree(moves.arrivals(node))
        (sim.private_dir / "7000").mkdir()
        other = ovz_ctid.Claims(node.options.lock_dir, "host2")
        other.claim_this("7000", support.UUID, tuple)
        other.note("7000", ovz_ctid.LENT)
    ctid = boot()

    with pytest.raises(nova_exception.InstanceFaultRollback, match="reboot it hard"):
        leave()

    assert sim.state(ctid) == "running"


def test_what_a_hard_reboot_starts_is_lent_no_more(
    sim, boot, node, life, net, cold, instance
):
    """Nova failed after the driver had done its part, and has the server here."""
    boot(power_on=False)
    cold._lending.lend(OvzContainer.find(node, uuid=support.UUID))
    instance.migration_context = None
    whole = migration.Migrations(node, life, net, None)
    whole.reboot(None, instance, ports.network_info(), hard=True)

    # By a later move, with a copy.
    life.power_off(instance)
    cold.confirm(instance, ports.network_info())

    assert sim.containers() == []


@pytest.mark.parametrize("here", [False, True])
def test_what_may_run_on_another_host_is_not_stopped_for_a_move(
    sim, boot, node, cold, leave, net, life, instance, quiet, here
):
    ctid = boot()
    node.claims.note(ctid, ovz_ctid.LEAVING)
    quiet()

    def change():
        resizes = resize.Resizes(node, life, net)
        resizes.prepare(instance, instance.flavor, ports.network_info(), 0)

    with pytest.raises(nova_exception.InstanceFaultRollback, match="another host"):
        (change if here else leave)()

    assert sim.state(ctid) == "running"
    assert "stop" not in support.subcommands(sim)


def test_the_name_comes_back_with_the_server(sim, boot, cold, instance, node):
    ctid = boot()
    before = sim.conf_text(ctid)
    if not node.family.uuid_ctids:
        OvzContainer.find(node, uuid=support.UUID).prep_for_migration()

    instance.task_state = task_states.RESIZE_REVERTING
    cold.return_(moves.record(), instance, ports.network_info(), True)

    assert sim.conf_text(ctid) == before


@pytest.mark.parametrize("step", ["final send", "verify"])
def test_a_server_that_cannot_leave_runs_on(sim, boot, leave, way, ovs, quiet, step):
    ctid = boot()
    before = sim.conf_text(ctid)
    way.failing = step
    quiet()

    with pytest.raises(nova_exception.InstanceFaultRollback, match=f"no {step} today"):
        leave()

    assert sim.state(ctid) == "running"
    assert sim.conf_text(ctid) == before
    assert _words(ovs.calls)[-1] == "discard"


@pytest.mark.parametrize("step", ["send", "connect"])
def test_a_server_does_not_stop_before_all_is_ready(boot, leave, way, sim, quiet, step):
    boot()
    way.failing = step
    quiet()

    with pytest.raises(nova_exception.InstanceFaultRollback):
        leave()

    assert support.subcommands(sim) == []


def test_what_stays_on_the_other_host_is_not_called_undone(boot, leave, way, sim):
    boot()
    sim.fail("vzctl", "stop", rc=96)
    way.failing = "discard"

    with pytest.raises(exception.CommandFailed, match="96"):
        leave()


def test_a_crash_while_leaving_is_taken_back_on_both_hosts(
    sim, boot, cold, instance, ovs, quiet
):
    ctid = boot()
    sim.run("vzctl", "stop", ctid)
    quiet()
    instance.task_state = task_states.RESIZE_MIGRATING

    cold.return_(moves.record(), instance, ports.network_info(), True)

    assert sim.state(ctid) == "running"
    assert _words(ovs.calls) == ["plug", "discard"]


def test_what_was_kept_of_a_server_is_one_again_also_when_it_stays_off(
    sim, node, life, boot, cold, instance
):
    ctid = boot()
    life.destroy(instance, ports.network_info(), destroy_disks=False)
    instance.task_state = task_states.RESIZE_REVERTING

    cold.return_(moves.record(), instance, ports.network_info(), False)

    node.look.forget()
    assert sim.state(ctid) == "stopped"
    assert life.list_uuids() == [instance.uuid]


# -- where it goes ------------------------------------------------------------------


@pytest.fixture
def come(node):
    """What has come of the server."""
    return moves.tree_that_came(node)


@pytest.fixture
def arrive(cold, instance):
    """Make the server of what has come."""

    def arriving(said='{"version": 1}', power_on=True):
        meta = objects.ImageMeta.from_dict({})
        cold.arrive(
            moves.record(), instance, said, ports.network_info(), meta, power_on
        )

    return arriving


@pytest.mark.parametrize("power_on", [True, False])
def test_a_server_is_made_of_what_has_come(sim, arrive, come, power_on, node):
    arrive(power_on=power_on)

    (ctid,) = sim.containers()
    assert (sim.tree(ctid) / "mine").read_text() == "mine"
    assert sim.state(ctid) == ("running" if power_on else "stopped")
    assert not moves.arrivals(node).exists()


def test_what_an_earlier_stay_has_left_makes_room(sim, boot, arrive, come):
    boot()
    (sim.tree(sim.containers()[0]) / "old").touch()
    sim.run("vzctl", "stop", sim.containers()[0])

    arrive()

    (ctid,) = sim.containers()
    assert (sim.tree(ctid) / "mine").exists()
    assert not (sim.tree(ctid) / "old").exists()


@pytest.mark.parametrize("said", ['{"version": 3}', "{}", "[]", ""])
def test_another_version_is_refused(sim, arrive, come, said):
    with pytest.raises(exception.TransferError):
        arrive(said)

    assert come.exists()
    assert sim.containers() == []


def test_nothing_is_removed_for_a_server_that_has_not_come(sim, boot, arrive):
    ctid = boot()
    (sim.tree(ctid) / "old").touch()

    with pytest.raises(exception.TransferError, match="nothing has come"):
        arrive()

    assert (sim.tree(ctid) / "old").exists()


@pytest.fixture
def arriving(instance, monkeypatch):
    """Nova's record of the move that the server is on."""
    instance.image_ref = ""
    return moves.recorded(instance, monkeypatch)


@pytest.mark.parametrize("subcommand", ["create", "set", "start"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_arrival_that_failed_is_finished(
    sim, cold, life, arrive, come, instance, arriving, subcommand, when
):
    sim.fail("vzctl", subcommand, rc=96, when=when)
    with pytest.raises(exception.CommandFailed):
        arrive()

    cold.complete(None, instance, ports.network_info())
    life.reboot(instance, ports.network_info(), hard=True)

    (ctid,) = sim.containers()
    assert (sim.tree(ctid) / "mine").read_text() == "mine"
    assert sim.state(ctid) == "running"


def test_a_server_that_has_its_old_flavor_again_has_its_limits(
    sim, cold, arrive, come, instance, arriving
):
    arriving.new_instance_type_id = 2
    arrive()
    (ctid,) = sim.containers()
    before = sim.conf(ctid)
    instance.new_flavor = instance.flavor
    instance.old_flavor = instance.flavor = instance.flavor.obj_clone()
    instance.new_flavor.flavorid, instance.flavor.flavorid = "new", "old"
    instance.flavor.vcpus += 1

    cold.complete(None, instance, ports.network_info())

    assert int(sim.conf(ctid)["CPUS"]) == int(before["CPUS"]) + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"migration_type": "evacuation"},
        {"dest_compute": "host2"},
    ],
)
def test_what_came_in_another_move_replaces_nothing(
    sim, boot, cold, come, instance, arriving, changes
):
    vars(arriving).update(changes)
    ctid = boot()

    cold.complete(None, instance, ports.network_info())

    assert not (sim.tree(ctid) / "mine").exists()
    assert come.exists()


def test_a_server_that_is_on_no_move_is_left_alone(sim, boot, cold, come, instance):
    instance.migration_context = None
    ctid = boot()

    cold.complete(None, instance, ports.network_info())

    assert not (sim.tree(ctid) / "mine").exists()
