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

"""A console service that runs in a thread, over a simulated node."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovznovadriver.cmd import console as command
from ovznovadriver.console import ask
from tests import support
from tests.simulator.node import SimNode

PATIENCE = 60.0


def eventually(look: Callable[[], Any], what: str = "it") -> Any:
    """Wait until something is true; what it is then."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)
    return found


def own_ports(first: int) -> range:
    """Ports that no other process of a test run chooses: one that its service has
    given back is still free when it wants it again.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return range(first, first + 1000)[int(worker) % 40 * 25 :][:25]


class Running:
    """One console service.

    :param host: the Nova host that it is for
    :param options: further lines of nova.conf's ``[openvz]``
    """

    def __init__(
        self,
        sim: SimNode,
        directory: Path,
        host: str = support.HOST,
        **options: object,
    ) -> None:
        self.sim = sim
        # The path of a socket has but 107 characters.
        self.socket = str(directory / "s")
        self.logs = directory / "logs"
        self.config = directory / "nova.conf"
        usual: dict[str, object] = {
            "console_socket": self.socket,
            "console_log_dir": self.logs,
            "console_group": "",
            "console_interval": 0.1,
            "console_log_max_kb": 64,
            "program_dirs": sim.bin_dir,
        }
        lines = [f"{key} = {value}" for key, value in {**usual, **options}.items()]
        ports = own_ports(21000)
        self.config.write_text(
            "\n".join(
                (
                    f"[DEFAULT]\nhost = {host}",
                    "[serial_console]\nenabled = true",
                    f"port_range = {ports.start}:{ports.stop}",
                    "[openvz]",
                    *lines,
                )
            )
        )
        self.start()

    def start(self) -> None:
        args = ["--config-file", str(self.config)]
        self.service = command.build(command.read_options(args))
        self._thread = threading.Thread(target=self.service.run)
        self._thread.start()

    def stop(self) -> None:
        self.service.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def ask(self, do: str, **request: object) -> dict[str, Any]:
        answer: dict[str, Any] = ask.ask(self.socket, {"do": do, **request}, PATIENCE)
        return answer

    def log(self, uuid: str = support.UUID, part: str = ".log") -> bytes:
        """What a log holds now."""
        path = self.logs / f"{uuid}{part}"
        try:
            return path.read_bytes()
        except FileNotFoundError:  # a new one may just be beginning
            return b""

    def wait_for(self, text: bytes, uuid: str = support.UUID) -> None:
        """Wait until the log holds something."""
        eventually(lambda: text in self.log(uuid), f"{text!r} in the log")

    def client(self, uuid: str = support.UUID) -> Client:
        """Somebody who is connected to a container's console."""
        place = self.ask("port", uuid=uuid)
        return Client(place["host"], place["port"])


class Client:
    """Who sees a console, and types."""

    def __init__(self, host: str, port: int) -> None:
        self.sock = socket.create_connection((host, port), PATIENCE)
        self.seen = b""

    def type(self, text: bytes) -> None:
        self.sock.sendall(text)

    def wait_for(self, text: bytes) -> None:
        """Read until a text has come."""
        while text not in self.seen:
            data = self.sock.recv(65536)
            assert data, f"closed before {text!r}; {self.seen[-200:]!r}"
            self.seen += data

    def is_closed(self) -> bool:
        """Read to the end of what comes; whether the other side has closed."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            pass
        return True
