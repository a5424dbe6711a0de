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
"""``vzmigrate``: moves a container's tree and configuration between two nodes.

OVZ_SIM_PEERS names a JSON file: host name -> directory of its simulated node.
"""

from __future__ import annotations

import json
import os
import shutil

from ovzsim import base
from ovzsim.area import Area
from ovzsim.base import Exit, Unmodelled
from ovzsim.call import Call, link_name, linked_ctid, unlink_name
from ovzsim.container4 import Container
from ovzsim.getopt_long import BadOption, parse
from ovzsim.host import Host
from ovzsim.lock import ContainerLock
from ovzsim.state import State

_USAGE = 1
_CONNECTION = 2
_EXISTS = 9
_CPU = 18
_LOCKED = 20

_KNOWN = {
    "online": False,
    "check-only": False,
    "remove-area": True,
    "keep-dst": False,
    "live": False,
    "nodeps": False,
    "verbose": False,
}
_SHORT = {"-r": "--remove-area", "-v": "--verbose"}


def main(call: Call, args: list[str]) -> int:
    """Runs ``vzmigrate [-r yes|no] [--online] [--check-only] HOST CTID``."""
    try:
        found, words = parse([_SHORT.get(a, a) for a in args], _KNOWN, "vzmigrate")
    except BadOption as error:
        raise Exit(_USAGE, f"{error}\n") from None
    if len(words) != 2:
        raise Exit(_USAGE, "Usage: vzmigrate [options] HOST CTID\n")
    options = dict(found)
    if options.keys() & {"keep-dst", "nodeps"}:
        raise Unmodelled("vzmigrate --keep-dst and --nodeps")
    ctid = linked_ctid(call.host, words[1]) or words[1]
    call.claim_faults("", ctid)
    target = _peer(call, words[0])
    with _Locked(call, ctid):
        _Move(call, target, ctid, options).run()
    return 0


def _peer(call: Call, name: str) -> Host:
    path = call.environment.get("OVZ_SIM_PEERS", "")
    peers = json.loads(base.read_text(path)) if path else {}
    if name not in peers:
        raise Exit(_CONNECTION, f"Can't connect to destination node {name}\n")
    target = Host(peers[name], call.host.family)
    target.ensure()
    return target


class _Locked:
    """The container's lock, with vzmigrate's own exit code."""

    def __init__(self, call: Call, ctid: str) -> None:
        self._lock = ContainerLock(call.host, ctid, call.streams)

    def __enter__(self) -> None:
        try:
            self._lock.acquire()
        except Exit as refused:
            raise Exit(_LOCKED, refused.err) from None

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Move:
    def __init__(
        self, call: Call, target: Host, ctid: str, options: dict[str, str]
    ) -> None:
        self.call = call
        self.target = target
        self.ctid = ctid
        self.online = "online" in options or "live" in options
        self.only_check = "check-only" in options
        self.remove = options.get("remove-area", "yes") == "yes"
        try:
            self.file = call.load(ctid)
        except FileNotFoundError:
            raise Exit(3, f"CT #{ctid} doesn't exist\n") from None
        self.conf, _ = self.file.parse(strict=True)
        self.area = Area(call.host, ctid, self.conf)

    def run(self) -> None:
        """Checks, then moves tree, configuration, name and state."""
        if self.call.host.family != "4":
            raise Unmodelled("vzmigrate of family 9")
        source_root, target_root = self.call.host.root, self.target.root
        there = self.area.private.replace(source_root, target_root, 1)
        if os.path.exists(self.target.conf_path(self.ctid)) or os.path.exists(there):
            raise Exit(_EXISTS, f"CT #{self.ctid} already exists on destination\n")
        if self.online and self.target.switch("other_cpu"):
            raise Exit(_CPU, "CPU of the destination node lacks capabilities\n")
        if self.only_check:
            return
        live = State(self.call.host, self.ctid)
        running = live.running
        if running and not self.online:
            self.call.streams.say("Stopping CT")
        if running:
            live.stopped()
        if live.mounted:
            self.area.umount()
            live.mounted = False
            live.save()
        shutil.copytree(self.area.private, there, symlinks=True)
        self.file.path = self.target.conf_path(self.ctid)
        self.file.lines = [
            ln.replace(source_root, target_root) for ln in self.file.lines
        ]
        self.file.save()
        self._name()
        if running:
            self._start()
        if self.remove:
            self.area.remove()
            conf = self.call.host.conf_path(self.ctid)
            os.replace(conf, f"{conf}.migrated")

    def _name(self) -> None:
        name = self.conf.get("NAME")
        if name:
            link_name(self.target, self.ctid, name, "")
            if self.remove:
                unlink_name(self.call.host, self.ctid, name)

    def _start(self) -> None:
        there = Call("vzctl", self.target, type(self.call.streams)(True), None)
        Container(there, self.ctid).start()
