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

"""The demo's story: Nova's services over one node, and three servers' lives."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib import parse

from tests import functional  # noqa: F401 - prepares the process for nova

# isort: split
import fixtures
from nova.tests.functional.api import client as api_client

from tests.demo import screen as screens
from tests.functional import base


@dataclasses.dataclass(frozen=True)
class Happening:
    """Something that took place: a request, a command, a port that was made."""

    start: float
    who: str
    text: tuple[str, ...]
    right: str
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Action:
    """An action on a server that the demo shows.

    :ivar request: the body of ``POST /servers/{id}/action``
    :ivar state: the state that it must lead to
    """

    name: str
    request: dict[str, Any]
    state: str


ACTIONS = (
    Action("soft reboot", {"reboot": {"type": "SOFT"}}, "ACTIVE"),
    Action("hard reboot", {"reboot": {"type": "HARD"}}, "ACTIVE"),
    Action("pause", {"pause": None}, "PAUSED"),
    Action("unpause", {"unpause": None}, "ACTIVE"),
    Action("suspend", {"suspend": None}, "SUSPENDED"),
    Action("resume", {"resume": None}, "ACTIVE"),
    Action("stop", {"os-stop": None}, "SHUTOFF"),
    Action("start", {"os-start": None}, "ACTIVE"),
)

#: CTIDs are cut beyond this where they are shown again.
SHORT_CTID = 13


@dataclasses.dataclass
class Life:
    """What the table at the end tells of a server."""

    name: str
    server: dict[str, Any] = dataclasses.field(default_factory=dict)
    ctid: str = ""
    stations: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict)
    commands: dict[str, int] = dataclasses.field(default_factory=dict)

    def addresses(self) -> list[str]:
        """The server's fixed addresses."""
        return [
            address["addr"]
            for network in self.server["addresses"].values()
            for address in network
        ]


