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

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from nova.compute import power_state, rpcapi, task_states, vm_states

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import (
    evacuation,
    interfaces,
    interrupted,
    lifecycle,
    livemigration,
    recovery,
    rescue,
    restart,
    servers,
)
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz.container import OvzContainer
from ovznovadriver.openvz.vzlist import State
from tests import support
from tests.unit.compute import ports

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID


@pytest.fixture(
    params=["4", pytest.param("9", marks=pytest.mark.slow)], ids=["vzctl4", "vzctl9"]
)
def sim(request, tmp_path, own_privileged_side):
    """A simulated node."""
    return support.simulated(tmp_path / "node", request.param)


@pytest.fixture
def saved(monkeypatch):
    """What Nova's database was told of servers: vm_state, task_state."""
    found = []

    def save(self, expected_task_state=None):
        found.append((self.vm_state, self.task_state, expected_task_state))

    monkeypatch.setattr(objects.Instance, "save", save)
    return found


@pytest.fixture
def server(instance, saved, monkeypatch):
    """The server, with two ports, active and without a task."""
    instance.vm_state = vm_states.ACTIVE
    instance.task_state = None
    instance.power_state = power_state.RUNNING
    instance.migration_context = None
    network = ports.network_info()
    monkeypatch.setattr(objects.Instance, "get_network_info", lambda self: network)
    return instance


@pytest.fixture
def migrations(monkeypatch):
    """What Nova knows of migrations."""
    known = []
    monkeypatch.setattr(
        objects.MigrationList,
        "get_by_filters",
        lambda context, filters: [
            m for m in known if m.instance_uuid == filters.get("instance_uuid")
        ],
    )
    monkeypatch.setattr(
        objects.InstanceList, "get_by_filters", lambda context, filters, **_: []
    )
    return known


@pytest.fixture
def start(node, life, net, image, saved, migrations):
    """Start a service that has these servers."""

    def process(*instances):
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


def state(node):
    return OvzContainer.find(node, uuid=UUID).state


def is_settled(instance, vm_state=vm_states.ACTIVE):
    return (instance.vm_state, instance.task_state) == (vm_state, None)


def test_a_server_without_a_task_is_left_alone(sim, boot, server, start, saved, quiet):
    boot()
    quiet()

    start(server)

    assert saved == []
    assert [c.program for c in sim.commands()] == ["vzlist"]


# -- pause --------------------------------------------------------------------------


@pytest.mark.parametrize("task", [task_states.PAUSING, task_states.UNPAUSING])
@pytest.mark.parametrize(
    ("frozen", "noted"), [(True, False), (False, True), (True, True)]
)
def test_a_server_killed_while_it_was_paused_runs_on(
    sim, node, boot, server, start, task, frozen, noted
):
    ctid = boot()
    server.task_state = task
    if frozen:
        node.vzctl.pause(ctid)
    if noted and not node.family.lists_paused:
        node.claims.note_paused(ctid, True)

    start(server)

    assert sim.state(ctid) == "running"
    assert state(node) is State.RUNNING


def test_a_paused_server_stays_paused(sim, node, boot, server, start):
    ctid = boot()
    OvzContainer.find(node, uuid=UUID).pause()
    server.vm_state = vm_states.PAUSED

    start(server)

    assert sim.state(ctid) == "paused"


# -- suspend ------------------------------------------------------------------------


@pytest.mark.parametrize("task", [task_states.SUSPENDING, task_states.RESUMING])
def test_nova_learns_whether_a_server_is_suspended(node, boot, server, start, task):
    boot()
    server.task_state = task
    start(server)
    assert is_settled(server)

    OvzContainer.find(node, uuid=UUID).suspend()
    server.task_state = task
    start(server)

    assert is_settled(server, vm_states.SUSPENDED)
    assert server.power_state == power_state.SUSPENDED


# -- starts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", [task_states.POWERING_ON, task_states.REBOOT_STARTED_HARD]
)
def test_the_interfaces_of_a_server_that_was_started_are_connected(
    sim, node, boot, server, start, task
):
    boot()
    tap = ports.taps(sim)[0]
    sim.note_link(tap, up=False)
    server.task_state = task

    start(server)

    assert sim.link(tap)["up"]
    # Nova does the rest, and clears it.
    assert server.task_state == task


# -- rescue -------------------------------------------------------------------------


