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

"""The model over the tools: what a container of a Nova host goes through."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer, OvzContainers
from ovznovadriver.openvz.hostends import HostEnd
from ovznovadriver.openvz.vzctl import Settings, Veth
from ovznovadriver.openvz.vzlist import State
from tests import support
from tests.contract import rootfs
from tests.contract.conftest import Bench
from tests.simulator.node import SimNode

VETHS = (
    Veth("eth0", "fa:16:3e:0c:00:03", "tapc0ffee00-03"),
    Veth("eth1", "fa:16:3e:0c:00:04", "tapc0ffee00-04"),
)
NAMES = [veth.host_ifname for veth in VETHS]
ENDS = tuple(
    HostEnd(host_ifname=veth.host_ifname, name=veth.name, mac=veth.mac)
    for veth in VETHS
)


def _configure(container: OvzContainer) -> None:
    container.set_vswap(256, 0)
    container.set_cpuunits(2000)
    container.set_hostname("web.example.com")
    container.set_nameservers(("192.0.2.53",))
    container.add_interfaces(VETHS)
    container.set_onboot(False)


def _suspend(bench: Bench, container: OvzContainer) -> None:
    try:
        container.suspend()
    except exception.CommandFailed as error:
        bench.place.cannot(error)


def _assert_gone(bench: Bench, container: OvzContainer) -> None:
    ctid = container.ovz_id
    assert bench.remains(ctid) == []
    assert bench.node.vzlist.find(ctid) is None
    assert bench.node.claims.numbers() == set()
    names = Path(bench.node.paths.names)
    if names.is_dir():
        assert str(container.uuid) not in os.listdir(names)


# -- create and find ---------------------------------------------------------------


def test_a_container_is_made_tagged_and_configured(seeing: Bench) -> None:
    made = seeing.container(configure=_configure)
    conf = seeing.conf(made.ovz_id)
    assert conf["HOSTNAME"] == "web.example.com"
    assert conf["CPUUNITS"] == "2000"
    assert conf["PHYSPAGES"].split(":")[1] == "65536"
    assert all(name in conf["NETIF"] for name in NAMES)
    assert seeing.read(made.ovz_id, rootfs.MARK) == rootfs.MARK_CONTENT
    found = OvzContainer.find(seeing.node, uuid=made.uuid)
    assert (found.ovz_id, found.name, found.nova_id, found.host) == (
        made.ovz_id,
        "instance-00000007",
        "7",
        seeing.node.host,
    )
    assert found.state is State.STOPPED


def test_its_creation_takes_two_commands(sim: SimNode, seeing: Bench) -> None:
    sim.clear_commands()
    seeing.container(configure=_configure)
    assert [c.subcommand for c in sim.commands("vzctl")] == ["create", "set"]
    assert len(sim.commands("vzlist")) <= 1


def test_its_name_is_the_uuid(seeing: Bench) -> None:
    made = seeing.container()
    if seeing.node.family.uuid_ctids:
        assert made.ovz_id == made.uuid
    else:
        assert seeing.conf(made.ovz_id)["NAME"] == made.uuid
        assert int(made.ovz_id) > 100


def test_an_instance_has_one_container(seeing: Bench) -> None:
    made = seeing.container()
    with pytest.raises(exception.ClaimError):
        seeing.container(uuid=made.uuid)
    assert [c.ovz_id for c in OvzContainers.list(seeing.node)] == [made.ovz_id]


def test_containers_of_others_are_not_seen(seeing: Bench) -> None:
    made = seeing.container()
    untagged = seeing.create()
    other = ovz_node.Node.open(
        "other",
        dataclasses.replace(
            seeing.node.options, lock_dir=f"{seeing.node.options.lock_dir}-other"
        ),
    )
    assert untagged not in [c.ovz_id for c in OvzContainers.list(seeing.node)]
    assert OvzContainers.list(other) == []
    with pytest.raises(exception.ContainerNotFound):
        OvzContainer.find(other, uuid=made.uuid)


# -- a creation that fails is undone -----------------------------------------------


def test_a_setting_that_is_refused_undoes_the_creation(seeing: Bench) -> None:
    kept = []

    def configure(container: OvzContainer) -> None:
        kept.append(container)
        container.set_hostname("no such host name")

    with pytest.raises(exception.InvalidValue):
        seeing.container(configure=configure)
    _assert_gone(seeing, kept[0])


def test_a_name_that_is_taken_undoes_the_creation(seeing: Bench) -> None:
    if seeing.node.family.uuid_ctids:
        pytest.skip("where the CTID is the UUID no name is given")
    other, uuid, kept = seeing.create(), seeing.uuid(), []
    seeing.vzctl.set(other, Settings(name=uuid))
    with pytest.raises(exception.NameInUse):
        seeing.container(uuid=uuid, configure=kept.append)
    assert seeing.remains(kept[0].ovz_id) == []
    assert seeing.node.claims.numbers() == set()
    link = Path(seeing.node.paths.names, uuid)
    assert link.resolve() == seeing.conf_path(other).resolve()


@pytest.mark.parametrize("subcommand", ["create", "set"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_command_that_fails_undoes_the_creation(
    sim: SimNode, seeing: Bench, subcommand: str, when: str
) -> None:
    before = OvzContainers.list_vz_artifacts(seeing.node)
    sim.fail("vzctl", subcommand, rc=96, stderr="No space\n", when=when)
    with pytest.raises(exception.CommandFailed, match="No space"):
        seeing.container()
    assert OvzContainers.list_vz_artifacts(seeing.node) == before
    assert seeing.node.claims.numbers() == set()


# -- settings ----------------------------------------------------------------------


def test_setters_in_a_block_go_out_together(seeing: Bench) -> None:
    made = seeing.container()
    with made.changes():
        made.set_hostname("a.example.com")
        made.set_cpuunits(777)
        assert "HOSTNAME" not in seeing.conf(made.ovz_id)
    conf = seeing.conf(made.ovz_id)
    assert (conf["HOSTNAME"], conf["CPUUNITS"]) == ("a.example.com", "777")


def test_settings_of_a_container_that_is_gone_make_no_stray_file(seeing: Bench) -> None:
    made = seeing.container()
    made.delete()
    with pytest.raises(exception.ContainerNotFound):
        made.set_onboot(True)
    _assert_gone(seeing, made)


def test_the_name_can_be_given_up_for_a_second_copy(seeing: Bench) -> None:
    made = seeing.container()
    made.prep_for_migration()
    assert seeing.conf(made.ovz_id)["NAME"] == f"{made.uuid}-migrated"
    made.delete()
    _assert_gone(seeing, made)
    assert not os.path.lexists(f"{seeing.node.paths.names}/{made.uuid}-migrated")


# -- life --------------------------------------------------------------------------


def test_it_lives(living: Bench) -> None:
    made = living.container(configure=_configure)
    made.start(ENDS)
    assert made.state is State.RUNNING
    made.stop()
    assert made.state is State.STOPPED
    made.start(ENDS)
    made.stop(fast=True)
    assert made.state is State.STOPPED
    made.delete()
    _assert_gone(living, made)


def test_it_is_paused_and_goes_on(living: Bench) -> None:
    made = living.container()
    made.start()
    try:
        made.pause()
    except exception.CommandFailed as error:
        living.place.cannot(error)
    assert made.state is State.PAUSED
    assert OvzContainer.find(living.node, uuid=made.uuid).state is State.PAUSED
    made.unpause()
    assert made.state is State.RUNNING


def test_a_paused_one_can_be_stopped(living: Bench) -> None:
    made = living.container()
    made.start()
    try:
        made.pause()
    except exception.CommandFailed as error:
        living.place.cannot(error)
    made.stop(fast=True)
    assert made.state is State.STOPPED


def test_it_is_suspended_and_resumed(living: Bench) -> None:
    made = living.container(configure=_configure)
    made.start(ENDS)
    _suspend(living, made)
    assert made.state is State.SUSPENDED
    made.resume()
    assert made.state is State.RUNNING


def test_a_discarded_dump_is_not_gone_on_from(living: Bench) -> None:
    made = living.container()
    made.start()
    _suspend(living, made)
    made.discard_dump()
    assert made.refresh() is State.STOPPED
    made.start()
    assert made.state is State.RUNNING


def test_a_suspended_one_is_deleted_with_its_dump(living: Bench) -> None:
    made = living.container()
    made.start()
    _suspend(living, made)
    made.delete()
    _assert_gone(living, made)


def test_it_starts_although_its_mount_point_was_lost(living: Bench) -> None:
    made = living.container()
    point = Path(living.node.paths.root, made.ovz_id)
    if point.is_dir() and os.access(point.parent, os.W_OK):
        point.rmdir()
    made.start()
    assert made.state is State.RUNNING


def test_a_host_end_that_is_taken_is_no_silent_loss(living: Bench) -> None:
    if living.node.family.adopts_host_ends:
        pytest.skip(f"{living.node.family.name} takes the interface that is there")
    first = living.container(configure=_configure)
    second = living.container(configure=_configure)
    first.start(ENDS)
    with pytest.raises(exception.InterfaceMissing):
        second.start(ENDS)
    assert second.refresh() is State.STOPPED


# -- delete ------------------------------------------------------------------------


def test_delete_leaves_nothing(seeing: Bench) -> None:
    made = seeing.container(configure=_configure)
    made.delete()
    _assert_gone(seeing, made)


def test_delete_of_what_is_gone_is_no_error(seeing: Bench) -> None:
    made = seeing.container()
    made.delete()
    made.delete()
    _assert_gone(seeing, made)


def test_a_mounted_one_is_deleted(seeing: Bench) -> None:
    made = seeing.container()
    made.mount()
    made.delete()
    _assert_gone(seeing, made)


def test_a_running_one_is_not_deleted(living: Bench) -> None:
    made = living.container()
    made.start()
    with pytest.raises(exception.ContainerRunning):
        made.delete()
    assert made.refresh() is State.RUNNING
    assert living.read(made.ovz_id, rootfs.MARK) == rootfs.MARK_CONTENT


@pytest.mark.parametrize("kind", ["private", "root", "conf"])
def test_one_that_is_half_there_is_found_and_deleted(seeing: Bench, kind: str) -> None:
    made = seeing.container()
    dirs = {kind: seeing.node.artifact_dirs()[kind]}
    assert (
        seeing.node.executor.call("remove_container", dirs=dirs, ctid=made.ovz_id) == []
    )
    remains = OvzContainer.find_remains(seeing.node, str(made.uuid))
    assert remains is not None
    assert remains.ovz_id == made.ovz_id
    remains.delete()
    _assert_gone(seeing, made)


# -- time limits -------------------------------------------------------------------


@pytest.mark.parametrize("detached", [False, True])
def test_a_stop_that_hangs_is_ended_and_the_state_read_anew(
    sim: SimNode, living: Bench, monkeypatch: pytest.MonkeyPatch, detached: bool
) -> None:
    made = living.container()
    made.start()
    sim.hang("vzctl", "stop", detached=detached)
    support.end_what_hangs(sim, monkeypatch)
    with pytest.raises(exception.CommandTimedOut) as caught:
        made.stop(timeout=1)
    assert caught.value.exit_code is None
    assert made.refresh() is State.RUNNING
    # The lock that the dead one left is no obstacle.
    made.stop(fast=True)
    assert made.state is State.STOPPED
    made.delete()
    _assert_gone(living, made)


def test_a_creation_that_hangs_is_ended_and_undone(
    sim: SimNode, seeing: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only `set` has this limit: what undoes it has all the time it needs.
    seeing.vzctl.limits = dataclasses.replace(seeing.vzctl.limits, command=1)
    sim.hang("vzctl", "set")
    support.end_what_hangs(sim, monkeypatch)
    with pytest.raises(exception.CommandTimedOut):
        seeing.container()
    assert OvzContainers.list_vz_artifacts(seeing.node) == []
    assert seeing.node.claims.numbers() == set()
