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

"""What a compute host tells Nova and placement of itself."""

from __future__ import annotations

import pytest
from nova.compute import power_state

from ovznovadriver.compute import events
from tests.functional import shared


class HostTests:
    """What holds for both families of vzctl."""

    def test_the_hypervisor_is_shown_by_the_api(self) -> None:
        self.boot("web-1", networks="none")

        (found,) = self.api.api_get("/os-hypervisors/detail").body["hypervisors"]

        assert found["hypervisor_type"] == "openvz"
        assert found["hypervisor_hostname"] == self.driver().get_available_nodes()[0]
        assert found["hypervisor_version"] > 0
        assert found["state"] == "up"
        assert found["uptime"]

    def test_placement_knows_what_the_host_has(self) -> None:
        uuid = self._get_provider_uuid_by_host("compute1")

        inventory = self._get_provider_inventory(uuid)

        assert set(inventory) == {"VCPU", "MEMORY_MB", "DISK_GB"}
        assert all(item["total"] > 0 for item in inventory.values())
        assert inventory["MEMORY_MB"]["reserved"] == 512
        traits = self._get_provider_traits(uuid)
        assert "CUSTOM_HYPERVISOR_OPENVZ" in traits
        assert "COMPUTE_NODE" in traits
        assert "COMPUTE_NET_ATTACH_INTERFACE" in traits
        for unsupported in ("COMPUTE_VOLUME_MULTI_ATTACH", "COMPUTE_RESCUE_BFV"):
            assert unsupported not in traits

    def test_a_server_is_allocated_what_its_flavor_says(self) -> None:
        uuid = self._get_provider_uuid_by_host("compute1")

        server = self.boot("web-1", networks="none")
        usage = self._get_provider_usages(uuid)
        assert usage == {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}
        self.run_periodic("update_available_resource")
        assert self._get_provider_usages(uuid) == usage

        self.delete(server)
        freed = {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}
        self.wait_until("freeing", lambda: self._get_provider_usages(uuid) == freed)

    @pytest.mark.slow
    def test_a_server_that_was_stopped_on_the_node_is_shown_so(self) -> None:
        server = self.boot("web-1")
        self.node.run("vzctl", "stop", self.container(server))
        # Between two of these tasks lie ten minutes; a look is no longer true then.
        self.driver()._node.look.forget()

        self.run_periodic("_sync_power_states")

        found = self._wait_for_state_change(server, "SHUTOFF")
        assert found["OS-EXT-STS:power_state"] == power_state.SHUTDOWN

    def test_what_a_server_does_by_itself_is_shown_before_the_sync(self) -> None:
        server = self.boot("web-1")
        driver = self.driver()
        watch = events.Watch(driver._node, driver.emit_event, 0)
        watch.look()

        self.node.run("vzctl", "stop", self.container(server))
        watch.look()
        watch.look()
        self._wait_for_state_change(server, "SHUTOFF")

        # Nova stops such a server for good, so it is the operator's to start.
        self.api.post_server_action(server["id"], {"os-start": None})
        self._wait_for_state_change(server, "ACTIVE")

    def test_images_of_another_kind_are_not_scheduled_here(self) -> None:
        image = self.glance.add_image(b"", hypervisor_type="qemu", vm_mode="hvm")

        server = self.boot("web-1", image_id=image, status="ERROR", networks="none")

        assert "No valid host" in self.fault(server)


class TestHostWithVzctl4(HostTests, shared.SharedCloudTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"


class TestHostWithVzctl9(HostTests, shared.SharedCloudTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"
