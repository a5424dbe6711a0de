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
"""Container locks: a file with a pid, made exclusively, never waited for."""

from __future__ import annotations

import fcntl
import os

from ovzsim import base
from ovzsim.base import Streams
from ovzsim.host import Host


def _owner(path: str) -> int:
    """The pid in a lock file; 0 when there is none that makes sense."""
    try:
        text = base.read_text(path).strip()
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() else 0


def _alive(pid: int) -> bool:
    return pid > 0 and os.path.exists(f"/proc/{pid}")


def _command_line(pid: int) -> str:
    try:
        raw = base.read_text(f"/proc/{pid}/cmdline")
    except OSError:
        return ""
    return " ".join(raw.rstrip("\0").split("\0"))


class ContainerLock:
    """The lock of one container, held from acquire() to release()."""

    def __init__(self, host: Host, ctid: str, streams: Streams) -> None:
        self._host = host
        self._path = host.lock_path(ctid)
        self._streams = streams
        self._pid = 0

    def acquire(self) -> None:
        """Takes the lock. :raises Exit: 9 when a living process has it."""
        # Looking at a lock and replacing a stale one is one step: hence the guard.
        with open(self._host.sim("lock.guard"), "w", encoding="ascii") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            self._acquire_guarded()

    def _acquire_guarded(self) -> None:
        family_4 = self._host.family == "4"
        if os.path.lexists(self._path):
            owner = _owner(self._path)
            if _alive(owner):
                command = _command_line(owner)
                raise base.Exit(
                    9,
                    f"Locked by: pid {owner}, cmdline {command}\n"
                    "Container already locked\n"
                    if family_4
                    else f"Locked info: pid={owner} cmdline={command}\n"
                    "Cannot lock the Container\n",
                )
            if owner:  # a file with no pid in it goes without a word
                article = "" if family_4 else "the "
                self._streams.say(f"Removing {article}stale lock file {self._path}")
            os.unlink(self._path)
        self._pid = os.getpid()
        # As vzctl does it: a command that is killed here leaves the first name.
        temporary = self._path + os.urandom(3).hex()
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except PermissionError:
            raise base.Exit(
                3,
                f"Unable to create temporary lock file: {temporary}: "
                "Permission denied\nUnable to lock container\n",
            ) from None
        with os.fdopen(fd, "w", encoding="ascii") as handle:
            handle.write(f"{self._pid}\n\n")
        os.link(temporary, self._path)
        os.unlink(temporary)

    def hand_to(self, pid: int) -> None:
        """Names another process as the owner (a child that outlives this one)."""
        temporary = self._host.sim(f"lock.{pid}")
        base.write_text(temporary, f"{pid}\n\n")
        os.replace(temporary, self._path)
        self._pid = pid

    def release(self) -> None:
        """Removes the lock file, if it is still ours."""
        if self._pid and _owner(self._path) == self._pid:
            os.unlink(self._path)
        self._pid = 0
