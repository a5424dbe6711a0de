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
"""One container as vzlist shows it: plain cells and JSON values."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from ovzsim import area, base, fields, netif, state, units
from ovzsim.base import UNLIMITED
from ovzsim.call import Call, linked_ctid
from ovzsim.units import BadValue

_UNITS = {
    "kmemsize": units.BYTES,
    "tcpsndbuf": units.BYTES,
    "tcprcvbuf": units.BYTES,
    "othersockbuf": units.BYTES,
    "dgramrcvbuf": units.BYTES,
    "dcachesize": units.BYTES,
    "lockedpages": units.PAGES,
    "privvmpages": units.PAGES,
    "shmpages": units.PAGES,
    "physpages": units.PAGES,
    "vmguarpages": units.PAGES,
    "oomguarpages": units.PAGES,
    "swappages": units.PAGES,
}


class _Raw(str):
    """Text that goes into JSON as it is."""

    __slots__ = ()


class Row:
    """What there is to show of one container."""

    def __init__(self, call: Call, ctid: str, blind: bool) -> None:
        self.host = call.host
        self.ctid = ctid
        self.family = call.host.family
        self.conf: dict[str, str] = {}
        try:
            file = call.load(ctid)
        except FileNotFoundError:
            self.exists = False
            return
        # Number 0 is the node itself: its configuration is no container's.
        self.conf = {} if ctid == "0" else call.values(file)
        self.area = area.Area(self.host, ctid, self.conf)
        # Without its private area vzlist does not show a container at all.
        self.exists = self.area.exists
        self.live = state.State(self.host, ctid)
        self.running = self.live.running and not blind
        self.status = self._status()
        self.nics = netif.parse(self.conf.get("NETIF", ""))

    def _status(self) -> str:
        live = self.live
        if self.running:
            return "paused" if live.paused and self.family == "9" else "running"
        if live.mounted and self.family == "4":
            return "mounted"
        if os.path.exists(self._dump):
            return "suspended"
        return "mounted" if live.mounted else "stopped"

    @property
    def _dump(self) -> str:
        if self.family == "9":
            return os.path.join(self.area.private, "dump/Dump")
        directory = self.host.vz_conf().get("DUMPDIR") or self.host.path("vz/dump")
        return os.path.join(directory, f"Dump.{self.ctid}")

    # -- values ---------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """The name, if its link leads here."""
        name = self.conf.get("NAME")
        return name if name and linked_ctid(self.host, name) == self.ctid else None

    def raw(self, column: str) -> str | None:
        """A text column; None when it is not set."""
        if column == "name":
            return self.name
        return self.conf.get(column.upper())

    def _pair(self, name: str) -> tuple[int, int]:
        """Barrier and limit of a beancounter or a disk quota."""
        if name == "diskspace" and self._is_ploop:
            return self.area.image_kb, self.area.image_kb
        text = self.conf.get(name.upper())
        unit = _UNITS.get(name, units.COUNT)
        if name == "diskspace":
            unit = units.KILOBYTES
        if text is not None:
            try:
                return units.pair(text, unit)
            except BadValue:
                return 0, 0
        unset = self.family == "4" and self.running and name in fields.UBC_HEADINGS
        return (UNLIMITED, UNLIMITED) if unset else (0, 0)

    @property
    def _is_ploop(self) -> bool:
        """Its image says what is used, also where it is not mounted."""
        return self.family == "4" and self.area.is_ploop

    def _used(self, name: str) -> int:
        if name == "diskspace" and self._is_ploop:
            return self.area.used_kb()
        try:
            text = base.read_text(self.host.sim("usage", f"{self.ctid}.json"))
        except FileNotFoundError:
            return {"physpages": 82, "numproc": 1}.get(name, 0)
        return int(json.loads(text).get(name, 0))

    def _addresses(self) -> list[str]:
        found = [ip.split("/")[0] for ip in self.conf.get("IP_ADDRESS", "").split()]
        for nic in self.nics:
            for ip in f"{nic.get('ip', '')} {nic.get('ip6', '')}".split():
                found.append(ip.split("/")[0])
        return [ip for ip in found if ip not in ("0.0.0.0", "::")]  # noqa: S104

    def _nic(self, field: str) -> str | None:
        return self.nics[0].get(field) if self.nics else None

    def _garbled(self, field: str) -> str | None:
        """The first six characters of a MAC as numbers: what family 9 prints."""
        mac = self._nic(field)
        return ":".join(f"{ord(c):02x}" for c in mac[:6]) if mac else None

    # -- plain output ---------------------------------------------------------

    def plain(self, column: str) -> str:
        """A column's text."""
        name, _, part = column.partition(".")
        if name in fields.UBC_HEADINGS:
            return self._plain_ubc(name, part)
        if name in ("diskspace", "diskinodes"):
            soft, hard = self._pair(name)
            if part:
                return str(soft if part == "s" else hard)
            known = self.running or (name == "diskspace" and self._is_ploop)
            return str(self._used(name)) if known else "-"
        special = _PLAIN.get(column)
        if special is not None:
            return special(self)
        text = self.raw(column)
        if text is None or (column == "name" and not text):
            return "-"
        return text

    def _plain_ubc(self, name: str, part: str) -> str:
        barrier, limit = self._pair(name)
        if part in ("b", "l"):
            return str(barrier if part == "b" else limit)
        if not self.running:
            return "-"
        return "0" if part == "f" else str(self._used(name))

    # -- JSON -----------------------------------------------------------------

    def json(self, column: str) -> object:
        """A column's JSON value; _Raw for text that stands there as it is."""
        if column in fields.UBC_HEADINGS:
            barrier, limit = self._pair(column)
            held = self._used(column) if self.running else 0
            return {
                "held": held,
                "maxheld": held,
                "barrier": barrier,
                "limit": limit,
                "failcnt": 0,
            }
        if column in ("diskspace", "diskinodes"):
            soft, hard = self._pair(column)
            known = self.running or (column == "diskspace" and self._is_ploop)
            used = self._used(column) if known else 0
            return {"usage": used, "softlimit": soft, "hardlimit": hard}
        special = _JSON.get(column)
        return special(self) if special is not None else self.raw(column)


