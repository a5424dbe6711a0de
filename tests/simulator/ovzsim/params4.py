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
"""Options of ``vzctl create`` and ``vzctl set``, family 4, and what they write."""

from __future__ import annotations

import os
from collections.abc import Callable

from ovzsim import netif, units, words
from ovzsim.base import UNLIMITED, Exit, Unmodelled
from ovzsim.getopt_long import BadOption, parse
from ovzsim.host import Host
from ovzsim.units import BadValue

BAD_PARAMETER = 21

# Beancounters: option -> unit. The parameter is the option in capitals.
UBC: dict[str, int] = {
    "kmemsize": units.BYTES,
    "lockedpages": units.PAGES,
    "privvmpages": units.PAGES,
    "shmpages": units.PAGES,
    "numproc": units.COUNT,
    "physpages": units.PAGES,
    "vmguarpages": units.PAGES,
    "oomguarpages": units.PAGES,
    "numtcpsock": units.COUNT,
    "numflock": units.COUNT,
    "numpty": units.COUNT,
    "numsiginfo": units.COUNT,
    "tcpsndbuf": units.BYTES,
    "tcprcvbuf": units.BYTES,
    "othersockbuf": units.BYTES,
    "dgramrcvbuf": units.BYTES,
    "numothersock": units.COUNT,
    "numfile": units.COUNT,
    "dcachesize": units.BYTES,
    "numiptent": units.COUNT,
    "avnumproc": units.COUNT,
    "swappages": units.PAGES,
}

# The order in which new parameters are appended to a configuration file.
ORDER: tuple[str, ...] = (
    "ONBOOT",
    "BOOTORDER",
    *(name.upper() for name in UBC),
    "VM_OVERCOMMIT",
    "CAPABILITY",
    "DEVNODES",
    "DEVICES",
    "IPTABLES",
    "NETFILTER",
    "IP_ADDRESS",
    "HOSTNAME",
    "NAMESERVER",
    "SEARCHDOMAIN",
    "DESCRIPTION",
    "VE_ROOT",
    "VE_PRIVATE",
    "MOUNT_OPTS",
    "VE_LAYOUT",
    "OSTEMPLATE",
    "ORIGIN_SAMPLE",
    "DISK_QUOTA",
    "DISKSPACE",
    "DISKINODES",
    "QUOTATIME",
    "QUOTAUGIDLIMIT",
    "NAME",
    "FEATURES",
    "IOPRIO",
    "IOLIMIT",
    "IOPSLIMIT",
    "CPUUNITS",
    "CPULIMIT",
    "CPUS",
    "CPUMASK",
    "NODEMASK",
    "NETDEV",
    "PCI",
    "NETIF",
    "DISABLED",
    "STOP_TIMEOUT",
    "MEMINFO",
)

_CPU = ("CPUUNITS", "CPULIMIT", "CPUS", "CPUMASK", "NODEMASK")
_DISK = ("DISKSPACE", "DISKINODES")


def ubc_text(barrier: int, limit: int) -> str:
    """A beancounter as ``set`` writes it: one number when both are the same."""
    if barrier == limit:
        return units.limit_text(barrier)
    return f"{units.limit_text(barrier)}:{units.limit_text(limit)}"


