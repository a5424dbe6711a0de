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
"""``vzmigrate`` of vzctl 4: moves a running container to another node, as it runs.

OVZ_SIM_PEERS names a JSON file: address -> directory of its simulated node.

As the real one, a shell script, it undoes what it did when a step fails, and undoes
nothing when it is killed. Its steps, for which faults are ordered by these names:
check, prepare, copy, freeze, dump, sync, undump, resume, finish. A "pass" that hangs is
an rsync that says something to nobody: that of copy, and of sync. One that hangs
"after" does so when a part has gone, until the node is told to go on.

What is noted as "line" is in bin/vzmigrate.in of vzctl 4.9.4.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator

from ovzsim import base, cgroups, faults
from ovzsim.area import Area
from ovzsim.base import Exit, Unmodelled
from ovzsim.call import Call, link_name, linked_ctid, unlink_name
from ovzsim.container4 import Container
from ovzsim.getopt_long import BadOption, parse
from ovzsim.host import Host
from ovzsim.state import State

_USAGE = 1
_STOPPED = 2
_CONNECTION = 4
_COPY = 6
_EXISTS = 9
_NO_CONTAINER = 10
_NO_KERNEL = 14
_CPU = 18
_LOCKED = 20

_KNOWN = {
    "online": False,
    "live": False,
    "check-only": False,
    "dry-run": False,
    "remove-area": True,
}
_SHORT = {"-r": "--remove-area"}
# Line 29.
_RSYNC = ("-aHAX", "--delete", "--numeric-ids")
_VANISHED = 24
# As ssh: what it is given goes through a shell there, without the words "-l root HOST".
_SSH = "sh -c 'shift 3; eval \"exec $*\"' ssh"
_DEAD_SSH = "sh -c 'cat >/dev/null; exit 255' ssh"


def main(call: Call, args: list[str]) -> int:
    """Runs ``vzmigrate [-r yes|no] [--online] [--check-only] HOST CTID``."""
    if call.host.family != "4":
        raise Unmodelled("vzmigrate of family 9")
    try:
        found, words = parse([_SHORT.get(a, a) for a in args], _KNOWN, "vzmigrate")
    except BadOption as error:
        raise Exit(_USAGE, f"{error}\nInvalid usage\n") from None
    options = dict(found)
    remove = options.get("remove-area", "yes")
    if len(words) != 2 or remove not in ("yes", "no"):
        raise Exit(_USAGE, "Invalid usage\n")
    address, name = words
    ctid = name if name.isdecimal() else linked_ctid(call.host, name)
    if ctid is None:
        raise Exit(_NO_CONTAINER)
    with _lock(call, ctid):
        move = _Move(call, ctid, address, online=bool({"online", "live"} & {*options}))
        move.check()
        if not {"check-only", "dry-run"} & {*options}:
            move.run(remove=remove == "yes")
    return 0


@contextlib.contextmanager
def _lock(call: Call, ctid: str) -> Iterator[None]:
    """The container's lock. That of a process that is gone is in the way, too."""
    path = call.host.lock_path(ctid)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        pid = base.read_text(path).strip()
        raise Exit(_LOCKED, f"Error: CT {ctid} already locked by PID {pid}\n") from None
    with os.fdopen(fd, "w", encoding="ascii") as handle:
        handle.write(f"{os.getpid()}\n")
    call.streams.say(f"Locked CT {ctid}")
    try:
        yield
    finally:
        os.unlink(path)


def _peer(call: Call, address: str) -> Host:
    path = call.environment.get("OVZ_SIM_PEERS", "")
    peers = json.loads(base.read_text(path)) if path else {}
    if address not in peers:
        raise Exit(
            _CONNECTION,
            "Error: Can't connect to destination address using public key\n"
            "Error: Please put your public key to destination node\n",
        )
    target = Host(peers[address], call.host.family)
    target.ensure()
    return target


