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
"""``ip`` and ``tc``: the machine's own, or stand-ins for a few of their commands.

The stand-ins know what the driver and its hook ask, in the words in which they ask
it, and refuse everything else. Recorded with iproute2 6.1.0.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

from ovzsim import base, links
from ovzsim.base import Exit, Unmodelled
from ovzsim.call import Call

_NAME = r"([^\s/]{1,15})"
_MTU = r"(?: mtu (\d+))?"
_LOWEST_MTU, _HIGHEST_MTU = 68, 65535
_NOT_READ = "We have an error talking to the kernel\n"


def main(call: Call, args: list[str]) -> int:
    """Runs ``ip …`` or ``tc …``."""
    call.claim_faults("", "")
    with call.work():
        if call.host.switch("netns"):
            return _real(call, args)
        kind = _Ip if call.program == "ip" else _Tc
        return kind(call).run(args)


def _real(call: Call, args: list[str]) -> int:
    import subprocess  # slow to import

    captured = call.streams.captures
    done = subprocess.run(
        [base.system_program(call.program), *args],
        input=call.stdin,
        stdout=subprocess.PIPE if captured else None,
        stderr=subprocess.PIPE if captured else None,
    )
    if captured:
        call.streams.out(done.stdout.decode())
        call.streams.err(done.stderr.decode())
    return done.returncode


class _Failed(Exception):
    """One command failed; the batch goes on with the next."""


class _Abort(_Failed):
    """One command failed in a way that ends the program, also with -force."""


def _no_device(name: str) -> _Failed:
    return _Failed(f'Cannot find device "{name}"\n')


class _Program:
    """What both have in common: batches, and commands as regular expressions."""

    commands: tuple[tuple[str, Callable[..., None]], ...]
    failure = 1

    def __init__(self, call: Call) -> None:
        self.call = call
        self.streams = call.streams
        self.links = links.Plain(call.host)

    def run(self, args: list[str]) -> int:
        """Runs one command, or a batch of them."""
        if args == ["-force", "-batch", "-"]:
            return self._batch(self._stdin().decode().splitlines())
        line = " ".join(args)
        if self.look(line):
            return 0
        try:
            self._do(line)
        except _Failed as failed:
            raise Exit(self.failure, str(failed)) from None
        return 0

    def look(self, line: str) -> bool:
        """Answers a question; False when the line is none."""
        raise NotImplementedError

    def _stdin(self) -> bytes:
        if self.call.stdin is not None:
            return self.call.stdin
        chunks = []
        while chunk := os.read(0, 65536):
            chunks.append(chunk)
        return b"".join(chunks)

    def _batch(self, lines: list[str]) -> int:
        rc = 0
        for number, line in enumerate(lines, 1):
            try:
                self._do(line)
            except _Abort as failed:
                self.streams.err(str(failed))
                return 255
            except _Failed as failed:
                self.streams.err(f"{failed}Command failed -:{number}\n")
                rc = 1
        return rc

    def _do(self, line: str) -> None:
        for pattern, command in self.commands:
            found = re.fullmatch(pattern, line)
            if found:
                command(self, *found.groups())
                return
        raise Unmodelled(f"{self.call.program} {line}")

    def need(self, name: str) -> None:
        """:raises _Failed: there is no such interface."""
        if not self.links.exists(name):
            raise _no_device(name)


class _Ip(_Program):
    def look(self, line: str) -> bool:
        """``ip -j -d link show``"""
        if line != "-j -d link show":
            return False
        self.streams.out(json.dumps([self._link(n) for n in self.links.names()]) + "\n")
        return True

    def _link(self, name: str) -> dict[str, Any]:
        held = self.links.record(name)
        flags = ["BROADCAST", "MULTICAST", *(["UP", "LOWER_UP"] if held["up"] else [])]
        found: dict[str, Any] = {
            "ifname": name,
            "flags": flags,
            "mtu": int(self.links.get(name, "mtu")),
            "operstate": "UP" if held["up"] else "DOWN",
            "link_type": "ether",
            "address": self.links.get(name, "address"),
        }
        master = os.path.join(self.call.host.interface(name), "master")
        if os.path.islink(master):
            found["master"] = os.path.basename(os.readlink(master))
        if held["peer"]:
            found["link"] = held["peer"]
        elif held["kind"] == "veth":
            found |= {"link_index": 2, "link_netnsid": 0}
        if held["kind"]:
            found["linkinfo"] = {"info_kind": held["kind"]}
        return found

    def set_up(self, name: str) -> None:
        """``link set dev X up``"""
        self.need(name)
        self.links.set(name, operstate="up")
        self.links.note(name, up=True)

    def set_mtu(self, name: str, mtu: str) -> None:
        """``link set dev X mtu M``"""
        self.need(name)
        self._check_mtu(mtu)
        self.links.set(name, mtu=mtu)

    @staticmethod
    def _check_mtu(mtu: str) -> None:
        if int(mtu) < _LOWEST_MTU:
            raise _Failed("Error: mtu less than device minimum.\n")
        if int(mtu) > _HIGHEST_MTU:
            raise _Failed("Error: mtu greater than device maximum.\n")

    def set_master(self, name: str, bridge: str) -> None:
        """``link set dev X master B``"""
        if not self.links.exists(bridge):
            raise _Abort(
                f'Error: argument "{bridge}" is wrong: Device does not exist\n\n'
            )
        self.need(name)
        if self.links.record(bridge)["kind"] != "bridge":
            raise _Failed("RTNETLINK answers: Operation not supported\n")
        self.links.enslave(name, bridge)

    def add_ifb(self, name: str) -> None:
        """``link add name X type ifb``"""
        if not self.links.add(name, "02:00:00:00:00:0c", "ifb"):
            raise _Failed("RTNETLINK answers: File exists\n")
        self.links.set(name, operstate="down")
        self.links.note(name, up=False)

    def add_pair(
        self, name: str, mtu: str | None, peer: str, peer_mtu: str | None
    ) -> None:
        """``link add name X [mtu M] type veth peer name P [mtu M]``"""
        if self.links.exists(name) or self.links.exists(peer):
            raise _Failed("RTNETLINK answers: File exists\n")
        for value in filter(None, (mtu, peer_mtu)):
            self._check_mtu(value)
        self.links.add_pair(name, peer)
        for end, value in ((name, mtu), (peer, peer_mtu)):
            if value:
                self.links.set(end, mtu=value)

    def delete(self, name: str) -> None:
        """``link del dev X``"""
        self.need(name)
        self.links.remove(name)

    commands = (
        (rf"link set dev {_NAME} up", set_up),
        (rf"link set dev {_NAME} mtu (\d+)", set_mtu),
        (rf"link set dev {_NAME} master {_NAME}", set_master),
        (rf"link add name {_NAME} type ifb", add_ifb),
        (
            rf"link add name {_NAME}{_MTU} type veth peer name {_NAME}{_MTU}",
            add_pair,
        ),
        (rf"link del dev {_NAME}", delete),
    )


class _Tc(_Program):
    """What is set lies in an interface's record: tbf, ingress, redirects.

    A test may put somebody else's qdisc there: foreign_root, as tc's JSON has it.
    """

    def look(self, line: str) -> bool:
        """``tc -j qdisc show``, ``tc filter show dev X parent ffff:``"""
        if line == "-j qdisc show":
            found = [q for name in self.links.names() for q in self._qdiscs(name)]
            self.streams.out(json.dumps(found) + "\n")
            return True
        asked = re.fullmatch(rf"filter show dev {_NAME} parent ffff:", line)
        if not asked:
            return False
        if not self.links.exists(asked[1]):
            raise Exit(1, f'Cannot find device "{asked[1]}"\n')
        for number, target in enumerate(self._held(asked[1])["redirects"]):
            self.streams.out(_FILTER.format(number=800 + number, target=target))
        return True

    def _held(self, name: str) -> dict[str, Any]:
        nothing = {"tbf": "", "foreign_root": {}, "ingress": False, "redirects": []}
        return nothing | self.links.record(name)

    def _qdiscs(self, name: str) -> list[dict[str, Any]]:
        held = self._held(name)
        root: dict[str, Any] = {"kind": "noqueue", "handle": "0:", "options": {}}
        if held["tbf"]:
            words = held["tbf"].split()
            options = dict(zip(words[::2], words[1::2], strict=True))
            rate = int(options["rate"].removesuffix("bps"))
            root = {"kind": "tbf", "handle": "1f0:", "options": {"rate": rate}}
        root |= held["foreign_root"]
        found = [{"dev": name, "root": True, "refcnt": 2} | root]
        if held["ingress"]:
            place = {"handle": "ffff:", "dev": name, "parent": "ffff:fff1"}
            found.append({"kind": "ingress", **place, "options": {}})
        return found

    def replace_root(self, name: str, tbf: str) -> None:
        """``qdisc replace dev X root handle 1f0: tbf …``"""
        self.need(name)
        self.links.note(name, tbf=tbf, foreign_root={})

    def add_ingress(self, name: str) -> None:
        """``qdisc add dev X handle ffff: ingress``"""
        self.need(name)
        if self._held(name)["ingress"]:
            raise _Failed("Error: Exclusivity flag on, cannot modify.\n")
        self.links.note(name, ingress=True, redirects=[])

    def add_redirect(self, name: str, target: str) -> None:
        """``filter add dev X parent ffff: … action mirred egress redirect dev IFB``"""
        if not self.links.exists(target):
            raise _Failed(
                f'Cannot find device "{target}"\nbad action parsing\n'
                'parse_action: bad value (5:mirred)!\nIllegal "action"\n'
            )
        self.need(name)
        held = self._held(name)
        if not held["ingress"]:
            raise _Failed(f"Error: Parent Qdisc doesn't exists.\n{_NOT_READ}")
        self.links.note(name, redirects=[*held["redirects"], target])

    def delete_root(self, name: str) -> None:
        """``qdisc del dev X root``"""
        self.need(name)
        held = self._held(name)
        if not held["tbf"] and not held["foreign_root"]:
            raise _Failed("Error: Cannot delete qdisc with handle of zero.\n")
        self.links.note(name, tbf="", foreign_root={})

    def delete_ingress(self, name: str) -> None:
        """``qdisc del dev X ingress``"""
        self.need(name)
        if not self._held(name)["ingress"]:
            raise _Failed("Error: Cannot find specified qdisc on specified device.\n")
        self.links.note(name, ingress=False, redirects=[])

    commands = (
        (
            rf"qdisc replace dev {_NAME} root handle 1f0: tbf "
            r"(rate \d+bps burst \d+b limit \d+b(?: peakrate \d+bps mtu \d+b)?)",
            replace_root,
        ),
        (rf"qdisc add dev {_NAME} handle ffff: ingress", add_ingress),
        (
            rf"filter add dev {_NAME} parent ffff: protocol all prio 1 "
            rf"u32 match u32 0 0 action mirred egress redirect dev {_NAME}",
            add_redirect,
        ),
        (rf"qdisc del dev {_NAME} root", delete_root),
        (rf"qdisc del dev {_NAME} ingress", delete_ingress),
    )


_FILTER = """filter protocol all pref 1 u32 chain 0\x20
filter protocol all pref 1 u32 chain 0 fh 800: ht divisor 1\x20
filter protocol all pref 1 u32 chain 0 fh 800::{number} order 2048 key ht 800 bkt 0 \
terminal flowid not_in_hw\x20
  match 00000000/00000000 at 0
\taction order 1: mirred (Egress Redirect to device {target}) stolen
\tindex 1 ref 1 bind 1

"""
