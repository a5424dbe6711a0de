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

"""What the tests of processes share."""

from __future__ import annotations

import os
import pathlib
import time


def lives(pid: int) -> bool:
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def open_descriptors() -> set[str]:
    """This process's open descriptors. Of what earlier tests have left, some may be
    closed at any time, by the garbage collector: what is new is a leak.
    """
    return set(os.listdir("/proc/self/fd"))


class Pids:
    """Where scripts leave their process ids."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory

    def wait_for(self, count: int) -> list[int]:
        for _ in range(6000):
            found = self.known()
            if len(found) >= count:
                return found
            time.sleep(0.01)
        raise AssertionError(f"only {found} of {count} processes have started")

    def known(self) -> list[int]:
        return [int(path.name) for path in self.directory.glob("[0-9]*")]
