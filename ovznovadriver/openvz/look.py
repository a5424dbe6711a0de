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

from ovznovadriver import exception
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
        self._ended = 0.0
        self._failure: exception.OvzError | None = None

    def containers(self, max_age: float = 0) -> tuple[vzlist.ContainerInfo, ...]:
        """The node's containers, as they were at most `max_age` seconds ago.

        Who has to wait for another's look takes what comes of it: its failure, and
        what was seen if it began only then. So a vzlist that hangs costs each of many
        its time limit once.

        :raises MalformedOutput: vzlist cannot say
        :raises CommandFailed: vzlist failed
        """
        came = self._clock()
        with self._looking:
            age = self._clock() - self._taken
            # One reading: forget() waits for nobody.
            seen = self._seen
            if seen is not None and (age < max_age or self._taken > came):
                return seen
            if self._failure is not None and self._ended > came:
                raise self._failure
            changes, now = self._changes, self._clock()
            self._failure = None
            try:
                seen = self._listing()
            except exception.OvzError as error:
                self._failure, self._ended = error, self._clock()
                raise
            if changes == self._changes:
                self._seen, self._taken = seen, now
            return seen

    def forget(self) -> None:
        """A container was changed: what was seen is no longer so."""
        self._changes += 1
        self._seen = None
