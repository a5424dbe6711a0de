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

"""The program in which the last pass waits: with a real socket and real pipes."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovznovadriver.openvz import gate

LIMIT = 30.0
#: Says a word, sends back what it gets, and ends with a code of its own.
ECHO = "echo hello; while read line; do echo got $line; done; exit 7"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        listener.settimeout(LIMIT)
        yield listener


@contextlib.contextmanager
def started(place: Path, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """The program, with a shell's script for ssh."""
    argv = [sys.executable, "-I", "-S", gate.__file__, str(place), "sh", "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as program:
        try:
            yield program
        finally:
            program.kill()


def test_nothing_passes_before_the_service_says_so(
    tmp_path: Path, service: socket.socket
) -> None:
    with started(tmp_path / "s", ECHO) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"early\n")
        program.stdin.flush()
        link, _ = service.accept()
        with link, link.makefile("rwb", 0) as lines:
            assert lines.readline() == gate.READY
            lines.write(gate.GO)
        program.stdin.write(b"late\n")
        program.stdin.close()
        assert program.stdout.read() == b"hello\ngot early\ngot late\n"
        assert program.wait(LIMIT) == 7


@pytest.mark.parametrize("said", [b"", b"no\n", b"go"])
def test_without_its_word_the_connection_ends(
    tmp_path: Path, service: socket.socket, said: bytes
) -> None:
    with started(tmp_path / "s", ECHO) as program:
        link, _ = service.accept()
        with link:
            link.sendall(said)
        output, _errors = program.communicate(timeout=LIMIT)
        assert (program.returncode, output) == (1, b"")


def test_an_ssh_that_cannot_connect_is_not_waited_for(
    tmp_path: Path, service: socket.socket
) -> None:
    with started(tmp_path / "s", "echo refused >&2; exit 255") as program:
        output, errors = program.communicate(timeout=LIMIT)
    assert (program.returncode, output, errors) == (255, b"", b"refused\n")


def test_it_ends_with_the_service(tmp_path: Path) -> None:
    with started(tmp_path / "s", ECHO) as program:
        output, errors = program.communicate(timeout=LIMIT)
    assert program.returncode == 1
    assert output == b""
    assert b"FileNotFoundError" in errors
