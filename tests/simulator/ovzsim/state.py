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
"""What a kernel would know: which containers are mounted, running, paused."""

from __future__ import annotations

import json
import os
import time

from ovzsim import base, links
from ovzsim.host import Host


class State:
    """The live state of one container; save() writes it back."""

    def __init__(self, host: Host, ctid: str) -> None:
        self._host = host
        self._ctid = ctid
        self._path = host.sim("state", f"{ctid}.json")
        try:
            held: dict[str, object] = json.loads(base.read_text(self._path))
        except FileNotFoundError:
            held = {}  # nothing is known of it: it is down and unmounted
        self.mounted = bool(held.get("mounted"))
        self.running = bool(held.get("running"))
        self.paused = bool(held.get("paused"))
        self.since = float(str(held.get("since", 0)))
        self.restored = str(held.get("restored", ""))
        nics = held.get("nics", [])
        self.nics: list[str] = list(nics) if isinstance(nics, list) else []

    def save(self) -> None:
        """Writes the state; a container that is down and unmounted has none."""
        if not self.mounted and not self.running:
            if os.path.exists(self._path):
                os.unlink(self._path)
            return
        base.write_text(
            self._path,
            json.dumps(
                {
                    "mounted": self.mounted,
                    "running": self.running,
                    "paused": self.paused,
                    "since": self.since,
                    "restored": self.restored,
                    "nics": self.nics,
                }
            ),
        )

    def started(self, restored: str = "") -> None:
        """The container runs from now on, and has no NICs yet."""
        self.running, self.paused, self.since = True, False, time.time()
        self.nics, self.restored = [], restored
        self.save()

    def stopped(self) -> None:
        """The container's processes are gone; it stays mounted, its NICs go."""
        if self.running:
            links.of(self._host).close(self._ctid, self.nics)
        self.running = self.paused = False
        self.nics = []
        self.restored = ""
        self.save()

    @property
    def uptime(self) -> float:
        """Seconds since the start, 0 for a container that does not run."""
        return max(0.0, time.time() - self.since) if self.running else 0.0
