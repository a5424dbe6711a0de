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

"""Choosing a CTID that nobody else can choose.

A CTID is claimed by creating ``<lock_dir>/<ctid>``: whoever made that directory
owns the CTID. It stays until the container is destroyed, so that a host that
looked a moment too early cannot take the number again. What is in it says who
claimed, for whom, and from which process.

The lock around the search only saves work; what decides is that a directory with an
owner in it is renamed to the CTID once. So it also holds between hosts that share the
directory.

A claim also says how far its container is: ``made`` is there from when it was tagged,
``removing`` from before it is destroyed. By these a service that starts knows what one
that was killed has left half made or half removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import secrets
import shutil
import time
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator

from oslo_concurrency import lockutils
from oslo_log import log as logging

from ovznovadriver import exception
from ovznovadriver.openvz import command, procfs

LOG = logging.getLogger(__name__)

#: OpenVZ reserves the numbers up to 100, though vzctl accepts them.
FIRST_CTID = 101

#: What a claim says of its container: it was tagged; it comes from another host, and is
#: not tagged for this one yet; it goes to another host as it runs, and may be there;
#: with its memory written down, it is the first host's that takes it; its server is
#: made anew elsewhere, and only its files are kept; its files are for
#: another host's container, or from one; they are those of a lost host's container, or
#: about to be; and it is being removed.
MADE = "made"
ARRIVING = "arriving"
LEAVING = "leaving"
HANDED = "handed"
ASIDE = "aside"
LENT = "lent"
BORROWED = "borrowed"
TAKEN = "taken"
REMOVING = "removing"

_OWNER = "owner"
_PAUSED = "paused"
# Claims on their way: not complete yet, and given back.
_NEW = ".new-"
_GONE = ".gone-"
_LOCKS = ".lock"
_SERVICE = "service-"
#: Seconds after which a claim that says nothing is not just coming into being.
_COMING = 3600
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})


def _boot_id() -> str:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who claimed a CTID.

    :ivar uuid: the instance it is for
    :ivar host: the Nova host
    :ivar pid: the process that claimed
    :ivar started: that process's start, in clock ticks since boot
    :ivar boot_id: the boot of the node in which it ran
    """

    uuid: str
    host: str
    pid: int
    started: int
    boot_id: str

    @classmethod
    def this_process(cls, uuid: str, host: str) -> Owner:
        pid = os.getpid()
        started = procfs.start_time(pid)
        if started is None:
            raise exception.ClaimError("/proc does not show this process")
        return cls(uuid, host, pid, started, _boot_id())

    @classmethod
    def read(cls, path: pathlib.Path) -> Owner | None:
        """What :meth:`write` wrote; None for anything else, and where nothing is."""
        try:
            found = cls(**json.loads(path.read_text()))
        except (
            *(FileNotFoundError, NotADirectoryError),
            *(ValueError, TypeError, RecursionError),
        ):
            return None
        texts = (found.uuid, found.host, found.boot_id)
        numbers = (found.pid, found.started)
        whole = all(isinstance(text, str) for text in texts)
        return found if whole and all(type(n) is int for n in numbers) else None

    def write(self, path: pathlib.Path) -> None:
        """Put it down in a file."""
        with open(path, "w") as file:
            json.dump(dataclasses.asdict(self), file)
            file.flush()
            # Else a claim may say nothing after a power cut, and so be nobody's.
            os.fsync(file.fileno())

    def is_alive(self) -> bool:
        """Whether the process that claimed still runs, on this node."""
        return (
            self.boot_id == _boot_id() and procfs.start_time(self.pid) == self.started
        )


