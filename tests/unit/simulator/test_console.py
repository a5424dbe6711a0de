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

"""The simulated `vzctl console`, on a real terminal."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Callable, Iterator

import pytest

from ovznovadriver.openvz import processes
from tests import support
from tests.simulator.node import SimNode

ENV = {"PATH": "/usr/bin:/bin"}

Attach = Callable[..., "Attached"]


class Attached:
    def __init__(self, sim: SimNode, *args: str) -> None:
        argv = [str(sim.bin_dir / "vzctl"), "console", *args]
        self.terminal = processes.start_on_terminal(argv, env=ENV)
        self.seen = b""
        self.errors = b""

    def type(self, data: bytes) -> None:
        os.write(self.terminal.fd, data)

    def wait_for(self, text: bytes) -> None:
        while text not in self.seen:
            assert select.select([self.terminal.fd], [], [], 60)[0], self.seen
            self.seen += os.read(self.terminal.fd, 65536)

    def wait_for_error(self, text: bytes) -> None:
        while text not in self.errors:
            assert select.select([self.terminal.errors], [], [], 60)[0], self.errors
            data = os.read(self.terminal.errors, 65536)
            assert data, self.errors
            self.errors += data

    def code(self) -> int:
        code = self.terminal._process.wait(60)
        assert isinstance(code, int)
        return code


@pytest.fixture
def ctid(sim: SimNode) -> str:
    image = support.add_image(sim)
    support.foreign(sim, image, "101")
    assert sim.run("vzctl", "start", "101").rc == 0
    return "101"


@pytest.fixture
def attach(sim: SimNode, ctid: str) -> Iterator[Attach]:
    made: list[Attached] = []

    def start(*args: str) -> Attached:
        # tty1, as each family calls it
        main = () if sim.family == "4" else ("1",)
        made.append(Attached(sim, ctid, *(args or main)))
        return made[-1]

    yield start
    for attached in made:
        attached.terminal.end()


def test_it_echoes_and_runs_what_is_typed(attach: Attach) -> None:
    console = attach()
    console.wait_for(b"INIT: 101 booting\r\n# ")
    console.type(b"echo a$((40+2))b\r")
    console.wait_for(b"echo a$((40+2))b\r\na42b\r\n# ")
    console.type(b"flood 3\r")
    console.wait_for(b"xxx\r\n")


def test_there_is_one_reader(sim: SimNode, attach: Attach) -> None:
    attach().wait_for(b"# ")
    second = attach()
    second.wait_for_error(b"Device or resource busy")
    if sim.family == "9":
        # It goes on without a console, until something is typed.
        assert not second.terminal.has_ended()
        second.type(b"x")
    assert second.code() == 3


def test_the_default_is_tty1_or_tty2(sim: SimNode, attach: Attach) -> None:
    attach().wait_for(b"INIT")
    other = attach("1" if sim.family == "4" else "2")
    other.wait_for(b"# ")
    assert b"INIT" not in other.seen


def test_escape_dot_at_the_beginning_of_a_line_detaches(attach: Attach) -> None:
    console = attach()
    console.wait_for(b"# ")
    console.type(b"a\x1b.b\r\x1b.")
    console.wait_for_error(b"Detached from CT 101")
    assert console.code() == 0


def test_what_is_said_while_nobody_reads_is_kept(sim: SimNode, attach: Attach) -> None:
    console = attach()
    console.wait_for(b"# ")
    console.terminal.end()
    sim.console_write("101", b"\x00later\xff")
    again = attach()
    again.wait_for(b"\x00later\xff")
    assert b"INIT" not in again.seen


def test_of_a_container_that_stops_it_says_no_more_and_stays(
    sim: SimNode, attach: Attach
) -> None:
    console = attach()
    console.wait_for(b"# ")
    console.type(b"poweroff\r")
    console.wait_for(b"halted\r\n# ")
    assert sim.state("101") == "mounted"
    sim.run("vzctl", "start", "101")
    assert not select.select([console.terminal.fd], [], [], 0.2)[0]
    assert not console.terminal.has_ended()
    console.terminal.end()
    attach().wait_for(b"INIT")


def test_it_waits_for_a_container_that_starts(
    sim: SimNode, ctid: str, attach: Attach
) -> None:
    sim.run("vzctl", "stop", ctid)
    console = attach()
    console.wait_for_error(b"Attached to CT 101")
    sim.run("vzctl", "start", ctid)
    console.wait_for(b"INIT")


def test_the_hang_up_ends_it(attach: Attach) -> None:
    console = attach()
    console.wait_for(b"# ")
    console.terminal.hang_up()
    assert console.code() == 3


def test_without_an_input_it_ends(sim: SimNode, ctid: str) -> None:
    done = subprocess.run(
        [sim.bin_dir / "vzctl", "console", ctid],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert b"stdin read error" in done.stderr


def test_what_is_not_there_has_none(sim: SimNode) -> None:
    assert sim.run("vzctl", "console", "102").rc == 14


def test_a_bad_tty_is_refused(sim: SimNode, ctid: str) -> None:
    assert sim.run("vzctl", "console", ctid, "x").rc == 21
