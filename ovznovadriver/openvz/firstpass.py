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

"""How a live migration is ended while its first pass runs, by the root side.

vzmigrate undoes what it did when a step of it fails, and nothing when it is ended
itself. So it is left alone, and its rsync is ended: the one that sends the tree while
the container runs. vzmigrate then removes what it made on the other host, gives up its
lock, and ends with exit code 6 (bin/vzmigrate.in of vzctl 4.9.4, lines 944 to 951, and
the functions from undo_quota_on back to undo_lock). From the freezing on nothing is
ended: what an rsync or a vzctl that was killed has done by then cannot be told.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import tree, vzmigrate

#: It was ended.
ENDED = "ended"
#: No vzmigrate of this driver moves the container.
ABSENT = "absent"
#: It has not begun.
EARLY = "early"
#: It is over.
LATE = "late"

#: Seconds for which somebody may have the first pass waited for, at most.
LONGEST_WAIT = 60.0
#: Seconds that a vzmigrate that was just asked for may take to get its lock.
_START = 2.0
#: Seconds that a process may take to stop; one in the kernel does not at once.
_STOP = 5.0
#: Bytes that a lock may have: it is a number.
_LOCK_SIZE = 64
_PAUSE = 0.05
_SHORT_PAUSE = 0.001


@dataclasses.dataclass(frozen=True)
class _Process:
    """What /proc says of a process.

    :ivar start: when it began, by which it is told from another of the same number
    """

    pid: int
    parent: int
    start: int
    user: int
    argv: tuple[str, ...]
    state: str = dataclasses.field(compare=False)


def end_first_pass(*, dirs: dict[str, str], ctid: str, wait: float) -> str:
    """End a live migration in its first pass, so that vzmigrate undoes it.

    :param dirs: lock, where vzctl and vzmigrate lock containers
    :param wait: seconds for which the first pass is waited for, if it has not begun
    :returns: :data:`ENDED`, or why nothing was done: :data:`ABSENT`, :data:`EARLY` or
        :data:`LATE`
    :raises CommandRefused: nobody may have it waited for so long
    """
    lock = os.path.join(dirs["lock"], f"{tree.checked_ctid(ctid)}.lck")
    if not 0 <= wait <= LONGEST_WAIT:
        raise exception.CommandRefused(f"to wait for {wait} s is not permitted")
    began = time.monotonic()
    met = False
    while True:
        mover = _mover(lock, ctid)
        if mover is None and met:
            return LATE
        met = mover is not None
        for child in _children(mover) if mover else ():
            if vzmigrate.is_first_pass(child.argv):
                return ENDED if _end(child) else LATE
            if vzmigrate.is_later(child.argv):
                return LATE
        waited = time.monotonic() - began
        if waited >= (wait if met else min(wait, _START)):
            return EARLY if met else ABSENT
        time.sleep(_PAUSE)


def _mover(lock: str, ctid: str) -> _Process | None:
    """The vzmigrate that has a container's lock, if it is one that we started."""
    try:
        content, _ = tree.read_plain(lock, _LOCK_SIZE)
    except (OSError, exception.UnsafePath):
        return None
    number = content.strip()
    found = _look(int(number)) if number.isdigit() else None
    if found is None or found.user != os.geteuid():
        return None
    return found if vzmigrate.is_move(found.argv, ctid) else None


def _children(parent: _Process) -> Iterator[_Process]:
    for entry in filter(str.isdigit, os.listdir("/proc")):
        found = _look(int(entry))
        if found is not None and found.parent == parent.pid:
            yield found


def _look(pid: int) -> _Process | None:
    """A process as it is now; None for one that is gone."""
    place = f"/proc/{pid}"
    try:
        with open(f"{place}/stat", "rb") as file:
            # The name, in brackets, may hold anything (proc(5)).
            fields = file.read().rpartition(b")")[2].split()
        with open(f"{place}/cmdline", "rb") as file:
            words = file.read().decode(errors="surrogateescape").split("\0")[:-1]
        user = os.stat(place).st_uid
    except OSError:
        return None
    return _Process(
        pid, int(fields[1]), int(fields[19]), user, tuple(words), fields[0].decode()
    )


def _end(process: _Process) -> bool:
    """End a process that has not ended by itself; whether it was ended by us.

    One that stops has not begun to exit. So its parent sees it killed for certain, and
    not that it has done its work.
    """
    deadline = time.monotonic() + _STOP
    try:
        os.kill(process.pid, signal.SIGSTOP)
        # One that has begun to exit has no arguments any more.
        while (now := _look(process.pid)) == process:
            if now.state in "Tt":
                os.kill(process.pid, signal.SIGKILL)
                return True
            if time.monotonic() >= deadline:
                break
            time.sleep(_SHORT_PAUSE)
        # Another's number by now, or it does not stop: it is to go on.
        os.kill(process.pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
    return False


#: The verbs of the privileged side, by name.
VERBS: Mapping[str, Callable[..., Any]] = {"end_first_pass": end_first_pass}
