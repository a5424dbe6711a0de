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

"""The compute service: started, restarted, and more than one in a process."""

from __future__ import annotations

import json
import re
import shutil
import uuid

import pytest
from nova.compute import power_state

from nova import exception as nova_exception
from ovznovadriver.openvz import metadata
from tests.functional import base


class TestRestart(base.OpenVZFunctionalTest):
    """A service ends and starts again; the containers live on."""

    def test_the_servers_live_on(self) -> None:
        running = self.boot("web-1")
        stopped = self.boot("web-2")
        self.act(stopped, "os-stop")
        ports = self.ovs.ports(self.node)
        self.node.clear_commands()

        self.restart_compute("compute1")

        assert self.settle(running)["status"] == "ACTIVE"
        assert self.settle(stopped)["status"] == "SHUTOFF"
        assert self.ovs.ports(self.node).keys() == ports.keys()
        assert not set(self.subcommands(self.node)) & {"start", "stop", "set", "create"}
        self.act(stopped, "os-start")
        self.delete(running)
        self.delete(stopped)
        assert self.left_on(self.node) == []

    def test_after_a_reboot_of_the_host_servers_run_as_before(self) -> None:
        self.flags(resume_guests_state_on_host_boot=True)
        running = self.boot("web-1")
        stopped = self.boot("web-2")
        self.act(stopped, "os-stop")
        ctid = self.container(running)
        self.node.reboot()
        # A missing mount point used to block the start.
        shutil.rmtree(self.node.root_dir / ctid, ignore_errors=True)

        self.restart_compute("compute1")

        found = self.settle(running)
        assert found["status"] == "ACTIVE"
        assert found["OS-EXT-STS:power_state"] == power_state.RUNNING
        assert self.settle(stopped)["status"] == "SHUTOFF"
        assert len(self.ovs.interfaces(self.node)) == 1

    def test_a_service_that_died_in_a_spawn_leaves_a_server_that_can_go(self) -> None:
        server = self.boot("web-1")
        instance = self.instance(server)
        instance.vm_state = "building"
        instance.task_state = "spawning"
        instance.save()

        self.restart_compute("compute1")

        found = self._wait_for_state_change(server, "ERROR", wait_for_fault_key=False)
        self.delete(found)
        assert self.left_on(self.node) == []


class TestForeignContainers(base.OpenVZFunctionalTest):
    """Containers on the node that are not this service's."""

    HOSTS = ()

    def test_they_are_neither_seen_nor_touched(self) -> None:
        node = self.make_node("compute1")
        legacy = {"host": "old", "name": "a", "nova_id": "7", "uuid": "not-ours"}
        descriptions = ["5", "[1]", "-", "a plain one", json.dumps(legacy), ""]
        for number, description in enumerate(descriptions):
            self.add_container(node, f"{200 + number}", description=description)
        before = {ctid: node.conf(ctid) for ctid in node.containers()}

        self.start_compute("compute1")
        assert self.driver("compute1").list_instances() == []
        assert self.driver("compute1").list_instance_uuids() == []
        server = self.boot("web-1")
        assert self.container(server) not in before
        self.run_periodic("_sync_power_states", "compute1")
        self.delete(server)

        assert {ctid: node.conf(ctid) for ctid in node.containers()} == before
        assert len(before) == len(descriptions)

    def test_one_that_the_driver_of_2014_made_is_reported_and_left_alone(self) -> None:
        node = self.make_node("compute1")
        legacy = {
            "host": "compute1",
            "name": "instance-00000007",
            "nova_id": "7",
            "uuid": "6b1f2a7e-95a1-4f7f-9c73-3c7a7f1b9d55",
        }
        self.add_container(node, "200", description=json.dumps(legacy))

        self.start_compute("compute1")

        assert self.driver("compute1").list_instance_uuids() == []
        log = self.stdlog.logger.output
        assert re.search(r"WARNING .* driver of 2014 .*\b200\b", log)

    def test_a_new_service_does_not_take_over_servers_nova_does_not_know(self) -> None:
        node = self.make_node("compute1")
        tag = metadata.Tag("compute1", "instance-00000007", "7", str(uuid.uuid4()))
        self.add_container(node, "200", name=tag.uuid, description=metadata.encode(tag))

        with pytest.raises(nova_exception.InvalidConfiguration, match="existing"):
            self.start_compute("compute1")


class TestTwoNodes(base.OpenVZFunctionalTest):
    """Two drivers for two nodes in one process."""

    HOSTS = ("compute1", "compute2")

    def test_they_do_not_see_each_other(self) -> None:
        first = self.boot("web-1", host="compute1")
        second = self.boot("web-2", host="compute2")

        for host, mine in (("compute1", first), ("compute2", second)):
            node = self.nodes[host]
            assert self.driver(host).list_instance_uuids() == [mine["id"]]
            assert node.containers() == [self.container(mine, node)]
            assert len(self.ovs.ports(node)) == 1
        self.nodes["compute2"].clear_commands()

        self.act(first, "reboot", {"type": "HARD"})
        self.delete(first)

        assert self.nodes["compute2"].commands() == []
        assert self.left_on(self.nodes["compute1"]) == []
        assert self.settle(second)["status"] == "ACTIVE"

    def test_each_is_a_hypervisor_and_a_provider_of_its_own(self) -> None:
        hypervisors = self.api.api_get("/os-hypervisors/detail").body["hypervisors"]
        names = {found["hypervisor_hostname"] for found in hypervisors}

        assert len(names) == 2
        assert {provider["name"] for provider in self._get_all_providers()} == names
