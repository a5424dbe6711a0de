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

"""A cloud whose nodes have real interfaces."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from ovznovadriver.openvz import nethook
from tests.functional import base
from tests.network import openvswitch
from tests.network.__main__ import PROJECT
from tests.network.guest import Guest
from tests.simulator.node import SimNode

SEED = "var/lib/cloud/seed/config_drive/openstack/latest/network_data.json"


# What the console script does, for a node that is not in /etc/vz.
_HOOK = """#!{python}
import sys
sys.path.insert(0, {project!r})
sys.argv[0] = {hook!r}
from ovznovadriver.cmd.net_hook import main
sys.exit(main(["--conf-dir", {conf_dir!r}, *sys.argv[1:]]))
"""


class NetworkTest(base.OpenVZFunctionalTest):
    """From the REST API down to the kernel's interfaces.

    Beneath the driver, the tools of OpenVZ are simulated, and Neutron; iproute2 is
    not, nor the interfaces that they make.
    """

    def make_node(self, host: str) -> SimNode:
        root = self._directory / host
        self.nodes[host] = SimNode(root, self.FAMILY, uid_offset=100000, netns=True)
        self.addCleanup(self._reboot, self.nodes[host])
        return self.nodes[host]

    def _reboot(self, node: SimNode) -> None:
        """The node goes down, and with it what the driver has made besides NICs."""
        node.reboot()
        for name in Guest().links():
            if name.startswith(("ifb", "qbr", "qvo")):
                Guest().ip("link", "del", name)

    def install_hook(self) -> None:
        """Set the hook up on the node, as an administrator does."""
        hook = self.node.root / nethook.PROGRAM
        hook.write_text(
            _HOOK.format(
                python=sys.executable,
                project=str(PROJECT),
                hook=str(hook),
                conf_dir=str(self.node.conf_dir),
            )
        )
        hook.chmod(0o755)
        vzctl = f"--family={4 if self.FAMILY == '4' else 7}"
        place = f"--vz-dir={self.node.root / 'etc/vz'}"
        for action in ("install", "check"):
            subprocess.run([hook, action, vzctl, place], check=True)

    def restart_inside(self, server: dict[str, Any]) -> None:
        """A server reboots from inside; nothing but the node starts it again."""
        started = self.node.restart_inside(self.container(server))
        assert started.rc == 0, started

    def guest(self, server: dict[str, Any]) -> Guest:
        """The network of a server's container."""
        return Guest(self.container(server))

    def configured(self, server: dict[str, Any]) -> Guest:
        """A server's network after what cloud-init does at its boot."""
        guest = self.guest(server)
        leases = {
            port["mac_address"]: [self._lease(fixed) for fixed in port["fixed_ips"]]
            for port in self.ports_of(server)
        }
        guest.configure(json.loads((self.tree(server) / SEED).read_text()), leases)
        return guest

    def _lease(self, fixed: dict[str, str]) -> str:
        subnet = self.neutron.show_subnet(fixed["subnet_id"])["subnet"]
        return f"{fixed['ip_address']}/{subnet['cidr'].rpartition('/')[2]}"

    def ports_of(self, server: dict[str, Any]) -> list[dict[str, Any]]:
        """A server's ports, as Neutron knows them."""
        ports = self.neutron.list_ports(is_admin=True)["ports"]
        return [port for port in ports if port["device_id"] == server["id"]]

    def port_of(self, server: dict[str, Any]) -> dict[str, Any]:
        """The port of a server that has one."""
        (port,) = self.ports_of(server)
        return port


class SwitchedTest(NetworkTest):
    """On a real Open vSwitch, by the real os-vif."""

    NEUTRON = openvswitch.Neutron
    OPEN_VSWITCH = openvswitch.Agent

    def setUp(self) -> None:
        super().setUp()
        self.switch = openvswitch.switch()


def addresses(port: dict[str, Any]) -> list[str]:
    """The addresses of a port, IPv4 and IPv6."""
    return [fixed["ip_address"] for fixed in port["fixed_ips"]]
