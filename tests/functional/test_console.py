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

"""Console log and serial console: REST API, token, nova-serialproxy, container.

The proxy is Nova's own: NovaWebSocketProxy with NovaProxyRequestHandler, which
checks the token against Nova's database and the port against the compute service.
Only its server, which would make a process of each connection, is left out.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fixtures
import nova.conf
import pytest
from nova.console import websocketproxy
from nova.tests.functional.api import client as api_client
from websockify import websocket

from nova import exception as nova_exception
from ovznovadriver.console import ask
from tests.functional import base
from tests.unit.console.running import PATIENCE, Running

CONF = nova.conf.CONF


class _Proxy(websocketproxy.NovaProxyRequestHandler):
    """Nova's handler."""

    def log_message(self, *_: Any) -> None:
        """Not to standard error."""


class Proxy:
    """nova-serialproxy on a port of this machine, a thread for each connection."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._server = websocketproxy.NovaWebSocketProxy(
            listen_host="127.0.0.1",
            listen_port=self.port,
            file_only=True,
            RequestHandlerClass=_Proxy,
        )
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                sock, address = self._listener.accept()
                self._threads.append(
                    threading.Thread(target=self._serve, args=(sock, address))
                )
                self._threads[-1].start()

    def _serve(self, sock: socket.socket, address: Any) -> None:
        with sock:
            try:
                _Proxy(self._server.do_handshake(sock, address), address, self._server)
            except Exception as error:
                # It closes the connection, as with Nova's own server.
                self.errors.append(error)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)


class _WebSocket(websocket.WebSocket):
    """websockify's client leaves out the query, where the token is."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._query = urllib.parse.urlsplit(url).query

    def send_request(self, kind: str, path: str) -> None:
        super().send_request(kind, f"{path}?{self._query}")


class Terminal:
    """What a browser is: a websocket to the proxy."""

    def __init__(self, url: str) -> None:
        self._socket = _WebSocket(url)
        self._socket.connect(url, protocols=["binary"])
        self.seen = b""

    def type(self, text: bytes) -> None:
        self._socket.sendmsg(text)

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen[-300:]
            if self._socket.pending() or select.select([self._socket], [], [], 1)[0]:
                with contextlib.suppress(websocket.WebSocketWantReadError):
                    data = self._socket.recvmsg()
                    assert data is not None, "closed"
                    self.seen += data

    def close(self) -> None:
        if self._socket.socket is not None:  # the other side was first
            self._socket.socket.close()


class ConsoleTests:
    """What holds for both families of vzctl."""

    def setUp(self) -> None:
        super().setUp()
        self.flags(enabled=True, group="serial_console")
        self.useFixture(fixtures.MockPatchObject(ask.ask, "__defaults__", (PATIENCE,)))

    def make_node(self, host: str) -> Any:
        """A node has a console service before it has a compute service."""
        node = super().make_node(host)
        # The path of a socket is short.
        place = Path(
            self.useFixture(fixtures.TempDir(rootdir=tempfile.gettempdir())).path
        )
        self.console = Running(node, place, host=host)
        self.addCleanup(self.console.stop)
        self.flags(console_socket=self.console.socket, group="openvz")
        return node

    def output(self, server: dict[str, Any], **limits: int) -> str:
        action = {"os-getConsoleOutput": limits}
        answer = self.api.post_server_action(server["id"], action)
        return str(answer["output"])

    def url(self, server: dict[str, Any]) -> str:
        """Where Nova sends the owner of a server for its console."""
        body = {"remote_console": {"protocol": "serial", "type": "serial"}}
        answer = self.api.api_post(f"/servers/{server['id']}/remote-consoles", body)
        return str(answer.body["remote_console"]["url"])

    def proxy(self) -> Proxy:
        """nova-serialproxy, which is configured with its cell's database."""
        self.useFixture(
            fixtures.MockPatchObject(
                websocketproxy,
                "context",
                SimpleNamespace(get_admin_context=self.cell_context),
            )
        )
        proxy = Proxy()
        self.addCleanup(proxy.close)
        self.flags(base_url=f"ws://127.0.0.1:{proxy.port}/", group="serial_console")
        return proxy

    def terminal(self, url: str) -> Terminal:
        terminal = Terminal(url)
        self.addCleanup(terminal.close)
        # The proxy looks at the token after it has taken the connection.
        terminal.type(b"\r")
        terminal.wait_for(b"# ")
        return terminal

    def test_a_command_typed_by_websocket_is_answered_and_logged(self) -> None:
        self.proxy()
        server = self.boot("web-1", networks="none")
        one, two = (self.terminal(self.url(server)) for _ in range(2))
        one.type(b"echo be$((1+1))gin\r")
        for terminal in (one, two):
            terminal.wait_for(b"be2gin")

        one.type(b"echo a$((40+2))b\r")
        for terminal in (one, two):
            terminal.wait_for(b"a42b\r\n# ")
        two.type(b"echo c$((50+2))d\r")
        for terminal in (one, two):
            terminal.wait_for(b"c52d\r\n# ")

        seen = [t.seen.partition(b"be2gin")[2] for t in (one, two)]
        assert seen[0] == seen[1]
        log = self.output(server)
        # Nova's API leaves the returns out.
        assert "echo a$((40+2))b\na42b\n" in log
        assert "echo c$((50+2))d\nc52d\n" in log
        assert log.startswith("INIT: ")
        assert self.output(server, length=1) == "# "


