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

"""The one reader that a container's console has: `vzctl console` on a terminal."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

from ovznovadriver.console import escape
from ovznovadriver.console import loop as console_loop
from ovznovadriver.openvz import processes

#: Bytes a second that are read of one container in the long run, and bytes that it
#: may write at once. One that writes more waits, as it would for a serial line.
RATE = 128 * 1024
BURST = 512 * 1024
#: Bytes that may wait for a container that does not read; then clients wait.
INPUT_LIMIT = 64 * 1024

_READ_SIZE = 16384
_ERRORS_KEPT = 1000
# vzctl 7 goes on without a console when it cannot have it, and says so.
_FAILED = re.compile(rb"^Error ", re.MULTILINE)


class Allowance:
    """How much may be read now (a token bucket)."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = time.monotonic()

    def take(self, count: int) -> float:
        """Use some.

        :returns: seconds to wait before the next time
        """
        now = time.monotonic()
        grown = self._level + (now - self._at) * self._rate
        self._level = min(self._burst, grown) - count
        self._at = now
        return max(0.0, -self._level / self._rate)


class Attachment:
    """A running `vzctl console`.

    :param output: called with what the container writes
    :param ended: called once when the console has come to its end by itself, with
        what vzctl said
    :param taken: called when input that had to wait was taken
    """

    def __init__(
        self,
        loop: console_loop.Loop,
        terminal: processes.Terminal,
        output: Callable[[bytes], None],
        ended: Callable[[str], None],
        taken: Callable[[], None],
    ) -> None:
        self._loop = loop
        self.terminal = terminal
        self._output = output
        self._ended = ended
        self._taken = taken
        self._filter = escape.Filter()
        self._input = bytearray()
        self._errors = b""
        self._allowance = Allowance(RATE, BURST)
        self._resting = False
        self._open = True
        self._update()
        loop.watch(terminal.errors, read=self._read_errors)

    @property
    def full(self) -> bool:
        """No more input should come for now."""
        return len(self._input) >= INPUT_LIMIT

    def send(self, data: bytes) -> None:
        """Type something into the container."""
        self._input += self._filter.feed(data)
        self._write()

    def close(self) -> processes.Terminal:
        """Stop reading and writing; what remains is to end the terminal."""
        if self._open:
            self._open = False
            self._loop.forget(self.terminal.fd)
            self._loop.forget(self.terminal.errors)
            self.terminal.hang_up()
        return self.terminal

    def _update(self) -> None:
        if self._open:
            self._loop.watch(
                self.terminal.fd,
                read=None if self._resting else self._read,
                write=self._write if self._input else None,
            )

    def _read(self) -> None:
        try:
            data = os.read(self.terminal.fd, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody holds the other side any more
            data = b""
        if not data:
            self._finish()
            return
        self._output(data)
        wait = self._allowance.take(len(data))
        if wait and self._open:
            self._resting = True
            self._update()
            self._loop.later(wait, self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._update()

    def _write(self) -> None:
        if not self._open or not self._input:
            return
        try:
            written = os.write(self.terminal.fd, self._input)
        except BlockingIOError:
            written = 0
        except OSError:  # its end is told by the reading side
            written = len(self._input)
        was_full = self.full
        del self._input[:written]
        self._update()
        if was_full and not self.full:
            self._taken()

    def _read_errors(self) -> None:
        try:
            data = os.read(self.terminal.errors, _READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self._loop.forget(self.terminal.errors)
            return
        self._errors = (self._errors + data)[-_ERRORS_KEPT:]
        if _FAILED.search(self._errors):
            self._finish()

    def _finish(self) -> None:
        if self._open:
            self._ended(self._errors.decode(errors="replace").strip())