class _Move:
    def __init__(self, call: Call, ctid: str, address: str, online: bool) -> None:
        self.call = call
        self.host = call.host
        self.ctid = ctid
        self.address = address
        self.online = online
        self.dump = call.host.path("vz/dump", f"tmp-dump.{ctid}")
        self.undo: list[Callable[[], object]] = []

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.call.claim_faults(name, self.ctid)
        faults.strike(self.host, self.call.faults, "before")
        yield
        faults.strike(self.host, self.call.faults, "after")

    def check(self) -> None:
        """What it looks at before anything changes."""
        with self._step("check"):
            try:
                self.file = self.call.load(self.ctid)
            except FileNotFoundError:
                raise Exit(
                    _NO_CONTAINER, f"Error: CT #{self.ctid} doesn't exist\n"
                ) from None
            self.conf, _ = self.file.parse(strict=True)
            self.area = Area(self.host, self.ctid, self.conf)
            self.live = State(self.host, self.ctid)
            if self.online and not self.live.running:
                raise Exit(
                    _STOPPED,
                    "Error: Can't perform live migration of a stopped container\n",
                )
            self.target = _peer(self.call, self.address)
            if self.online:
                self._check_kernels()
            self.private = self._there(self.area.private)
            known = os.path.exists(self.target.conf_path(self.ctid))
            if known and os.path.exists(self.private):
                raise Exit(
                    _EXISTS,
                    f"Error: CT #{self.ctid} already exists on destination node\n",
                )
            if self.online and self.target.switch("other_cpu"):
                raise Exit(
                    _CPU,
                    "Error: CPU capabilities check failed!\n"
                    "Error: Destination node CPU is not compatible\n"
                    "Error: Can't continue live migration\n",
                )

    def _check_kernels(self) -> None:
        """It freezes by /proc/cpt, also where vzctl would do it by CRIU."""
        for host, module, node in (
            (self.host, "vzcpt", "source"),
            (self.target, "vzrst", "destination"),
        ):
            if not host.switch("openvz_kernel"):
                raise Exit(
                    _NO_KERNEL,
                    f"Error: {module} module is not loaded on the {node} node\n"
                    "Error: Can't continue live migration\n",
                )

    def _there(self, path: str) -> str:
        return path.replace(self.host.root, self.target.root, 1)

    def run(self, remove: bool) -> None:
        """Moves the container; what fails is undone, in reverse."""
        if not self.online or self.area.is_ploop:
            raise Unmodelled("vzmigrate without --online, or of a ploop image")
        try:
            self._send()
        except Exit:
            for step in reversed(self.undo):
                step()
            raise
        self.call.streams.say("Cleaning up")
        with self._step("finish"):
            self.live.stopped()
            cgroups.remove(self.host, self.ctid)
            self.area.umount()
            self.live.mounted = False
            self.live.save()
            # Line 1115. When what comes after the dump fails, it stays (line 301).
            os.unlink(self.dump)
            conf = self.host.conf_path(self.ctid)
            if remove:
                self.area.remove()
                unlink_name(self.host, self.ctid, self.conf.get("NAME", ""))
            os.replace(conf, f"{conf}.{'destroyed' if remove else 'migrated'}")

    def _send(self) -> None:
        say = self.call.streams.say
        say("Preparing remote node")
        with self._step("prepare"):
            self.undo.append(self._remove_conf)
            self._send_conf()
        say("Syncing private")
        with self._step("copy"):
            self.undo.append(lambda: base.remove_tree(self.private))
            # Lines 893 and 944 to 951; --sparse is of line 802.
            os.makedirs(self.private, exist_ok=True)
            self._rsync("--sparse", fine=(0, _VANISHED))
        say("Live migrating container...")
        with self._step("freeze"):
            self.undo.append(lambda: self._freeze(False))
            self._freeze(True)
        with self._step("dump"):
            base.write_text(self.dump, "")  # line 1005
        with self._step("sync"):
            self._rsync(fine=(0,))  # line 1056
        with self._step("undump"):
            self.undo.append(self._kill)
            self._undump()
        with self._step("resume"):
            there = State(self.target, self.ctid)
            there.paused = False
            there.save()

    def _send_conf(self) -> None:
        self.file.path = self.target.conf_path(self.ctid)
        self.file.lines = [self._there(line) for line in self.file.lines]
        self.file.save()
        if self.conf.get("NAME"):
            link_name(self.target, self.ctid, self.conf["NAME"], "")
        os.makedirs(self._there(self.area.root), exist_ok=True)

    def _remove_conf(self) -> None:
        base.remove_tree(self._there(self.area.root))
        unlink_name(self.target, self.ctid, self.conf.get("NAME", ""))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.target.conf_path(self.ctid))

    def _rsync(self, *options: str, fine: tuple[int, ...]) -> None:
        import subprocess  # slow to import

        found = faults.claim(self.host, "vzmigrate", "pass", self.ctid)
        hangs = any(fault["action"] == "hang" for fault in found)
        crashes = [fault for fault in found if fault["action"] == "crash"]
        faults.strike(self.host, crashes, "before")
        late = any(fault["when"] == "after" for fault in found)
        if hangs and not late:
            # What it was about to write there.
            base.write_text(os.path.join(self.private, ".half.a1B2c3"), "half")
        ends = (f"{self.area.private}/", f"root@{self.address}:{self.private}/")
        argv = [base.system_program("rsync"), *_RSYNC, *options, *ends]
        shell = (self._held_ssh() if late else _DEAD_SSH) if hangs else _SSH
        env = {**os.environ, "RSYNC_RSH": shell}  # line 651
        ended = subprocess.run(argv, env=env).returncode
        faults.strike(self.host, crashes, "after")
        if ended not in fine:
            raise Exit(_COPY, "Error: Failed to sync container private areas\n")

    def _held_ssh(self) -> str:
        program = os.path.join(os.path.dirname(__file__), "heldssh.py")
        return f"{sys.executable} -I {program} {self.host.sim('go-on')}"

    def _freeze(self, frozen: bool) -> None:
        self.live.paused = frozen
        self.live.save()

    def _undump(self) -> None:
        """The processes come into being there; they have run for as long as here."""
        there = Call("vzctl", self.target, type(self.call.streams)(True), None)
        container = Container(there, self.ctid)
        container.start()
        container.state.since, container.state.paused = self.live.since, True
        container.state.save()

    def _kill(self) -> None:
        there = State(self.target, self.ctid)
        if there.running:
            there.stopped()
            cgroups.remove(self.target, self.ctid)
        if there.mounted:
            Area(self.target, self.ctid, self._conf_there()).umount()
            there.mounted = False
            there.save()

    def _conf_there(self) -> dict[str, str]:
        return self.file.parse(strict=True)[0]
