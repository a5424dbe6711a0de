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
"""Options of ``vzctl create`` and ``vzctl set``, family 9, and what they write."""

from __future__ import annotations

import os
from collections.abc import Callable

from ovzsim import netif, units, words
from ovzsim.base import Exit, Unmodelled
from ovzsim.getopt_long import BadOption, parse
from ovzsim.host import Host
from ovzsim.request9 import DEPRECATED_UBC, UBC, Request, pair_text
from ovzsim.units import BadValue

BAD_PARAMETER = 21
ZERO_UUID = "{00000000-0000-0000-0000-000000000000}"


# -- one handler per kind of option -------------------------------------------

Handler = Callable[[Request, str], None]


def _raw(name: str) -> Handler:
    return lambda request, text: request.put(name, text)


def _number(name: str, low: int = 0, high: int = 2**31 - 1) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.put(name, str(units.whole_number(text, low, high)))

    return handle


def _word(name: str, *allowed: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.put(name, units.choice(text, allowed))

    return handle


def _flag(attribute: str) -> Handler:
    return lambda request, _text: setattr(request, attribute, True)


def _text(attribute: str) -> Handler:
    return lambda request, text: setattr(request, attribute, text)


def _listed(name: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.words.setdefault(name, []).extend(text.split())

    return handle


def _ubc(name: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        barrier, limit = units.pair(text, UBC[name])
        request.put(name.upper(), pair_text(barrier, limit))
        request.swap = request.swap or name == "swappages"

    return handle


def _deprecated_ubc(name: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        units.pair(text, units.BYTES)
        request.says.append(f"Warning: {name.upper()} parameter is deprecated")

    return handle


def _ignored(name: str, warn: bool = False) -> Handler:
    def handle(request: Request, _text: str) -> None:
        if warn:
            request.warns.append(f"Warning: The --{name} option is deprecated")

    return handle


def _memory(name: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        try:
            size = units.quantity(text, units.BYTES)
        except BadValue:
            raise BadValue("An incorrect value: (null)") from None
        pages = size // units.PAGE  # a number without a suffix is bytes
        request.put(name, pair_text(pages, pages))
        request.swap = request.swap or name == "SWAPPAGES"

    return handle


def _disk_quota(name: str, unit: int) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.put(name, pair_text(*units.pair(text, unit)))

    return handle


def _cpulimit(request: Request, text: str) -> None:
    kind, number = "CPULIMIT", text
    if text.endswith("m"):
        kind, number = "CPULIMIT_MHZ", text[:-1]
    elif text.endswith("%"):
        number = text[:-1]
    negative = number.startswith("-")
    if not number.lstrip("-").isdigit():
        raise BadValue
    value = -int(number[1:]) % 2**64 if negative else int(number)
    request.put(kind, str(value))
    request.put("CPULIMIT" if kind == "CPULIMIT_MHZ" else "CPULIMIT_MHZ", None)


def _cpus(request: Request, text: str) -> None:
    number = units.whole_number(text)
    request.put("CPUS", str(number) if number else None)


def _cpumask(request: Request, text: str) -> None:
    written = units.mask(text, ("all", "auto"))
    request.put("CPUMASK", "" if written == "all" else written)


def _memguarantee(request: Request, text: str) -> None:
    if text != "auto":
        units.whole_number(text, 0, 100)
    request.put("MEMGUARANTEE", text)


def _iolimit(request: Request, text: str) -> None:
    request.put("IOLIMIT", str(units.quantity(text, units.BYTES)))


def _name(request: Request, text: str) -> None:
    if any(not (c.isascii() and (c.isalnum() or c in "-+_. ")) for c in text):
        raise BadValue
    request.put("NAME", text or None)


def _ipadd(request: Request, text: str) -> None:
    if request.nic_ifname or request.nic_current is not None:
        nic = request.nic()
        field = "ip6" if ":" in text else "ip"
        written = units.address_dotted(text)
        nic[field] = f"{nic.get(field, '')} {written}".strip()
        return
    request.ip_add.append(units.address_dotted(text))


def _ipdel(request: Request, text: str) -> None:
    if text != "all":
        units.address(text)
    if request.nic_ifname:
        request.nic_edit["ip_del"] = text
        return
    request.ip_del.append(text)


def _features(request: Request, text: str) -> None:
    for entry in text.split(","):
        name, _, mode = entry.partition(":")
        if name not in words.FEATURES_9 or mode not in ("on", "off"):
            raise BadValue(f"An incorrect feature syntax: {entry}")
        request.features[name] = mode


def _devnodes(request: Request, text: str) -> None:
    name, colon, mode = text.rpartition(":")
    if not colon or not mode:
        raise BadValue
    if not os.path.lexists(request.host.path("dev", name)):
        raise Exit(
            86,
            f"An incorrect device name /dev/{name}: No such file or directory\n"
            f"Bad parameter for --devnodes: {text}\n",
        )
    request.devnodes[name] = mode


def _devices(request: Request, text: str) -> None:
    parts = text.split(":")
    if len(parts) != 4 or parts[0] not in ("b", "c"):
        raise BadValue
    request.devices.append(text)


def _pci_add(request: Request, text: str) -> None:
    parts = text.replace(".", ":").split(":")
    if len(parts) == 3:
        parts.insert(0, "0")
    if len(parts) != 4:
        raise BadValue
    domain, bus, slot, function = (int(p, 16) for p in parts)
    request.put("PCI", f"{domain:04x}:{bus:02x}:{slot:02x}.{function:d}")


def _netif_add(request: Request, text: str) -> None:
    if "," in text:
        nic = netif.new_9(text)
        request.comma_forms.append(text)
    else:
        nic = {"ifname": text}
    request.nic_add.append(nic)
    request.nic_current = nic
    for name, value in request.nic_edit.items():
        # Options before the first --netif_add, after an --ifname of the same name.
        if request.nic_ifname == nic["ifname"]:
            nic.setdefault(name, value)


def _ifname(request: Request, text: str) -> None:
    if request.nic_ifname:
        raise BadValue  # it may be there only once
    request.nic_ifname = text
    request.nic_current = netif.find(request.nic_add, text)


def _nic_field(name: str, check: Callable[[str], str]) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.nic()[name] = check(text)
        if name == "network":
            request.nic().pop("type", None)  # the type must follow the network
        if name == "host_ifname":
            netif.host_name_checked(text)

    return handle


def _nettype(request: Request, text: str) -> None:
    units.choice(text, ("bridge", "routed"))
    nic = request.nic()
    if request.nic_current is None:
        return  # of a NIC that is there already, the type is not written
    nic["type"] = text


def _network_name(text: str) -> str:
    if "/" in text:
        raise BadValue
    return text


def _same(text: str) -> str:
    return text


def _one_of(*allowed: str) -> Callable[[str], str]:
    return lambda text: units.choice(text, allowed)


def _disk_field(name: str) -> Handler:
    def handle(request: Request, text: str) -> None:
        request.disk[name] = text

    return handle


def _device_add(request: Request, text: str) -> None:
    units.choice(text, ("hdd",))
    request.disk["add"] = text


_YES_NO = ("yes", "no")

COMMON: dict[str, Handler] = {
    "name": _name,
    "hostname": _raw("HOSTNAME"),
    "description": _raw("DESCRIPTION"),
    "ipadd": _ipadd,
    "diskspace": _disk_quota("DISKSPACE", units.KILOBYTES),
    "diskinodes": _disk_quota("DISKINODES", units.COUNT),
    "ostemplate": _raw("OSTEMPLATE"),
    "force": _flag("force"),
}

CREATE: dict[str, Handler] = {
    **COMMON,
    "config": _text("config"),
    "layout": _text("layout"),
    "no-hdd": _flag("no_hdd"),
    "uuid": _text("uuid"),
    "private": _raw("VE_PRIVATE"),
    "root": _raw("VE_ROOT"),
    "distribution": _raw("DISTRIBUTION"),
    "skip_app_templates": _ignored("skip_app_templates"),
}

SET: dict[str, Handler] = {
    **COMMON,
    **{name: _ubc(name) for name in UBC},
    **{name: _deprecated_ubc(name) for name in DEPRECATED_UBC},
    "save": _flag("save"),
    "setmode": lambda r, t: setattr(
        r, "setmode", units.choice(t, ("restart", "ignore"))
    ),
    "applyconfig": _text("applyconfig"),
    "ram": _memory("PHYSPAGES"),
    "memory": _memory("PHYSPAGES"),
    "swap": _memory("SWAPPAGES"),
    "memguarantee": _memguarantee,
    "vm_overcommit": _raw("VM_OVERCOMMIT"),
    "cpuunits": _number("CPUUNITS", 8, 500000),
    "cpuweight": _ignored("cpuweight"),
    "cpulimit": _cpulimit,
    "cpus": _cpus,
    "cpumask": _cpumask,
    "nodemask": lambda r, t: r.put("NODEMASK", units.mask(t, ("all",))),
    "ioprio": _number("IOPRIO", 0, 7),
    "iolimit": _iolimit,
    "iopslimit": _number("IOPSLIMIT"),
    "size": _disk_field("size"),
    "quotaugidlimit": _number("QUOTAUGIDLIMIT"),
    "rate": _raw("RATE"),
    "ratebound": _word("RATEBOUND", *_YES_NO),
    "nameserver": _listed("NAMESERVER"),
    "searchdomain": _listed("SEARCHDOMAIN"),
    "onboot": _word("ONBOOT", "yes", "no", "auto"),
    "autostopt": _word("AUTOSTOP", "stop", "suspend"),
    "disabled": _word("DISABLED", *_YES_NO),
    "bootorder": _number("BOOTORDER"),
    "features": _features,
    "capability": _ignored("capability", warn=True),
    "noatime": _ignored("noatime"),
    "ipdel": _ipdel,
    "userpasswd": _text("userpasswd"),
    "crypted": _flag("crypted"),
    "devnodes": _devnodes,
    "devices": _devices,
    "pci_add": _pci_add,
    "netdev_add": _raw("NETDEV"),
    "ha_enable": _word("HA_ENABLE", *_YES_NO),
    "ha_prio": _number("HA_PRIO"),
    "bindmount_add": lambda r, t: r.bind_add.append(t),
    "bindmount_del": lambda r, t: r.bind_del.append(t),
    "distribution": _raw("DISTRIBUTION"),
    "netif_add": _netif_add,
    "netif_del": lambda r, t: r.nic_del.append(t),
    "ifname": _ifname,
    "mac": _nic_field("mac", units.mac_address),
    "host_mac": _nic_field("host_mac", units.mac_address),
    "host_ifname": _nic_field("host_ifname", _same),
    "network": _nic_field("network", _network_name),
    "nettype": _nettype,
    "vporttype": _nic_field("vport", _one_of("ovs", "bridge")),
    "gw": _nic_field("gw", units.address),
    "gw6": _nic_field("gw6", units.address),
    "dhcp": _nic_field("dhcp", _one_of(*_YES_NO)),
    "dhcp6": _nic_field("dhcp6", _one_of(*_YES_NO)),
    "configure": _nic_field("configure", _one_of("none", "all")),
    "mac_filter": _nic_field("mac_filter", _one_of("on", "off")),
    "device-add": _device_add,
    "device-del": _disk_field("del"),
    "device-set": _disk_field("set"),
    "device": _disk_field("device"),
    "device-uuid": _disk_field("uuid"),
    "image": _disk_field("image"),
    "mnt": _disk_field("mnt"),
    "detach": _flag("detach"),
    "disable": lambda r, _t: r.disk.__setitem__("disable", "yes"),
}
_FLAGS = (
    "save",
    "force",
    "no-hdd",
    "detach",
    "disable",
    "crypted",
    "skip_app_templates",
)
# Options that vzctl knows and the simulator does not.
_UNMODELLED = {
    "mount_opts": True,
    "netif_mac_renew": False,
    "pci_del": True,
    "netdev_del": True,
    "jquota": True,
    "pagecache-isolation": True,
}


def known_options(handlers: dict[str, Handler]) -> dict[str, bool]:
    """Option -> whether it takes an argument."""
    return {**{name: name not in _FLAGS for name in handlers}, **_UNMODELLED}


def parse_options(
    host: Host, ctid: str, args: list[str], handlers: dict[str, Handler]
) -> Request:
    """Checks the options of create or set. :raises Exit: 21 for a bad one."""
    try:
        options, extra = parse(args, known_options(handlers), ctid)
    except BadOption as error:
        raise Exit(BAD_PARAMETER, f"{error}\n") from None
    if extra:
        raise Exit(20, "", f"non-option ARGV-elements: {' '.join(extra)} \n")
    request = Request(host, ctid)
    for name, value in options:
        if name not in handlers:
            raise Unmodelled(f"--{name}")
        try:
            handlers[name](request, value)
        except BadValue as error:
            own = f"{error.message}\n" if error.message else ""
            raise _bad(name, value, own) from None
    _check_comma_forms(request)
    return request


def _bad(name: str, value: str, own: str = "") -> Exit:
    return Exit(BAD_PARAMETER, f"{own}Bad parameter for --{name}: {value}\n")


def _check_comma_forms(request: Request) -> None:
    """A NIC with commas is taken only when --ifname names the last one after it."""
    if request.comma_forms and request.nic_ifname != request.nic_add[-1]["ifname"]:
        raise _bad("netif_add", request.comma_forms[0])
