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

"""Live migration: between two nodes, by a vzmigrate that moves real trees."""

import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from nova.objects import migrate_data as migrate_data_obj

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import lifecycle, livemigration, recovery
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import firstpass, metadata, moving
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.compute import ports

ADDRESS = "192.0.2.2"
REFUSED = nova_exception.MigrationPreCheckError


@pytest.fixture
def sim(sim4):
    """The node that servers leave; only vzctl 4 moves them as they run."""
    sim4.switch("openvz_kernel", True)
    return sim4


@pytest.fixture
def away(tmp_path, sim):
    """The node that servers go to."""
    other = support.simulated(tmp_path / "away", "4", openvz_kernel=True)
    sim.add_peers({ADDRESS: other})
    return other


@pytest.fixture
def source(node, life, net):
    return livemigration.LiveMigrations(node, life, net)


@pytest.fixture
def away_node(away):
    return support.open_node(away, "host2", ctids=(5000, 5999))


@pytest.fixture
def target(away_node, net, life):
    images = SimpleNamespace(prepare=None)
    there = lifecycle.Lifecycle(away_node, net, images)
    return livemigration.LiveMigrations(away_node, there, net)


@pytest.fixture
def server(boot, instance, monkeypatch):
    """The server, which runs."""
    boot()
    monkeypatch.setattr(
        type(instance), "get_network_info", lambda self: ports.network_info()
    )
    # That of a snapshot.
    instance.progress = 100
    monkeypatch.setattr(type(instance), "save", lambda self: None)
    return instance


@pytest.fixture
def checked(server, source, target):
    """What Nova has after the pre-checks."""
    data = target.check_destination(server, ADDRESS, None)
    data = source.check_source(server, {}, data)
    target.check_number(server, data)
    target.end_check(data)
    return data


@pytest.fixture
def prepared(server, target, checked):
    """What Nova has before the move itself."""
    return target.prepare(server, ports.network_info(), checked)


@pytest.fixture
def arrived(server, source, prepared):
    """The same after it; the container is at the destination."""
    calls = []
    source.move(None, server, "host2", _noting(calls, "post"), None, None, prepared)
    assert calls == ["post"]
    return prepared


def _noting(calls, word):
    return lambda *args: calls.append(word)


def _change(data, **changes):
    told = json.loads(data.image_type)
    facts = {**told["facts"], **changes.pop("facts", {})}
    data.image_type = json.dumps({**told, "facts": facts, **changes})
    return data


# -- before ---------------------------------------------------------------------------


def test_what_the_hosts_tell_each_other_reaches_any_conductor(checked):
    assert isinstance(checked, migrate_data_obj.LibvirtLiveMigrateData)
    # A conductor or host of any release knows these fields.
    backported = checked.obj_to_primitive(target_version="1.1")["nova_object.data"]
    assert (
        backported["is_shared_instance_path"],
        backported["is_shared_block_storage"],
        backported["block_migration"],
    ) == (False, False, False)
    told = json.loads(backported["image_type"])
    assert told["version"] == 1
    assert told["ctid"] == "101"
    assert told["facts"]["host"] == "host2"
    assert told["bytes"] > 0
    assert backported["target_connect_addr"] == ADDRESS


def test_the_checks_leave_nothing(checked, away, away_node, sim):
    assert support.traces(away, away_node) == {}
    assert sim.state("101") == "running"
    assert [path.name for path in away.private_dir.iterdir()] == []


def test_a_host_can_clean_up_after_a_check_that_was_interrupted(
    target, server, away, away_node
):
    data = target.check_destination(server, ADDRESS, None)
    assert (away.private_dir / data.filename).exists()

    recovery.recover(away_node)

    assert not (away.private_dir / data.filename).exists()


def test_a_host_says_no_where_files_must_not_be_brought_along(source, target, server):
    data = target.check_destination(server, ADDRESS, False)
    with pytest.raises(REFUSED, match="block_migration 'auto' or True"):
        source.check_source(server, {}, data)


