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
"""``vzlist`` of both families."""

from __future__ import annotations

import fnmatch
import os

from ovzsim import fields, getopt_long
from ovzsim.base import Exit, Unmodelled
from ovzsim.call import Call, linked_ctid
from ovzsim.getopt_long import BadOption
from ovzsim.row import Row, json_text

_USAGE_4 = (
    "Usage:\tvzlist [-a | -S] [-n] [-H] [-t] [-j] [-o field[,field...] | -1]\n"
    "\t[-s [-]field] [-h pattern] [-N pattern] [-d pattern] [CTID [CTID ...]]\n"
    "\tvzlist -L | --list\n"
)
_USAGE_9 = (
    "Usage: vzlist [-a|-S] [-n] [-H] [-j] [-o field[,field...]] [-s [-]field]\n"
    "\t[-h pattern] [-N pattern] [-d pattern] [-i ifname] [CTID [CTID ...]|-1]\n"
    "\tvzlist -L\n"
)
# short option -> long option
_SHORT = {
    "a": "all",
    "S": "stopped",
    "n": "name",
    "H": "no-header",
    "j": "json",
    "o": "output",
    "1": "1",
    "s": "sort",
    "h": "hostname",
    "N": "name_filter",
    "d": "description",
    "L": "list",
}
_WITH_VALUE = ("output", "sort", "hostname", "name_filter", "description", "netif")

# vzlist of family 4 cuts a line there, and dies of a longer description.
_LONGEST_LINE = 4095
_DEADLY_DESCRIPTION = 16384
_SEGMENTATION_FAULT = -11

_VEINFO = "Unable to open /proc/vz/veinfo: No such file or directory"
_BEANCOUNTERS = "Unable to open /proc/user_beancounters: No such file or directory"


class _Options:
    def __init__(self, call: Call, args: list[str]) -> None:
        self.family = call.host.family
        short = dict(_SHORT)
        if self.family == "4":
            short["t"] = "no-trim"
        else:
            short["i"] = "netif"
        self.known = {**{name: name in _WITH_VALUE for name in short.values()}}
        self.known["help"] = False
        try:
            given, self.words = getopt_long.parse(
                _long_options(args, short), self.known, self._program
            )
        except BadOption as error:
            raise self._usage(f"{error}\n") from None
        self.flags = {name for name, _ in given}
        self.values = dict(reversed(given))
        if "help" in self.flags:
            raise self._usage()

    @property
    def _program(self) -> str:
        return "/usr/sbin/vzlist" if self.family == "4" else "vzlist"

    def _usage(self, complaint: str = "") -> Exit:
        if self.family == "4":
            return Exit(1, complaint, _USAGE_4)
        return Exit(0, complaint + _USAGE_9)

    def has(self, name: str) -> bool:
        """The option was given."""
        return name in self.flags


