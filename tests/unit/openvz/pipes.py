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

"""A FIFO of the tests' own, which archives go into."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class Pipe:
    """A FIFO whose content is gathered.

    :ivar content: what came out of it, when ``end`` was called
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = b""
        os.mkfifo(path, 0o600)
        self.reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self.reader, True)
        self._writer = os.open(path, os.O_WRONLY)
        self._thread = threading.Thread(target=self._drain, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _drain(self) -> None:
        with os.fdopen(self.reader, "rb") as file:
            self.content = file.read()

    def end(self) -> bytes:
        os.close(self._writer)
        self._thread.join()
        return self.content
