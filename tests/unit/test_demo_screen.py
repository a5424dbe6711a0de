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

"""What the demo prints: it must be right without anybody looking."""

from __future__ import annotations

import io

import pytest

from tests.demo import screen as screens


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_long_command_is_broken_before_its_options() -> None:
    argv = ["vzctl", "set", "101", "--name", "web", "--ram", "512M", "--save"]

    assert screens.command_lines(argv, 30) == [
        "vzctl set 101 --name web",
        "    --ram 512M --save",
    ]


def test_what_the_shell_would_read_is_quoted() -> None:
    assert screens.command_lines(["a", "b c", "", "it's"], 40) == [
        "a 'b c' '' 'it'\\''s'"
    ]


def test_no_line_is_wider_than_wanted() -> None:
    lines = screens.command_lines(["vzctl", "set", "--description", "x" * 500], 60)

    assert max(map(len, lines)) <= 60
    assert lines[-1].endswith("…")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 ms"), (0.0421, "42 ms"), (1.5, "1.50 s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert screens.duration(seconds) == text


def test_the_columns_of_a_table_are_aligned() -> None:
    stream = io.StringIO()
    screens.Screen(stream, colour=False).table(
        ["server", "web-1"],
        [["boot", "ACTIVE  3 s"], ["address", "10.0.0.1\n10.0.0.2"]],
    )

    assert stream.getvalue().splitlines() == [
        "server   web-1",
        "───────  ───────────",
        "boot     ACTIVE  3 s",
        "address  10.0.0.1",
        "         10.0.0.2",
    ]


def test_colours_do_not_shift_columns() -> None:
    plain, coloured = io.StringIO(), io.StringIO()
    for stream, colour in ((plain, False), (coloured, True)):
        screens.Screen(stream, colour).table(["server", "x"], [["a", "ACTIVE 1 s"]])

    stripped = coloured.getvalue()
    for code in {*screens.STYLES.values(), "0"}:
        stripped = stripped.replace(f"\x1b[{code}m", "")
    assert [line.rstrip() for line in stripped.splitlines()] == (
        plain.getvalue().splitlines()
    )


def test_colours_are_for_terminals_whose_user_wants_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert screens.wants_colour(Terminal(), forbidden=False)
    assert not screens.wants_colour(Terminal(), forbidden=True)
    assert not screens.wants_colour(io.StringIO(), forbidden=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not screens.wants_colour(Terminal(), forbidden=False)
