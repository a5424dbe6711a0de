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

"""What a killed service leaves, and what the next one makes of it."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.compute import lifecycle, recovery, servers
from ovznovadriver.compute import restart as ovz_restart
from ovznovadriver.openvz import metadata, privileged
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.compute import kills, ports
from tests.unit.compute.abandoned import (
    BOTH,
    abandon,
    half_made,
    kinds,
    rescued,
    restart,
    unrescued,
)

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID
PROJECT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("own_places")


@pytest.fixture(
    params=["4", pytest.param("9", marks=pytest.mark.slow)], ids=["vzctl4", "vzctl9"]
)
def sim(request, tmp_path, own_privileged_side):
    """A simulated node."""
    return support.simulated(tmp_path / "node", request.param)


#: Before each command and request to root's side, or after it.
EVERY_POINT = pytest.mark.parametrize("after", [0, 1], ids=["before", "after"])


# -- a service killed at each command -----------------------------------------------


@pytest.mark.slow
@EVERY_POINT
def test_a_spawn_killed_anywhere_leaves_nothing_once_nova_deletes(
    sim, node, image, boot, life, net, instance, after
):
    count = 0
    point = after
    while kills.killed(boot, point):
        count += 1
        point += 2
        fresh = restart(sim)
        there = OvzContainer.find_remains(fresh, UUID)
        assert there is None or there.name, "nobody's container"
        again = lifecycle.Lifecycle(fresh, net, life._images)
        again.destroy(instance, ports.network_info())
        assert support.traces(sim, fresh) == {}, point
        assert kinds(fresh) == []
    assert count >= 8


@pytest.mark.slow
@EVERY_POINT
def test_a_destroy_killed_anywhere_is_finished(
    sim, node, image, boot, life, net, instance, after
):
    def destroy():
        life.destroy(instance, ports.network_info())

    boot()
    abandon(node)
    point = after
    while kills.killed(destroy, point):
        point += 2
        fresh = restart(sim)
        assert not {"hidden", "half-removed"} & set(kinds(fresh))
        # Nova finishes a delete when it starts.
        again = lifecycle.Lifecycle(fresh, net, life._images)
        again.destroy(instance, ports.network_info())
        assert support.traces(sim, fresh) == {}, point
        boot()
        abandon(fresh)
    assert point >= 8


@pytest.mark.slow
@EVERY_POINT
def test_a_rescue_killed_anywhere_loses_no_file_and_leaves_no_other_container(
    sim, node, image, after
):
    ctid = support.create(node, image).ovz_id
    (sim.tree(ctid) / "mine").write_text("precious")
    point = after
    while kills.killed(lambda: rescued(node, image), point):
        point += 2
        fresh = restart(sim)
        assert sim.containers() == [ctid]
        assert kinds(fresh) == []
        swapped = (sim.tree(ctid) / "instance").is_dir()
        own = sim.tree(ctid) / "instance" if swapped else sim.tree(ctid)
        assert (own / "mine").read_text() == "precious"
        unrescued(fresh)
        assert (sim.tree(ctid) / "mine").read_text() == "precious"
    assert point >= 6


@pytest.mark.slow
@EVERY_POINT
def test_the_end_of_a_rescue_killed_anywhere_loses_no_file(sim, node, image, after):
    ctid = support.create(node, image).ovz_id
    (sim.tree(ctid) / "mine").write_text("precious")
    rescued(node, image)
    point = after
    while kills.killed(lambda: unrescued(node), point):
        point += 2
        fresh = restart(sim)
        assert sim.containers() == [ctid]
        assert kinds(fresh) == []
        unrescued(fresh)
        assert (sim.tree(ctid) / "mine").read_text() == "precious"
        rescued(fresh, image)
    assert point >= 2


def test_a_rescued_server_stays_rescued(sim, node, image):
    ctid = support.create(node, image).ovz_id
    (sim.tree(ctid) / "mine").touch()
    rescued(node, image)
    abandon(node)

    fresh = restart(sim)

    assert (sim.tree(ctid) / "instance/mine").exists()
    assert kinds(fresh) == []


RENAMES = [1, 2, 3]


@BOTH
@pytest.mark.parametrize("rename", RENAMES)
@pytest.mark.parametrize("way", ["in", "out"])
def test_files_are_swapped_back_wherever_the_swap_ended(
    sim, node, image, way, rename, monkeypatch
):
    """Between two renames of root's side, which a power cut can part."""
    ctid = support.create(node, image).ovz_id
    (sim.tree(ctid) / "mine").write_text("precious")
    helper = node.claims.find(servers.rescuer(UUID))
    if way == "out":
        rescued(node, image)
    real, left = os.rename, iter(range(rename, -1, -1))

    def failing(*args, **kwargs):
        if next(left, -1) == 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(os, "rename", failing)
    work = (lambda: rescued(node, image)) if way == "in" else (lambda: unrescued(node))
    with contextlib.suppress(KeyboardInterrupt):
        work()
    monkeypatch.setattr(os, "rename", real)
    abandon(node)

    fresh = restart(sim)
    unrescued(fresh)

    assert helper == []
    assert (sim.tree(ctid) / "mine").read_text() == "precious"
    assert kinds(fresh) == []
    assert sim.containers() == [ctid]


