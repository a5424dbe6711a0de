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

"""What waits for all the files and sockets of the service, in one thread."""

from __future__ import annotations

import collections
import heapq
import itertools
import logging
import selectors
import socket
import time
from collections.abc import Callable

LOG = logging.getLogger(__name__)

Call = Callable[[], None]


class Loop:
    """Calls back when a descriptor is ready, a time has come, or a thread asks.

    A callback that raises is logged; the others go on. All methods but
    :meth:`soon` and :meth:`stop` are for the thread of the loop.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Call]] = []
        self._numbers = itertools.count()
        self._calls: collections.deque[Call] = collections.deque()
        self._stopped = False
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self.watch(self._woken.fileno(), read=self._drain)

    def watch(
        self, fd: int, *, read: Call | None = None, write: Call | None = None
    ) -> None:
        """Call when a descriptor is ready; what was asked for it before is over."""
        events = 0
        events |= selectors.EVENT_READ if read else 0
        events |= selectors.EVENT_WRITE if write else 0
        if not events:
            self.forget(fd)
        elif fd in self._selector.get_map():
            self._selector.modify(fd, events, (read, write))
        else:
            self._selector.register(fd, events, (read, write))

    def forget(self, fd: int) -> None:
        """Watch a descriptor no longer. It must still be open."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def later(self, seconds: float, call: Call) -> None:
        """Call once, when so much time has passed."""
        due = time.monotonic() + seconds
        heapq.heappush(self._timers, (due, next(self._numbers), call))

    def soon(self, call: Call) -> None:
        """Call in the thread of the loop; any thread may ask."""
        self._calls.append(call)
        try:
            self._wake.send(b"!")
        except OSError:
            return  # it wakes up anyway, or is closed

    def stop(self) -> None:
        """End :meth:`run`; any thread may ask, or a signal."""
        self._stopped = True
        self.soon(lambda: None)

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        while not self._stopped:
            self.turn()

    def turn(self, longest: float | None = None) -> None:
        """Wait for something to happen, and serve it.

        :param longest: seconds; None waits without an end
        """
        if self._timers:
            left = max(0.0, self._timers[0][0] - time.monotonic())
            longest = left if longest is None else min(longest, left)
        for key, events in self._selector.select(0 if self._calls else longest):
            for event, call in zip(
                (selectors.EVENT_READ, selectors.EVENT_WRITE), key.data, strict=True
            ):
                # An earlier callback of this turn may have closed it.
                if events & event and self._selector.get_map().get(key.fd) is key:
                    self._call(call)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._call(heapq.heappop(self._timers)[2])
        for _ in range(len(self._calls)):
            self._call(self._calls.popleft())

    def close(self) -> None:
        """Give back what the loop itself holds."""
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _drain(self) -> None:
        self._woken.recv(4096)

    @staticmethod
    def _call(call: Call) -> None:
        try:
            call()
        except Exception:
            # One container's trouble is not the others'.
            LOG.exception("A callback failed")
