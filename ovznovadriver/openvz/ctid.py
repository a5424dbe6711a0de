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
owns the number. It stays until the container is destroyed, so that a host that
looked a moment too early cannot take the number again. What is in it says who
claimed, for whom, and from which process.

The lock around the search only saves work; what decides is that ``mkdir`` succeeds
once. So it also holds between hosts that share the directory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator

from oslo_concurrency import lockutils
from oslo_log import log as logging

from ovznovadriver import exception
from ovznovadriver.openvz import command

LOG = logging.getLogger(__name__)

#: OpenVZ reserves the numbers up to 100, though vzctl accepts them.
FIRST_CTID = 101

_OWNER = "owner"
_PAUSED = "paused"


def _boot_id() -> str:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None when it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name, in parentheses, may hold anything.
    return int(stat.rpartition(b")")[2].split()[19])


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
        started = _start_time(pid)
        if started is None:
            raise exception.ClaimError("/proc does not show this process")
        return cls(uuid, host, pid, started, _boot_id())

    def is_alive(self) -> bool:
        """Whether the process that claimed still runs, on this node."""
        return self.boot_id == _boot_id() and _start_time(self.pid) == self.started


class Claims:
    """The claimed CTIDs of the hosts that share one lock directory.

    :param directory: the lock directory; it exists
    :param host: the Nova host that claims here
    """

    def __init__(self, directory: str, host: str) -> None:
        self._directory = pathlib.Path(directory)
        self._host = host

    def claim(self, uuid: str, in_use: Callable[[], Iterable[int]]) -> str:
        """Claim the CTID after the highest one in use.

        :param uuid: the instance that it is for
        :param in_use: tells the CTIDs that are taken; called while nobody else on
            this node claims
        :raises NoFreeCtid: there is none left
        """
        with lockutils.lock(
            "claim", external=True, lock_path=str(self._directory / ".lock")
        ):
            taken = {*in_use(), *self.numbers()}
            for number in self._candidates(taken):
                if self._take(number, uuid):
                    return str(number)
        raise exception.NoFreeCtid(
            f"all CTIDs from {FIRST_CTID} to {command.MAX_CTID} are in use"
        )

    def _candidates(self, taken: set[int]) -> Iterator[int]:
        highest = max((n for n in taken if n >= FIRST_CTID), default=FIRST_CTID - 1)
        yield from range(highest + 1, command.MAX_CTID + 1)
        # Somebody took the highest number there is: use the gaps below it.
        gaps = range(FIRST_CTID, min(highest, command.MAX_CTID + 1))
        yield from (number for number in gaps if number not in taken)

    def _take(self, number: int, uuid: str) -> bool:
        place = self._directory / str(number)
        try:
            place.mkdir(mode=0o755)
        except FileExistsError:
            return False
        try:
            owner = Owner.this_process(uuid, self._host)
            (place / _OWNER).write_text(json.dumps(dataclasses.asdict(owner)))
        except (OSError, exception.ClaimError):
            shutil.rmtree(place)
            raise
        return True

    def numbers(self) -> set[int]:
        """The claimed CTIDs."""
        return {
            int(name)
            for name in os.listdir(self._directory)
            if name.isdecimal() and command.is_ctid(name)
        }

    def owner(self, ctid: str) -> Owner | None:
        """Who claimed a CTID; None when the claim does not say, or there is none."""
        try:
            text = (self._directory / ctid / _OWNER).read_text()
            return Owner(**json.loads(text))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def find(self, uuid: str) -> list[str]:
        """The CTIDs that this host claimed for an instance."""
        ctids = [str(number) for number in sorted(self.numbers())]
        owners = [(ctid, self.owner(ctid)) for ctid in ctids]
        return [
            ctid
            for ctid, owner in owners
            if owner is not None and (owner.uuid, owner.host) == (uuid, self._host)
        ]

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
        shutil.rmtree(place)

    def clear_stale(self, in_use: Iterable[int]) -> list[str]:
        """Give back what a crash left: claims of this host whose process is gone.

        :param in_use: CTIDs of which a container or a left-over is there
        :returns: the CTIDs given back
        """
        cleared = []
        for number in sorted(self.numbers() - set(in_use)):
            owner = self.owner(str(number))
            # One without an owner may just be coming into being elsewhere.
            if owner is None or owner.host != self._host or owner.is_alive():
                continue
            shutil.rmtree(self._directory / str(number))
            LOG.warning(
                "CTID %(ctid)s was claimed for instance %(uuid)s by a process that is "
                "gone, and no container has it: given back",
                {"ctid": number, "uuid": owner.uuid},
            )
            cleared.append(str(number))
        return cleared

    def note_paused(self, ctid: str, paused: bool) -> None:
        """Remember that a container is paused, where vzlist cannot tell."""
        note = self._directory / ctid / _PAUSED
        if paused:
            note.parent.mkdir(exist_ok=True)
            note.write_text(_boot_id())
        else:
            note.unlink(missing_ok=True)

    def is_paused(self, ctid: str) -> bool:
        """Whether a container was noted as paused since the node booted."""
        try:
            return (self._directory / ctid / _PAUSED).read_text() == _boot_id()
        except (FileNotFoundError, NotADirectoryError):
            return False
