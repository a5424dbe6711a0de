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

"""One look at a node's containers, shared by those who may share it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ovznovadriver.openvz import vzlist


class Look:
    """What vzlist said last, for those who can do with a look of some age.

    Reporting can: Nova's power-state sync asks for each of a node's servers, and
    one vzlist answers them all. A decision cannot.

    :param listing: lists the containers of the node
    :param clock: seconds, monotonic
    """

    def __init__(
        self,
        listing: Callable[[], tuple[vzlist.ContainerInfo, ...]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listing = listing
        self._clock = clock
        self._looking = threading.Lock()
        self._changes = 0
        self._taken = 0.0
        self._seen: tuple[vzlist.ContainerInfo, ...] | None = None

    def containers(self, max_age: float = 0) -> tuple[vzlist.ContainerInfo, ...]:
        """The node's containers, as they were at most `max_age` seconds ago.

        :raises MalformedOutput: vzlist cannot say
        :raises CommandFailed: vzlist failed
        """
        with self._looking:
            age = self._clock() - self._taken
            if self._seen is not None and age < max_age:
                return self._seen
            changes, now = self._changes, self._clock()
            seen = self._listing()
            if changes == self._changes:
                self._seen, self._taken = seen, now
            return seen

    def forget(self) -> None:
        """A container was changed: what was seen is no longer so."""
        self._changes += 1
        self._seen = None
