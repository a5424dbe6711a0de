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

"""Asking the console service: one request on its socket, one reply.

Both are one line of JSON. A request names what is to be done (``do``) and, with
further members, to what; see :class:`ovznovadriver.console.service.Service`. A reply
with ``error`` names an exception of ours, and has its ``message``.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from ovznovadriver import exception

#: Bytes that a request may have.
REQUEST_LIMIT = 256 * 1024
#: Bytes that a reply may have.
REPLY_LIMIT = 4 * 2**20
#: Characters of what a start said that are told, and kept.
SAID_LIMIT = 16000
#: Seconds that the service may take to answer.
TIME_LIMIT = 5.0

_ERRORS = {
    kind.__name__: kind for kind in (exception.ConsoleUnknown, exception.NoFreePort)
}


def ask(path: str, request: dict[str, Any], limit: float = TIME_LIMIT) -> Any:
    """Send a request to the service, and wait for its reply.

    :param path: the service's socket
    :param limit: seconds
    :raises ConsoleUnknown: it knows no such container
    :raises NoFreePort: it has no port to serve it on
    :raises ConsoleError: it does not run, or does not answer in time
    """
    try:
        reply = json.loads(_exchange(path, json.dumps(request).encode(), limit))
    except (OSError, ValueError) as error:
        raise exception.ConsoleError(
            f"the console service does not answer at {path} ({error}): is ovz-console"
            " running?"
        ) from error
    if "error" in reply:
        kind = _ERRORS.get(reply["error"], exception.ConsoleError)
        raise kind(str(reply.get("message")))
    return reply


def _exchange(path: str, request: bytes, limit: float) -> bytes:
    deadline = time.monotonic() + limit

    def left() -> float:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError(f"no answer within {limit:g} s")
        return seconds

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(left())
        sock.connect(path)
        sock.sendall(request + b"\n")
        reply = b""
        while not reply.endswith(b"\n"):
            sock.settimeout(left())
            data = sock.recv(65536)
            if not data or len(reply) > REPLY_LIMIT:
                raise ValueError("the reply is cut")
            reply += data
    return reply
