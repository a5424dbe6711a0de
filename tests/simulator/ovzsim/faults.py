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
"""Faults on order. They lie on disk, and each is claimed by exactly one process.

A fault file holds: program, subcommand, ctid ("" for any), nth (how many matching
calls from now), action, when ("before" or "after" the work), rc, stderr, seconds, pid,
outlives.
A program "" stands for any, those among them that only ask for a version.
"""

from __future__ import annotations

import fcntl
import json
import os
import time

from ovzsim import base
from ovzsim.host import Host
from ovzsim.lock import ContainerLock
from ovzsim.state import State

Fault = dict[str, object]

_SIGKILL = 9  # importing signal takes longer than all the rest

# A hanging process ends by itself then, or when its node is gone.
LONGEST_HANG = 900.0
_LOOK = 0.02


def claim(host: Host, program: str, subcommand: str, ctid: str) -> list[Fault]:
    """The faults that strike this call; they are gone for all others."""
    place = host.sim("faults")
    if not os.listdir(place):  # nothing was ever ordered
        return []
    struck: list[Fault] = []
    with open(os.path.join(place, "guard"), "w", encoding="ascii") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        for name in sorted(os.listdir(place)):
            if not name.endswith(".json"):
                continue
            path = os.path.join(place, name)
            fault: Fault = json.loads(base.read_text(path))
            if (
                fault["program"] not in ("", program)
                or fault["subcommand"] not in ("", subcommand)
                or fault["ctid"] not in ("", ctid)
            ):
                continue
            left = int(str(fault["nth"])) - 1
            if left > 0:
                base.write_text(path, json.dumps({**fault, "nth": left}))
                continue
            os.unlink(path)
            struck.append(fault)
    return struck


def strike(
    host: Host, faults: list[Fault], when: str, lock: ContainerLock | None = None
) -> None:
    """Does what faults of that moment say. :raises Exit: for a failure.

    :param lock: the ContainerLock that the command holds, if any.
    """
    for fault in faults:
        if fault["when"] != when:
            continue
        action = fault["action"]
        if action == "slow" and not fault["detached"]:
            time.sleep(float(str(fault["seconds"])))
        elif action == "hang":
            _hang(host, bool(fault["detached"]), lock)
        elif action == "lose_caller":
            os.kill(os.getppid(), _SIGKILL)
        elif action == "crash":
            _crash(host, fault)
        elif action == "fail":
            raise base.Exit(
                int(str(fault["rc"])), str(fault["stderr"]), str(fault["stdout"])
            )


def strike_missed(host: Host, faults: list[Fault]) -> None:
    """Lets the service crash with a command that failed before its work, or in it."""
    for when in ("before", "after"):
        strike(host, [fault for fault in faults if fault["action"] == "crash"], when)


def _crash(host: Host, fault: Fault) -> None:
    """Kills the service that a command works for, and before the work the command, too.

    One that outlives it does its work when it is told to go on, or after the work ends:
    what it would answer, nobody hears.
    """
    import contextlib  # slow to import

    # A service that is gone is what was asked for.
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(str(fault["pid"])), _SIGKILL)
    if fault.get("outlives"):
        _wait(host, host.sim("go-on"))
    elif fault["when"] == "before":
        os.kill(os.getpid(), _SIGKILL)


def slow_stop(faults: list[Fault]) -> float:
    """Seconds that a clean stop takes in a child of its own session."""
    return sum(
        float(str(fault["seconds"]))
        for fault in faults
        if fault["action"] == "slow" and fault["detached"]
    )


def stop_in_child(
    host: Host, ctid: str, seconds: float, lock: ContainerLock | None
) -> State:
    """Ends a container after some time, in a child with a session of its own.

    It ends it at once when it is told to go on.

    The child holds the lock; when its parent is killed it still ends the container,
    which then stays mounted.

    :returns: the container's state afterwards; the lock is the caller's again.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        if lock is not None:
            lock.hand_to(os.getpid())
        _wait(host, host.sim("go-on"), seconds)
        State(host, ctid).stopped()
        if lock is not None:
            lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    if lock is not None:
        lock.acquire()
    return State(host, ctid)


def _hang(host: Host, detached: bool, lock: ContainerLock | None) -> None:
    """Never comes back; if asked, together with a child in a session of its own.

    The child then is the one that holds the lock.
    """
    if detached:
        ready, begun = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            os.close(begun)
            _wait(host)
            os._exit(0)
        os.close(begun)
        os.read(ready, 1)
        if lock is not None:
            lock.hand_to(child)
    base.write_text(host.sim("hangs"), "")
    _wait(host)
    raise base.Exit(base.UNMODELLED, "ovzsim: nobody ended this hanging command\n")


def _wait(host: Host, end: str = "", seconds: float = LONGEST_HANG) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and os.path.isdir(host.root):
        if end and os.path.exists(end):
            return
        time.sleep(_LOOK)
