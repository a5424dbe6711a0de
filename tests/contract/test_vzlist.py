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

"""vzlist: what it tells of containers, and when it must not be believed."""

from __future__ import annotations

import os

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import metadata
from ovznovadriver.openvz.vzctl import Settings
from ovznovadriver.openvz.vzlist import ContainerInfo, State
from tests.contract.conftest import Bench
from tests.contract.place import WAY
from tests.simulator.node import SimNode


def _find(bench: Bench, ctid: str) -> ContainerInfo | None:
    """What vzlist says of it, alone and among all others."""
    found = bench.node.vzlist.find(ctid)
    among = [info for info in bench.node.vzlist.list() if info.ctid == ctid]
    if found is None:
        assert among == []
    else:
        assert [(i.ctid, i.state, i.description) for i in among] == [
            (found.ctid, found.state, found.description)
        ]
    return found


def _state(bench: Bench, ctid: str) -> State | None:
    found = _find(bench, ctid)
    return None if found is None else found.state


def test_an_unknown_container_is_not_there_and_no_error(seeing: Bench) -> None:
    assert _find(seeing, seeing.ctid()) is None


def test_a_new_container_is_stopped_and_uses_nothing(seeing: Bench) -> None:
    ctid = seeing.create()
    info = _find(seeing, ctid)
    assert info == ContainerInfo(
        ctid=ctid, state=State.STOPPED, diskspace_kb=info and info.diskspace_kb
    )


def test_a_destroyed_container_is_not_there(seeing: Bench) -> None:
    ctid = seeing.create()
    seeing.vzctl.destroy(ctid)
    assert _find(seeing, ctid) is None


def test_a_tag_comes_back_as_it_was(seeing: Bench, tag: metadata.Tag) -> None:
    ctid = seeing.create()
    seeing.vzctl.set(ctid, Settings(description=metadata.encode(tag)))
    info = _find(seeing, ctid)
    assert info is not None
    assert metadata.decode(info.description) == tag


def test_the_longest_description_is_not_cut(seeing: Bench) -> None:
    ctid = seeing.create()
    longest = "x" * 3000
    seeing.vzctl.set(ctid, Settings(description=longest))
    info = _find(seeing, ctid)
    assert info is not None
    assert info.description == longest


@pytest.mark.skipif(WAY is not None, reason="such a description only root can give")
@pytest.mark.parametrize(
    "description", ['say "hi"', "a\tb", "two  blanks", "{}", "-", "101 running"]
)
def test_no_description_of_another_hides_a_container(
    seeing: Bench, description: str
) -> None:
    ctid, other = seeing.create(), seeing.create()
    seeing.node.executor.execute(
        "vzctl", "set", other, "--description", description, "--save"
    )
    assert _state(seeing, ctid) is State.STOPPED
    assert _state(seeing, other) is State.STOPPED


def test_a_container_called_by_a_number_is_not_taken_for_it(seeing: Bench) -> None:
    ctid, name = seeing.create(), f"9{os.getpid()}x"
    seeing.vzctl.set(ctid, Settings(name=name))
    assert seeing.node.vzlist.find(name.removesuffix("x")) is None
    assert _state(seeing, ctid) is State.STOPPED


def test_a_mounted_container_is_told_from_a_stopped_one(seeing: Bench) -> None:
    ctid = seeing.create()
    seeing.vzctl.mount(ctid)
    assert _state(seeing, ctid) is State.MOUNTED
    seeing.vzctl.umount(ctid)
    assert _state(seeing, ctid) is State.STOPPED


def test_a_running_container_has_numbers(living: Bench) -> None:
    ctid = living.create()
    living.vzctl.start(ctid)
    info = _find(living, ctid)
    assert info is not None
    assert info.state is State.RUNNING
    assert info.numproc is not None
    assert info.physpages is not None
    assert info.uptime is not None
    living.vzctl.stop(ctid, fast=True)
    assert _state(living, ctid) is State.STOPPED


def test_only_one_family_shows_a_pause(living: Bench) -> None:
    ctid = living.create()
    living.vzctl.start(ctid)
    try:
        living.vzctl.pause(ctid)
    except exception.CommandFailed as error:
        living.place.cannot(error)
    paused = State.PAUSED if living.node.family.lists_paused else State.RUNNING
    assert _state(living, ctid) is paused
    living.vzctl.unpause(ctid)
    assert _state(living, ctid) is State.RUNNING


def test_a_suspended_container_comes_back(living: Bench) -> None:
    ctid = living.create()
    living.vzctl.start(ctid)
    try:
        living.vzctl.suspend(ctid)
    except exception.CommandFailed as error:
        living.place.cannot(error)
    assert _state(living, ctid) is State.SUSPENDED
    living.vzctl.resume(ctid)
    assert _state(living, ctid) is State.RUNNING


def test_a_container_halted_from_inside_is_seen(sim: SimNode, living: Bench) -> None:
    ctid = living.create()
    living.vzctl.start(ctid)
    sim.halt(ctid)
    assert _state(living, ctid) in (State.MOUNTED, State.STOPPED)
    living.vzctl.start(ctid)
    assert _state(living, ctid) is State.RUNNING


def test_a_blind_vzlist_is_no_empty_node(sim: SimNode, bench: Bench) -> None:
    if bench.node.family.uuid_ctids:
        pytest.skip("only vzlist 4 is ever blind")
    ctid = bench.create()
    sim.blind_vzlist = True
    with pytest.raises(exception.MalformedOutput, match="kernel"):
        bench.node.vzlist.list()
    with pytest.raises(exception.MalformedOutput, match="kernel"):
        bench.node.vzlist.find(ctid)


def test_a_failing_vzlist_is_no_empty_node(sim: SimNode, bench: Bench) -> None:
    ctid = bench.create()
    sim.fail("vzlist", rc=1, stderr="Out of memory\n")
    with pytest.raises(exception.CommandFailed, match="Out of memory"):
        bench.node.vzlist.list()
    sim.fail("vzlist", rc=1, stderr="Out of memory\n")
    with pytest.raises(exception.CommandFailed, match="Out of memory"):
        bench.node.vzlist.find(ctid)
