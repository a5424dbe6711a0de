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

from ovznovadriver import exception
from ovznovadriver.compute import undo


@pytest.fixture
def done():
    return []


def failing(name):
    raise exception.OvzError(f"{name} is stuck")


def run(done, *, until=KeyError):
    with undo.Undo("the spawn") as steps:
        steps.add("first", done.append, "first")
        steps.add("second", failing, "second")
        steps.add("third", done.append, "third")
        if until is not None:
            raise until


def test_nothing_is_undone_where_all_went_well(done):
    run(done, until=None)

    assert done == []


@pytest.mark.parametrize("error", [KeyError, SystemExit, KeyboardInterrupt])
def test_all_steps_are_undone_in_reverse_and_the_error_goes_on(done, error, caplog):
    with pytest.raises(error):
        run(done, until=error)

    assert done == ["third", "first"]
    assert "Undoing the spawn: second failed: second is stuck" in caplog.text


def test_a_step_is_undone_with_what_it_was_added_with(done):
    numbers = [1, 2, 3]

    def spawn():
        with undo.Undo("spawn") as steps:
            for number in numbers:
                steps.add("number", done.append, number)
            raise KeyError

    with pytest.raises(KeyError):
        spawn()
    assert done == [3, 2, 1]


def test_every_step_is_attempted_and_each_failure_told(done):
    steps = [
        ("ports", lambda: failing("ports")),
        ("container 101", lambda: done.append("container")),
        ("volumes", lambda: failing("volumes")),
    ]

    failures = undo.attempt(steps)

    assert [(name, str(error)) for name, error in failures] == [
        ("ports", "ports is stuck"),
        ("volumes", "volumes is stuck"),
    ]
    assert done == ["container"]


def test_attempting_all_says_what_failed(done):
    undo.attempt_all("Removing", [("a", lambda: done.append("a"))])

    with pytest.raises(exception.CleanupFailed) as caught:
        undo.attempt_all(
            "Removing",
            [
                ("ports", lambda: failing("os-vif")),
                ("container 101", lambda: done.append("container")),
            ],
        )

    assert done == ["a", "container"]
    assert caught.value.failures == ["ports: os-vif is stuck"]
    assert isinstance(caught.value.__cause__, exception.OvzError)
