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

"""Steps that are undone, in reverse, when a later one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from oslo_log import log as logging

from ovznovadriver import exception

LOG = logging.getLogger(__name__)


class Undo:
    """A block whose steps are undone when it ends with an exception.

    Every undo step is tried, even when one of them fails. What failed is logged;
    the exception that ended the block goes on.

    :ivar complete: whether every undo step that was taken succeeded
    """

    def __init__(self, what: str) -> None:
        self.complete = True
        self._what = what
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def __enter__(self) -> Undo:
        return self

    def add(self, name: str, step: Callable[..., object], *args: Any) -> None:
        """Do this, before what was added earlier, if the block fails from here on."""
        self._steps.append((name, lambda: step(*args)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        for name, failure in attempt(list(reversed(self._steps))):
            self.complete = False
            LOG.error("Undoing %s: %s failed: %s", self._what, name, failure)


def attempt(
    steps: Sequence[tuple[str, Callable[[], object]]],
) -> list[tuple[str, Exception]]:
    """Take every step, also when earlier ones fail.

    :returns: the name and the exception of each step that failed
    """
    failures: list[tuple[str, Exception]] = []
    for name, step in steps:
        try:
            step()
        except Exception as error:
            failures.append((name, error))
    return failures


def attempt_all(what: str, steps: list[tuple[str, Callable[[], None]]]) -> None:
    """Take every step, then say which failed.

    :raises CleanupFailed: some did
    """
    failures = attempt(steps)
    if failures:
        sentences = [f"{name}: {error}" for name, error in failures]
        raise exception.CleanupFailed(what, sentences) from failures[0][1]