def _or_dash(text: str | None) -> str:
    return text or "-"


def _first_feature(row: Row) -> str:
    return ",".join(row.conf.get("FEATURES", "").split()) or "-"


def _vswap(row: Row) -> bool:
    limit = row.conf.get("PHYSPAGES")
    return limit is not None and row._pair("physpages")[1] < UNLIMITED


def _uptime(row: Row) -> str:
    seconds = int(row.live.uptime)
    if not row.running:
        return "-"
    days, rest = divmod(seconds, 86400)
    return f"{days:03}d{rest // 3600:02}h:{rest // 60 % 60:02}m:{rest % 60:02}s"


def _layout(row: Row) -> str:
    if row.family == "4":
        return row.conf.get("VE_LAYOUT", "simfs")
    try:
        return os.readlink(os.path.join(row.area.private, ".ve.layout"))
    except OSError:
        return "5"


def _number(name: str, default: str) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        text = row.conf.get(name) or default
        return default if text == "0" and default == "-" else text

    return show


_PLAIN: dict[str, Callable[[Row], str]] = {
    "ctid": lambda row: row.ctid,
    "veid": lambda row: row.ctid,
    "vpsid": lambda row: row.ctid,
    "uuid": lambda row: _or_dash(row.conf.get("UUID") or _uuid_in_file(row)),
    "private": lambda row: row.area.private,
    "root": lambda row: row.area.root,
    "smart_name": lambda row: row.name or row.ctid,
    "ostemplate": lambda row: _or_dash(row.conf.get("OSTEMPLATE")),
    "ip": lambda row: _or_dash(" ".join(row._addresses())),
    "configured_ip": lambda row: _or_dash(" ".join(row._addresses())),
    "nameserver": lambda row: _or_dash(row.conf.get("NAMESERVER")),
    "searchdomain": lambda row: _or_dash(row.conf.get("SEARCHDOMAIN")),
    "status": lambda row: row.status,
    "laverage": lambda row: (
        "0.00/0.00/0.00" if row.running and row.family == "9" else "-"
    ),
    "uptime": _uptime,
    "cpulimit": _number("CPULIMIT", "0"),
    "cpuunits": _number("CPUUNITS", "0"),
    "cpus": _number("CPUS", "-"),
    "ioprio": _number("IOPRIO", "-"),
    "iolimit": _number("IOLIMIT", "-"),
    "iopslimit": _number("IOPSLIMIT", "-"),
    "onboot": lambda row: (
        _or_dash(row.conf.get("ONBOOT"))
        if row.family == "4"
        else row.conf.get("ONBOOT", "no")
    ),
    "bootorder": _number("BOOTORDER", "-"),
    "layout": _layout,
    "features": _first_feature,
    "vswap": lambda row: "yes" if _vswap(row) else "no",
    "disabled": lambda row: row.conf.get("DISABLED", "no"),
    "vm_overcommit": _number("VM_OVERCOMMIT", "-"),
    "host_ifname": lambda row: _or_dash(row._nic("host_ifname")),
    "ifname": lambda row: _or_dash(row._nic("ifname")),
    "netif": lambda row: _or_dash(row._nic("host_ifname")),
    "mac": lambda row: _or_dash((row._garbled("mac") or "").upper()),
    "host_mac": lambda row: _or_dash((row._garbled("host_mac") or "").upper()),
    "gw": lambda row: _or_dash(row._nic("gw")),
    "network": lambda row: _or_dash(row._nic("network")),
    "device": lambda row: "-" if row.running else "",
    "devnodes": lambda row: _or_dash(row.conf.get("DEVNODES", "").strip()),
}


