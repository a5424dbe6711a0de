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

"""A guest's network configuration, in its distribution's own files.

For images without cloud-init. What the tree holds decides which of WRITERS
writes; adding a distribution means adding a writer. All values come from
``spec.Nic``, so nothing in them needs quoting.

What they all follow:

- An address that Nova knows is static. See Subnet.asks_dhcp.
- One route to each destination, be it everywhere: that of the first NIC that has one.
  With two, ifup fails on the second.
- The routers' advertisements count only where Neutron says that they give the
  address; then with EUI-64, the only form that port security lets through.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ovznovadriver.compute.spec import IPAddress, IPInterface, Nic, Route

#: A file's mode: only root reads it, as NetworkManager and netplan demand of
#: theirs.
PRIVATE, PUBLIC = 0o600, 0o644

_HEADER = "# Written by Nova, and written anew when a port comes or goes.\n"


@dataclass(frozen=True)
class NetFile:
    """A file to be written into the tree."""

    path: str
    content: str
    mode: int = PUBLIC


@dataclass(frozen=True)
class Family:
    """One IP version of a NIC, as a configuration file wants it.

    :ivar addresses: the static ones
    :ivar gateway: the default gateway; None where another NIC has it
    :ivar routes: others, without those that another NIC has
    :ivar dhcp: whether the address comes from DHCP
    :ivar autoconf: whether it comes from router advertisements
    """

    version: int
    addresses: tuple[IPInterface, ...] = ()
    gateway: IPAddress | None = None
    routes: tuple[Route, ...] = ()
    dhcp: bool = False
    autoconf: bool = False

    @property
    def default_route(self) -> str:
        """The destination that means everywhere."""
        return "0.0.0.0/0" if self.version == 4 else "::/0"

    @property
    def all_routes(self) -> list[tuple[str, str]]:
        """(destination, gateway) of all routes, the default one included."""
        routes = [(str(route.destination), str(route.gateway)) for route in self.routes]
        if self.gateway is not None:
            routes.insert(0, (self.default_route, str(self.gateway)))
        return routes


@dataclass(frozen=True)
class Plan:
    """What is to be configured on one NIC."""

    nic: Nic
    ipv4: Family
    ipv6: Family

    @property
    def dns(self) -> list[str]:
        """Its name servers, without repetition."""
        return name_servers([self.nic])

    @property
    def addresses(self) -> list[str]:
        """Its static addresses with their prefix lengths."""
        return [str(address) for address in self.ipv4.addresses + self.ipv6.addresses]

    @property
    def routes(self) -> list[tuple[str, str]]:
        """All its routes."""
        return self.ipv4.all_routes + self.ipv6.all_routes


def plans(nics: Sequence[Nic]) -> list[Plan]:
    """What is to be configured, for each NIC."""
    reached: set[str] = set()
    return [Plan(nic, *(_family(nic, ip, reached) for ip in (4, 6))) for nic in nics]


def _family(nic: Nic, version: int, reached: set[str]) -> Family:
    """One IP version of a NIC.

    :param reached: destinations to which there is a route; gets those of this NIC
    """
    subnets = [subnet for subnet in nic.subnets if subnet.version == version]
    static = [subnet for subnet in subnets if not subnet.autoconf and subnet.addresses]
    gateways = [subnet.gateway for subnet in static if subnet.gateway is not None]
    family = Family(
        version=version,
        addresses=tuple(address for subnet in static for address in subnet.addresses),
        dhcp=any(subnet.asks_dhcp for subnet in subnets),
        autoconf=any(subnet.autoconf for subnet in subnets),
    )
    gateway = None
    if gateways and family.default_route not in reached:
        gateway = gateways[0]
        reached.add(family.default_route)
    routes = []
    for subnet in subnets:
        for route in () if subnet.asks_dhcp else subnet.routes:
            if str(route.destination) not in reached:
                reached.add(str(route.destination))
                routes.append(route)
    return replace(family, gateway=gateway, routes=tuple(routes))


def name_servers(nics: Iterable[Nic]) -> list[str]:
    """The name servers of NICs, in order and without repetition."""
    servers = (ip for nic in nics for subnet in nic.subnets for ip in subnet.dns)
    return list(dict.fromkeys(map(str, servers)))


def resolv_conf(nics: Sequence[Nic]) -> list[NetFile]:
    """/etc/resolv.conf; nothing when there is no name server to say."""
    lines = [f"nameserver {server}\n" for server in name_servers(nics)]
    if not lines:
        return []
    return [NetFile("/etc/resolv.conf", _HEADER + "".join(lines))]


# -- the writers ------------------------------------------------------------


def _ifupdown(nics: Sequence[Nic]) -> list[NetFile]:
    """interfaces(5) of Debian and Alpine, without what BusyBox doesn't know.

    Further addresses are ``up`` lines, because BusyBox takes only one stanza for
    an interface and version.
    """
    lines = [_HEADER + "auto lo\niface lo inet loopback"]
    for plan in plans(nics):
        name = plan.nic.name
        mtu = f"    pre-up ip link set dev {name} mtu {plan.nic.mtu}"
        stanzas = _stanzas(plan)
        for stanza in stanzas:
            if plan.nic.mtu:
                stanza.insert(1, mtu)
        lines.append(f"\nauto {name}")
        lines += ["\n".join(stanza) for stanza in stanzas]
    return [NetFile("/etc/network/interfaces", "\n".join(lines) + "\n")]


def _stanzas(plan: Plan) -> list[list[str]]:
    stanzas = []
    for family in (plan.ipv4, plan.ipv6):
        stanza = _stanza(plan.nic.name, family)
        if stanza:
            stanzas.append(stanza)
    if not stanzas:
        name = plan.nic.name
        stanzas.append(
            [f"iface {name} inet manual", f"    up ip link set dev {name} up"]
        )
    return stanzas


def _stanza(name: str, family: Family) -> list[str]:
    inet = "inet" if family.version == 4 else "inet6"
    further = list(family.addresses)
    if family.autoconf:
        lines = [f"iface {name} {inet} auto"]
    elif family.dhcp:
        lines = [f"iface {name} {inet} dhcp"]
    elif further:
        first = further.pop(0)
        mask = first.netmask if family.version == 4 else first.network.prefixlen
        lines = [f"iface {name} {inet} static", f"    address {first.ip}"]
        lines.append(f"    netmask {mask}")
        if family.version == 6:
            lines.append("    accept_ra 0")
    else:
        return []
    lines += [f"    up ip addr add {address} dev {name}" for address in further]
    # Not by ``gateway``, which the methods auto and dhcp do not know.
    lines += [
        f"    up ip -{family.version} route add {destination} via {gateway} dev {name}"
        for destination, gateway in family.all_routes
    ]
    return lines


def _netplan(nics: Sequence[Nic]) -> list[NetFile]:
    """netplan(5), in the part of YAML that is JSON. Later files win."""
    ethernets = {}
    for plan in plans(nics):
        settings = {
            "dhcp4": plan.ipv4.dhcp,
            "dhcp6": plan.ipv6.dhcp,
            "accept-ra": plan.ipv6.autoconf or plan.ipv6.dhcp,
            "addresses": plan.addresses or None,
            "routes": [{"to": to, "via": via} for to, via in plan.routes] or None,
            "nameservers": {"addresses": plan.dns} if plan.dns else None,
            "mtu": plan.nic.mtu,
        }
        ethernets[plan.nic.name] = {
            key: value for key, value in settings.items() if value is not None
        }
    content = json.dumps({"network": {"version": 2, "ethernets": ethernets}}, indent=2)
    return [NetFile("/etc/netplan/90-nova.yaml", _HEADER + content + "\n", PRIVATE)]


def _networkd(nics: Sequence[Nic]) -> list[NetFile]:
    """systemd.network(5). The first file by name that matches wins."""
    return [
        NetFile(f"/etc/systemd/network/00-nova-{plan.nic.name}.network", _network(plan))
        for plan in plans(nics)
    ]


def _network(plan: Plan) -> str:
    dhcp = {
        (False, False): "no",
        (True, False): "ipv4",
        (False, True): "ipv6",
        (True, True): "yes",
    }[plan.ipv4.dhcp, plan.ipv6.dhcp]
    accept = "yes" if plan.ipv6.autoconf or plan.ipv6.dhcp else "no"
    lines = [f"[Match]\nName={plan.nic.name}\n"]
    if plan.nic.mtu:
        lines.append(f"[Link]\nMTUBytes={plan.nic.mtu}\n")
    lines.append(f"[Network]\nDHCP={dhcp}\nIPv6AcceptRA={accept}")
    lines += [f"Address={address}" for address in plan.addresses]
    lines += [f"DNS={server}" for server in plan.dns]
    lines += [f"\n[Route]\nDestination={to}\nGateway={via}" for to, via in plan.routes]
    return _HEADER + "\n".join(lines) + "\n"


def _keyfiles(nics: Sequence[Nic]) -> list[NetFile]:
    """NetworkManager's keyfiles (nm-settings-keyfile(5))."""
    directory = "/etc/NetworkManager/system-connections"
    return [
        NetFile(f"{directory}/{plan.nic.name}.nmconnection", _keyfile(plan), PRIVATE)
        for plan in plans(nics)
    ]


