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

"""A verb of the privileged side: a container's tree goes to another host.

rsync runs as root here, as it reads what only root can read. The ssh that it starts
runs as the caller's own user, so that the caller gains nothing by what it says of the
other side, and root reads none of its keys.
"""

from __future__ import annotations

import concurrent.futures
import errno
import functools
import os
import pwd
import re
import shlex
import stat
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ovznovadriver import exception
from ovznovadriver.openvz import gate as ovz_gate
from ovznovadriver.openvz import incoming, listing, tree

#: The version of what two hosts say to each other.
PROTOCOL = 1
#: Seconds without a byte from the other side, or to it, after which rsync gives up.
SILENCE = 600
#: What the other side reports the listing with, on standard error.
LISTING_MARK = "ovz-listing"

#: The kernel's clock of inodes ticks every 10 ms at most; nanoseconds.
_TICK = 20_000_000
_WORD = re.compile(r"[A-Za-z0-9_.:/@+-]+")
_ESCAPED = re.compile(rb"\\#([0-3][0-7]{2})")
_PERCENT = re.compile(rb"\s(\d{1,3})%\s")
_SENT = b"ovz:<f"
# As it is: numeric owners, links, ACLs, extended attributes, devices; nothing mounted
# in it. Times to the nanosecond: rsync compares whole seconds otherwise, and
# takes what changed between two passes of one second for the same.
_AS_IT_IS = (
    *("-aHAXx", "--numeric-ids", "--modify-window=-1", "--no-motd"),
    f"--timeout={SILENCE}",
)
#: What of ssh's is not left to any configuration file. A key that is not known, or
#: is another one by now, ends the connection; nothing is ever asked.
SSH_OPTIONS = (
    *("-F", "none", "-T", "-x", "-a", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes"),
    *("-oUpdateHostKeys=no", "-oControlPath=none", "-oClearAllForwardings=yes"),
    *("-oConnectTimeout=20", "-oServerAliveInterval=15", "-oServerAliveCountMax=4"),
    *("-oLogLevel=ERROR", "-oCompression=no"),
)


class Run(Protocol):
    """The way to rsync."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None,
        timeout: float,
        output: Callable[[bytes], object],
    ) -> tuple[int, str, bool]:
        """Its exit code, its standard error, and whether its time was over."""
        ...


def _checked(name: str, value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value) or value[0] == "-":
        raise exception.CommandRefused(f"{value!r} cannot be the {name} of a host")
    return value


def ssh_arguments(peer: Mapping[str, Any]) -> list[str]:
    """The arguments of ssh, but for the command.

    :param peer: host, user, port; ssh_key and known_hosts: a path, or None
    :raises CommandRefused: one of them could be taken for something else
    """
    arguments = [*SSH_OPTIONS, f"-p{int(peer['port'])}"]
    arguments.append(f"-oHostName={_checked('address', peer['host'])}")
    arguments.append(f"-oUser={_checked('user', peer['user'])}")
    if peer["ssh_key"] is not None:
        key = _checked("key file", peer["ssh_key"])
        arguments += [f"-oIdentityFile={key}", "-oIdentitiesOnly=yes"]
        arguments.append("-oIdentityAgent=none")
    if peer["known_hosts"] is not None:
        known = _checked("known_hosts file", peer["known_hosts"])
        arguments += [f"-oUserKnownHostsFile={known}", "-oGlobalKnownHostsFile=none"]
    return [*arguments, "peer"]


def receiver(peer: Mapping[str, Any], *words: str) -> list[str]:
    """The command that the other side is asked for."""
    program = _checked("receiver", peer["receiver"])
    return [program, f"--protocol={PROTOCOL}", *words]


def send_tree(
    *,
    base: str,
    ctid: str,
    sub: str,
    key: str,
    peer: dict[str, Any],
    owner: int,
    final: bool,
    since: int | None,
    progress: str | None,
    gate: str | None,
    holes: bool,
    programs: Mapping[str, str],
    run: Run,
) -> dict[str, Any]:
    """Copy a container's tree to another host, or what has changed since the last time.

    :param key: what it is known by there, the instance's UUID
    :param peer: host, user, port, ssh_key, known_hosts, receiver, bandwidth_kbps,
        timeout (seconds), confined (whether its rsync is a daemon, see reception.py)
    :param owner: the user that ssh runs as
    :param final: the container does not run: both trees are listed as well
    :param since: when the first pass began; None for the first
    :param progress: a FIFO of that user, which gets a line for each percent
    :param gate: a socket of that user, whose other end says when the container has
        stopped (see gate.py); None where it has
    :param holes: whether what is zero becomes a hole there
    :param programs: the paths of rsync, ssh and setpriv
    :returns: {"code", "stderr", "timed_out": of rsync; "since": int, "same": None
        unless final and there was an answer, else whether both trees are the same;
        "theirs" and "ours": how many names they have}
    """
    incoming.checked_key(key)
    begun = time.time_ns() - _TICK
    if not final:
        # The first write to a page after this, by a mapping too, changes a time.
        os.sync()
    with (
        tree.Tree(base, ctid, sub) as opened,
        _Progress(progress, owner) as shown,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        path = os.path.join(base, ctid, sub).rstrip("/") + "/"

        @functools.cache
        def listed() -> concurrent.futures.Future[listing.Listing]:
            return pool.submit(listing.list_tree, opened.descriptor, since=since)

        sender = _Sender(path, key, peer, owner, holes, programs, run, shown)
        # What rsync says first, it says of a tree that it reads: nothing changes now.
        reply = sender.send(final, gate, listed if final else None)
        reply["since"] = begun if since is None else since
        if not final or reply["code"] != 0:
            return reply
        ours = listed().result()
        # rsync goes by size and time. What has the ones that it had when it was
        # copied, but was changed since, is compared by content.
        doubtful = [
            names[0] for names in ours.fresh.values() if not sender.sent & set(names)
        ]
        if since is not None and doubtful:
            reply |= sender.compare(doubtful)
        theirs = _reported(reply["stderr"])
        if theirs is not None:
            reply["same"] = theirs == (ours.digest, ours.entries)
            if reply["same"]:
                # Nothing that came before is in doubt any more.
                reply["since"] = begun
            reply |= {"theirs": theirs[1], "ours": ours.entries}
        return reply


def _reported(stderr: str) -> tuple[str, int] | None:
    for line in reversed(stderr.splitlines()):
        mark, *fields = line.split(" ")
        if mark == LISTING_MARK and len(fields) == 2 and fields[1].isdecimal():
            return fields[0], int(fields[1])
    return None


class _Sender:
    """rsync, towards one tree of another host.

    :ivar sent: the plain files whose content went there
    """

    def __init__(
        self,
        path: str,
        key: str,
        peer: Mapping[str, Any],
        owner: int,
        holes: bool,
        programs: Mapping[str, str],
        run: Run,
        shown: _Progress,
    ) -> None:
        self.sent: set[bytes] = set()
        self._began: Callable[[], object] | None = None
        self._run = run
        self._rest = b""
        self._shown = shown
        self._source = path
        self._limit = float(peer["timeout"])
        self._command = [programs["rsync"], *_AS_IT_IS]
        if holes:
            self._command.append("--sparse")
        if peer["bandwidth_kbps"]:
            self._command.append(f"--bwlimit={int(peer['bandwidth_kbps'])}")
        ssh = [programs["ssh"], *ssh_arguments(peer)[:-1]]
        self._caller = _become(owner, programs)
        self._ssh = ssh
        self._receiver = receiver(peer, "receive")
        self._key = key
        # With two colons rsync speaks to a daemon's module: see reception.py.
        self._target = "peer::tree/" if peer["confined"] else "peer:tree/"

    def _call(
        self,
        options: Sequence[str],
        listed: bool,
        stdin: bytes | None = None,
        gate: str | None = None,
    ) -> dict[str, Any]:
        words = [*self._receiver, *(["--list"] if listed else []), self._key]
        shell = [*self._caller, *_behind(gate), *self._ssh]
        code, stderr, timed_out = self._run(
            [
                *self._command,
                *options,
                f"--rsh={shlex.join(shell)}",
                f"--rsync-path={' '.join(words)}",
                self._source,
                self._target,
            ],
            stdin=stdin,
            timeout=self._limit,
            output=self._take,
        )
        return {"code": code, "stderr": stderr, "timed_out": timed_out, "same": None}

    def send(
        self, listed: bool, gate: str | None, began: Callable[[], object] | None
    ) -> dict[str, Any]:
        """One pass.

        :param began: called, perhaps often, when rsync is at work
        """
        self._began = began
        options = [
            "--delete",
            "--info=progress2",
            "--outbuf=L",
            "--out-format=ovz:%i %n",
        ]
        return self._call(options, listed, gate=gate)

    def compare(self, paths: Sequence[bytes]) -> dict[str, Any]:
        """Compare some files by content, and send those that differ."""
        options = ["--checksum", "--from0", "--files-from=-"]
        # With the directories above, whose times a file that is replaced changes.
        names = {b"."} | set(paths)
        for path in paths:
            while path := os.path.dirname(path):
                names.add(path)
        return self._call(options, True, b"\0".join(sorted(names)))

    def _take(self, data: bytes) -> None:
        if self._began is not None:
            self._began()
        # Names end with a newline, and what is shown of the progress with a return.
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + data)
        for line in lines:
            if line.startswith(_SENT):
                self.sent.add(_unescaped(line.partition(b" ")[2]))
            else:
                self._shown.show(line)


def _unescaped(name: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), name)


def _behind(gate: str | None) -> list[str]:
    """What keeps ssh waiting until the container has stopped."""
    if gate is None:
        return []
    program = [sys.executable, "-I", "-S", ovz_gate.__file__]
    return [*program, _checked("socket", gate)]


def _become(owner: int, programs: Mapping[str, str]) -> list[str]:
    """What runs a command as a user."""
    if owner == os.geteuid():
        return []
    try:
        group = pwd.getpwuid(owner).pw_gid
    except KeyError:
        raise exception.CommandRefused(f"there is no user {owner}") from None
    ids = [f"--reuid={owner}", f"--regid={group}", "--init-groups"]
    return [programs["setpriv"], *ids, "--"]


class _Progress:
    """A FIFO of the caller's, which gets what there is room for."""

    def __init__(self, path: str | None, owner: int) -> None:
        self._descriptor = -1 if path is None else _open_fifo(path, owner)
        self._last = -1

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def show(self, line: bytes) -> None:
        """Hand on a percentage that is higher than the last."""
        match = _PERCENT.search(line)
        if match is None or self._descriptor < 0 or int(match[1]) <= self._last:
            return
        self._last = int(match[1])
        try:
            os.write(self._descriptor, b"%d\n" % self._last)
        except (BlockingIOError, BrokenPipeError):
            return  # nobody reads it (any more), and that is no reason to stop


def _open_fifo(path: str, owner: int) -> int:
    looked = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(looked)
        if not stat.S_ISFIFO(info.st_mode) or info.st_uid != owner:
            raise exception.UnsafePath(f"{path!r} is not a FIFO of the caller")
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{looked}", flags)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise exception.TransferError("nobody reads the progress") from error
        raise
    finally:
        os.close(looked)
