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
"""The NETIF parameter: ``;`` between NICs, ``,`` between name=value fields."""

from __future__ import annotations

from ovzsim import units
from ovzsim.units import BadValue

# The longest name of a network interface: IFNAMSIZ less the final zero.
MAX_NAME = 15

_ORDER_4 = ("ifname", "bridge", "mac", "host_ifname", "host_mac", "mac_filter")
_ORDER_9 = (
    "ifname",
    "mac",
    "host_mac",
    "host_ifname",
    "type",
    "network",
    "vport",
    "gw",
    "gw6",
    "mac_filter",
    "configure",
    "dhcp",
    "dhcp6",
)
_MAC_PREFIX_4 = "00:18:51"

Nic = dict[str, str]


def parse(text: str) -> list[Nic]:
    """NICs of a NETIF value. ``ip`` and ``ip6`` hold blank-separated lists."""
    nics: list[Nic] = []
    for part in filter(None, text.split(";")):
        nic: Nic = {}
        for field in part.split(","):
            name, _, value = field.partition("=")
            nic[name] = value
        nics.append(nic)
    return nics


def dump_4(nics: list[Nic]) -> str:
    """NETIF as family 4 writes it."""
    return ";".join(
        ",".join(f"{name}={nic[name]}" for name in _ORDER_4 if nic.get(name))
        for nic in nics
    )


def dump_9(nics: list[Nic]) -> str:
    """NETIF as family 9 writes it.

    An empty ``ip6=`` behind ``ip=`` loses its equals sign unless the NIC is the last:
    the tool puts the semicolon over it.
    """
    parts = []
    for place, nic in enumerate(nics):
        fields = [f"{name}={nic[name]}" for name in _ORDER_9 if nic.get(name)]
        if nic.get("ip") or nic.get("ip6"):
            fields.append(f"ip={nic.get('ip', '')}")
            bare = not nic.get("ip6") and place < len(nics) - 1
            fields.append("ip6" if bare else f"ip6={nic.get('ip6', '')}")
        parts.append(",".join(fields))
    return ";".join(parts)


def find(nics: list[Nic], ifname: str) -> Nic | None:
    """The NIC of that name inside the container."""
    return next((nic for nic in nics if nic.get("ifname") == ifname), None)


def host_name_checked(name: str) -> str:
    """A name for the host end. :raises BadValue: longer than 15 characters."""
    if not name or len(name) > MAX_NAME or "/" in name:
        raise BadValue
    return name


def new_4(text: str, ctid: str) -> Nic:
    """A NIC from ``ifname[,mac,host_ifname,host_mac[,bridge]]`` (family 4)."""
    fields = [*text.split(","), "", "", "", ""]
    if len(text.split(",")) > 5 or not fields[0] or len(fields[0]) > MAX_NAME:
        raise BadValue
    nic: Nic = {"ifname": fields[0]}
    for name, place in (("mac", 1), ("host_mac", 3)):
        if fields[place]:
            try:
                nic[name] = units.mac_address(fields[place])
            except BadValue:
                side = "container" if name == "mac" else "host"
                raise BadValue(f"Invalid {side} MAC address format") from None
    if fields[2]:
        nic["host_ifname"] = host_name_checked(fields[2])
    if fields[4]:
        nic["bridge"] = fields[4]
    return complete_4(nic, ctid)


def complete_4(nic: Nic, ctid: str) -> Nic:
    """Fills in what was left out: invented MACs, vethCTID.N as the host's name.

    With a host name and no MACs, both ends get the same invented MAC (recorded).
    """
    named = "host_ifname" in nic
    if not named:
        number = "".join(c for c in nic["ifname"] if c.isdigit()) or "0"
        nic["host_ifname"] = f"veth{ctid}.{number}"[:MAX_NAME]
    nic.setdefault("mac", units.random_mac(_MAC_PREFIX_4))
    nic.setdefault("host_mac", nic["mac"] if named else units.random_mac(_MAC_PREFIX_4))
    return nic


def host_name_9(mac: str) -> str:
    """The name family 9 gives a host end: veth and the last octets of the MAC."""
    return "veth" + mac.replace(":", "").lower()[-8:]


def new_9(text: str) -> Nic:
    """A NIC from ``ifname,mac,host_ifname[,host_mac]`` (family 9)."""
    fields = text.split(",")
    if len(fields) not in (3, 4) or not fields[0]:
        raise BadValue
    mac = units.mac_address(fields[1])
    return {
        "ifname": fields[0],
        "mac": mac,
        "host_ifname": host_name_checked(fields[2]),
        "host_mac": units.mac_address(fields[3]) if len(fields) == 4 else mac,
    }


def complete_9(nic: Nic) -> Nic:
    """Fills in what was left out, as family 9 does."""
    if not nic.get("mac"):
        nic["mac"] = units.random_mac("C4:37:72")
    nic.setdefault("host_mac", units.random_mac("FE:37:72"))
    if not nic.get("host_ifname"):
        nic["host_ifname"] = host_name_9(nic["mac"])
    return nic
