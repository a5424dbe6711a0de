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

"""Containers in disk images (layout ploop)."""

from __future__ import annotations

from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.simulator.node import SimNode


def disk_image(sim: SimNode, node: ovz_node.Node) -> OvzContainer:
    """A container that has one, of 1 GiB."""
    return support.create(node, support.add_image(sim), diskspace_kb=(2**20, 2**20))
