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

"""vzctl's own commands in what is typed."""

from __future__ import annotations

from hypothesis import given, strategies

from ovznovadriver.console import escape

_TYPED = strategies.lists(
    strategies.sampled_from([b"\x1b", b"\r", b".", b"!", b",", b"a", b"[A", b"\n"]),
    max_size=12,
).map(b"".join)


def _vzctl(data: bytes, commands: bytes, line_begins: bool) -> tuple[bytes, bytes]:
    """What reaches the container, and which commands vzctl obeys (src/enter.c)."""
    passed, obeyed = bytearray(), bytearray()
    rest = iter(data)
    for byte in rest:
        if byte == 27 and line_begins:
            second = next(rest, None)
            if second is None:
                break
            if second in commands:
                obeyed.append(second)
                continue
            passed.append(27)
            byte = second
        passed.append(byte)
        line_begins = byte == 13
    return bytes(passed), bytes(obeyed)


@given(typed=_TYPED, cut=strategies.integers(0, 12))
def test_no_command_reaches_vzctl_and_nothing_else_is_lost(
    typed: bytes, cut: int
) -> None:
    made = escape.Filter()
    passed = made.feed(typed[:cut]) + made.feed(typed[cut:])
    for commands, line_begins in ((b".!", True), (b".,", False)):
        reached, obeyed = _vzctl(passed, commands, line_begins)
        assert obeyed == b""
        assert reached == passed
    # All three are left out, whichever family it is.
    assert passed == _vzctl(typed, b".!,", True)[0]


def test_keys_that_begin_with_escape_pass() -> None:
    assert escape.Filter().feed(b"\x1b[A\r\x1bOP") == b"\x1b[A\r\x1bOP"


def test_within_a_line_escape_is_no_command() -> None:
    assert escape.Filter().feed(b"ls \x1b.") == b"ls \x1b."


def test_a_sequence_in_two_pieces_is_left_out() -> None:
    made = escape.Filter()
    assert made.feed(b"ls\r\x1b") == b"ls\r"
    assert made.feed(b"!x") == b"x"


def test_a_line_may_begin_with_the_next_piece() -> None:
    made = escape.Filter()
    assert made.feed(b"ls") == b"ls"
    assert made.feed(b"\x1b.") == b"\x1b."
    assert made.feed(b"\r") == b"\r"
    assert made.feed(b"\x1b.") == b""
