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

"""The one place where a process starts: and where it ends, with all it has started."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import selectors
import signal
import struct
import subprocess
import termios
import time
import tty
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovznovadriver.openvz import procfs

LOG = logging.getLogger(__name__)

#: Bytes that are kept of the beginning, and again of the end, of an output.
OUTPUT_KEPT = 4 * 2**20
#: Seconds that ending a tree of processes may take.
KILL_LIMIT = 10.0
#: Seconds that a process has to end by itself when its terminal is hung up.
HANG_UP_LIMIT = 1.0

_RUN_ID = "OVZ_RUN_ID"
_READ_SIZE = 65536
# A pipe holds 1 MiB at most (pipe(7)): 16 reads. There are two, and eventlet's
# selector tells of one at a time.
_DRAIN_ROUNDS = 40
_SHORTEST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


@dataclass(frozen=True)
class Completed:
    """What a process left.

    :ivar returncode: its exit code; minus the signal's number if one ended it
    :ivar stdout: its standard output, without the middle when it is longer
        than twice :data:`OUTPUT_KEPT`; bytes that are not UTF-8 come as lone
        surrogates (``errors="surrogateescape"``)
    :ivar stderr: its standard error, likewise
    :ivar timed_out: it was ended by us, with everything it had started
    """

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool


class _Output:
    """The beginning and the end of a stream, in bounded memory."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._left_out = 0

    def add(self, data: bytes) -> None:
        room = OUTPUT_KEPT - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * OUTPUT_KEPT:  # seldom: a cut moves the tail
            self._cut()

    def _cut(self) -> None:
        surplus = max(0, len(self._tail) - OUTPUT_KEPT)
        del self._tail[:surplus]
        self._left_out += surplus

    def text(self) -> str:
        self._cut()
        gap = b""
        if self._left_out:
            gap = b"\n[... %d bytes left out ...]\n" % self._left_out
        return b"".join((self._head, gap, self._tail)).decode(errors="surrogateescape")


class _HandedOver:
    """A stream that is another's, and not kept."""

    def __init__(self, add: Callable[[bytes], object]) -> None:
        self.add = add

    def text(self) -> str:
        return ""


