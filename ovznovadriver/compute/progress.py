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

"""How far a long work at a server is, as Nova shows it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from oslo_log import log as logging

from nova import exception as nova_exception

LOG = logging.getLogger(__name__)

#: Percent by which a progress must have grown to be worth a write to the database.
_STEP = 5
#: Seconds for which the end of a watch waits for a look that does not come back.
_PATIENCE = 5.0


def teller(instance: Any, first: int, last: int) -> Callable[[float], None]:
    """What shows in Nova how far a part of a work is.

    It is called with 0.0 to 1.0, and survives that the server is deleted.

    :param first: percent of the whole at the part's beginning
    :param last: percent of the whole at its end
    """

    def tell(part: float) -> None:
        now = first + int((last - first) * part)
        if now < (instance.progress or 0) + _STEP and part < 1:
            return
        instance.progress = now
        _save(instance)

    return tell


def _save(instance: Any) -> None:
    try:
        instance.save()
    except nova_exception.InstanceNotFound:
        LOG.debug("The server is being deleted", instance=instance)


def reset(instance: Any) -> None:
    """Let Nova show no progress: another work's is left, or this one has failed."""
    if instance.progress:
        instance.progress = 0
        _save(instance)


class Watch:
    """Looks how far a work is, again and again, while a block does it.

    Neither a look that fails, nor one that hangs, is in the way of the work; the first
    one that fails is logged. After the block nothing is told any more.

    :param instance: the server, for the log
    :param interval: seconds between two looks
    :param look: how far it is; None for not known
    :param tell: gets that, when it is another than before
    """

    def __init__(
        self,
        instance: Any,
        interval: float,
        look: Callable[[], int | None],
        tell: Callable[[int], object],
    ) -> None:
        self._instance = instance
        self._interval = interval
        self._look = look
        self._tell = tell
        self._seen: int | None = None
        self._failed = False
        self._ended = threading.Event()
        self._telling = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, name=f"ovz-progress-{instance.uuid}", daemon=True
        )

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        # From here on what is told belongs to those that come after.
        with self._telling:
            pass
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self._look_once()
            except Exception as error:
                level = logging.DEBUG if self._failed else logging.WARNING
                LOG.log(
                    level,
                    "How far it is cannot be shown now: %s",
                    error,
                    instance=self._instance,
                )
                self._failed = True

    def _look_once(self) -> None:
        seen = self._look()
        with self._telling:
            if seen not in (None, self._seen) and not self._ended.is_set():
                self._tell(seen)
                self._seen = seen
