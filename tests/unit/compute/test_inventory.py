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

"""What an operator is told of a node's containers, and may have adopted."""

import os

import pytest

from ovznovadriver import exception
from ovznovadriver.compute import inventory
from ovznovadriver.compute.scene import Scene
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import incoming, metadata
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.compute.abandoned import abandon

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID

pytestmark = pytest.mark.usefixtures("own_places")


# -- rows ---------------------------------------------------------------------------


def test_each_container_has_a_row_which_says_whose_it_is(sim4, node4, image4):
    support.legacy(sim4, image4, "1000")
    support.foreign(sim4, image4, "200", "web server")
    other = support.open_node(sim4, "host2")
    theirs = support.create(other, image4, OTHER_UUID).ovz_id

    found = list(inventory.rows(Scene(node4)))

    name = "instance-00000007"
    assert [(r.ctid, r.owner, r.host, r.uuid, r.name) for r in found] == [
        ("200", "-", "-", "-", "-"),
        ("1000", inventory.LEGACY, "host1", UUID, name),
        (theirs, "host2", "host2", OTHER_UUID, name),
    ]
    assert all(row.problems == () and row.state == "stopped" for row in found)


def test_a_container_that_vzlist_does_not_show_has_a_row_with_why(sim4, node4, image4):
    ctid = support.create(node4, image4).ovz_id
    abandon(node4)
    (sim4.private_dir / ctid).rename(sim4.root / "elsewhere")
    node4.look.forget()

    (row,) = inventory.rows(Scene(node4))

    assert (row.ctid, row.state, row.owner) == (ctid, "not shown", inventory.NOBODY)
    # By its claim.
    assert row.uuid == UUID
    assert [text.partition(":")[0] for text in row.problems] == ["hidden"]


# -- obstacles ----------------------------------------------------------------------


def kinds(node):
    return [(one.kind, one.what) for one in inventory.obstacles(Scene(node))]


@pytest.mark.parametrize(
    ("mark", "what"),
    [
        (None, "it is being made"),
        (ovz_ctid.ARRIVING, "it comes from another host as it runs"),
        (ovz_ctid.REMOVING, "it is being removed"),
    ],
)
def test_what_a_service_that_lives_has_claimed_is_under_way(node, mark, what):
    ctid = OvzContainer.get_next_id(node, UUID)
    if mark:
        node.claims.note(ctid, mark)

    assert kinds(node) == [("under-way", what)]

    abandon(node)
    assert kinds(node) == []


def test_a_container_that_is_made_and_does_not_run_is_no_obstacle(sim, node, image):
    container = support.create(node, image)
    assert kinds(node) == []
    container.start()
    container.pause()
    assert kinds(node) == [("runs", "it is paused")]


def test_what_runs_without_its_tag_is_an_obstacle_by_its_claim(sim, node, image):
    container = support.create(node, image)
    container.start()
    support.describe(sim, container.ovz_id, "mine")
    node.look.forget()

    assert kinds(node) == [("runs", "it is running")]


def test_a_snapshot_and_a_tree_that_comes_are_waited_for(node, tmp_path):
    for uuid, host in ((UUID, node.host), (OTHER_UUID, "host2")):
        place = tmp_path / "snapshots" / uuid
        place.mkdir(parents=True)
        ovz_ctid.Owner.this_process(uuid, host).write(place / "owner")

    with incoming.held(node.paths.private, OTHER_UUID):
        found = list(inventory.obstacles(Scene(node)))

    assert [(one.kind, one.subject) for one in found] == [
        ("snapshot", f"server {UUID}"),
        ("received", f"server {OTHER_UUID}"),
    ]
    assert [kind for kind, _ in kinds(node)] == ["snapshot"]


# -- adopting -----------------------------------------------------------------------


def test_only_what_one_host_had_and_nobody_has_can_be_adopted(sim4, node4, image4):
    support.create(node4, image4, OTHER_UUID)
    support.legacy(sim4, image4, "150")
    support.foreign(sim4, image4, "151", "web server")

    assert inventory.adoptable(Scene(node4), support.HOST) == ["150"]
    assert inventory.adoptable(Scene(node4), "host2") == []


def test_a_container_gets_a_tag_and_a_claim_of_the_host_that_adopts_it(sim4, image4):
    support.legacy(sim4, image4, "150")
    heir = support.open_node(sim4, "host2")

    inventory.adopt(Scene(heir), "150", support.HOST)

    tag = metadata.Tag("host2", "instance-00000007", "7", UUID)
    assert metadata.decode(sim4.conf("150")["DESCRIPTION"]) == tag
    assert Scene(heir).is_claimed_here("150")


def test_of_two_that_are_the_same_server_only_the_chosen_one_is_adopted(
    sim4, node4, image4
):
    for ctid in ("150", "151"):
        support.legacy(sim4, image4, ctid)
        sim4.run("vzctl", "set", ctid, "--name", f"{UUID}-migrated", "--save")
    before = [sim4.conf_text(ctid) for ctid in ("150", "151")]
    scene = Scene(node4)
    for ctid, other in (("150", "151"), ("151", "150")):
        with pytest.raises(exception.OvzError, match=f"container {other} is said"):
            inventory.adopt(scene, ctid, support.HOST, chosen=False)
    assert [sim4.conf_text(ctid) for ctid in ("150", "151")] == before
    assert node4.claims.ctids() == []

    inventory.adopt(scene, "151", support.HOST)

    with pytest.raises(exception.OvzError, match="has a container here already"):
        inventory.adopt(scene, "150", support.HOST)
    assert sim4.conf_text("150") == before[0]
    assert node4.claims.ctids() == ["151"]


@pytest.mark.parametrize("why", ["vzctl works on it", "no tag can hold it", "claimed"])
def test_what_cannot_be_adopted_stays_as_it_is(sim4, node4, image4, why):
    name = "n" * 2500 if why == "no tag can hold it" else "n"
    support.legacy(sim4, image4, "150", name=name)
    if why == "vzctl works on it":
        (sim4.lock_dir / "150.lck").write_text(f"{os.getpid()}\n")
    elif why == "claimed":
        support.open_node(sim4, "host2").claims.claim_this("150", OTHER_UUID, list)
    before, claims = sim4.conf_text("150"), node4.claims.ctids()
    node4.look.forget()

    with pytest.raises(exception.OvzError):
        inventory.adopt(Scene(node4), "150", support.HOST)

    assert sim4.conf_text("150") == before
    assert node4.claims.ctids() == claims


def test_a_claim_says_which_server_it_is_and_its_operator_the_rest(sim, node, image):
    ctid = support.create(node, image).ovz_id
    support.describe(sim, ctid, "mine")
    node.look.forget()
    with pytest.raises(exception.OvzError, match=f"is server {UUID} by its claim"):
        inventory.adopt(Scene(node), ctid, support.HOST)

    identity = inventory.Identity("instance-00000009", "9")
    adopted = inventory.adopt(Scene(node), ctid, support.HOST, identity)

    assert (adopted.ovz_id, adopted.uuid) == (ctid, UUID)
    found = OvzContainer.find(node, uuid=UUID)
    assert (found.name, found.nova_id) == ("instance-00000009", "9")
