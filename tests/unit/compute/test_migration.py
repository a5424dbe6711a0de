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

"""Which way a move goes, and what a host does at each end of it."""

import pytest

from nova import objects
from ovznovadriver.compute import evacuation, handover, lifecycle, migration
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.compute import moves, ports
from tests.unit.compute.moves import ADDRESS

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID


@pytest.fixture
def moving(node, life, net):
    """What moves to this host, from it, and within it."""
    evacuations = evacuation.Evacuations(node, life, net)
    return migration.Migrations(node, life, net, evacuations)


# -- which way ----------------------------------------------------------------------


def test_a_record_says_whether_a_server_stays(instance, flags, monkeypatch):
    arriving = moves.recorded(instance, monkeypatch)
    flags(my_ip=ADDRESS)
    assert not migration._stays(None, instance, ADDRESS)
    arriving.source_compute = support.HOST
    assert migration._stays(None, instance, ADDRESS)


def test_without_a_record_the_address_does(instance, flags):
    instance.migration_context = None

    flags(my_ip=ADDRESS)
    assert migration._stays(None, instance, ADDRESS)
    flags(my_ip="192.0.2.1")
    assert not migration._stays(None, instance, ADDRESS)


@pytest.mark.parametrize("way", ["confirmed", "reverted"])
def test_a_server_that_stays_is_sent_nowhere(sim, node, boot, moving, nova_server, way):
    ctid = boot()
    before = sim.conf_text(ctid)
    larger = nova_server.flavor.obj_clone()
    larger.memory_mb = 1024
    within = moves.record(source_compute=support.HOST)
    info, meta = ports.network_info(), objects.ImageMeta.from_dict({})

    said = moving.leave(None, nova_server, _own_address(), larger, info, 0)

    assert said == ""
    assert sim.state(ctid) == "stopped"
    moving.arrive(within, nova_server, said, info, meta, power_on=True)
    assert sim.state(ctid) == "running"
    assert OvzContainer.find(node, uuid=UUID).is_kept
    if way == "confirmed":
        moving.confirm(within, nova_server, info)
    else:
        moving.return_(within, nova_server, info, power_on=True)
    assert not OvzContainer.find(node, uuid=UUID).is_kept
    assert (sim.conf_text(ctid) == before) is (way == "reverted")
    assert sim.state(ctid) == "running"


def _own_address():
    return str(migration.CONF.my_ip)


def test_a_server_of_another_host_is_made_of_what_has_come(
    sim, node, moving, nova_server
):
    moves.tree_that_came(node)
    info, meta = ports.network_info(), objects.ImageMeta.from_dict({})

    moving.arrive(
        moves.record(), nova_server, '{"version": 1}', info, meta, power_on=False
    )

    (ctid,) = sim.containers()
    assert (sim.tree(ctid) / "mine").exists()
    assert sim.state(ctid) == "stopped"


def test_of_a_server_that_has_gone_nothing_stays(sim, node, boot, moving, nova_server):
    boot(power_on=False)
    gone = moves.record(source_compute=support.HOST, dest_compute="host2")

    moving.confirm(gone, nova_server, ports.network_info())

    assert support.traces(sim, node) == {}


# -- what is here of a server -------------------------------------------------------


def test_a_hard_reboot_gives_a_server_its_name_again(sim, boot, node, moving, instance):
    # A revert on one disk may have been interrupted before.
    ctid = boot()
    before = sim.conf_text(ctid)
    if not node.family.uuid_ctids:
        OvzContainer.find(node, uuid=support.UUID).prep_for_migration()
    instance.migration_context = None

    moving.reboot(None, instance, ports.network_info(), hard=True)

    assert sim.conf_text(ctid) == before


@pytest.mark.parametrize("evacuated", [True, False])
def test_a_server_that_is_being_evacuated_is_not_removed_with_its_files(
    sim, node, boot, moving, nova_server, migrations, evacuated
):
    ctid = boot()
    migrations.append(
        moves.record(
            instance_uuid=UUID if evacuated else OTHER_UUID,
            migration_type="evacuation",
            source_compute=support.HOST,
            dest_compute="host2",
            status="accepted",
        )
    )

    moving.destroy(None, nova_server, ports.network_info(), destroy_disks=True)

    if evacuated:
        assert sim.state(ctid) == "stopped"
        assert sim.tree(ctid).is_dir()
    else:
        assert support.traces(sim, node) == {}


def test_what_has_come_of_a_deleted_server_is_removed(node, life, moving, instance):
    moves.tree_that_came(node)
    assert life.list_uuids() == [support.UUID]

    assert moving.forget(instance)

    assert life.list_uuids() == []
    assert not moves.arrivals(node).exists()


@pytest.mark.parametrize("sim", ["4"], indirect=True)
@pytest.mark.parametrize("deleted", [False, True])
def test_a_server_that_changes_hands_can_be_deleted(
    sim, node, boot, moving, nova_server, migrations, deleted
):
    container = OvzContainer.find(node, boot())
    container.suspend()
    handover.Handover(node).give(container)
    # Nova's periodic task asks for what it lists.
    assert support.UUID in lifecycle.Lifecycle(node, None, None).list_uuids()

    if deleted:
        assert moving.forget(nova_server)
    else:
        moving.destroy(None, nova_server, ports.network_info(), destroy_disks=True)

    assert support.traces(sim, node) == {}


def test_what_stays_is_said(moving, boot, instance, sim):
    boot()
    sim.fail("vzctl", "stop", rc=96)

    assert not moving.forget(instance)