def _is_closed(terminal: Terminal) -> bool:
    try:
        return terminal._socket.recvmsg() is None
    except websocket.WebSocketWantReadError:
        return False
    except (ConnectionError, OSError):
        return True


def _status(call: Callable[..., Any], server: dict[str, Any]) -> int:
    try:
        call(server)
    except api_client.OpenStackApiException as error:
        return int(error.response.status_code)
    return 200


class TestConsoleWithVzctl4(ConsoleTests, base.OpenVZFunctionalTest):
    """The family of OpenVZ 6 and stock kernels; and what does not depend on it."""

    FAMILY = "4"

    def test_a_restart_of_nova_compute_changes_nothing(self) -> None:
        self.proxy()
        server = self.boot("web-1", networks="none")
        url = self.url(server)
        before = self.terminal(url)
        before.type(b"echo a$((40+2))b\r")
        before.wait_for(b"a42b\r\n# ")
        readers = len(self.node.commands("vzctl", "console"))

        self.computes.pop("compute1").stop()
        before.type(b"echo still$((1+1))\r")
        before.wait_for(b"still2\r\n# ")
        self.start_compute("compute1")

        before.type(b"echo c$((50+2))d\r")
        before.wait_for(b"c52d\r\n# ")
        assert re.search("a42b.*still2.*c52d", self.output(server), re.DOTALL)
        # The token is still good: the port is the same.
        again = self.terminal(url)
        again.type(b"echo e$((60+2))f\r")
        again.wait_for(b"e62f")
        assert len(self.node.commands("vzctl", "console")) == readers

    def test_a_wrong_token_gets_no_console(self) -> None:
        proxy = self.proxy()
        server = self.boot("web-1", networks="none")
        url = self.url(server)
        terminal = Terminal(url[:-4] + "0000")
        self.addCleanup(terminal.close)
        terminal.type(b"echo a$((40+2))b\r")
        self.wait_until("the end", lambda: _is_closed(terminal))
        errors = self.wait_until("the reason", lambda: proxy.errors)
        assert isinstance(errors[0], nova_exception.InvalidToken)
        assert "echo" not in self.output(server)

    @pytest.mark.slow
    def test_a_reboot_begins_a_new_log(self) -> None:
        server = self.boot("web-1", networks="none")
        container = self.container(server)
        self.node.console_write(container, b"first words")
        self.wait_until("words", lambda: "first words" in self.output(server))

        self.api.post_server_action(server["id"], {"reboot": {"type": "HARD"}})
        self.settle(server)

        self.wait_until("words", lambda: "first words" not in self.output(server))
        self.wait_until("words", lambda: "INIT" in self.output(server))

    @pytest.mark.slow
    def test_without_the_service_the_api_says_so_and_servers_boot(self) -> None:
        self.console.stop()
        self.addCleanup(self.console.start)
        server = self.boot("web-1", networks="none")
        for code, call in ((404, self.output), (400, self.url)):
            assert _status(call, server) == code


class TestConsoleWithVzctl9(ConsoleTests, base.OpenVZFunctionalTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"
