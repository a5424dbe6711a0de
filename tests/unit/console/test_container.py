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

"""One container's console: when it is read, and what counts as a boot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.console import container, record
from ovznovadriver.console import loop as console_loop
from ovznovadriver.openvz import processes, vzlist
from ovznovadriver.openvz.vzlist import State
from tests.unit.console.running import PATIENCE, own_ports

UUID = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"
ENV = {"PATH": "/usr/bin:/bin"}
PORTS = own_ports(24000)


class Host:
    """Starts readers, and tells what has become of them."""

    def __init__(self, loop: console_loop.Loop, directory: Path) -> None:
        self.loop = loop
        self.settings = container.Settings(
            str(directory), 10_000, "127.0.0.1", (PORTS.start, PORTS.stop)
        )
        self.script = "exec cat"
        self.started: list[str] = []
        self.ended = 0
        self.consoles: list[container.Console] = []

    def _start(self, ctid: str) -> processes.Terminal:
        self.started.append(ctid)
        if not self.script:
            raise FileNotFoundError("vzctl")
        return processes.start_on_terminal(["/bin/sh", "-c", self.script], env=ENV)

    def _end(self, terminal: processes.Terminal) -> None:
        self.ended += 1
        terminal.end()

    def console(self) -> container.Console:
        made = container.Console(self.loop, self.settings, UUID, self._start, self._end)
        self.consoles.append(made)
        return made

    @property
    def readers(self) -> int:
        """How many read now."""
        return len(self.started) - self.ended

    def until(self, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline
            self.loop.turn(0.1)

    def say(self, console: container.Console, text: bytes) -> None:
        """Have the container say something: here, what is typed comes back."""
        console._typed(text)
        self.until(lambda: console.output(1000).endswith(text))


@pytest.fixture
def host(loop: console_loop.Loop, tmp_path: Path) -> Iterator[Host]:
    made = Host(loop, tmp_path)
    yield made
    for console in made.consoles:
        console.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The host's clock, in seconds since its boot."""
    time = [1000.0]
    monkeypatch.setattr(record, "clock", lambda: time[0])
    monkeypatch.setattr(record, "boot_id", lambda: "boot-1")
    return time


def _info(
    state: State = State.RUNNING, uptime: int | None = 1, ctid: str = "101"
) -> vzlist.ContainerInfo:
    return vzlist.ContainerInfo(ctid, state, uptime=uptime)


def _see(
    console: container.Console,
    state: State = State.RUNNING,
    uptime: int | None = 1,
    *,
    expected: bool = False,
    ctid: str = "101",
    took: float = 0,
) -> None:
    begun = record.clock() - took
    console.seen(_info(state, uptime, ctid), begun=begun, expected=expected)


def test_it_is_read_from_start_to_stop_by_one(host: Host, now: list[float]) -> None:
    console = host.console()
    _see(console, State.STOPPED, None)
    assert host.readers == 0
    for state in (State.RUNNING, State.RUNNING, State.PAUSED, State.UNKNOWN):
        _see(console, state)
        assert (host.readers, len(host.started)) == (1, 1)
    _see(console, State.MOUNTED, None)
    assert host.readers == 0


def test_a_boot_that_was_announced_is_heard_from_its_first_word(
    host: Host, now: list[float]
) -> None:
    console = host.console()
    _see(console, State.STOPPED, None, expected=True)
    _see(console, State.MOUNTED, None, expected=True)
    host.say(console, b"INIT")
    _see(console, State.RUNNING, 1, expected=True)
    _see(console, State.RUNNING, 2)
    assert console.output(100) == b"INIT"
    assert len(host.started) == 1


def test_a_boot_that_no_look_has_seen_is_over_when_the_next_is_announced(
    host: Host, now: list[float]
) -> None:
    console = host.console()
    _see(console, State.STOPPED, None, expected=True)
    host.say(console, b"INIT")

    console.announced()
    _see(console, State.STOPPED, None, expected=True)

    assert console.output(100) == b""
    assert (host.readers, len(host.started)) == (1, 2)


def test_an_announced_start_that_does_not_happen_is_given_up(
    host: Host, now: list[float]
) -> None:
    console = host.console()
    _see(console, State.STOPPED, None, expected=True)
    assert host.readers == 1
    _see(console, State.STOPPED, None)
    assert host.readers == 0


def test_a_new_boot_begins_a_new_log_and_a_new_reader(
    host: Host, now: list[float]
) -> None:
    console = host.console()
    _see(console, uptime=50)
    host.say(console, b"first")
    now[0] += 100
    _see(console, uptime=150)
    assert console.output(100) == b"first"
    now[0] += 100
    _see(console, uptime=20)  # it was down in between, and nobody has seen it
    assert console.output(100) == b""
    assert (len(host.started), host.readers) == (2, 1)


def test_a_look_that_takes_long_is_no_boot(host: Host, now: list[float]) -> None:
    console = host.console()
    _see(console, uptime=50, took=20)
    host.say(console, b"first")
    for took in (0, 60, 0):
        now[0] += 100
        # It took a while until what vzlist had said was looked at.
        _see(console, uptime=int(now[0] - 950 - took), took=took)
        assert console.output(100) == b"first"
    now[0] += 100
    _see(console, uptime=20, took=60)
    assert console.output(100) == b""


@pytest.mark.parametrize("uptime", [None, 1])
def test_a_stop_in_between_tells_a_boot_whatever_the_uptime(
    host: Host, now: list[float], uptime: int | None
) -> None:
    console = host.console()
    _see(console, uptime=uptime)
    host.say(console, b"first")
    now[0] += 1
    _see(console, uptime=None)
    assert console.output(100) == b"first"
    _see(console, State.STOPPED, None)
    _see(console, uptime=uptime)
    assert console.output(100) == b""


