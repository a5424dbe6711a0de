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

"""The reader of a console, with real processes on real terminals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovznovadriver.console import attachment
from ovznovadriver.console import loop as console_loop
from ovznovadriver.openvz import processes
from tests.unit.console.running import PATIENCE


class Reader:
    """An attachment to a shell script, and what it tells."""

    def __init__(self, loop: console_loop.Loop, script: str) -> None:
        self.loop = loop
        self.output = b""
        self.ends: list[str] = []
        self.taken = 0
        terminal = processes.start_on_terminal(
            ["/bin/sh", "-c", script], env={"PATH": "/usr/bin:/bin"}
        )
        self.attached = attachment.Attachment(
            loop, terminal, self._written, self._ended, self._take
        )

    def _written(self, data: bytes) -> None:
        self.output += data

    def _ended(self, reason: str) -> None:
        self.ends.append(reason)
        self.attached.close()

    def _take(self) -> None:
        self.taken += 1

    def until(self, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline
            self.loop.turn(0.1)


@pytest.fixture
def read(loop: console_loop.Loop) -> Iterator[Callable[[str], Reader]]:
    readers: list[Reader] = []

    def start(script: str) -> Reader:
        readers.append(Reader(loop, script))
        return readers[-1]

    yield start
    for reader in readers:
        reader.attached.close().end()


def test_what_is_typed_arrives_and_is_answered(read: Callable[[str], Reader]) -> None:
    reader = read("exec cat")
    reader.attached.send(b"\x1b.hello\n")
    reader.until(lambda: reader.output.endswith(b"\n"))
    assert reader.output == b"hello\n"  # without what is for vzctl


def test_its_end_is_told_once_with_what_it_said(read: Callable[[str], Reader]) -> None:
    reader = read("echo Detached >&2; echo last")
    reader.until(lambda: reader.ends)
    assert reader.output == b"last\n"
    assert reader.ends == ["Detached"]
    reader.loop.turn(0)
    assert len(reader.ends) == 1


def test_one_that_has_no_console_and_stays_is_at_its_end(
    read: Callable[[str], Reader],
) -> None:
    reader = read("echo 'Attached to CT 7'; echo 'Error opening CT tty: x' >&2; cat")
    reader.until(lambda: reader.ends)
    assert reader.ends == ["Error opening CT tty: x"]


def test_errors_may_be_closed(read: Callable[[str], Reader]) -> None:
    reader = read("exec 2>&-; read line; echo got $line; sleep 100")
    reader.until(lambda: reader.attached.terminal.errors not in _watched(reader.loop))
    reader.attached.send(b"it\n")
    reader.until(lambda: reader.output == b"got it\n")


def _watched(loop: console_loop.Loop) -> set[int]:
    return set(loop._selector.get_map())


def test_a_flood_is_read_no_faster_than_is_allowed(
    read: Callable[[str], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment, "RATE", 0.001)  # so that no rest ends by itself
    monkeypatch.setattr(attachment, "BURST", 20_000.0)
    reader = read("exec yes")
    fd = reader.attached.terminal.fd
    reader.until(lambda: fd not in _watched(reader.loop))
    was = len(reader.output)
    assert 20_000 < was < 20_000 + 2 * 16_384
    reader.loop.turn(0)
    assert len(reader.output) == was
    monkeypatch.setattr(reader.attached._allowance, "_rate", 1e9)
    reader.attached._rested()
    reader.until(lambda: len(reader.output) > was)


def test_an_allowance_grows_with_time_up_to_its_burst(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(attachment.time, "monotonic", lambda: now[0])
    allowance = attachment.Allowance(rate=10, burst=100)
    assert allowance.take(100) == 0
    assert allowance.take(20) == 2
    now[0] = 3.0
    assert allowance.take(10) == 0
    now[0] = 1000.0
    assert allowance.take(110) == 1


def test_input_that_nobody_reads_is_bounded_by_the_caller(
    read: Callable[[str], Reader], tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    reader = read(f"until [ -e {go_on} ]; do sleep 0.01; done; cat > /dev/null")
    reader.attached.send(b"x" * (attachment.INPUT_LIMIT + 100_000))
    assert reader.attached.full
    go_on.touch()
    reader.until(lambda: not reader.attached.full)
    assert reader.taken == 1


def test_after_close_nothing_is_told(read: Callable[[str], Reader]) -> None:
    reader = read("exec cat")
    terminal = reader.attached.close()
    assert reader.attached.close() is terminal
    reader.attached.send(b"x")
    reader.loop.turn(0)
    assert (reader.output, reader.ends) == (b"", [])
