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

"""Files that go to another host by a rename, and come back."""

from types import SimpleNamespace

import pytest

from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import emptytemplate, lending, lifecycle
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.compute import ports


@pytest.fixture(params=["4"])
def sim(request, tmp_path, own_privileged_side):
    """The node that lends."""
    return support.simulated(tmp_path / "node", request.param)


@pytest.fixture
def there(node, second):
    """It, as the host has it that borrows."""
    return support.open_node(second, "host2", lock_dir=node.options.lock_dir)


@pytest.fixture
def lender(sim, node, boot):
    """A stopped server with a file of its own, which is lent."""
    number = boot(power_on=False)
    (sim.tree(number) / "etc/mine").write_text("the user's")
    container = OvzContainer.find(node, number)
    lending.Lending(node).lend(container)
    return container


@pytest.fixture
def borrower(there, lender, net, instance):
    """The container that is to have it."""
    life = lifecycle.Lifecycle(there, net, SimpleNamespace(prepare=None))
    template = emptytemplate.prepare(there)
    nics = net.nics(instance, ports.network_info())
    return life.make(instance, objects.ImageMeta.from_dict({}), template, nics)


@pytest.fixture
def borrowing(there):
    """What the other host borrows."""
    return lending.Lending(there)


def mine(sim):
    """The private areas that have the server's file."""
    return [path.parent.parent.name for path in sim.private_dir.glob("*/etc/mine")]


def test_files_go_and_come_back(sim, node, lender, borrower, borrowing):
    uuid, here = support.UUID, lending.Lending(node)
    assert borrowing.awaits(uuid)
    assert not here.awaits(uuid)
    assert borrowing.lender(uuid, node.host) == lender.ovz_id

    borrowing.borrow(borrower, lender.ovz_id)

    assert mine(sim) == [borrower.ovz_id]
    assert not borrowing.awaits(uuid)
    here.refuse_kept(uuid)
    with pytest.raises(exception.TransferError, match="not back"):
        here.recall(uuid)

    borrowing.give_back(borrower, lender.ovz_id)

    assert mine(sim) == [lender.ovz_id]
    with pytest.raises(exception.TransferError, match="never taken"):
        here.refuse_kept(uuid)
    here.recall(uuid)
    assert borrowing.lender(uuid, node.host) is None
    here.refuse_kept(uuid)


@pytest.mark.parametrize("marked", [True, False])
def test_what_was_interrupted_is_done_again(
    sim, there, lender, borrower, borrowing, marked
):
    for _ in range(2):
        borrowing.borrow(borrower, lender.ovz_id)
        if not marked:
            # It was killed between the rename and this.
            there.claims.forget(borrower.ovz_id, ovz_ctid.BORROWED)

    assert mine(sim) == [borrower.ovz_id]

    for _ in range(2):
        borrowing.give_back(borrower, lender.ovz_id)
        if marked:
            there.claims.note(borrower.ovz_id, ovz_ctid.BORROWED)

    assert mine(sim) == [lender.ovz_id]


def test_what_was_never_borrowed_is_not_given_back(sim, lender, borrower, borrowing):
    borrowing.give_back(borrower, lender.ovz_id)

    assert mine(sim) == [lender.ovz_id]
    assert (sim.private_dir / borrower.ovz_id).is_dir()


def test_files_stay_where_they_are_when_others_are_in_their_old_place(
    sim, lender, borrower, borrowing
):
    borrowing.borrow(borrower, lender.ovz_id)
    (sim.private_dir / lender.ovz_id).mkdir()

    borrowing.borrow(borrower, lender.ovz_id)
    with pytest.raises(exception.TransferError, match="cannot go back"):
        borrowing.give_back(borrower, lender.ovz_id)

    assert mine(sim) == [borrower.ovz_id]


def test_nothing_is_borrowed_of_one_that_has_nothing(sim, lender, borrower, borrowing):
    (sim.private_dir / lender.ovz_id).rename(sim.private_dir / "gone")
    (sim.private_dir / borrower.ovz_id).rename(sim.private_dir / "gone-too")

    with pytest.raises(exception.TransferError, match="no files"):
        borrowing.borrow(borrower, lender.ovz_id)


def test_what_others_lend_is_not_this_servers(there, lender, borrowing):
    for number, uuid, host in (
        ("901", "another", "host1"),
        ("902", support.UUID, "host3"),
    ):
        other = ovz_ctid.Claims(there.options.lock_dir, host)
        other.claim_this(number, uuid, tuple)
        other.note(number, ovz_ctid.LENT)

    assert borrowing.lender("another", "host2") is None
    assert borrowing.lender(support.UUID, "host3") == "902"
    assert borrowing.lender(support.UUID, lender.host) == lender.ovz_id
