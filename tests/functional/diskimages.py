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

"""Nodes whose containers are in disk images (layout ploop)."""

from __future__ import annotations

import os
from typing import Any

from tests.simulator.node import SimNode


class DiskImages:
    """For the tests of what holds for each layout: theirs is ploop.

    It comes first among the bases.
    """

    FAMILY = "4"

    def make_node(self, host: str) -> SimNode:
        """A new simulated node for a compute host."""
        case: Any = self
        offset = 100000 if os.geteuid() == 0 else None
        node = SimNode(case._directory / host, "4", ploop=True, uid_offset=offset)
        case.nodes[host] = node
        return node

    def configure(self, node: SimNode) -> None:
        """Set the options that nova.conf of a node's compute service has."""
        case: Any = super()
        case.configure(node)
        case.flags(layout="ploop", group="openvz")