class _Streams:
    """The three pipes of a process; never waits for one that is not ready.

    What the selector calls ready can be read and written without blocking,
    under native threads and under eventlet's monkey patching alike.
    """

    def __init__(self, output: Callable[[bytes], object] | None) -> None:
        self._selector = selectors.DefaultSelector()
        self._input = memoryview(b"")
        self._pipes: list[Any] = []
        self.stdout = _Output() if output is None else _HandedOver(output)
        self.stderr = _Output()

    def attach(self, process: subprocess.Popen[bytes], stdin: bytes | None) -> None:
        self._input = memoryview(stdin or b"")
        for pipe, output in (
            (process.stdout, self.stdout),
            (process.stderr, self.stderr),
            (process.stdin, None),
        ):
            if pipe is not None:
                self._pipes.append(pipe)
                event = selectors.EVENT_READ if output else selectors.EVENT_WRITE
                self._selector.register(pipe, event, output)
        if process.stdin is not None:  # a write may be too large for it
            os.set_blocking(process.stdin.fileno(), False)

    def move(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for a pipe to be ready; whether one was."""
        if not self._selector.get_map():
            time.sleep(seconds)
            return False
        ready = self._selector.select(seconds)
        for key, _events in ready:
            if key.data is None:
                self._write(key.fileobj)
            else:
                self._read(key.fileobj, key.data)
        return bool(ready)

    def _read(self, pipe: Any, output: _Output | _HandedOver) -> None:
        data = os.read(pipe.fileno(), _READ_SIZE)
        if data:
            output.add(data)
        else:
            self._selector.unregister(pipe)

    def _write(self, pipe: Any) -> None:
        try:
            written = os.write(pipe.fileno(), self._input[:_READ_SIZE])
        except BlockingIOError:
            return
        except BrokenPipeError:  # the command does not read the rest
            written = len(self._input)
        self._input = self._input[written:]
        if not self._input:
            self._selector.unregister(pipe)
            pipe.close()

    def drain(self) -> None:
        """Take what lies in the pipes, and no more.

        A process that outlives the command may hold them open, or even go on
        writing: neither their end nor their silence is waited for.
        """
        for _ in range(_DRAIN_ROUNDS):
            if not self.move(0):
                return

    def close(self) -> None:
        self._selector.close()
        for pipe in self._pipes:
            pipe.close()


def run_process(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    timeout: float,
    env: Mapping[str, str],
    output: Callable[[bytes], object] | None = None,
) -> Completed:
    """Run a program to its end, or to the end of its time.

    Returns as soon as the program itself has ended: what it leaves running (a
    daemon, a container) is left alone, even if it holds the output open. When
    the time is over, or the caller is ended in between, the program is ended
    together with everything it has started (see :func:`_end_tree`).

    :param argv: the program's path and its arguments
    :param stdin: its standard input; None for an empty one
    :param timeout: seconds
    :param env: its whole environment
    :param output: gets the standard output as it comes, which is not kept then; what
        it raises ends the program, with everything it has started, and passes
    :raises OSError: the program could not be started
    """
    run_id = str(uuid.uuid4())
    streams = _Streams(output)
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env={**env, _RUN_ID: run_id},
            start_new_session=True,
            umask=0o022,  # the privsep daemon's own is 0
        )
        try:
            streams.attach(process, stdin)
            timed_out = not _wait(process, streams, time.monotonic() + timeout)
            if timed_out:
                _end_tree(process, run_id)
            streams.drain()
        except BaseException:
            # Also a greenlet's or an interpreter's end: nothing may stay behind.
            _end_tree(process, run_id)
            raise
    finally:
        streams.close()
    # A process that hangs in the kernel has no code even now.
    code = -signal.SIGKILL if process.returncode is None else process.returncode
    return Completed(code, streams.stdout.text(), streams.stderr.text(), timed_out)


def _wait(process: subprocess.Popen[bytes], streams: _Streams, deadline: float) -> bool:
    """Serve the pipes until the process ends; False when its time is over.

    Looks after it at growing intervals: kernels before 5.3 offer nothing to
    wait for both a process and a pipe, and SIGCHLD belongs to the main thread.
    """
    pause = _SHORTEST_PAUSE
    while process.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        streams.move(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
    return True


def hand_over(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str],
    cwd: str = "/",
    keep: Sequence[int] = (),
) -> int:
    """Run a program that has this process's standard input and outputs.

    :param timeout: seconds, after which it is ended as by :func:`run_process`
    :param cwd: the directory that it works in
    :param keep: open descriptors that it has, too
    :returns: its exit code; minus the signal's number if one ended it
    :raises OSError: the program could not be started
    """
    run_id = str(uuid.uuid4())
    process = subprocess.Popen(
        list(argv),
        cwd=cwd,
        env={**env, _RUN_ID: run_id},
        pass_fds=tuple(keep),
        start_new_session=True,
        umask=0o022,
    )
    try:
        return process.wait(timeout)
    except BaseException as error:
        _end_tree(process, run_id)
        if isinstance(error, subprocess.TimeoutExpired):
            return -signal.SIGKILL
        raise


class Terminal:
    """A process on a terminal of its own; see :func:`start_on_terminal`.

    :ivar fd: the other side of the terminal; reading and writing never block
    :ivar errors: the process's standard error, likewise
    """

    def __init__(self, process: subprocess.Popen[bytes], run_id: str, fd: int) -> None:
        assert process.stderr is not None  # noqa: S101 - it was asked for
        self._process = process
        self._run_id = run_id
        self._open = True
        self.fd = fd
        self.errors = process.stderr.fileno()
        os.set_blocking(self.fd, False)
        os.set_blocking(self.errors, False)

    def hang_up(self) -> None:
        """Close both descriptors; most programs end then."""
        if self._open:
            self._open = False
            os.close(self.fd)
            if self._process.stderr is not None:
                self._process.stderr.close()

    def has_ended(self) -> bool:
        """Whether the process has ended by itself. It is not reaped: its number
        stays its own until :meth:`end`.
        """
        if self._process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def end(self) -> None:
        """Hang up; then end what is left of the process and all that it has
        started. Takes up to :data:`HANG_UP_LIMIT` and :data:`KILL_LIMIT`.
        """
        self.hang_up()
        deadline = time.monotonic() + HANG_UP_LIMIT
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(_LONGEST_PAUSE / 5)
        _end_tree(self._process, self._run_id)


def start_on_terminal(argv: Sequence[str], *, env: Mapping[str, str]) -> Terminal:
    """Start a program on a raw terminal of 24 lines, and let it run.

    Standard input and output are the terminal, standard error is apart. Whoever
    starts it calls :meth:`Terminal.end`; if that one is killed before, the terminal
    is hung up by the kernel.

    :param argv: the program's path and its arguments
    :param env: its whole environment
    :raises OSError: the program could not be started
    """
    run_id = str(uuid.uuid4())
    ours, theirs = os.openpty()
    try:
        # Nothing is echoed or changed, also before the program sees to it itself.
        tty.setraw(theirs)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        process = subprocess.Popen(
            list(argv),
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env={**env, _RUN_ID: run_id},
            start_new_session=True,
            umask=0o022,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return Terminal(process, run_id, ours)


@dataclass(frozen=True)
class _Process:
    pid: int
    relatives: frozenset[int]  # its parent, its group's and its session's leader
    marked: bool


def _processes(run_id: str) -> list[_Process]:
    """All living processes of the machine."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        # Gone meanwhile, or another user's whom this one may not look at.
        with contextlib.suppress(OSError):
            fields = procfs.fields(int(entry))
            if fields and fields[0] not in procfs.ENDED:
                # Parent, process group, session.
                relatives = frozenset(map(int, fields[1:4]))
                found.append(_Process(int(entry), relatives, _is_marked(entry, run_id)))
    return found


def _is_marked(entry: str, run_id: str) -> bool:
    try:
        with open(f"/proc/{entry}/environ", "rb") as file:
            return f"{_RUN_ID}={run_id}".encode() in file.read().split(b"\0")
    except PermissionError:
        return False


def _family(root: int, run_id: str) -> set[int]:
    """The living descendants of a process, itself included.

    A descendant that made a session of its own and lost its parent is known by
    the mark in its environment; one that replaced its environment, by its
    parent, group or session. Only one that did all of this is not found.
    """
    processes = _processes(run_id)
    family = {p.pid for p in processes if p.marked or p.pid == root}
    known = family | {root}
    while grown := {
        p.pid for p in processes if p.pid not in family and p.relatives & known
    }:
        family |= grown
        known |= grown
    return family


def _signal(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if the process is not ours to end."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def _end_tree(process: subprocess.Popen[bytes], run_id: str) -> None:
    """End a process and all its descendants, within :data:`KILL_LIMIT`.

    They are stopped first, until a look finds no new one: so nobody can start
    another, or be reparented out of sight, while the others are ended. The
    process is not reaped before, so that its number cannot become another's.
    """
    if process.returncode is not None:
        return
    deadline = time.monotonic() + KILL_LIMIT
    stopped: set[int] = set()
    foreign: set[int] = set()
    clean_looks = 0
    # Two looks, as a process in the middle of an exec shows no environment.
    while clean_looks < 2:
        alive = _family(process.pid, run_id) - foreign
        late = time.monotonic() > deadline
        fresh = set() if late else alive - stopped
        step = signal.SIGSTOP if fresh else signal.SIGKILL
        foreign |= {pid for pid in fresh or alive if not _signal(pid, step)}
        stopped |= fresh
        clean_looks = 0 if alive else clean_looks + 1
        if late and alive:
            LOG.error("Process %d or its children cannot be ended", process.pid)
            break
        if not fresh:
            time.sleep(_SHORTEST_PAUSE)
    process.poll()
