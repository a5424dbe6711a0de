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

"""The host's side of a container's interfaces, with the simulated ip and tc."""

import dataclasses

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import announce, hostends
from tests import support

LIMITED = tuple(
    dataclasses.replace(end, outbound=hostends.Rate(10**6), addresses=("192.0.2.5",))
    for end in support.ENDS
)


@pytest.fixture
def container(node, image):
    """One with interfaces, which does not run."""
    return support.create(node, image, configure=support.with_interfaces)


def test_what_is_wanted_is_there_before_the_start(sim, container):
    container.wiring.keep(LIMITED)

    assert container.wiring.kept() == LIMITED
    container.wiring.keep(())
    assert container.wiring.kept() == ()


def test_limits_come_with_the_interfaces_and_go_with_them(sim, container):
    container.start(LIMITED)
    assert sim.nics() == ["ifb0", "ifb1", "tap0", "tap1"]

    container.stop(fast=True)

    assert sim.nics() == []


def test_limits_of_a_container_that_halted_by_itself_go_with_it(sim, node, container):
    container.start(LIMITED)
    sim.halt(container.ovz_id)

    container.delete()

    assert support.traces(sim, node) == {}


def test_a_bridge_that_is_missing_fails_the_start(sim, container):
    ends = [dataclasses.replace(support.ENDS[0], bridge="qbr0"), support.ENDS[1]]

    with pytest.raises(exception.InterfaceMissing, match="qbr0"):
        container.start(ends)

    assert sim.state(container.ovz_id) != "running"


def test_a_pair_that_vzctl_did_not_take_fails_the_start(sim9, node9, image9):
    container = support.create(node9, image9, configure=support.with_interfaces)
    sim9.add_nic("ovp1")

    with pytest.raises(exception.InterfaceMissing, match="other end of tap1"):
        container.start(support.ENDS)


def test_addresses_are_announced_where_there_are_some(container, monkeypatch):
    asked = []
    monkeypatch.setattr(
        container.node.executor, "call", lambda verb, **kwargs: asked.append(kwargs)
    )

    container.wiring.announce(support.ENDS)
    container.wiring.announce(LIMITED[1:])

    assert [request["names"] for request in asked] == [["tap1"]]


def test_what_cannot_be_announced_leaves_a_container_that_has_started(
    sim, container, monkeypatch, tmp_path, caplog
):
    """As where a name of a network namespace outlived what it stood for."""
    monkeypatch.setattr(announce, "NAMESPACES", str(tmp_path))
    (tmp_path / container.ovz_id).touch()
    container.start(LIMITED)

    container.wiring.announce(LIMITED)

    assert "are not announced" in caplog.text


def test_a_pair_that_vzctl_did_not_take_goes_and_nothing_is_asked_without(
    sim9, node9, image9
):
    container = support.create(node9, image9, configure=support.with_interfaces)
    container.wiring.keep(support.ENDS)
    for name, peer in (("tap0", "ovp0"), ("ovp0", "tap0"), ("tap1", "eth7")):
        sim9.add_nic(name)
        sim9.note_link(name, kind="veth", peer=peer)
    assert container.wiring.left() == ["ovp0"]

    container.wiring.drop_pairs()

    # The other is at its place in some container.
    assert sim9.nics() == ["tap1"]
    sim9.clear_commands()
    container.wiring.drop_pairs()
    assert sim9.commands() == []


def test_a_pair_that_cannot_be_removed_is_told(sim9, node9, image9):
    container = support.create(node9, image9)
    container.wiring.keep(support.ENDS)
    for name, peer in (("tap0", "ovp0"), ("ovp0", "tap0")):
        sim9.add_nic(name)
        sim9.note_link(name, kind="veth", peer=peer)
    sim9.fail("ip", nth=2, rc=2, stderr="busy\n")

    with pytest.raises(exception.CleanupFailed, match="busy"):
        container.wiring.drop_pairs()
