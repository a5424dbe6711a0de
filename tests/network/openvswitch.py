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

"""An Open vSwitch of the tests' own, and the part of Neutron's agent on it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fixtures
import netaddr
import os_vif
from oslo_config import cfg
from vif_plug_ovs import privsep as vif_plug_privsep

from tests.functional import fixtures as cloud_fixtures
from tests.network.__main__ import SYSTEM_PATH, VARIABLE

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
BRIDGE = "br-int"


class Switch:
    """ovsdb-server and ovs-vswitchd, with all their files in one directory.

    They end with the process namespace that they are started in.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        database = str(directory / "conf.db")
        self._run("ovsdb-tool", "create", database, SCHEMA)
        common = ("--detach", "--no-chdir", "--pidfile", "--log-file", "-vconsole:off")
        self._run("ovsdb-server", database, f"--remote=p{self.connection}", *common)
        self.vsctl("--no-wait", "init")
        self._run("ovs-vswitchd", self.connection, *common)

    @property
    def connection(self) -> str:
        """Where the database answers, in the words of Open vSwitch."""
        return f"unix:{self.directory}/db.sock"

    def _run(self, program: str, *words: str) -> str:
        place = str(self.directory)
        rundir = {f"OVS_{name}DIR": place for name in ("RUN", "LOG", "DB")}
        done = subprocess.run(
            [program, *words],
            env={"PATH": SYSTEM_PATH, **rundir},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, f"{program} {' '.join(words)}: {done.stderr}"
        return done.stdout

    def vsctl(self, *words: str) -> str:
        """Run ovs-vsctl; its answer."""
        return self._run("ovs-vsctl", f"--db={self.connection}", *words)

    def ofctl(self, command: str, *words: str) -> str:
        """Run ovs-ofctl on the bridge; its answer."""
        return self._run("ovs-ofctl", "-OOpenFlow13", command, BRIDGE, *words)

    def new_bridge(self) -> None:
        """Make the integration bridge anew, on the userspace datapath."""
        self.vsctl(
            *("--if-exists", "del-br", BRIDGE, "--", "add-br", BRIDGE),
            *("--", "set", "bridge", BRIDGE, "datapath_type=netdev"),
        )

    def renew(self, devname: str) -> None:
        """Let a port open its device anew, and keep its record and its number.

        The kernel's datapath loses a port with its device, and takes the next one of
        that name. The one in user space goes on with what it had open, and no frame
        ever gets through again (openvswitch/ovs-issues 313).
        """
        control = ("ovs-appctl", "-t", "ovs-vswitchd")
        self._run(*control, "dpctl/del-if", "netdev@ovs-netdev", devname)
        # What is missing in the datapath is put back when anything changes.
        self.vsctl("set", "Open_vSwitch", ".", f"other_config:renewed={time.time()}")

    def interfaces(self) -> dict[str, dict[str, Any]]:
        """The records of the interfaces by name, without the bridge's own."""
        columns = "name,external_ids,ofport,mtu"
        answer = self.vsctl(f"--columns={columns}", "-fjson", "list", "Interface")
        table = json.loads(answer)
        found = {}
        for row in table["data"]:
            record = dict(zip(table["headings"], row, strict=True))
            record["external_ids"] = dict(record["external_ids"][1])
            found[record["name"]] = record
        found.pop(BRIDGE, None)
        return found

    def tag(self, devname: str, number: int) -> None:
        """Put a port into a VLAN."""
        self.vsctl("set", "port", devname, f"tag={number}")


@functools.cache
def switch() -> Switch:
    """The Open vSwitch of this run."""
    return Switch(Path(os.environ[VARIABLE]) / "ovs")


class Neutron(cloud_fixtures.Neutron):
    """Neutron with an agent that is told to use the userspace datapath."""

    def create_port(self, body: dict[str, Any] | None = None) -> dict[str, Any]:
        created = super().create_port(body)
        for port in (created["port"], self._ports[created["port"]["id"]]):
            port["binding:vif_details"]["datapath_type"] = "netdev"
        return created


class Agent(cloud_fixtures.OpenVSwitch):
    """os-vif is the real one, on a real Open vSwitch; Neutron's agent is played.

    It tells Nova of ports whose interface has appeared; VLANs and flows are for the
    tests to set. A port whose device was replaced is renewed, which is not Neutron's
    work but the kernel's, where its datapath is: see Switch.renew().
    """

    INTERVAL = 0.1

    def __init__(self, cloud: Any) -> None:
        super().__init__(cloud)
        self.switch = switch()
        self._devices: dict[str, int] = {}

    def _setUp(self) -> None:
        self.switch.new_bridge()
        client = fixtures.MockPatchObject(
            vif_plug_privsep.vif_plug, "client_mode", False
        )
        self.useFixture(client)
        os_vif.initialize()
        cfg.CONF.set_override(
            "ovsdb_connection", self.switch.connection, group="os_vif_ovs"
        )
        os_vif.initialize(reset=True)
        agent = threading.Thread(target=self._agent, name="ovs-agent", daemon=True)
        agent.start()
        self.addCleanup(agent.join)
        self.addCleanup(self._stopped.set)

    def ports(self, node: Any) -> dict[str, dict[str, Any]]:
        """The port records in the bridge, by device name."""
        return {
            name: record["external_ids"]
            for name, record in self.switch.interfaces().items()
        }

    def _report(self, up: set[str]) -> set[str]:
        found = self.switch.interfaces()
        for devname in found:
            self._follow(devname)
        self._devices = {name: n for name, n in self._devices.items() if name in found}
        return super()._report(up)

    def _follow(self, devname: str) -> None:
        try:
            # The index of a new device may be that of the old one; this is not.
            device = os.stat(f"/sys/class/net/{devname}/").st_ino
        except FileNotFoundError:
            return
        if self._devices.setdefault(devname, device) != device:
            self.switch.renew(devname)
            self._devices[devname] = device

    def protect(self, port: Mapping[str, Any]) -> None:
        """Keep a port from sending what is not its own."""
        number = self.switch.interfaces()[devname_of(port)]["ofport"]
        for flow in own_addresses_only(number, port):
            self.switch.ofctl("add-flow", flow)


def devname_of(port: Mapping[str, Any]) -> str:
    """The name of the host's end of a port, as Nova gives it."""
    return f"tap{port['id']}"[:14]


def own_addresses_only(number: int, port: Mapping[str, Any]) -> list[str]:
    """Flows that let a port send from its own addresses only.

    They are ours, and keep the rules of Neutron's openvswitch firewall driver for
    what leaves a port before it looks at security groups (source MAC, source address,
    sender of ARP, target of neighbour advertisements), in one table and without
    connection tracking.

    :param number: the OpenFlow port
    """
    mac = port["mac_address"]
    mine = f"in_port={number},dl_src={mac}"
    flows = [
        f"priority=90,in_port={number},actions=drop",
        f"priority=96,in_port={number},icmp6,icmp_type=136,actions=drop",
    ]
    addresses = [fixed["ip_address"] for fixed in port["fixed_ips"]]
    for address in [*addresses, str(link_local(mac))]:
        if ":" in address:
            advertised = f"icmp6,icmp_type=136,nd_target={address}"
            flows.append(f"priority=97,{mine},{advertised},actions=normal")
            flows.append(f"priority=95,{mine},ipv6,ipv6_src={address},actions=normal")
        else:
            flows.append(f"priority=95,{mine},arp,arp_spa={address},actions=normal")
            flows.append(f"priority=95,{mine},ip,nw_src={address},actions=normal")
    return flows


def link_local(mac: str) -> netaddr.IPAddress:
    """The IPv6 address that an interface gives itself."""
    return netaddr.EUI(mac).ipv6_link_local()
