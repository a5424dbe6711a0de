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
"""The log of every call: one line when it begins, one when it ends."""

from __future__ import annotations

import json
import os
import time

from ovzsim.host import Host


class CallLog:
    """Two lines of sim/log.jsonl: a call that was killed has only the first."""

    def __init__(self, host: Host, argv: list[str]) -> None:
        self._path = host.sim("log.jsonl")
        self._began = time.time()
        self._clock = time.monotonic()
        self._id = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._append(
            {
                "id": self._id,
                "argv": argv,
                "pid": os.getpid(),
                "ppid": os.getppid(),
                "start": self._began,
            }
        )

    def end(self, rc: int) -> None:
        """The call ended with that exit code."""
        seconds = time.monotonic() - self._clock
        self._append({"id": self._id, "rc": rc, "seconds": seconds})

    def _append(self, record: dict[str, object]) -> None:
        # One write to a file opened for appending: lines of processes never mix.
        line = (json.dumps(record) + "\n").encode()
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)
