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

"""What has to be done on the host to a container's interfaces whenever they appear.

vzctl makes a container's veth pairs anew at each start, also when the guest restarts
by itself. The host's ends then must be up, have their MTU, be in their bridge and have
their limits. So what is wanted of them is kept in a file beside the container's
configuration, ``<ctid>.nics``, which the driver, its periodic check and the hook
(``ovznovadriver.cmd.net_hook``) go by.

The verbs run as the host's root, and their caller is not believed: only an interface
that the file names is touched, only when it is a veth, and it is only put into a
bridge made by Nova for a port (``qbr…``). What ip says of the host is what counts.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from ovznovadriver import exception
from ovznovadriver.openvz import command, shaping, tree
from ovznovadriver.openvz.shaping import Rate

__all__ = ["VERBS", "HostEnd", "Rate", "decode", "encode", "peer_name", "read"]

#: Of the file's format.
VERSION = 1
#: What ip and tc have to do for one request takes milliseconds; in seconds.
TIME_LIMIT = 30.0

_MAX_FILE = 2**20
_MAX_ENDS = 64
_FILE_MODE = 0o644
_MIN_MTU = 68
_MAX_MTU = 65535
# Of the 15 characters that a name may have, three become "ifb" or "ovp".
_HOST_IFNAME = re.compile(r"tap[A-Za-z0-9_-]{1,12}")
_BRIDGE = re.compile(r"qbr[A-Za-z0-9_-]{1,12}")
_NAME = re.compile(r"eth[0-9]{1,2}")
_MAC = re.compile(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_FAILED_LINE = re.compile(r"^Command failed [^:\n]*:([0-9]+)\n?", re.MULTILINE)


@dataclass(frozen=True)
class HostEnd:
    """The host's end of a veth pair, and what is wanted of it.

    :ivar host_ifname: its name, ``tap…``
    :ivar name: the name of the other end, inside (eth0)
    :ivar mac: the MAC address of the other end
    :ivar bridge: the Linux bridge that it must be in, ``qbr…``
    :ivar mtu: bytes
    :ivar inbound: the limit on what goes to the guest
    :ivar outbound: the limit on what comes from the guest
    :ivar addresses: the guest's IP addresses on it, without prefix lengths
    :raises InvalidValue: one of them is not what it must be
    """

    host_ifname: str
    name: str
    mac: str
    bridge: str | None = None
    mtu: int | None = None
    inbound: Rate | None = None
    outbound: Rate | None = None
    addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, value, pattern in (
            ("host_ifname", self.host_ifname, _HOST_IFNAME),
            ("name", self.name, _NAME),
            ("mac", self.mac, _MAC),
            ("bridge", "qbr-" if self.bridge is None else self.bridge, _BRIDGE),
        ):
            if not _matches(pattern, value):
                raise _invalid(field, value)
        if self.mtu is not None and (
            type(self.mtu) is not int or not _MIN_MTU <= self.mtu <= _MAX_MTU
        ):
            raise _invalid("mtu", self.mtu)
        for field, rate in (("inbound", self.inbound), ("outbound", self.outbound)):
            if not isinstance(rate, Rate | None):
                raise _invalid(field, rate)
        if not isinstance(self.addresses, tuple):
            raise _invalid("addresses", self.addresses)
        for address in self.addresses:
            _check_address(address)


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _check_address(text: object) -> None:
    try:
        if not isinstance(text, str):
            raise ValueError
        address = ipaddress.ip_address(text)
    except ValueError:
        raise _invalid("addresses", text) from None
    if address.is_multicast or address.is_unspecified or "%" in text:
        raise _invalid("addresses", text)


def _invalid(field: str, value: object) -> exception.InvalidValue:
    return exception.InvalidValue(
        f"{field} of an interface cannot be {str(value)[:100]!a}"
    )


def peer_name(host_ifname: str) -> str:
    """What the other end is called on the host before vzctl takes it."""
    return f"ovp{host_ifname[3:]}"


# -- the file -----------------------------------------------------------------------


def encode(ends: Sequence[HostEnd]) -> str:
    """The content of the file."""
    nics = [{**asdict(end), "addresses": list(end.addresses)} for end in ends]
    return json.dumps({"version": VERSION, "nics": nics}, indent=1) + "\n"


def decode(text: str) -> tuple[HostEnd, ...]:
    """The opposite of :func:`encode`.

    :raises InvalidValue: it is something else, be it by one key
    """
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or data.keys() != {"version", "nics"}:
            raise TypeError
        if type(data["version"]) is not int or data["version"] != VERSION:
            raise exception.InvalidValue(
                f"interfaces of version {str(data['version'])[:20]!a} are of another"
                " release of this driver"
            )
        if not isinstance(data["nics"], list) or len(data["nics"]) > _MAX_ENDS:
            raise TypeError
        ends = tuple(map(_end, data["nics"]))
    except exception.InvalidValue:
        raise
    except (TypeError, ValueError, LookupError, RecursionError) as error:
        raise exception.InvalidValue("this does not describe interfaces") from error
    names = [end.host_ifname for end in ends]
    if len(set(names)) != len(names):
        raise exception.InvalidValue("an interface is described twice")
    return ends


def _end(data: dict[str, Any]) -> HostEnd:
    if not isinstance(data["addresses"], list):
        raise TypeError
    rates = {
        field: None if data[field] is None else Rate(**data[field])
        for field in ("inbound", "outbound")
    }
    return HostEnd(**{**data, **rates, "addresses": tuple(data["addresses"])})


def _file_name(ctid: str) -> str:
    return f"{tree.checked_ctid(ctid)}.nics"


def read(base: str, ctid: str) -> tuple[HostEnd, ...]:
    """What is wanted of a container's host ends; nothing where there is no file.

    :param base: the directory of the containers' configurations
    :raises InvalidValue: the file holds something else
    :raises UnsafePath: it is no plain file, or too large
    :raises OvzError: it cannot be read
    """
    path = os.path.join(base, _file_name(ctid))
    with tree.named_errors("read", path):
        try:
            content, _ = tree.read_plain(path, _MAX_FILE)
        except FileNotFoundError:
            return ()
    return decode(content.decode(errors="replace"))


def write_host_ends(*, base: str, ctid: str, text: str) -> None:
    """Keep what is wanted of a container's host ends.

    The file takes the place of the one before at once, or not at all. Without an
    interface there is no file.

    :param base: the directory of the containers' configurations
    :param text: from :func:`encode`
    :raises InvalidValue: it describes no interfaces
    :raises OvzError: the container has no configuration there, or the file cannot
        be written
    """
    path = os.path.join(base, _file_name(ctid))
    ends = decode(text)
    with tree.named_errors("write", path):
        if not ends:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        # Else a file would be left of a container that is gone meanwhile.
        os.lstat(os.path.join(base, f"{ctid}.conf"))
        # Each start says it anew, and to write costs a wait for the disk.
        if not _says(base, ctid, ends):
            tree.replace_file(path, encode(ends).encode(), _FILE_MODE)


def _says(base: str, ctid: str, ends: tuple[HostEnd, ...]) -> bool:
    try:
        return read(base, ctid) == ends
    except (exception.InvalidValue, exception.UnsafePath):
        return False


# -- ip and tc ----------------------------------------------------------------------


class Run(Protocol):
    """The way to ip and tc."""

    def __call__(
        self, argv: Sequence[str], stdin: bytes | None = None
    ) -> command.Completed:
        """Run a program; an exit code is an answer.

        :raises CommandTimedOut: it took longer than :data:`TIME_LIMIT`
        """
        ...


@dataclass(frozen=True)
class Link:
    """An interface of the host, as ip tells of it."""

    kind: str | None
    up: bool
    mtu: int | None
    master: str | None
    peer: str | None


class Tools:
    """What the verbs have ip and tc do.

    :param programs: the paths of "ip" and "tc"
    """

    def __init__(self, run: Run, programs: Mapping[str, str]) -> None:
        self._run = run
        self._programs = programs

    def links(self) -> dict[str, Link]:
        """The host's interfaces, by name."""
        answer = self._ask("ip", "-j", "-d", "link", "show")
        try:
            return {entry["ifname"]: _link(entry) for entry in json.loads(answer)}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise exception.MalformedOutput(
                f"'ip -j -d link show' answers {answer[:100]!r}: iproute2 4.16 or newer"
                " is needed"
            ) from error

    def qdiscs(self) -> dict[str, shaping.Qdiscs]:
        """What shapes the traffic, by device."""
        return shaping.parse_qdiscs(self._ask("tc", "-j", "qdisc", "show"))

    def filters(self, device: str) -> str:
        """The filters at the ingress of a device."""
        return self._ask("tc", "filter", "show", "dev", device, "parent", "ffff:")

    def up(self, device: str) -> None:
        """Let an interface be up."""
        self._ask("ip", "link", "set", "dev", device, "up")

    def _ask(self, program: str, *args: str) -> str:
        done = self._run([self._programs[program], *args])
        if done.returncode != 0:
            raise exception.CommandFailed(
                " ".join((program, *args)), done.returncode, done.stdout, done.stderr
            )
        return done.stdout

    def batch(self, program: str, lines: Sequence[str]) -> list[str]:
        """Have lines done; a sentence for each that failed. All are tried."""
        if not lines:
            return []
        text = "\n".join(lines) + "\n"
        argv = [self._programs[program], "-force", "-batch", "-"]
        done = self._run(argv, text.encode())
        if done.returncode == 0:
            return []
        # For each of them: what it said, and then its number.
        parts = _FAILED_LINE.split(done.stderr)
        said = zip(parts[::2], parts[1::2], strict=False)
        problems = [
            f"'{program} {lines[int(number) - 1]}' failed: {_one_line(reason)}"
            for reason, number in said
            if 0 < int(number) <= len(lines)
        ]
        return problems or [
            f"{program} failed with exit code {done.returncode}:"
            f" {_one_line(done.stderr)}"
        ]


