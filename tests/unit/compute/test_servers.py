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

"""A server's container, and what Nova is told of the server."""

import uuid
from types import SimpleNamespace

import pytest
from nova.compute import power_state, task_states, vm_states

from nova import exception as nova_exception
from ovznovadriver import exception
from ovznovadriver.compute import servers
from ovznovadriver.openvz import resources
from tests import support

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID


def test_a_server_is_found_by_its_uuid_on_its_host_only(sim, node, image, instance):
    made = support.create(node, image)

    assert servers.find(node, instance).ovz_id == made.ovz_id
    for other in (support.open_node(sim, "host2"), node):
        with pytest.raises(nova_exception.InstanceNotFound):
            servers.find(other, instance)
        instance.uuid = OTHER_UUID


def test_a_look_that_fails_is_no_missing_server(sim, node, image, instance):
    support.create(node, image)
    sim.fail("vzlist", rc=1)

    with pytest.raises(exception.CommandFailed):
        servers.find(node, instance)


@pytest.mark.parametrize("extra", [None, {}, {"quota:cpu_shares": "9"}])
def test_limits_are_computed_from_all_that_a_flavor_says(extra):
    novas = {"memory_mb": 512, "vcpus": 2, "root_gb": 3, "extra_specs": extra}

    assert servers.flavor(SimpleNamespace(**novas, swap=64)) == resources.Flavor(
        memory_mb=512, vcpus=2, root_gb=3, swap_mb=64, extra_specs=extra or {}
    )


def test_files_in_a_tree_are_the_guests_own(node):
    place = servers.place(node, ("/vz/private", "101", "fs"))

    assert (place.base, place.ctid, place.sub) == ("/vz/private", "101", "fs")
    assert (place.uid, place.gid) == node.guest_ids


def test_each_server_has_a_rescuer_of_its_own_which_is_no_server():
    found = {servers.rescuer(one) for one in (UUID, OTHER_UUID)}

    assert len(found | {UUID, OTHER_UUID}) == 4
    assert {str(uuid.UUID(one)) for one in found} == found
    # A service that starts finds what one before it has made.
    assert servers.rescuer(UUID) == str(uuid.uuid5(uuid.UUID(UUID), "rescue"))


def test_nova_learns_what_a_server_is_where_nothing_else_is_under_way(
    nova_server, database
):
    nova_server.task_state = task_states.SUSPENDING

    servers.settle(nova_server, vm_states.SUSPENDED, power_state.SUSPENDED)

    assert database == [(vm_states.SUSPENDED, None, [task_states.SUSPENDING])]
    assert nova_server.power_state == power_state.SUSPENDED
