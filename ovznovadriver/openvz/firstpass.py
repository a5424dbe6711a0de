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

"""How a live migration is watched and ended in its first pass, by the root side.

vzmigrate says nothing between the beginning and the end of a pass. What its rsync has
done is what the kernel counts of it.

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
        child = _pass(mover) if mover else None
        if isinstance(child, _Process):
            return ENDED if _end(child) else LATE
        if child is not None:
            return child
        waited = time.monotonic() - began
        if waited >= (wait if met else min(wait, _START)):
            return EARLY if met else ABSENT
        time.sleep(_PAUSE)


def measure_first_pass(*, dirs: dict[str, str], ctid: str) -> int | str:
    """How much a live migration has read in its first pass.

    rsync reads all that the plain files hold, their holes too, and sends it at once: of
    200 MB in four files it reads 200.03 MB and sends 200.05 MB, of 30 MB in 20,000
    files 30.2 MB and 31.1 MB (rsync 3.5). What is not read does not show: names, owners
    and attributes, the further names of a file, and files that are there already.

    :param dirs: lock, where vzctl and vzmigrate lock containers
    :returns: bytes; or why they are not known: :data:`ABSENT`, :data:`EARLY` (or it has
        just ended) or :data:`LATE`
    """
    mover = _mover(os.path.join(dirs["lock"], f"{tree.checked_ctid(ctid)}.lck"), ctid)
    if mover is None:
        return ABSENT
    child = _pass(mover)
    if isinstance(child, _Process):
        return _has_read(child)
    return child or EARLY


def _pass(mover: _Process) -> _Process | str | None:
    """What sends the tree the first time; LATE after that, None before it."""
    for child in _children(mover):
        if vzmigrate.is_first_pass(child.argv):
            return child
        if vzmigrate.is_later(child.argv):
            return LATE
    return None


def _has_read(process: _Process) -> int | str:
    """Bytes that a process has read, of files and of whatever else; or EARLY.

    Of its one thread: the whole process is said to have read what the children have
    that it waited for, too, and through its ssh all of it goes once more.
    """
    try:
        with open(f"/proc/{process.pid}/task/{process.pid}/io", "rb") as file:
            # What was opened stays that process's, also when its number is another's.
            if _look(process.pid) != process:
                return EARLY
            counts = dict(line.split(b":") for line in file.read().splitlines())
    except OSError:
        return EARLY
    return int(counts[b"rchar"])


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
        found = _look(int(entry), parent.pid)
        if found is not None:
            yield found


def _look(pid: int, parent: int | None = None) -> _Process | None:
    """A process as it is now; None for one that is gone.

    :param parent: None, too, for one that has another parent
    """
    place = f"/proc/{pid}"
    try:
        with open(f"{place}/stat", "rb") as file:
            # The name, in brackets, may hold anything (proc(5)).
            fields = file.read().rpartition(b")")[2].split()
        # Of the many others one file is enough.
        if parent not in (None, int(fields[1])):
            return None
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
VERBS: Mapping[str, Callable[..., Any]] = {
    verb.__name__: verb for verb in (end_first_pass, measure_first_pass)
}
