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

"""What Nova is told of consoles, and when there is no service."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nova.console import type as console_type

from nova import exception as nova_exception
from ovznovadriver import exception
from ovznovadriver.compute import console
from ovznovadriver.console import ask
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.simulator.node import SimNode
from tests.unit.console.running import PATIENCE, Running, eventually

INSTANCE = SimpleNamespace(uuid=support.UUID)


@pytest.fixture
def container(node4: Any, image4: str) -> OvzContainer:
    return support.create(node4, image4)


@pytest.fixture
def service(sim4: SimNode) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as directory:
        running = Running(sim4, Path(directory))
        yield running
        running.stop()


@pytest.fixture
def consoles(
    service: Running, container: OvzContainer, monkeypatch: pytest.MonkeyPatch
) -> console.Consoles:
    """What a driver has, told of the starts."""
    monkeypatch.setattr(ask.ask, "__defaults__", (PATIENCE,))
    made = console.Consoles(service.socket)
    container.node.vzctl.witness = made
    container.node.vzctl.start(container.ovz_id)
    return made


def test_the_output_is_the_logs_end_in_bytes(
    service: Running,
    consoles: console.Consoles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.wait_for(b"# ")
    output = consoles.output(INSTANCE)
    assert isinstance(output, bytes)
    assert output.startswith(b"INIT")
    monkeypatch.setattr(console, "MAX_OUTPUT", 2)
    assert consoles.output(INSTANCE) == b"# "


def test_a_new_nova_compute_sees_the_same(
    service: Running, consoles: console.Consoles
) -> None:
    service.wait_for(b"# ")
    port = consoles.serial(INSTANCE).port
    again = console.Consoles(service.socket)
    assert again.output(INSTANCE) == consoles.output(INSTANCE)
    assert again.serial(INSTANCE).port == port


def test_what_start_said_is_there_before_a_log_is(
    service: Running, consoles: console.Consoles, sim4: SimNode
) -> None:
    # Else the next reader is told what the first one was not.
    service.wait_for(b"# ")
    assert sim4.run("vzctl", "stop", "101").rc == 0
    made = console.Consoles(service.socket)
    made.starting("101")
    made.started("101", "x" * 20_000 + "Unable to start init\n")
    eventually(lambda: made.output(INSTANCE).endswith(b"Unable to start init\n"))
    assert len(made.output(INSTANCE)) == ask.SAID_LIMIT


def test_the_serial_console_is_where_the_service_serves_it(
    service: Running, consoles: console.Consoles
) -> None:
    found = consoles.serial(INSTANCE)
    assert isinstance(found, console_type.ConsoleSerial)
    assert found.host == "127.0.0.1"
    assert 21000 <= found.port < 22000
    assert found.internal_access_path is None


def test_a_server_that_is_not_there_is_not_found(consoles: console.Consoles) -> None:
    other = SimpleNamespace(uuid=support.OTHER_UUID)
    for question in (consoles.output, consoles.serial):
        with pytest.raises(nova_exception.InstanceNotFound):
            question(other)


def test_without_a_service_nova_is_told_in_its_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    consoles = console.Consoles(str(tmp_path / "none"))
    with pytest.raises(nova_exception.ConsoleNotAvailable):
        consoles.output(INSTANCE)
    with pytest.raises(nova_exception.ConsoleTypeUnavailable):
        consoles.serial(INSTANCE)
    assert caplog.text.count("is ovz-console running?") == 2


def test_without_a_service_a_start_goes_on(tmp_path: Path) -> None:
    consoles = console.Consoles(str(tmp_path / "none"))
    consoles.starting("101")
    consoles.started("101", "Starting")


def test_without_a_free_port_nova_is_told_in_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask_(*_: object) -> None:
        raise exception.NoFreePort("none of 127.0.0.1")

    monkeypatch.setattr(ask, "ask", ask_)
    with pytest.raises(
        nova_exception.SocketPortRangeExhaustedException, match=r"127\.0\.0\.1"
    ):
        console.Consoles("/s").serial(INSTANCE)
