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

"""Everyday actions on a server that runs: each through the REST API."""

from __future__ import annotations

from typing import Any

import pytest
from nova.compute import power_state
from nova.tests.functional.api import client as api_client

from tests.functional import shared

#: What Nova says of the states that a container has on its node.
POWER_STATES = {
    "running": power_state.RUNNING,
    "paused": power_state.PAUSED,
    "suspended": power_state.SUSPENDED,
    "stopped": power_state.SHUTDOWN,
}


class PowerTests:
    """What holds for both families of vzctl."""

    @pytest.mark.slow
    def test_a_day_of_a_server(self) -> None:
        server = self.boot("web-1")
        ctid = self.container(server)
        interfaces = self.ovs.interfaces(self.node)

        for action, arguments, status, state in (
            ("os-stop", None, "SHUTOFF", "stopped"),
            ("os-start", None, "ACTIVE", "running"),
            ("pause", None, "PAUSED", "paused"),
            ("unpause", None, "ACTIVE", "running"),
            ("suspend", None, "SUSPENDED", "suspended"),
            ("resume", None, "ACTIVE", "running"),
            ("reboot", {"type": "SOFT"}, "ACTIVE", "running"),
            ("reboot", {"type": "HARD"}, "ACTIVE", "running"),
        ):
            found = self.act(server, action, arguments)
            assert found["status"] == status, action
            assert found["OS-EXT-STS:power_state"] == POWER_STATES[state], action
            assert self._state_on_node(server) == state, action

        assert self.container(server) == ctid
        assert self.ovs.interfaces(self.node) == interfaces
        self._assert_no_action_failed(server)

    @pytest.mark.slow
    def test_a_stopped_server_has_its_ports_again_after_a_start(self) -> None:
        server = self.boot("web-1")
        (devname,) = self.ovs.interfaces(self.node)

        self.act(server, "os-stop")
        assert self.ovs.interfaces(self.node) == set()
        self.act(server, "os-start")

        assert self.ovs.interfaces(self.node) == {devname}
        assert set(self.ovs.ports(self.node)) == {devname}

    def test_a_hard_reboot_brings_a_server_back_from_any_state(self) -> None:
        server = self.boot("web-1")

        for action in ("pause", "suspend", "os-stop"):
            self.act(server, action)
            found = self.act(server, "reboot", {"type": "HARD"})
            assert found["status"] == "ACTIVE", action
            assert self._state_on_node(server) == "running", action

    def test_a_server_that_cannot_be_suspended_or_resumed_stays_what_it_is(
        self,
    ) -> None:
        # Two, as Nova takes a task away for some time after it failed.
        runs = self.boot("web-1", networks="none")
        sleeps = self.boot("web-2", networks="none")
        self.act(sleeps, "suspend")

        self.node.fail("vzctl", "suspend", rc=16, stderr="no checkpoint")
        assert self.act(runs, "suspend")["status"] == "ACTIVE"
        assert self._state_on_node(runs) == "running"

        self.node.fail("vzctl", "resume", rc=17, stderr="no restore")
        # In ERROR it could not be resumed any more, and its memory would be lost.
        assert self.act(sleeps, "resume")["status"] == "SUSPENDED"
        assert self._state_on_node(sleeps) == "suspended"

    @pytest.mark.slow
    def test_a_server_that_does_not_stop_in_time_is_stopped_all_the_same(self) -> None:
        self.flags(shutdown_timeout=1)
        server = self.boot("web-1", networks="none")
        self.node.slow_stop(3)

        assert self.act(server, "os-stop")["status"] == "SHUTOFF"

        assert self._state_on_node(server) == "stopped"

    @pytest.mark.slow
    def test_a_server_that_halted_by_itself_starts_again(self) -> None:
        server = self.boot("web-1", networks="none")
        self.node.halt(self.container(server))
        self.driver()._node.look.forget()

        self.run_periodic("_sync_power_states")
        self._wait_for_state_change(server, "SHUTOFF")
        self.settle(server)

        assert self.act(server, "os-start")["status"] == "ACTIVE"
        assert self._state_on_node(server) == "running"

    def test_a_hard_reboot_plugs_a_port_that_was_lost(self) -> None:
        server = self.boot("web-1")
        (devname,) = self.ovs.ports(self.node)
        (self.ovs.port_dir(self.node) / f"{devname}.json").unlink()

        self.act(server, "reboot", {"type": "HARD"})

        assert set(self.ovs.ports(self.node)) == {devname}

    def test_the_admin_password_is_changed_by_standard_input(self) -> None:
        server = self.boot("web-1", networks="none")
        self.node.clear_commands()

        self.act(server, "changePassword", {"adminPass": "battery-staple"})

        assert self.node.password_matches(
            self.container(server), "root", "battery-staple"
        )
        for command in self.node.commands():
            assert not any("battery-staple" in word for word in command.argv)
        assert "battery-staple" not in self.stdlog.logger.output

    @pytest.mark.slow
    def test_the_password_of_a_stopped_server_cannot_be_changed(self) -> None:
        server = self.boot("web-1", networks="none")
        self.act(server, "os-stop")

        with pytest.raises(api_client.OpenStackApiException) as refusal:
            self.act(server, "changePassword", {"adminPass": "battery-staple"})

        assert refusal.value.response.status_code == 409
        assert self.api.get_server(server["id"])["status"] == "SHUTOFF"

    @pytest.mark.slow
    def test_diagnostics_tell_what_the_node_knows(self) -> None:
        server = self.boot("web-1")

        self.api.microversion = "2.47"
        found = self.api.api_get(f"/servers/{server['id']}/diagnostics").body

        assert found["state"] == "running"
        assert found["ctid"] == self.container(server)
        self.api.microversion = "latest"
        found = self.api.api_get(f"/servers/{server['id']}/diagnostics").body
        assert (found["hypervisor"], found["driver"]) == ("openvz", "libvirt")
        assert (found["state"], found["num_nics"]) == ("running", 1)

    def _state_on_node(self, server: dict[str, Any]) -> str:
        return self.node.state(self.container(server))

    def _assert_no_action_failed(self, server: dict[str, Any]) -> None:
        """None of the actions was recorded as failed."""
        actions = self.api.get_instance_actions(server["id"])
        assert [action["message"] for action in actions] == [None] * len(actions)


class TestPowerWithVzctl4(PowerTests, shared.SharedCloudTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"


class TestPowerWithVzctl9(PowerTests, shared.SharedCloudTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"
