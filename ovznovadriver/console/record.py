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

"""What the service knows of a container and must not forget when it restarts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import time

LOG = logging.getLogger(__name__)


def boot_id() -> str:
    """This boot of the host."""
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def clock() -> float:
    """Seconds since the host booted; setting its clock does not change them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclasses.dataclass
class Record:
    """One container.

    :ivar boot_id: the boot of the host in which ``started`` counts
    :ivar started: when the container started, by :func:`clock`; None: not known
    :ivar asleep: it was suspended when it was last seen
    :ivar port: the TCP port that serves its console, once one was asked for
    :ivar said: what `vzctl start` said
    """

    boot_id: str = ""
    started: float | None = None
    asleep: bool = False
    port: int | None = None
    said: str = ""


_TYPES: dict[str, tuple[type, ...]] = {
    "boot_id": (str,),
    "started": (float, int, type(None)),
    "asleep": (bool,),
    "port": (int, type(None)),
    "said": (str,),
}


class Kept:
    """A record in its file, ``NAME.json``; what cannot be read counts as new."""

    def __init__(self, directory: str, name: str) -> None:
        self._path = os.path.join(directory, f"{name}.json")
        self._written = Record()
        try:
            with open(self._path, encoding="utf-8") as file:
                found = json.load(file)
            for key, kind in _TYPES.items():
                if not isinstance(found[key], kind):
                    raise TypeError(f"{key} is {found[key]!r}")
            self._written = Record(**{key: found[key] for key in _TYPES})
        except FileNotFoundError:
            LOG.debug("%s is made anew", self._path)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            # Its log goes on; a port is chosen anew.
            LOG.warning("%s cannot be read and is made anew: %r", self._path, error)
        self.record = dataclasses.replace(self._written)

    def save(self) -> None:
        """Write the record, if it has changed.

        :raises OSError: it cannot be written
        """
        if self.record == self._written:
            return
        fresh = f"{self._path}.new"
        with open(fresh, "w", encoding="utf-8", opener=_private) as file:
            json.dump(dataclasses.asdict(self.record), file)
        os.replace(fresh, self._path)
        self._written = dataclasses.replace(self.record)

    def remove(self) -> None:
        """Remove the file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
