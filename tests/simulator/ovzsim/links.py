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
"""Host ends of NICs: directories that stand for them, or real veth pairs.

Which of the two a node has is its switch "netns".
"""

from __future__ import annotations

import json
import os
from typing import Any

from ovzsim import base
from ovzsim.host import Host
from ovzsim.netif import Nic

_COUNTERS = ("bytes", "packets", "errors", "dropped")


def of(host: Host) -> Plain | Real:
    """The network of a node."""
    return Real(host) if host.switch("netns") else Plain(host)


class Plain:
    """Interfaces are directories beneath the node's sys/class/net.

    Only the host has them: nothing stands for the other end of a pair, unless it
    lies on the host too. ``sim/net/NAME.json`` holds what such a directory has no
    file for: kind, peer, up, and what tc has set (see iproute).
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def open(self, ctid: str) -> None:
        """A container gets its network namespace."""

    def close(self, ctid: str, names: list[str]) -> None:
        """A container's namespace goes, with its NICs."""
        for name in names:
            self.remove(name)

    def exists(self, name: str) -> bool:
        """The host has such an interface."""
        return bool(name) and os.path.isdir(self._host.interface(name))

    def names(self) -> list[str]:
        """The host's interfaces, without lo."""
        found = os.listdir(self._host.path("sys/class/net"))
        return sorted(name for name in found if name != "lo")

    def record(self, name: str) -> dict[str, Any]:
        """What is known of an interface besides its directory."""
        try:
            held: dict[str, Any] = json.loads(base.read_text(self._record(name)))
        except FileNotFoundError:
            held = {}  # a test has made the directory
        return {"kind": "", "peer": "", "up": True} | held

    def note(self, name: str, **changes: object) -> None:
        """Changes what is known of an interface."""
        os.makedirs(self._host.sim("net"), exist_ok=True)
        base.write_text(self._record(name), json.dumps(self.record(name) | changes))

    def _record(self, name: str) -> str:
        return self._host.sim("net", f"{name}.json")

    def add(self, name: str, mac: str, kind: str = "bridge") -> bool:
        """Makes an interface; False when the name is taken."""
        place = self._host.interface(name)
        try:
            os.mkdir(place)
        except FileExistsError:
            return False
        os.mkdir(os.path.join(place, "statistics"))
        for counter in _COUNTERS:
            for way in ("rx", "tx"):
                file = os.path.join(place, "statistics", f"{way}_{counter}")
                base.write_text(file, "0\n")
        self.set(name, operstate="up", mtu="1500", address=mac.lower())
        self.note(name, kind=kind)
        return True

    def set(self, name: str, **values: str) -> None:
        """Writes files of an interface's directory."""
        for file, value in values.items():
            base.write_text(
                os.path.join(self._host.interface(name), file), value + "\n"
            )

    def get(self, name: str, file: str) -> str:
        """Reads a file of an interface's directory."""
        return base.read_text(os.path.join(self._host.interface(name), file)).strip()

    def enslave(self, name: str, bridge: str) -> None:
        """Makes an interface a port of a bridge that is there."""
        link = os.path.join(self._host.interface(name), "master")
        if os.path.islink(link):
            os.unlink(link)
        os.symlink(self._host.interface(bridge), link)

    def add_pair(self, name: str, peer: str) -> None:
        """Makes a pair with both ends on the host, where their names are free."""
        for end, other in ((name, peer), (peer, name)):
            self.add(end, "02:00:00:00:00:0a", "veth")
            self.set(end, operstate="down")
            self.note(end, peer=other, up=False)

    def remove(self, name: str) -> None:
        """Takes an interface away, and the other end with it."""
        for end in filter(None, (name, self.record(name)["peer"])):
            self._vanish(str(end))

    def _vanish(self, name: str) -> None:
        base.remove_tree(self._host.interface(name))
        if os.path.exists(self._record(name)):
            os.unlink(self._record(name))

    def plug_4(self, ctid: str, nic: Nic) -> str:
        """Connects a NIC as vzctl 4 does; what it says when the NIC is left out.

        Whatever bears the name already gets the MAC address, and into the bridge.
        """
        del ctid
        made = self.add(nic["host_ifname"], "", "veth")
        self._dress(nic, nic.get("bridge", ""))
        return "" if made else f'Cannot find device "{nic["ifname"]}"'

    def plug_9(self, ctid: str, nic: Nic) -> str:
        """Connects a NIC as libvzctl does: a pair that is there is adopted.

        :returns: what it says about a host end without the other one, which it
            removes, and makes the pair anew; else "".
        """
        del ctid
        name, said = nic["host_ifname"], ""
        peer = self.record(name)["peer"]
        if peer:
            self._vanish(peer)  # it is inside from now on
            self.set(name, operstate="up")
            self.note(name, peer="", up=True)
        elif self.exists(name):
            said = f"Only host part {name} of veth pair exists"
            self.remove(name)
        self.add(name, "", "veth")
        self._dress(nic, nic.get("network", ""))
        return said

    def _dress(self, nic: Nic, bridge: str) -> None:
        if nic.get("host_mac"):
            self.set(nic["host_ifname"], address=nic["host_mac"].lower())
        if self.exists(bridge):
            self.enslave(nic["host_ifname"], bridge)