def test_no_server_moves_live_with_vzctl_7(node9, net, instance):
    live = livemigration.LiveMigrations(node9, None, net)
    with pytest.raises(REFUSED, match="vzctl 7: migrate it cold"):
        live.check_destination(instance, ADDRESS, None)


def test_a_host_on_which_the_server_runs_does_not_take_it(source, server):
    with pytest.raises(
        REFUSED, match="container 101 of this server runs on host host1"
    ):
        source.check_destination(server, ADDRESS, None)


def test_what_may_run_on_another_host_does_not_go_to_a_third(
    server, source, target, node
):
    """A move that comes to nothing would take away what keeps it from starting."""
    data = target.check_destination(server, ADDRESS, None)
    node.claims.note("101", ovz_ctid.LEAVING)

    with pytest.raises(REFUSED, match="may run on another host"):
        source.check_source(server, {}, data)


def test_the_tree_that_rescues_a_server_does_not_go_in_its_place(
    server, source, target, sim
):
    """Nobody would know on the other host that its own is inside."""
    data = target.check_destination(server, ADDRESS, None)
    (sim.conf_dir / "101.rescue").touch()

    with pytest.raises(REFUSED, match="the tree that rescues it"):
        source.check_source(server, {}, data)


def test_a_host_that_does_not_fit_is_refused(server, source, target):
    data = target.check_destination(server, ADDRESS, None)
    told = data.image_type
    for changes, reason in (
        ({"version": 2}, "speaks version 2"),
        ({"facts": {"protocol": 99}}, "speaks version 99"),
        ({"facts": {"family": "vzctl 7"}}, "vzctl is vzctl 4 here, and vzctl 7 on"),
        ({"facts": {"layout": "ploop"}}, "layout is simfs here"),
        ({"facts": {"architecture": "s390x"}}, "s390x on host host2"),
        ({"facts": {"guest_ids": [7, 7]}}, "LOCAL_UID"),
        ({"facts": {"free_kb": 1}}, "has 1 KiB free"),
        ({"facts": {"guest_ids": "many"}}, "makes no sense"),
    ):
        data.image_type = told
        with pytest.raises(REFUSED, match=reason):
            source.check_source(server, {}, _change(data, **changes))


def test_what_is_not_this_drivers_is_refused(instance, source):
    data = migrate_data_obj.LibvirtLiveMigrateData()
    senseless = ("", "raw", "{}", "[]", '"x"', "7", '{"version": 1}', "[" * 100000)
    for text in (None, *senseless):
        if text is not None:
            data.image_type = text
        with pytest.raises(REFUSED, match="makes no sense"):
            source.check_source(instance, {}, data)


def test_a_server_that_cannot_move_as_it_is_is_refused(
    server, source, target, node, away
):
    data = target.check_destination(server, ADDRESS, None)
    container = OvzContainer.find(node, uuid=support.UUID)

    def refused(reason, disks=()):
        with pytest.raises(REFUSED, match=reason):
            source.check_source(server, {"block_device_mapping": disks}, data)

    refused("volumes", disks=[{"mount_device": "/dev/vdb"}])
    away.switch("other_cpu", True)
    refused("CPU is not compatible")
    data.target_connect_addr = "192.0.2.3"
    refused("by an ssh key")
    container.pause()
    refused("container 101 is paused")
    container.unpause()
    container.stop()
    refused("container 101 is stopped")
    path = Path(node.paths.conf) / "101.conf"
    path.write_text(path.read_text().replace('"simfs"', '"ploop"'))
    refused("only servers of layout simfs move live: ploop")


