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


"""Nova hears of what containers do by themselves, or at an operator's hand.

Neither family of vzctl can be asked to tell, so a thread looks, by one vzlist for all
containers. What is seen once may be a container that restarts itself, and Nova stops
servers that it finds stopped: so only what two looks in a row have seen is told. Nova
asks again before it acts, and leaves alone a server that it is busy with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import nova.conf
from nova.compute import power_state
from oslo_log import log as logging

from nova.virt import event as virtevent
from ovznovadriver import exception
from ovznovadriver.compute import lifecycle
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainers

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

#: What Nova is told of a power state that a container has come to.
_TRANSITIONS = {
    power_state.RUNNING: virtevent.EVENT_LIFECYCLE_STARTED,
    power_state.SHUTDOWN: virtevent.EVENT_LIFECYCLE_STOPPED,
    power_state.SUSPENDED: virtevent.EVENT_LIFECYCLE_SUSPENDED,
    power_state.PAUSED: virtevent.EVENT_LIFECYCLE_PAUSED,
}
#: Seconds in which the thread ends; a look that is under way may take longer.
_END_LIMIT = 5.0


def watch(
    node: ovz_node.Node, tell: Callable[[virtevent.LifecycleEvent], None]
) -> Watch | None:
    """Begin to look after the servers of a host; None where nobody wants it.

    :param tell: what Nova is told by
    """
    interval = CONF.openvz.event_interval
    # With the workaround Nova does not listen.
    if not interval or not CONF.workarounds.handle_virt_lifecycle_events:
        return None
    made = Watch(node, tell, interval)
    made.start()
    return made


class Watch:
    """Looks after the servers of a host.

    :param tell: what Nova is told by
    :param interval: seconds from one look to the next
    """

    def __init__(
        self,
        node: ovz_node.Node,
        tell: Callable[[virtevent.LifecycleEvent], None],
        interval: float,
    ) -> None:
        self._node = node
        self._tell = tell
        self._interval = interval
        self._told: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._blind = False
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="ovz-events", daemon=True
        )

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(_END_LIMIT)

    def _run(self) -> None:
        while not self._end.wait(self._interval):
            self.look()

    def look(self) -> None:
        """See what the servers do, and tell what is news.

        What fails is logged, once until it works again.
        """
        try:
            # An older answer may be the one that the last look got.
            found = OvzContainers.list(self._node, self._interval / 2)
            states = {c.uuid: lifecycle.POWER_STATES[c.state] for c in found if c.uuid}
        except (exception.OvzError, OSError) as error:
            if not self._blind:
                LOG.error("What servers do by themselves is not noticed: %s", error)
            self._blind = True
            return
        self._blind = False
        # One that is new was made by Nova, which knows its state.
        known = {uuid: self._told.get(uuid, now) for uuid, now in states.items()}
        for uuid, now in states.items():
            if now != known[uuid] and now == self._seen.get(uuid):
                known[uuid] = now
                self._emit(uuid, now)
        self._told, self._seen = known, states

    def _emit(self, uuid: str, state: int) -> None:
        transition = _TRANSITIONS.get(state)
        if transition is not None:
            self._tell(virtevent.LifecycleEvent(uuid, transition))
