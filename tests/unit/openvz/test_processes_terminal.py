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

"""Programs that run on a terminal of their own."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from ovznovadriver.openvz import processes
from tests.unit.openvz.processes import Pids, lives, open_descriptors

ENV = {"PATH": "/usr/bin:/bin"}


class Started:
    """Starts shell scripts on terminals, and ends them with the test."""

    def __init__(self) -> None:
        self.terminals: list[processes.Terminal] = []

    def __call__(self, script: str, *args: str) -> processes.Terminal:
        argv = ["/bin/sh", "-c", script, "sh", *args]
        terminal = processes.start_on_terminal(argv, env=ENV)
        self.terminals.append(terminal)
        return terminal


@pytest.fixture
def start() -> Iterator[Started]:
    started = Started()
    yield started
    for terminal in started.terminals:
        terminal.end()


def _read(fd: int, end: bytes = b"\n") -> bytes:
    data = b""
    while not data.endswith(end):
        assert select.select([fd], [], [], 60)[0], data
        data += os.read(fd, 1024)
    return data


def _fill(fd: int) -> None:
    while True:
        os.write(fd, b"x" * 4096)


def test_it_has_a_terminal_with_a_size(start: Started) -> None:
    terminal = start("test -t 0 && test -t 1 && ! test -t 2 && stty size")
    assert _read(terminal.fd) == b"24 80\n"


def test_bytes_go_both_ways_as_they_are(start: Started) -> None:
    terminal = start("exec cat")
    data = bytes(range(256))
    os.write(terminal.fd, data)
    # Not echoed: they come once. And neither Ctrl-C nor Ctrl-D means anything.
    assert _read(terminal.fd, data[-1:]) == data
    os.write(terminal.fd, b"end\n")
    assert _read(terminal.fd) == b"end\n"


def test_errors_come_apart(start: Started) -> None:
    assert _read(start("echo trouble >&2; sleep 100").errors) == b"trouble\n"


def test_nothing_blocks(start: Started) -> None:
    terminal = start("sleep 100")
    for fd in (terminal.fd, terminal.errors):
        with pytest.raises(BlockingIOError):
            os.read(fd, 1)
    with pytest.raises(BlockingIOError):
        _fill(terminal.fd)


def test_the_environment_is_the_given_one_and_the_mark(start: Started) -> None:
    terminal = start("env; echo; sleep 100")
    lines = _read(terminal.fd, b"\n\n").decode().split()
    names = {line.split("=")[0] for line in lines}
    assert names - {"PWD", "_", "SHLVL"} == {"PATH", "OVZ_RUN_ID"}


def test_one_that_reads_ends_by_the_hang_up(
    start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "HANG_UP_LIMIT", 60)
    terminal = start("cat; exit 7")
    assert not terminal.has_ended()
    terminal.end()
    assert terminal._process.returncode == 7
    assert terminal.has_ended()
    terminal.end()


def test_the_end_takes_all_descendants_with_it(
    start: Started, pids: Pids, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "HANG_UP_LIMIT", 0.1)
    script = """
    cd "$1"
    trap '' HUP
    stay='touch $$; exec sleep 1000'
    sh -c "$stay" &
    (setsid sh -c "$stay" &)
    eval "$stay"
    """
    terminal = start(script, str(pids.directory))
    pids.wait_for(3)
    terminal.end()
    assert [pid for pid in pids.known() if lives(pid)] == []


def test_what_one_leaves_that_has_ended_is_ended_too(
    start: Started, pids: Pids
) -> None:
    script = """(setsid sh -c 'touch "$1/$$"; exec sleep 1000' sh "$1" &)"""
    terminal = start(script, str(pids.directory))
    (left,) = pids.wait_for(1)
    while not terminal.has_ended():
        pass
    assert lives(left)
    terminal.end()
    assert not lives(left)


def test_a_program_that_is_not_there_leaves_nothing_open() -> None:
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        processes.start_on_terminal(["/no/such/program"], env=ENV)
    assert open_descriptors() <= before


def test_the_end_leaves_nothing_open() -> None:
    before = open_descriptors()
    processes.start_on_terminal(["/bin/cat"], env=ENV).end()
    assert open_descriptors() <= before