class Request:
    """The options of one create or set, checked but not yet applied."""

    def __init__(self, host: Host, ctid: str) -> None:
        self.host = host
        self.ctid = ctid
        self.plain: dict[str, str] = {}  # parameters written as they are
        self.save = self.force = self.crypted = False
        self.reset_ub = False
        self.setmode = ""
        self.applyconfig = self.applyconfig_map = ""
        self.config = ""
        self.layout = ""
        self.userpasswd = ""
        self.ip_add: list[str] = []
        self.ip_del: list[str] = []
        self.words: dict[str, list[str]] = {}  # NAMESERVER, SEARCHDOMAIN
        self.features: dict[str, str] = {}
        self.capabilities: dict[str, str] = {}
        self.devnodes: dict[str, str] = {}
        self.devices: dict[str, str] = {}
        self.netdev_add: list[str] = []
        self.netdev_del: list[str] = []
        self.nic_add: list[netif.Nic] = []
        self.nic_del: list[str] = []
        self.nic_edit: dict[str, str] = {}

    def put(self, name: str, value: str) -> None:
        """Sets a parameter; of a repeated option the first one wins."""
        self.plain.setdefault(name, value)

    @property
    def uses_cpu(self) -> bool:
        """A parameter of the CPU is among them."""
        return any(name in self.plain for name in _CPU)

    @property
    def uses_disk(self) -> bool:
        """A disk quota is among them."""
        return any(name in self.plain for name in _DISK)

    @property
    def uses_ubc(self) -> bool:
        """A beancounter is among them."""
        return any(name.upper() in self.plain for name in UBC)

    def changes(self, old: dict[str, str]) -> dict[str, str | None]:
        """What to write, given the parameters that are there already."""
        new: dict[str, str | None] = dict(self.plain)
        for name, listed in self.words.items():
            new[name] = " ".join(listed)
        if self.ip_add or self.ip_del:
            new["IP_ADDRESS"] = " ".join(self._addresses(old))
        if self.features:
            new["FEATURES"] = self._features(old)
        if self.capabilities:
            held = dict(e.split(":") for e in old.get("CAPABILITY", "").split())
            held.update(self.capabilities)
            new["CAPABILITY"] = "".join(
                f" {name}:{held[name]}" for name in words.CAPABILITIES if name in held
            )
        if self.devnodes:
            new["DEVNODES"] = _merge_devices(old.get("DEVNODES", ""), self.devnodes)
            if "DEVNODES" in old:
                new.setdefault("DEVICES", old.get("DEVICES", ""))
        if self.devices:
            new["DEVICES"] = _merge_devices(old.get("DEVICES", ""), self.devices)
        if self.netdev_add or self.netdev_del:
            held_names = old.get("NETDEV", "").split()
            held_names += [n for n in self.netdev_add if n not in held_names]
            new["NETDEV"] = " ".join(n for n in held_names if n not in self.netdev_del)
        if self.nic_add or self.nic_del or self.nic_edit:
            before = netif.parse(old.get("NETIF", ""))
            after = netif.dump_4(self.nics(before))
            if after or "NETIF" in old:
                new["NETIF"] = after
        return new

    def nics(self, before: list[netif.Nic]) -> list[netif.Nic]:
        """The NICs there are after this request."""
        if "all" in self.nic_del:
            after = []
        else:
            after = [n for n in before if n["ifname"] not in self.nic_del]
        after = [dict(nic) for nic in after]
        for nic in self.nic_add:
            if netif.find(after, nic["ifname"]) is None:
                after.append(nic)
        edited = netif.find(after, self.nic_edit.get("ifname", ""))
        if edited is not None:
            edited.update(self.nic_edit)
        return after

    def _addresses(self, old: dict[str, str]) -> list[str]:
        held = [] if "all" in self.ip_del else old.get("IP_ADDRESS", "").split()
        gone = {*self.ip_del, *self.ip_add}
        return [ip for ip in held if ip not in gone] + self.ip_add

    def _features(self, old: dict[str, str]) -> str:
        held = dict(e.split(":") for e in old.get("FEATURES", "").split())
        held.update(self.features)
        return " ".join(f"{n}:{held[n]}" for n in words.FEATURES_4 if n in held)


def _merge_devices(old: str, changes: dict[str, str]) -> str:
    """Device entries ``key:mode``; the mode "none" takes one away."""
    held = dict(entry.rsplit(":", 1) for entry in old.split())
    held.update(changes)
    return "".join(f"{k}:{mode} " for k, mode in held.items() if mode != "none")


# -- one handler per kind of option -------------------------------------------

Handler = Callable[[Request, str], None]