def _link(entry: Mapping[str, Any]) -> Link:
    return Link(
        kind=entry.get("linkinfo", {}).get("info_kind"),
        up="UP" in entry["flags"],
        mtu=entry.get("mtu"),
        master=entry.get("master"),
        peer=entry.get("link"),
    )


def _one_line(text: str) -> str:
    return "; ".join(text.split("\n")).strip("; ")[:500] or "no output"


# -- verbs --------------------------------------------------------------------------


def apply_host_ends(
    *,
    base: str,
    ctid: str,
    programs: Mapping[str, str],
    run: Run,
    names: Collection[str] | None = None,
) -> list[str]:
    """Make a container's host ends what they are to be. All are tried.

    To do it again changes nothing. What somebody else has done to limit the traffic
    of an interface stays as it is.

    :param base: the directory of the containers' configurations
    :param programs: the paths of "ip" and "tc"
    :param names: host ends that must be there; None for those that are there of all
        that the file names
    :returns: a sentence for each thing that could not be done
    :raises InvalidValue: the file does not name one of the names, or is broken
    :raises OvzError: ip or tc does not tell what there is
    """
    ends = {end.host_ifname: end for end in read(base, ctid)}
    if names is not None:
        _check_listed(names, ends, ctid)
        ends = {name: ends[name] for name in names}
    if not ends:
        return []
    tools = Tools(run, programs)
    links = tools.links()
    problems = []
    there = []
    for name, end in ends.items():
        if name not in links:
            problems += [] if names is None else [f"the host has no interface {name}"]
            continue
        found = _wrong_kinds(end, links)
        problems += found.values()
        if found.keys() <= {end.bridge}:
            there.append(replace(end, bridge=None) if found else end)
    return problems + _apply(tools, there, links)