def test_a_resume_is_no_boot(host: Host, now: list[float]) -> None:
    console = host.console()
    _see(console, uptime=500)
    host.say(console, b"first")
    now[0] += 100
    _see(console, State.SUSPENDED, None)
    assert host.readers == 0
    now[0] += 100
    _see(console, uptime=1)
    assert console.output(100) == b"first"
    now[0] += 10
    _see(console, uptime=11)
    assert console.output(100) == b"first"
    assert host.readers == 1


def test_a_service_that_restarts_knows_the_boot_again(
    host: Host, now: list[float]
) -> None:
    console = host.console()
    _see(console, uptime=50)
    host.say(console, b"first")
    console._record.port = PORTS[-1]  # others were in use when it was chosen
    port = console.port()
    console.close()
    assert (port, host.readers) == (PORTS[-1], 0)
    now[0] += 30
    console = host.console()
    _see(console, uptime=80)
    assert console.output(100) == b"first"
    # Nova may have handed the port out: it is served without being asked for.
    assert console._clients._listener is not None
    assert console.port() == port


def test_a_boot_of_the_host_is_one_of_its_containers(
    host: Host, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = host.console()
    _see(console, uptime=50)
    host.say(console, b"first")
    console.close()
    monkeypatch.setattr(record, "boot_id", lambda: "boot-2")
    console = host.console()
    _see(console, uptime=50)
    assert console.output(100) == b""


def test_before_there_is_a_log_there_is_what_start_said(
    host: Host, now: list[float]
) -> None:
    console = host.console()
    _see(console, State.STOPPED, None, expected=True)
    console.said("Starting container\udcff...")
    assert console.output(4) == b"\xff..."
    assert console.output(100) == b"Starting container\xff..."
    _see(console, uptime=1)
    assert console.output(100).startswith(b"Starting")
    host.say(console, b"INIT")
    assert console.output(100) == b"INIT"


def test_a_server_whose_container_is_another_one_now_is_read_there(
    host: Host, now: list[float]
) -> None:
    console = host.console()
    _see(console, uptime=5)
    _see(console, uptime=5, ctid="102")
    assert host.started == ["101", "102"]
    assert host.readers == 1


def test_a_reader_that_ends_is_replaced_after_a_while(
    host: Host,
    now: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(container, "_FIRST_PAUSE", 0.01)
    console = host.console()
    host.script = "echo trouble >&2; sleep 0.01"
    _see(console)
    host.until(lambda: len(host.started) == 3)
    lost = [record for record in caplog.records if record.levelname == "WARNING"]
    waits = [record.args[2] for record in lost]  # type: ignore[index]
    assert waits[1] == 2 * waits[0]
    assert "trouble" in caplog.text
    # The look that comes in between leaves it its time.
    host.until(lambda: host.readers == 0)
    count = len(host.started)
    _see(console)
    assert len(host.started) == count
    host.script = "exec cat"
    host.until(lambda: len(host.started) > count)
    host.say(console, b"back")


def test_a_reader_that_ended_is_not_replaced_when_the_container_has_stopped(
    host: Host, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "_FIRST_PAUSE", 0.01)
    console = host.console()
    host.script = ":"
    _see(console)
    host.until(lambda: host.readers == 0)
    _see(console, State.STOPPED, None)
    due = []
    host.loop.later(0.05, lambda: due.append(1))
    host.until(lambda: due)
    assert len(host.started) == 1


def test_a_reader_that_cannot_be_started_is_tried_again(
    host: Host, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "_FIRST_PAUSE", 0.01)
    console = host.console()
    host.script = ""
    _see(console)
    host.script = "exec cat"
    host.until(lambda: len(host.started) == 2)
    host.say(console, b"x")


def test_input_waits_while_the_container_does_not_read(
    host: Host, now: list[float], tmp_path: Path
) -> None:
    console = host.console()
    go_on = tmp_path / "go-on"
    host.script = f"until [ -e {go_on} ]; do sleep 0.01; done; exec cat > /dev/null"
    _see(console)
    console._typed(b"x" * 200_000)
    assert console._clients.paused
    go_on.touch()
    host.until(lambda: not console._clients.paused)


def test_what_is_typed_while_nothing_runs_is_lost(host: Host) -> None:
    console = host.console()
    console._typed(b"x")
    assert not console._clients.paused


def test_without_a_port_that_is_free_the_rest_works(
    host: Host, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    console = host.console()
    console._record.port = 24000
    host.settings = container.Settings(
        host.settings.log_dir, 1000, "127.0.0.1", (24000, 24000)
    )
    console._settings = host.settings
    _see(console)
    assert "no TCP port" in caplog.text
    host.say(console, b"x")
    with pytest.raises(exception.NoFreePort):
        console.port()


def test_forget_leaves_no_file(host: Host, now: list[float]) -> None:
    console = host.console()
    _see(console)
    host.say(console, b"x")
    console.port()
    console.forget()
    assert host.readers == 0
    assert list(Path(host.settings.log_dir).iterdir()) == []


def test_a_directory_that_cannot_be_written_costs_the_log_alone(
    host: Host, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    console = host.console()
    Path(host.settings.log_dir).rmdir()
    _see(console)
    console._typed(b"x\n")
    host.until(lambda: "misses some output" in caplog.text)
    assert "cannot be kept" in caplog.text
    assert host.readers == 1
