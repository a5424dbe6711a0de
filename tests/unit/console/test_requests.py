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

"""Requests and replies, over a real socket."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.console import ask, requests
from ovznovadriver.console import loop as console_loop
from tests.unit.console.running import PATIENCE

_ask = functools.partial(ask.ask, limit=PATIENCE)


def _handle(request: dict[str, Any], reply: requests.Reply) -> None:
    match request["do"]:
        case "echo":
            reply({"echo": request["text"]})
        case "fail":
            raise getattr(exception, request["error"])("why")
        case "break":
            raise OSError(28, "No space left on device")
        case "never":
            pass
        case _:
            raise KeyError(request["do"])


Serve = Callable[..., str]


@pytest.fixture
def serve(short_path: Path) -> Iterator[Serve]:
    """Starts a server in a thread; its socket."""
    loop = console_loop.Loop()
    threads: list[threading.Thread] = []
    servers: list[requests.Server] = []

    def start(group: str = "") -> str:
        path = str(short_path / "run" / "s")
        servers.append(requests.Server(loop, path, group, _handle))
        threads.append(threading.Thread(target=loop.run))
        threads[-1].start()
        return path

    yield start
    loop.stop()
    for thread in threads:
        thread.join(PATIENCE)
    for server in servers:
        server.close()
        assert not os.path.exists(server._path)
    loop.close()


def test_a_request_is_answered(serve: Serve) -> None:
    path = serve()
    text = "x\udcff" * 30000
    assert _ask(path, {"do": "echo", "text": text})["echo"] == text


@pytest.mark.parametrize("name", ["ConsoleUnknown", "NoFreePort", "ConsoleError"])
def test_an_error_of_ours_arrives_as_such(serve: Serve, name: str) -> None:
    path = serve()
    with pytest.raises(getattr(exception, name), match="why") as caught:
        _ask(path, {"do": "fail", "error": name})
    assert type(caught.value).__name__ == name


@pytest.mark.parametrize("request_", [{"do": "break"}, {"do": "what"}, {}])
def test_other_errors_are_told_too(serve: Serve, request_: dict[str, Any]) -> None:
    path = serve()
    with pytest.raises(exception.ConsoleError):
        _ask(path, request_)


@pytest.mark.parametrize(
    "data", [b"\n", b"[]\n", b"{\n", b"\xff\n", b"[" * 100_000 + b"\n", b'"do"\n']
)
def test_what_is_no_request_is_refused_and_the_next_is_served(
    serve: Serve, data: bytes
) -> None:
    path = serve()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        sock.sendall(data)
        assert b"bad request" in sock.recv(65536)
    assert _ask(path, {"do": "echo", "text": 1}) == {"echo": 1}


def test_a_request_that_is_too_long_is_cut_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "REQUEST_LIMIT", 1000)
    path = serve()
    with pytest.raises(exception.ConsoleError):
        _ask(path, {"do": "echo", "text": "x" * 200_000})


def test_a_service_that_is_silent_is_not_waited_for(serve: Serve) -> None:
    path = serve()
    with pytest.raises(exception.ConsoleError, match="ovz-console running"):
        ask.ask(path, {"do": "never"}, limit=0.1)


def test_a_service_that_drips_is_not_waited_for(short_path: Path) -> None:
    path = str(short_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def drip() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(BrokenPipeError):
                while True:
                    sock.sendall(b" ")
                    time.sleep(0.01)

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(exception.ConsoleError, match=r"timed out|no answer"):
            ask.ask(path, {"do": "echo"}, limit=0.1)
        thread.join()


def test_one_that_asks_nothing_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "TIME_LIMIT", 0.1)
    path = serve()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        assert sock.recv(10) == b""


def test_when_all_connections_are_taken_the_next_waits_for_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "MOST", 1)
    path = serve()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        with pytest.raises(exception.ConsoleError):
            ask.ask(path, {"do": "echo", "text": 1}, limit=0.2)
    assert _ask(path, {"do": "echo", "text": 1}) == {"echo": 1}


def test_without_a_service_there_is_a_clear_error(short_path: Path) -> None:
    with pytest.raises(exception.ConsoleError, match="is ovz-console running"):
        _ask(str(short_path / "none"), {"do": "echo"})


def test_a_socket_that_was_left_is_replaced(serve: Serve, short_path: Path) -> None:
    (short_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(short_path / "run" / "s"))
    assert _ask(serve(), {"do": "echo", "text": 1}) == {"echo": 1}


def test_only_root_may_ask_without_a_group(serve: Serve) -> None:
    assert os.stat(serve()).st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to any group")
def test_the_group_may_ask(serve: Serve) -> None:
    found = os.stat(serve(group="nogroup"))
    assert found.st_mode & 0o777 == 0o660
    assert found.st_gid == 65534


def test_a_group_that_is_not_there_is_said(
    loop: console_loop.Loop, short_path: Path
) -> None:
    with pytest.raises(exception.ConfigurationError, match="console_group"):
        requests.Server(loop, str(short_path / "s"), "no-such-group", _handle)
