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

"""Moves between two hosts that a killed service has left."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from nova.compute import rpcapi, task_states, vm_states

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import (
    evacuation,
    handover,
    interrupted,
    lifecycle,
    livemigration,
    recovery,
    restart,
)
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz.container import OvzContainer
from ovznovadriver.openvz.vzlist import State
from tests import support
from tests.unit.compute import ports
from tests.unit.compute.tasks import is_settled

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID


# -- what has come ------------------------------------------------------------------


def came(sim, uuid=OTHER_UUID):
    place = sim.private_dir / f".incoming-{uuid}"
    (place / "tree").mkdir(parents=True)
    return place


def migration(status, dest=support.HOST, uuid=OTHER_UUID, number=1):
    return SimpleNamespace(
        id=number, status=status, dest_compute=dest, instance_uuid=uuid
    )


@pytest.mark.parametrize(
    ("known", "stays"),
    [
        ([], True),
        ([migration("migrating")], True),
        ([migration("reverted")], False),
        ([migration("error")], False),
        ([migration("reverted"), migration("accepted")], True),
        ([migration("reverted", "host2")], True),
        ([migration("migrating", "host2"), migration("error")], False),
    ],
)
def test_a_tree_that_came_goes_when_its_move_is_over(
    sim, start_service, migrations, known, stays
):
    place = came(sim)
    migrations += known

    start_service()

    assert place.exists() is stays


def test_a_tree_that_came_for_a_server_of_this_host_stays(
    sim, start_service, nova_server, migrations
):
    """A hard reboot finishes its arrival."""
    place = came(sim, UUID)
    migrations.append(migration("error", uuid=UUID))

    start_service(nova_server)

    assert place.exists()


def test_where_nova_does_not_answer_nothing_that_came_goes(
    sim, start_service, migrations, monkeypatch, caplog
):
    place = came(sim)
    migrations.append(migration("error"))

    def fail(context, filters):
        raise nova_exception.DBNotAllowed(binary="nova-compute")

    with monkeypatch.context() as patch:
        patch.setattr(objects.MigrationList, "get_by_filters", fail)
        start_service()
    assert place.exists()
    assert "What has come of moves to this host is not known" in caplog.text
    start_service()
    assert not place.exists()


def keep_number(node, ctid="101", uuid=UUID):
    """Keep a CTID for a server that comes as it runs, for a process that is gone."""
    node.claims.claim_this(ctid, uuid, list)
    owner = Path(node.options.lock_dir, ctid, "owner")
    ovz_ctid.Owner(uuid, node.host, 1, 1, "gone").write(owner)


@pytest.fixture
def nova_has(monkeypatch):
    """Let Nova have a server on a host, or none."""

    def put(host):
        def get_by_uuid(context, uuid, expected_attrs):
            if host is None:
                raise nova_exception.InstanceNotFound(instance_id=uuid)
            return SimpleNamespace(host=host)

        monkeypatch.setattr(objects.Instance, "get_by_uuid", get_by_uuid)

    put("host2")
    return put


def live_restart(node, net=None):
    """What a service does about servers that come as they run."""
    life = lifecycle.Lifecycle(node, net, SimpleNamespace(prepare=None))
    live = livemigration.LiveMigrations(node, life, net)
    evacuations = evacuation.Evacuations(node, life, net)
    return restart.Restart(node, life, None, None, net, live, evacuations)


@pytest.mark.parametrize(
    ("status", "here", "stays"),
    [("running", False, True), ("error", False, False), ("error", True, True)],
)
def test_a_ctid_kept_for_a_server_that_comes_live_goes_with_its_move(
    sim4, node4, nova_server, migrations, nova_has, status, here, stays
):
    keep_number(node4, "150", OTHER_UUID)
    (sim4.private_dir / "150").mkdir()
    migrations.append(migration(status))
    nova_server.uuid = OTHER_UUID
    fresh = support.open_node(sim4)
    recovery.recover(fresh)
    assert sim4.private_dir.joinpath("150").exists()

    instances = [nova_server] if here else []
    live_restart(fresh).process(None, instances)

    assert (fresh.claims.ctids() == ["150"]) is stays
    assert sim4.private_dir.joinpath("150").exists() is stays


@pytest.fixture
def come(sim4, node4, image4):
    """A container that has come from another host; host1 keeps its CTID."""
    origin = support.open_node(sim4, "host2", lock_dir=str(sim4.root / "others"))
    container = support.create(origin, image4, uuid=OTHER_UUID)
    keep_number(node4, container.ovz_id, OTHER_UUID)
    return container


@pytest.mark.parametrize(
    ("known", "place", "stays"),
    [
        # Nova has found it where it was before.
        ([("failed", 1)], "host2", False),
        ([("cancelled", 1)], "host2", False),
        ([("cancelled", 2), ("error", 1)], "host2", False),
        # Nobody knows: the tree here may be the only whole one.
        ([("error", 1)], "host2", True),
        ([("error", 2), ("failed", 1)], "host2", True),
        ([("completed", 1)], "host2", True),
        # It will not be missed.
        ([("error", 1)], None, False),
        # Something may still come.
        ([("running", 1)], "host2", True),
        ([("running", 1)], None, True),
    ],
)
def test_what_came_goes_when_the_server_is_elsewhere_for_certain(
    sim4, come, migrations, nova_has, known, place, stays
):
    migrations += [migration(status, number=number) for status, number in known]
    nova_has(place)

    live_restart(support.open_node(sim4)).process(None, [])

    assert (sim4.containers() == [come.ovz_id]) is stays
    assert sim4.private_dir.joinpath(come.ovz_id).exists() is stays


def test_what_may_be_the_only_one_is_told(sim4, come, migrations, nova_has, caplog):
    migrations.append(migration("error"))

    live_restart(support.open_node(sim4)).process(None, [])

    assert "ended in an error, and Nova has it on host2: it may be here" in caplog.text


@pytest.mark.parametrize("hidden", ["private", "conf"])
def test_what_cannot_be_seen_at_the_moment_may_be_the_only_one(
    sim4, come, migrations, nova_has, hidden
):
    migrations.append(migration("error"))
    area = sim4.private_dir if hidden == "private" else sim4.conf_dir
    name = come.ovz_id if hidden == "private" else f"{come.ovz_id}.conf"
    (area / name).rename(sim4.root / "unseen")

    live_restart(support.open_node(sim4)).process(None, [])

    assert support.open_node(sim4).claims.has(come.ovz_id, ovz_ctid.ARRIVING) is (
        hidden == "private"
    )


def test_a_copy_that_runs_is_never_removed(sim4, come, migrations, nova_has, caplog):
    come.start(())
    migrations.append(migration("failed"))

    live_restart(support.open_node(sim4)).process(None, [])

    assert sim4.state(come.ovz_id) == "running"
    assert "it is running here" in caplog.text


# -- what comes as it runs ----------------------------------------------------------


@pytest.fixture(params=[vm_states.ACTIVE, vm_states.ERROR])
def moved(request, nova_server):
    """The server, as Nova has it on the other host."""
    nova_server.host = "host2"
    nova_server.vm_state = request.param
    return nova_server


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_server_that_nova_has_here_is_made_this_hosts_own(
    sim, boot, moved, migrations, net, monkeypatch, caplog
):
    boot()
    destination = support.open_node(sim, "host2", lock_dir=str(sim.root / "others"))
    keep_number(destination)
    told = []
    monkeypatch.setattr(
        "ovznovadriver.openvz.wiring.Wiring.announce",
        lambda self, ends: told.extend(end.host_ifname for end in ends),
    )
    state_before = moved.vm_state

    for _ in range(2):
        fresh = support.open_node(sim, "host2", lock_dir=str(sim.root / "others"))
        recovery.recover(fresh)
        live_restart(fresh, net).process(None, [moved])

    assert OvzContainer.find(fresh, uuid=UUID).state is State.RUNNING
    # Once, and no more when it is this host's.
    assert told == sorted(vif["devname"] for vif in ports.network_info())
    assert "it came as it ran" in caplog.text
    # What Nova has of it is Nova's.
    assert is_settled(moved, state_before)


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_server_of_another_host_is_not_taken(sim, boot, nova_server, net, migrations):
    boot()
    destination = support.open_node(sim, "host2", lock_dir=str(sim.root / "others"))
    keep_number(destination)
    migrations.append(migration("running", "host2", UUID))

    live_restart(destination, net).process(None, [nova_server])

    with pytest.raises(exception.ContainerNotFound):
        OvzContainer.find(destination, uuid=UUID)
    assert sim.state("101") == "running"


# -- what leaves as it runs ---------------------------------------------------------


@pytest.fixture
def leaving(sim4, node4, boot, nova_server, migrations, net, monkeypatch):
    """The server, whose live migration to host2 the service did not survive."""
    boot()
    asked = []
    monkeypatch.setattr(
        rpcapi.ComputeAPI,
        "rollback_live_migration_at_destination",
        lambda self, *args: asked.append(args[1:]),
    )
    monkeypatch.setattr(rpcapi.ComputeAPI, "__init__", lambda self: None)
    bound = []
    monkeypatch.setattr(
        interrupted.neutron.API,
        "migrate_instance_start",
        lambda self, context, instance, move: bound.append(move.dest_compute),
    )
    monkeypatch.setattr(
        objects.ComputeNode,
        "get_first_node_by_host_for_old_compat",
        lambda context, host: SimpleNamespace(hypervisor_hostname=f"{host}.x", id=5),
    )
    nova_server.task_state = task_states.MIGRATING
    move = SimpleNamespace(
        id=3,
        status="running",
        is_live_migration=True,
        source_compute=support.HOST,
        dest_compute="host2",
        instance_uuid=UUID,
        save=lambda: None,
    )
    migrations.append(move)
    return SimpleNamespace(server=nova_server, move=move, asked=asked, bound=bound)


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize("frozen", [False, True])
def test_of_a_server_whose_memory_was_not_sent_nothing_stays_there(
    sim4, start_service, leaving, frozen, node4
):
    node4.claims.note("101", ovz_ctid.LEAVING)
    if frozen:
        # As vzmigrate does it, which vzlist does not show.
        assert sim4.run("vzctl", "chkpnt", "101", "--suspend").rc == 0

    start_service(leaving.server)

    assert leaving.asked == [(leaving.server, "host2", True, None)]
    assert sim4.state("101") == "running"
    assert not node4.claims.has("101", ovz_ctid.LEAVING)
    # Nova does the rest.
    assert leaving.server.host == support.HOST
    assert leaving.server.task_state == task_states.MIGRATING


@pytest.fixture
def at_work(sim4, nova_server):
    """Something that has the container's lock, as vzmigrate has."""
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        (sim4.lock_dir / "101.lck").write_text(f"{process.pid}\n")
        yield process
        process.kill()


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize("has_left", [False, True])
def test_a_vzmigrate_that_has_ended_when_it_is_to_be_ended_is_no_more_in_the_way(
    sim4, start_service, leaving, at_work, monkeypatch, has_left
):
    sim4.run("vzctl", "chkpnt", "101", "--suspend")

    def abort(self, instance):
        at_work.kill()
        at_work.wait()
        if has_left:
            conf = sim4.conf_dir / "101.conf"
            conf.rename(f"{conf}.migrated")
        raise exception.TransferError("no vzmigrate moves it")

    monkeypatch.setattr(livemigration.LiveMigrations, "abort", abort)
    monkeypatch.setattr(recovery, "BUSY_WAIT", 0)

    start_service(leaving.server)

    if has_left:
        assert leaving.server.host == "host2"
        assert leaving.asked == []
    else:
        assert leaving.asked == [(leaving.server, "host2", True, None)]
        assert sim4.state("101") == "running"


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_vzmigrate_that_sends_files_is_ended_and_the_server_runs_on(
    sim4, node4, start_service, leaving, at_work, monkeypatch
):
    node4.claims.note("101", ovz_ctid.LEAVING)

    def abort(self, instance):
        at_work.kill()
        at_work.wait()

    monkeypatch.setattr(livemigration.LiveMigrations, "abort", abort)
    monkeypatch.setattr(recovery, "BUSY_WAIT", 0)

    start_service(leaving.server)

    assert leaving.asked == [(leaving.server, "host2", True, None)]
    assert leaving.server.host == support.HOST
    assert sim4.state("101") == "running"
    assert not node4.claims.has("101", ovz_ctid.LEAVING)


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_vzmigrate_that_cannot_be_ended_is_left_alone(
    sim4, start_service, leaving, at_work, monkeypatch
):
    def abort(self, instance):
        raise exception.TransferError("its first pass is over")

    monkeypatch.setattr(livemigration.LiveMigrations, "abort", abort)
    monkeypatch.setattr(recovery, "BUSY_WAIT", 0)

    start_service(leaving.server)

    assert leaving.asked == []
    assert leaving.server.host == support.HOST
    assert at_work.poll() is None


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_server_that_may_run_on_the_other_host_does_not_start(
    sim4, start_service, leaving, node4, life
):
    node4.claims.note("101", ovz_ctid.LEAVING)
    assert sim4.run("vzctl", "chkpnt", "101", "--suspend").rc == 0
    (sim4.dump_dir / "tmp-dump.101").touch()

    start_service(leaving.server)

    assert leaving.asked == []
    assert leaving.server.host == support.HOST
    assert is_settled(leaving.server, vm_states.ERROR)
    for hard in (True, False):
        with pytest.raises(exception.TransferError, match="may run on another host"):
            life.reboot(leaving.server, ports.network_info(), hard)
    assert sim4.state("101") == "paused"
    life.halt(OvzContainer.find(node4, ovz_id="101"))
    with pytest.raises(exception.TransferError, match="may run on another host"):
        life.power_on(leaving.server, ports.network_info())
    node4.claims.forget("101", ovz_ctid.LEAVING)
    life.power_on(leaving.server, ports.network_info())
    assert sim4.state("101") == "running"


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_server_that_does_not_run_is_left_to_nova(
    sim4, start_service, leaving, node4
):
    assert sim4.run("vzctl", "stop", "101", "--fast").rc == 0
    node4.look.forget()

    start_service(leaving.server)

    assert leaving.asked == []
    assert sim4.state("101") == "stopped"


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [{"status": "preparing"}, {"is_live_migration": False}, {"source_compute": "x"}],
)
def test_another_move_is_not_undone(sim4, start_service, leaving, change):
    vars(leaving.move).update(change)

    start_service(leaving.server)

    assert leaving.asked == []


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_nova_has_a_server_that_has_left_where_it_went(
    sim4, start_service, leaving, node4, ovs
):
    # As vzmigrate's last step does it.
    assert sim4.run("vzctl", "stop", "101", "--fast").rc == 0
    conf = sim4.conf_dir / "101.conf"
    conf.rename(f"{conf}.migrated")
    node4.look.forget()

    start_service(leaving.server)

    server = leaving.server
    assert (server.host, server.node, server.compute_id) == ("host2", "host2.x", 5)
    assert is_settled(server, vm_states.ERROR)
    assert leaving.move.status == "error"
    assert leaving.bound == ["host2"]
    assert leaving.asked == []
    # Nothing is left here.
    assert support.traces(sim4, node4) == {}
    assert [call for call in ovs.calls if call[0] == "unplug"]


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize("claimed", [True, False])
def test_a_server_that_is_hidden_has_not_left(
    sim4, start_service, leaving, node4, claimed
):
    # The disk with its private area is not mounted.
    (sim4.private_dir / "101").rename(sim4.root / "unseen")
    if not claimed:
        node4.claims.release("101")
    node4.look.forget()

    start_service(leaving.server)

    assert leaving.server.host == support.HOST
    assert leaving.asked == []
    assert leaving.bound == []


