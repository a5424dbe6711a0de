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


"""Evacuation with the files, between two hosts that share a disk."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import (
    emptytemplate,
    evacuation,
    guest,
    handover,
    lending,
    lifecycle,
)
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.compute import ports

HERE = "host2"


@pytest.fixture(params=["4"])
def sim(request, tmp_path, own_privileged_side):
    """The node of the host that gets lost."""
    return support.simulated(tmp_path / "node", request.param)


@pytest.fixture
def here(node, second):
    """It, as the host has it that servers come to."""
    return support.open_node(second, HERE, lock_dir=node.options.lock_dir)


@pytest.fixture
def evacuations(here, net, life, monkeypatch):
    """What comes to the host."""
    monkeypatch.setattr(objects.Instance, "save", lambda self, **_: None)
    images = SimpleNamespace(prepare=None)
    return evacuation.Evacuations(here, lifecycle.Lifecycle(here, net, images), net)


@pytest.fixture
def arrive(evacuations, instance):
    """Have the server come."""

    def arriving(block_device_info=None):
        instance.task_state = "rebuilding"
        meta = objects.ImageMeta.from_dict({})
        evacuations.arrive(instance, meta, ports.network_info(), block_device_info)

    return arriving


@pytest.fixture
def left(sim, boot):
    """What the lost host has left: its CTID."""
    ctid = boot(power_on=False)
    (sim.tree(ctid) / "etc/mine").write_text("the user's")
    return ctid


def test_the_files_are_those_of_the_new_container(sim, second, here, left, arrive):
    number = (sim.private_dir / left).stat().st_ino

    arrive()

    container = OvzContainer.find(here, uuid=support.UUID)
    private = sim.private_dir / container.ovz_id
    assert second.state(container.ovz_id) == "running"
    assert private.stat().st_ino == number
    assert (private / "etc/mine").read_text() == "the user's"
    assert not (sim.private_dir / left).exists()


def test_what_was_left_is_seen_by_the_lost_host_and_can_be_removed(
    sim, node, life, left, instance, arrive
):
    arrive()
    assert life.list_uuids() == [instance.uuid]
    assert not life.exists(instance)

    life.destroy(instance, ports.network_info())

    assert life.list_uuids() == []
    assert sim.containers() == []
    assert len(list(sim.private_dir.iterdir())) == 1


@pytest.mark.parametrize(
    "failing", ["list", "create", "take_tree", "describe", "start"]
)
def test_where_it_fails_the_files_are_where_they_were(
    sim, second, here, left, arrive, failing, monkeypatch
):
    before = (sim.private_dir / left).stat().st_ino
    call = here.executor.call

    def failing_call(verb, **kwargs):
        done = call(verb, **kwargs)
        if verb == failing:
            raise exception.OvzError("no answer came")
        return done

    def refresh(*_args, **_kwargs):
        raise exception.UnsafePath("the guest has made a link of it")

    with monkeypatch.context() as patch:
        if failing == "describe":
            patch.setattr(guest, "refresh", refresh)
        elif failing == "take_tree":
            patch.setattr(here.executor, "call", failing_call)
        elif failing == "list":
            second.fail("vzlist", rc=1)
        else:
            second.fail("vzctl", failing, rc=7)
        with pytest.raises(exception.OvzError):
            arrive()

    assert (sim.private_dir / left).stat().st_ino == before
    assert second.containers() == []
    assert here.claims.find(support.UUID) == []
    arrive()
    assert OvzContainer.find(here, uuid=support.UUID)


def test_files_that_cannot_go_back_stay_in_the_new_container(
    sim, second, here, left, arrive, monkeypatch
):
    call = here.executor.call

    def failing_call(verb, **kwargs):
        if verb == "return_tree":
            raise exception.OvzError("no disk")
        return call(verb, **kwargs)

    monkeypatch.setattr(here.executor, "call", failing_call)
    second.fail("vzctl", "start", rc=7)

    with pytest.raises(exception.CommandFailed):
        arrive()

    (container,) = second.containers()
    assert (sim.private_dir / container / "etc/mine").exists()


def test_nothing_is_found_of_a_server_of_this_host(evacuations, left, instance):
    assert evacuations.find(instance) == left
    instance.host = HERE
    assert evacuations.find(instance) is None
    instance.host = None
    assert evacuations.find(instance) is None


@pytest.mark.parametrize("gone", ["files", "mark"])
def test_half_a_container_is_no_server(sim, node, evacuations, left, instance, gone):
    if gone == "files":
        (sim.private_dir / left).rename(sim.root / "elsewhere")
    else:
        (Path(node.options.lock_dir, left, ovz_ctid.MADE)).unlink()
    assert evacuations.find(instance) is None


def test_without_files_nova_goes_its_own_way(arrive):
    with pytest.raises(NotImplementedError):
        arrive()


def test_another_owner_is_refused_before_anything_changes(second, left, request):
    second.set_vz_conf(LOCAL_UID="7", LOCAL_GID="7")
    arrive = request.getfixturevalue("arrive")
    with pytest.raises(exception.TransferError, match="LOCAL_UID and LOCAL_GID"):
        arrive()
    assert second.containers() == []


def test_a_server_with_volumes_is_refused_before_anything_changes(second, left, arrive):
    volume = {"block_device_mapping": [{"mount_device": "/dev/vda"}]}
    with pytest.raises(nova_exception.InvalidInput, match="volumes"):
        arrive(volume)
    assert second.containers() == []


@pytest.mark.parametrize("sim", ["9"], indirect=True)
def test_where_ctids_are_uuids_nothing_is_taken_over(evacuations, left, instance):
    assert evacuations.find(instance) is None


def neighbour(sim, path):
    """One more node with the same private areas."""
    found = support.simulated(path, sim.family)
    found.set_vz_conf(VE_PRIVATE=f"{sim.private_dir}/$VEID")
    return found


def test_a_server_that_was_changing_hands_is_not_made_anew_from_its_image(
    sim, node, left, arrive
):
    """Its files are in no container's place then."""
    container = OvzContainer.find(node, uuid=support.UUID)
    container.start()
    container.suspend()
    handover.Handover(node).give(container)

    with pytest.raises(exception.TransferError, match=f"in .*/.handed-{left}, or"):
        arrive()

    assert (sim.private_dir / f".handed-{left}/tree/etc/mine").exists()


@pytest.mark.parametrize("made", [False, True])
def test_files_that_the_lost_host_has_not_taken_yet_are_not_forgotten(
    sim, node, here, left, arrive, instance, net, life, tmp_path, made
):
    """It was lost in finish_migration, and Nova has the server there already."""
    lending.Lending(node).lend(OvzContainer.find(node, uuid=support.UUID))
    second = neighbour(sim, tmp_path / "third")
    lost = support.open_node(second, "host3", lock_dir=node.options.lock_dir)
    if made:
        there = lifecycle.Lifecycle(lost, net, None)
        template = emptytemplate.prepare(lost)
        nics = net.nics(instance, ports.network_info())
        there.make(instance, objects.ImageMeta.from_dict({}), template, nics)
    instance.host = "host3"

    with pytest.raises(exception.TransferError, match="has the files still"):
        arrive()

    assert (sim.tree(left) / "etc/mine").read_text() == "the user's"
    assert OvzContainer.find_remains(here, support.UUID) is None
