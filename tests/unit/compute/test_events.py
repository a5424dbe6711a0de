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


import pytest

from nova.virt import event as virtevent
from ovznovadriver.compute import events
from tests import support

STARTED = virtevent.EVENT_LIFECYCLE_STARTED
STOPPED = virtevent.EVENT_LIFECYCLE_STOPPED
PAUSED = virtevent.EVENT_LIFECYCLE_PAUSED
SUSPENDED = virtevent.EVENT_LIFECYCLE_SUSPENDED


@pytest.fixture
def told():
    return []


@pytest.fixture
def watch(node, told):
    """One whose looks are never so near that one answer serves two of them."""
    return events.Watch(node, told.append, 0)


def _looks(watch, told, times=2):
    """What is told in some looks."""
    told.clear()
    for _ in range(times):
        watch.look()
    assert {event.get_instance_uuid() for event in told} <= {support.UUID}
    return [event.get_transition() for event in told]


def test_a_container_that_stops_by_itself_is_told_once(sim, boot, watch, told):
    ctid = boot()
    assert _looks(watch, told) == []
    sim.run("vzctl", "stop", ctid)
    assert _looks(watch, told, 4) == [STOPPED]
    sim.run("vzctl", "start", ctid)
    assert _looks(watch, told, 4) == [STARTED]


def test_one_that_restarts_itself_is_not_told(sim, boot, watch, told):
    ctid = boot()
    assert _looks(watch, told) == []
    sim.run("vzctl", "stop", ctid)
    assert _looks(watch, told, 1) == []
    sim.run("vzctl", "start", ctid)
    assert _looks(watch, told, 4) == []


def test_pausing_and_suspending_are_told(boot, life, instance, watch, told, node):
    boot()
    watch.look()
    life.pause(instance)
    assert _looks(watch, told) == [PAUSED]
    life.unpause(instance)
    assert _looks(watch, told) == [STARTED]
    life.suspend(instance)
    assert _looks(watch, told) == [SUSPENDED]


def test_what_comes_and_goes_is_no_event(boot, life, instance, watch, told):
    watch.look()
    boot()
    assert _looks(watch, told, 3) == []
    life.destroy(instance, None)
    assert _looks(watch, told, 3) == []


def test_each_look_is_one_vzlist(sim, boot, watch, told, quiet):
    boot()
    quiet()
    _looks(watch, told, 3)
    assert [call.program for call in sim.commands()] == ["vzlist"] * 3


def test_a_failing_vzlist_changes_nothing_and_is_said_once(
    sim, boot, watch, told, caplog
):
    ctid = boot()
    _looks(watch, told)
    for number in (1, 2, 3):
        sim.fail("vzlist", rc=1, stderr="no", nth=number)
    assert _looks(watch, told, 3) == []
    assert caplog.text.count("is not noticed") == 1
    sim.run("vzctl", "stop", ctid)
    assert _looks(watch, told, 2) == [STOPPED]


def test_a_state_that_cannot_be_read_does_not_end_the_looks(
    sim4, node4, image4, told, caplog
):
    """The service has too many open files, say."""
    container = support.create(node4, image4)
    container.start()
    watch = events.Watch(node4, told.append, 0)
    _looks(watch, told)
    mark = sim4.root / "claims" / container.ovz_id / "paused"
    mark.mkdir()

    assert _looks(watch, told) == []

    assert caplog.text.count("is not noticed") == 1
    mark.rmdir()
    container.stop(fast=True)
    assert _looks(watch, told) == [STOPPED]


def test_the_thread_looks_and_ends(node, boot, sim, told):
    boot()
    watch = events.Watch(node, told.append, 0.01)
    looked = []
    watch.look = lambda: looked.append(watch._end.wait(30))
    watch.start()
    watch.stop()
    watch._thread.join(30)
    assert not watch._thread.is_alive()
    assert looked in ([], [True])


def test_one_that_was_not_started_can_be_ended(watch):
    watch.stop()


def test_the_operator_says_whether_and_how_often(node, flags, told):
    flags(event_interval=0, group="openvz")
    assert events.watch(node, told.append) is None
    flags(event_interval=3600, group="openvz")
    watch = events.watch(node, told.append)
    assert watch._thread.is_alive()
    watch.stop()
    assert not watch._thread.is_alive()
    flags(handle_virt_lifecycle_events=False, group="workarounds")
    assert events.watch(node, told.append) is None
