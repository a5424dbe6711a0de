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

"""What the kernel says of processes."""

from __future__ import annotations

#: The states of processes that have ended.
ENDED = frozenset({b"Z", b"X"})

# The fields of proc(5)'s stat after the name, of which the state is the first.
_STATE, _START = 0, 19


def fields(pid: int) -> list[bytes] | None:
    """What /proc/PID/stat says after the process's name; None for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in brackets, may hold anything.
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None when it is gone.

    One that has ended and that its parent has not asked about (a zombie) is gone: it
    does nothing any more, and where nobody asks, as in a container of the service's
    that has no init, it stays.
    """
    found = fields(pid)
    if found is None or found[_STATE] in ENDED:
        return None
    return int(found[_START])


def is_running(pid: int) -> bool:
    """Whether a process runs, of whatever user."""
    return start_time(pid) is not None