@pytest.mark.parametrize(
    "kind",
    [
        "claim",
        pytest.param("container", marks=pytest.mark.slow),
        pytest.param("left-over", marks=pytest.mark.slow),
    ],
)
def test_a_number_that_is_taken_there_is_refused(
    server, target, checked, away, away_node, kind
):
    if kind == "container":
        support.foreign(away, support.add_image(away), "101")
    elif kind == "claim":
        away_node.claims.claim_this("101", support.OTHER_UUID, list)
    else:
        (away.dump_dir / "Dump.101").touch()

    with pytest.raises(REFUSED, match="CTID 101 is taken on host host2: give each"):
        target.check_number(server, checked)
    with pytest.raises(exception.ClaimError, match="CTID 101 is taken on host host2"):
        target.prepare(server, ports.network_info(), checked)
    # What Nova does then leaves alone what is others'.
    before = support.traces(away, away_node)
    target.roll_back(server, ports.network_info(), checked)
    assert support.traces(away, away_node) == before


def test_the_destination_is_ready_before_the_move(prepared, away_node, ovs):
    owner = away_node.claims.owner("101")
    assert (owner.uuid, owner.host) == (support.UUID, "host2")
    assert away_node.claims.has("101", ovz_ctid.ARRIVING)
    assert [call for call in ovs.calls if call[0] == "plug"][-2:] == [
        ("plug", port) for port in ports.PORTS
    ]


@pytest.mark.slow
def test_other_host_ends_than_the_container_has_are_refused(server, target, checked):
    vifs = [ports.vif(ports.PORTS[0], devname="tapother"), ports.vif(ports.PORTS[1])]
    with pytest.raises(exception.NetworkUnsupported, match="would have others here"):
        target.prepare(server, ports.network_info(*vifs), checked)


@pytest.mark.slow
def test_a_host_end_that_is_there_already_is_refused(server, target, checked, away):
    away.add_nic(ports.vif()["devname"])
    with pytest.raises(exception.InterfaceMissing, match="has one named"):
        target.prepare(server, ports.network_info(), checked)


@pytest.mark.parametrize("hybrid", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nova_waits_for_ports_only_where_they_can_become_active(
    server, target, checked, hybrid
):
    checked.vifs = [
        migrate_data_obj.VIFMigrateData(
            port_id=vif["id"],
            vnic_type="normal",
            vif_type="ovs",
            host="host2",
            vif_details={"ovs_hybrid_plug": hybrid},
            profile={},
            source_vif=vif,
        )
        for vif in ports.network_info()
    ]

    data = target.prepare(server, [], checked)

    assert ("vifs" in data) is hybrid


@pytest.mark.slow
def test_what_an_earlier_stay_has_left_is_removed(
    server, target, checked, away, away_node
):
    away_node.claims.claim(support.UUID, list)
    stale = away.private_dir / "5000"
    stale.mkdir()

    target.prepare(server, ports.network_info(), checked)

    assert not stale.exists()
    assert away_node.claims.find(support.UUID) == ["101"]


# -- the move -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "called"),
    [(moving.Place.THERE, ["post"]), (moving.Place.HERE, ["recover"])],
)
def test_nova_is_told_where_the_server_is(
    server, source, checked, monkeypatch, place, called
):
    outcome = moving.Outcome(place, "some reason")
    monkeypatch.setattr(moving.Move, "run", lambda self: outcome)
    calls = []

    def post(context, instance, dest, block_migration, migrate_data):
        assert (context, instance, dest, block_migration) == (1, server, "host2", True)
        assert migrate_data is checked
        calls.append("post")

    def recover(context, instance, dest, migrate_data):
        assert (context, instance, dest) == (1, server, "host2")
        assert migrate_data is checked
        calls.append("recover")

    source.move(1, server, "host2", post, recover, True, checked)

    assert calls == called


