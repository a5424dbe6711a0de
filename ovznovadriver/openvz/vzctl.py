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

"""Every vzctl command: its argument list, and the meaning of its exit codes.

What the installed vzctl can do is asked of a :class:`Family`, never of a version.
Settings are validated here because vzctl does not: it takes a hostname with a
newline, repeats and prefixes of options, a barrier above its limit.

Figures and rules are those of vzctl 4.9.4 and vzctl 9.0.1 (vzctl(8)), measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

from ovznovadriver import exception
from ovznovadriver.openvz import command, metadata

#: The host end of every interface; Nova gives its own end of a tap the same prefix.
HOST_MAC = "FE:FF:FF:FF:FF:FF"

#: What `vzctl exec2` may run, and only this.
PASSWORD_COMMAND = ("chpasswd",)


@dataclass(frozen=True)
class Family:
    """What an installed vzctl can do.

    :ivar name: how messages call it
    :ivar uuid_ctids: a container may be called by a UUID
    :ivar template_paths: `create --ostemplate` takes a path; otherwise it takes a
        name, looked for in the template cache
    :ivar tree_dir: where the root tree is, beneath a private area (layout simfs)
    :ivar has_ubc: user beancounters have an effect
    :ivar lists_paused: vzlist tells a paused container from a running one
    :ivar adopts_host_ends: `start` takes a veth pair that is there already; otherwise
        it leaves that interface out
    :ivar moves_live: its vzmigrate is the one that :mod:`vzmigrate` spells
    :ivar layouts: the values of `create --layout`
    """

    name: str
    uuid_ctids: bool
    template_paths: bool
    tree_dir: str
    has_ubc: bool
    lists_paused: bool
    adopts_host_ends: bool
    moves_live: bool
    layouts: frozenset[str]


FAMILY_4 = Family(
    name="vzctl 4",
    uuid_ctids=False,
    template_paths=False,
    tree_dir="",
    has_ubc=True,
    lists_paused=False,
    adopts_host_ends=False,
    moves_live=True,
    layouts=frozenset({"simfs", "ploop"}),
)
FAMILY_7 = Family(
    name="vzctl 7",
    uuid_ctids=True,
    template_paths=True,
    tree_dir="fs",
    has_ubc=False,
    lists_paused=True,
    adopts_host_ends=True,
    moves_live=False,
    # A plain tarball becomes a tree there, but no disk image.
    layouts=frozenset({"simfs"}),
)

_VERSION = re.compile(
    r"^vzctl (?:version |v\.)(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?", re.MULTILINE
)


def parse_version(text: str) -> tuple[int, int, int]:
    """The version in the answer of `vzctl --version`.

    :raises ConfigurationError: there is none
    """
    match = _VERSION.search(text)
    if match is None:
        raise exception.ConfigurationError(
            f"vzctl --version answers {text.strip()[:100]!r}, which names no version:"
            " install vzctl 4.x, or 7 and above."
        )
    major, minor, patch = (int(part or 0) for part in match.groups())
    return major, minor, patch


def family_of(version: tuple[int, int, int]) -> Family:
    """The family that a version belongs to.

    :raises ConfigurationError: this driver does not know it
    """
    if version[0] == 4:
        return FAMILY_4
    if version[0] >= 7:
        return FAMILY_7
    raise exception.ConfigurationError(
        f"vzctl {'.'.join(map(str, version))} is not supported: install vzctl 4.x, or"
        " 7 and above."
    )


_ERRORS: Mapping[int, type[exception.CommandFailed]] = {
    14: exception.ContainerConfigMissing,
    31: exception.ContainerNotRunning,
    32: exception.ContainerRunning,
    40: exception.ContainerNotMounted,
    41: exception.ContainerMounted,
    43: exception.PrivateAreaMissing,
    44: exception.PrivateAreaExists,
    82: exception.SampleUnusable,
    131: exception.NameInUse,
    137: exception.NameInUse,
    154: exception.DiskImageNotResized,
}


@dataclass(frozen=True)
class Veth:
    """One interface of a container: a veth pair.

    :ivar name: its name inside (eth0)
    :ivar mac: its MAC address inside
    :ivar host_ifname: the name of the host's end, at most 15 characters
    """

    name: str
    mac: str
    host_ifname: str

    def argument(self) -> str:
        return f"{self.name},{self.mac.upper()},{self.host_ifname},{HOST_MAC}"


_MAC = r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}"
_IFNAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}"
_NUMBER = r"[0-9]{1,19}"
_LIMITS = rf"{_NUMBER}(?::{_NUMBER})?"
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.+-]{0,127})"
_HOSTNAME = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

#: Every option of `set` that is ever used, and what its value may be.
_SET_VALUES: Mapping[str, re.Pattern[str]] = {
    option: re.compile(value)
    for option, value in {
        "--applyconfig": _WORD,
        # A name of digits alone is taken for a CTID.
        "--name": rf"(?!\d+\Z){_WORD}",
        "--description": rf"[A-Za-z0-9_-]{{0,{metadata.MAX_LENGTH}}}",
        "--ostemplate": _WORD,
        "--distribution": _WORD,
        "--hostname": rf"(?=.{{1,253}}\Z){_HOSTNAME}(?:\.{_HOSTNAME})*",
        "--onboot": r"yes|no",
        "--nameserver": r"[0-9A-Fa-f.:]{2,45}",
        "--numflock": _LIMITS,
        "--numfile": _LIMITS,
        "--numtcpsock": _LIMITS,
        "--vmguarpages": _LIMITS,
        "--privvmpages": _LIMITS,
        "--kmemsize": _LIMITS,
        "--ram": rf"{_NUMBER}M",
        "--swap": rf"{_NUMBER}M",
        "--cpuunits": _NUMBER,
        "--cpulimit": _NUMBER,
        "--cpus": _NUMBER,
        "--ioprio": r"[0-7]",
        "--diskspace": rf"{_NUMBER}:{_NUMBER}",
        # Without a suffix vzctl 4 reads MB/s and vzctl 7 bytes/s.
        "--iolimit": rf"{_NUMBER}K",
        "--iopslimit": _NUMBER,
        "--netif_add": rf"eth[0-9]{{1,2}},{_MAC},{_IFNAME},{_MAC}",
        "--netif_del": r"eth[0-9]{1,2}",
        "--ifname": r"eth[0-9]{1,2}",
    }.items()
}
_TEMPLATE = re.compile(rf"{_WORD}|(?:/{_WORD})+")
_CREATE_VALUES: Mapping[str, re.Pattern[str]] = {
    "--ostemplate": _TEMPLATE,
    "--config": re.compile(_WORD),
    "--layout": re.compile(r"simfs|ploop"),
    "--diskspace": _SET_VALUES["--diskspace"],
}
#: The options that may be given more than once: their values add up. Of any other
#: vzctl takes the first value, and says nothing of the rest.
_LISTS = frozenset({"--nameserver", "--netif_add", "--netif_del"})
#: The other subcommands, with each list of arguments that may follow the CTID.
_PLAIN: Mapping[str, frozenset[tuple[str, ...]]] = {
    "start": frozenset({()}),
    "stop": frozenset({(), ("--fast",)}),
    "destroy": frozenset({()}),
    "mount": frozenset({()}),
    "umount": frozenset({()}),
    "suspend": frozenset({()}),
    "resume": frozenset({()}),
    "pause": frozenset({()}),
    "status": frozenset({()}),
    "chkpnt": frozenset({("--suspend",), ("--resume",)}),
    "exec2": frozenset({PASSWORD_COMMAND}),
}


def _check_options(args: Sequence[str], values: Mapping[str, re.Pattern[str]]) -> None:
    seen: set[str] = set()
    rest = iter(args)
    for option in rest:
        if option in seen:
            raise exception.CommandRefused(f"vzctl option {option!r} is repeated")
        if option not in _LISTS:
            seen.add(option)
        pattern = values.get(option)
        if pattern is None:
            raise exception.CommandRefused(f"vzctl option {option!r} is not permitted")
        value = next(rest, None)
        if value is None or not pattern.fullmatch(value):
            raise exception.CommandRefused(
                f"vzctl {option} does not take the value {value!r}"
            )


def check_arguments(args: Sequence[str]) -> None:
    """Refuse every argument list of vzctl that this module does not build.

    The privileged side asks this before it starts vzctl as root.

    :raises CommandRefused: with the reason
    """
    if list(args) == ["--version"]:
        return
    if len(args) < 2 or not command.is_ctid(args[1]):
        raise exception.CommandRefused(
            "vzctl is permitted with a subcommand and a CTID only"
        )
    subcommand, rest = args[0], list(args[2:])
    if subcommand == "create":
        _check_options(rest, _CREATE_VALUES)
    elif subcommand == "set":
        if rest[-1:] != ["--save"]:
            raise exception.CommandRefused("vzctl set is permitted with --save only")
        options = rest[1:-1] if rest[0] == "--force" else rest[:-1]
        _check_options(options, _SET_VALUES)
    elif tuple(rest) not in _PLAIN.get(subcommand, frozenset()):
        raise exception.CommandRefused(
            f"vzctl {subcommand} {' '.join(rest)} is not permitted"
        )


def console_arguments(family: Family, ctid: str) -> list[str]:
    """The arguments that attach to a container's system console, tty1.

    The privileged side does not permit them: only the console service, which is root
    itself, has a use for them.

    :raises InvalidValue: that is no CTID
    """
    if not command.is_ctid(ctid):
        raise exception.InvalidValue(f"{ctid[:64]!a} is no CTID")
    # Left out it is tty1 for vzctl 4, which counts from 0 whatever its manual says,
    # and tty2 for vzctl 7, which counts from 1.
    return ["console", ctid] if family.has_ubc else ["console", ctid, "1"]


class Witness(Protocol):
    """Who is told that containers start. Must not raise, nor take long."""

    def starting(self, ctid: str) -> None:
        """A container is about to be started."""

    def started(self, ctid: str, said: str) -> None:
        """It was, or it could not; and this is what vzctl said."""


def _kib(count: int | None) -> int | None:
    # Rounded down to 0 it would mean "unlimited", which 0 itself does.
    return max(1, count // 1024) if count else count


@dataclass(frozen=True)
class Settings:
    """Values for one `vzctl set`; what is None stays as it is.

    :ivar applyconfig: name of a sample; overrides whatever goes with it, and
        therefore has to go alone
    :ivar os_hint: the distribution whose scripts vzctl runs
    :ivar kmemsize: barrier and limit in bytes
    :ivar vmguarpages: pages of 4 KiB
    :ivar privvmpages: pages of 4 KiB
    :ivar cpulimit: percent of one CPU
    :ivar diskspace_kb: soft and hard limit in KiB. A disk image gets the size of the
        hard limit at once, whatever vzctl(8) says (set() of vzctl 4's
        vzctl-actions.c).
    :ivar iolimit: bytes a second; 0 is no limit
    :ivar iopslimit: operations a second; 0 is no limit
    :ivar nameservers: addresses. Where a container has none, vzctl writes the host's
        own into its resolv.conf at each start (NAMESERVER=inherit in vz.conf).
    """

    applyconfig: str | None = None
    name: str | None = None
    description: str | None = None
    os_hint: str | None = None
    hostname: str | None = None
    onboot: bool | None = None
    numflock: int | None = None
    numfile: int | None = None
    numtcpsock: int | None = None
    vmguarpages: int | None = None
    privvmpages: int | None = None
    kmemsize: tuple[int, int] | None = None
    cpuunits: int | None = None
    cpulimit: int | None = None
    cpus: int | None = None
    ioprio: int | None = None
    diskspace_kb: tuple[int, int] | None = None
    iolimit: int | None = None
    iopslimit: int | None = None
    ram_mb: int | None = None
    swap_mb: int | None = None
    nameservers: tuple[str, ...] = field(default=())
    netif_add: tuple[Veth, ...] = field(default=())
    netif_del: tuple[str, ...] = field(default=())

    def merged(self, later: Settings) -> Settings:
        """These settings with those of a later command over them."""
        given = {
            item.name: getattr(later, item.name)
            for item in fields(later)
            if getattr(later, item.name) not in (None, ())
        }
        for many in ("netif_add", "netif_del"):
            given[many] = getattr(self, many) + getattr(later, many)
        return replace(self, **given)

    def _pairs(self, family: Family) -> list[tuple[str, str | None]]:
        def number(value: int | None) -> str | None:
            return None if value is None else str(value)

        def limits(value: tuple[int, int] | None) -> str | None:
            return None if value is None else f"{value[0]}:{value[1]}"

        def unit(value: int | None, letter: str) -> str | None:
            return None if value is None else f"{value}{letter}"

        hint = "--distribution" if family.template_paths else "--ostemplate"
        return [
            ("--applyconfig", self.applyconfig),
            ("--name", self.name),
            ("--description", self.description),
            (hint, self.os_hint),
            ("--hostname", self.hostname),
            ("--onboot", {None: None, True: "yes", False: "no"}[self.onboot]),
            ("--numflock", number(self.numflock)),
            ("--numfile", number(self.numfile)),
            ("--numtcpsock", number(self.numtcpsock)),
            ("--vmguarpages", number(self.vmguarpages)),
            ("--privvmpages", number(self.privvmpages)),
            ("--kmemsize", limits(self.kmemsize)),
            ("--cpuunits", number(self.cpuunits)),
            ("--cpulimit", number(self.cpulimit)),
            ("--cpus", number(self.cpus)),
            ("--ioprio", number(self.ioprio)),
            ("--diskspace", limits(self.diskspace_kb)),
            ("--iolimit", unit(_kib(self.iolimit), "K")),
            ("--iopslimit", number(self.iopslimit)),
            ("--ram", unit(self.ram_mb, "M")),
            ("--swap", unit(self.swap_mb, "M")),
            *(("--nameserver", address) for address in self.nameservers),
            *(("--netif_del", name) for name in self.netif_del),
            *(("--netif_add", veth.argument()) for veth in self.netif_add),
        ]

    def arguments(self, family: Family) -> list[str]:
        """The options of `vzctl set`, without --save.

        :raises InvalidValue: a value that vzctl would misread, or take unchecked
        """
        pairs = [
            (opt, value) for opt, value in self._pairs(family) if value is not None
        ]
        if self.applyconfig is not None and len(pairs) > 1:
            raise exception.InvalidValue(
                "--applyconfig overrides the options given with it; apply it alone"
            )
        if self.kmemsize is not None and self.kmemsize[0] > self.kmemsize[1]:
            raise exception.InvalidValue("the barrier of kmemsize is above its limit")
        if self.netif_add and family.template_paths:
            # vzctl 7 wants the last one named once more.
            pairs.append(("--ifname", self.netif_add[-1].name))
        for option, value in pairs:
            if not _SET_VALUES[option].fullmatch(value):
                raise exception.InvalidValue(f"vzctl {option} cannot take {value!r}")
        args = [text for pair in pairs for text in pair]
        if (self.ram_mb, self.swap_mb) != (None, None) and family.has_ubc:
            # vzctl 4 refuses --ram where the present configuration is not a vswap
            # one, unless --force comes first.
            args.insert(0, "--force")
        return args


@dataclass(frozen=True)
class TimeLimits:
    """Seconds that a command may run; see the options of the same names."""

    command: float = 120
    create: float = 1800
    start: float = 300
    stop: float = 300
    move: float = 7200


class Vzctl:
    """The commands of vzctl.

    Every method raises :class:`~ovznovadriver.exception.CommandFailed`, or the
    subclass that says what the exit code means, when vzctl fails; and
    CommandTimedOut at the time limit.

    :param changed: called after each command that may have changed a container
    :ivar witness: who is told of starts
    """

    def __init__(
        self,
        runner: command.Runner,
        family: Family,
        limits: TimeLimits | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.family = family
        self.limits = limits or TimeLimits()
        self._runner = runner
        self._changed = changed
        self.witness: Witness | None = None

    def _run(
        self,
        *args: str,
        timeout: float,
        stdin: str | None = None,
        secrets: Sequence[str] = (),
    ) -> command.Completed:
        cmd = ("vzctl", *args)
        try:
            done = self._runner.run(
                *cmd, stdin=stdin, timeout=timeout, secrets=tuple(secrets)
            )
        finally:
            self._changed()
        if done.returncode != 0:
            # exec2 gives the code of what ran inside, where 14 means anything.
            known = _ERRORS if args[0] != "exec2" else {31: _ERRORS[31]}
            error = known.get(done.returncode, exception.CommandFailed)
            raise error(" ".join(cmd), done.returncode, done.stdout, done.stderr)
        return done

    def create(
        self,
        ctid: str,
        template: str,
        *,
        config: str | None = None,
        layout: str | None = None,
        diskspace_kb: tuple[int, int] | None = None,
    ) -> None:
        """Make a container from a template.

        :param template: a name in the template cache; a path where the family
            takes paths
        :param config: a sample configuration. It is given here and not by
            `set --applyconfig`, which overrides the options given with it.
        :param diskspace_kb: soft and hard limit in KiB, where the layout is a disk
            image
        :raises PrivateAreaExists: the CTID is taken
        """
        args = ["create", ctid, "--ostemplate", template]
        if config:
            args += ["--config", config]
        # vzctl 7 has one layout for the whole node (VEFSTYPE of vz.conf).
        if layout and not self.family.template_paths:
            args += ["--layout", layout]
        if diskspace_kb:
            args += ["--diskspace", f"{diskspace_kb[0]}:{diskspace_kb[1]}"]
        self._run(*args, timeout=self.limits.create)

    def set(self, ctid: str, settings: Settings) -> None:
        """Change a container's configuration, for good, in one command.

        The caller knows that the container exists: `set --save` makes a stray
        configuration file for an unknown CTID and says that all is well.

        :raises InvalidValue: see :meth:`Settings.arguments`
        """
        args = settings.arguments(self.family)
        # A disk image that shrinks moves what lies in it.
        slow = settings.diskspace_kb is not None
        limit = self.limits.create if slow else self.limits.command
        if args:
            self._run("set", ctid, *args, "--save", timeout=limit)

    def start(self, ctid: str) -> None:
        """Start a container; its init runs, its services may not yet."""
        if self.witness is None:
            self._run("start", ctid, timeout=self.limits.start)
            return
        self.witness.starting(ctid)
        try:
            done = self._run("start", ctid, timeout=self.limits.start)
        except exception.CommandFailed as error:
            self.witness.started(ctid, error.stdout + error.stderr)
            raise
        self.witness.started(ctid, done.stdout + done.stderr)

    def stop(
        self, ctid: str, *, fast: bool = False, timeout: float | None = None
    ) -> None:
        """Stop a container. One that does not run is no error for vzctl.

        :param fast: kill it
        :param timeout: seconds, at most the configured limit
        """
        limit = self.limits.stop if timeout is None else min(timeout, self.limits.stop)
        args = ("--fast",) if fast else ()
        self._run("stop", ctid, *args, timeout=limit)

    def destroy(self, ctid: str) -> None:
        """Remove a stopped container and its private area."""
        self._run("destroy", ctid, timeout=self.limits.create)

    def mount(self, ctid: str) -> bool:
        """Mount a container's tree.

        :returns: False where it was mounted already, as that of a running one is
        """
        done = self._run("mount", ctid, timeout=self.limits.start)
        return "already mounted" not in done.stderr

    def umount(self, ctid: str) -> None:
        """Unmount a stopped container's tree; no error where it is not mounted."""
        try:
            self._run("umount", ctid, timeout=self.limits.start)
        except exception.ContainerNotMounted:
            return

    def pause(self, ctid: str) -> None:
        """Freeze a running container's processes, in memory."""
        if self.family.lists_paused:
            self._run("pause", ctid, timeout=self.limits.start)
        else:
            self._run("chkpnt", ctid, "--suspend", timeout=self.limits.start)

    def unpause(self, ctid: str) -> None:
        """Let a paused container run on."""
        if self.family.lists_paused:
            self._run("resume", ctid, timeout=self.limits.start)
        else:
            self._run("chkpnt", ctid, "--resume", timeout=self.limits.start)

    def suspend(self, ctid: str) -> None:
        """Write a running container's memory to disk and stop it."""
        self._run("suspend", ctid, timeout=self.limits.start)

    def resume(self, ctid: str) -> None:
        """Start a suspended container from what was written."""
        self._run("resume", ctid, timeout=self.limits.start)

    def set_password(self, ctid: str, user: str, password: str) -> None:
        """Change a password inside a running container, by its own chpasswd.

        The password travels on standard input: `set --userpasswd` would show it
        to everyone on the host.

        :raises InvalidValue: the password cannot be given to chpasswd
        :raises ContainerNotRunning: there is nothing to run chpasswd
        """
        if not password or any(char in password for char in "\n\r\0"):
            raise exception.InvalidValue(
                "a password is not empty and has no line break in it"
            )
        self._run(
            "exec2",
            ctid,
            *PASSWORD_COMMAND,
            timeout=self.limits.command,
            stdin=f"{user}:{password}\n",
            secrets=(password,),
        )