def swapped(node, image):
    container = OvzContainer.find(node, uuid=UUID)
    helper = container.make_helper(servers.rescuer(UUID), image)
    container.swap_in(helper)
    helper.delete()


def test_a_rescue_that_was_not_begun_disturbs_nobody(sim, boot, server, start, quiet):
    boot()
    server.task_state = task_states.RESCUING
    quiet()

    start(server)

    assert sim.commands("vzctl") == []
    assert is_settled(server)


@pytest.mark.parametrize("was", [vm_states.ACTIVE, vm_states.STOPPED])
def test_a_rescue_that_was_not_done_is_undone(
    sim, node, image, boot, server, start, was
):
    ctid = boot()
    (sim.tree(ctid) / "mine").touch()
    OvzContainer.find(node, uuid=UUID).stop(fast=True)
    swapped(node, image)
    server.vm_state, server.task_state = was, task_states.RESCUING

    start(server)

    assert (sim.tree(ctid) / "mine").exists()
    assert is_settled(server, was)
    assert sim.state(ctid) == ("running" if was == vm_states.ACTIVE else "stopped")


def test_a_rescue_that_nova_did_not_hear_of_is_one(
    sim, node, image, boot, life, server, start
):
    boot()
    container = OvzContainer.find(node, uuid=UUID)
    container.stop(fast=True)
    swapped(node, image)
    life.boot(container, server, ports.network_info())
    server.task_state = task_states.RESCUING

    start(server)

    assert is_settled(server, vm_states.RESCUED)
    assert state(node) is State.RUNNING


@pytest.mark.parametrize("running", [True, False])
def test_the_end_of_a_rescue_is_completed(
    sim, node, image, boot, life, server, start, running
):
    ctid = boot()
    (sim.tree(ctid) / "mine").touch()
    container = OvzContainer.find(node, uuid=UUID)
    container.stop(fast=True)
    swapped(node, image)
    if running:
        life.boot(container, server, ports.network_info())
    server.vm_state, server.task_state = vm_states.RESCUED, task_states.UNRESCUING

    start(server)

    assert (sim.tree(ctid) / "mine").exists()
    assert is_settled(server)
    assert sim.state(ctid) == "running"


def test_a_rescue_that_cannot_be_ended_is_an_error(sim, boot, server, start, caplog):
    ctid = boot()
    sim.run("vzctl", "stop", ctid, "--fast")
    server.vm_state, server.task_state = vm_states.RESCUED, task_states.UNRESCUING
    sim.fail("vzctl", "start", rc=5, stderr="no way")

    start(server)

    assert is_settled(server, vm_states.ERROR)
    assert "no way" in caplog.text


# -- moves --------------------------------------------------------------------------


def test_a_server_that_was_arriving_is_for_a_hard_reboot(
    boot, server, start, monkeypatch
):
    boot()
    migration = SimpleNamespace(status="post-migrating", save=lambda: None)
    monkeypatch.setattr(
        objects.Migration,
        "get_by_id_and_instance",
        lambda context, number, uuid: migration,
    )
    server.migration_context = objects.MigrationContext(migration_id=3)
    server.task_state = task_states.RESIZE_FINISH

    start(server)

    assert is_settled(server, vm_states.ERROR)
    assert migration.status == "error"


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


def test_a_revert_begins_anew_also_when_the_container_is_gone(server, start, reverts):
    server.vm_state = vm_states.RESIZED
    start(server)
    assert reverts.asked == []

    server.task_state = task_states.RESIZE_REVERTING
    start(server)
    assert reverts.asked == [(UUID, support.HOST)]


def test_a_revert_goes_on_where_nova_began_it(server, start, reverts):
    server.vm_state = vm_states.RESIZED
    server.task_state = task_states.RESIZE_REVERTING
    reverts.migration.dest_compute = "host2"
    start(server)
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
    node, boot, server, start, vm_state, task, stays
):
    boot()
    container = OvzContainer.find(node, uuid=UUID)
    container.keep()
    server.vm_state, server.task_state = vm_state, task

    start(server)

    assert container.is_kept is stays


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
    sim, start, migrations, known, stays
):
    place = came(sim)
    migrations += known

    start()

    assert place.exists() is stays


