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

"""vzlist's answers as frozen dataclasses.

One process tells about all containers. Plain output, not JSON: vzlist escapes
nothing in its JSON, so one quote in any container's description makes the
listing of all of them unreadable. The description comes last, and what stands
before it has no blanks.

An answer that cannot be read is an error, never an empty or shorter list.
What vzlist itself does not show is not seen here either: vzlist 4 hides a
container whose private directory is missing.

The fields are known to both families (``vzlist -L`` of 4.9.4 and 9.0.1).
"""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ovznovadriver import exception
from ovznovadriver.openvz import command

#: The fields asked for, in order.
FIELDS = (
    "ctid",
    "status",
    "numproc",
    "physpages",
    "diskspace",
    "uptime",
    "description",
)

#: How vzlist is called; one CTID may follow.
ARGUMENTS = ("-a", "-H", "-o", ",".join(FIELDS))

# One blank parts the description from the column before it, which is aligned
# to the right; further blanks are the description's own.
_LINE = re.compile(
    " *" + " +".join(["([^ ]+)"] * (len(FIELDS) - 1)) + "(?: (.*))?", re.DOTALL
)
# vzlist computes with single precision floats: the seconds can be negative.
_UPTIME = re.compile(r"(\d+)d(\d+)h:(\d+)m:(-?\d+)s", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,20}")

# vzlist 4 on a stock kernel, with exit code 0 and nothing or everything
# "stopped" on stdout.
_BLIND = re.compile(r"^Unable to open /proc/.*$", re.MULTILINE)
# vzlist 9 answers an option that it does not know so, with exit code 0.
_USAGE = re.compile(r"^Usage:", re.MULTILINE)
_ABSENT = re.compile(
    r"^(?:Container\(s\) not found|Container is not found)$", re.MULTILINE
)
# vzlist >= 7 says so of a CTID without a container, but also when a link in its
# directory of names is stale or cannot be read.
_UNCERTAIN = re.compile(r"^(?:CT|Container) ID \S+ is invalid\.$", re.MULTILINE)


class State(enum.Enum):
    """What a container is doing, as vzlist says it.

    vzlist 4 knows neither PAUSED nor UNKNOWN, may show a suspended container
    as RUNNING, and shows one that was halted from inside as MOUNTED.
    """

    RUNNING = "running"
    STOPPED = "stopped"
    MOUNTED = "mounted"
    SUSPENDED = "suspended"
    PAUSED = "paused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ContainerInfo:
    """One container as vzlist sees it.

    A number is None where vzlist gives none: numproc, physpages and uptime of
    a container that is not running, diskspace of one that is not mounted or
    has no quota (vzctl >= 7: that is not ploop). Of vzctl 4's disk images it is known
    always, from their file systems.

    :ivar ctid: number or UUID, spelled as the tools spell it
    :ivar state: what it is doing
    :ivar description: '' for none; blanks at the end are lost
    :ivar numproc: processes and threads
    :ivar physpages: memory in use, in pages of 4 KiB
    :ivar diskspace_kb: disk space in use, in KiB
    :ivar uptime: seconds since its start
    """

    ctid: str
    state: State
    description: str = ""
    numproc: int | None = None
    physpages: int | None = None
    diskspace_kb: int | None = None
    uptime: int | None = None


def check_arguments(args: Sequence[str]) -> None:
    """Pass only an argument list (without the program) that this module makes.

    :raises CommandRefused: it is another one
    """
    known = tuple(args[: len(ARGUMENTS)]) == ARGUMENTS
    ctids = args[len(ARGUMENTS) :]
    if not known or len(ctids) > 1 or not all(map(command.is_ctid, ctids)):
        raise exception.CommandRefused("vzlist is not run with these arguments")