@pytest.mark.slow
def test_nova_is_told_nothing_when_nobody_knows(
    server, source, checked, monkeypatch, caplog
):
    outcome = moving.Outcome(moving.Place.UNKNOWN, "time is over")
    monkeypatch.setattr(moving.Move, "run", lambda self: outcome)

    told = []
    monkeypatch.setattr(
        livemigration.compute_utils,
        "add_instance_fault_from_exc",
        lambda *args, fault_message: told.append(fault_message),
    )
    server.progress = 45

    with pytest.raises(
        exception.TransferError, match="or on both; nothing was removed"
    ):
        source.move(None, server, "host2", None, None, None, checked)
    assert "It is not known to be here: time is over" in caplog.text
    assert "nothing was removed" in told[0]
    assert server.progress == 0


@pytest.fixture
def in_first_pass(server, source, prepared, sim, away):
    """Let the move hang in its first pass; what Nova is told when it is over."""
    sim.hang("vzmigrate", "pass")
    told = []

    def recover(context, instance, dest, migrate_data, **options):
        told.append(options)

    def move():
        source.move(None, server, "host2", None, recover, None, prepared)

    def over():
        thread.join()
        return told

    thread = threading.Thread(target=move)
    thread.start()
    while not (away.private_dir / "101/.half.a1B2c3").exists():
        assert thread.is_alive()
        thread.join(0.01)
    return over


def test_an_aborted_move_is_cancelled_and_the_server_runs_on(
    in_first_pass, server, source, sim, away
):
    source.abort(server)

    assert in_first_pass() == [{"migration_status": "cancelled"}]
    assert sim.state("101") == "running"
    assert away.containers() == []
    assert not (away.private_dir / "101").exists()


def test_a_move_of_a_service_that_is_gone_is_ended_too(
    in_first_pass, server, node, life, net, sim
):
    fresh = livemigration.LiveMigrations(node, life, net)

    fresh.abort(server)

    # Of the one that is gone, nobody hears.
    assert in_first_pass() == [{}]
    assert sim.state("101") == "running"


def test_a_move_that_cannot_be_aborted_fails_as_any(
    in_first_pass, server, source, monkeypatch
):
    end = firstpass._end
    monkeypatch.setattr(firstpass, "_end", lambda process: end(process) and False)

    with pytest.raises(exception.TransferError, match="it cannot be undone"):
        source.abort(server)

    assert in_first_pass() == [{}]


def test_a_move_that_went_well_all_the_same_is_no_aborted_one(
    server, source, checked, monkeypatch
):
    def run(move):
        source._courses[server.uuid].aborted = True
        return moving.Outcome(moving.Place.THERE)

    monkeypatch.setattr(moving.Move, "run", run)
    calls = []

    source.move(None, server, "host2", _noting(calls, "post"), None, None, checked)

    assert calls == ["post"]


def test_nothing_is_aborted_where_nothing_is_under_way(
    server, source, instance, monkeypatch
):
    monkeypatch.setattr(firstpass, "_START", 0)
    with pytest.raises(exception.TransferError, match="no vzmigrate"):
        source.abort(server)
    instance.uuid = support.OTHER_UUID
    with pytest.raises(nova_exception.InstanceNotFound):
        source.abort(instance)


# -- how far it is --------------------------------------------------------------------

SENT = 4 << 20


@pytest.fixture
def shown(server, monkeypatch):
    """What Nova's database was told of the server's progress."""
    told = []
    monkeypatch.setattr(type(server), "save", lambda self: told.append(self.progress))
    monkeypatch.setattr(livemigration, "PROGRESS_INTERVAL", 0.01)
    return told


@pytest.fixture
def recorded(monkeypatch):
    """What it was told of the migration: all, done and left."""
    told = []

    def save(self):
        told.append((self.disk_total, self.disk_processed, self.disk_remaining))
        # What they are now is saved.
        self.obj_reset_changes()

    monkeypatch.setattr(objects.Migration, "save", save)
    return told


@pytest.fixture
def large(server, sim):
    """A server with as many bytes as show."""
    (sim.private_dir / "101/content").write_bytes(os.urandom(SENT))


