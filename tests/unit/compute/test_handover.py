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

"""Servers that change hands between two hosts with one disk."""

from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.compute import handover, recovery
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz.container import OvzContainer
from ovznovadriver.openvz.vzlist import State
from tests import support

UUID = support.UUID


@pytest.fixture(params=["4"])
def sim(request, tmp_path, own_privileged_side):
    """The node that gives."""
    return support.simulated(tmp_path / "node", request.param)


@pytest.fixture
def there(node, second):
    """The host that takes."""
    return support.open_node(second, "host2", lock_dir=node.options.lock_dir)


@pytest.fixture
def container(node, boot):
    """A suspended one."""
    found = OvzContainer.find(node, boot())
    found.suspend()
    return found


@pytest.fixture
def giver(node):
    return handover.Handover(node)


@pytest.fixture
def taker(there):
    return handover.Handover(there)


def test_a_server_goes_with_its_memory(node, container, giver, taker, there, second):
    number = container.ovz_id
    assert giver.awaits(UUID) is None
    assert not taker.take(UUID)

    giver.give(container)

    assert giver.awaits(UUID) == taker.awaits(UUID) == number
    assert OvzContainer.find_remains(there, UUID) is None

    assert taker.take(UUID)

    assert taker.awaits(UUID) is None
    assert node.claims.owner(number).host == "host2"
    assert node.claims.find(UUID) == []
    come = OvzContainer.find_remains(there, UUID)
    assert come.refresh() is State.SUSPENDED
    # As long as nobody says that it has arrived it bears the other one's tag.
    assert come.host == node.host
    come.resume()
    assert second.state(number) == "running"


def test_a_server_that_comes_back_is_this_hosts_own(node, container, giver, sim):
    giver.give(container)

    assert giver.take(UUID)

    found = OvzContainer.find(node, container.ovz_id)
    assert (found.host, found.state) == (node.host, State.SUSPENDED)
    assert node.claims.find(UUID) == [container.ovz_id]


def test_who_was_killed_before_it_signed_takes_it_again(
    container, giver, taker, there, monkeypatch
):
    giver.give(container)
    with monkeypatch.context() as patch:
        patch.setattr(type(there.claims), "sign", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            taker.take(UUID)

    with pytest.raises(exception.ContainerTaken, match="another host has taken over"):
        giver.take(UUID)
    assert taker.take(UUID)
    assert taker.awaits(UUID) is None


def test_what_changes_hands_is_not_removed(node, there, container, giver, sim):
    """What the other host has taken by now would be removed."""
    giver.give(container)

    for host in (node, there):
        with pytest.raises(exception.TransferError, match="was handed over"):
            OvzContainer(host, container.ovz_id, uuid=UUID).delete()
    assert (sim.private_dir / f".handed-{container.ovz_id}/tree").is_dir()


@pytest.mark.parametrize("taken", [False, True])
def test_a_start_of_a_service_leaves_alone_what_changes_hands(
    sim, container, giver, taker, there, monkeypatch, taken
):
    giver.give(container)
    if taken:
        with monkeypatch.context() as patch:
            patch.setattr(type(there.claims), "sign", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                taker.take(UUID)
    # The process that claimed it is gone.
    owner = Path(there.options.lock_dir, container.ovz_id, "owner")
    ovz_ctid.Owner(UUID, support.HOST, 1, 1, "gone").write(owner)
    before = sorted(path.name for path in sim.private_dir.rglob("*"))

    for _ in range(2):
        fresh = support.open_node(sim)
        recovery.recover(fresh)

    assert sorted(path.name for path in sim.private_dir.rglob("*")) == before
    assert fresh.claims.owner(container.ovz_id).uuid == UUID
    assert fresh.claims.has(container.ovz_id, ovz_ctid.HANDED)


def test_what_of_it_stays_is_told(container, giver, node, caplog, sim):
    place = sim.root_dir / container.ovz_id
    (place / "file").mkdir(parents=True)

    giver.give(container)

    assert "something is left: root: " in caplog.text
