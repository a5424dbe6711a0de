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

"""The points of an operation, and what is told of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import __main__ as command
from tests.chaos import matrix, operations, report, treatment

POINT = matrix.Point("compute1", 3, "before")


def test_a_point_is_found_again_by_its_name() -> None:
    assert str(POINT) == "compute1:3-before"
    for when in matrix.MOMENTS:
        point = matrix.Point("compute1", 3, when)
        assert matrix.Point.parse(str(point)) == point


@pytest.mark.parametrize(
    "text", ["", "3-before", "compute1:0-before", "compute1:3-during", "a:3-after "]
)
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not like"):
        matrix.Point.parse(text)


def test_by_turns_each_point_has_each_ending_with_one_of_the_families() -> None:
    for when in matrix.MOMENTS:
        point = matrix.Point("compute1", 1, when)
        found = [
            *command.endings("turns", "4", point),
            *command.endings("turns", "9", point),
        ]
        assert sorted(found) == sorted(treatment.ENDINGS)


def test_every_operation_begins_in_a_state_that_can_be_made() -> None:
    for operation in operations.OPERATIONS.values():
        state: str | None = operation.begins_in
        while state is not None:
            state = operations.STATES[state].made_from


def _verdict(point: str, *problems: str) -> matrix.Verdict:
    return matrix.Verdict("stop", "4", point, "use", "vzctl stop", problems, 2.4)


def test_the_table_counts_commands_points_and_failures() -> None:
    found = [
        _verdict("compute1:1-before"),
        _verdict("compute1:1-after", "this", "that"),
        _verdict("compute1:2-before", "this"),
    ]

    lines = report.table(found).splitlines()

    assert [line.split() for line in lines] == [
        ["operation", "family", "commands", "points", "failed", "seconds"],
        ["stop", "4", "2", "3", "2", "7"],
        ["all", "2", "3", "2", "7"],
    ]


def test_a_failure_says_how_to_see_it_again() -> None:
    text = report.failure(_verdict("compute1:1-after", "a claim is left"))

    assert "  a claim is left\n" in text
    again = text.split("python -m tests.chaos ")[1].split()
    arguments = command._arguments(again)
    assert arguments.point == [matrix.Point("compute1", 1, "after")]
    assert (arguments.family, arguments.operation) == ("4", ["stop"])
    assert arguments.ending == "use"


@pytest.mark.slow
def test_a_point_is_tried_from_the_command_line() -> None:
    argv = ["--family", "9", "--operation", "stop", "--point", "compute1:1-before"]

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.chaos", *argv],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    row = done.stdout.splitlines()[1].split()
    assert row[:5] == ["stop", "9", "1", "1", "0"]
