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

"""Each thing that a killed service leaves on its node, and what is none of it."""

import json
import os
from pathlib import Path

import pytest

from ovznovadriver.compute import imagecache, recovery, servers
from ovznovadriver.compute.scene import Scene
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz.container import OvzContainer
from ovznovadriver.openvz.vzlist import State
from tests import support
from tests.unit.compute.abandoned import BOTH, abandon, half_made, kinds, restart

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID
OTHER_HOST = "host2"

pytestmark = pytest.mark.usefixtures("own_places")


# -- containers ---------------------------------------------------------------------


@BOTH
def test_a_half_made_container_is_removed_and_told(sim, node, image, caplog):
    ctid = half_made(node, image)
    assert kinds(node) == ["half-made"]

    fresh = restart(sim)

    assert support.traces(sim, fresh) == {}
    assert f"container {ctid} of server {UUID}" in caplog.text


@BOTH
@pytest.mark.parametrize("lost", ["conf", "private"])
def test_a_container_that_was_half_created_is_removed(sim, node, image, lost):
    ctid = half_made(node, image)
    if lost == "conf":
        (sim.conf_dir / f"{ctid}.conf").unlink()
    else:
        sim.private_dir.joinpath(ctid).rename(sim.root / "gone")
    (sim.lock_dir / f"{ctid}.lck").write_text("999999999\ncreating\n")

    fresh = restart(sim)

    assert support.traces(sim, fresh) == {}


@pytest.mark.parametrize("changed", ["owner lives", "other host", "described", "runs"])
def test_what_is_not_half_made_by_this_host_stays(sim, node, image, changed):
    ctid = half_made(node, image)
    owner = Path(node.options.lock_dir, ctid, "owner")
    if changed == "owner lives":
        this = ovz_ctid.Owner.this_process(UUID, node.host)
        this.write(owner)
    elif changed == "other host":
        owner.write_text(json.dumps({**json.loads(owner.read_text()), "host": "host2"}))
    elif changed == "described":
        support.describe(sim, ctid, "mine")
    else:
        sim.run("vzctl", "start", ctid)
    before = support.traces(sim, node)

    fresh = restart(sim)

    assert support.traces(sim, fresh) == before
    assert "half-made" not in kinds(fresh)


def test_a_half_made_container_that_vzctl_works_on_is_told_and_stays(
    sim, node, image, caplog, monkeypatch
):
    monkeypatch.setattr(recovery, "BUSY_WAIT", 0.0)
    ctid = half_made(node, image)
    (sim.lock_dir / f"{ctid}.lck").write_text(f"{os.getpid()}\ncreating\n")

    fresh = restart(sim)

    assert sim.containers() == [ctid]
    assert f"process {os.getpid()}" in caplog.text
    assert kinds(fresh) == ["busy"]


def test_a_container_whose_description_was_changed_by_hand_stays(
    sim, node, image, caplog
):
    ctid = support.create(node, image, configure=support.with_interfaces).ovz_id
    abandon(node)
    for text in ("", "my machine"):
        support.describe(sim, ctid, text)
        (Path(node.options.lock_dir) / ctid / "made").unlink(missing_ok=True)

        restart(sim)

        assert sim.containers() == [ctid]
    assert "ovz-manage adopt" in caplog.text


def test_a_container_of_another_host_stays_as_it_is(sim, node, image):
    theirs = support.open_node(sim, OTHER_HOST)
    ctid = support.create(theirs, image, configure=support.with_interfaces).ovz_id
    OvzContainer.find(theirs, uuid=UUID).mount()
    abandon(theirs)
    (sim.conf_dir / f"{ctid}.nics.ovz-0123456789abcdef").touch()
    (sim.conf_dir / f"{ctid}.rescue").write_text(
        json.dumps({"tree": "555", "inode": 1, "own": 2})
    )
    (sim.lock_dir / f"{ctid}.lck").write_text("999999999\n")
    before = support.traces(sim, node)

    fresh = restart(sim)

    assert support.traces(sim, fresh) == before
    assert sim.state(ctid) == "mounted"
    assert kinds(fresh) == []


def test_a_container_of_nobody_stays(sim, node, image):
    support.foreign(sim, image, "777" if sim.family == "4" else OTHER_UUID)
    before = support.traces(sim, node)

    fresh = restart(sim)

    assert support.traces(sim, fresh) == before
    assert kinds(fresh) == []


