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

import concurrent.futures
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovznovadriver.openvz import gate

LIMIT = 60.0
#: Says a word, sends back what it gets, and ends with a code of its own.
ECHO = "echo hello; while read line; do echo got $line; done; exit 7"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[socket.socket]:
    # The path of a socket may have 107 bytes only; that of a descriptor is short.
    directory = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{directory}/s")
        os.close(directory)
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


# -- in this process ----------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[list[int]]:
    """rsync's two pipes: what it writes to, and the far end; the near one, its own."""
    pipes = [*os.pipe(), *os.pipe()]
    yield pipes
    for descriptor in pipes:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def in_thread(
    place: Path, script: str, ends: list[int]
) -> concurrent.futures.Future[int]:
    source, _write, _read, target = ends
    argv = [str(place), "sh", "-c", script]
    pool = concurrent.futures.ThreadPoolExecutor(1)
    done = pool.submit(gate.main, argv, source, target)
    pool.shutdown(wait=False)
    return done


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    # It goes to the socket's directory, which a process of its own may.
    monkeypatch.chdir(Path.cwd())


@pytest.mark.usefixtures("_here")
def test_it_is_a_pipe_when_it_may(
    tmp_path: Path, service: socket.socket, ends: list[int]
) -> None:
    _source, write, read, _target = ends
    done = in_thread(tmp_path / "s", ECHO, ends)
    link, _ = service.accept()
    with link, link.makefile("rwb", 0) as lines:
        assert lines.readline() == gate.READY
        lines.write(gate.GO)
    os.write(write, b"word\n")
    os.close(write)
    assert done.result(LIMIT) == 7
    assert os.read(read, 100) == b"hello\ngot word\n"


@pytest.mark.usefixtures("_here")
def test_it_is_none_when_it_may_not(
    tmp_path: Path, service: socket.socket, ends: list[int]
) -> None:
    done = in_thread(tmp_path / "s", ECHO, ends)
    service.accept()[0].close()
    assert done.result(LIMIT) == 1


@pytest.mark.usefixtures("_here")
def test_it_raises_when_nobody_is_there(tmp_path: Path, ends: list[int]) -> None:
    with pytest.raises(FileNotFoundError):
        in_thread(tmp_path / "s", ECHO, ends).result(LIMIT)
