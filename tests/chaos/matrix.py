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

"""One operation after the other, killed before and after each of its commands."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import children, invariants, operations, treatment
from tests.chaos.cloud import Cloud
from tests.chaos.world import World
from tests.simulator.orders import Orders, When

#: Seconds for a service to start, do what it is asked, and have everything checked.
LIMIT = 300.0

#: See the package.
MOMENTS = ("before", "after", "amid")


@dataclass(frozen=True)
class Point:
    """An instant at which the service is killed.

    :ivar host: whose command it is
    :ivar number: of the command, from 1, among those of that host
    """

    host: str
    number: int
    when: str

    def __str__(self) -> str:
        return f"{self.host}:{self.number}-{self.when}"

    @classmethod
    def parse(cls, text: str) -> Point:
        """The opposite of str(). :raises ValueError: it is none"""
        match = re.fullmatch(rf"(\w+):([1-9]\d*)-({'|'.join(MOMENTS)})", text)
        if match is None:
            raise ValueError(f"{text!r} is not like compute1:3-before")
        return cls(match[1], int(match[2]), match[3])

    def order(self, node: Orders) -> None:
        """Have this process killed there."""
        pid = os.getpid()
        if self.when == "amid":
            node.crash(pid, nth=self.number, outlives=True)
        else:
            when: When = "before" if self.when == "before" else "after"
            node.crash(pid, nth=self.number, when=when)


@dataclass(frozen=True)
class Verdict:
    """What came of one point.

    :ivar command: the one at which the service was killed
    :ivar problems: what does not hold, in sentences
    :ivar log: where the service's log is
    """

    operation: str
    family: str
    point: str
    ending: str
    command: str
    problems: tuple[str, ...]
    seconds: float
    log: str = ""


class Stand:
    """Where the operations of a family of vzctl are tried, one at a time.

    :param place: a directory of its own
    """

    def __init__(self, place: Path, family: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place = place
        self.family = family
        self._worlds: dict[str, World] = {}

    def _world(self, hosts: int, one_disk: bool) -> World:
        name = f"{hosts}-hosts" + ("-one-disk" if one_disk else "")
        return self._worlds.setdefault(name, World(self.place / name))

    def log(self, name: str) -> Path:
        """Where a process says what it does."""
        path = self.place / "logs" / f"{name}.log"
        path.parent.mkdir(exist_ok=True)
        return path

    # -- what is found ----------------------------------------------------------

    def ready(self, state: str, hosts: int, one_disk: bool = False) -> World:
        """A world with the victim in a state, made where it was not made yet.

        :raises RuntimeError: it cannot be made
        """
        world = self._world(hosts, one_disk)
        if world.has(state):
            return world
        steps = operations.STATES[state]
        if steps.made_from is None:
            world.clear()
        else:
            self.ready(steps.made_from, hosts, one_disk)
            world.restore(steps.made_from)

        def make() -> list[str]:
            cloud = self.open(world, hosts, one_disk)
            if steps.made_from is None:
                treatment.settle_in(cloud)
            steps.make(cloud)
            return list(sys.modules)

        log = self.log(f"{state}-{hosts}")
        ended = children.call(make, log, LIMIT)
        if ended.error:
            raise RuntimeError(f"{state} cannot be made: {ended.error}; see {log}")
        world.save(state)
        children.learn(ended.value)
        return world

    def open(self, world: World, hosts: int, one_disk: bool = False) -> Cloud:
        """Start the services on what there is; in a process that ends with them."""
        cloud = Cloud(world, self.family, hosts, one_disk)
        cloud.setUp()
        return cloud

    # -- what is done -----------------------------------------------------------

    def trace(self, name: str) -> dict[str, int]:
        """How many commands an operation takes that nobody disturbs, by host.

        The steps of a command that has some, as vzmigrate, are commands, too.

        :raises RuntimeError: it fails
        """
        operation = operations.OPERATIONS[name]
        world = self.ready(operation.begins_in, operation.hosts, operation.one_disk)
        world.restore(operation.begins_in)

        def act() -> dict[str, int]:
            cloud = self.open(world, operation.hosts, operation.one_disk)
            for node in cloud.nodes.values():
                node.count()
            operation.act(cloud)
            return {host: node.counted() for host, node in cloud.nodes.items()}

        log = self.log(f"{name}-trace")
        ended = children.call(act, log, LIMIT)
        if ended.error:
            raise RuntimeError(f"{name} fails: {ended.error}; see {log}")
        counts: dict[str, int] = ended.value
        return counts

    def points(self, name: str, moments: Iterable[str]) -> list[Point]:
        """The moments of each command of an operation."""
        counts = self.trace(name)
        settled = operations.OPERATIONS[name].settled
        if settled is not None:
            first = Cloud.HOSTS[0]
            counts[first] = min(counts[first], settled)
        return [
            Point(host, number, when)
            for host, count in counts.items()
            for number in range(1, count + 1)
            for when in moments
        ]

    def strike(self, name: str, point: Point, ending: str) -> Verdict:
        """Kill an operation at a point, start again, and look at what there is.

        :param ending: a name of treatment.ENDINGS: how the server is treated afterwards
        """
        started = time.monotonic()
        operation = operations.OPERATIONS[name]
        world = self.ready(operation.begins_in, operation.hosts, operation.one_disk)
        world.restore(operation.begins_in)
        label = f"{name}-{str(point).replace(':', '-')}-{ending}"

        def act() -> None:
            cloud = self.open(world, operation.hosts, operation.one_disk)
            for node in cloud.nodes.values():
                node.clear_commands()
            point.order(cloud.nodes[point.host])
            operation.act(cloud)

        def check() -> Any:
            return self._check(world, operation, ending)

        log = self.log(f"{label}-1-killed")
        ended = children.call(act, log, LIMIT)
        problems: tuple[str, ...]
        command = ""
        if not ended.killed:
            problems = (f"the service was not killed: {ended.error or 'it went on'}",)
        else:
            log = self.log(f"{label}-2-after")
            checked = children.call(check, log, LIMIT)
            command, found = checked.value or ("", [])
            problems = tuple(found)
            if checked.error or checked.killed:
                problems = (f"it cannot be looked at: {checked.error}",)
        return Verdict(
            operation=name,
            family=self.family,
            point=str(point),
            ending=ending,
            command=command,
            problems=problems,
            seconds=time.monotonic() - started,
            log=str(log),
        )

    def _check(
        self, world: World, operation: operations.Operation, ending: str
    ) -> tuple[str, list[str]]:
        before = Cloud(world, self.family, operation.hosts)
        command = _last_command(before)
        notes = world.notes()
        cloud = self.open(world, operation.hosts, operation.one_disk)
        cloud.await_commands()
        cloud.heal()
        moves = cloud.migrations()
        wrong = invariants.owned(cloud) + invariants.allocated(cloud, moves)
        wrong += treatment.ENDINGS[ending](cloud, operation)
        cloud.regain()
        if operation.hosts > 1:
            # The other host finds out that the server is gone.
            cloud.heal()
        wrong += invariants.emptied(cloud, notes["entries"])
        wrong += invariants.allocated(cloud, moves)
        return command, wrong + invariants.unharmed(cloud, notes["healthy"])


def _last_command(cloud: Cloud) -> str:
    """What ran last on any node, before a cloud is started again."""
    from tests.functional.base import simulated_node

    commands = [
        command
        for host in cloud.HOSTS
        if (cloud.world.path / host).is_dir()
        for command in simulated_node(cloud.world.path / host, cloud.FAMILY).commands()
    ]
    last = max(commands, key=lambda command: command.start, default=None)
    return " ".join(last.argv) if last else ""