@BOTH
def test_what_a_removal_has_left_goes(sim, node, image):
    ctid = support.create(node, image).ovz_id
    node.claims.note(ctid, ovz_ctid.REMOVING)
    node.vzctl.destroy(ctid)
    abandon(node)
    (sim.conf_dir / f"{ctid}.nics").write_text('{"version": 1, "nics": []}')
    (sim.dump_dir / f"Dump.{ctid}").touch()
    assert kinds(node) == ["half-removed"]

    fresh = restart(sim)

    assert support.traces(sim, fresh) == {}


@pytest.mark.parametrize("removing", [True, False])
def test_a_container_whose_private_area_is_not_there_stays(
    sim4, node4, image4, caplog, removing
):
    """It may be on a disk that is not mounted, also where a delete has failed."""
    ctid = support.create(node4, image4).ovz_id
    if removing:
        node4.claims.note(ctid, ovz_ctid.REMOVING)
    abandon(node4)
    sim4.private_dir.joinpath(ctid).rename(sim4.root / "elsewhere")

    restart(sim4)

    assert sim4.containers() == [ctid]
    assert "is its private area mounted?" in caplog.text
    sim4.root.joinpath("elsewhere").rename(sim4.private_dir / ctid)
    assert OvzContainer.find(node4, uuid=UUID).state is State.STOPPED


def test_what_could_not_be_removed_and_starts_again_is_not_half_removed(
    sim9, node9, image9, caplog
):
    """With vzctl 7 nothing of it is seen where its disk is not mounted."""
    container = support.create(node9, image9)
    node9.claims.note(container.ovz_id, ovz_ctid.REMOVING)
    container.start()
    container.stop(fast=True)
    abandon(node9)
    sim9.private_dir.rename(sim9.root / "elsewhere")
    sim9.private_dir.mkdir()

    restart(sim9)

    assert "is its private area mounted?" in caplog.text
    sim9.private_dir.rmdir()
    sim9.root.joinpath("elsewhere").rename(sim9.private_dir)
    assert OvzContainer.find(node9, uuid=UUID).state is State.STOPPED


@BOTH
def test_a_claim_that_nothing_bears_is_given_back(sim, node):
    OvzContainer.get_next_id(node, UUID)
    abandon(node)

    fresh = restart(sim)

    assert fresh.claims.ctids() == []


def test_claims_of_others_and_of_the_living_stay(sim, node):
    theirs = OvzContainer.get_next_id(support.open_node(sim, OTHER_HOST), OTHER_UUID)
    abandon(node, theirs)
    living = OvzContainer.get_next_id(node, UUID)

    fresh = restart(sim)

    assert sorted(fresh.claims.ctids()) == sorted([living, theirs])


def test_parts_of_claims_go(sim, node):
    top = Path(node.options.lock_dir)
    (top / ".gone-01").mkdir()
    (top / ".gone-01/made").touch()
    (top / ".new-01").mkdir()
    ovz_ctid.Owner(UUID, node.host, 1, 1, "gone").write(top / ".new-01/owner")
    (top / ".new-02").mkdir()  # somebody is about to write its owner

    restart(sim)

    assert sorted(p.name for p in top.iterdir()) == [".lock", ".new-02"]


def test_a_mounted_container_is_unmounted(sim, node, image):
    container = support.create(node, image)
    container.mount()

    restart(sim)

    assert sim.state(container.ovz_id) == "stopped"


def test_interfaces_that_vzctl_did_not_take_go(sim9, node9, image9):
    container = support.create(node9, image9)
    container.wiring.keep(support.ENDS)
    sim9.add_nic("tap0")
    sim9.add_nic("ovp0")
    sim9.note_link("tap0", kind="veth", peer="ovp0")
    sim9.note_link("ovp0", kind="veth", peer="tap0")
    sim9.add_nic("tapother")

    restart(sim9)

    assert sim9.nics() == ["tapother"]


def test_a_lock_of_a_vzctl_that_is_gone_goes_and_another_stays(sim, node, image):
    ctid = support.create(node, image).ovz_id
    lock = sim.lock_dir / f"{ctid}.lck"
    lock.write_text("999999999\n")
    restart(sim)
    assert not lock.exists()

    lock.write_text(f"{os.getpid()}\n")
    restart(sim)
    assert lock.exists()