def _long_options(args: list[str], short: dict[str, str]) -> list[str]:
    """Short options, also bundled ones, written as long ones."""
    spelled: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*spelled, word, *rest]
        if not word.startswith("-") or word.startswith("--") or word == "-":
            spelled.append(word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in short:
                return [*spelled, f"-{letter}"]
            spelled.append(f"--{short[letter]}")
            if short[letter] in _WITH_VALUE:
                if letters:
                    spelled.append(letters)
                elif rest:
                    spelled.append(rest.pop(0))
                letters = ""
    return spelled


def main(call: Call, args: list[str]) -> int:
    """Runs ``vzlist …``."""
    options = _Options(call, args)
    call.claim_faults("", "")
    with call.work():
        return _Listing(call, options).run()


class _Listing:
    def __init__(self, call: Call, options: _Options) -> None:
        self.call = call
        self.host = call.host
        self.streams = call.streams
        self.options = options
        self.family = call.host.family
        self.fields = fields.FIELDS_4 if self.family == "4" else fields.FIELDS_9

    def run(self) -> int:
        if self.options.has("list"):
            for name, field in self.fields.items():
                self.streams.out(f"{name:15} {field.heading:15}\n")
            return 0
        columns = self._columns()
        blind = self.family == "4" and self.host.switch("blind_vzlist")
        wanted = self._wanted()
        if blind:
            self.streams.warn(_VEINFO)
            if not self.options.has("stopped"):
                # Without the running ones there is nothing to show, and no failure.
                self.streams.warn(_BEANCOUNTERS)
                return 1 if wanted else 0
        if wanted is not None and not wanted:
            if self.family == "4" and self.options.has("json"):
                self.streams.out("[]\n")
            elif self.family == "4":
                self.streams.warn("Container(s) not found")
            return 1
        rows = self._rows(wanted, blind)
        rows = self._sorted(self._filtered(rows))
        if self.options.has("json"):
            self.streams.out(json_text(rows, self._json_columns(columns)))
            return 0
        return self._plain(rows, columns)

    # -- what to show ---------------------------------------------------------

    def _columns(self) -> list[str]:
        options = self.options
        if options.has("1"):
            return ["ctid"]
        if options.has("output"):
            columns = [c for c in options.values["output"].split(",") if c]
            for column in columns:
                if column not in self.fields:
                    raise Exit(1, f"Unknown field: {column}\n")
                if options.has("json") and "." in column and self.family == "4":
                    raise Exit(1, f"Field `{column}' is not available in JSON output\n")
            return columns
        if options.has("netif"):
            return ["ctid", "status", "host_ifname", "configured_ip", "hostname"]
        first = "smart_name" if options.has("name") else "ctid"
        address = "ip" if self.family == "4" else "configured_ip"
        if options.has("name") and self.family == "9":
            return ["ctid", "numproc", "status", address, "name"]
        return [first, "numproc", "status", address, "hostname"]

    def _json_columns(self, columns: list[str]) -> list[str]:
        if self.options.has("output") or self.options.has("1"):
            return columns
        return fields.JSON_4 if self.family == "4" else fields.JSON_9

    def _wanted(self) -> list[str] | None:
        """CTIDs asked for that there are; None when none were asked for."""
        if not self.options.words:
            return None
        found = []
        for word in self.options.words:
            ctid = self._identify(word)
            if ctid is not None and os.path.exists(self.host.conf_path(ctid)):
                found.append(ctid)
            elif self.family == "9":
                self.streams.warn(f"Container ID {word} is invalid.")
        return found

    def _identify(self, word: str) -> str | None:
        if word.isdigit():
            return str(int(word))
        if self.family == "9" and os.path.exists(self.host.conf_path(word)):
            return word
        ctid = linked_ctid(self.host, word)
        if ctid is None and self.family == "4":
            raise Exit(1, f"CT ID {word} is invalid.\n")
        return ctid

    def _rows(self, wanted: list[str] | None, blind: bool) -> list[Row]:
        if wanted is None:
            wanted = [
                name.removesuffix(".conf")
                for name in os.listdir(self.host.path("etc/vz/conf"))
                if name.endswith(".conf")
            ]
            if self.family == "4":
                wanted = [c for c in wanted if c.isdigit() and int(c) > 0]
        return [
            row
            for row in (Row(self.call, ctid, blind) for ctid in wanted)
            if row.exists
        ]

    def _filtered(self, rows: list[Row]) -> list[Row]:
        options = self.options
        if options.has("stopped"):
            rows = [r for r in rows if r.status not in ("running", "paused")]
        elif not options.has("all") and not (
            # Naming a container shows it whatever its state, on family 9.
            options.words and self.family == "9"
        ):
            rows = [r for r in rows if r.status in ("running", "paused")]
        for name, column in (
            ("hostname", "hostname"),
            ("name_filter", "name"),
            ("description", "description"),
        ):
            if options.has(name):
                pattern = options.values[name]
                rows = [
                    r
                    for r in rows
                    if fnmatch.fnmatchcase(r.raw(column) or "-", pattern)
                ]
        if options.has("netif"):
            ifname = options.values["netif"]
            rows = [
                r
                for r in rows
                if any(
                    ifname in (nic.get("ifname"), nic.get("host_ifname"))
                    for nic in r.nics
                )
            ]
        return rows

    def _sorted(self, rows: list[Row]) -> list[Row]:
        def by_ctid(row: Row) -> tuple[int, str]:
            number = int(row.ctid) if self.family == "4" else 0
            return number, row.ctid

        rows = sorted(rows, key=by_ctid)
        if not self.options.has("sort"):
            return rows
        column = self.options.values["sort"]
        backwards = column.startswith("-")
        column = column.lstrip("-")
        if column not in self.fields:
            raise Exit(1, f"Unknown field: {column}\n")
        if column in ("ctid", "veid", "vpsid"):
            return sorted(rows, key=by_ctid, reverse=backwards)
        if column not in ("name", "hostname", "status", "description", "private"):
            raise Unmodelled(f"vzlist -s {column}")
        return sorted(rows, key=lambda r: r.plain(column), reverse=backwards)

    # -- plain output ---------------------------------------------------------

    def _plain(self, rows: list[Row], columns: list[str]) -> int:
        trim = not self.options.has("no-trim")
        last = len(columns) - 1
        if not self.options.has("no-header") and not self.options.has("1"):
            self._line(
                [
                    self.fields[c].pad(self.fields[c].heading, n == last, trim)
                    for n, c in enumerate(columns)
                ]
            )
        for row in rows:
            values = [row.plain(column) for column in columns]
            if self.family == "4" and any(
                len(value) > _DEADLY_DESCRIPTION for value in values
            ):
                return _SEGMENTATION_FAULT
            self._line(
                [
                    self.fields[c].pad(value, n == last, trim)
                    for n, (c, value) in enumerate(zip(columns, values, strict=True))
                ]
            )
        return 0

    def _line(self, cells: list[str]) -> None:
        text = " ".join(cells).rstrip(" ")
        self.streams.out(text[: _LONGEST_LINE - 1] + "\n")