def _ubc(name: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.put(name.upper(), ubc_text(*units.pair(text, UBC[name])))

    return handle


def _raw(name: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.put(name, text)

    return handle


def _number(name: str, low: int = 0, high: int = 2**31 - 1) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.put(name, str(units.whole_number(text, low, high)))

    return handle


def _word(name: str, *allowed: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.put(name, units.choice(text, allowed))

    return handle


def _listed(name: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.words.setdefault(name, []).extend(text.split())

    return handle


def _flag(attribute: str) -> Handler:
    def handle(request: Request, _text: str) -> None:
        setattr(request, attribute, True)

    return handle


def _text(attribute: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        setattr(request, attribute, text)

    return handle


def _memory(name: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        if not request.force and not request.host.switch("openvz_kernel"):
            raise Exit(
                3,
                "Error: kernel does not support vswap, unable to use --ram/--swap "
                "parameters\nError parsing options\n",
            )
        request.put(name, ubc_text(0, units.quantity(text, units.PAGES)))

    return handle


def _disk(name: str, unit: int) -> Handler:
    def handle(request: Request, text: str) -> None:
        soft, hard = units.pair(text, unit)
        request.put(name, f"{units.limit_text(soft)}:{units.limit_text(hard)}")

    return handle


def _cpulimit(request: Request, text: str) -> None:
    # strtoul: a minus sign wraps around.
    negative = text.startswith("-")
    number = text[1:] if negative else text
    if not number.isdigit():
        raise BadValue
    request.put("CPULIMIT", str(-int(number) % 2**64 if negative else int(number)))


def _mask(name: str, *allowed: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.put(name, units.mask(text, allowed))

    return handle


def _iolimit(request: Request, text: str) -> None:
    # A number without a suffix means megabytes a second.
    factor = 2**20 if text.isdigit() else 1
    request.put("IOLIMIT", str(units.quantity(text, units.BYTES) * factor))


def _overcommit(request: Request, text: str) -> None:
    try:
        float(text)
    except ValueError:
        raise BadValue from None
    request.put("VM_OVERCOMMIT", text)


def _ipadd(request: Request, text: str) -> None:
    request.ip_add.extend(units.address(ip) for ip in text.split())


def _ipdel(request: Request, text: str) -> None:
    request.ip_del.extend(ip if ip == "all" else units.address(ip) for ip in [text])


def _features(request: Request, text: str) -> None:
    for entry in text.split(","):
        name, _, mode = entry.partition(":")
        if name not in words.FEATURES_4 or mode not in ("on", "off"):
            raise Exit(
                BAD_PARAMETER,
                f"Bad parameter for --features: {text}\n",
                f"Warning: Unknown feature: {entry}\n",
            )
        request.features[name] = mode


def _capability(request: Request, text: str) -> None:
    for entry in text.split(","):
        name, colon, mode = entry.partition(":")
        if not colon or mode not in ("on", "off"):
            raise BadValue(f"Can't parse capability {entry} (expecting capname:on|off)")
        if name.upper() not in words.CAPABILITIES:
            raise BadValue(f"Capability {name} is unknown")
        request.capabilities[name.upper()] = mode


def _devnodes(request: Request, text: str) -> None:
    name, colon, mode = text.rpartition(":")
    if not colon or not (mode == "none" or (mode and set(mode) <= set("rwqx"))):
        raise BadValue
    if not os.path.lexists(request.host.path("dev", name)):
        raise BadValue(f"Incorrect device name /dev/{name}: No such file or directory")
    request.devnodes[name] = mode


def _devices(request: Request, text: str) -> None:
    parts = text.split(":")
    if len(parts) != 4 or parts[0] not in ("b", "c"):
        raise BadValue
    request.devices[":".join(parts[:3])] = parts[3]


def _iptables(request: Request, text: str) -> None:
    names = text.replace(",", " ").split()
    if names != ["iptable_filter"]:
        raise Unmodelled(f"--iptables {text}")
    request.put("IPTABLES", "ip_tables iptable_filter ")


def _netfilter(request: Request, text: str) -> None:
    if text not in words.NETFILTER:
        raise BadValue(f"Incorrect netfilter value: {text}")
    request.put("NETFILTER", text)


def _pci_add(request: Request, text: str) -> None:
    full = text if text.count(":") == 2 else f"0000:{text}"
    request.put("PCI", full)


def _name(request: Request, text: str) -> None:
    if any(not (c.isascii() and (c.isalnum() or c in "-+_. ")) for c in text):
        raise BadValue
    request.put("NAME", text)


def _netif_add(request: Request, text: str) -> None:
    request.nic_add.append(netif.new_4(text, request.ctid))


def _netif_del(request: Request, text: str) -> None:
    request.nic_del.append(text)


def _nic_field(name: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        if name in ("mac", "host_mac"):
            text = units.mac_address(text)
        elif name == "host_ifname":
            text = netif.host_name_checked(text)
        elif name == "mac_filter":
            text = units.choice(text, ("on", "off"))
        request.nic_edit[name] = text

    return handle


def _netdev(attribute: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        getattr(request, attribute).append(text)

    return handle


def _setmode(request: Request, text: str) -> None:
    request.setmode = units.choice(text, ("restart", "ignore"))


def _layout(request: Request, text: str) -> None:
    request.layout = units.choice(text.partition(":")[0], ("simfs", "ploop"))


def _meminfo(request: Request, text: str) -> None:
    units.choice(text.partition(":")[0], ("none", "pages", "privvmpages"))
    request.put("MEMINFO", text)


_YES_NO = ("yes", "no")

COMMON: dict[str, Handler] = {
    "name": _name,
    "hostname": _raw("HOSTNAME"),
    "description": _raw("DESCRIPTION"),
    "ipadd": _ipadd,
    "diskspace": _disk("DISKSPACE", units.KILOBYTES),
    "diskinodes": _disk("DISKINODES", units.COUNT),
    "private": _raw("VE_PRIVATE"),
    "root": _raw("VE_ROOT"),
    "ostemplate": _raw("OSTEMPLATE"),
}

CREATE: dict[str, Handler] = {
    **COMMON,
    "config": _text("config"),
    "layout": _layout,
}

SET: dict[str, Handler] = {
    **COMMON,
    **{name: _ubc(name) for name in UBC},
    "save": _flag("save"),
    "force": _flag("force"),
    "reset_ub": _flag("reset_ub"),
    "setmode": _setmode,
    "applyconfig": _text("applyconfig"),
    "applyconfig_map": _text("applyconfig_map"),
    "ram": _memory("PHYSPAGES"),
    "swap": _memory("SWAPPAGES"),
    "vm_overcommit": _overcommit,
    "cpuunits": _number("CPUUNITS", 8, 500000),
    "cpulimit": _cpulimit,
    "cpus": _number("CPUS"),
    "cpumask": _mask("CPUMASK", "all", "auto"),
    "nodemask": _mask("NODEMASK", "all"),
    "ioprio": _number("IOPRIO", 0, 7),
    "iolimit": _iolimit,
    "iopslimit": _number("IOPSLIMIT"),
    "quotatime": _number("QUOTATIME"),
    "quotaugidlimit": _number("QUOTAUGIDLIMIT"),
    "diskquota": _word("DISK_QUOTA", *_YES_NO),
    "onboot": _word("ONBOOT", *_YES_NO),
    "bootorder": _number("BOOTORDER"),
    "disabled": _word("DISABLED", *_YES_NO),
    "stop-timeout": _number("STOP_TIMEOUT"),
    "nameserver": _listed("NAMESERVER"),
    "searchdomain": _listed("SEARCHDOMAIN"),
    "ipdel": _ipdel,
    "features": _features,
    "capability": _capability,
    "devnodes": _devnodes,
    "devices": _devices,
    "iptables": _iptables,
    "netfilter": _netfilter,
    "netdev_add": _netdev("netdev_add"),
    "netdev_del": _netdev("netdev_del"),
    "pci_add": _pci_add,
    "mount_opts": _raw("MOUNT_OPTS"),
    "meminfo": _meminfo,
    "userpasswd": _text("userpasswd"),
    "crypted": _flag("crypted"),
    "netif_add": _netif_add,
    "netif_del": _netif_del,
    "ifname": _nic_field("ifname"),
    "mac": _nic_field("mac"),
    "host_ifname": _nic_field("host_ifname"),
    "host_mac": _nic_field("host_mac"),
    "bridge": _nic_field("bridge"),
    "mac_filter": _nic_field("mac_filter"),
}
# Options that vzctl knows and the simulator does not; they take an argument.
_UNMODELLED = ("pci_del", "cidr", "uptime")
_FLAGS = ("save", "force", "reset_ub", "crypted")


def parse_options(
    host: Host, ctid: str, args: list[str], handlers: dict[str, Handler]
) -> Request:
    """Checks the options of create or set. :raises Exit: 21 for a bad one."""
    known = {name: name not in _FLAGS for name in (*handlers, *_UNMODELLED)}
    try:
        options, extra = parse(args, known, "vzctl")
    except BadOption as error:
        raise Exit(BAD_PARAMETER, f"{error}\n") from None
    if extra:
        raise Exit(20, f"Invalid extra arguments: {' '.join(extra)} \n")
    request = Request(host, ctid)
    for name, value in options:
        if name not in handlers:
            raise Unmodelled(f"--{name}")
        try:
            handlers[name](request, value)
        except BadValue as error:
            own = f"{error.message}\n" if error.message else ""
            raise Exit(
                BAD_PARAMETER, f"{own}Bad parameter for --{name}: {value}\n"
            ) from None
    return request


def sample_changes(values: dict[str, str]) -> dict[str, str]:
    """A sample's parameters as ``--applyconfig`` writes them."""
    changes: dict[str, str] = {}
    for name, unit in UBC.items():
        # AVNUMPROC of a sample is read, never written.
        if name.upper() in values and name != "avnumproc":
            changes[name.upper()] = ubc_text(*units.pair(values[name.upper()], unit))
    for name, unit in (("DISKSPACE", units.KILOBYTES), ("DISKINODES", units.COUNT)):
        if name in values:
            soft, hard = units.pair(values[name], unit)
            changes[name] = f"{soft}:{hard}"
    for name in ("QUOTATIME", "CPUUNITS", "NETFILTER"):
        if name in values:
            changes[name] = values[name]
    return changes


def vswap_is_unlimited(text: str) -> bool:
    """A PHYSPAGES limit that does not limit."""
    try:
        return units.pair(text, units.PAGES)[1] >= UNLIMITED
    except BadValue:
        return True
