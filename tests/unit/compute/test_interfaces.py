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

"""Limits that somebody took away; what the API asks is in the functional tests."""

import dataclasses
import shutil

import pytest

from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import interfaces, network
from ovznovadriver.openvz import hostends
from tests import support
from tests.unit.compute import diskimage, ports

ENDS = tuple(
    dataclasses.replace(end, inbound=hostends.Rate(10**6)) for end in support.ENDS
)


@pytest.fixture
def container(node, image):
    """A running container with limits."""
    made = support.create(node, image, configure=support.with_interfaces)
    made.start(ENDS)
    return made


@pytest.fixture
def mend(node, net):
    """The minutely look."""
    return interfaces.Interfaces(node, net).mend_limits


def lose_limit(sim, name="tap0"):
    """As a restart of Open vSwitch may do."""
    done = sim.run(
        "tc", "-force", "-batch", "-", stdin=f"qdisc del dev {name} root\n".encode()
    )
    assert done.rc == 0, done


def test_limits_that_are_in_force_cost_one_look(sim, container, mend):
    sim.clear_commands()

    mend()

    assert [call.program for call in sim.commands() if call.program != "vzlist"] == [
        "tc"
    ]


def test_a_limit_that_was_lost_comes_back(sim, container, mend, caplog):
    lose_limit(sim)

    mend()

    assert "had lost its bandwidth limits" in caplog.text
    sim.clear_commands()
    mend()
    assert len(sim.commands("tc")) == 1


def test_what_cannot_be_mended_is_said_and_harms_nobody(sim, container, mend, caplog):
    lose_limit(sim)
    for nth in range(2, 6):
        sim.fail("tc", nth=nth, rc=2, stderr="no memory\n")

    mend()

    assert "They are not in force" in caplog.text
    assert sim.state(container.ovz_id) == "running"


def test_a_look_that_fails_is_said(node, net, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise exception.MalformedOutput("no JSON")

    monkeypatch.setattr(node.executor, "call", fail)

    interfaces.Interfaces(node, net).mend_limits()

    assert "no JSON" in caplog.text


@pytest.fixture
def nova_ports(monkeypatch):
    """The ports that Nova has of the server."""
    known = list(ports.network_info())
    monkeypatch.setattr(
        objects.Instance, "get_network_info", lambda self: ports.network_info(*known)
    )
    monkeypatch.setattr(objects.Instance, "save", lambda self: None)
    monkeypatch.setattr(network, "keep", lambda *args: None)
    return known


def test_a_port_goes_and_comes_by_one_command_each(
    sim, node, net, boot, instance, nova_ports, ovs, quiet
):
    boot()
    subject = interfaces.Interfaces(node, net)
    second = nova_ports[1]
    quiet()

    subject.detach(None, instance, second)
    del nova_ports[1]
    assert support.subcommands(sim) == ["set"]
    assert ports.taps(sim) == [nova_ports[0]["devname"]]
    assert [call[0] for call in ovs.calls] == ["unplug"]

    quiet()
    subject.attach(None, instance, second)
    assert support.subcommands(sim) == ["set"]
    assert len(ports.taps(sim)) == 2
    assert [call[0] for call in ovs.calls] == ["plug"]


def test_a_port_that_nova_has_forgotten_already_goes(
    sim, node, net, boot, instance, nova_ports, ovs
):
    boot()
    second = nova_ports.pop()

    interfaces.Interfaces(node, net).detach(None, instance, second)

    assert ports.taps(sim) == [nova_ports[0]["devname"]]


def test_a_port_that_nova_forgot_does_not_shift_the_names_of_others(
    sim, node, net, boot, instance, nova_ports, ovs
):
    """One was deleted in Neutron, and Nova's cache was healed before it was told."""
    boot()
    first = nova_ports.pop(0)

    interfaces.Interfaces(node, net).detach(None, instance, nova_ports[0])

    assert ports.taps(sim) == [first["devname"]]


def test_a_new_port_leaves_the_interface_of_a_forgotten_one_alone(
    sim, node, net, boot, instance, nova_ports, ovs
):
    first, second = nova_ports
    ctid = boot(network_info=ports.network_info(first))
    del nova_ports[0]

    interfaces.Interfaces(node, net).attach(None, instance, second)

    assert "ifname=eth0" in sim.conf(ctid)["NETIF"]
    assert sim.conf(ctid)["NETIF"].count("ifname=eth") == 2
    assert len(ports.taps(sim)) == 2


def test_a_guest_that_cannot_be_told_does_not_keep_its_port(
    sim, node, net, boot, instance, nova_ports, ovs, caplog
):
    """Its disk is full, say, or it has put a file there."""
    place = sim.tree(boot()) / "var"
    shutil.rmtree(place)
    place.touch()

    interfaces.Interfaces(node, net).detach(None, instance, nova_ports[1])

    assert ports.taps(sim) == [nova_ports[0]["devname"]]
    assert "not told" in caplog.text


def test_an_attach_that_fails_leaves_the_server_as_it_was(
    sim, node, net, boot, instance, nova_ports, ovs, quiet
):
    ctid = boot()
    subject = interfaces.Interfaces(node, net)
    second = nova_ports[1]
    subject.detach(None, instance, second)
    del nova_ports[1]
    before = sim.conf_text(ctid)
    quiet()
    sim.fail("vzctl", "set", rc=6, stderr="no")

    with pytest.raises(exception.CommandFailed):
        subject.attach(None, instance, second)

    assert sim.conf_text(ctid) == before
    assert [call[0] for call in ovs.calls] == ["plug", "unplug"]


class TestDiskImage(diskimage.OnDiskImages):
    """A server whose root tree is in a disk image (layout ploop)."""

    def test_is_told_of_its_ports_while_it_runs(
        self, sim, node, net, boot, instance, nova_ports
    ):
        ctid = boot()
        subject = interfaces.Interfaces(node, net)
        second = nova_ports[1]
        subject.detach(None, instance, second)
        del nova_ports[1]

        subject.attach(None, instance, second)

        assert len(ports.taps(sim)) == 2
        assert sim.state(ctid) == "running"
