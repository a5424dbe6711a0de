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

"""A server that answers requests as a test wants it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ovznovadriver import exception
from ovznovadriver.console import ask, requests
from tests.unit.console.running import PATIENCE

#: Starts such a server, for a group; its socket.
Serve = Callable[..., str]
#: Asks such a server, and waits as long as a test may.
patiently = functools.partial(ask.ask, limit=PATIENCE)


def handle(request: dict[str, Any], reply: requests.Reply) -> None:
    """Answer a request, or fail as it says."""
    match request["do"]:
        case "echo":
            reply({"echo": request["text"]})
        case "fail":
            raise getattr(exception, request["error"])("why")
        case "break":
            raise OSError(28, "No space left on device")
        case "never":
            pass
        case _:
            raise KeyError(request["do"])
