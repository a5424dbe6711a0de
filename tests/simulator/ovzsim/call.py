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
"""One call of a program: its node, output, faults, and the lock it may hold."""

from __future__ import annotations

import os

from ovzsim import faults
from ovzsim.base import Streams, Unmodelled
from ovzsim.conffile import ConfFile
from ovzsim.host import Host
from ovzsim.lock import ContainerLock


class Call:
    """What every subcommand gets.

    :param stdin: standard input, None for the process's own.
    :param environment: what the process was started with.
    """

    def __init__(
        self,
        program: str,
        host: Host,
        streams: Streams,
        stdin: bytes | None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.environment = environment or {}
        self.program = program
        self.host = host
        self.streams = streams
        self.stdin = stdin
        self.skip_lock = False
        self.faults: list[faults.Fault] = []
        self._claimed = False

    def claim_faults(self, subcommand: str, ctid: str) -> None:
        """Takes the faults that were ordered for this call."""
        self._claimed = True
        self.faults = faults.claim(self.host, self.program, subcommand, ctid)

    def end(self) -> None:
        """Has those faults strike that any call counts for, also one without work."""
        if not self._claimed:
            self.faults = faults.claim(self.host, "", "", "")
        faults.strike_missed(self.host, self.faults)

    def work(self, ctid: str = "") -> Work:
        """The part of a command that does something: see Work.

        :param ctid: the container to lock; "" for work without a lock.
        """
        return Work(self, ctid)

    def load(self, ctid: str) -> ConfFile:
        """A container's configuration file. :raises FileNotFoundError: none."""
        return ConfFile.load(self.host.conf_path(ctid))

    def values(self, conf: ConfFile) -> dict[str, str]:
        """The parameters in a file, after saying what cannot be read in it."""
        values, warnings = conf.parse(strict=self.host.family == "4")
        if self.host.family == "4":
            for warning in warnings:
                self.streams.warn(warning)
        return values


class Work:
    """Work under a container's lock; faults strike inside, before and after it.

    A context manager that gives the lock.
    """

    def __init__(self, call: Call, ctid: str) -> None:
        self._call = call
        self._ctid = ctid
        self._lock = ContainerLock(call.host, ctid or "-", call.streams)

    def __enter__(self) -> ContainerLock:
        if self._ctid:
            refuse_scripts(self._call.host, self._ctid)
            if not self._call.skip_lock:
                self._lock.acquire()
        try:
            self._strike("before")
        except BaseException:
            self._lock.release()
            raise
        return self._lock

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._strike("after")
        finally:
            self._lock.release()

    def _strike(self, when: str) -> None:
        lock = self._lock if self._ctid else None
        faults.strike(self._call.host, self._call.faults, when, lock)


_ACTIONS = "premount mount start stop umount postumount create".split()


def refuse_scripts(host: Host, ctid: str) -> None:
    """:raises Unmodelled: there are action scripts, which the tools would run."""
    for owner in ("vps", ctid):
        for action in _ACTIONS:
            if (host.family, owner) == ("9", "vps") and action in ("mount", "umount"):
                continue  # these are run
            path = host.path("etc/vz/conf", f"{owner}.{action}")
            if os.path.exists(path):
                raise Unmodelled(f"action script {path}")


def linked_ctid(host: Host, name: str) -> str | None:
    """The container that a name's link leads to, if its configuration exists."""
    path = host.name_path(name)
    try:
        if not os.path.exists(path):
            return None
        target = os.path.basename(os.readlink(path))
    except OSError:
        return None
    return target.removesuffix(".conf")


def link_name(host: Host, ctid: str, name: str, old_name: str) -> bool:
    """Gives a container its name link, and takes its former one away.

    Two processes that want the same name: the link is made exclusively, so one wins.

    :returns: False when nothing had to be done.
    :raises NameTaken: another container has it.
    """
    holder = linked_ctid(host, name)
    if holder == ctid and name == old_name:
        return False
    if holder is not None and holder != ctid:
        raise NameTaken(holder)
    path = host.name_path(name)
    for attempt in (1, 2):
        try:
            os.symlink(host.conf_path(ctid), path)
            break
        except FileExistsError:
            holder = linked_ctid(host, name)
            if holder == ctid:
                break
            if holder is not None or attempt == 2:
                raise NameTaken(holder or "?") from None
            os.unlink(path)  # a stale link: its container is gone
    if old_name and old_name != name:
        unlink_name(host, ctid, old_name)
    return True


def unlink_name(host: Host, ctid: str, name: str) -> None:
    """Takes a container's name link away, if it is that container's."""
    path = host.name_path(name)
    if os.path.islink(path) and os.readlink(path) == host.conf_path(ctid):
        os.unlink(path)


class NameTaken(Exception):
    """Another container bears the name."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder
