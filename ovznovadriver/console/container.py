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

"""The console of one container: its reader, its log, its clients."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator

from ovznovadriver import exception
from ovznovadriver.console import ask, attachment, clients, log, record
from ovznovadriver.console import loop as console_loop
from ovznovadriver.openvz import processes, vzlist

LOG = logging.getLogger(__name__)

#: vzlist tells the uptime in whole seconds, by way of single precision floats.
_TOLERANCE = 5.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0

_RUNNING = (vzlist.State.RUNNING, vzlist.State.PAUSED)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is the same for all containers of a host.

    :ivar log_dir: where logs and records are kept
    :ivar log_limit: bytes of one file of a log
    :ivar address: where clients are served; None: nowhere
    :ivar ports: the ports to choose from, first and behind the last
    """

    log_dir: str
    log_limit: int
    address: str | None
    ports: tuple[int, int]


class Console:
    """The console of one container.

    :ivar ctid: the container's, once it was seen
    :param uuid: the server's, which names its files
    :param start: starts `vzctl console` for a CTID
    :param end: ends what was started so, without making the caller wait
    """

    def __init__(
        self,
        loop: console_loop.Loop,
        settings: Settings,
        uuid: str,
        start: Callable[[str], processes.Terminal],
        end: Callable[[processes.Terminal], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._start = start
        self._end = end
        self.ctid: str | None = None
        self._log = log.ConsoleLog(settings.log_dir, uuid, settings.log_limit)
        self._kept = record.Kept(settings.log_dir, uuid)
        self._record = self._kept.record
        self._clients = clients.Clients(loop, self._typed)
        self._attachment: attachment.Attachment | None = None
        self._wanted = False
        self._awaited = False
        self._ran: bool | None = None
        self._pause = _FIRST_PAUSE
        self._retrying: object | None = None

    # -- what happens to the container ----------------------------------------------

    def seen(self, info: vzlist.ContainerInfo, *, begun: float, expected: bool) -> None:
        """What a look at the containers has found.

        :param begun: when the look was begun, by :func:`record.clock`
        :param expected: somebody is about to start it
        """
        if info.state is vzlist.State.UNKNOWN:
            return
        if info.ctid != self.ctid:
            self._detach()
            self.ctid = info.ctid
        running = info.state in _RUNNING
        if running:
            self._runs(info, begun)
        elif expected and not self._awaited:
            # Its first words are heard by one who listens already.
            self._new_boot()
            self._record.asleep = False
        elif not expected:
            self._record.asleep = info.state is vzlist.State.SUSPENDED
        self._awaited = expected and not running
        self._ran = running
        self._wanted = running or expected
        if not self._wanted:
            self._detach()
        elif self._attachment is None and not self._retrying:
            self._attach()
        if self._record.port is not None and self._settings.address:
            self._listen()
        self._save()

    def _runs(self, info: vzlist.ContainerInfo, looked: float) -> None:
        # The boot of an awaited container began when its start was announced; one
        # that was suspended has not booted.
        begun = self._awaited or self._record.asleep
        if begun or self._boots_anew(info, looked):
            if not begun:
                self._new_boot()
            self._record.boot_id = record.boot_id()
            # The latest that it can have been, as a look may take long.
            self._record.started = record.clock() - (info.uptime or 0)
            self._record.asleep = False

    def _boots_anew(self, info: vzlist.ContainerInfo, looked: float) -> bool:
        same_host_boot = self._record.boot_id == record.boot_id()
        if self._ran is False or not same_host_boot or self._record.started is None:
            return True
        if info.uptime is None:
            return False
        started = looked - info.uptime  # at the earliest
        return started - self._record.started > _TOLERANCE

    def _new_boot(self) -> None:
        # Of the container that was there before, vzctl may hold a dead terminal.
        self._detach()
        self._record.started = None
        self._record.said = ""
        try:
            self._log.new_boot()
        except OSError as error:
            LOG.error("The log of container %s goes on: %s", self.ctid, error)

    def announced(self) -> None:
        """Somebody is about to start it, again where that was said before.

        It may have run and stopped since, between two looks.
        """
        self._awaited = False

    def said(self, text: str) -> None:
        """What `vzctl start` said."""
        self._record.said = text[-ask.SAID_LIMIT :]
        self._save()

    def _save(self) -> None:
        try:
            self._kept.save()
        except OSError as error:
            LOG.error("What container %s is cannot be kept: %s", self.ctid, error)

    # -- its reader -----------------------------------------------------------------

    def _attach(self) -> None:
        try:
            terminal = self._start(self.ctid or "")
        except OSError as error:
            self._try_again(str(error))
            return
        self._attachment = attachment.Attachment(
            self._loop, terminal, self._written, self._ended, self._taken
        )

    def _detach(self) -> None:
        self._drop()
        self._retrying = None
        self._pause = _FIRST_PAUSE

    def _drop(self) -> None:
        if self._attachment is not None:
            self._end(self._attachment.close())
            self._attachment = None
            self._clients.pause(False)

    def _ended(self, reason: str) -> None:
        self._drop()
        self._try_again(reason)

    def _try_again(self, reason: str) -> None:
        LOG.warning(
            "The console of container %s is lost (%s); trying again in %g s",
            self.ctid,
            reason or "without a word",
            self._pause,
        )
        attempt = self._retrying = object()
        self._loop.later(self._pause, lambda: self._again(attempt))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _again(self, attempt: object) -> None:
        # Meanwhile it may have been stopped, or started anew.
        if attempt is self._retrying:
            self._retrying = None
            self._attach()

    def _written(self, data: bytes) -> None:
        self._pause = _FIRST_PAUSE
        self._log.write(data)
        self._clients.show(data)

    # -- its clients ----------------------------------------------------------------

    def _typed(self, data: bytes) -> None:
        # What is typed while nothing runs is lost, as with any serial line.
        if self._attachment is not None:
            self._attachment.send(data)
            self._clients.pause(self._attachment.full)

    def _taken(self) -> None:
        self._clients.pause(False)

    def port(self) -> int:
        """The TCP port that serves it; one is chosen if there is none yet.

        :raises NoFreePort: there is none left
        :raises OSError: the host has no such address
        """
        self._record.port = self._clients.listen(
            self._settings.address or "", self._ports()
        )
        self._save()
        return self._record.port

    def _ports(self) -> Iterator[int]:
        first, end = self._settings.ports
        if self._record.port is not None and first <= self._record.port < end:
            yield self._record.port  # Nova may have handed it out
        yield from range(first, end)

    def _listen(self) -> None:
        try:
            self.port()
        except (exception.NoFreePort, OSError) as error:
            LOG.error("The console of container %s: %s", self.ctid, error)

    def output(self, limit: int) -> bytes:
        """The last of what it wrote since it booted; before that, what start said."""
        return self._log.tail(limit) or os.fsencode(self._record.said)[-limit:]

    # -- the end --------------------------------------------------------------------

    def close(self) -> None:
        """The service ends: all files stay."""
        self._wanted = False
        self._detach()
        self._clients.close()
        self._log.close()

    def forget(self) -> None:
        """The container is gone: so is all that was kept of it."""
        self.close()
        self._log.remove()
        self._kept.remove()
