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

"""Clients of a console, over real connections."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator

import pytest

from ovznovadriver import exception
from ovznovadriver.console import clients as console_clients
from ovznovadriver.console import loop as console_loop
from tests.unit.console.running import PATIENCE, own_ports

LOCAL = "127.0.0.1"


class Typed:
    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes) -> None:
        self.data += data


@pytest.fixture
def typed() -> Typed:
    return Typed()


@pytest.fixture
def clients(loop: console_loop.Loop, typed: Typed) -> Iterator[console_clients.Clients]:
    made = console_clients.Clients(loop, typed)
    yield made
    made.close()


@pytest.fixture
def port(clients: console_clients.Clients) -> int:
    return clients.listen(LOCAL, own_ports(23000))


def _connect(loop: console_loop.Loop, port: int) -> socket.socket:
    sock = socket.create_connection((LOCAL, port), PATIENCE)
    loop.turn(PATIENCE)
    return sock


def _until_closed(loop: console_loop.Loop, sock: socket.socket) -> int:
    """Read to the end; how many bytes came."""
    sock.setblocking(False)
    got = 0
    for _ in itertools.count():
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            loop.turn(0.01)
            continue
        except ConnectionError:
            return got
        if not data:
            return got
        got += len(data)
    raise AssertionError


def test_all_see_all_and_each_can_type(
    loop: console_loop.Loop, clients: console_clients.Clients, port: int, typed: Typed
) -> None:
    one, two = _connect(loop, port), _connect(loop, port)
    clients.show(b"\x00login\xff: ")
    assert one.recv(100) == two.recv(100) == b"\x00login\xff: "
    one.sendall(b"a")
    loop.turn(PATIENCE)
    two.sendall(b"b")
    loop.turn(PATIENCE)
    assert typed.data == b"ab"
    one.close()
    loop.turn(PATIENCE)
    clients.show(b"x")
    assert two.recv(100) == b"x"
    two.close()


def test_one_who_does_not_read_is_sent_away_and_the_other_stays(
    loop: console_loop.Loop,
    clients: console_clients.Clients,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console_clients, "BACKLOG", 100_000)
    idle, eager = _connect(loop, port), _connect(loop, port)
    shown = got = 0
    eager.setblocking(False)
    for _ in range(400):
        clients.show(b"x" * 50_000)
        shown += 50_000
        while got < shown:
            loop.turn(0)
            try:
                got += len(eager.recv(1 << 20))
            except BlockingIOError:
                continue
    assert got == shown
    assert 0 < _until_closed(loop, idle) < shown
    assert len(clients._clients) == 1
    eager.close()


def test_paused_clients_are_not_read(
    loop: console_loop.Loop, clients: console_clients.Clients, port: int, typed: Typed
) -> None:
    sock = _connect(loop, port)
    clients.pause(True)
    sock.sendall(b"wait")
    loop.turn(0.05)
    assert typed.data == b""
    clients.pause(False)
    loop.turn(PATIENCE)
    assert typed.data == b"wait"
    sock.close()


def test_there_is_a_most_of_them(
    loop: console_loop.Loop,
    clients: console_clients.Clients,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console_clients, "MOST", 1)
    kept, refused = _connect(loop, port), _connect(loop, port)
    assert refused.recv(10) == b""
    clients.show(b"x")
    assert kept.recv(10) == b"x"
    kept.close()
    refused.close()


def test_a_port_in_use_is_passed_over(
    loop: console_loop.Loop, port: int, typed: Typed
) -> None:
    other = console_clients.Clients(loop, typed)
    try:
        assert other.listen(LOCAL, [port, *range(port + 1, 24000)]) > port
        assert other.listen(LOCAL, [1]) > port  # it serves already
    finally:
        other.close()


def test_without_a_free_port_it_says_so(
    loop: console_loop.Loop, port: int, typed: Typed
) -> None:
    with pytest.raises(exception.NoFreePort, match=LOCAL):
        console_clients.Clients(loop, typed).listen(LOCAL, [port])


def test_an_address_of_another_host_is_an_error(
    loop: console_loop.Loop, typed: Typed
) -> None:
    with pytest.raises(OSError, match="assign"):
        console_clients.Clients(loop, typed).listen("192.0.2.1", range(23000, 24000))


def test_close_sends_all_away_and_frees_the_port(
    loop: console_loop.Loop, clients: console_clients.Clients, port: int, typed: Typed
) -> None:
    sock = _connect(loop, port)
    clients.close()
    assert sock.recv(10) == b""
    sock.close()
    again = console_clients.Clients(loop, typed)
    assert again.listen(LOCAL, [port]) == port
    again.close()


def test_when_no_descriptor_is_left_it_rests(
    loop: console_loop.Loop,
    clients: console_clients.Clients,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rests: list[Callable[[], None]] = []
    monkeypatch.setattr(loop, "later", lambda _seconds, call: rests.append(call))

    class Exhausted:
        def __init__(self, real: socket.socket) -> None:
            self.real = real

        def accept(self) -> None:
            raise OSError(24, "Too many open files")

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    real = clients._listener
    assert real is not None
    monkeypatch.setattr(clients, "_listener", Exhausted(real))
    sock = socket.create_connection((LOCAL, port), PATIENCE)
    loop.turn(PATIENCE)
    for _ in range(2):
        loop.turn(0)
    assert len(caplog.records) == 1
    monkeypatch.setattr(clients, "_listener", real)
    (go_on,) = rests
    go_on()
    while not clients._clients:
        loop.turn(PATIENCE)
    assert len(caplog.records) == 1
    sock.close()