def _uuid_in_file(row: Row) -> str | None:
    if row.ctid != "0":
        return None
    try:
        text = base.read_text(row.host.conf_path("0"))
    except FileNotFoundError:
        return None
    found = [line for line in text.splitlines() if line.startswith("UUID=")]
    return found[0][6:-1] if found else None


def _integer(name: str, default: object = 0) -> Callable[[Row], object]:
    def show(row: Row) -> object:
        text = row.conf.get(name)
        return int(text) if text else default

    return show


def _name_json(row: Row) -> object:
    return row.name or (None if row.family == "4" else "-")


def _ctid_json(row: Row) -> object:
    return int(row.ctid) if row.family == "4" else row.ctid


def _smart_json(row: Row) -> object:
    return row.name or _ctid_json(row)


def _features_json(row: Row) -> object:
    entries = row.conf.get("FEATURES", "").split()
    return {e.split(":")[0]: e.endswith(":on") for e in entries} or None


def _devnodes_json(row: Row) -> object:
    entries = row.conf.get("DEVNODES", "").split()
    return {name: mode for name, _, mode in (e.rpartition(":") for e in entries)}


def _onboot_json(row: Row) -> object:
    text = row.conf.get("ONBOOT")
    if row.family == "4":
        return None if text is None else text == "yes"
    return text == "yes"


def _overcommit_json(row: Row) -> object:
    return _Raw(row.conf.get("VM_OVERCOMMIT") or "0")


def _ostemplate_json(row: Row) -> object:
    return row.conf.get("OSTEMPLATE") or (None if row.family == "4" else "-")


_JSON: dict[str, Callable[[Row], object]] = {
    "ctid": _ctid_json,
    "veid": _ctid_json,
    "vpsid": _ctid_json,
    "uuid": lambda row: row.conf.get("UUID"),
    "private": lambda row: row.area.private,
    "root": lambda row: row.area.root,
    "name": _name_json,
    "smart_name": _smart_json,
    "ostemplate": _ostemplate_json,
    "ip": lambda row: row._addresses(),
    "configured_ip": lambda row: row._addresses(),
    "nameserver": lambda row: row.conf.get("NAMESERVER", "").split(),
    "searchdomain": lambda row: row.conf.get("SEARCHDOMAIN", "").split(),
    "status": lambda row: row.status,
    "laverage": lambda row: (
        [_Raw("0.00")] * 3 if row.running and row.family == "9" else None
    ),
    "uptime": lambda row: _Raw(f"{row.live.uptime:.3f}"),
    "cpulimit": _integer("CPULIMIT"),
    "cpuunits": _integer("CPUUNITS"),
    "cpus": _integer("CPUS"),
    "ioprio": lambda row: _integer("IOPRIO", 0 if row.family == "4" else None)(row),
    "iolimit": _integer("IOLIMIT"),
    "iopslimit": _integer("IOPSLIMIT"),
    "onboot": _onboot_json,
    "bootorder": lambda row: _integer("BOOTORDER", None if row.family == "4" else 0)(
        row
    ),
    "layout": lambda row: _layout(row) if row.family == "4" else int(_layout(row)),
    "features": _features_json,
    "vswap": _vswap,
    "disabled": lambda row: row.conf.get("DISABLED") == "yes",
    "vm_overcommit": _overcommit_json,
    "host_ifname": lambda row: row._nic("host_ifname"),
    "ifname": lambda row: row._nic("ifname"),
    "netif": lambda row: row._nic("host_ifname"),
    "mac": lambda row: row._garbled("mac"),
    "host_mac": lambda row: row._garbled("host_mac"),
    "gw": lambda row: row._nic("gw"),
    "network": lambda row: row._nic("network"),
    "devnodes": _devnodes_json,
}


def _json_value(value: object, indent: str) -> str:
    """A value as vzlist writes it. Nothing is escaped."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_json_value(entry, '') for entry in value)}]"
    if isinstance(value, dict):
        lines = [f'{indent}  "{k}": {_json_value(v, "")}' for k, v in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return f'"{value}"'


def json_text(rows: list[Row], columns: list[str]) -> str:
    """The whole of ``vzlist -j``."""
    objects = []
    for row in rows:
        lines = [f'    "{c}": {_json_value(row.json(c), "    ")}' for c in columns]
        objects.append("  {\n" + ",\n".join(lines) + "\n  }")
    return "[\n" + ",\n".join(objects) + ("\n]\n" if objects else "]\n")