def _check_listed(names: Collection[str], known: Collection[str], ctid: str) -> None:
    for name in names:
        if name not in known:
            raise exception.InvalidValue(
                f"{str(name)[:20]!a} is no interface of container {ctid}"
            )


def _wrong_kinds(end: HostEnd, links: Mapping[str, Link]) -> dict[str | None, str]:
    """The devices that are not what they must be, and so must not be touched."""
    found: dict[str | None, str] = {}
    for device, kind in (
        (end.host_ifname, "veth"),
        (shaping.ifb_name(end.host_ifname), "ifb"),
        (end.bridge or "", "bridge"),
    ):
        if device in links and links[device].kind != kind:
            found[device] = f"{device} is no {kind} device"
    if end.bridge is not None and end.bridge not in links:
        found[end.bridge] = f"the bridge {end.bridge} of {end.host_ifname} is not there"
    return found


def _apply(
    tools: Tools, ends: Sequence[HostEnd], links: Mapping[str, Link]
) -> list[str]:
    if not ends:
        return []
    qdiscs = tools.qdiscs()
    lines = shaping.Lines()
    for end in ends:
        lines += shaping.Lines(ip=_link_lines(end, links[end.host_ifname]))
        seen = _seen(tools, end, links, qdiscs)
        lines += shaping.lines(end.host_ifname, end.inbound, end.outbound, seen)
    problems = tools.batch("ip", lines.ip)
    return problems + tools.batch("tc", lines.tc)


