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

"""What a service that was killed leaves on its node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovznovadriver.compute import recovery, servers
from ovznovadriver.compute.scene import Scene
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.simulator.node import SimNode

UUID = support.UUID

#: For what differs between the families: it is tried with both by default.
BOTH = pytest.mark.parametrize("sim", ["4", "9"], indirect=True)


def abandon(node: ovz_node.Node, *ctids: str) -> None:
    """Let the process that claimed CTIDs, or all of them, be gone."""
    for ctid in ctids or node.claims.ctids():
        path = Path(node.options.lock_dir, ctid, "owner")
        owner = json.loads(path.read_text())
        path.write_text(json.dumps({**owner, "boot_id": "gone"}))


def half_made(node: ovz_node.Node, image: str, uuid: str = UUID) -> str:
    """A container that was created and never tagged; its CTID."""
    ctid = OvzContainer.get_next_id(node, uuid)
    node.vzctl.create(ctid, image, config=node.sample, layout="simfs")
    abandon(node, ctid)
    return ctid


def rescued(node: ovz_node.Node, image: str) -> None:
    """What a rescue does to a stopped container's files."""
    container = OvzContainer.find(node, uuid=UUID)
    helper = container.make_helper(servers.rescuer(UUID), image)
    container.swap_in(helper)
    helper.delete()


def unrescued(node: ovz_node.Node) -> None:
    """What the end of a rescue does to them."""
    container = OvzContainer.find(node, uuid=UUID)
    helper = container.helper(servers.rescuer(UUID))
    container.swap_out(helper)
    helper.delete()


def restart(sim: SimNode, **changes: Any) -> ovz_node.Node:
    """A service that starts, and recovers."""
    node = support.open_node(sim, **changes)
    recovery.recover(node)
    return node


def kinds(node: ovz_node.Node) -> list[str]:
    """Of what kind all is that there is to find on a node."""
    return [finding.kind for finding in recovery.findings(Scene(node))]
