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

from pathlib import Path

import pytest

from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import privsep
from tests import support
from tests.simulator.node import SimNode


@pytest.fixture
def own_privileged_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be done as root is done by this process, whoever it is."""
    monkeypatch.setattr(privsep.context, "client_mode", False)


@pytest.fixture(params=["4", "9"], ids=["vzctl4", "vzctl9"])
def sim(
    request: pytest.FixtureRequest, tmp_path: Path, own_privileged_side: None
) -> SimNode:
    """A simulated node, once of each family."""
    return support.simulated(tmp_path / "node", request.param)


@pytest.fixture
def sim4(tmp_path: Path, own_privileged_side: None) -> SimNode:
    """A simulated node with vzctl 4."""
    return support.simulated(tmp_path / "node", "4")


@pytest.fixture
def sim9(tmp_path: Path, own_privileged_side: None) -> SimNode:
    """A simulated node with vzctl 9."""
    return support.simulated(tmp_path / "node", "9")


@pytest.fixture
def node(sim: SimNode) -> ovz_node.Node:
    """The node of a Nova host, once of each family."""
    return support.open_node(sim)


@pytest.fixture
def node4(sim4: SimNode) -> ovz_node.Node:
    """The node of a Nova host with vzctl 4."""
    return support.open_node(sim4)


@pytest.fixture
def node9(sim9: SimNode) -> ovz_node.Node:
    """The node of a Nova host with vzctl 9."""
    return support.open_node(sim9)


@pytest.fixture
def image(sim: SimNode) -> str:
    """An image in the node's cache, as `vzctl create` calls it."""
    return support.add_image(sim)


@pytest.fixture
def image4(sim4: SimNode) -> str:
    """An image in the cache of the node with vzctl 4."""
    return support.add_image(sim4)


@pytest.fixture
def image9(sim9: SimNode) -> str:
    """An image in the cache of the node with vzctl 9."""
    return support.add_image(sim9)
