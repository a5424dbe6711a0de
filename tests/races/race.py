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


"""Many services make and remove containers at once, on hosts that share a disk.

Two simulated nodes of vzctl 4 have their private areas in one directory, and share the
directory of the claims, as doc/source/options.rst asks for. Processes, half of them on
each, make containers and remove them, some at a time. Each leaves its name in the tree
of each of its containers. What must hold:

* no CTID belongs to two containers at the same time, on whichever host;
* whoever removes a container finds its own name in it;
* at the end there is nothing left on either host.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
import uuid
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import privsep
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.simulator.node import SimNode

HOSTS = ("host1", "host2")
#: How many containers a process has at a time.
AT_ONCE = 4
NAME = "whose"


@dataclasses.dataclass(frozen=True)
class Life:
    """One container's: from when it was surely there until it was surely there."""

    ctid: str
    since: float
    until: float


class Worker:
    """A service on one of the hosts, in a process of its own."""

    def __init__(self, node: ovz_node.Node, sim: SimNode, private: Path) -> None:
        self._node = node
        self._image = support.add_image(sim)
        self._private = private
        self._alive: list[tuple[OvzContainer, float]] = []
        self.lives: list[Life] = []

    def work(self, count: int) -> None:
        """Make that many containers, and remove them."""
        for _ in range(count):
            if len(self._alive) == AT_ONCE:
                self._remove()
            self._make()
        while self._alive:
            self._remove()

    def _make(self) -> None:
        one = support.create(self._node, self._image, str(uuid.uuid4()))
        self._alive.append((one, time.monotonic()))
        with (self._private / one.ovz_id / NAME).open("x") as file:
            file.write(str(one.uuid))

    def _remove(self) -> None:
        one, since = self._alive.pop(0)
        found = (self._private / one.ovz_id / NAME).read_text()
        if found != one.uuid:
            raise AssertionError(f"container {one.ovz_id} of {one.uuid} is {found}'s")
        until = time.monotonic()
        one.delete()
        self.lives.append(Life(one.ovz_id, since, until))


def open_host(directory: Path, number: int) -> tuple[SimNode, ovz_node.Node]:
    """One of the two hosts; the private areas and the claims are those of the first."""
    sim = support.simulated(directory / HOSTS[number], "4")
    first = directory / HOSTS[0]
    sim.set_vz_conf(VE_PRIVATE=f"{first}/vz/private/$VEID")
    claims = first / "claims"
    claims.mkdir(exist_ok=True)
    node = support.open_node(sim, HOSTS[number], lock_dir=str(claims), lock_wait=60)
    return sim, node


def run(directory: Path, number: int, count: int, start: Any, results: Any) -> None:
    """What each process does."""
    if os.geteuid() != 0:
        privsep.context.set_client_mode(False)
    sim, node = open_host(directory, number % 2)
    worker = Worker(node, sim, directory / HOSTS[0] / "vz/private")
    start.wait()
    worker.work(count)
    results.put(worker.lives)


def shared_numbers(lives: list[Life]) -> list[str]:
    """The CTIDs that belonged to two containers at the same time."""
    ends: dict[str, float] = {}
    shared = set()
    for life in sorted(lives, key=lambda life: life.since):
        if life.since < ends.get(life.ctid, 0):
            shared.add(life.ctid)
        ends[life.ctid] = max(life.until, ends.get(life.ctid, 0))
    return sorted(shared)


def race(directory: Path, processes: int, count: int) -> tuple[list[Life], list[str]]:
    """Let them all work.

    :returns: what has lived, and a sentence for each thing that is wrong
    """
    nodes = [open_host(directory, number)[1] for number in range(2)]
    context: SpawnContext = multiprocessing.get_context("spawn")
    start, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=run, args=(directory, number, count, start, results))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    lives: list[Life] = []
    for worker in workers:
        while worker.is_alive():
            worker.join(0.1)
            while not results.empty():
                lives += results.get()
    while not results.empty():
        lives += results.get()
    wrong = [f"CTID {ctid} was two containers'" for ctid in shared_numbers(lives)]
    failed = sum(worker.exitcode != 0 for worker in workers)
    if failed:
        wrong.append(f"{failed} processes failed")
    if len(lives) != processes * count:
        wrong.append(f"{len(lives)} containers lived, not {processes * count}")
    for host, node in zip(HOSTS, nodes, strict=True):
        sim = SimNode(directory / host, "4")
        wrong += [
            f"{kind} of {host}: {n}" for kind, n in support.traces(sim, node).items()
        ]
    return lives, wrong
