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

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.console import ask, requests
from ovznovadriver.console import loop as console_loop
from tests.unit.console.answers import Serve, handle, patiently
from tests.unit.console.running import PATIENCE


def test_a_request_is_answered(serve: Serve) -> None:
    path = serve()
    text = "x\udcff" * 30000
    assert patiently(path, {"do": "echo", "text": text})["echo"] == text


@pytest.mark.parametrize("request_", [{"do": "break"}, {"do": "what"}, {}])
def test_other_errors_are_told_too(serve: Serve, request_: dict[str, Any]) -> None:
    path = serve()
    with pytest.raises(exception.ConsoleError):
        patiently(path, request_)


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
    assert patiently(path, {"do": "echo", "text": 1}) == {"echo": 1}


def test_a_request_that_is_too_long_is_cut_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "REQUEST_LIMIT", 1000)
    path = serve()
    with pytest.raises(exception.ConsoleError):
        patiently(path, {"do": "echo", "text": "x" * 200_000})


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
    assert patiently(path, {"do": "echo", "text": 1}) == {"echo": 1}


def test_a_socket_that_was_left_is_replaced(serve: Serve, short_path: Path) -> None:
    (short_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(short_path / "run" / "s"))
    assert patiently(serve(), {"do": "echo", "text": 1}) == {"echo": 1}


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
        requests.Server(loop, str(short_path / "s"), "no-such-group", handle)
