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

"""Where a container is after vzmigrate was asked to move it, by real processes."""

import dataclasses
import os
import signal
import threading

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import firstpass, moving, processes, vzmigrate
from ovznovadriver.openvz.moving import Place
from ovznovadriver.openvz.vzlist import State
from tests import support
from tests.simulator.node import SimNode

ADDRESS = "192.0.2.2"


@pytest.fixture
def there(tmp_path, sim4):
    """The node that containers go to."""
    sim4.switch("openvz_kernel", True)
    other = SimNode(tmp_path / "there", "4", openvz_kernel=True)
    uid = sim4.host.vz_conf()
    other.set_vz_conf(LOCAL_UID=uid["LOCAL_UID"], LOCAL_GID=uid["LOCAL_GID"])
    sim4.add_peers({ADDRESS: other})
    return other


@pytest.fixture
def container(node4, image4, there):
    """A container that runs."""
    made = support.create(node4, image4, configure=support.with_interfaces)
    made.start(support.ENDS)
    return made


@pytest.fixture
def move(node4, container):
    return moving.Move(node4, container.ovz_id, ADDRESS)


@pytest.fixture
def ended_at(sim4, monkeypatch):
    """Let the time of vzmigrate be over when it begins a step, or has made a file."""
    wait = processes._wait

    def order(step, made=None):
        sim4.hang("vzmigrate", step, when="after" if made else "before")

        def has_come():
            if made is not None:
                return made.exists()
            return not list((sim4.root / "sim/faults").glob("*.json"))

        def until_it_has_come(process, streams, deadline):
            if "-r" not in process.args:
                return wait(process, streams, deadline)
            while not has_come():
                streams.move(0.01)
            return False

        monkeypatch.setattr(processes, "_wait", until_it_has_come)

    return order


@pytest.fixture
def under_way(move, there):
    """Move a container, and do something while it is in a pass that hangs."""

    half = there.private_dir / "101/.half.a1B2c3"

    def run(step, begun=half.exists):
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(move.run()))
        thread.start()
        while not begun():
            assert thread.is_alive(), outcomes
            thread.join(0.01)
        try:
            step()
        finally:
            thread.join()
        return outcomes[0]

    return run


def _left(node):
    return [str(path) for path in node.leftovers("101")]


def test_a_container_that_could_go_stays_as_it_is(move, container, there, sim4):
    before = sim4.conf_text("101")

    move.check()

    assert (sim4.conf_text("101"), sim4.state("101")) == (before, "running")
    assert _left(there) == []


def test_a_container_goes_with_its_processes(move, container, there, sim4):
    since = sim4.commands("vzctl", "start")

    assert move.run() == moving.Outcome(Place.THERE)

    assert there.state("101") == "running"
    assert sim4.containers() == []
    assert [nic for nic in there.nics() if nic in support.TAPS] == support.TAPS
    assert there.commands("vzctl", "start") == []
    assert len(since) == 1
    # Until somebody knows that it arrived.
    assert (sim4.private_dir / "101").is_dir()


@pytest.mark.parametrize("address", ["2001:db8::2", "-oProxyCommand=id", ""])
def test_an_address_that_vzmigrate_would_misread_is_refused(node4, address):
    with pytest.raises(exception.TransferError, match="IPv4 address"):
        moving.Move(node4, "101", address).check()


def test_a_container_that_cannot_go_says_why(move, there):
    there.switch("other_cpu", True)
    with pytest.raises(exception.PeerUnsuitable, match="CPU is not compatible"):
        move.check()


def test_a_container_that_did_not_go_runs_here(move, container, there, sim4):
    steps = "check prepare copy freeze dump sync undump resume".split()
    for step, when in [(s, w) for s in steps for w in ("before", "after")]:
        sim4.fail("vzmigrate", step, rc=6, stderr="no luck", when=when)

        outcome = move.run()

        assert outcome.place is Place.HERE, (step, when)
        assert outcome.reason.endswith("no luck"), (step, when)
        assert sim4.state("101") == "running", (step, when)
        assert _left(there) == [], (step, when)
        assert list(sim4.dump_dir.iterdir()) == [], (step, when)
        container.refuse_leaving()


def test_one_that_vzmigrate_has_left_frozen_runs_on(move, container, sim4):
    # Its own attempt to let it run on may have failed, of which it says nothing.
    error = exception.MoveFailed("vzmigrate", 6, vzmigrate.FREEZING, "no luck")
    assert sim4.run("vzctl", "chkpnt", "101", "--suspend").rc == 0

    assert move._find(error) is Place.HERE
    assert sim4.state("101") == "running"


def test_one_that_was_not_frozen_when_time_was_over_runs_here(
    move, container, sim4, there, ended_at
):
    copied = there.private_dir / "101/etc"
    for step, made in (("check", None), ("copy", None), ("copy", copied)):
        ended_at(step, made)

        outcome = move.run()

        assert outcome.place is Place.HERE, step
        assert "did not end within" in outcome.reason, step
        assert sim4.state("101") == "running", step
        # Nothing is in the way of the next one, once it was cleared up there.
        assert not (sim4.lock_dir / "101.lck").exists(), step


@pytest.mark.parametrize(
    ("step", "here", "other"),
    [
        pytest.param("freeze", "running", "stopped", marks=pytest.mark.slow),
        pytest.param("dump", "paused", "stopped", marks=pytest.mark.slow),
        ("undump", "paused", "stopped"),
        pytest.param("resume", "paused", "paused", marks=pytest.mark.slow),
        ("finish", "paused", "running"),
    ],
)
def test_one_that_may_be_on_both_is_left_alone(
    move, container, there, sim4, ended_at, step, here, other
):
    ended_at(step)

    outcome = move.run()

    assert outcome.place is Place.UNKNOWN
    assert (sim4.state("101"), there.state("101")) == (here, other)
    for begin in (container.start, container.resume):
        with pytest.raises(exception.TransferError, match="may run on another host"):
            begin()
    assert (sim4.state("101"), there.state("101")) == (here, other)