def _keyfile(plan: Plan) -> str:
    name = plan.nic.name
    identity = uuid.uuid5(uuid.NAMESPACE_OID, plan.nic.port_id)
    lines = [
        f"[connection]\nid={name}\nuuid={identity}\ntype=ethernet",
        # Before a profile for this interface that the image may hold.
        f"interface-name={name}\nautoconnect-priority=100\n\n[ethernet]",
    ]
    if plan.nic.mtu:
        lines.append(f"mtu={plan.nic.mtu}")
    for family in (plan.ipv4, plan.ipv6):
        lines.append(f"\n[ipv{family.version}]\nmethod={_method(family)}")
        if family.autoconf:
            lines.append("addr-gen-mode=eui64")
        for number, address in enumerate(family.addresses, 1):
            lines.append(f"address{number}={address}")
        if family.gateway is not None:
            lines.append(f"gateway={family.gateway}")
        for number, route in enumerate(family.routes, 1):
            lines.append(f"route{number}={route.destination},{route.gateway}")
        servers = [ip for ip in plan.dns if (":" in ip) == (family.version == 6)]
        if servers and _method(family) not in ("disabled", "ignore"):
            lines.append(f"dns={';'.join(servers)};")
    return _HEADER + "\n".join(lines) + "\n"


def _method(family: Family) -> str:
    if family.dhcp or family.autoconf:
        return "auto"
    if family.addresses:
        return "manual"
    # "disabled" is newer than some NetworkManagers for IPv6, "ignore" is not.
    return "disabled" if family.version == 4 else "ignore"


