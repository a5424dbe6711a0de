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


"""Evacuations that a killed service has left, on the new host and on the lost one."""

import json
from types import SimpleNamespace

import pytest
from nova.compute import task_states, vm_states
from nova.scheduler.client import report

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import evacuation, lifecycle, recovery, restart
from ovznovadriver.openvz import ctid as ovz_ctid
from tests import support, trees
from tests.unit.compute import kills, ports
from tests.unit.compute.tasks import is_settled

LOST, HERE, THIRD = support.HOST, "host2", "host3"


@pytest.fixture
def sim(tmp_path, own_privileged_side):
    """The node of the host that gets lost."""
    return support.simulated(tmp_path / "node", "4")


class Nova:
    """What Nova has, and what it is told.

    :ivar moves: the server's migrations
    :ivar placed: by provider, what the server has of it
    """

    def __init__(self, instance):
        self.instance = instance
        self.moves = []
        self.placed = {LOST: {"resources": {"VCPU": 1}}, HERE: {"resources": {}}}

    def move(self, status, target=HERE, kind="evacuation", source=LOST):
        """Have one more migration."""
        found = SimpleNamespace(
            id=len(self.moves) + 1,
            instance_uuid=self.instance.uuid,
            migration_type=kind,
            status=status,
            source_compute=source,
            source_node=source,
            dest_compute=target,
            dest_node=target,
            save=lambda: None,
        )
        self.moves.append(found)
        return found

    def migrations(self, _context, filters):
        """See nova.objects.MigrationList.get_by_filters."""
        return [
            move
            for move in self.moves
            if move.instance_uuid == filters.get("instance_uuid", move.instance_uuid)
            if move.migration_type == filters.get("migration_type", move.migration_type)
            if move.source_compute == filters.get("source_compute", move.source_compute)
            if filters.get("host") in (None, move.source_compute, move.dest_compute)
            if move.status in filters.get("status", [move.status])
        ]

    def instances(self, _context, filters, expected_attrs):
        """See nova.objects.InstanceList.get_by_filters."""
        known = self.instance is not None and self.instance.uuid in filters["uuid"]
        return [self.instance] if known else []

    def get_allocs_for_consumer(self, _context, uuid):
        """See nova.scheduler.client.report."""
        return {"allocations": dict(self.placed), "consumer_generation": 1}

    def put_allocations(self, _context, uuid, payload):
        """See nova.scheduler.client.report."""
        self.placed = payload["allocations"]

    @staticmethod
    def compute_node(_context, host, name):
        """See nova.objects.ComputeNode: here a provider is called like its host."""
        return SimpleNamespace(uuid=host)


@pytest.fixture
def nova(instance, monkeypatch):
    """What Nova has: a server on the lost host, of which an evacuation is under way."""
    found = Nova(instance)
    network = ports.network_info()
    for owner, name, value in (
        (objects.Instance, "save", lambda self, **_: None),
        (objects.Instance, "get_network_info", lambda self: network),
        (objects.Instance, "drop_migration_context", lambda self: None),
        (objects.MigrationList, "get_by_filters", found.migrations),
        (objects.InstanceList, "get_by_filters", found.instances),
        (objects.ComputeNode, "get_by_host_and_nodename", found.compute_node),
        (report, "report_client_singleton", lambda: found),
    ):
        monkeypatch.setattr(owner, name, value)
    instance.vm_state = vm_states.ACTIVE
    instance.task_state = task_states.REBUILDING
    instance.deleted = False
    return found


def evacuations_of(node, net):
    """What comes to a host, and goes from it."""
    images = SimpleNamespace(prepare=None)
    return evacuation.Evacuations(node, lifecycle.Lifecycle(node, net, images), net)


def opened(second, sim, host=HERE):
    """A host of those that share the claims."""
    return support.open_node(second, host, lock_dir=str(sim.root / "claims"))


@pytest.fixture
def arrive(sim, second, net, nova, instance):
    """Have the server come, as it is begun."""

    def arriving():
        instance.task_state = task_states.REBUILDING
        meta = objects.ImageMeta.from_dict({})
        here = evacuations_of(opened(second, sim), net)
        here.arrive(instance, meta, ports.network_info(), None)

    return arriving


@pytest.fixture
def start(sim, second, net):
    """Start the service of the new host, which has no servers."""

    def starting(node=None, host=HERE, *instances):
        fresh = opened(node or second, sim, host)
        recovery.recover(fresh)
        evacuations = evacuations_of(fresh, net)
        subject = restart.Restart(fresh, None, None, None, net, None, evacuations)
        subject.process(None, list(instances))

    return starting


@pytest.fixture
def left(sim, boot, nova):
    """What the lost host has left: its CTID, and its files as they are."""
    ctid = boot(power_on=False)
    trees.fill(sim.tree(ctid) / "srv")
    return ctid


def seen(sim, ctid):
    """All that there is to see of files, and that they are the same ones."""
    private = sim.private_dir / ctid
    return private.stat().st_ino, trees.of_the_guest(trees.describe(private))


