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

"""The model, over simulated nodes of both families."""

import multiprocessing
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import metadata, privsep, vzctl, vzlist
from ovznovadriver.openvz.container import OvzContainer, OvzContainers
from tests import support
from tests.simulator.node import SimNode

State = vzlist.State
UUID, OTHER_UUID = support.UUID, support.OTHER_UUID


# -- making -------------------------------------------------------------------------


def test_a_container_is_made_by_two_commands_and_one_look(sim, node, image):
    sim.clear_commands()

    container = support.create(
        node, image, configure=lambda made: made.set_hostname("web-1")
    )

    looks = len(sim.commands("vzlist"))
    assert support.subcommands(sim) == ["create", "set"]
    assert looks == 1
    assert container.state is State.STOPPED
    assert sim.conf(container.ovz_id)["HOSTNAME"] == "web-1"


def test_the_ctid_is_a_number_or_the_instances_uuid(sim, node, image):
    expected = {"4": "101", "9": UUID}

    assert support.create(node, image).ovz_id == expected[sim.family]


def test_a_containers_tag_tells_whose_it_is(sim, node, image):
    container = support.create(node, image)

    found = metadata.decode(sim.conf(container.ovz_id)["DESCRIPTION"])

    assert found == metadata.Tag(support.HOST, "instance-00000007", "7", UUID)


def test_a_container_is_named_by_its_uuid_where_its_ctid_is_a_number(
    sim4, node4, image4
):
    support.create(node4, image4)

    assert sim4.conf("101")["NAME"] == UUID


def test_a_sample_is_given_to_create(sim4, image4):
    node = support.open_node(sim4, default_config="vswap-1g")
    support.create(node, image4)
    support.create(node, image4, OTHER_UUID, config="vswap-2g")

    given = [
        c.argv[c.argv.index("--config") + 1] for c in sim4.commands("vzctl", "create")
    ]
    assert given == ["vswap-1g", "vswap-2g"]


def test_the_number_after_all_traces_of_others_is_taken(sim4, node4, image4):
    support.foreign(sim4, image4, "150")
    (sim4.private_dir / "160").mkdir()
    (sim4.dump_dir / "Dump.170").touch()
    node4.claims.claim(OTHER_UUID, lambda: [180])

    assert support.create(node4, image4).ovz_id == "182"
    assert OvzContainers.ctid_in_use(node4) == {"150", "160", "170", "181", "182"}