def _network_scripts(nics: Sequence[Nic]) -> list[NetFile]:
    """ifcfg and route files of Red Hat's initscripts 9 and later (sysconfig.txt)."""
    directory = "/etc/sysconfig/network-scripts"
    files = []
    for plan in plans(nics):
        name = plan.nic.name
        lines = _ifcfg(plan)
        files.append(NetFile(f"{directory}/ifcfg-{name}", _HEADER + _joined(lines)))
        for prefix, family in (("route", plan.ipv4), ("route6", plan.ipv6)):
            # Also when empty: the image's own file would count else.
            lines = [
                f"{route.destination} via {route.gateway} dev {name}"
                for route in family.routes
            ]
            files.append(NetFile(f"{directory}/{prefix}-{name}", _joined(lines)))
    return files


def _ifcfg(plan: Plan) -> list[str]:
    lines = [
        f"DEVICE={plan.nic.name}",
        "TYPE=Ethernet",
        "ONBOOT=yes",
        f"BOOTPROTO={'dhcp' if plan.ipv4.dhcp else 'none'}",
    ]
    for number, address in enumerate(plan.ipv4.addresses):
        suffix = number or ""
        lines.append(f"IPADDR{suffix}={address.ip}")
        lines.append(f"PREFIX{suffix}={address.network.prefixlen}")
    if plan.ipv4.gateway is not None:
        lines.append(f"GATEWAY={plan.ipv4.gateway}")
    ipv6 = [str(address) for address in plan.ipv6.addresses]
    wanted = bool(ipv6) or plan.ipv6.autoconf or plan.ipv6.dhcp
    lines.append(f"IPV6INIT={_yes(wanted)}")
    lines.append(f"IPV6_AUTOCONF={_yes(plan.ipv6.autoconf)}")
    if plan.ipv6.autoconf:
        lines.append("IPV6_ADDR_GEN_MODE=eui64")
    if plan.ipv6.dhcp:
        lines.append("DHCPV6C=yes")
    if ipv6:
        lines.append(f"IPV6ADDR={ipv6[0]}")
    if ipv6[1:]:
        lines.append(f'IPV6ADDR_SECONDARIES="{" ".join(ipv6[1:])}"')
    if plan.ipv6.gateway is not None:
        # A link-local gateway says nothing without the link.
        lines.append(f"IPV6_DEFAULTGW={plan.ipv6.gateway}%{plan.nic.name}")
    if plan.nic.mtu:
        lines += [f"MTU={plan.nic.mtu}", f"IPV6_MTU={plan.nic.mtu}"]
    lines += [f"DNS{number}={ip}" for number, ip in enumerate(plan.dns, 1)]
    return lines


