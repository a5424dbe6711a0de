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

"""Processes that can be killed: forked from one that has Nova imported already."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import orm


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    :ivar value: what its work gave; None when it did not come to its end
    :ivar killed: by the fault that was ordered
    :ivar error: why it failed, in one sentence
    """

    value: Any = None
    killed: bool = False
    error: str | None = None
    seconds: float = 0.0


def call(work: Callable[[], Any], log: Path, limit: float) -> Ended:
    """Do work in a process of its own.

    :param work: what it gives goes through JSON
    :param log: gets all that is said
    :param limit: seconds after which it is ended
    """
    if threading.active_count() != 1:
        raise RuntimeError("a process with threads cannot be forked")
    started = time.monotonic()
    answer = log.with_suffix(".answer")
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        _child(work, log, answer)
    status = _wait(child, limit)
    seconds = time.monotonic() - started
    if answer.exists():
        return Ended(**json.loads(answer.read_text()), seconds=seconds)
    if status is None:
        return Ended(error=f"it did not end within {limit:g} s", seconds=seconds)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Ended(killed=True, seconds=seconds)
    return Ended(error=f"it ended with wait status {status}", seconds=seconds)


def learn(modules: Iterable[str]) -> None:
    """Do once what each of the next processes would have to do again.

    :param modules: what one of them has imported
    """
    for name in modules:
        # Some are not what they are called, and some want to be the first.
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    orm.configure_mappers()


def _wait(child: int, limit: float) -> int | None:
    """The wait status of a process; None when it had to be ended."""
    handle = os.pidfd_open(child)
    ended = False
    try:
        ended = bool(select.select([handle], [], [], limit)[0])
    finally:
        # Also when this process is to end.
        if not ended:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
        status = os.waitpid(child, 0)[1]
    return status if ended else None


def _child(work: Callable[[], Any], log: Path, answer: Path) -> None:
    """Do the work, write the answer, and end at once: nothing is taken down."""
    # A terminal's Ctrl-C is for the harness, which ends its children.
    os.setsid()
    with open(log, "wb", buffering=0) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        found: dict[str, Any] = {"value": work()}
    except BaseException as error:
        traceback.print_exc()
        said = str(error).strip().splitlines() or [""]
        found = {"error": f"{type(error).__name__}: {said[-1]}"}
    fresh = answer.with_suffix(".new")
    fresh.write_text(json.dumps(found))
    fresh.rename(answer)
    os._exit(0)
