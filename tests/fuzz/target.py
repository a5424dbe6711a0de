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

"""What a fuzz target is, and what targets take their input by."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ovznovadriver.openvz import command

Value = TypeVar("Value")

#: Puts a fault in; see :class:`Target`.
Fault = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Target:
    """A border where something comes in.

    :ivar run: takes an input; whatever it raises is a fault of the driver, and so is
        that it takes seconds
    :ivar modules: those of ovznovadriver that it is about
    :ivar faults: for each parser a way to break it, by name, which the target must
        find; each ends with the process
    """

    run: Callable[[bytes], None]
    modules: tuple[str, ...]
    faults: Mapping[str, Fault]


def broken(owner: Any, name: str, change: Callable[[Any], Any]) -> Fault:
    """A fault: an attribute of a module or class is another one.

    :param change: gets the attribute, and returns what takes its place
    """
    return lambda: setattr(owner, name, change(getattr(owner, name)))


class Source:
    """An input, taken in pieces; there is always another piece, an empty one."""

    def __init__(self, data: bytes) -> None:
        self._parts = data.split(b"\0")[::-1]

    def data(self) -> bytes:
        return self._parts.pop() if self._parts else b""

    def text(self) -> str:
        return as_text(self.data())

    def number(self, most: int) -> int:
        """A number from 0."""
        return int.from_bytes(self.data()[:8], "big") % (most + 1)

    def choice(self, values: Sequence[Value]) -> Value:
        return values[self.number(len(values) - 1)]

    def rest(self) -> list[str]:
        return [self.text() for _ in range(len(self._parts))]


def as_text(data: bytes) -> str:
    """What a command has said, as utils.Executor gives it."""
    return data.decode(errors="surrogateescape")


def as_json(data: bytes) -> Any:
    """A value; None for what is no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


class Runner:
    """Has every command answer the same."""

    def __init__(self, returncode: int, stdout: str, stderr: str) -> None:
        self._done = command.Completed(returncode, stdout, stderr)

    def run(self, *_cmd: str, **_options: Any) -> command.Completed:
        return self._done


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory that is gone afterwards; in memory, where that can be."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ovz-fuzz-", dir=base) as made:
        yield Path(made)
