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

"""What becomes of a request, as the one who asks sees it, over a real socket."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.console import ask
from tests.unit.console.answers import Serve, patiently


@pytest.mark.parametrize("name", ["ConsoleUnknown", "NoFreePort", "ConsoleError"])
def test_an_error_of_ours_arrives_as_such(serve: Serve, name: str) -> None:
    path = serve()
    with pytest.raises(getattr(exception, name), match="why") as caught:
        patiently(path, {"do": "fail", "error": name})
    assert type(caught.value).__name__ == name


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


def test_without_a_service_there_is_a_clear_error(short_path: Path) -> None:
    with pytest.raises(exception.ConsoleError, match="is ovz-console running"):
        patiently(str(short_path / "none"), {"do": "echo"})


@contextlib.contextmanager
def replying(path: Path, reply: bytes) -> Iterator[str]:
    """A service that has one reply to whatever it is asked; its socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.recv(65536)
                sock.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        yield str(path)
        thread.join()


@pytest.mark.parametrize("reply", [b"", b'{"output": "x"}', b"no json\n", b"\xff\n"])
def test_what_is_no_whole_reply_is_an_error_that_names_the_socket(
    short_path: Path, reply: bytes
) -> None:
    with (
        replying(short_path / "s", reply) as path,
        pytest.raises(exception.ConsoleError, match=re.escape(path)),
    ):
        patiently(path, {"do": "echo"})


def test_a_reply_without_end_is_not_read_for_ever(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "REPLY_LIMIT", 1000)
    reply = b'"' + b"x" * 300_000 + b'"\n'
    with (
        replying(short_path / "s", reply) as path,
        pytest.raises(exception.ConsoleError, match="the reply is cut"),
    ):
        patiently(path, {"do": "echo"})


def test_an_error_that_has_no_name_here_is_the_services_with_its_words(
    short_path: Path,
) -> None:
    reply = b'{"error": "OSError", "message": "No space left"}\n'
    with (
        replying(short_path / "s", reply) as path,
        pytest.raises(exception.ConsoleError, match="No space left") as caught,
    ):
        patiently(path, {"do": "echo"})
    assert type(caught.value) is exception.ConsoleError
