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

"""What tests of several modules start from."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
from collections.abc import Callable, Iterator

import pytest

from ovznovadriver.openvz import processes
from tests import support
from tests.simulator.node import SimNode
from tests.unit.openvz.pipes import Pipe
from tests.unit.openvz.processes import Pids, lives


@pytest.fixture
def pids(tmp_path: pathlib.Path) -> Iterator[Pids]:
    directory = tmp_path / "pids"
    directory.mkdir()
    pids = Pids(directory)
    yield pids
    for pid in pids.known():
        if lives(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[], object]], None]:
    """Let a command's time be over as soon as something has happened."""

    def after(happened: Callable[[], object]) -> None:
        def wait(*_args: object) -> bool:
            happened()
            return False

        monkeypatch.setattr(processes, "_wait", wait)

    return after


@pytest.fixture
def sim_ploop(tmp_path: pathlib.Path, own_privileged_side: None) -> SimNode:
    """A simulated node with disk images."""
    return support.simulated(tmp_path / "node", "4", ploop=True)


@pytest.fixture
def pipe(tmp_path: pathlib.Path) -> Iterator[Pipe]:
    """A FIFO that is read."""
    made = Pipe(tmp_path / "pipe")
    made.start()
    yield made
    with contextlib.suppress(OSError):
        made.end()