@pytest.fixture
def begun(large, prepared, source, server, sim, shown, recorded):
    """Move a server until something has come, and then on; what Nova is told."""
    sim.hang("vzmigrate", "pass", when="after")
    prepared.migration = objects.Migration()

    def run(has_come):
        calls = []
        post, recover = (_noting(calls, word) for word in ("post", "recover"))
        args = (None, server, "host2", post, recover, None, prepared)
        thread = threading.Thread(target=source.move, args=args)
        thread.start()
        try:
            while not has_come():
                assert thread.is_alive()
                thread.join(0.01)
        finally:
            sim.go_on()
            thread.join()
        return calls

    return run


def test_nova_shows_how_far_a_move_is(begun, prepared, server, shown, recorded):
    half = []

    def has_come():
        half[:] = [done for _, done, _ in recorded if done > 1 << 19]
        return half

    assert begun(has_come) == ["post"]

    total = json.loads(prepared.image_type)["bytes"]
    assert half[0] < SENT < total
    # The API has a number above 0, or none.
    assert {(whole, done + (left or 0)) for whole, done, left in recorded} == {
        (total, total)
    }
    assert 0 not in [figure for figures in recorded for figure in figures]
    dones = [done for _, done, _ in recorded]
    assert dones == sorted(set(dones))
    assert "memory_total" not in prepared.migration
    # Not what was left of a work before, and not all.
    assert shown[0] == 0
    assert shown == sorted(set(shown))
    assert 0 < server.progress <= 90


def test_a_first_pass_that_is_over_is_nine_tenths(prepared, server, shown, recorded):
    prepared.migration = objects.Migration()
    total = json.loads(prepared.image_type)["bytes"]

    livemigration._Figures(server, prepared)._tell(total)

    assert shown == [0, 90]
    assert recorded == [(total, total, None)]


def test_a_look_that_fails_costs_no_move(begun, node, monkeypatch, caplog):
    failed = []
    call = node.executor.call

    def fail(verb, **kwargs):
        if verb == "measure_first_pass":
            failed.append(verb)
            raise exception.PrivilegeError("no root today")
        return call(verb, **kwargs)

    monkeypatch.setattr(node.executor, "call", fail)

    assert begun(lambda: len(failed) > 2) == ["post"]

    said = [r.levelname for r in caplog.records if "no root today" in r.getMessage()]
    assert said.count("WARNING") == 1
    assert "ERROR" not in said
    assert not [t for t in threading.enumerate() if "ovz-progress" in t.name]


def test_a_server_that_is_deleted_as_it_goes_is_survived(
    begun, server, monkeypatch, recorded, caplog
):
    def gone(self):
        raise nova_exception.InstanceNotFound(instance_id=self.uuid)

    monkeypatch.setattr(type(server), "save", gone)

    assert begun(lambda: recorded) == ["post"]
    assert "cannot be shown" not in caplog.text


def test_of_a_tree_that_nobody_has_measured_nothing_is_shown(prepared, server):
    said = json.loads(prepared.image_type)
    # Nothing is said where the service was upgraded meanwhile.
    del said["bytes"]
    for more in ({}, *({"bytes": n} for n in (0, -1, "7", [], 2.5, True, None))):
        prepared.image_type = json.dumps({**said, **more})
        figures = livemigration._Figures(server, prepared)

        with figures.watched(None) as watch:
            assert watch is None, more


def test_what_no_disk_holds_is_shown_as_far_as_it_can_be(prepared, server, recorded):
    said = json.loads(prepared.image_type)
    prepared.image_type = json.dumps({**said, "bytes": 2**70})
    prepared.migration = objects.Migration()

    livemigration._Figures(server, prepared)._tell(1)

    assert recorded == [(2**63 - 1, 1, 2**63 - 2)]


# -- after, on the source -------------------------------------------------------------


def test_nothing_is_left_on_the_source(arrived, server, source, sim, node, away):
    source.unplug(server, ports.network_info())
    source.clean_up(server, None, arrived, destroy_disks=True, destroy_vifs=False)

    assert support.traces(sim, node) == {}
    assert away.state("101") == "running"


