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

"""What Nova hands over, as small frozen values: the border of this package.

Below ``compute`` nobody sees an instance or Nova's network model. Everything in
these values has been checked when they exist: addresses are ``ipaddress``
objects, names have no blanks or control characters, so that they can be written
into any configuration file as they are. What is malformed raises InvalidValue,
and a port that no container can have NetworkUnsupported.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from ovznovadriver import exception

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: IFNAMSIZ of Linux without the final NUL.
MAX_DEVNAME = 15

#: Length of the names that Nova makes (nova.network.model.NIC_NAME_LEN).
MADE_DEVNAME = 14

#: The bounds of an IP link's MTU, in bytes: RFC 791, and the field's 16 bits.
MIN_MTU, MAX_MTU = 68, 65535

#: Modes in which a router's advertisements give the address (Neutron's
#: ipv6_address_mode); the address is the one that the MAC makes (EUI-64).
AUTOCONF_MODES = ("slaac", "dhcpv6-stateless")
_IPV6_MODES = (*AUTOCONF_MODES, "dhcpv6-stateful")

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_DEVNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NIC_NAME = re.compile(r"eth[0-9]{1,2}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# What Neutron says of a port that no agent has taken.
_UNBOUND = ("binding_failed", "unbound")


@dataclass(frozen=True)
class Route:
    """A way to a network through a gateway of the same IP version."""

    destination: IPNetwork
    gateway: IPAddress


@dataclass(frozen=True)
class Subnet:
    """What a port has of one subnet.

    :ivar network: the subnet's range
    :ivar addresses: the port's addresses in it, with the subnet's prefix length
    :ivar gateway: the subnet's default gateway, if it has one
    :ivar routes: the other routes of the subnet
    :ivar dns: its name servers
    :ivar dhcp: whether Neutron runs DHCP for it
    :ivar ipv6_mode: slaac, dhcpv6-stateless, dhcpv6-stateful or None
    """

    network: IPNetwork
    addresses: tuple[IPInterface, ...] = ()
    gateway: IPAddress | None = None
    routes: tuple[Route, ...] = ()
    dns: tuple[IPAddress, ...] = ()
    dhcp: bool = False
    ipv6_mode: str | None = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.network.version

    @property
    def autoconf(self) -> bool:
        """Whether router advertisements give address and default route."""
        return self.ipv6_mode in AUTOCONF_MODES

    @property
    def asks_dhcp(self) -> bool:
        """Whether the guest must ask for its address.

        An address that Nova knows is written down instead: that needs no DHCP
        client in the image, reaches every address of the port, and Neutron gives
        the same.
        """
        return self.dhcp and not self.autoconf and not self.addresses


@dataclass(frozen=True)
class Nic:
    """One network interface of a container.

    :ivar index: its place among the server's ports, from 0
    :ivar name: its name inside the container
    :ivar mac: its MAC address inside the container, lower case
    :ivar devname: the name of the veth pair's end on the host
    :ivar port_id: Neutron's port
    :ivar network_id: Neutron's network
    :ivar vif_type: Neutron's binding:vif_type
    :ivar mtu: bytes; None when Neutron doesn't say
    :ivar bridge: the Linux bridge between it and Open vSwitch (hybrid plug)
    """

    index: int
    name: str
    mac: str
    devname: str
    port_id: str
    network_id: str
    vif_type: str
    mtu: int | None = None
    bridge: str | None = None
    subnets: tuple[Subnet, ...] = ()


@dataclass(frozen=True)
class InjectedFile:
    """A file that the user gave with the request (personality)."""

    path: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class GuestSpec:
    """What the guest is to find in its tree, besides its network.

    :ivar hostname: a host name of RFC 1123, possibly with its domain
    :ivar admin_password: root's password; None leaves it as it is
    :ivar ssh_keys: lines for root's authorized_keys
    :ivar files: personality files
    :ivar drive: the files of the config drive, (path relative to its root, content)
    """

    hostname: str
    admin_password: str | None = field(default=None, repr=False)
    ssh_keys: tuple[str, ...] = ()
    files: tuple[InjectedFile, ...] = ()
    drive: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


# -- from Nova --------------------------------------------------------------


def guest_from_nova(
    instance: Any,
    *,
    admin_password: str | None = None,
    injected_files: Iterable[tuple[str, bytes | str]] | None = None,
    drive: Sequence[tuple[str, bytes]] = (),
) -> GuestSpec:
    """What a server's guest is to find.

    :param instance: nova.objects.Instance; its hostname, uuid and key_data are read
    :param admin_password: as spawn gets it; empty means none
    :param injected_files: as spawn gets them, decoded already
    :param drive: see drive.config_drive
    """
    return GuestSpec(
        hostname=hostname(instance),
        admin_password=checked_password(admin_password) if admin_password else None,
        ssh_keys=_ssh_keys(instance.key_data),
        files=tuple(_injected(path, data) for path, data in injected_files or ()),
        drive=tuple(drive),
    )


def hostname(instance: Any) -> str:
    """The host name that a server is to have."""
    return checked_hostname(instance.hostname or f"server-{instance.uuid}")


def nics_from_nova(
    network_info: Iterable[Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> tuple[Nic, ...]:
    """The NICs of a server, in the order of its ports.

    :param network_info: nova.network.model.NetworkInfo; the asynchronous one may
        raise the allocation's error here
    :param names: the names of NICs by port, as far as they are fixed, also of ports
        that are not among these; the others get the first that are free
    """
    vifs = list(network_info)
    ports = [_identifier(vif["id"], "port") for vif in vifs]
    fixed = names or {}
    free = _free_names(set(fixed.values()))
    nics = tuple(
        _nic(index, vif, fixed.get(port) or next(free))
        for index, (port, vif) in enumerate(zip(ports, vifs, strict=True))
    )
    devnames = [nic.devname for nic in nics]
    if len(set(devnames)) != len(devnames):
        raise exception.InvalidValue(f"two ports have the same devname: {devnames}")
    return nics


def devname(vif: Mapping[str, Any]) -> Any:
    """What a port's interface is called on the host, by Nova's word or its rule."""
    return vif.get("devname") or f"tap{vif['id']}"[:MADE_DEVNAME]


def checked_hostname(text: str) -> str:
    """A host name by RFC 1123: labels of letters, digits and inner hyphens."""
    labels = text.split(".")
    if len(text) > 253 or not all(
        len(label) <= 63 and _LABEL.fullmatch(label) for label in labels
    ):
        raise exception.InvalidValue(f"{text!r} is not a host name")
    return text


def checked_password(text: str) -> str:
    """A password that fits into one line, which its hash and stdin need."""
    if _CONTROL.search(text):
        raise exception.InvalidValue("the password holds control characters")
    return text


def _ssh_keys(text: str | None) -> tuple[str, ...]:
    lines = [line.strip() for line in (text or "").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if any(_CONTROL.search(key.replace("\t", " ")) for key in keys):
        raise exception.InvalidValue("the ssh key holds control characters")
    return keys


def _injected(path: str, content: bytes | str) -> InjectedFile:
    if "\0" in path or not path.strip("/"):
        raise exception.InvalidValue(f"{path!r} is not a path of a file")
    data = content.encode() if isinstance(content, str) else bytes(content)
    return InjectedFile(path, data)


def _free_names(taken: AbstractSet[str]) -> Iterator[str]:
    every = (f"eth{number}" for number in itertools.count())
    return (name for name in every if name not in taken)


def _nic(index: int, vif: Mapping[str, Any], name: str) -> Nic:
    port = _identifier(vif["id"], "port")
    if (vif.get("vnic_type") or "normal") != "normal":
        raise exception.NetworkUnsupported(
            f"port {port} has vnic_type {vif['vnic_type']!r}; a container can have"
            " 'normal' only"
        )
    if vif.get("type") in _UNBOUND:
        raise exception.NetworkUnsupported(
            f"port {port} is not bound to this host ({vif['type']})"
        )
    network = vif.get("network")
    if not network:
        raise exception.NetworkUnsupported(f"port {port} has no network")
    return Nic(
        index=index,
        name=_nic_name(name),
        mac=_mac(vif.get("address")),
        # nova.network.neutron makes this name for a port without one.
        devname=_devname(devname(vif)),
        port_id=port,
        network_id=_identifier(network["id"], "network"),
        vif_type=str(vif.get("type") or ""),
        mtu=_mtu((network.get("meta") or {}).get("mtu")),
        # As nova.network.os_vif_util names it for os-vif, which makes it.
        bridge=f"qbr{port}"[:MADE_DEVNAME] if _is_hybrid(vif) else None,
        subnets=tuple(_subnet(subnet) for subnet in network.get("subnets") or ()),
    )


def _subnet(subnet: Mapping[str, Any]) -> Subnet:
    network = _network(subnet["cidr"])
    meta = subnet.get("meta") or {}
    mode = meta.get("ipv6_address_mode")
    if mode is not None and (mode not in _IPV6_MODES or network.version != 6):
        raise exception.InvalidValue(f"{mode!r} is not an IPv6 address mode")
    gateway = _ip_of(subnet.get("gateway"))
    return Subnet(
        network=network,
        addresses=tuple(
            _interface(_ip_of(ip), network) for ip in subnet.get("ips") or ()
        ),
        gateway=None if gateway is None else _same_version(gateway, network),
        routes=tuple(_route(route) for route in subnet.get("routes") or ()),
        dns=tuple(ip for ip in map(_ip_of, subnet.get("dns") or ()) if ip),
        dhcp=meta.get("dhcp_server") is not None or bool(meta.get("enable_dhcp")),
        ipv6_mode=mode,
    )


def _route(route: Mapping[str, Any]) -> Route:
    destination = _network(route["cidr"])
    gateway = _ip_of(route.get("gateway"))
    if gateway is None:
        raise exception.InvalidValue(f"the route to {destination} has no gateway")
    return Route(destination, _same_version(gateway, destination))


def _interface(address: IPAddress | None, network: IPNetwork) -> IPInterface:
    if address is None:
        raise exception.InvalidValue(f"an address in {network} is empty")
    _same_version(address, network)
    return ipaddress.ip_interface(f"{address}/{network.prefixlen}")


def _same_version(address: IPAddress, network: IPNetwork) -> IPAddress:
    if address.version != network.version:
        raise exception.InvalidValue(f"{address} does not belong with {network}")
    return address


def _ip_of(value: Mapping[str, Any] | None) -> IPAddress | None:
    """The address of Nova's IP object; None for none, and for an empty one."""
    text = value.get("address") if value else None
    if not text:
        return None
    # A zone index may hold any character, and means nothing inside a container.
    if "%" in str(text):
        raise exception.InvalidValue(f"{text!r} is not an IP address")
    try:
        return ipaddress.ip_address(str(text))
    except ValueError as error:
        raise exception.InvalidValue(f"{text!r} is not an IP address") from error