# -- files --------------------------------------------------------------------------


@BOTH
def test_files_that_were_being_written_go(sim, node, image):
    ctid = support.create(node, image).ovz_id
    conf = Path(os.path.realpath(sim.conf_dir / f"{ctid}.conf"))
    ours = [
        sim.conf_dir / f"{ctid}.nics.ovz-0123456789abcdef",
        conf.with_name(f"{conf.name}.ovz-0123456789abcdef"),
    ]
    others = [
        sim.conf_dir / "555.nics.ovz-0123456789abcdef",
        sim.conf_dir / f"{ctid}.mount",
        sim.conf_dir / f"{ctid}.nics.ovz-0123",
    ]
    for path in (*ours, *others):
        path.touch()

    restart(sim)

    assert [path.exists() for path in ours] == [False, False]
    assert all(path.exists() for path in others)


def snapshot_of(tmp_path, uuid=UUID, **owner):
    place = tmp_path / "snapshots" / uuid
    place.mkdir(parents=True)
    (place / "spool").touch()
    if owner:
        known = {"uuid": uuid, "host": support.HOST, "pid": 1, "started": 1}
        ovz_ctid.Owner(**{**known, "boot_id": "gone", **owner}).write(place / "owner")
    return place


@BOTH
def test_a_server_frozen_for_a_snapshot_runs_on(sim, node, image, tmp_path):
    container = support.create(node, image)
    container.start()
    place = snapshot_of(tmp_path, boot_id="gone")
    (place / "frozen").touch()
    # Killed before it could be noted.
    node.vzctl.pause(container.ovz_id)

    restart(sim)

    assert sim.state(container.ovz_id) == "running"
    assert OvzContainer.find(node, uuid=UUID).state is State.RUNNING
    assert not place.exists()


def test_a_server_that_is_to_be_frozen_and_is_not_runs_on(sim, node, image, tmp_path):
    container = support.create(node, image)
    container.start()
    (snapshot_of(tmp_path) / "frozen").touch()
    if not node.family.lists_paused:
        node.claims.note_paused(container.ovz_id, True)

    fresh = restart(sim)

    assert OvzContainer.find(fresh, uuid=UUID).state is State.RUNNING


def test_a_server_paused_by_its_user_stays_paused(sim, node, image, tmp_path):
    container = support.create(node, image)
    container.start()
    container.pause()
    place = snapshot_of(tmp_path)

    restart(sim)

    assert sim.state(container.ovz_id) == "paused"
    assert not place.exists()


def test_a_snapshot_of_another_host_goes_on(sim, node, tmp_path):
    place = snapshot_of(tmp_path, host=OTHER_HOST)

    restart(sim)

    assert place.exists()


def test_a_server_that_stays_frozen_is_tried_again(sim, node, image, tmp_path, caplog):
    container = support.create(node, image)
    container.start()
    container.pause()
    place = snapshot_of(tmp_path)
    (place / "frozen").touch()
    # Another vzctl has it.
    sub = "resume" if node.family.lists_paused else "chkpnt"
    sim.fail("vzctl", sub, rc=9)

    restart(sim, lock_wait=0)

    assert place.exists()
    assert "not done" in caplog.text


def test_downloads_of_the_dead_go_and_others_stay(sim, node):
    incoming = sim.template_dir / ".incoming"
    incoming.mkdir(mode=0o700)
    dead, living = incoming / "one.download.part", incoming / "two.download.part"
    dead.touch()
    living.touch()
    store = imagecache.Store(sim.template_dir, lease=0)

    with store.lock("two"):
        restart(sim)

    assert (dead.exists(), living.exists()) == (False, True)


def test_scratch_of_the_dead_goes(sim, node, tmp_path):
    names = {"ovz-999999999-a": False, f"ovz-{os.getpid()}-a": True, "ovz-a": True}
    for name in names:
        (tmp_path / "tmp" / name).mkdir()
    fresh = {sim.template_dir / ".ovz-empty.999999999": False}
    fresh[sim.template_dir / f".ovz-empty.{os.getpid()}"] = True
    for path in fresh:
        path.touch()

    restart(sim)

    assert {name: (tmp_path / "tmp" / name).exists() for name in names} == names
    assert {path: path.exists() for path in fresh} == fresh