@pytest.mark.slow
def test_what_cannot_be_removed_does_not_keep_nova_from_the_end(
    arrived, server, source, sim, ovs, caplog
):
    ovs.failing.add(ports.PORTS[0])
    source.unplug(server, ports.network_info())
    assert "A port is left" in caplog.text
    sim.fail("vzlist", rc=1)

    source.clean_up(server, None, arrived, destroy_disks=True, destroy_vifs=False)

    assert "Something is left of it here" in caplog.text
    assert (sim.private_dir / "101").is_dir()


@pytest.mark.slow
def test_a_deletion_that_fails_fails(server, source, sim):
    sim.fail("vzctl", "destroy", rc=96)
    with pytest.raises(exception.CleanupFailed):
        source.clean_up(server, None, None, destroy_disks=True, destroy_vifs=False)


# -- after, on the destination --------------------------------------------------------


def test_a_container_that_comes_is_nobodys_until_nova_says_so(
    arrived, server, target, away_node, node
):
    node.look.forget()
    assert OvzContainer.find_remains(away_node, support.UUID).ovz_id == "101"
    with pytest.raises(exception.ContainerNotFound):
        OvzContainer.find(away_node, uuid=support.UUID)

    target.arrive(server, ports.network_info())

    assert OvzContainer.find(away_node, uuid=support.UUID).ovz_id == "101"
    assert away_node.claims.has("101", ovz_ctid.MADE)


def test_a_server_that_comes_has_its_network_and_this_hosts_limits(
    arrived, server, target, away, away_node, monkeypatch
):
    told = []
    monkeypatch.setattr(
        "ovznovadriver.openvz.wiring.Wiring.announce",
        lambda self, ends: told.extend(end.host_ifname for end in ends),
    )
    server.flavor.memory_mb = 1024

    target.arrive(server, ports.network_info())
    # Once more, as after a crash.
    target.arrive(server, ports.network_info())

    taps = sorted(vif["devname"] for vif in ports.network_info())
    assert ports.taps(away) == taps
    assert told == [*taps, *taps]
    assert away.conf("101")["PHYSPAGES"].split(":")[-1] == "262144"
    assert (away.conf_dir / "101.nics").exists()


@pytest.mark.slow
def test_limits_that_cannot_be_set_do_not_cost_the_server(
    arrived, server, target, away, away_node, caplog
):
    away.fail("vzctl", "set", nth=2, rc=96)

    target.arrive(server, ports.network_info())

    assert "keeps the limits" in caplog.text
    assert OvzContainer.find(away_node, uuid=support.UUID).ovz_id == "101"


@pytest.mark.slow
def test_a_server_that_comes_without_an_interface_is_an_error(
    arrived, server, target, away, away_node
):
    away.remove_nic(ports.vif()["devname"])

    with pytest.raises(exception.InterfaceMissing):
        target.arrive(server, ports.network_info())
    # It is this host's all the same.
    assert OvzContainer.find(away_node, uuid=support.UUID).state.value == "running"


@pytest.mark.slow
def test_a_server_that_dies_at_once_is_here_all_the_same(
    arrived, server, target, away, away_node, caplog
):
    away.halt("101")

    target.arrive(server, ports.network_info())

    assert "does not run any more" in caplog.text
    assert OvzContainer.find(away_node, uuid=support.UUID).ovz_id == "101"


def test_a_server_of_which_nothing_came_is_not_found(server, target):
    assert target.adopt(server) is None
    with pytest.raises(nova_exception.InstanceNotFound):
        target.arrive(server, ports.network_info())


def test_what_came_of_a_server_that_stays_is_removed(
    server, source, target, prepared, sim, away, away_node
):
    # As when ssh breaks, and vzmigrate cannot undo what it did there.
    copy = sim.conf_text("101").replace(str(sim.root), str(away.root))
    (away.conf_dir / "101.conf").write_text(copy)
    (away.private_dir / "101/etc").mkdir(parents=True)

    target.roll_back(server, ports.network_info(), prepared)

    assert support.traces(away, away_node) == {}
    assert sim.state("101") == "running"