def claimed(sim, host):
    """The CTIDs that a host has claimed."""
    owners = (sim.root / "claims").glob("*/owner")
    found = {path.parent.name: json.loads(path.read_text()) for path in owners}
    return [ctid for ctid, owner in found.items() if owner["host"] == host]


# -- the new host ---------------------------------------------------------------------


@pytest.mark.slow
def test_an_evacuation_killed_anywhere_is_undone_and_can_be_asked_for_again(
    sim, second, left, nova, instance, arrive, start
):
    before = seen(sim, left)
    count = 0
    for _ in kills.points(arrive):
        count += 1
        move = nova.move("pre-migrating")
        start()

        assert seen(sim, left) == before
        assert second.containers() == []
        assert claimed(sim, HERE) == []
        assert sorted(path.name for path in sim.private_dir.iterdir()) == [left]
        assert move.status == "failed"
        assert is_settled(instance, vm_states.ERROR)
    assert count > 15
    # The last one was not killed.
    assert second.state(*second.containers()) == "running"


@pytest.fixture
def taken(sim, second, left, nova, arrive):
    """The CTID that has the files, of a service that was killed with all done."""
    pid_free = kills.killed(arrive, 10_000)
    assert not pid_free
    (ctid,) = second.containers()
    return ctid


def test_an_evacuation_that_nova_does_not_know_the_end_of_is_undone(
    sim, second, left, taken, nova, instance, start, caplog
):
    files = seen(sim, taken)
    move = nova.move("pre-migrating")

    start()

    assert seen(sim, left) == files
    assert second.containers() == []
    assert move.status == "failed"
    assert nova.placed == {LOST: {"resources": {"VCPU": 1}}}
    assert is_settled(instance, vm_states.ERROR)
    told = [line for line in caplog.messages if line.startswith("Recovery: ")]
    assert told == [
        f"Recovery: server {instance.uuid}: its evacuation from host {LOST} was"
        " interrupted: its files go back, what was made of it here is removed, and it"
        " is in ERROR"
    ]


@pytest.mark.slow
def test_undoing_it_can_be_killed_too(
    sim, second, left, taken, nova, instance, start, arrive
):
    files = seen(sim, taken)
    count = 0
    move = nova.move("pre-migrating")
    for _ in kills.points(start):
        count += 1
        assert {"inode": files[0]} == {
            "inode": next(
                path.stat().st_ino
                for path in sim.private_dir.iterdir()
                if path.name in (left, taken) and (path / "srv").exists()
            )
        }
    start()
    assert count > 5
    assert seen(sim, left) == files
    assert second.containers() == claimed(sim, HERE) == []
    assert move.status == "failed"


@pytest.mark.parametrize(
    ("status", "task"),
    [("completed", task_states.REBUILDING), ("completed", None), ("failed", None)],
)
def test_files_go_back_also_when_nova_has_given_the_evacuation_up(
    sim, second, left, taken, nova, instance, start, status, task
):
    nova.move(status)
    instance.task_state = task
    # The lost host is back, and Nova has given up what the server had there.
    nova.placed = {HERE: {"resources": {"VCPU": 1}}}

    start()

    assert (sim.private_dir / left / "srv").exists()
    assert second.containers() == []
    assert nova.placed == {LOST: {"resources": {"VCPU": 1}}}


def test_what_was_asked_of_the_server_since_goes_on(
    sim, second, left, taken, nova, instance, start
):
    move = nova.move("pre-migrating")
    nova.move("accepted", THIRD)

    start()

    assert (sim.private_dir / left / "srv").exists()
    assert second.containers() == []
    assert move.status == "failed"
    assert instance.task_state is not None


@pytest.mark.parametrize(
    "moves",
    [
        # It came to its end.
        [("done", HERE, "evacuation", LOST)],
        # It went back, or is about to.
        [
            ("completed", HERE, "evacuation", LOST),
            ("finished", LOST, "migration", HERE),
        ],
        # It came from elsewhere.
        [("pre-migrating", HERE, "evacuation", THIRD)],
        [("pre-migrating", THIRD, "evacuation", LOST)],
        [],
    ],
)
def test_what_is_no_interrupted_evacuation_is_left_alone(
    sim, second, left, taken, nova, instance, start, moves
):
    for status, target, kind, source in moves:
        nova.move(status, target, kind, source)

    start()

    assert second.state(taken) == "running"
    assert (sim.private_dir / taken / "srv").exists()
    assert instance.task_state == task_states.REBUILDING


def test_a_server_that_nova_has_here_is_left_alone(
    sim, second, taken, nova, instance, start
):
    nova.move("pre-migrating")
    instance.host = HERE
    instance.task_state = None

    start(None, HERE, instance)
    start()

    assert second.state(taken) == "running"


@pytest.mark.parametrize("status", ["accepted", "completed", "failed"])
def test_a_server_of_which_nothing_is_here_is_left_alone(
    left, nova, instance, start, status
):
    move = nova.move(status)
    instance.task_state = None

    start()

    assert move.status == status
    assert instance.vm_state == vm_states.ACTIVE


