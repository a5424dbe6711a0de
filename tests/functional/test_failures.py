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

"""A step of a spawn fails: the server shows why, and the steps before are undone."""

from __future__ import annotations

import pytest
from os_vif import exception as os_vif_exception

from tests.functional import shared


class FailingSpawnTests:
    """What holds for both families of vzctl."""

    def test_each_command_of_a_spawn_may_fail(self) -> None:
        for subcommand in ("create", "set", "start"):
            for when in ("before", "after"):
                self._spawn_with_failing(subcommand, when)

    def _spawn_with_failing(self, subcommand: str, when: str) -> None:
        self.node.fail(
            "vzctl", subcommand, rc=96, stderr=f"no {subcommand} today", when=when
        )
        server = self.boot(f"web-{subcommand}", status="ERROR")

        assert f"no {subcommand} today" in self.fault(server), (subcommand, when)
        # What a failed spawn leaves to the deletion is not left behind it either.
        assert self.left_on(self.node) == [], (subcommand, when)
        self.delete(server)
        assert self.left_on(self.node) == [], (subcommand, when)

    def test_a_port_that_cannot_be_plugged(self) -> None:
        self.ovs.failure = os_vif_exception.PlugException(
            vif="web-1", err="ovsdb is not running"
        )

        server = self.boot("web-1", status="ERROR")

        assert self.left_on(self.node) == []
        self.delete(server)

    def test_a_start_that_forgets_a_veth_is_a_failure(self) -> None:
        """vzctl 4 returns 0 then (the name was taken by another interface)."""
        self.node.fail(
            "vzctl", "start", rc=0, stderr="Unable to add veth", when="before"
        )

        server = self.boot("web-1", status="ERROR")

        assert self.left_on(self.node) == []
        self.delete(server)

    @pytest.mark.slow
    def test_the_undoing_goes_on_after_a_step_of_it_failed(self) -> None:
        self.node.fail("vzctl", "start", rc=96, when="after")
        self.node.fail("vzctl", "stop", rc=96, when="before")

        server = self.boot("web-1", status="ERROR")
        self.delete(server)

        assert self.left_on(self.node) == []


class TestFailingSpawnWithVzctl4(FailingSpawnTests, shared.SharedCloudTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"


class TestFailingSpawnWithVzctl9(FailingSpawnTests, shared.SharedCloudTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"


class TestNeutronsEvent(shared.SharedCloudTest):
    """A spawn waits for Neutron to say that the ports are wired."""

    def test_a_server_is_not_active_before_its_port(self) -> None:
        self.ovs.agent_works = False
        server = self.api.post_server(
            {
                "server": {
                    "name": "web-1",
                    "imageRef": self.image_id,
                    "flavorRef": self.flavor_id,
                    "networks": [{"uuid": self.neutron.network_1["id"]}],
                }
            }
        )
        self.wait_until("start", lambda: self.ovs.interfaces(self.node))
        assert self.api.get_server(server["id"])["status"] == "BUILD"

        self.ovs.agent_works = True

        self._wait_for_state_change(server, "ACTIVE")

    def test_without_the_event_all_is_undone(self) -> None:
        self.flags(vif_plugging_timeout=1, vif_plugging_is_fatal=True)
        self.ovs.agent_works = False

        server = self.boot("web-1", status="ERROR")

        assert "start" in self.subcommands(self.node)
        assert self.left_on(self.node) == []
        self.delete(server)

    @pytest.mark.slow
    def test_the_event_may_be_missing_where_the_operator_allows_it(self) -> None:
        self.flags(vif_plugging_timeout=1, vif_plugging_is_fatal=False)
        self.ovs.agent_works = False

        server = self.boot("web-1")

        assert self.node.containers() == [self.container(server)]
