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
"""A checked create or set of family 9: what it holds, and what it writes."""

from __future__ import annotations

from collections.abc import Iterable

from ovzsim import netif, units, words
from ovzsim.host import Host

# Beancounters that are still written.
UBC: dict[str, int] = {
    "physpages": units.PAGES,
    "swappages": units.PAGES,
    "kmemsize": units.BYTES,
    "lockedpages": units.PAGES,
    "privvmpages": units.PAGES,
    "shmpages": units.PAGES,
    "numproc": units.COUNT,
    "vmguarpages": units.PAGES,
    "numflock": units.COUNT,
    "numpty": units.COUNT,
    "numsiginfo": units.COUNT,
    "numfile": units.COUNT,
    "numiptent": units.COUNT,
    "avnumproc": units.COUNT,
    "numnetif": units.COUNT,
}
# Accepted, ignored with a message.
DEPRECATED_UBC = (
    "oomguarpages numtcpsock tcpsndbuf tcprcvbuf othersockbuf dgramrcvbuf "
    "numothersock dcachesize"
).split()

# The order in which new parameters are appended to a configuration file.
ORDER: tuple[str, ...] = (
    "VE_ROOT",
    "VE_PRIVATE",
    "OSTEMPLATE",
    "DISTRIBUTION",
    *(name.upper() for name in UBC),
    "MEMGUARANTEE",
    "VM_OVERCOMMIT",
    "CPUUNITS",
    "CPULIMIT",
    "CPULIMIT_MHZ",
    "CPUS",
    "CPUMASK",
    "NODEMASK",
    "IOPRIO",
    "IOLIMIT",
    "IOPSLIMIT",
    "DISKSPACE",
    "DISKINODES",
    "QUOTAUGIDLIMIT",
    "RATE",
    "RATEBOUND",
    "NAME",
    "DESCRIPTION",
    "HOSTNAME",
    "SEARCHDOMAIN",
    "NAMESERVER",
    "ONBOOT",
    "AUTOSTOP",
    "DISABLED",
    "BOOTORDER",
    "FEATURES",
    "IP_ADDRESS",
    "NETIF",
    "DEVICES",
    "DEVNODES",
    "PCI",
    "NETDEV",
    "HA_ENABLE",
    "HA_PRIO",
    "BINDMOUNT",
    "DISK",
    "ORIGIN_SAMPLE",
    "ROOT_DISK",
    "VEID",
    "UUID",
)


def pair_text(barrier: int, limit: int) -> str:
    """Two numbers, always both."""
    return f"{units.limit_text(barrier)}:{units.limit_text(limit)}"