@pytest.mark.parametrize("step", ["create", "set"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_left_when_a_command_fails(sim, node, image, step, when):
    sim.fail("vzctl", step, rc=96, stderr="no luck\n", when=when)

    with pytest.raises(exception.CommandFailed, match="no luck"):
        support.create(node, image, configure=support.with_interfaces)

    assert support.traces(sim, node) == {}


def test_a_failed_set_leaves_no_name_behind(sim4, node4, image4):
    sim4.fail("vzctl", "set", rc=96, when="after")
    with pytest.raises(exception.CommandFailed):
        support.create(node4, image4)

    assert list(sim4.names_dir.iterdir()) == []
    assert support.create(node4, image4).uuid == UUID


def test_nothing_is_left_when_configuring_fails(sim, node, image):
    def configure(container):
        raise exception.InvalidValue("no such host name")

    with pytest.raises(exception.InvalidValue):
        support.create(node, image, configure=configure)

    assert support.traces(sim, node) == {}
    assert "set" not in support.subcommands(sim)


def test_what_cannot_be_undone_keeps_its_number(sim4, node4, image4, caplog):
    sim4.fail("vzctl", "set", rc=96)
    sim4.fail("vzctl", "destroy", rc=97)

    with pytest.raises(exception.CommandFailed) as caught:
        support.create(node4, image4)

    assert caught.value.exit_code == 96
    assert "its CTID stays claimed" in caplog.text
    assert support.create(node4, image4).ovz_id == "102"


def _somebody_is_faster(sim, monkeypatch, image):
    """Another program makes container 101 between our look and our create."""
    create = vzctl.Vzctl.create

    def late(*args, **kwargs):
        support.foreign(sim, image, "101")
        create(*args, **kwargs)

    monkeypatch.setattr(vzctl.Vzctl, "create", late)


@pytest.mark.parametrize(
    ("sample", "error"),
    [("", exception.PrivateAreaExists), ("vswap-1g", exception.SampleUnusable)],
)
def test_a_container_that_somebody_else_made_first_is_not_destroyed(
    sim4, image4, monkeypatch, sample, error
):
    node = support.open_node(sim4, default_config=sample)
    _somebody_is_faster(sim4, monkeypatch, image4)

    with pytest.raises(error):
        support.create(node, image4)

    assert "destroy" not in support.subcommands(sim4)
    assert sim4.containers() == ["101"]
    assert sim4.tree("101").is_dir()
    assert node.claims.numbers() == set()


def test_a_number_that_somebody_else_is_working_on_is_not_destroyed(sim4, image4):
    node = support.open_node(sim4, lock_wait=0)
    sim4.fail("vzctl", "create", rc=9, stderr="Container already locked\n")

    with pytest.raises(exception.ContainerLocked):
        support.create(node, image4)

    assert "destroy" not in support.subcommands(sim4)
    assert support.traces(sim4, node) == {}


def test_a_container_locked_before_it_is_tagged_is_removed_again(sim, image):
    node = support.open_node(sim, lock_wait=0)
    sim.fail("vzctl", "set", rc=9, stderr="Container already locked\n")

    with pytest.raises(exception.ContainerLocked):
        support.create(node, image)

    assert support.traces(sim, node) == {}


def test_a_sample_that_is_missing_leaves_nothing(sim, node, image):
    with pytest.raises(exception.SampleUnusable):
        support.create(node, image, config="missing")

    assert support.traces(sim, node) == {}


def test_an_instance_has_one_container_on_a_host(sim, node, image):
    support.create(node, image)
    before = sim.containers()

    with pytest.raises(exception.ClaimError, match="already"):
        support.create(node, image)

    assert sim.containers() == before


def test_two_hosts_on_one_node_each_have_their_own(sim4, node4, image4):
    other = support.open_node(sim4, host="host2")
    mine, theirs = (
        support.create(node4, image4),
        support.create(other, image4, OTHER_UUID),
    )

    assert [c.ovz_id for c in OvzContainers.list(node4)] == [mine.ovz_id]
    assert [c.ovz_id for c in OvzContainers.list(other)] == [theirs.ovz_id]
    with pytest.raises(exception.ContainerNotFound):
        OvzContainer.find(node4, uuid=OTHER_UUID)
    assert OvzContainer.find_remains(node4, OTHER_UUID) is None


def test_one_node_cannot_hold_a_server_twice_where_its_uuid_is_the_ctid(
    sim9, node9, image9
):
    support.create(node9, image9)
    other = support.open_node(sim9, host="host2")

    with pytest.raises(exception.ClaimError, match="cannot hold a server twice"):
        support.create(other, image9)
    assert OvzContainer.find_remains(other, UUID) is None


# -- finding ------------------------------------------------------------------------


def test_a_container_is_found_by_each_of_its_identities(node, image):
    made = support.create(node, image)

    for identity in (
        *({"uuid": UUID}, {"name": "instance-00000007"}, {"nova_id": "7"}),
        *({"nova_id": 7}, {"ovz_id": made.ovz_id}, {"uuid": UUID, "nova_id": "7"}),
    ):
        found = OvzContainer.find(node, **identity)
        assert (found.ovz_id, found.uuid, found.host) == (made.ovz_id, UUID, "host1")


def test_a_container_that_differs_in_one_identity_is_another(node, image):
    support.create(node, image)

    with pytest.raises(exception.ContainerNotFound):
        OvzContainer.find(node, uuid=UUID, nova_id="8")


def test_without_any_identity_no_container_is_meant(node, image):
    support.create(node, image)

    with pytest.raises(exception.InvalidValue):
        OvzContainer.find(node, uuid=None)


@pytest.mark.parametrize("fault", ["fails", "is malformed"])
def test_a_failing_vzlist_is_never_an_empty_host(sim, node, image, fault):
    support.create(node, image)
    calls = [
        lambda: OvzContainers.list(node),
        lambda: OvzContainers.list(node, max_age=0.001),
        lambda: OvzContainers.legacy(node),
        lambda: OvzContainers.ctid_in_use(node),
        lambda: OvzContainers.get_memory_mb_used(node),
        lambda: OvzContainer.find(node, uuid=UUID),
        lambda: OvzContainer.find_remains(node, UUID),
        lambda: support.create(node, image, OTHER_UUID),
    ]
    for call in calls:
        if fault == "fails":
            sim.fail("vzlist", rc=1, stderr="Unable to read\n")
            expected = exception.CommandFailed
        else:
            sim.fail("vzlist", rc=0, stdout="101 running\n")
            expected = exception.MalformedOutput
        with pytest.raises(expected):
            call()
    assert len(OvzContainers.list(node)) == 1
    assert len(sim.containers()) == 1


def test_a_blind_vzlist_is_never_an_empty_host(sim4, node4, image4):
    support.create(node4, image4)
    sim4.blind_vzlist = True

    for call in (
        lambda: OvzContainers.list(node4),
        lambda: OvzContainer.find(node4, uuid=UUID),
        lambda: OvzContainer.find_remains(node4, UUID),
        lambda: support.create(node4, image4, OTHER_UUID),
    ):
        with pytest.raises(exception.MalformedOutput):
            call()
    assert sim4.containers() == ["101"]


@pytest.mark.parametrize("description", ["5", "[1]", "-", '{"host": "host1"}', "null"])
def test_foreign_containers_with_odd_descriptions_hinder_nobody(
    sim4, node4, image4, description
):
    support.foreign(sim4, image4, "101", description)

    mine = support.create(node4, image4)

    assert [c.ovz_id for c in OvzContainers.list(node4)] == [mine.ovz_id] == ["102"]


def test_interfaces_are_never_asked_of_vzlist(sim, node, image):
    support.create(node, image, configure=support.with_interfaces).start(support.ENDS)

    asked = {column for c in sim.commands("vzlist") for column in c.argv[4].split(",")}
    assert asked == set(vzlist.FIELDS)
    assert not asked & {"mac", "host_mac", "netif", "ip"}


def test_containers_of_2014_are_told_by_their_host(sim4, node4, image4):
    for ctid, host in (("101", "host1"), ("102", "host2")):
        support.foreign(sim4, image4, ctid)
        raw = f'{{"host": "{host}", "name": "a", "nova_id": "1", "uuid": "{UUID}"}}'
        support.describe(sim4, ctid, raw)

    assert OvzContainers.legacy(node4) == ["101"]
    assert OvzContainers.list(node4) == []


def test_memory_in_use_is_what_vzlist_says_of_ours(sim4, node4, image4):
    support.foreign(sim4, image4, "150")
    container = support.create(node4, image4)
    container.start()
    sim4.set_usage("150", physpages=2560)
    sim4.set_usage(container.ovz_id, physpages=25600)

    assert OvzContainers.get_memory_mb_used(node4) == 100


# -- many at once -------------------------------------------------------------------


def live_and_die(root, family, image, numbers, ready, results):
    """What each of the processes does: make containers, and remove them."""
    privsep.context.set_client_mode(False)
    node = support.open_node(SimNode(Path(root), family))
    uuids = [f"5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0c{n:02x}" for n in numbers]
    made = [support.create(node, image, uuid) for uuid in uuids]
    results.put([(container.uuid, container.ovz_id) for container in made])
    ready.wait(120)
    for uuid in uuids:
        OvzContainer.find_remains(node, uuid).delete()


def test_32_containers_at_once_from_4_processes(sim, image, tmp_path):
    context = multiprocessing.get_context("spawn")
    results, ready = context.Queue(), context.Barrier(5)
    workers = [
        context.Process(
            target=live_and_die,
            args=(str(sim.root), sim.family, image, range(n, 32, 4), ready, results),
        )
        for n in range(4)
    ]
    for worker in workers:
        worker.start()
    try:
        made = [pair for _ in workers for pair in results.get(timeout=90)]
        node = support.open_node(sim)
        listed = {(one.uuid, one.ovz_id) for one in OvzContainers.list(node)}
        ready.wait(90)
        for worker in workers:
            worker.join(90)
        codes = [worker.exitcode for worker in workers]
    finally:
        for worker in workers:
            worker.kill()

    assert codes == [0] * 4
    assert len(made) == len({ctid for _, ctid in made}) == 32
    assert listed == set(made)
    assert support.traces(sim, node) == {}