def parse(text: str) -> tuple[ContainerInfo, ...]:
    """vzlist's output for :data:`ARGUMENTS`, in its order.

    :raises MalformedOutput: a line is not one of these, the last one is not
        complete, or a CTID comes twice
    """
    # Not splitlines: descriptions may hold any other kind of line end.
    lines = text.split("\n")
    if lines.pop():
        raise _malformed(len(lines) + 1, "the output is cut")
    found: dict[str, ContainerInfo] = {}
    for number, line in enumerate(lines, start=1):
        try:
            info = _parse_line(line)
        except ValueError as error:
            raise _malformed(number, f"{error}: {line[:120]!a}") from error
        if info.ctid in found:
            raise _malformed(number, f"container {info.ctid} comes twice")
        found[info.ctid] = info
    return tuple(found.values())


class Vzlist:
    """vzlist on one node.

    :param runner: runs the process
    :param program: vzlist's name or path
    """

    def __init__(self, runner: command.Runner, program: str = "vzlist") -> None:
        self._runner = runner
        self._program = program

    def list(self) -> tuple[ContainerInfo, ...]:
        """All containers of the node, from one process.

        :raises MalformedOutput: vzlist cannot see or say what there is
        :raises CommandFailed: vzlist failed
        """
        done = self._run()
        if done.returncode != 0:
            raise self._failure(done)
        return parse(done.stdout)

    def find(self, ctid: str) -> ContainerInfo | None:
        """One container, or None when vzlist worked and does not know it.

        :raises InvalidValue: that is no CTID
        :raises MalformedOutput: vzlist cannot see or say what there is
        :raises CommandFailed: vzlist failed
        """
        if not command.is_ctid(ctid):
            raise exception.InvalidValue(f"{ctid[:64]!a} is no CTID")
        done = self._run(ctid)
        if done.returncode == 1 and _ABSENT.search(done.stderr):
            return None
        if done.returncode == 0:
            infos = parse(done.stdout)
            # With another CTID it went by a name that looks like ours.
            certain = all(info.ctid == ctid for info in infos)
        elif _UNCERTAIN.search(done.stderr):
            certain = False
        else:
            raise self._failure(done, ctid)
        if not certain:
            infos = self.list()
        return next((info for info in infos if info.ctid == ctid), None)

    def _run(self, *ctid: str) -> command.Completed:
        done = self._runner.run(self._program, *ARGUMENTS, *ctid, run_as_root=True)
        if blind := _BLIND.search(done.stderr):
            raise exception.MalformedOutput(
                "vzlist cannot see the containers on this kernel, which does not"
                f" offer what vzlist reads ({blind.group()[:200]})"
            )
        if _USAGE.search(done.stderr):
            raise exception.MalformedOutput("this vzlist does not know our options")
        return done

    def _failure(self, done: command.Completed, *ctid: str) -> exception.CommandFailed:
        return exception.CommandFailed(
            shlex.join((self._program, *ARGUMENTS, *ctid)),
            done.returncode,
            stdout=done.stdout,
            stderr=done.stderr,
        )


def _malformed(number: int, why: str) -> exception.MalformedOutput:
    return exception.MalformedOutput(f"line {number} of vzlist's output: {why}")


def _parse_line(line: str) -> ContainerInfo:
    """:raises ValueError: saying which part of the line is wrong"""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("columns are missing")
    ctid, status, numproc, physpages, diskspace, uptime, description = match.groups()
    # vzlist lists more numbers than vzctl takes: 9 also a CTID 0.
    if not _COUNT.fullmatch(ctid) and not command.is_ctid(ctid):
        raise ValueError("no CTID")
    return ContainerInfo(
        ctid=ctid,
        state=State(status),
        description="" if description in (None, "-") else description,
        numproc=_count(numproc),
        physpages=_count(physpages),
        diskspace_kb=_count(diskspace),
        uptime=_uptime(uptime),
    )


def _count(text: str) -> int | None:
    if text == "-":
        return None
    if not _COUNT.fullmatch(text):
        raise ValueError("no number")
    return int(text)


def _uptime(text: str) -> int | None:
    if text == "-":
        return None
    match = _UPTIME.fullmatch(text)
    if match is None:
        raise ValueError("no uptime")
    days, hours, minutes, seconds = map(int, match.groups())
    return max(0, ((days * 24 + hours) * 60 + minutes) * 60 + seconds)