class Request:
    """The options of one create or set, checked but not yet applied."""

    def __init__(self, host: Host, ctid: str) -> None:
        self.host = host
        self.ctid = ctid
        self.plain: dict[str, str | None] = {}
        self.save = self.no_hdd = self.force = self.detach = self.crypted = False
        self.setmode = self.applyconfig = self.config = self.layout = ""
        self.uuid = self.userpasswd = ""
        self.says: list[str] = []  # on standard output, before anything else
        self.warns: list[str] = []
        self.swap = False
        self.words: dict[str, list[str]] = {}
        self.ip_add: list[str] = []
        self.ip_del: list[str] = []
        self.features: dict[str, str] = {}
        self.devices: list[str] = []
        self.devnodes: dict[str, str] = {}
        self.bind_add: list[str] = []
        self.bind_del: list[str] = []
        self.nic_add: list[netif.Nic] = []
        self.nic_del: list[str] = []
        self.nic_ifname = ""
        self.nic_edit: dict[str, str] = {}
        self.nic_current: netif.Nic | None = None
        self.comma_forms: list[str] = []
        self.disk: dict[str, str] = {}  # device-add, device-del, device, mnt, …

    def put(self, name: str, value: str | None) -> None:
        """Sets a parameter; of a repeated option the first one wins."""
        self.plain.setdefault(name, value)

    def nic(self) -> netif.Nic:
        """The NIC that the split options are about."""
        return self.nic_edit if self.nic_current is None else self.nic_current

    @property
    def edits_nic(self) -> bool:
        """Split options for a NIC that is there already."""
        return bool(self.nic_edit)

    def changes(self, old: dict[str, str]) -> dict[str, str | None]:
        """What to write, given the parameters that are there already."""
        new = dict(self.plain)
        for name, listed in self.words.items():
            new[name] = " ".join(listed)
        if self.ip_add or self.ip_del:
            new["IP_ADDRESS"] = self._addresses(old)
        if self.features:
            new["FEATURES"] = _marked(
                f"{n}:{self.features[n]}"
                for n in words.FEATURES_9
                if n in self.features
            )
        if self.devices:
            new["DEVICES"] = _marked(self.devices)
            new["DEVNODES"] = old.get("DEVNODES", "")
        if self.devnodes:
            held = dict(e.rsplit(":", 1) for e in old.get("DEVNODES", "").split())
            held.update(self.devnodes)
            new.setdefault("DEVICES", "")
            new["DEVNODES"] = _marked(
                f"{name}:{mode}" for name, mode in held.items() if mode != "none"
            )
        if self.bind_add or self.bind_del:
            new["BINDMOUNT"] = self._bind_mounts(old)
        if self.nic_add or self.nic_del or self.nic_edit:
            nics = self.nics(netif.parse(old.get("NETIF", "")))
            if nics or "NETIF" in old:
                new["NETIF"] = netif.dump_9(nics)
        return new

    def _addresses(self, old: dict[str, str]) -> str:
        held = [] if "all" in self.ip_del else old.get("IP_ADDRESS", "").split()
        gone = {*self.ip_del, *self.ip_add, "0.0.0.0"}  # noqa: S104 - a placeholder
        return _marked([ip for ip in held if ip not in gone] + self.ip_add)

    def _bind_mounts(self, old: dict[str, str]) -> str:
        held = old.get("BINDMOUNT", "").split() + self.bind_add
        if "all" in self.bind_del:
            held = []
        return _marked(
            entry
            for entry in held
            if entry.split(",")[0].split(":")[-1] not in self.bind_del
        )

    def nics(self, before: list[netif.Nic]) -> list[netif.Nic]:
        """The NICs there are after this request."""
        after = [
            dict(nic)
            for nic in before
            if nic["ifname"] not in self.nic_del  # "all" is no special word here
        ]
        for nic in self.nic_add:
            known = netif.find(after, nic["ifname"])
            if known is None:
                after.append(netif.complete_9(_with_address(dict(nic))))
                continue
            # Adding a NIC that is there changes it; its host name is made anew.
            known.update(nic)
            if "host_ifname" not in nic:
                known["host_ifname"] = netif.host_name_9(known["mac"])
        edited = netif.find(after, self.nic_ifname)
        if edited is not None and self.nic_edit:
            _edit(edited, self.nic_edit)
        return after


def _marked(entries: Iterable[str]) -> str:
    """A list as family 9 writes it: a blank behind every entry."""
    return "".join(f"{entry} " for entry in entries)


def _with_address(nic: netif.Nic) -> netif.Nic:
    if nic.get("ip") or nic.get("ip6") or nic.get("dhcp") == "yes":
        nic.setdefault("configure", "all")
    return nic


def _edit(nic: netif.Nic, changes: dict[str, str]) -> None:
    for name, value in changes.items():
        if name in ("ip_del", "ip", "ip6"):
            continue
        nic[name] = value
    if changes.get("ip_del") == "all":
        nic.pop("ip", None)
        nic.pop("ip6", None)
    elif changes.get("ip_del"):
        for name in ("ip", "ip6"):
            kept = [
                ip
                for ip in nic.get(name, "").split()
                if ip.split("/")[0] != changes["ip_del"].split("/")[0]
            ]
            nic[name] = " ".join(kept)
    for name in ("ip", "ip6"):
        if changes.get(name):
            nic[name] = f"{nic.get(name, '')} {changes[name]}".strip()
    _with_address(nic)