@pytest.mark.slow
def test_a_copy_that_runs_there_is_removed_when_the_server_stays(
    arrived, server, target, away, away_node
):
    target.roll_back(server, ports.network_info(), arrived)

    assert support.traces(away, away_node) == {}


@pytest.mark.slow
def test_a_server_that_never_came_leaves_nothing(
    server, target, away, away_node, checked
):
    target.roll_back(server, ports.network_info(), checked)
    target.roll_back(server, ports.network_info(), None)

    assert support.traces(away, away_node) == {}


def test_a_neighbour_on_one_node_is_not_taken_for_an_arrival(server, sim):
    neighbour = support.open_node(sim, "host2", lock_dir=str(sim.root / "others"))
    neighbour.claims.claim(support.UUID, list)

    # It has the number of the container that bears the other host's tag.
    assert neighbour.claims.find(support.UUID) == ["101"]
    assert OvzContainer.find_remains(neighbour, support.UUID) is None


def test_a_number_within_bounds_is_not_needed_to_come(away_node):
    assert away_node.options.ctids == (5000, 5999)
    away_node.claims.claim_this("101", support.UUID, list)
    assert away_node.claims.claim(support.OTHER_UUID, list) == "5000"


# -- on a disk that both hosts have ---------------------------------------------------


@pytest.fixture
def near(tmp_path, sim):
    """A node that has the private areas of the first one."""
    other = support.neighbour(sim, tmp_path / "near")
    other.switch("openvz_kernel", True)
    sim.add_peers({ADDRESS: other})
    return other


@pytest.fixture
def near_node(near, node):
    return support.open_node(near, "host2", lock_dir=node.options.lock_dir)


@pytest.fixture
def near_target(near_node, net):
    there = lifecycle.Lifecycle(near_node, net, SimpleNamespace(prepare=None))
    return livemigration.LiveMigrations(near_node, there, net)


def near_checked(server, source, near_target, block=None):
    server.host = support.HOST
    data = near_target.check_destination(server, ADDRESS, block)
    return near_target.check_number(server, source.check_source(server, {}, data))


@pytest.fixture
def near_prepared(server, source, near_target):
    data = near_checked(server, source, near_target)
    near_target.end_check(data)
    return near_target.prepare(server, ports.network_info(), data)


def go(source, server, data):
    """Have it moved; what Nova was told."""
    calls = []
    told = (_noting(calls, "post"), _noting(calls, "recover"))
    source.move(None, server, "host2", *told, None, data)
    return calls


@pytest.mark.parametrize("block", [None, False])
def test_a_server_changes_hands_where_nothing_is_to_be_copied(
    server, source, near_target, near, near_node, sim, node, ovs, block
):
    data = near_checked(server, source, near_target, block)
    near_target.end_check(data)
    number = (sim.private_dir / "101").stat().st_ino
    near_target.prepare(server, ports.network_info(), data)
    assert near.containers() == []

    assert go(source, server, data) == ["post"]

    assert sim.containers() == near.containers() == []
    near_target.arrive(server, ports.network_info())
    source.clean_up(
        server, ports.network_info(), data, destroy_disks=True, destroy_vifs=True
    )
    assert near.state("101") == "running"
    assert (sim.private_dir / "101").stat().st_ino == number
    assert OvzContainer.find(near_node, uuid=support.UUID).host == "host2"
    assert support.traces(sim, node).keys() <= {"private", "claims"}