def test_a_tree_that_came_for_a_server_of_this_host_stays(
    sim, start, server, migrations
):
    """A hard reboot finishes its arrival."""
    place = came(sim, UUID)
    migrations.append(migration("error", uuid=UUID))

    start(server)

    assert place.exists()


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
    sim4, node4, server, migrations, nova_has, status, here, stays
):
    keep_number(node4, "150", OTHER_UUID)
    (sim4.private_dir / "150").mkdir()
    migrations.append(migration(status))
    server.uuid = OTHER_UUID
    fresh = support.open_node(sim4)
    recovery.recover(fresh)
    assert sim4.private_dir.joinpath("150").exists()

    instances = [server] if here else []
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


@pytest.fixture(params=[vm_states.ACTIVE, vm_states.ERROR])
def moved(request, server):
    """The server, as Nova has it on the other host."""
    server.host = "host2"
    server.vm_state = request.param
    return server


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
def test_a_server_of_another_host_is_not_taken(sim, boot, server, net, migrations):
    boot()
    destination = support.open_node(sim, "host2", lock_dir=str(sim.root / "others"))
    keep_number(destination)
    migrations.append(migration("running", "host2", UUID))

    live_restart(destination, net).process(None, [server])

    with pytest.raises(exception.ContainerNotFound):
        OvzContainer.find(destination, uuid=UUID)
    assert sim.state("101") == "running"


@pytest.fixture
def leaving(sim4, node4, boot, server, migrations, net, monkeypatch):
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
    server.task_state = task_states.MIGRATING
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
    return SimpleNamespace(server=server, move=move, asked=asked, bound=bound)


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize("frozen", [False, True])
def test_of_a_server_whose_memory_was_not_sent_nothing_stays_there(
    sim4, start, leaving, frozen, node4
):
    node4.claims.note("101", ovz_ctid.LEAVING)
    if frozen:
        # As vzmigrate does it, which vzlist does not show.
        assert sim4.run("vzctl", "chkpnt", "101", "--suspend").rc == 0

    start(leaving.server)

    assert leaving.asked == [(leaving.server, "host2", True, None)]
    assert sim4.state("101") == "running"
    assert not node4.claims.has("101", ovz_ctid.LEAVING)
    # Nova does the rest.
    assert leaving.server.host == support.HOST
    assert leaving.server.task_state == task_states.MIGRATING


@pytest.fixture
def at_work(sim4, server):
    """Something that has the container's lock, as vzmigrate has."""
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        (sim4.lock_dir / "101.lck").write_text(f"{process.pid}\n")
        yield process
        process.kill()


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize("has_left", [False, True])
def test_a_vzmigrate_that_has_ended_when_it_is_to_be_ended_is_no_more_in_the_way(
    sim4, start, leaving, at_work, monkeypatch, has_left
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

    start(leaving.server)

    if has_left:
        assert leaving.server.host == "host2"
        assert leaving.asked == []
    else:
        assert leaving.asked == [(leaving.server, "host2", True, None)]
        assert sim4.state("101") == "running"


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_vzmigrate_that_cannot_be_ended_is_left_alone(
    sim4, start, leaving, at_work, monkeypatch
):
    def abort(self, instance):
        raise exception.TransferError("its first pass is over")

    monkeypatch.setattr(livemigration.LiveMigrations, "abort", abort)
    monkeypatch.setattr(recovery, "BUSY_WAIT", 0)

    start(leaving.server)

    assert leaving.asked == []
    assert leaving.server.host == support.HOST
    assert at_work.poll() is None


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_a_server_that_may_run_on_the_other_host_does_not_start(
    sim4, start, leaving, node4, life
):
    node4.claims.note("101", ovz_ctid.LEAVING)
    assert sim4.run("vzctl", "chkpnt", "101", "--suspend").rc == 0
    (sim4.dump_dir / "tmp-dump.101").touch()

    start(leaving.server)

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
def test_a_server_that_does_not_run_is_left_to_nova(sim4, start, leaving, node4):
    assert sim4.run("vzctl", "stop", "101", "--fast").rc == 0
    node4.look.forget()

    start(leaving.server)

    assert leaving.asked == []
    assert sim4.state("101") == "stopped"


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [{"status": "preparing"}, {"is_live_migration": False}, {"source_compute": "x"}],
)
def test_another_move_is_not_undone(sim4, start, leaving, change):
    vars(leaving.move).update(change)

    start(leaving.server)

    assert leaving.asked == []