# -- what changes hands -------------------------------------------------------------


@pytest.fixture
def there(second, node4):
    """The other host, which has the same disk."""
    return support.open_node(second, "host2", lock_dir=node4.options.lock_dir)


@pytest.fixture(params=["suspended", "giving", "given"])
def going(request, leaving, node4, monkeypatch):
    """The server, suspended in order to leave, when its service was killed."""
    node4.claims.note("101", ovz_ctid.LEAVING)
    container = OvzContainer.find(node4, ovz_id="101")
    container.suspend()
    giver = handover.Handover(node4)
    if request.param == "giving":
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", lambda *args, **kwargs: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                giver.give(container)
    elif request.param == "given":
        giver.give(container)
    node4.look.forget()
    return leaving


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_server_that_nobody_has_taken_runs_on(sim4, start_service, going, node4):
    start_service(going.server)

    assert going.asked == [(going.server, "host2", True, None)]
    assert sim4.state("101") == "running"
    assert [path.name for path in sim4.private_dir.iterdir()] == ["101"]
    for mark in (ovz_ctid.LEAVING, ovz_ctid.HANDED):
        assert not node4.claims.has("101", mark)
    assert going.server.host == support.HOST


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_server_that_cannot_be_resumed_keeps_its_memory(
    sim4, start_service, going, node4
):
    sim4.fail("vzctl", "resume", rc=17)

    start_service(going.server)

    assert sim4.state("101") == "suspended"
    assert is_settled(going.server, vm_states.SUSPENDED)
    assert not node4.claims.has("101", ovz_ctid.LEAVING)


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize("going", ["given"], indirect=True)
@pytest.mark.parametrize("signed", [True, False])
def test_nova_has_a_server_that_was_taken_where_it_is(
    sim4, start_service, going, there, second, signed, monkeypatch
):
    if not signed:
        monkeypatch.setattr(type(there.claims), "sign", lambda *args: None)
    handover.Handover(there).take(UUID)

    start_service(going.server)

    assert going.server.host == "host2"
    assert is_settled(going.server, vm_states.ERROR)
    assert going.asked == []
    # It is whole there, and nothing of it is here.
    assert sim4.private_dir.joinpath("101", "sbin/init").exists()
    assert second.state("101") == "suspended"
    assert sim4.containers() == []


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize("going", ["given"], indirect=True)
@pytest.mark.parametrize("taken", [True, False])
def test_the_host_that_nova_has_a_server_on_takes_it(
    going, there, second, net, taken, caplog
):
    going.server.host, going.server.task_state = "host2", None
    going.move.status = "error"
    if taken:
        handover.Handover(there).take(UUID)
        owner = Path(there.options.lock_dir, "101", "owner")
        ovz_ctid.Owner(UUID, "host2", 1, 1, "gone").write(owner)

    for _ in range(2):
        fresh = support.open_node(second, "host2", lock_dir=there.options.lock_dir)
        recovery.recover(fresh)
        live_restart(fresh, net).process(None, [going.server])

    assert second.state("101") == "running"
    assert OvzContainer.find(fresh, uuid=UUID).state is State.RUNNING
    assert "it came as it ran" in caplog.text


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize("going", ["given"], indirect=True)
def test_a_host_that_nova_does_not_have_it_on_leaves_it(going, there, second, net):
    fresh = support.open_node(second, "host2", lock_dir=there.options.lock_dir)
    recovery.recover(fresh)
    live_restart(fresh, net).process(None, [])

    assert second.containers() == []
    assert handover.Handover(there).awaits(UUID) == "101"
