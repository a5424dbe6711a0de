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
"""Faults that a simulated node is ordered to have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

When = Literal["before", "after"]


#: More calls than anybody makes.
_MANY = 10**6


class Orders:
    """Orders for the tools of a node, that lie on its disk until they strike.

    :cvar PROGRAMS: the tools
    :ivar root: the node's directory
    """

    PROGRAMS: tuple[str, ...] = ()
    root: Path

    def fail(
        self,
        program: str,
        subcommand: str = "",
        *,
        nth: int = 1,
        rc: int = 1,
        stderr: str = "",
        stdout: str = "",
        when: When = "before",
        ctid: str | int = "",
    ) -> None:
        """The nth matching call from now fails, once.

        :param when: "before": nothing was done; "after": everything was.
        """
        self._order(
            program, subcommand, ctid, nth, when,
            action="fail", rc=rc, stderr=stderr, stdout=stdout,
        )  # fmt: skip

    def hang(
        self,
        program: str,
        subcommand: str = "",
        *,
        nth: int = 1,
        detached: bool = False,
        when: When = "before",
        ctid: str | int = "",
    ) -> None:
        """The nth matching call hangs, holding the container's lock, until killed.

        sim/hangs is there from when it does.

        :param detached: a child in a session of its own hangs too and has the lock.
        """
        (self.root / "sim/hangs").unlink(missing_ok=True)
        self._order(
            program, subcommand, ctid, nth, when, action="hang", detached=detached
        )

    def slow(
        self,
        program: str,
        subcommand: str = "",
        *,
        seconds: float,
        nth: int = 1,
        when: When = "before",
        ctid: str | int = "",
    ) -> None:
        """The nth matching call takes so many seconds more, holding the lock."""
        self._order(
            program, subcommand, ctid, nth, when, action="slow", seconds=seconds
        )

    def slow_stop(self, seconds: float, *, nth: int = 1, ctid: str | int = "") -> None:
        """The nth clean stop takes so long, in a child with a session of its own.

        The child holds the lock. When its parent is killed, it still ends the
        container, which stays mounted. STOP_TIMEOUT limits it, and go_on() ends it.
        """
        (self.root / "sim/go-on").unlink(missing_ok=True)
        self._order(
            "vzctl", "stop", ctid, nth, "before",
            action="slow", detached=True, seconds=seconds,
        )  # fmt: skip

    def lose_caller(
        self,
        program: str,
        subcommand: str = "",
        *,
        nth: int = 1,
        when: When = "before",
        ctid: str | int = "",
    ) -> None:
        """The nth matching call kills the process that started it."""
        self._order(program, subcommand, ctid, nth, when, action="lose_caller")

    def crash(
        self, pid: int, *, nth: int = 1, when: When = "before", outlives: bool = False
    ) -> None:
        """The nth call of any tool from now kills a service, which it works for.

        :param when: "before": the call ends with it, and has done nothing but take the
            container's lock; "after": it has done its work, and goes on to its end.
        :param outlives: with "before", the call waits for go_on() instead, and has the
            lock; then it does its work.
        """
        (self.root / "sim/go-on").unlink(missing_ok=True)
        self._order("", "", "", nth, when, action="crash", pid=pid, outlives=outlives)

    def go_on(self) -> None:
        """Has a call that has outlived its service do its work, or a slow stop end."""
        (self.root / "sim/go-on").touch()

    def count(self) -> None:
        """Begins to count the calls that crash() counts; no fault is to be ordered."""
        self._order("", "", "", _MANY, "before", action="count")

    def counted(self) -> int:
        """How many calls there were since count(), which ends with this."""
        (path,) = (self.root / "sim/faults").glob("*.json")
        left: int = json.loads(path.read_text())["nth"]
        path.unlink()
        return _MANY - left

    def clear_faults(self) -> None:
        """Forgets faults that have not struck."""
        for path in (self.root / "sim/faults").glob("*.json"):
            path.unlink(missing_ok=True)

    def _order(
        self,
        program: str,
        subcommand: str,
        ctid: str | int,
        nth: int,
        when: When,
        **rest: object,
    ) -> None:
        if program not in ("", *self.PROGRAMS):
            raise ValueError(f"no program {program!r}")
        fault = {
            "program": program,
            "subcommand": subcommand,
            "ctid": str(ctid),
            "nth": nth,
            "when": when,
            "rc": 0,
            "stderr": "",
            "stdout": "",
            "seconds": 0.0,
            "detached": False,
            "pid": 0,
            "outlives": False,
            **rest,
        }
        place = self.root / "sim/faults"
        number = 1 + max((int(p.stem) for p in place.glob("*.json")), default=0)
        temporary = place / f"{number:06}.new"
        temporary.write_text(json.dumps(fault))
        temporary.rename(place / f"{number:06}.json")