def test_vzmigrate_judges_whether_a_server_can_change_hands(
    server, source, near_target, near
):
    near.switch("other_cpu", True)

    with pytest.raises(REFUSED, match="CPU"):
        near_checked(server, source, near_target)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("copy", "nothing is to be copied: ask for .* 'auto' or False"),
        ("old", "cannot take over a server there: install the same driver on both"),
        ("claims", "but not its claims of CTIDs: put .openvz.lock_dir of both"),
    ],
)
def test_a_server_that_cannot_change_hands_is_refused(
    server, source, near_target, near, sim, tmp_path, net, wrong, reason
):
    if wrong == "claims":
        (tmp_path / "others").mkdir()
        apart = support.open_node(near, "host2", lock_dir=str(tmp_path / "others"))
        near_target = livemigration.LiveMigrations(apart, None, net)
    server.host = support.HOST
    block = True if wrong == "copy" else None
    data = near_target.check_destination(server, ADDRESS, block)
    if wrong == "old":
        told = json.loads(data.image_type)
        del told["handover"]
        data.image_type = json.dumps(told)
    with pytest.raises(REFUSED, match=reason):
        near_target.check_number(server, source.check_source(server, {}, data))
    assert sim.state("101") == "running"


def test_what_is_there_is_not_removed_before_a_server_comes(
    server, near_target, near_prepared, near_node, near, sim
):
    """Its files are the server's."""
    tag = metadata.Tag(host="host2", name="x", nova_id="7", uuid=support.UUID)
    (near.conf_dir / "101.conf").write_text(sim.conf_text("101"))
    support.describe(near, "101", metadata.encode(tag))
    near_node.look.forget()

    with pytest.raises(REFUSED, match="has a configuration of container 101"):
        near_target.check_number(server, near_prepared)
    with pytest.raises(exception.TransferError, match="has a configuration of"):
        near_target.prepare(server, ports.network_info(), near_prepared)

    assert (sim.private_dir / "101/sbin/init").exists()


@pytest.mark.parametrize(
    ("program", "step", "when"),
    [
        ("vzlist", "", "before"),
        ("vzctl", "suspend", "before"),
        ("vzctl", "suspend", "after"),
    ],
)
def test_a_server_that_cannot_leave_runs_on(
    server, source, near_prepared, sim, node, program, step, when
):
    node.look.forget()
    sim.fail(program, step, rc=16, when=when, stderr="no luck")

    assert go(source, server, near_prepared) == ["recover"]

    assert sim.state("101") == "running"
    assert not node.claims.has("101", ovz_ctid.LEAVING)


def test_nova_has_a_server_as_suspended_that_does_not_run_on(
    server, source, near_prepared, sim, monkeypatch
):
    """It would stop it otherwise, and its memory would be lost."""
    sim.fail("vzctl", "suspend", rc=16, when="after")
    sim.fail("vzctl", "resume", rc=17)
    monkeypatch.setattr(type(server), "save", lambda self, **kwargs: None)
    server.task_state = None

    assert go(source, server, near_prepared) == ["recover"]

    assert sim.state("101") == "suspended"
    assert server.vm_state == "suspended"


def test_what_was_made_for_a_server_that_stays_is_removed_without_its_files(
    server, near_target, near_prepared, sim, ovs
):
    ovs.calls.clear()

    near_target.roll_back(server, ports.network_info(), near_prepared)

    assert [call[0] for call in ovs.calls] == ["unplug"] * len(ports.network_info())
    assert sim.state("101") == "running"


def test_of_a_server_that_nobody_has_taken_nothing_is_removed(
    server, source, near_prepared, sim, caplog
):
    go(source, server, near_prepared)

    source.clean_up(
        server,
        ports.network_info(),
        near_prepared,
        destroy_disks=True,
        destroy_vifs=True,
    )

    assert "has not taken it yet" in caplog.text
    assert (sim.private_dir / ".handed-101/tree/sbin/init").exists()


def test_a_server_that_changes_hands_cannot_be_aborted(server, source, near_prepared):
    go(source, server, near_prepared)

    with pytest.raises(nova_exception.InstanceNotFound):
        source.abort(server)