class Claims:
    """The claimed CTIDs of the hosts that share one lock directory.

    :param directory: the lock directory; it exists
    :param host: the Nova host that claims here
    :param bounds: the first and the last CTID that it may choose; None for all
    """

    def __init__(
        self, directory: str, host: str, bounds: tuple[int, int] | None = None
    ) -> None:
        self._directory = pathlib.Path(directory)
        self._host = host
        self._first, self._last = bounds or (FIRST_CTID, command.MAX_CTID)

    def claim(self, uuid: str, in_use: Callable[[], Iterable[int]]) -> str:
        """Claim the CTID after the highest one in use, or the first that is free.

        :param uuid: the instance that it is for
        :param in_use: tells the CTIDs that are taken; called while nobody else on
            this node claims
        :raises NoFreeCtid: there is none left
        """
        with self._alone():
            taken = {*in_use(), *self.numbers()}
            for number in self._candidates(taken):
                if self._take(number, uuid):
                    return str(number)
        raise exception.NoFreeCtid(
            f"all CTIDs from {self._first} to {self._last} are in use"
        )

    def claim_this(
        self, ctid: str, uuid: str, in_use: Callable[[], Iterable[int]]
    ) -> None:
        """Claim the CTID of a container that comes here from another host, as it runs.

        It need not be one that this host would choose.

        :param uuid: the instance that it is for
        :param in_use: as for :meth:`claim`
        :raises ClaimError: it is taken
        """
        with self._alone():
            if int(ctid) in in_use() or not self._take(int(ctid), uuid):
                raise exception.ClaimError(f"CTID {ctid} is taken on {self._host}")
            self.note(ctid, ARRIVING)

    def adopt(self, ctid: str, uuid: str) -> None:
        """Claim the CTID of a container that is there already, for an instance.

        :raises ClaimError: it is another host's, or another instance's
        """
        if not self._take(ctid, uuid):
            owner = self.owner(ctid)
            if owner is None or (owner.host, owner.uuid) != (self._host, uuid):
                raise exception.ClaimError(f"CTID {ctid} is claimed for another one")
        self.note(ctid, MADE)

    def sign(self, ctid: str, uuid: str) -> None:
        """Have a claim be this host's, whosever it was: its container has come here.

        :param uuid: the instance that it is for
        """
        place = self._directory / ctid
        fresh = place / f"{_OWNER}.new"
        Owner.this_process(uuid, self._host).write(fresh)
        fresh.rename(place / _OWNER)
        self.note(ctid, ARRIVING)
        # Last: by it an interrupted change of hands is known.
        for mark in (LEAVING, HANDED):
            self.forget(ctid, mark)

    def _alone(self) -> contextlib.AbstractContextManager[object]:
        lock: contextlib.AbstractContextManager[object] = lockutils.lock(
            "claim", external=True, lock_path=str(self._directory / _LOCKS)
        )
        return lock

    def _candidates(self, taken: set[int]) -> Iterator[int]:
        first, last = self._first, self._last
        ours = (number for number in taken if first <= number <= last)
        highest = max(ours, default=first - 1)
        yield from range(highest + 1, last + 1)
        # Somebody took the highest number there is: use the gaps below it.
        yield from (number for number in range(first, highest) if number not in taken)

    def claim_uuid(self, uuid: str) -> str:
        """Claim a CTID that is an instance's UUID.

        What this host claimed for it before is claimed anew.

        :raises ClaimError: another host has claimed it, or a process that runs
        """
        known = self.owner(uuid)
        if known is not None and known.host == self._host and not known.is_alive():
            self.release(uuid)
        if not self._take(uuid, uuid):
            whose = f"host {known.host}" if known else "somebody"
            raise exception.ClaimError(f"CTID {uuid} is claimed by {whose} already")
        return uuid

    def _take(self, number: int | str, uuid: str) -> bool:
        place = self._directory / str(number)
        if os.path.lexists(place):
            return False
        fresh = self._directory / f"{_NEW}{secrets.token_hex(8)}"
        fresh.mkdir(mode=0o755)
        try:
            Owner.this_process(uuid, self._host).write(fresh / _OWNER)
            # With its owner in it: one that is empty could be replaced so.
            fresh.rename(place)
        except BaseException as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in _TAKEN:
                return False
            raise
        return True

    def numbers(self) -> set[int]:
        """The claimed CTIDs."""
        return {
            int(name)
            for name in os.listdir(self._directory)
            if name.isdecimal() and command.is_ctid(name)
        }

    def ctids(self) -> list[str]:
        """The claimed CTIDs, numbers and UUIDs."""
        found = filter(command.is_ctid, os.listdir(self._directory))
        return sorted(found, key=lambda ctid: (len(ctid), ctid))

    def owner(self, ctid: str) -> Owner | None:
        """Who claimed a CTID; None when the claim does not say, or there is none."""
        return Owner.read(self._directory / ctid / _OWNER)

    def find(self, uuid: str, host: str | None = None) -> list[str]:
        """The CTIDs that a host claimed for an instance.

        :param host: None for this one
        """
        whose = (uuid, self._host if host is None else host)
        owners = [(ctid, self.owner(ctid)) for ctid in self.ctids()]
        return [
            ctid
            for ctid, owner in owners
            if owner is not None and (owner.uuid, owner.host) == whose
        ]

    def hidden(self, shown: Collection[str]) -> set[str]:
        """The instances whose containers this host has made, and vzlist does not show.

        :param shown: the CTIDs that it shows
        """
        made = (
            self.owner(ctid)
            for ctid in set(self.ctids()).difference(shown)
            if self.has(ctid, MADE)
        )
        return {own.uuid for own in made if own is not None and own.host == self._host}

    def release(self, ctid: str) -> None:
        """Give a CTID back; nothing happens when it is not claimed.

        :raises ClaimError: it is another host's claim
        """
        place = self._directory / ctid
        if not place.is_dir():
            return
        owner = self.owner(ctid)
        if owner is not None and owner.host != self._host:
            raise exception.ClaimError(
                f"CTID {ctid} is claimed by host {owner.host}, not by {self._host}"
            )
        # At once: half of a claim would say nothing, and stay.
        gone = self._directory / f"{_GONE}{secrets.token_hex(8)}"
        place.rename(gone)
        shutil.rmtree(gone)

    def is_abandoned(self, ctid: str) -> bool:
        """Whether this host claimed a CTID, by a process that is gone."""
        owner = self.owner(ctid)
        # One without an owner may be anybody's.
        return owner is not None and owner.host == self._host and not owner.is_alive()

    def note(self, ctid: str, mark: str) -> None:
        """Put down how far a container is; nothing happens without a claim.

        :param mark: one of those above, as :data:`MADE`
        """
        place = self._directory / ctid
        if place.is_dir():
            (place / mark).touch()

    def forget(self, ctid: str, mark: str) -> None:
        """Take back what :meth:`note` put down; nothing happens without it."""
        (self._directory / ctid / mark).unlink(missing_ok=True)

    def has(self, ctid: str, mark: str) -> bool:
        """Whether a container is so far.

        Another host may have said so. A network file system asks its server anew for a
        directory that is opened, not for a name in it.
        """
        try:
            return mark in os.listdir(self._directory / ctid)
        except (FileNotFoundError, NotADirectoryError):
            return False

    # -- what a killed process leaves -------------------------------------------------

    def parts(self) -> list[str]:
        """The names of claims that came half into being, or went half."""
        return sorted(filter(self._is_part, os.listdir(self._directory)))

    def _is_part(self, name: str) -> bool:
        if name.startswith(_NEW) and self.owner(name) is None:
            return self._is_old(name)
        return name.startswith(_GONE) or (
            name.startswith(_NEW) and self.is_abandoned(name)
        )

    def remove_part(self, name: str) -> None:
        """Remove one of :meth:`parts`."""
        if name.startswith((_NEW, _GONE)):
            shutil.rmtree(self._directory / name, ignore_errors=True)

    def unsigned(self) -> list[str]:
        """The CTIDs whose claim does not say whose it is, and will not."""
        return [
            ctid for ctid in self.ctids() if not self.owner(ctid) and self._is_old(ctid)
        ]

    def _is_old(self, name: str) -> bool:
        try:
            changed = (self._directory / name).stat().st_mtime
        except FileNotFoundError:
            return False
        return changed < time.time() - _COMING

    # -- the service itself -----------------------------------------------------------

    @property
    def _service(self) -> pathlib.Path:
        name = _SERVICE + urllib.parse.quote(self._host, safe="")
        return self._directory / _LOCKS / name

    def serve(self) -> None:
        """Put down that this process is this host's service."""
        fresh = self._service.with_name(f"{self._service.name}.new")
        fresh.parent.mkdir(exist_ok=True)
        Owner.this_process("", self._host).write(fresh)
        fresh.rename(self._service)

    def served_by(self) -> int | None:
        """The process that is this host's service; None when there is none."""
        owner = Owner.read(self._service)
        return owner.pid if owner is not None and owner.is_alive() else None

    def note_paused(self, ctid: str, paused: bool) -> None:
        """Remember that a container is paused, where vzlist cannot tell."""
        note = self._directory / ctid / _PAUSED
        if paused:
            note.parent.mkdir(exist_ok=True)
            note.write_text(_boot_id())
        else:
            note.unlink(missing_ok=True)
            # Of a container that was removed meanwhile nothing else is in it.
            with contextlib.suppress(OSError):
                note.parent.rmdir()

    def is_paused(self, ctid: str) -> bool:
        """Whether a container was noted as paused since the node booted."""
        try:
            return (self._directory / ctid / _PAUSED).read_text() == _boot_id()
        except (FileNotFoundError, NotADirectoryError):
            return False
