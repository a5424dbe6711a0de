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

"""Bandwidth is what the flavor says, in both directions and after every event.

It is measured between a container and the host, on the plain pair that connects them:
Open vSwitch's datapath in user space takes a guest's frames before tc sees them.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.network.base import NetworkTest
from tests.network.guest import Guest
from tests.network.openvswitch import devname_of

#: Kilobytes a second, to the guest and from it.
# Of a busy machine, each of many measurements may take all its tries.
pytestmark = pytest.mark.timeout(300)

INBOUND, OUTBOUND = 3000, 1500
HOST_ADDRESS = "192.0.2.1"
GUEST_ADDRESS = "192.0.2.2"


class BandwidthTests:
    """With either family."""

    def test_bandwidth(self: Any) -> None:
        flavor = self._create_flavor(
            name="ct1.limited",
            memory_mb=512,
            vcpu=1,
            disk=1,
            ephemeral=0,
            extra_spec={
                "quota:vif_inbound_average": str(INBOUND),
                "quota:vif_outbound_average": str(OUTBOUND),
            },
        )
        self.flavor_id = flavor
        server = self.boot("limited")
        self.install_hook()
        self.assert_limited(server, self.port_of(server), "eth0")
        self.restart_inside(server)
        self.assert_limited(server, self.port_of(server), "eth0")
        before = self.port_of(server)["id"]
        request = {"net_id": self.neutron.network_1["id"]}
        self.api.attach_interface(server["id"], {"interfaceAttachment": request})
        self.wait_until("port", lambda: len(self.ports_of(server)) == 2)
        (added,) = [port for port in self.ports_of(server) if port["id"] != before]
        self.assert_limited(server, added, "eth1")
        self.delete(server)
        assert [name for name in Guest().links() if name.startswith("ifb")] == []


class Bandwidth(NetworkTest):
    """What the tests above need."""

    __test__ = False

    def assert_limited(
        self, server: dict[str, Any], port: dict[str, Any], name: str
    ) -> None:
        """What gets through in each direction is within 10 % of the limit."""
        host, guest = Guest(), self.guest(server)
        devname = devname_of(port)
        for end, device, address in (
            (host, devname, HOST_ADDRESS),
            (guest, name, GUEST_ADDRESS),
        ):
            end.address(f"{address}/24", device)
        assert self.measured(host, guest, GUEST_ADDRESS, INBOUND) == near(INBOUND)
        assert self.measured(guest, host, HOST_ADDRESS, OUTBOUND) == near(OUTBOUND)
        for end, device in ((host, devname), (guest, name)):
            end.ip("address", "flush", "dev", device)

    def measured(
        self, sender: Guest, receiver: Guest, address: str, expected: int
    ) -> float:
        """Kilobytes a second. A machine that is busy otherwise is given more time."""
        found = 0.0
        for seconds in (1.5, 3, 6, 12):
            found = sender.throughput(receiver, address, seconds) / 1000
            if found == near(expected):
                break
        return found


def near(kilobytes: int) -> Any:
    """What counts as that much."""
    return pytest.approx(kilobytes, rel=0.1)


class TestBandwidthWithVzctl4(BandwidthTests, Bandwidth):
    __test__ = True
    FAMILY = "4"


class TestBandwidthWithVzctl9(BandwidthTests, Bandwidth):
    __test__ = True
    FAMILY = "9"