def test_one_of_which_nothing_is_there_any_more_runs_on_here(
    move, container, there, sim4, ended_at, monkeypatch
):
    ended_at("sync")
    find = move._find

    def find_later(error):
        # Somebody has removed there what was copied.
        assert there.run("vzctl", "destroy", "101").rc == 0
        return find(error)

    monkeypatch.setattr(move, "_find", find_later)

    assert move.run().place is Place.HERE
    assert sim4.state("101") == "running"


def test_one_that_had_left_when_time_was_over_is_there(
    move, container, there, sim4, ended_at
):
    ended_at("finish", made=sim4.conf_dir / "101.conf.migrated")

    assert move.run().place is Place.THERE
    assert there.state("101") == "running"
    assert sim4.containers() == []


def test_one_that_is_called_back_in_its_first_pass_runs_here(
    move, container, there, sim4, under_way
):
    sim4.hang("vzmigrate", "pass")
    before = sim4.conf_text("101")

    outcome = under_way(move.end)

    assert outcome.place is Place.HERE
    assert "Failed to sync container private areas" in outcome.reason
    assert (sim4.conf_text("101"), sim4.state("101")) == (before, "running")
    assert _left(there) == []
    assert not (sim4.lock_dir / "101.lck").exists()
    assert move.run().place is Place.THERE


def test_one_that_is_called_back_later_goes_on(move, container, there, sim4, under_way):
    sim4.hang("vzmigrate", "pass", nth=2)

    def step():
        with pytest.raises(exception.TransferError, match="101 cannot be aborted: its"):
            move.end()
        # Nobody knows how much of it is left.
        assert move.sent(7) == 7
        mover = firstpass._mover(str(sim4.lock_dir / "101.lck"), "101")
        (rsync,) = firstpass._children(mover)
        assert sim4.state("101") == "paused"
        # So that it comes to an end: the connection breaks.
        os.kill(rsync.pid, signal.SIGTERM)

    outcome = under_way(step)

    assert outcome.place is Place.HERE
    assert sim4.state("101") == "running"


def test_how_far_one_is_in_its_first_pass_is_told(
    move, container, there, sim4, under_way
):
    content = sim4.private_dir / "101/content"
    content.write_bytes(os.urandom(4 << 20))
    total = container.tree_size()[1]
    sim4.hang("vzmigrate", "pass", when="after")
    found = [move.sent(total)]

    def step():
        found.append(move.sent(total))
        found.append(move.sent(1000))
        sim4.go_on()

    outcome = under_way(step, lambda: (move.sent(total) or 0) > 1 << 19)

    nothing, half, more_than_all = found
    assert outcome.place is Place.THERE
    assert (nothing, more_than_all) == (None, 1000)
    assert 1 << 19 < half < total
    assert move.sent(total) is None


def test_one_of_which_a_part_has_gone_is_called_back(
    move, container, there, sim4, under_way
):
    (sim4.private_dir / "101/content").write_bytes(os.urandom(4 << 20))
    total = container.tree_size()[1]
    sim4.hang("vzmigrate", "pass", when="after")

    outcome = under_way(move.end, lambda: (move.sent(total) or 0) > 1 << 19)

    assert outcome.place is Place.HERE
    assert sim4.state("101") == "running"
    assert _left(there) == []


def test_nothing_is_called_back_where_nothing_goes(move, container, monkeypatch):
    monkeypatch.setattr(firstpass, "_START", 0)

    with pytest.raises(exception.TransferError, match="no vzmigrate of this driver's"):
        move.end()


def test_nobody_guesses_where_it_is_when_vzlist_cannot_tell(move, sim4, container):
    sim4.fail("vzmigrate", "copy", rc=6)
    sim4.fail("vzlist", rc=1, stderr="no list")

    outcome = move.run()

    assert outcome.place is Place.UNKNOWN
    assert "exit code 6" in outcome.reason
    assert "no list" in outcome.reason


def test_one_that_is_nowhere_is_not_said_to_be_there(move, container, sim4):
    sim4.fail("vzmigrate", "copy", rc=6)
    container.stop(fast=True)
    sim4.run("vzctl", "destroy", "101")

    assert move.run().place is Place.UNKNOWN


def test_a_way_to_root_that_breaks_leaves_the_question_open(move, node4, monkeypatch):
    def run(*cmd, **options):
        raise exception.PrivilegeError("the helper is gone")

    monkeypatch.setattr(node4.executor, "run", run)

    assert move.run() == moving.Outcome(Place.UNKNOWN, "the helper is gone")


def test_without_vzmigrate_the_container_is_where_it_was(sim4, move, container):
    (sim4.bin_dir / "vzmigrate").unlink()

    outcome = move.run()

    assert outcome.place is Place.HERE
    assert "install it" in outcome.reason
    assert container.refresh() is State.RUNNING


def test_time_limits_are_those_of_the_options(sim4, node4, container, monkeypatch):
    limits = dataclasses.replace(node4.options.limits, command=11, move=22)
    options = dataclasses.replace(node4.options, limits=limits)
    monkeypatch.setattr(node4, "options", options)
    runner = support.Runner()
    monkeypatch.setattr(node4, "executor", runner)
    move = moving.Move(node4, "101", ADDRESS)

    move.check()
    assert runner.options["timeout"] == 11
    move.run()
    assert runner.options["timeout"] == 22