@pytest.mark.parametrize("sim", ["4"], indirect=True)
def test_nova_has_a_server_that_has_left_where_it_went(
    sim4, start, leaving, node4, ovs
):
    # As vzmigrate's last step does it.
    assert sim4.run("vzctl", "stop", "101", "--fast").rc == 0
    conf = sim4.conf_dir / "101.conf"
    conf.rename(f"{conf}.migrated")
    node4.look.forget()

    start(leaving.server)

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
def test_a_server_that_is_hidden_has_not_left(sim4, start, leaving, node4, claimed):
    # The disk with its private area is not mounted.
    (sim4.private_dir / "101").rename(sim4.root / "unseen")
    if not claimed:
        node4.claims.release("101")
    node4.look.forget()

    start(leaving.server)

    assert leaving.server.host == support.HOST
    assert leaving.asked == []
    assert leaving.bound == []


# -- the rest -----------------------------------------------------------------------


@pytest.mark.parametrize("was", [vm_states.ACTIVE, vm_states.STOPPED])
def test_a_server_that_was_being_shelved_is_as_before(sim, boot, server, start, was):
    ctid = boot()
    sim.run("vzctl", "stop", ctid, "--fast")
    server.vm_state = was
    server.task_state = task_states.SHELVING_IMAGE_UPLOADING

    start(server)

    assert is_settled(server, was)
    assert sim.state(ctid) == ("running" if was == vm_states.ACTIVE else "stopped")


def test_a_task_that_nova_has_changed_meanwhile_is_its_own(
    boot, server, start, monkeypatch, caplog
):
    boot()
    server.task_state = task_states.UPDATING_PASSWORD

    def save(self, expected_task_state=None):
        raise nova_exception.UnexpectedDeletingTaskStateError(
            instance_uuid=UUID, expected="x", actual="deleting"
        )

    monkeypatch.setattr(objects.Instance, "save", save)

    start(server)

    assert "cannot be dealt with" in caplog.text


def test_a_task_in_error_and_a_server_of_another_host_are_left_alone(
    boot, server, start, saved
):
    boot()
    server.task_state = task_states.SUSPENDING
    server.vm_state = vm_states.ERROR
    start(server)
    server.vm_state = vm_states.ACTIVE
    server.host = "host2"
    start(server)

    assert saved == []


# -- interfaces ---------------------------------------------------------------------


@pytest.mark.parametrize("runs", [True, False])
def test_a_server_gets_the_interface_of_a_port_that_it_lacks(
    sim, node, boot, server, start, runs
):
    ctid = boot(network_info=ports.network_info(ports.vif(ports.PORTS[0])))
    if not runs:
        OvzContainer.find(node, uuid=UUID).stop(fast=True)

    start(server)

    assert "eth1" in sim.conf(ctid)["NETIF"]
    kept = OvzContainer.find(node, uuid=UUID).wiring.kept()
    assert len(kept) == 2
    assert len(ports.taps(sim)) == (2 if runs else 0)


def test_an_interface_without_a_port_is_told_and_stays(
    sim, node, boot, server, start, monkeypatch, caplog
):
    """Nova's view of the ports can be incomplete for a while."""
    ctid = boot()
    one = ports.network_info(ports.vif(ports.PORTS[0]))
    monkeypatch.setattr(objects.Instance, "get_network_info", lambda self: one)

    start(server)

    assert "eth1" in sim.conf(ctid)["NETIF"]
    assert ports.vif(ports.PORTS[1])["devname"] in caplog.text


@pytest.mark.parametrize(
    "vm_state",
    [
        vm_states.ERROR,
        pytest.param(vm_states.BUILDING, marks=pytest.mark.slow),
        pytest.param(vm_states.RESIZED, marks=pytest.mark.slow),
    ],
)
def test_a_server_that_nova_does_not_look_at_gets_no_interface(
    sim, boot, server, start, vm_state
):
    ctid = boot(network_info=ports.network_info(ports.vif(ports.PORTS[0])))
    server.vm_state = vm_state

    start(server)

    assert "eth1" not in sim.conf(ctid)["NETIF"]


def test_one_server_that_cannot_be_helped_does_not_keep_others(
    sim, node, image, boot, server, start, caplog
):
    boot()
    server.task_state = task_states.PAUSING
    broken = SimpleNamespace(uuid=OTHER_UUID, host=support.HOST)
    support.create(node, image, OTHER_UUID)
    node.vzctl.pause(OvzContainer.find(node, uuid=UUID).ovz_id)

    start(broken, server)

    assert state(node) is State.RUNNING
    assert "cannot be dealt with" in caplog.text