def _wicked(nics: Sequence[Nic]) -> list[NetFile]:
    """ifcfg(5) and ifroute(5) of SUSE's wicked."""
    directory = "/etc/sysconfig/network"
    files = []
    for plan in plans(nics):
        name = plan.nic.name
        protocols = {(False, False): "static", (True, False): "dhcp4"}
        protocols |= {(False, True): "dhcp6", (True, True): "dhcp"}
        protocol = protocols[plan.ipv4.dhcp, plan.ipv6.dhcp]
        if (plan.ipv4.dhcp or plan.ipv6.dhcp) and plan.addresses:
            protocol += "+static"
        lines = [f"STARTMODE='auto'\nBOOTPROTO='{protocol}'"]
        for number, address in enumerate(plan.addresses):
            lines.append(f"IPADDR{f'_{number}' if number else ''}='{address}'")
        if plan.nic.mtu:
            lines.append(f"MTU='{plan.nic.mtu}'")
        files.append(NetFile(f"{directory}/ifcfg-{name}", _HEADER + _joined(lines)))
        lines = [f"{to} {via} - {name}" for to, via in plan.routes]
        files.append(NetFile(f"{directory}/ifroute-{name}", _joined(lines)))
    return files


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


# -- which one --------------------------------------------------------------


@dataclass(frozen=True)
class Writer:
    """One way to configure a network.

    :ivar needs: a tree has this way when all of these paths are there
    """

    name: str
    needs: tuple[str, ...]
    write: Callable[[Sequence[Nic]], list[NetFile]]


_NETWORKD_ENABLED = (
    "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
    "/etc/systemd/network",
)

#: In the order in which they are asked. netplan drives one of the others.
#: Debian's minimal trees have ifupdown and use networkd, so the one that is
#: switched on goes first. The last one is for a tree that has nothing else.
WRITERS = (
    Writer("netplan", ("/usr/sbin/netplan", "/etc/netplan"), _netplan),
    Writer("networkd", _NETWORKD_ENABLED, _networkd),
    Writer("ifupdown", ("/sbin/ifup", "/etc/network"), _ifupdown),
    Writer("wicked", ("/usr/sbin/wicked", "/etc/sysconfig/network"), _wicked),
    Writer(
        "network-scripts",
        ("/etc/sysconfig/network-scripts/ifup-eth",),
        _network_scripts,
    ),
    Writer("NetworkManager", ("/usr/sbin/NetworkManager",), _keyfiles),
)

#: What find_writer has to know of a tree.
PATHS = tuple(path for writer in WRITERS for path in writer.needs)


def find_writer(kinds: Mapping[str, str | None]) -> Writer | None:
    """The way in which a tree configures its network; None when it has none.

    :param kinds: what is at each of PATHS, None for nothing
    """
    for writer in WRITERS:
        if all(kinds.get(path) for path in writer.needs):
            return writer
    return None
