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

"""Where the privileged side writes a container's archive: the caller's pipe."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import stat
import time

from ovznovadriver import exception

#: Opens by name only: nothing happens to a FIFO or a device.
LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

#: Bytes of headers and small contents that go out together.
_GATHERED = 256 << 10


def _open_own(path: str, owner: int, kind: int) -> int:
    """Open a file of the caller's for writing, and nothing else.

    It is judged before anything is done to it: the caller may have named a device.
    """
    try:
        looked = os.open(path, LOOK)
    except OSError as error:
        raise exception.UnsafePath(f"{path!r}: {error.strerror}") from error
    try:
        info = os.fstat(looked)
        if stat.S_IFMT(info.st_mode) != kind or info.st_uid != owner:
            what = "a FIFO" if kind == stat.S_IFIFO else "a plain file"
            raise exception.UnsafePath(f"{path!r} is not {what} of the caller")
        return os.open(
            f"/proc/self/fd/{looked}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise exception.OvzError("nobody reads the archive any more") from error
        raise
    finally:
        os.close(looked)


class Sink:
    """Takes the archive: first a file, up to a size, then the pipe.

    :ivar size: bytes taken
    :ivar spooled: those that went to the file
    """

    def __init__(
        self,
        pipe: str,
        spool: str | None,
        spool_limit: int,
        owner: int,
        limit: int,
        seconds: float,
    ) -> None:
        self.size = 0
        self.spooled = 0
        self._room = spool_limit if spool is not None else 0
        self._limit = limit
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._gathered = bytearray()
        with contextlib.ExitStack() as stack:
            self._pipe = _open_own(pipe, owner, stat.S_IFIFO)
            stack.callback(os.close, self._pipe)
            self._file = -1
            if spool is not None:
                self._file = _open_own(spool, owner, stat.S_IFREG)
                stack.callback(os.close, self._file)
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(self._pipe, selectors.EVENT_WRITE)
            self._close = stack.pop_all().close

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._close()

    def check_time(self) -> None:
        """:raises OvzError: the time is over"""
        if time.monotonic() > self._deadline:
            raise exception.OvzError(
                f"the container could not be packed within {self._seconds:g} s"
            )

    def write(self, data: bytes) -> None:
        """Take a header."""
        self._gathered += data
        if len(self._gathered) >= _GATHERED:
            self.flush()

    def content(self, data: memoryview) -> None:
        """Take a large piece."""
        if len(self._gathered) + len(data) < _GATHERED:
            self._gathered += data
        else:
            self.flush()
            self._put(data)

    def flush(self) -> None:
        """Let go of all that was taken."""
        self._put(memoryview(self._gathered))
        self._gathered = bytearray()

    def _put(self, data: memoryview) -> None:
        self.size += len(data)
        if self.size > self._limit:
            raise exception.OvzError(
                f"the container's archive takes more than {self._limit} bytes"
            )
        head = data[: self._room]
        while head:
            head = head[os.write(self._file, head) :]
        done = min(self._room, len(data))
        self.spooled += done
        self._room -= done
        self._send(data[done:])

    def _send(self, data: memoryview) -> None:
        self.check_time()
        while data:
            try:
                data = data[os.write(self._pipe, data) :]
            except BlockingIOError:
                self._selector.select(1)
                self.check_time()
            except BrokenPipeError as error:
                raise exception.OvzError("nobody reads the archive any more") from error
