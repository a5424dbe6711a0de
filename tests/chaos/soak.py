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

"""Everything at random, on one world, for as long as is wanted."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nova.tests.functional.api import client as api_client

from tests.chaos import children, invariants, matrix, treatment
from tests.chaos.cloud import Cloud
from tests.chaos.world import World

#: How many servers there are at most, besides the healthy one.
SERVERS = 3
#: How many requests a service gets in its life, and how many commands it may run.
REQUESTS = 5
COMMANDS = 25
#: Seconds that the end takes at most: the last start, and the end of each server.
_END = 60.0

_Request = Callable[[Cloud, dict[str, Any]], dict[str, Any]]


def _plain(action: str, arguments: Any = None) -> _Request:
    return lambda _cloud, _server: {action: arguments}


#: What a server can be asked in each state, as bodies of ``POST /action``.
REQUESTED: Mapping[str, tuple[_Request, ...]] = {
    "ACTIVE": (
        _plain("reboot", {"type": "SOFT"}),
        _plain("reboot", {"type": "HARD"}),
        _plain("os-stop"),
        _plain("pause"),
        _plain("suspend"),
        _plain("rescue", {}),
        _plain("createImage", {"name": "snapshot"}),
        lambda cloud, server: {"rebuild": {"imageRef": cloud.image_id}},
        lambda cloud, server: {"resize": {"flavorRef": _other(cloud, server)}},
    ),
    "SHUTOFF": (_plain("os-start"), _plain("createImage", {"name": "snapshot"})),
    "PAUSED": (_plain("unpause"),),
    "SUSPENDED": (_plain("resume"),),
    "RESCUE": (_plain("unrescue"),),
    "VERIFY_RESIZE": (_plain("confirmResize"), _plain("revertResize")),
    "ERROR": (_plain("reboot", {"type": "HARD"}),),
}


def _other(cloud: Cloud, server: dict[str, Any]) -> str:
    """The flavor that a server does not have."""
    small = cloud.instance(server).flavor.flavorid == cloud.flavor_id
    return cloud.large if small else cloud.flavor_id


@dataclass
class Tally:
    """What has happened so far."""

    seed: int
    lives: int = 0
    killed: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Life:
    """One service, from its start to its death."""

    def __init__(self, cloud: Cloud, chance: random.Random) -> None:
        self._cloud = cloud
        self._chance = chance

    def look(self) -> list[str]:
        """What is wrong after the start."""
        cloud = self._cloud
        cloud.await_commands()
        cloud.heal()
        moves = {*cloud.migrations(), *cloud.world.notes().get("moves", [])}
        cloud.world.note(moves=sorted(moves))
        wrong = invariants.owned(cloud) + invariants.allocated(cloud, moves)
        return wrong + invariants.unharmed(cloud, cloud.world.notes()["healthy"])

    def spend(self) -> list[str]:
        """Do this and that, until a command ends it; the names of what was asked."""
        for node in self._cloud.nodes.values():
            node.clear_commands()
            number = self._chance.randint(1, COMMANDS)
            when = self._chance.choice(matrix.MOMENTS)
            matrix.Point("", number, when).order(node)
        asked: list[str] = []
        for server in self._servers():
            if server["OS-EXT-STS:task_state"]:
                # Nova does nothing with it any more.
                try:
                    self._cloud.reset(server)
                except api_client.OpenStackApiException:
                    # It was not given to a cell (OrphanedObjectError in Nova 34), and
                    # Nova keeps what the scheduler has allocated for it.
                    self._cloud.api.delete_server(server["id"])
                    known = self._cloud.world.notes().get("moves", [])
                    self._cloud.world.note(moves=sorted({*known, server["id"]}))
        for _ in range(REQUESTS):
            servers = self._servers()
            # Two at a time: what one does must not disturb the other.
            for server in self._chance.sample(servers, min(2, len(servers))):
                # Nova may refuse what it has another task for.
                with suppress(api_client.OpenStackApiException):
                    asked.append(self._ask(server))
            if len(servers) < SERVERS and self._chance.random() < 0.7:
                asked.append(self._boot(len(servers)))
            self._note(asked)
            for server in self._servers():
                self._cloud.rest(server["id"], 20.0)
        return asked

    def _note(self, asked: list[str]) -> None:
        # This process may be gone at any instant.
        self._cloud.world.note(asked=asked)

    def _servers(self) -> list[dict[str, Any]]:
        found = self._cloud.admin_api.get_servers()
        return [server for server in found if server["name"] != "healthy"]

    def _ask(self, server: dict[str, Any]) -> str:
        cloud, chance = self._cloud, self._chance
        if chance.random() < 0.1:
            cloud.admin_api.delete_server(server["id"])
            return "delete"
        if server["status"] == "ACTIVE" and chance.random() < 0.25:
            return self._wire(server)
        requests = REQUESTED.get(server["status"], REQUESTED["ERROR"])
        body = chance.choice(requests)(cloud, server)
        cloud.admin_api.post_server_action(server["id"], body)
        return next(iter(body))

    def _wire(self, server: dict[str, Any]) -> str:
        cloud = self._cloud
        ports = cloud.api.get_port_interfaces(server["id"])
        if len(ports) > 1:
            cloud.api.detach_interface(server["id"], ports[-1]["port_id"])
            return "detach"
        request = {"net_id": cloud.neutron.storage_network["id"]}
        cloud.api.attach_interface(server["id"], {"interfaceAttachment": request})
        return "attach"

    def _boot(self, number: int) -> str:
        cloud = self._cloud
        body = {
            "name": f"soak-{number}-{self._chance.randrange(10**6)}",
            "imageRef": cloud.image_id,
            "flavorRef": cloud.flavor_id,
            "networks": [{"uuid": cloud.neutron.network_1["id"]}],
        }
        cloud.admin_api.post_server({"server": body})
        return "spawn"

    def end(self) -> list[str]:
        """Bring each server back to work, and delete it; what is wrong then."""
        cloud = self._cloud
        cloud.await_commands()
        cloud.heal()
        wrong = []
        for server in self._servers():
            wrong += treatment.finish(cloud, server, keeps=False)
        cloud.heal()
        notes = cloud.world.notes()
        wrong += invariants.emptied(cloud, notes["entries"])
        wrong += invariants.unharmed(cloud, notes["healthy"])
        return wrong + treatment.last(cloud)


class Soak:
    """Lives one after the other, in one world."""

    def __init__(self, place: Path, family: str, seed: int) -> None:
        self._stand = matrix.Stand(place, family)
        self._chance = random.Random(seed)  # noqa: S311 - nothing is kept secret
        self.tally = Tally(seed)

    def run(self, seconds: float) -> Tally:
        """Spend so much time on it, and a little more for the end."""
        until = time.monotonic() + seconds - _END
        world = self._stand.ready("none", 1)
        while time.monotonic() < until and not self.tally.problems:
            self._one(world)
        if not self.tally.problems:
            self._call(world, "the end", lambda life: (life.end(), []))
        return self.tally

    def _one(self, world: World) -> None:
        seed = self._chance.randrange(2**32)
        world.note(asked=[], wrong=[])

        def live(life: Life) -> tuple[list[str], list[str]]:
            wrong = life.look()
            world.note(wrong=wrong)
            return wrong, [] if wrong else life.spend()

        self._call(world, f"life {self.tally.lives}", live, seed)
        self.tally.lives += 1
        for name in world.notes()["asked"]:
            self.tally.requests[name] = self.tally.requests.get(name, 0) + 1

    def _call(
        self,
        world: World,
        name: str,
        what: Callable[[Life], tuple[list[str], list[str]]],
        seed: int = 0,
    ) -> None:
        def work() -> Any:
            for path in world.path.glob("*/sim/faults/*.json"):
                path.unlink()
            cloud = self._stand.open(world, 1)
            chance = random.Random(seed)  # noqa: S311
            return what(Life(cloud, chance))

        log = self._stand.log(name.replace(" ", "-"))
        ended = children.call(work, log, 3 * matrix.LIMIT)
        self.tally.killed += ended.killed
        wrong = world.notes().get("wrong", []) if ended.killed else []
        if ended.value:
            wrong = ended.value[0]
        if ended.error:
            wrong = [ended.error]
        self.tally.problems += [f"{name}: {problem}; see {log}" for problem in wrong]


def main(place: Path, arguments: argparse.Namespace) -> int:
    """Spend the time, and say what came of it; the exit code."""
    seed = arguments.seed
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    families = [arguments.family] if arguments.family else ["4", "9"]
    failed = False
    for family in families:
        soak = Soak(place / family, family, seed)
        tally = soak.run(arguments.soak / len(families))
        failed |= bool(tally.problems)
        print(
            f"family {family}, seed {seed}: {tally.lives} lives, {tally.killed} of them"
            f" ended by SIGKILL; {json.dumps(tally.requests, sort_keys=True)}"
        )
        for problem in tally.problems:
            print(f"  {problem}", file=sys.stderr)
        if tally.problems:
            print(f"  again: --soak {arguments.soak:g} --seed {seed} --family {family}")
    return int(failed)
