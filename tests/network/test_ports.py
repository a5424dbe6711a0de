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

"""Servers reach each other through Open vSwitch, whatever happens to them."""

from __future__ import annotations

import os
from typing import Any

from tests.network import wire
from tests.network.base import SwitchedTest, addresses
from tests.network.guest import Guest
from tests.network.openvswitch import devname_of


class PortTests:
    """With either family."""

    def test_servers_reach_each_other(self: Any) -> None:
        one, two = self.boot("one"), self.boot("two")
        self.configured(one)
        self.configured(two)
        self.assert_reaches(one, two)
        port = self.port_of(one)
        assert port["status"] == "ACTIVE"
        assert self.switch.interfaces()[devname_of(port)]["external_ids"] == {
            "iface-id": port["id"],
            "iface-status": "active",
            "attached-mac": port["mac_address"],
            "vm-uuid": one["id"],
        }
        self.delete(one)
        self.delete(two)
        assert self.switch.interfaces() == {}
        assert self.left_on(self.node) == [
            f"sys/class/net/{name}" for name in ("br-int", "ovs-netdev")
        ]

    def test_a_restart_without_nova_compute(self: Any) -> None:
        # Without a VLAN at first, then with one.
        one, two = self.boot("one"), self.boot("two")
        self.install_hook()
        self.computes["compute1"].stop()
        self.restart_inside(one)
        self.configured(two)
        self.assert_reaches(one, two)
        for server in (one, two):
            self.switch.tag(devname_of(self.port_of(server)), 7)
        self.restart_inside(one)
        self.assert_reaches(one, two)
        # What reaches them is that VLAN.
        self.switch.tag(devname_of(self.port_of(two)), 8)
        assert not self.guest(one).reaches(addresses(self.port_of(two))[0], 0.5)

    def test_interfaces_come_and_go(self: Any) -> None:
        one, two = self.boot("one"), self.boot("two", networks="none")
        self.configured(one)
        request = {"net_id": self.neutron.network_1["id"]}
        self.api.attach_interface(two["id"], {"interfaceAttachment": request})
        self.wait_until("port", lambda: self.ports_of(two))
        port = self.port_of(two)
        assert devname_of(port) in self.switch.interfaces()
        self.configured(two)
        self.assert_reaches(one, two)
        self.api.detach_interface(two["id"], port["id"])
        self.wait_until("unplug", lambda: len(self.switch.interfaces()) == 1)
        assert self.guest(two).links() == {}


class Ports(SwitchedTest):
    """What the tests above need."""

    __test__ = False

    def assert_reaches(self, one: dict[str, Any], two: dict[str, Any]) -> None:
        """A server gets answers from another one over IPv4 and IPv6."""
        found = addresses(self.port_of(two))
        assert sorted(":" in address for address in found) == [False, True]
        for address in found:
            assert self.guest(one).reaches(address), address

    def restart_inside(self, server: dict[str, Any]) -> None:
        """Also have it configure its network, after a look at what the hook did."""
        super().restart_inside(server)
        self.configured(server)
        devname = devname_of(self.port_of(server))
        assert Guest().links()[devname]["mtu"] == self.neutron.network_1["mtu"]


class TestPortsWithVzctl4(PortTests, Ports):
    __test__ = True
    FAMILY = "4"


class TestPortsWithVzctl9(PortTests, Ports):
    __test__ = True
    FAMILY = "9"


class TestSpoofing(Ports):
    """Frames with the source of another one, from inside a container."""

    __test__ = True

    def test_a_port_sends_from_its_own_addresses_only(self) -> None:
        one, two, three = (self.boot(name) for name in ("one", "two", "three"))
        for server in (one, two, three):
            self.configured(server)
        # Without protection they get through: the frames are good ones.
        assert self.received(one, two, three) == {"mac", "ip", "both", "arp", "own"}
        self.ovs.protect(self.port_of(three))
        assert self.received(one, two, three) == {"own"}
        self.assert_reaches(three, two)

    def received(
        self, one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]
    ) -> set[str]:
        """What arrives at two of what three sends, some of it in the name of one."""
        victim, target, liar = (self.port_of(s) for s in (one, two, three))
        theirs, (to, _), own = (addresses(p) for p in (victim, target, liar))
        their_mac, to_mac, own_mac = (
            port["mac_address"] for port in (victim, target, liar)
        )
        marks = {name: os.urandom(16) for name in ("mac", "ip", "both", "own")}
        frames = {
            "mac": wire.echo_frame(their_mac, own[0], to_mac, to, marks["mac"]),
            "ip": wire.echo_frame(own_mac, theirs[0], to_mac, to, marks["ip"]),
            "both": wire.echo_frame(their_mac, theirs[0], to_mac, to, marks["both"]),
            "arp": wire.arp_frame(own_mac, theirs[0], to),
            "own": wire.echo_frame(own_mac, own[0], to_mac, to, marks["own"]),
        }
        # The switch keeps their order: what is not there before the last one does
        # not come any more.
        with self.guest(two).wiring("listen", "eth0", marks["own"].hex(), "60") as seen:
            texts = [frame.hex() for frame in frames.values()]
            self.guest(three).wire("frames", "eth0", *texts)
        return {
            name
            for name, frame in frames.items()
            if any(text.startswith(frame.hex()) for text in seen.value)
        }