def _link_lines(end: HostEnd, link: Link) -> list[str]:
    device = f"link set dev {end.host_ifname}"
    lines = []
    if end.mtu is not None and end.mtu != link.mtu:
        lines.append(f"{device} mtu {end.mtu}")
    if end.bridge is not None and end.bridge != link.master:
        lines.append(f"{device} master {end.bridge}")
    if not link.up:
        lines.append(f"{device} up")
    return lines


def _seen(
    tools: Tools,
    end: HostEnd,
    links: Mapping[str, Link],
    qdiscs: Mapping[str, shaping.Qdiscs],
) -> shaping.Seen:
    here = qdiscs.get(end.host_ifname, shaping.NONE)
    ifb = links.get(shaping.ifb_name(end.host_ifname))
    filters = tools.filters(end.host_ifname) if here.ingress == "ingress" else ""
    return shaping.Seen(
        qdiscs=here,
        filters=filters,
        ifb=ifb is not None,
        ifb_up=ifb is not None and ifb.up,
    )


def check_host_ends(
    *, base: str, ctids: Sequence[str], programs: Mapping[str, str], run: Run
) -> list[str]:
    """Which containers have a limit that is not in force, by one look at the host.

    :param base: the directory of the containers' configurations
    :param ctids: those to look at; one without a host end is fine
    :param programs: the path of "tc"
    :returns: their CTIDs, and those of containers whose file is broken
    :raises OvzError: tc does not tell what there is
    """
    qdiscs = Tools(run, programs).qdiscs()
    return [ctid for ctid in ctids if _lacks_limits(base, ctid, qdiscs)]


def _lacks_limits(base: str, ctid: str, qdiscs: Mapping[str, shaping.Qdiscs]) -> bool:
    try:
        ends = read(base, ctid)
    except (exception.InvalidValue, exception.UnsafePath):
        return True
    return any(
        shaping.missing(end.host_ifname, end.inbound, end.outbound, qdiscs)
        for end in ends
    )


def drop_host_ends(
    *, names: Sequence[str], programs: Mapping[str, str], run: Run
) -> None:
    """Remove what outlives host ends: their ifb devices.

    :param names: host ends that are gone; what belongs to one that is there stays
    :param programs: the path of "ip"
    :raises InvalidValue: one of the names is not that of a host end
    :raises OvzError: one could not be removed
    """
    for name in names:
        if not _matches(_HOST_IFNAME, name):
            raise _invalid("host_ifname", name)
    if not names:
        return
    tools = Tools(run, programs)
    links = tools.links()
    left = [
        shaping.ifb_name(name)
        for name in names
        if name not in links and _kind(links, shaping.ifb_name(name)) == "ifb"
    ]
    problems = tools.batch("ip", [f"link del dev {ifb}" for ifb in left])
    # Another one may be removing them at the same time.
    if problems and any(ifb in tools.links() for ifb in left):
        raise exception.CleanupFailed("host ends", problems)


def _kind(links: Mapping[str, Link], device: str) -> str | None:
    return links[device].kind if device in links else None


#: The verbs of the privileged side that need no program, by name.
FILE_VERBS: Mapping[str, Callable[..., Any]] = {"write_host_ends": write_host_ends}
#: Those that do.
VERBS: Mapping[str, Callable[..., Any]] = {
    verb.__name__: verb for verb in (apply_host_ends, check_host_ends, drop_host_ends)
}
