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

from pathlib import Path
from types import SimpleNamespace

import pytest
from nova.compute import power_state, rpcapi, task_states, vm_states

from nova import exception as nova_exception
from nova import objects
from ovznovadriver.compute import interfaces, recovery, rescue, restart, servers
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
            m for m in known if m.instance_uuid == filters["instance_uuid"]
        ],
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


def migration(status, dest=support.HOST, uuid=OTHER_UUID):
    return SimpleNamespace(status=status, dest_compute=dest, instance_uuid=uuid)


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


@pytest.mark.parametrize(
    ("status", "here", "stays"),
    [("running", False, True), ("error", False, False), ("error", True, True)],
)
def test_a_ctid_kept_for_a_server_that_comes_live_goes_with_its_move(
    sim4, node4, server, migrations, status, here, stays
):
    node4.claims.claim_this("150", OTHER_UUID, list)
    owner = Path(node4.options.lock_dir, "150", "owner")
    ovz_ctid.Owner(OTHER_UUID, support.HOST, 1, 1, "gone").write(owner)
    (sim4.private_dir / "150").mkdir()
    migrations.append(migration(status))
    server.uuid = OTHER_UUID
    fresh = support.open_node(sim4)
    recovery.recover(fresh)
    assert sim4.private_dir.joinpath("150").exists()

    instances = [server] if here else []
    restart.Restart(fresh, None, None, None, None).process(None, instances)

    assert (fresh.claims.ctids() == ["150"]) is stays
    assert sim4.private_dir.joinpath("150").exists() is stays


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
