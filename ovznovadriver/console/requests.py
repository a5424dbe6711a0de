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

"""The service's side of its socket: requests come in, replies go out."""

from __future__ import annotations

import contextlib
import grp
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from ovznovadriver import exception
from ovznovadriver.console import ask
from ovznovadriver.console import loop as console_loop

LOG = logging.getLogger(__name__)

Reply = Callable[[dict[str, Any]], None]
Handler = Callable[[dict[str, Any], Reply], None]

#: Connections at once; nova-compute has one for each request that it is serving.
MOST = 64
#: Seconds that a connection may take.
TIME_LIMIT = 30.0

_PAUSE = 1.0


class _Peer:
    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._request = b""
        self._reply = b""
        self._open = True
        sock.setblocking(False)
        server.loop.watch(sock.fileno(), read=self._read)
        server.loop.later(TIME_LIMIT, self.close)

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._request += data
        if self._request.endswith(b"\n"):
            self._server.loop.forget(self._sock.fileno())
            self._handle()
        elif not data or len(self._request) > ask.REQUEST_LIMIT:
            self.close()

    def _handle(self) -> None:
        try:
            request = json.loads(self._request)
            if not isinstance(request, dict):
                raise ValueError("it is no object")
            self._server.handle(request, self.reply)
        except (
            *(ValueError, TypeError, KeyError),
            *(OverflowError, RecursionError),
        ) as error:
            self.reply({"error": "ConsoleError", "message": f"bad request: {error!r}"})
        except (exception.OvzError, OSError) as error:
            self.reply({"error": type(error).__name__, "message": str(error)})

    def reply(self, answer: dict[str, Any]) -> None:
        self._reply = json.dumps(answer).encode() + b"\n"
        self._write()

    def _write(self) -> None:
        if not self._open:
            return
        try:
            self._reply = self._reply[self._sock.send(self._reply) :]
        except BlockingIOError:
            pass  # the loop tells when there is room
        except OSError:
            self._reply = b""
        if self._reply:
            self._server.loop.watch(self._sock.fileno(), write=self._write)
        else:
            self.close()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._server.loop.forget(self._sock.fileno())
            self._sock.close()
            self._server.gone(self)


class Server:
    """The socket that nova-compute asks.

    :param path: where it is; its directory is made if it is not there
    :param group: who may ask besides root; "" for nobody
    :param handle: called with each request and with what takes the reply, now or
        later
    :raises ConfigurationError: there is no such group
    :raises OSError: the socket cannot be made
    """

    def __init__(
        self, loop: console_loop.Loop, path: str, group: str, handle: Handler
    ) -> None:
        self.loop = loop
        self.handle = handle
        self._path = path
        self._peers: list[_Peer] = []
        gid = _gid(group)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o177)
        try:
            self._socket.bind(path)
        finally:
            os.umask(umask)
        if gid is not None:
            os.chown(path, -1, gid)
            # The group is who may ask.
            os.chmod(path, 0o660)  # nosec B103
        self._socket.listen(MOST)
        self._socket.setblocking(False)
        self._accepting()

    def _accepting(self) -> None:
        if self._socket.fileno() >= 0:
            self.loop.watch(self._socket.fileno(), read=self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            LOG.error("A request cannot be taken: %s", error)
            self._rest()
            return
        self._peers.append(_Peer(self, sock))
        if len(self._peers) >= MOST:
            self.loop.forget(self._socket.fileno())

    def _rest(self) -> None:
        self.loop.forget(self._socket.fileno())
        self.loop.later(_PAUSE, self._accepting)

    def gone(self, peer: _Peer) -> None:
        """A connection is closed."""
        self._peers.remove(peer)
        self._accepting()

    def close(self) -> None:
        """Take no more requests."""
        self.loop.forget(self._socket.fileno())
        self._socket.close()
        for peer in list(self._peers):
            peer.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _gid(group: str) -> int | None:
    if not group:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise exception.ConfigurationError(
            f"[openvz]console_group is {group}, and there is no such group: set it to"
            " the group of the user that nova-compute runs as."
        ) from error
