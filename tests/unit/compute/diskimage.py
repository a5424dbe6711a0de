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

"""A node whose servers have their root trees in disk images (layout ploop)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovznovadriver.openvz.node import Node
from tests import support
from tests.simulator.node import SimNode


class OnDiskImages:
    """What tests of such servers inherit."""

    @pytest.fixture
    def sim(self, tmp_path: Path, own_privileged_side: None) -> SimNode:
        """The simulated node."""
        return support.simulated(tmp_path / "node", "4", ploop=True)

    @pytest.fixture
    def node(self, sim: SimNode) -> Node:
        """What the driver makes of it."""
        return support.open_node(sim, layout="ploop")