class Demo(base.OpenVZFunctionalTest):
    """Nova's services over a simulated node, telling what happens.

    :ivar screen: where to tell it
    :ivar started: when the demo began, by the monotonic clock
    :ivar image: the image to boot, None for the tests' own
    """

    HOSTS = ()
    HOST = "node-1"
    screen: screens.Screen
    started: float
    image: bytes | None

    def setUp(self) -> None:
        super().setUp()
        self._requests: list[Happening] = []
        self._seen_commands = 0
        self._seen_ports = 0
        if self.image is not None:
            self.image_id = self.glance.add_image(self.image, name="demo-rootfs")
        self._watch_requests()
        self.start_compute(self.HOST)

    def describe_node(self) -> str:
        """What the servers run on, in a few words."""
        return f"a simulated node with {self.driver(self.HOST)._node.family.name}"

    def runTest(self) -> None:
        """The whole story."""
        self._introduce()
        lives = [Life("web-1"), Life("web-2"), Life("db-1")]
        private = {"uuid": self.neutron.network_1["id"]}
        storage = {"uuid": self.neutron.storage_network["id"]}
        self._forget()
        for life in lives:
            networks = [private, storage] if life.name == "db-1" else [private]
            self._boot(life, networks)
        self._show_configuration(lives[0])
        for action in ACTIONS:
            self._act(action, lives)
        self._delete(lives)
        self._show_table(lives)
        self._check_nothing_left()

    # -- the parts -----------------------------------------------------------

    def _introduce(self) -> None:
        self.screen.line(screens.duration(time.monotonic() - self.started))
        self.screen.line(f"Its compute host is {self.describe_node()}.")

    def _boot(self, life: Life, networks: list[dict[str, str]]) -> None:
        ports = f"{len(networks)} port" + ("s" if len(networks) > 1 else "")
        image = self.glance.show(None, self.image_id)["name"]
        self.screen.heading(f"Boot {life.name}", f"image {image}, {ports}")
        began = time.monotonic()
        life.server = self.boot(life.name, networks=networks)
        seconds = time.monotonic() - began
        life.ctid = self.container(life.server)
        life.stations["boot"] = (life.server["status"], seconds)
        for event in self._happenings(life):
            self.screen.entry(event.who, event.text, event.right)
        self.screen.line(
            f"{life.name.ljust(8)} {self.screen.state(life.server['status'])}"
            f"  container {screens.cut(life.ctid, SHORT_CTID)}"
            f"  {', '.join(life.addresses())}"
        )

    def _show_configuration(self, life: Life) -> None:
        self.screen.heading(
            f"The configuration of {life.name}'s container", self.conf_path(life.ctid)
        )
        self.screen.pairs(
            (name, self._on_the_node(value))
            for name, value in sorted(self.node.conf(life.ctid).items())
        )

    def _act(self, action: Action, lives: list[Life]) -> None:
        self.screen.heading(
            action.name.capitalize(),
            f"POST /servers/{{id}}/action {json.dumps(action.request)}",
        )
        for life in lives:
            self._step(life, action.name, lambda life=life: self._ask(life, action))

    def _ask(self, life: Life, action: Action) -> str:
        self.api.post_server_action(life.server["id"], action.request)
        state = str(self.settle(life.server)["status"])
        if state != action.state:
            raise AssertionError(
                f"{action.name} left {life.name} {state}, not {action.state}:"
                f" {self._reason(life)}"
            )
        return state

    def _reason(self, life: Life) -> str:
        """What Nova noted of the last thing that a server was asked."""
        last = self.api.get_instance_actions(life.server["id"])[0]
        noted = self.api.get_instance_action_details(
            life.server["id"], last["request_id"]
        )
        details = [event["details"] for event in noted["events"] if event["details"]]
        return " ".join(details[0].split()) if details else "Nova noted no reason"

    def _delete(self, lives: list[Life]) -> None:
        self.screen.heading("Delete", "DELETE /servers/{id}")
        for life in lives:
            self._step(life, "delete", lambda life=life: self._ask_delete(life))

    def _ask_delete(self, life: Life) -> str:
        self.delete(life.server)
        return "DELETED"

    def _step(self, life: Life, name: str, work: Callable[[], str]) -> None:
        """Do something to a server and show it with the commands that did it."""
        began = time.monotonic()
        state = work()
        life.stations[name] = (state, time.monotonic() - began)
        label = f"{life.name.ljust(7)} {state.ljust(9)}  "
        room = self.screen.width - len(label) - 11
        shown = (
            f"{self.screen.style('title', life.name.ljust(7))}"
            f" {self.screen.state(state)}{' ' * (11 - len(state))}"
        )
        for text, seconds in self._in_short(life):
            right = self.screen.style("dim", seconds.rjust(9))
            self.screen.line(f"{shown}{screens.cut(text, room).ljust(room)}  {right}")
            shown = " " * len(label)

    def _in_short(self, life: Life) -> list[tuple[str, str]]:
        """The commands since the last call; those that only look are counted."""
        happened = [event for event in self._happenings(life) if event.who == "node"]
        done = [event for event in happened if not event.text[0].startswith("vzlist")]
        looks = [event.seconds for event in happened if event not in done]
        lines = [(" ".join(map(str.strip, event.text)), event.right) for event in done]
        if looks:
            times = f"vzlist, {len(looks)} times" if len(looks) > 1 else "vzlist, once"
            lines.append((times, screens.duration(sum(looks))))
        return lines

    def _show_table(self, lives: list[Life]) -> None:
        self.screen.heading("Three servers' lives")
        rows = [
            ["container", *(screens.cut(life.ctid, SHORT_CTID) for life in lives)],
            ["addresses", *("\n".join(life.addresses()) for life in lives)],
        ]
        for name in lives[0].stations:
            row = [name]
            for life in lives:
                state, seconds = life.stations[name]
                row.append(f"{state.ljust(9)} {screens.duration(seconds).rjust(7)}")
            rows.append(row)
        counts = (
            "\n".join(f"{n} {program}" for program, n in sorted(life.commands.items()))
            for life in lives
        )
        rows.append(["commands", *counts])
        self.screen.table(["server", *(life.name for life in lives)], rows)

    def _check_nothing_left(self) -> None:
        left = self.left_on(self.node)
        if left:
            raise AssertionError(f"this is left on the node: {', '.join(left)}")
        self.screen.line()
        self.screen.line(
            self.screen.style("good", "All went well, and nothing is left on the node.")
        )

    # -- what happened -------------------------------------------------------

    def conf_path(self, ctid: str) -> str:
        """Where a container's configuration is, for the reader."""
        return f"/etc/vz/conf/{ctid}.conf"

    def _on_the_node(self, text: str) -> str:
        """A text without the node's directory, which stands for its root."""
        return text.replace(str(self.node.root), "")

    def _forget(self) -> None:
        self._requests.clear()
        self._seen_commands = len(self.node.commands())
        self._seen_ports = len(self.ovs.calls)

    def _happenings(self, life: Life) -> list[Happening]:
        """All that took place since the last call, in order."""
        found = [*self._requests, *self._commands(life), *self._port_calls()]
        self._requests.clear()
        return sorted(found, key=lambda event: event.start)

    def _commands(self, life: Life) -> Iterator[Happening]:
        records = self.node.commands()
        for record in records[self._seen_commands :]:
            name = record.argv[0]
            life.commands[name] = life.commands.get(name, 0) + 1
            argv = [self._on_the_node(word) for word in record.argv]
            lines = screens.command_lines(argv, self.screen.room())
            right = screens.duration(record.seconds or 0.0)
            if record.rc:
                right = f"exit {record.rc}, {right}"
            seconds = record.seconds or 0.0
            yield Happening(record.start, "node", tuple(lines), right, seconds)
        self._seen_commands = len(records)

    def _port_calls(self) -> Iterator[Happening]:
        calls = list(self.ovs.calls)
        for call in calls[self._seen_ports :]:
            text = f"os-vif: {call.what} {call.bridge} {call.devname}"
            yield Happening(call.start, "ovs", (text,), "")
        self._seen_ports = len(calls)

    def _watch_requests(self) -> None:
        """Keep every request that asks for something; looks are left out."""
        real = api_client.TestOpenStackClient.request
        main = threading.current_thread()
        requests = self._requests

        def request(client: Any, url: str, method: str = "GET", **rest: Any) -> Any:
            start = time.time()
            response = real(client, url, method, **rest)
            if method != "GET":
                who = "nova" if threading.current_thread() is main else "neutron"
                path = parse.urlsplit(url).path.removeprefix("/v2.1").replace("//", "/")
                text = f"{method} {path}{self._summary(rest.get('body'))}"
                status = f"HTTP {response.status_code}"
                requests.append(Happening(start, who, (text,), status))
            return response

        self.useFixture(
            fixtures.MonkeyPatch(
                "nova.tests.functional.api.client.TestOpenStackClient.request", request
            )
        )

    @staticmethod
    def _summary(body: str | None) -> str:
        """What matters of a request's body."""
        if not body:
            return ""
        content = json.loads(body)
        if "server" in content:
            return f"  name={content['server']['name']}"
        if "events" in content:
            events = (f"{e['name']} tap{e['tag'][:11]}" for e in content["events"])
            return f"  {', '.join(events)}"
        return f"  {json.dumps(content)}"
