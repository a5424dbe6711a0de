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

"""A rescue and its end, what is refused, and what fails in the middle."""

import pytest
from nova.compute import vm_states
from oslo_utils import secretutils

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import rescue
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.compute import diskimage, ports
from tests.unit.compute.abandoned import rescued

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID


@pytest.fixture
def rescuer(node, life, net):
    """What rescues the servers of a node."""
    return rescue.Rescue(node, life, net, life._images)


@pytest.fixture
def ask(rescuer, nova_server):
    """Rescue the server, from an image; the image."""
    nova_server.image_ref = OTHER_UUID

    def asking(image_id=None):
        meta = objects.ImageMeta.from_dict({"id": image_id} if image_id else {})
        info = ports.network_info()
        rescuer.rescue(None, nova_server, info, meta, password="r3scue")
        return meta

    return asking


@pytest.fixture
def ctid(sim, boot):
    """The CTID of the server, which runs and has a file of its own."""
    found = boot()
    (sim.tree(found) / "etc/mine").write_text("the user's")
    return found


def has_its_own_tree(sim, ctid):
    """Whether a container has its own tree, and no other one is there."""
    alone = sim.containers() == [ctid]
    return alone and (sim.tree(ctid) / "etc/mine").read_text() == "the user's"


def password_of(tree):
    """What root's password is in a tree, hashed."""
    return (tree / "etc/shadow").read_text().split(":")[1]


def test_a_server_runs_from_the_image_with_its_own_tree_inside(
    sim, ctid, ask, rescuer, nova_server
):
    ask()

    assert sim.state(ctid) == "running"
    assert sim.containers() == [ctid]
    assert not (sim.tree(ctid) / "etc/mine").exists()
    assert (sim.tree(ctid) / "instance/etc/mine").read_text() == "the user's"
    # What Nova tells the user is the password of this tree, not of its own.
    hashed = password_of(sim.tree(ctid))
    assert secretutils.crypt_password("r3scue", hashed) == hashed
    assert password_of(sim.tree(ctid) / "instance") != hashed

    rescuer.unrescue(nova_server)

    assert sim.state(ctid) == "running"
    assert has_its_own_tree(sim, ctid)


@pytest.mark.parametrize(
    ("asked", "used"), [(None, OTHER_UUID), (UUID, UUID)], ids=["its own", "another"]
)
def test_without_an_image_the_servers_own_is_used(
    ctid, ask, life, monkeypatch, asked, used
):
    seen = []

    def prepare(context, instance, meta):
        seen.append(meta.id)
        raise exception.ImageUnsuitable("enough")

    monkeypatch.setattr(life._images, "prepare", prepare)
    with pytest.raises(exception.ImageUnsuitable):
        ask(asked)

    assert seen == [used]


