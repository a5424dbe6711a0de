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

"""How far a work is: what Nova is told, how often, and when not any more."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova import exception as nova_exception
from ovznovadriver.compute import progress


class Instance:
    """A server, which knows what of its progress was saved."""

    uuid = "a-server"

    def __init__(self, shown=0):
        self.progress = shown
        self.saved = []
        self.error = None

    def __getitem__(self, name):
        return getattr(self, name)

    def save(self):
        if self.error:
            raise self.error
        self.saved.append(self.progress)


PARTS = st.lists(st.floats(0, 1)).map(sorted)


@given(PARTS, st.integers(0, 100), st.integers(0, 100))
def test_a_progress_is_saved_when_it_has_grown_by_enough(parts, one, other):
    first, last = sorted((one, other))
    server = Instance(first)
    tell = progress.teller(server, first, last)

    for part in [*parts, 1]:
        tell(part)
        # Nobody is far behind.
        assert first + int((last - first) * part) - server.progress < 5

    steps = zip([first, *server.saved], server.saved, strict=False)
    small = [step for step in steps if step[1] - step[0] < 5]
    assert {now for _, now in small} <= {last}
    assert server.saved[-1] == server.progress == last


def test_the_progress_of_another_work_goes():
    server = Instance(100)

    progress.reset(server)
    progress.reset(server)

    assert server.saved == [0]


def test_a_server_that_is_deleted_has_no_progress():
    server = Instance(7)
    server.error = nova_exception.InstanceNotFound(instance_id="a-server")

    progress.reset(server)
    progress.teller(server, 0, 100)(0.5)

    assert server.saved == []


# -- watching -------------------------------------------------------------------------


class Looks:
    """What is seen, look by look; then nothing new.

    Something that can be raised is. To each of them one may wait for.
    """

    def __init__(self, *seen):
        self._left = list(seen)
        self.over = threading.Event()

    def __call__(self):
        if not self._left:
            self.over.set()
            return None
        seen = self._left.pop(0)
        if isinstance(seen, Exception):
            raise seen
        return seen


def watched(looks, tell):
    """Let it be looked until there is nothing more to be seen."""
    with progress.Watch(Instance(), 0, looks, tell):
        assert looks.over.wait(60)


def left():
    """The threads that look."""
    return [t for t in threading.enumerate() if t.name == "ovz-progress-a-server"]


def test_what_is_new_is_told_while_the_work_is_done():
    told = []

    watched(Looks(None, 1, 1, 2, None, 2, 3), told.append)

    assert told == [1, 2, 3]
    assert left() == []


def test_nothing_that_fails_is_in_the_way_and_the_log_has_it_once(caplog):
    told = []

    def tell(seen):
        told.append(seen)
        if len(told) == 1:
            raise RuntimeError("no database")

    with caplog.at_level("WARNING"):
        watched(Looks(RuntimeError("no root"), 1, 1, RuntimeError("again"), 2), tell)

    # What could not be told is told once more.
    assert told == [1, 1, 2]
    assert [r.getMessage() for r in caplog.records] == [
        "How far it is cannot be shown now: no root"
    ]


def test_an_error_of_the_work_passes():
    with pytest.raises(KeyError), progress.Watch(Instance(), 0, Looks(), None):
        raise KeyError
    assert left() == []


def test_a_look_that_hangs_keeps_nobody_and_tells_nothing_afterwards(monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    begun, go_on, told = threading.Event(), threading.Event(), []

    def look():
        begun.set()
        go_on.wait()
        return 1

    with progress.Watch(Instance(), 0, look, told.append):
        assert begun.wait(60)
    (thread,) = left()
    go_on.set()
    thread.join()

    assert told == []


def test_what_is_just_told_is_waited_for(monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    begun, go_on, told = threading.Event(), threading.Event(), []

    def tell(seen):
        begun.set()
        go_on.wait()
        told.append(seen)

    watch = progress.Watch(Instance(), 0, lambda: 1, tell)
    with watch:
        assert begun.wait(60)
        ending = threading.Thread(target=watch.__exit__)
        ending.start()
        assert watch._ended.wait(60)
        ending.join(0.1)
        assert ending.is_alive()
        go_on.set()
    ending.join()
    assert told == [1]