def test_files_that_cannot_go_back_are_not_removed(
    sim, node, second, left, taken, nova, instance, start, caplog
):
    nova.move("pre-migrating")
    node.claims.release(left)

    start()

    assert (sim.private_dir / taken / "srv").exists()
    assert second.containers() == [taken]
    assert "cannot go back to host" in caplog.text
    assert instance.task_state == task_states.REBUILDING


def test_a_container_whose_own_files_have_gone_already_is_removed(
    sim, second, left, taken, nova, instance, start
):
    files = seen(sim, taken)
    nova.move("pre-migrating")
    second.run("vzctl", "stop", taken, "--fast")
    # As root's side was killed within the verb.
    (sim.private_dir / taken).rename(sim.private_dir / left)

    start()

    assert seen(sim, left) == files
    assert second.containers() == claimed(sim, HERE) == []
    assert is_settled(instance, vm_states.ERROR)


def test_what_was_made_of_an_image_is_removed(
    sim, node, second, left, taken, nova, instance, start
):
    nova.move("pre-migrating")
    node.claims.release(left)
    node.claims.forget(taken, ovz_ctid.TAKEN)

    start()

    assert second.containers() == []
    assert is_settled(instance, vm_states.ERROR)


def test_placement_that_fails_leaves_the_rest_for_the_next_start(
    left, taken, nova, instance, start, monkeypatch, caplog
):
    move = nova.move("pre-migrating")

    def fail(*_args):
        raise nova_exception.PlacementAPIConnectFailure()

    with monkeypatch.context() as patch:
        patch.setattr(nova, "put_allocations", fail)
        start()
    assert move.status == "pre-migrating"
    start()
    assert move.status == "failed"
    assert set(nova.placed) == {LOST}


# -- a third host ---------------------------------------------------------------------


def test_a_third_host_makes_no_server_without_its_files(
    sim, second, left, taken, nova, net, instance, start, tmp_path
):
    another = support.neighbour(sim, tmp_path / "third")
    third = evacuations_of(opened(another, sim, THIRD), net)

    with pytest.raises(exception.TransferError, match="host host2 has the files"):
        third.find(instance)

    nova.move("pre-migrating")
    start()
    assert third.find(instance) == left


# -- the lost host --------------------------------------------------------------------


def coming_back(node, net, instance):
    """What Nova has the lost host do: remove what was evacuated, if it may."""
    lost = evacuations_of(node, net)
    if not lost.keep(None, instance, ports.network_info()):
        lost._life.destroy(instance, ports.network_info())


@pytest.mark.parametrize("status", ["accepted", "pre-migrating"])
def test_a_lost_host_keeps_the_only_files_until_the_evacuation_has_ended(
    sim, node, net, left, nova, instance, status
):
    files = seen(sim, left)
    sim.run("vzctl", "start", left)
    nova.move(status)

    coming_back(node, net, instance)

    assert seen(sim, left) == files
    assert sim.containers() == claimed(sim, LOST) == [left]
    # Two must not write to the same files.
    assert sim.state(left) == "stopped"


def test_what_has_come_back_to_a_host_since_is_no_remains_of_an_evacuation(
    sim, node, net, left, nova, instance
):
    # The service was cut off, and was not started anew since.
    files = seen(sim, left)
    sim.run("vzctl", "start", left)
    nova.move("done")
    instance.task_state = None

    coming_back(node, net, instance)

    assert seen(sim, left) == files
    assert sim.containers() == claimed(sim, LOST) == [left]
    assert sim.state(left) == "running"


@pytest.mark.parametrize(
    ("vm_state", "task"),
    [
        (vm_states.SOFT_DELETED, None),
        (vm_states.ACTIVE, task_states.DELETING),
        (vm_states.ACTIVE, task_states.SHELVING_OFFLOADING),
    ],
)
def test_what_has_come_back_can_be_removed_all_the_same(
    sim, node, net, left, nova, instance, vm_state, task
):
    nova.move("done")
    instance.vm_state, instance.task_state = vm_state, task

    coming_back(node, net, instance)

    assert sim.containers() == []


def test_a_lost_host_keeps_its_container_for_files_that_may_come_back(
    sim, node, net, left, taken, nova, instance, start
):
    nova.move("pre-migrating")

    coming_back(node, net, instance)

    assert sim.containers() == claimed(sim, LOST) == [left]
    start()
    assert (sim.private_dir / left / "srv").exists()


@pytest.mark.parametrize("why", ["done", "moved", "deleted", "deleting", "failed"])
def test_a_lost_host_removes_what_is_certainly_not_its_own_any_more(
    sim, node, net, left, nova, instance, why
):
    nova.move("pre-migrating" if why not in ("done", "failed") else why)
    if why == "moved":
        instance.host = HERE
    instance.deleted = why == "deleted"
    if why == "deleting":
        instance.task_state = task_states.DELETING

    coming_back(node, net, instance)

    assert sim.containers() == claimed(sim, LOST) == []
    assert list(sim.private_dir.iterdir()) == []