@pytest.mark.parametrize("step", ["create", "start"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_step_that_fails_leaves_the_server_stopped_as_it_was(
    sim, node, ctid, ask, step, when
):
    before = sim.conf_text(ctid)
    sim.fail("vzctl", step, rc=96, stderr="no luck\n", when=when)

    with pytest.raises(exception.CommandFailed, match="no luck"):
        ask()

    assert has_its_own_tree(sim, ctid)
    assert sim.conf_text(ctid) == before
    assert OvzContainer.find(node, uuid=UUID).refresh().value == "stopped"
    assert node.claims.ctids() == [ctid]


def test_an_image_that_has_the_place_of_the_servers_tree_is_refused(sim, ctid, ask):
    # Under the name by which the cache has the image already.
    sim.add_template("image", {"instance/": ""})

    with pytest.raises(exception.UnsafePath, match="a /instance of its own"):
        ask()

    assert has_its_own_tree(sim, ctid)
    assert sim.state(ctid) == "stopped"


def test_what_an_interrupted_rescue_has_left_is_settled_before(
    sim, node, image, ctid, ask
):
    OvzContainer.find(node, uuid=UUID).stop(fast=True)
    rescued(node, image)

    ask()

    assert (sim.tree(ctid) / "instance/etc/mine").exists()
    assert not (sim.tree(ctid) / "instance/instance").exists()


def test_a_server_that_is_not_rescued_is_only_started(
    sim, node, ctid, rescuer, nova_server
):
    rescuer.unrescue(nova_server)

    assert sim.state(ctid) == "running"
    assert has_its_own_tree(sim, ctid)
    assert node.claims.ctids() == [ctid]


@pytest.mark.parametrize("before", ["runs", "is stopped"])
def test_a_hard_reboot_ends_a_rescue_that_nova_does_not_know_of(
    sim, node, ctid, ask, life, rescuer, nova_server, before
):
    ask()
    sim.fail("vzctl", "stop", rc=96, stderr="no luck\n")
    with pytest.raises(exception.CommandFailed, match="no luck"):
        rescuer.unrescue(nova_server)
    # Nova unrescues it no more.
    nova_server.vm_state = vm_states.ERROR
    if before == "is stopped":
        life.power_off(nova_server)

    life.reboot(nova_server, ports.network_info(), hard=True)

    assert sim.state(ctid) == "running"
    assert has_its_own_tree(sim, ctid)
    assert node.claims.ctids() == [ctid]


@pytest.mark.parametrize("before", ["stopped", "mounted"])
def test_a_server_that_nova_does_not_have_as_rescued_is_started_from_its_own_tree(
    sim, ctid, ask, life, nova_server, before
):
    ask()
    if before == "stopped":
        life.power_off(nova_server)
    else:
        sim.halt(ctid)
    nova_server.vm_state = vm_states.STOPPED

    life.power_on(nova_server, ports.network_info())

    assert has_its_own_tree(sim, ctid)


def test_a_rescued_server_stays_rescued_when_its_host_was_rebooted(
    sim, ctid, ask, life, nova_server
):
    ask()
    nova_server.vm_state = vm_states.RESCUED
    sim.reboot()

    life.resume_after_boot(nova_server, ports.network_info())

    assert sim.state(ctid) == "running"
    assert (sim.tree(ctid) / "instance/etc/mine").exists()


def test_where_its_own_tree_is_not_to_be_found_no_other_one_is_started(
    sim, ctid, ask, life, nova_server
):
    ask()
    tree = sim.tree(ctid)
    (tree / "instance").rename(tree / "elsewhere")
    nova_server.vm_state = vm_states.ERROR

    with pytest.raises(exception.UnsafePath, match="put it back there"):
        life.reboot(nova_server, ports.network_info(), hard=True)
    assert sim.state(ctid) == "stopped"

    (tree / "elsewhere").rename(tree / "instance")
    life.reboot(nova_server, ports.network_info(), hard=True)

    assert has_its_own_tree(sim, ctid)


def test_a_server_that_is_settled_is_stopped_and_has_its_own_tree(
    sim, ctid, ask, rescuer, nova_server
):
    ask()

    rescuer.settle(nova_server)

    assert sim.state(ctid) == "stopped"
    assert has_its_own_tree(sim, ctid)


def test_a_server_that_is_not_there_is_not_found(ask, rescuer, nova_server):
    calls = (ask, lambda: rescuer.unrescue(nova_server))
    for call in (*calls, lambda: rescuer.settle(nova_server)):
        with pytest.raises(nova_exception.InstanceNotFound):
            call()


class TestDiskImage(diskimage.OnDiskImages):
    """A server whose root tree is in a disk image."""

    def test_is_refused_and_not_even_stopped(self, sim, boot, ask, quiet):
        ctid = boot()
        quiet()

        with pytest.raises(nova_exception.InstanceNotRescuable, match="ploop"):
            ask()

        assert support.subcommands(sim) == []
        assert sim.state(ctid) == "running"