def test_marks_of_adopted_trees_and_own_proofs_go(sim, node, image):
    support.create(node, image)
    marks = {
        sim.private_dir / f".incoming-{UUID}.adopted": False,
        sim.private_dir / f".incoming-{OTHER_UUID}.adopted": True,
    }
    for path in marks:
        path.touch()
    proofs = {}
    for host, stays in ((support.HOST, False), (OTHER_HOST, True), ("", True)):
        name = node.executor.call(
            "plant_proof", dirs={"private": node.paths.private}, host=host
        )
        proofs[sim.private_dir / name] = stays

    restart(sim)

    assert {path: path.exists() for path in marks} == marks
    assert {path: path.exists() for path in proofs} == proofs


@pytest.mark.parametrize("kind", ["nics", "rescue", "resize"])
def test_files_without_a_container_are_told_and_stay(sim4, node4, kind, caplog):
    path = sim4.conf_dir / f"555.{kind}"
    path.write_text("{}")

    restart(sim4)

    assert path.exists()
    assert str(path) in caplog.text


# -- what may be anybody's ----------------------------------------------------------


def test_left_overs_of_anybody_are_only_told_to_who_asks(sim4, node4, caplog):
    (sim4.dump_dir / "Dump.555").touch()
    Path(node4.paths.cgroup, "memory/vz-556").mkdir(parents=True)

    restart(sim4)

    assert "555" not in caplog.text
    assert kinds(node4) == ["left-over", "cgroup"]


# -- what cannot be done ------------------------------------------------------------


def test_trees_are_not_removed_with_a_container_that_cannot_be_settled(
    sim, node, image, caplog
):
    """The rescue's own container may hold the server's files."""
    ctid = support.create(node, image).ovz_id
    (sim.tree(ctid) / "mine").write_text("precious")
    container = OvzContainer.find(node, uuid=UUID)
    helper = container.make_helper(servers.rescuer(UUID), image)
    container.swap_in(helper)
    # As a swap out leaves it that was ended after its first rename.
    rescue_tree, spare = sim.tree(ctid), sim.private_dir / helper.ovz_id
    target = spare / node.family.tree_dir if node.family.tree_dir else spare
    target.parent.mkdir(exist_ok=True)
    rescue_tree.rename(target)
    note = sim.conf_dir / f"{ctid}.rescue"
    note.write_text(json.dumps({**json.loads(note.read_text()), "tree": helper.ovz_id}))
    (target / "instance").rename(target / "moved")
    abandon(node)

    restart(sim)

    assert (target / "moved/mine").read_text() == "precious"
    (target / "moved").rename(target / "instance")
    restart(sim)
    assert (sim.tree(ctid) / "mine").read_text() == "precious"


@pytest.mark.parametrize("why", ["vzctl works on it", "another tree", "unreadable"])
def test_trees_stay_whose_rescue_is_not_settled(
    sim, node, image, caplog, monkeypatch, why
):
    monkeypatch.setattr(recovery, "BUSY_WAIT", 0.0)
    ctid = support.create(node, image).ovz_id
    (sim.tree(ctid) / "mine").write_text("precious")
    container = OvzContainer.find(node, uuid=UUID)
    helper = container.make_helper(servers.rescuer(UUID), image)
    aside = sim.tree(helper.ovz_id)
    container.swap_in(helper)
    # As one leaves it that was ended after its first rename.
    sim.tree(ctid).rename(aside)
    abandon(node)
    lock, note = sim.lock_dir / f"{ctid}.lck", sim.conf_dir / f"{ctid}.rescue"
    if why == "vzctl works on it":
        lock.write_text(f"{os.getpid()}\n")
    elif why == "another tree":
        sim.tree(ctid).mkdir(parents=True)
    else:
        note.write_text("{")

    restart(sim)

    assert (aside / "instance/mine").read_text() == "precious"
    assert "may be in it" in caplog.text


def test_a_lock_that_cannot_be_removed_is_not_said_to_be(sim, node, image):
    ctid = support.create(node, image).ovz_id
    lock = sim.lock_dir / f"{ctid}.lck"
    lock.write_text("999999999\n")
    (finding,) = recovery.findings(Scene(node))
    # Meanwhile.
    lock.write_text(f"{os.getpid()}\n")

    assert "is held by process" in recovery.apply(finding)
    assert lock.exists()
