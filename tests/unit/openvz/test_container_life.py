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

"""The model, over simulated nodes of both families."""

import shutil
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import metadata, vzlist
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.openvz.diskimage import disk_image

State = vzlist.State
UUID, OTHER_UUID = support.UUID, support.OTHER_UUID


def tag(uuid):
    return metadata.encode(metadata.Tag(support.HOST, "instance-00000007", "7", uuid))


# -- what is left of it -------------------------------------------------------------


def test_there_are_no_remains_of_what_never_was(node):
    assert OvzContainer.find_remains(node, UUID) is None


def test_a_container_without_a_tag_is_found_by_its_claim_or_its_ctid(sim, node, image):
    container = support.create(node, image)
    support.describe(sim, container.ovz_id, "mine")

    remains = OvzContainer.find_remains(node, UUID)

    assert (remains.ovz_id, remains.uuid) == (container.ovz_id, UUID)
    assert remains.state is State.STOPPED
    remains.delete()
    assert support.traces(sim, node) == {}


def test_a_number_that_another_instance_bears_by_now_is_left_alone(sim4, node4, image4):
    node4.claims.claim(UUID, tuple)
    support.foreign(sim4, image4, "101", tag(OTHER_UUID))

    assert OvzContainer.find_remains(node4, UUID) is None


def test_a_claim_without_a_container_is_a_remain(sim4, node4):
    node4.claims.claim(UUID, tuple)

    remains = OvzContainer.find_remains(node4, UUID)

    with pytest.raises(exception.ContainerNotFound):
        remains.refresh()
    remains.delete()
    assert support.traces(sim4, node4) == {}


@pytest.mark.parametrize("lost", ["private", "conf", "everything"])
def test_what_is_half_there_is_removed(sim, node, image, lost):
    container = support.create(node, image)
    if lost in ("private", "everything"):
        shutil.rmtree(sim.private_dir / container.ovz_id)
    if lost in ("conf", "everything"):
        (sim.conf_dir / f"{container.ovz_id}.conf").unlink()

    remains = OvzContainer.find_remains(node, UUID)
    if remains is not None:
        remains.delete()

    assert support.traces(sim, node) == {}


def test_a_running_container_is_not_removed(sim, node, image):
    container = support.create(node, image)
    container.start()

    with pytest.raises(exception.ContainerRunning):
        container.delete()
    assert sim.tree(container.ovz_id).is_dir()
    assert OvzContainer.find(node, uuid=UUID).state is State.RUNNING


def test_a_mounted_container_is_unmounted_to_be_removed(sim, node, image):
    container = support.create(node, image)
    container.mount()
    assert container.refresh() is State.MOUNTED

    container.delete()

    assert support.traces(sim, node) == {}


def test_neither_groups_nor_dump_outlive_a_container(sim4, node4, image4):
    container = support.create(node4, image4)
    container.start()
    container.stop()
    group = Path(node4.paths.cgroup) / "memory" / f"vz-{container.ovz_id}"
    group.mkdir(parents=True, exist_ok=True)
    (sim4.dump_dir / f"Dump.{container.ovz_id}").touch()

    container.delete()

    assert support.traces(sim4, node4) == {}


def test_left_overs_that_stay_are_told_and_keep_the_number(sim4, node4, image4):
    container = support.create(node4, image4)
    # A directory where a file is meant to be.
    (sim4.conf_dir / "101.note").mkdir()

    with pytest.raises(exception.CleanupFailed, match="left-overs of container 101"):
        container.delete()
    assert node4.claims.numbers() == {101}

    (sim4.conf_dir / "101.note").rmdir()
    container.delete()
    assert support.traces(sim4, node4) == {}


# -- life ---------------------------------------------------------------------------


def test_a_day_of_a_container(sim, node, image):
    container = support.create(node, image, configure=support.with_interfaces)
    container.start(support.ENDS)
    assert container.state is State.RUNNING
    container.pause()
    assert container.state is State.PAUSED
    assert OvzContainer.find(node, uuid=UUID).state is State.PAUSED
    container.unpause()
    assert container.state is State.RUNNING
    container.suspend()
    assert container.state is State.SUSPENDED
    container.resume()
    assert container.state is State.RUNNING
    container.stop()
    assert container.state is State.STOPPED
    container.start()
    container.stop(fast=True)
    assert container.refresh() is State.STOPPED


def test_a_pause_that_takes_too_long_leaves_nothing_frozen(
    sim, node, image, monkeypatch
):
    container = support.create(node, image)
    container.start()
    sim.hang("vzctl", "chkpnt" if sim.family == "4" else "pause", when="after")
    support.end_what_hangs(sim, monkeypatch)

    with pytest.raises(exception.CommandTimedOut):
        container.pause()

    assert sim.state(container.ovz_id) == "running"
    assert container.refresh() is State.RUNNING