# -- all the rules ------------------------------------------------------------------


def test_a_vzctl_that_ends_soon_is_waited_for(sim, node, image, monkeypatch):
    ctid = half_made(node, image)
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as vzctl:
        (sim.lock_dir / f"{ctid}.lck").write_text(f"{vzctl.pid}\ncreating\n")
        looks = []

        def look(**kwargs):
            looks.append(ctid)
            if len(looks) == 2:
                vzctl.communicate()
            return survey(**kwargs)

        survey = privileged.VERBS["survey"]
        monkeypatch.setitem(privileged.VERBS, "survey", look)
        fresh = restart(sim)

    assert len(looks) == 2
    assert support.traces(sim, fresh) == {}


@BOTH
def test_what_runs_stays_as_it_is_and_costs_one_look(sim, node, image):
    container = support.create(node, image, configure=support.with_interfaces)
    container.start(support.ENDS)
    abandon(node)
    before = support.traces(sim, node)
    sim.clear_commands()

    restart(sim)

    assert support.traces(sim, node) == before
    assert sim.state(container.ovz_id) == "running"
    programs = [call.program for call in sim.commands()]
    assert sorted(programs) == ["vzctl", "vzlist"], "vzctl --version, and one look"


# -- whatever fails -----------------------------------------------------------------


def test_a_step_that_fails_is_told_and_the_others_are_done(sim, node, image, caplog):
    ctid = half_made(node, image)
    mounted = support.create(node, image, OTHER_UUID)
    mounted.mount()
    sim.fail("vzctl", "destroy", rc=5, stderr="no way")

    restart(sim)

    assert ctid in sim.containers()
    assert sim.state(mounted.ovz_id) == "stopped"
    assert "no way" in caplog.text
    assert "ovz-manage repair" in caplog.text
    restart(sim)
    assert ctid not in sim.containers()


def test_a_node_that_cannot_be_surveyed_keeps_nobody_from_starting(
    sim, node, image, caplog, monkeypatch
):
    half_made(node, image)
    fresh = support.open_node(sim)
    monkeypatch.setattr(
        fresh.executor, "call", lambda *a, **k: (_ for _ in ()).throw(OSError("gone"))
    )

    recovery.recover(fresh)

    assert "is not known" in caplog.text
    assert len(sim.containers()) == 1


def test_a_vzlist_that_fails_keeps_the_service_from_starting(sim, node):
    sim.fail("vzlist", rc=1)

    with pytest.raises(exception.ConfigurationError, match="vzlist"):
        restart(sim)


def test_a_second_service_of_the_same_host_recovers_nothing(
    sim, node, image, caplog, monkeypatch
):
    half_made(node, image)
    node.claims.serve()
    monkeypatch.setattr(os, "getpid", lambda: 1)

    restart(sim)

    assert len(sim.containers()) == 1
    assert "end one of the two" in caplog.text


def test_the_tag_of_a_running_service_stays_with_its_claim(sim, node, image):
    """One that was killed before it could note that it is made."""
    ctid = support.create(node, image).ovz_id
    mark = Path(node.options.lock_dir, ctid, "made")
    mark.unlink()
    abandon(node)

    restart(sim)

    assert mark.exists()
    assert metadata.decode(OvzContainer.find(node, uuid=UUID).info.description)


def test_the_rules_stand_in_their_document_as_they_are_in_the_code():
    text = " ".join((PROJECT / "doc/source/recovery.rst").read_text().split())
    places = []
    for rule in (*recovery.RULES, *ovz_restart.RULES):
        done = rule.done or "told only"
        row = f"* - ``{rule.kind}`` - {rule.found} - {done}"
        assert row in text, row
        places.append(text.index(row))
    assert places == sorted(places)
