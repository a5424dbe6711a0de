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

"""The console service: one per host, independent of nova-compute.

It looks at the node's containers every few seconds, and when it is told of a start;
has one ``vzctl console`` for each of this host's that runs, writes what it says into
a log, and serves it to clients.
"""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from ovznovadriver import exception
from ovznovadriver.console import container, record, requests
from ovznovadriver.console import loop as console_loop
from ovznovadriver.openvz import command, metadata, processes, vzlist

LOG = logging.getLogger(__name__)

#: Seconds after which what is kept of a container that is gone is removed. A rebuilt
#: server's comes back before.
FORGET_AFTER = 60.0
#: Seconds that an announced start may take until the container runs.
EXPECTED_FOR = 120.0
#: Starts that may be announced at once, and bytes of a log that are told at most.
_MOST_EXPECTED = 10000
_MOST_OUTPUT = 2**20
#: Seconds that the end of all readers may take when the service ends.
_END_LIMIT = 5.0

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the operator set.

    :ivar host: the Nova host whose containers these are
    :ivar socket: where nova-compute asks
    :ivar group: who may ask there besides root; "" for nobody
    :ivar interval: seconds between two looks
    :ivar settings: what concerns each container
    """

    host: str
    socket: str
    group: str
    interval: float
    settings: container.Settings


class Service:
    """All consoles of a host.

    :param look: all containers of the node, as vzlist tells them; called in a thread
    :param start: starts `vzctl console` for a CTID
    :raises ConfigurationError: it cannot work as it is configured
    """

    def __init__(
        self,
        options: Options,
        look: Callable[[], Sequence[vzlist.ContainerInfo]],
        start: Callable[[str], processes.Terminal],
    ) -> None:
        self._options = options
        self._list = look
        self._start = start
        self.loop = console_loop.Loop()
        self._lock = _own(options.settings.log_dir)
        self._looker = concurrent.futures.ThreadPoolExecutor(1, "look")
        self._ender = concurrent.futures.ThreadPoolExecutor(2, "end")
        self._looking = False
        self._again = False
        self._works = True
        self._after_look: list[Callable[[], None]] = []
        self._consoles: dict[str, container.Console] = {}
        self._absent: dict[str, float] = {}
        self._expected: dict[str, float] = {}
        self._ending: set[concurrent.futures.Future[None]] = set()
        for uuid in _known(options.settings.log_dir):
            self._consoles[uuid] = self._console(uuid)
        self._server = requests.Server(
            self.loop, options.socket, options.group, self._handle
        )

    def run(self) -> None:
        """Serve until :meth:`stop`; then end all readers and keep all files."""
        self._tick()
        try:
            self.loop.run()
        finally:
            self._close()

    def stop(self) -> None:
        """End :meth:`run`; any thread may ask, or a signal."""
        self.loop.stop()

    def _close(self) -> None:
        self._server.close()
        for console in self._consoles.values():
            console.close()
        self._looker.shutdown(wait=False, cancel_futures=True)
        # They have been hung up, which ends them; the system ends one that hangs.
        concurrent.futures.wait(self._ending, timeout=_END_LIMIT)
        self._ender.shutdown(wait=False, cancel_futures=True)
        self.loop.close()
        os.close(self._lock)

    # -- looking --------------------------------------------------------------------

    def _tick(self) -> None:
        self._look()
        self.loop.later(self._options.interval, self._tick)

    def _look(self, then: Callable[[], None] | None = None) -> None:
        """Look at the node now.

        :param then: called when a look that began after this was asked is done
        """
        if then is not None:
            self._after_look.append(then)
        if self._looking:
            # What that one finds may be older than what is asked for.
            self._again = True
            return
        self._looking = True
        waiting, self._after_look = self._after_look, []
        begun = record.clock()
        future = self._looker.submit(self._list)
        future.add_done_callback(
            lambda done: self.loop.soon(lambda: self._looked(done, begun, waiting))
        )

    def _looked(
        self,
        done: concurrent.futures.Future[Sequence[vzlist.ContainerInfo]],
        begun: float,
        waiting: list[Callable[[], None]],
    ) -> None:
        self._looking = False
        if self._again:
            self._again = False
            self._look()
        try:
            infos = done.result()
        except (exception.OvzError, OSError) as error:
            if self._works:
                LOG.error("The containers cannot be seen: %s", error)
            self._works = False
        else:
            self._works = True
            self._update(infos, begun)
        for call in waiting:
            call()

    def _update(self, infos: Sequence[vzlist.ContainerInfo], begun: float) -> None:
        now = time.monotonic()
        self._expected = {c: t for c, t in self._expected.items() if t > now}
        ours = self._ours(infos)
        for uuid, info in ours.items():
            console = self._consoles.get(uuid)
            if console is None:
                console = self._consoles[uuid] = self._console(uuid)
            console.seen(info, begun=begun, expected=info.ctid in self._expected)
        self._absent = {
            uuid: self._absent.get(uuid, now)
            for uuid in self._consoles.keys() - ours.keys()
        }
        for uuid, since in list(self._absent.items()):
            if now - since >= FORGET_AFTER:
                LOG.info("Server %s has no container any more", uuid)
                self._consoles.pop(uuid).forget()
                del self._absent[uuid]

    def _ours(
        self, infos: Sequence[vzlist.ContainerInfo]
    ) -> dict[str, vzlist.ContainerInfo]:
        """This host's containers by the server's UUID; of two, one that runs."""
        found: dict[str, vzlist.ContainerInfo] = {}
        for info in infos:
            tag = metadata.decode(info.description)
            if tag is None or tag.host != self._options.host:
                continue
            if not _UUID.fullmatch(tag.uuid) or not command.is_ctid(info.ctid):
                continue  # it becomes a file's name
            other = found.get(tag.uuid)
            if other is None or other.state is not vzlist.State.RUNNING:
                found[tag.uuid] = info
        return found

    def _console(self, uuid: str) -> container.Console:
        return container.Console(
            self.loop, self._options.settings, uuid, self._start, self._end
        )

    def _end(self, terminal: processes.Terminal) -> None:
        future = self._ender.submit(terminal.end)
        self._ending.add(future)
        future.add_done_callback(
            lambda done: self.loop.soon(lambda: self._ending.discard(done))
        )

    # -- requests -------------------------------------------------------------------

    def _handle(self, request: dict[str, Any], reply: requests.Reply) -> None:
        """Do what a request asks.

        * ``output``, ``uuid``, ``limit``: the end of a log (``output``, base64)
        * ``port``, ``uuid``: where its console is served (``host``, ``port``)
        * ``starting``, ``ctid``: a container is about to be started
        * ``started``, ``ctid``, ``said``: it was, and this is what vzctl said
        """
        handlers: dict[str, Callable[[dict[str, Any], requests.Reply], None]] = {
            "output": self._output,
            "port": self._port,
            "starting": self._starting,
            "started": self._started,
        }
        handlers[request["do"]](request, reply)

    def _output(self, request: dict[str, Any], reply: requests.Reply) -> None:
        limit = max(0, min(int(request["limit"]), _MOST_OUTPUT))

        def answer(console: container.Console) -> dict[str, Any]:
            return {"output": base64.b64encode(console.output(limit)).decode()}

        self._of(str(request["uuid"]), answer, reply)

    def _port(self, request: dict[str, Any], reply: requests.Reply) -> None:
        address = self._options.settings.address
        if address is None:
            raise exception.ConsoleError("[serial_console]enabled is off")

        def answer(console: container.Console) -> dict[str, Any]:
            return {"host": address, "port": console.port()}

        self._of(str(request["uuid"]), answer, reply)

    def _of(
        self,
        uuid: str,
        answer: Callable[[container.Console], dict[str, Any]],
        reply: requests.Reply,
    ) -> None:
        """Reply for a server's container; a look is taken if it is not known."""

        def finish() -> None:
            console = self._consoles.get(uuid)
            try:
                if console is None or uuid in self._absent:
                    raise exception.ConsoleUnknown(f"server {uuid} has no container")
                reply(answer(console))
            except (exception.OvzError, OSError) as error:
                reply({"error": type(error).__name__, "message": str(error)})

        if uuid in self._consoles and uuid not in self._absent:
            finish()
        else:
            self._look(finish)

    def _starting(self, request: dict[str, Any], reply: requests.Reply) -> None:
        ctid = _ctid(request)
        if len(self._expected) < _MOST_EXPECTED:
            self._expected[ctid] = time.monotonic() + EXPECTED_FOR
        for console in self._with_ctid(ctid):
            console.announced()
        self._look(lambda: reply({}))

    def _started(self, request: dict[str, Any], reply: requests.Reply) -> None:
        ctid, said = _ctid(request), str(request["said"])

        def finish() -> None:
            # Not before: a look that is under way may not have seen it run.
            self._expected.pop(ctid, None)
            for console in self._with_ctid(ctid):
                console.said(said)

        self._look(finish)
        reply({})

    def _with_ctid(self, ctid: str) -> list[container.Console]:
        return [found for found in self._consoles.values() if found.ctid == ctid]


def _ctid(request: dict[str, Any]) -> str:
    ctid = str(request["ctid"])
    if not command.is_ctid(ctid):
        raise ValueError("this is no CTID")
    return ctid


def _own(directory: str) -> int:
    """Make the directory of the logs, and take it for this service alone."""
    try:
        os.makedirs(directory, mode=0o750, exist_ok=True)
        found = os.stat(directory)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{directory} can be written by others")
        fd = os.open(
            os.path.join(directory, ".lock"),
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
            0o600,
        )
    except OSError as error:
        raise exception.ConfigurationError(
            f"[openvz]console_log_dir cannot be used ({error}): set it to a directory"
            " that root alone can write."
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise exception.ConfigurationError(
            f"Another console service works in {directory}: end it first, a host has"
            " one."
        ) from error
    return fd


def _known(directory: str) -> set[str]:
    """The servers of which something was kept."""
    return {n[:36] for n in os.listdir(directory) if _UUID.fullmatch(n[:36])}