class Real:
    """Interfaces are the kernel's, and a container's namespace bears its CTID."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def open(self, ctid: str) -> None:
        """Makes the namespace, with its loopback up.

        :raises Unmodelled: there is one of that name, which may be anybody's
        """
        if os.path.lexists(f"/run/netns/{ctid}"):
            raise base.Unmodelled(f"the network namespace {ctid} exists already")
        self._ip("netns", "add", ctid)
        self._ip("-n", ctid, "link", "set", "lo", "up")

    def close(self, ctid: str, names: list[str]) -> None:
        """Removes the namespace and the pairs.

        The kernel removes what is in a namespace some time after the namespace, so
        the pairs go first.
        """
        for name in names:
            self.remove(name)
        if os.path.lexists(f"/run/netns/{ctid}"):
            self._ip("netns", "del", ctid)

    def exists(self, name: str) -> bool:
        """The host has such an interface."""
        return bool(name) and os.path.exists(f"/sys/class/net/{name}")

    def names(self) -> list[str]:
        """The host's interfaces, without lo."""
        return sorted(name for name in os.listdir("/sys/class/net") if name != "lo")

    def add(self, name: str, mac: str, kind: str = "bridge") -> bool:
        """Makes an interface; False when the name is taken."""
        if self.exists(name):
            return False
        self._ip("link", "add", name, "address", mac, "type", kind)
        return True

    def remove(self, name: str) -> None:
        """Takes an interface away, and the other end with it."""
        if self.exists(name):
            self._ip("link", "del", name)

    def _peer(self, name: str) -> str:
        """The other end of a pair, if it lies on the host too; else ""."""
        if not self.exists(name):
            return ""
        mine = self._index(name, "ifindex"), self._index(name, "iflink")
        for other in self.names():
            its = self._index(other, "iflink"), self._index(other, "ifindex")
            if other != name and its == mine:
                return other
        return ""

    @staticmethod
    def _index(name: str, file: str) -> str:
        return base.read_text(f"/sys/class/net/{name}/{file}").strip()

    def plug_4(self, ctid: str, nic: Nic) -> str:
        """Connects a NIC as vzctl 4 does; what it says when the NIC is left out.

        The inner end stays down. Whatever bears the name already gets the MAC
        address, and into the bridge.
        """
        name, inner = nic["host_ifname"], nic["ifname"]
        taken = self.exists(name)
        if not taken:
            self._make_pair(ctid, name, inner)
        self._dress(ctid, nic, nic.get("bridge", ""))
        return f'Cannot find device "{inner}"' if taken else ""

    def plug_9(self, ctid: str, nic: Nic) -> str:
        """Connects a NIC as libvzctl does; see Plain. Both ends are up."""
        name, inner = nic["host_ifname"], nic["ifname"]
        peer, said = self._peer(name), ""
        if peer:
            self._ip("link", "set", peer, "netns", ctid)
            self._ip("-n", ctid, "link", "set", "dev", peer, "name", inner)
            self._ip("link", "set", name, "up")
        else:
            if self.exists(name):
                said = f"Only host part {name} of veth pair exists"
                self.remove(name)
            self._make_pair(ctid, name, inner)
        self._ip("-n", ctid, "link", "set", "dev", inner, "up")
        self._dress(ctid, nic, nic.get("network", ""))
        return said

    def _make_pair(self, ctid: str, name: str, inner: str) -> None:
        # By path: a number may also be the name of a namespace.
        here = f"/proc/{os.getpid()}/ns/net"
        pair = ("name", name, "type", "veth", "peer", "name", inner)
        self._ip("-n", ctid, "link", "add", *pair)
        self._ip("-n", ctid, "link", "set", name, "netns", here)
        self._ip("link", "set", name, "up")

    def _dress(self, ctid: str, nic: Nic, bridge: str) -> None:
        name = nic["host_ifname"]
        if nic.get("host_mac"):
            self._ip("link", "set", "dev", name, "address", nic["host_mac"])
        if nic.get("mac") and os.path.lexists(f"/run/netns/{ctid}"):
            inner = ("dev", nic["ifname"], "address", nic["mac"])
            self._ip("-n", ctid, "link", "set", *inner, may_fail=True)
        if bridge and self.exists(bridge):
            self._ip("link", "set", name, "master", bridge)

    def _ip(self, *argv: str, may_fail: bool = False) -> None:
        import subprocess  # slow to import

        done = subprocess.run(
            [base.system_program("ip"), *argv],
            env={"PATH": base.SYSTEM_PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode and not may_fail:
            raise RuntimeError(f"ip {' '.join(argv)}: {done.stderr.strip()}")