def _network(text: object) -> IPNetwork:
    try:
        if "%" in str(text):
            raise ValueError
        return ipaddress.ip_network(str(text), strict=False)
    except ValueError as error:
        raise exception.InvalidValue(f"{text!r} is not an IP network") from error


def _mac(text: object) -> str:
    mac = str(text).lower()
    if not _MAC.fullmatch(mac):
        raise exception.InvalidValue(f"{text!r} is not a MAC address")
    return mac


def _is_hybrid(vif: Mapping[str, Any]) -> bool:
    return bool((vif.get("details") or {}).get("ovs_hybrid_plug"))


def _nic_name(text: str) -> str:
    if not _NIC_NAME.fullmatch(text):
        raise exception.InvalidValue(f"{text!r} is not the name of a NIC")
    return text


def _devname(text: object) -> str:
    if (
        not isinstance(text, str)
        or len(text) > MAX_DEVNAME
        or not _DEVNAME.fullmatch(text)
    ):
        raise exception.InvalidValue(
            f"{text!r} is not an interface name of at most {MAX_DEVNAME} characters"
        )
    return text


def _mtu(value: object) -> int | None:
    if value is None:
        return None
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not MIN_MTU <= value <= MAX_MTU
    ):
        raise exception.InvalidValue(f"{value!r} is not an MTU")
    return value


def _identifier(text: object, what: str) -> str:
    if not isinstance(text, str) or not _IDENTIFIER.fullmatch(text):
        raise exception.InvalidValue(f"{text!r} is not the id of a {what}")
    return text