def test_a_suspend_that_takes_too_long_leaves_nothing_frozen_and_no_dump(
    sim4, node4, image4, monkeypatch
):
    container = support.create(node4, image4)
    container.start()
    # As a vzctl does that is killed while it writes.
    sim4.run("vzctl", "chkpnt", "101", "--suspend")
    half = sim4.dump_dir / "Dump.101"
    half.write_text("half")
    sim4.hang("vzctl", "suspend")
    support.end_what_hangs(sim4, monkeypatch)

    with pytest.raises(exception.CommandTimedOut):
        container.suspend()

    assert sim4.state("101") == "running"
    assert not half.exists()


def test_a_suspend_that_was_done_when_its_time_was_over_keeps_the_memory(
    sim, node, image, monkeypatch
):
    container = support.create(node, image)
    container.start()
    sim.hang("vzctl", "suspend", when="after")
    support.end_what_hangs(sim, monkeypatch)

    with pytest.raises(exception.CommandTimedOut):
        container.suspend()

    assert sim.state(container.ovz_id) == "suspended"
    container.resume()
    assert sim.state(container.ovz_id) == "running"


def test_a_host_end_that_is_there_already_stops_the_start(sim4, node4, image4):
    container = support.create(node4, image4, configure=support.with_interfaces)
    sim4.add_nic("tap1")

    with pytest.raises(exception.InterfaceMissing, match="'ip link del tap1'"):
        container.start(support.ENDS)

    assert "start" not in support.subcommands(sim4)


def test_a_start_that_forgot_an_interface_is_a_failure(sim4, node4, image4):
    container = support.create(node4, image4, configure=support.with_interfaces)
    start = node4.vzctl.start

    def late(ctid):
        # Somebody makes an interface of that name in the last moment.
        sim4.add_nic("tap1")
        start(ctid)
        sim4.remove_nic("tap1")

    node4.vzctl.start = late
    with pytest.raises(exception.InterfaceMissing, match="is tap1"):
        container.start(support.ENDS)
    assert container.refresh() is State.STOPPED


def test_vzctl_9_adopts_a_host_end_that_is_there(sim9, node9, image9):
    container = support.create(node9, image9, configure=support.with_interfaces)
    sim9.add_nic("tap0")

    container.start(support.ENDS)

    assert container.state is State.RUNNING


def test_a_lost_mount_point_does_not_stop_a_start(sim4, node4, image4):
    container = support.create(node4, image4)
    shutil.rmtree(sim4.root_dir / "101", ignore_errors=True)

    container.start()

    assert container.state is State.RUNNING


def test_a_dump_is_discarded_where_nobody_asked_for_it(sim, node, image):
    container = support.create(node, image)
    container.start()
    container.suspend()

    container.discard_dump()

    assert container.state is State.STOPPED


def test_the_tree_of_a_plain_container_is_its_private_area(sim, node, image):
    container = support.create(node, image)

    with container.tree() as place:
        assert (Path(*place) / "etc/passwd").is_file()
    assert not {"mount", "umount"} & set(support.subcommands(sim))


def test_the_tree_of_a_disk_image_is_mounted_meanwhile(sim_ploop):
    sim = sim_ploop
    container = disk_image(sim, support.open_node(sim, layout="ploop"))
    shutil.rmtree(sim.root_dir / "101", ignore_errors=True)

    with container.tree() as place:
        assert container.refresh() is State.MOUNTED
        assert (Path(*place) / "etc/passwd").is_file()
    assert container.refresh() is State.STOPPED
    with pytest.raises(KeyError), container.tree():
        raise KeyError
    assert container.refresh() is State.STOPPED


@pytest.mark.parametrize("state", ["start", "mount"])
def test_a_disk_image_that_was_mounted_stays_it(sim_ploop, state):
    container = disk_image(sim_ploop, support.open_node(sim_ploop, layout="ploop"))
    getattr(container, state)()
    before = container.refresh()

    with container.tree() as place:
        assert (Path(*place) / "etc/passwd").is_file()

    assert container.refresh() is before


def test_the_room_that_files_take_is_known_of_each_layout(sim_ploop):
    for layout, uuid in (("ploop", support.UUID), ("simfs", support.OTHER_UUID)):
        node = support.open_node(sim_ploop, layout=layout)
        container = support.create(node, support.add_image(sim_ploop), uuid)
        before = container.used_kb()
        with container.tree() as place:
            (Path(*place) / "blob").write_bytes(bytes(5 << 20))
        container.refresh()

        assert container.used_kb() - before == 5 << 10


def test_a_container_that_is_gone_has_no_state(node, image):
    container = support.create(node, image)
    container.delete()

    with pytest.raises(exception.ContainerNotFound):
        container.refresh()


# -- its name -----------------------------------------------------------------------


def test_a_second_copy_can_have_the_name_after_a_migration_was_prepared(
    sim4, node4, image4
):
    container = support.create(node4, image4)

    container.prep_for_migration()

    assert sim4.conf("101")["NAME"] == f"{UUID}-migrated"
    support.foreign(sim4, image4, "102")
    assert sim4.run("vzctl", "set", "102", "--name", UUID, "--save").rc == 0
