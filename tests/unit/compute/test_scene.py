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

"""What one look at a node tells of each CTID."""

import os

import pytest

from ovznovadriver.compute.scene import Scene
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.compute.abandoned import abandon, half_made

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID
THIRD_UUID = f"{UUID[:-1]}9"


def locked(sim, ctid):
    """Let a process that lives work on a container."""
    (sim.lock_dir / f"{ctid}.lck").write_text(f"{os.getpid()}\n")


def test_a_container_is_whose_tag_it_bears(sim, node, image):
    ours = support.create(node, image).ovz_id
    other = support.open_node(sim, "host2")
    theirs = support.create(other, image, OTHER_UUID).ovz_id
    nobodys = "777" if sim.family == "4" else THIRD_UUID
    support.foreign(sim, image, nobodys)

    scene = Scene(node)

    ctids = (ours, theirs, nobodys)
    assert [scene.is_tagged(ctid) for ctid in ctids] == [True, False, False]
    assert [scene.is_ours(ctid) for ctid in ctids] == [True, False, False]
    assert [scene.is_claimed_here(ctid) for ctid in ctids] == [True, False, False]
    assert [scene.uuid(ctid) for ctid in ctids] == [UUID, OTHER_UUID, None]
    assert scene.name(ours) == f"container {ours} of server {UUID}"
    assert scene.name(nobodys) == f"container {nobodys}"
    assert sorted(scene.tags) == sorted([ours, theirs])


def test_a_claim_counts_when_its_process_is_gone(node):
    ctid = OvzContainer.get_next_id(node, UUID)
    assert not Scene(node).is_ours(ctid)
    assert Scene(node).is_claimed_here(ctid)
    abandon(node)

    scene = Scene(node)

    assert scene.is_ours(ctid)
    assert not scene.is_there(ctid)
    assert not scene.is_half_made(ctid)
    assert scene.name(ctid) == f"container {ctid} of server {UUID}"
    bare = scene.container(ctid)
    assert (bare.ovz_id, bare.uuid) == (ctid, UUID)


def test_a_tag_says_more_than_a_claim(sim4, node4, image4):
    """Somebody may have made a container of another server under a claimed CTID."""
    other = support.open_node(sim4, "host2", lock_dir=str(sim4.root / "others"))
    theirs = support.create(other, image4, OTHER_UUID)
    node4.claims.adopt(theirs.ovz_id, UUID)
    abandon(node4)

    scene = Scene(node4)

    assert theirs.ovz_id in scene.abandoned
    assert not scene.is_ours(theirs.ovz_id)
    assert scene.uuid(theirs.ovz_id) == OTHER_UUID


def test_what_is_half_made_was_never_more_than_made(sim, node, image):
    ctid = half_made(node, image)
    assert Scene(node).is_half_made(ctid)
    assert not Scene(node).is_configured(ctid)

    for mark in (ovz_ctid.MADE, ovz_ctid.ARRIVING):
        node.claims.note(ctid, mark)
        assert not Scene(node).is_half_made(ctid), mark
        node.claims.forget(ctid, mark)
    (sim.conf_dir / f"{ctid}.nics").write_text("{}")
    assert not Scene(node).is_half_made(ctid)
    (sim.conf_dir / f"{ctid}.nics").unlink()
    sim.run("vzctl", "set", ctid, "--description", "mine", "--save")
    node.look.forget()
    assert Scene(node).is_configured(ctid)
    assert not Scene(node).is_half_made(ctid)


def test_what_is_half_removed_is_marked_and_not_shown_any_more(sim, node, image):
    ctid = half_made(node, image)
    node.claims.note(ctid, ovz_ctid.REMOVING)
    assert not Scene(node).is_half_removed(ctid)
    node.vzctl.destroy(ctid)
    (sim.dump_dir / f"Dump.{ctid}").touch()

    assert Scene(node).is_half_removed(ctid)

    node.claims.forget(ctid, ovz_ctid.REMOVING)
    assert not Scene(node).is_half_removed(ctid)


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ([], True),
        ([ovz_ctid.MADE], False),
        ([ovz_ctid.MADE, ovz_ctid.REMOVING], True),
    ],
)
def test_a_container_is_under_way_while_vzctl_makes_or_removes_it(
    sim, node, image, marks, expected
):
    ctid = half_made(node, image)
    for mark in marks:
        node.claims.note(ctid, mark)
    assert Scene(node).holder(ctid) == 0
    assert not Scene(node).is_under_way(ctid)

    locked(sim, ctid)

    assert Scene(node).holder(ctid) == os.getpid()
    assert Scene(node).is_under_way(ctid) is expected


def test_a_node_is_seen_by_one_look_or_by_a_fresh_enough_one(sim, node, image):
    support.create(node, image)
    node.look.forget()
    sim.clear_commands()

    scene = Scene(node)
    again = Scene(node, max_age=60)

    assert [call.program for call in sim.commands()] == ["vzlist"]
    assert again.infos == scene.infos


def test_a_finding_about_a_container_names_it(node, image):
    ctid = support.create(node, image).ovz_id

    found = Scene(node).finding("mount", ctid, "it is mounted")

    assert (found.subject, found.ctid) == (f"container {ctid} of server {UUID}", ctid)
    assert found.act is None
