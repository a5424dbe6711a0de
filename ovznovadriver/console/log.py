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

"""What a container wrote on its console, in files of bounded size.

``NAME.log`` is written; when it is full it becomes ``NAME.log.1``, in the place of
an older one. When the container boots anew, both become ``NAME.previous.log`` and
``NAME.previous.log.1``. So at most four times the limit is ever kept.
"""

from __future__ import annotations

import contextlib
import logging
import os

LOG = logging.getLogger(__name__)

_PARTS = (".log", ".log.1")
_PREVIOUS = ".previous"


class ConsoleLog:
    """The log of one container.

    :param directory: only root may be able to write there
    :param name: what its files' names begin with
    :param limit: bytes of one file
    """

    def __init__(self, directory: str, name: str, limit: int) -> None:
        self._path = os.path.join(directory, name)
        self._limit = limit
        self._fd: int | None = None
        self._size = 0
        self._works = True

    def write(self, data: bytes) -> None:
        """Add to the log. Where that fails (a full disk) it is left out."""
        try:
            self._write(memoryview(data))
        except OSError as error:
            if self._works:
                LOG.error("%s.log misses some output: %s", self._path, error)
            self._works = False
            self.close()
        else:
            self._works = True

    def _write(self, data: memoryview) -> None:
        while data:
            fd = self._open()
            room = self._limit - self._size
            if room <= 0:
                self.close()
                os.replace(*(self._path + part for part in _PARTS))
                continue
            written = os.write(fd, data[:room])
            self._size += written
            data = data[written:]

    def _open(self) -> int:
        if self._fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            path = self._path + _PARTS[0]
            self._fd = os.open(path, flags | os.O_NOFOLLOW, 0o640)
            self._size = os.fstat(self._fd).st_size
        return self._fd

    def new_boot(self) -> None:
        """The container boots: what is there belongs to the boot before."""
        self.close()
        if not os.path.exists(self._path + _PARTS[0]):
            return
        for part in _PARTS:
            previous = f"{self._path}{_PREVIOUS}{part}"
            try:
                os.replace(self._path + part, previous)
            except FileNotFoundError:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(previous)

    def tail(self, limit: int) -> bytes:
        """The last bytes since the container booted, at most ``limit``."""
        found = b""
        for part in _PARTS:
            left = limit - len(found)
            if left > 0:
                found = _end_of(self._path + part, left) + found
        return found

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def remove(self) -> None:
        """Remove all files of the container."""
        self.close()
        for kind in ("", _PREVIOUS):
            for part in _PARTS:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self._path}{kind}{part}")


def _end_of(path: str, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - limit))
            return file.read(limit)
    except FileNotFoundError:
        return b""
