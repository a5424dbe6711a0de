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

"""Those who see a container's console on a TCP port, and type into it.

What the container writes goes to all of them; what each types goes in. Raw bytes
both ways, as nova-serialproxy expects of any console.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Iterable

from ovznovadriver import exception
from ovznovadriver.console import loop as console_loop

LOG = logging.getLogger(__name__)

#: Bytes that a client may be behind; then it is sent away, so that one who does not
#: read takes no memory and keeps nobody waiting.
BACKLOG = 2**20
#: Clients of one container at once.
MOST = 16

_READ_SIZE = 16384
_PAUSE = 1.0


class _Client:
    def __init__(self, clients: Clients, sock: socket.socket) -> None:
        self._clients = clients
        self._sock = sock
        self._behind = bytearray()
        self.open = True
        sock.setblocking(False)
        # A proxy whose machine is gone says nothing of it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.update()

    def update(self) -> None:
        if self.open:
            self._clients.loop.watch(
                self._sock.fileno(),
                read=None if self._clients.paused else self._read,
                write=self._flush if self._behind else None,
            )

    def show(self, data: bytes) -> None:
        if len(self._behind) + len(data) > BACKLOG:
            LOG.info("A client of a console does not read and is sent away")
            self.close()
            return
        self._behind += data
        self._flush()

    def _flush(self) -> None:
        try:
            sent = self._sock.send(self._behind)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._behind[:sent]
        self.update()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._clients.typed(data)
        else:
            self.close()

    def close(self) -> None:
        if self.open:
            self.open = False
            self._clients.loop.forget(self._sock.fileno())
            self._sock.close()
            self._clients.gone(self)


class Clients:
    """The clients of one container.

    :param typed: called with what one of them typed
    """

    def __init__(self, loop: console_loop.Loop, typed: Callable[[bytes], None]) -> None:
        self.loop = loop
        self.typed = typed
        self.paused = False
        self._listener: socket.socket | None = None
        self._clients: list[_Client] = []

    def listen(self, address: str, ports: Iterable[int]) -> int:
        """Serve on the first of the ports that is free; where it serves already,
        nothing changes.

        :returns: the port
        :raises NoFreePort: none is free
        :raises OSError: the host has no such address
        """
        if self._listener is None:
            self._listener = _listener(address, ports)
            self._accepting()
        port: int = self._listener.getsockname()[1]
        return port

    def _accepting(self) -> None:
        if self._listener is not None:
            self.loop.watch(self._listener.fileno(), read=self._accept)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # No descriptor is left, say: it would be ready again at once.
            LOG.warning("A client of a console cannot be served: %s", error)
            self.loop.forget(self._listener.fileno())
            self.loop.later(_PAUSE, self._accepting)
            return
        if len(self._clients) >= MOST:
            LOG.warning("A console has %d clients; one more is refused", MOST)
            sock.close()
            return
        self._clients.append(_Client(self, sock))

    def show(self, data: bytes) -> None:
        """Send to all what the container wrote."""
        for client in list(self._clients):
            client.show(data)

    def pause(self, paused: bool) -> None:
        """Whether what they type is to wait."""
        if paused != self.paused:
            self.paused = paused
            for client in list(self._clients):
                client.update()

    def gone(self, client: _Client) -> None:
        """A client has closed its connection."""
        self._clients.remove(client)

    def close(self) -> None:
        """Send all away and give the port back."""
        if self._listener is not None:
            self.loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for client in list(self._clients):
            client.close()


def _listener(address: str, ports: Iterable[int]) -> socket.socket:
    family, *_ = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0]
    for port in ports:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(MOST)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            sock.setblocking(False)
            return sock
    raise exception.NoFreePort(f"no TCP port of {address} is free for a console")
