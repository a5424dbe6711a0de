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

"""What is on a node is somebody's, or it is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import support
from tests.chaos import invariants
from tests.simulator.node import SimNode

PORT = {"id": "30277d17-0abc-4e4c-a73d-069cbf4541e6", "device_id": support.UUID}


@pytest.fixture(params=["4", "9"])
def sim(request: pytest.FixtureRequest, tmp_path: Path) -> SimNode:
    """A node with a running container of a server."""
    sim = support.simulated(tmp_path / "node", request.param)
    (sim.root / "claims").mkdir()
    found = support.create(support.open_node(sim), support.add_image(sim))
    assert sim.run("vzctl", "start", found.ovz_id).rc == 0
    sim.add_nic("tap30277d17-0a")
    (sim.root / "ovs/ports").mkdir(parents=True)
    (sim.root / "ovs/ports/tap30277d17-0a.json").touch()
    return sim


def test_all_of_a_server_that_is_known_is_its_own(sim: SimNode) -> None:
    assert invariants.ownerless(sim, [support.UUID], [PORT]) == []
    assert len(invariants.entries(sim)) >= 5


def test_all_of_a_server_that_is_not_known_is_found(sim: SimNode) -> None:
    found = invariants.ownerless(sim, [support.OTHER_UUID], [PORT])

    images = ["vz/template/cache/image.tar.gz"]
    assert found == [e for e in invariants.entries(sim) if e not in images]


LEFT_OVER = (
    *("claims/1234567", "etc/vz/conf/1234567.mount", "etc/vz/names/somebody"),
    *("ovs/ports/tap0badbad0-00.json", "sys/class/net/tap0badbad0-00"),
    *("vz/dump/Dump.1234567", "vz/lock/1234567.lck"),
    *("vz/private/.ovz-swap-1234567", "vz/private/1234567", "vz/root/1234567"),
    *("vz/template/cache/.incoming/ovz-image.part", "vz/template/cache/.fresh"),
)


def test_each_thing_that_is_left_over_is_found(sim: SimNode) -> None:
    for place in LEFT_OVER:
        planted = sim.root / place
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_text("left over")

    found = invariants.ownerless(sim, [support.UUID], [PORT])

    assert found == sorted(LEFT_OVER)


def test_a_claim_belongs_to_the_server_that_it_names(sim: SimNode) -> None:
    claim = sim.root / "claims/1234567"
    claim.mkdir()
    (claim / "owner").write_text(json.dumps({"uuid": support.UUID}))

    assert invariants.ownerless(sim, [support.UUID], [PORT]) == []


def test_images_and_locks_that_stay_are_nobodys(sim: SimNode) -> None:
    cache = sim.root / "vz/template/cache"
    (cache / ".incoming").mkdir(exist_ok=True)
    (cache / ".incoming" / f"ovz-image-{support.OTHER_UUID}").touch()
    (cache / f"{support.OTHER_UUID}.json").write_text("{}")

    assert invariants.ownerless(sim, [support.UUID], [PORT]) == []


def test_a_port_of_another_server_leaves_an_interface_without_owner(
    sim: SimNode,
) -> None:
    port = {**PORT, "device_id": support.OTHER_UUID}

    assert invariants.ownerless(sim, [support.UUID], [port]) == [
        "ovs/ports/tap30277d17-0a.json",
        "sys/class/net/tap30277d17-0a",
    ]
