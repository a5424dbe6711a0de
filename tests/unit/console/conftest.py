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

"""Consoles over simulated nodes."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovznovadriver.console import loop as console_loop
from ovznovadriver.console import requests
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.simulator.node import SimNode
from tests.unit.console import answers
from tests.unit.console.running import PATIENCE, Running


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture
def loop() -> Iterator[console_loop.Loop]:
    made = console_loop.Loop()
    yield made
    made.close()


@pytest.fixture
def service(sim: SimNode, short_path: Path) -> Iterator[Running]:
    """A service that runs, once for each family."""
    running = Running(sim, short_path)
    yield running
    running.stop()


@pytest.fixture
def container(node: ovz_node.Node, image: str) -> OvzContainer:
    """A stopped container of an instance."""
    return support.create(node, image)


@pytest.fixture
def serve(short_path: Path) -> Iterator[answers.Serve]:
    """Starts a server in a thread; its socket."""
    loop = console_loop.Loop()
    threads: list[threading.Thread] = []
    servers: list[requests.Server] = []

    def start(group: str = "") -> str:
        path = str(short_path / "run" / "s")
        servers.append(requests.Server(loop, path, group, answers.handle))
        threads.append(threading.Thread(target=loop.run))
        threads[-1].start()
        return path

    yield start
    loop.stop()
    for thread in threads:
        thread.join(PATIENCE)
    for server in servers:
        server.close()
        assert not os.path.exists(server._path)
    loop.close()
