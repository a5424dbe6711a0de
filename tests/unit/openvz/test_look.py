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

import itertools
import threading

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import look, vzlist

FIRST = (vzlist.ContainerInfo("101", vzlist.State.RUNNING),)
SECOND = (vzlist.ContainerInfo("102", vzlist.State.STOPPED),)


class Node:
    """Answers, and the time at which they are asked for."""

    def __init__(self):
        self.now = 1000.0
        self.asked = 0
        self.answers = FIRST
        self.during = None

    def listing(self):
        self.asked += 1
        if self.during is not None:
            self.during()
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers

    def look(self):
        return look.Look(self.listing, clock=lambda: self.now)


@pytest.fixture
def node():
    return Node()


def test_a_decision_looks_anew(node):
    seen = node.look()

    assert seen.containers() == FIRST
    node.answers = SECOND
    assert seen.containers() == SECOND
    assert node.asked == 2


def test_a_report_takes_a_look_of_its_age(node):
    seen = node.look()
    seen.containers()
    node.answers = SECOND

    node.now += 29
    assert seen.containers(max_age=30) == FIRST
    node.now += 1
    assert seen.containers(max_age=30) == SECOND
    assert node.asked == 2


def test_the_first_report_looks(node):
    assert node.look().containers(max_age=30) == FIRST


def test_a_look_is_as_old_as_its_beginning(node):
    def take_long():
        node.now += 20

    seen = node.look()
    node.during = take_long
    seen.containers()
    node.during = None
    node.answers = SECOND

    assert seen.containers(max_age=20) == SECOND
    assert seen.containers(max_age=20) == SECOND
    assert node.asked == 2


def test_what_was_seen_before_a_change_is_forgotten(node):
    seen = node.look()
    seen.containers()
    node.answers = SECOND
    seen.forget()

    assert seen.containers(max_age=30) == SECOND


def test_what_was_changed_during_a_look_is_not_kept(node):
    seen = node.look()
    node.during = seen.forget

    assert seen.containers(max_age=30) == FIRST
    node.during, node.answers = None, SECOND
    assert seen.containers(max_age=30) == SECOND
    assert seen.containers(max_age=30) == SECOND
    assert node.asked == 2


@pytest.mark.parametrize(
    "failure",
    [exception.MalformedOutput("blind"), exception.CommandFailed("vzlist", 1)],
)
def test_a_failed_look_is_an_error_and_no_empty_node(node, failure):
    seen = node.look()
    node.answers = failure
    for _ in range(2):
        with pytest.raises(type(failure)):
            seen.containers(max_age=30)

    node.answers = FIRST
    assert seen.containers(max_age=30) == FIRST


def test_a_failed_look_leaves_the_one_before(node):
    seen = node.look()
    seen.containers()
    node.answers = exception.MalformedOutput("blind")
    with pytest.raises(exception.MalformedOutput):
        seen.containers()

    assert seen.containers(max_age=30) == FIRST


def test_those_who_ask_at_once_share_one_look(node):
    seen = node.look()
    inside, go_on = threading.Event(), threading.Event()

    def wait():
        inside.set()
        assert go_on.wait(30)

    node.during = wait
    answers = []

    def ask():
        answers.append(seen.containers(max_age=30))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)

    assert answers == [FIRST] * 4
    assert node.asked == 1


class Queue:
    """Asks at once; a look takes until all have asked, be it that it fails."""

    def __init__(self, count, failure=None):
        self.came, self.all_came = set(), threading.Event()
        self.count, self.failure = count, failure
        self.looks, self.answers = [], []
        self._times = itertools.count()
        self._look = look.Look(self.listing, clock=self.clock)

    def clock(self):
        self.came.add(threading.get_ident())
        if len(self.came) == self.count:
            self.all_came.set()
        return next(self._times)

    def listing(self):
        assert self.all_came.wait(30)
        self.looks.append(None)
        if self.failure is not None:
            raise self.failure
        return FIRST

    def ask(self):
        try:
            self.answers.append(self._look.containers())
        except exception.OvzError as error:
            self.answers.append(error)

    def run(self):
        threads = [threading.Thread(target=self.ask) for _ in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)


def test_a_look_that_fails_fails_for_all_who_waited_for_it():
    """One that hangs takes its time limit: it would be as many for the last of them."""
    queue = Queue(5, failure=exception.MalformedOutput("blind"))

    queue.run()

    assert queue.answers == [queue.failure] * 5
    assert len(queue.looks) == 1


def test_a_look_that_began_later_is_as_good_as_an_own_one():
    queue = Queue(5)

    queue.run()

    # The first began before the others asked.
    assert queue.answers == [FIRST] * 5
    assert len(queue.looks) == 2
