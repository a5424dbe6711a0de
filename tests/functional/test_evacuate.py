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


"""A host is lost: its servers are made anew on another one, through the REST API."""

from __future__ import annotations

import threading
from typing import Any

import fixtures
import pytest

from tests.functional import twohosts

SMALL = (1, 512, 1)
NOTHING = (0, 0, 0)


class Killed(BaseException):
    """What nobody handles, as if the service ended."""


class EvacuateTests:
    """What holds for both families of vzctl."""

    @pytest.mark.slow
    def test_a_lost_host_comes_back_and_removes_only_what_left_it(self) -> None:
        gone = self.boot("web-1", host="compute1")
        stays = self.boot("web-2", host="compute1")
        first, second = self.nodes["compute1"], self.nodes["compute2"]
        # Somebody's else's, on the same node.
        foreign = "999" if self.FAMILY == "4" else stays["id"][:-4] + "0999"
        self.add_container(first, foreign)
        kept = self.container(stays, first)
        tree = self.seen(stays, "compute1")
        self.computes["compute1"].stop()
        (service,) = self.admin_api.get_services(host="compute1", binary="nova-compute")
        self.admin_api.put_service_force_down(service["id"], True)

        self.admin_api.post_server_action(gone["id"], {"evacuate": {}})
        self.wait_until("evacuation", lambda: self.host_of(gone) == "compute2")
        found = self.settle(gone)

        # Since API 2.95 it is left to its owner to start it.
        assert found["status"] == "SHUTOFF"
        assert (self.tree(gone) / "sbin/init").exists()
        self.act(gone, "os-start")
        assert second.state(self.container(gone, second)) == "running"
        self.await_use(compute1=(2, 1024, 2), compute2=SMALL)

        self.restart_compute("compute1")
        self.admin_api.put_service_force_down(service["id"], False)

        assert first.containers() == sorted([kept, foreign])
        assert first.state(kept) == "running"
        assert self.seen(stays, "compute1") == tree
        assert second.state(self.container(gone, second)) == "running"
        assert len(self.ovs.ports(second)) == 1
        self.await_use(compute1=SMALL, compute2=SMALL)
        self.delete(gone)
        self.delete(stays)
        assert self.left("compute2") == []
        self.await_use(compute1=NOTHING, compute2=NOTHING)

    @pytest.mark.slow
    def test_a_server_that_has_come_back_survives_a_restart(self) -> None:
        # Its host was not reached for a while, and its service never ended.
        server = self.boot("web-1", host="compute1")
        first, second = self.nodes["compute1"], self.nodes["compute2"]
        with fixtures.MonkeyPatch(
            "nova.servicegroup.api.API.service_is_up",
            lambda _self, member: member["host"] != "compute1",
        ):
            self.admin_api.post_server_action(server["id"], {"evacuate": {}})
            self.wait_until("evacuation", lambda: self.host_of(server) == "compute2")
            self.settle(server)
        self.act(server, "os-start")
        self.move(server)
        self.confirm(server)
        assert self.host_of(server) == "compute1"
        tree = self.seen(server, "compute1")
        assert second.containers() == []

        self.restart_compute("compute1")

        assert first.state(self.container(server, first)) == "running"
        assert self.seen(server, "compute1") == tree


class TestEvacuateOnSharedDisk(twohosts.OneDiskTest):
    """The files of the lost host are on a disk that is not lost."""

    def lose(self, host: str) -> None:
        """Have a host gone, and Nova know it."""
        self.nodes[host].reboot()
        self.computes[host].stop()
        (service,) = self.admin_api.get_services(host=host, binary="nova-compute")
        self.admin_api.put_service_force_down(service["id"], True)

    def evacuate(self, server: dict[str, Any], status: str) -> None:
        """Have a server come to the second host."""
        self.admin_api.post_server_action(server["id"], {"evacuate": {}})
        self.settle_as(server, status)

    def test_a_server_has_its_files_on_another_host(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        first, second = self.nodes["compute1"], self.nodes["compute2"]
        self.lose("compute1")

        second.fail("vzctl", subcommand="start", rc=7)
        self.evacuate(server, "ERROR")
        assert second.containers() == []
        assert self.seen(server, "compute1") == tree

        # From an error Nova leaves it running.
        self.evacuate(server, "ACTIVE")
        assert self.host_of(server) == "compute2"
        assert self.seen(server) == tree
        self.restart_compute("compute1")
        assert first.containers() == []
        assert second.state(self.container(server, second)) == "running"
        assert self.seen(server) == tree
        self.delete(server)
        assert self.left("compute1") == self.left("compute2") == []
        assert list(first.private_dir.iterdir()) == []

    def interrupt(self, server: dict[str, Any]) -> None:
        """Have the new host's service end when it has all, and Nova does not know."""
        reached = threading.Event()

        def end(*_args: Any) -> None:
            reached.set()
            raise Killed

        patch = "nova.compute.resource_tracker.ResourceTracker.finish_evacuation"
        with fixtures.MonkeyPatch(patch, end):
            self.admin_api.post_server_action(server["id"], {"evacuate": {}})
            assert reached.wait(self.PATIENCE)
            self.computes.pop("compute2").stop()

    def test_files_survive_when_both_hosts_come_back_in_the_middle(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        first, second = self.nodes["compute1"], self.nodes["compute2"]
        self.lose("compute1")
        self.interrupt(server)
        assert len(second.containers()) == 1
        assert self.host_of(server) == "compute1"

        self.restart("compute1")
        # Nova has it remove what it has, and it does not.
        assert len(first.containers()) == 1
        self.restart("compute2")

        assert second.containers() == []
        assert self.admin_api.get_server(server["id"])["status"] == "ERROR"
        assert self.seen(server) == tree
        self.await_use(compute1=SMALL, compute2=NOTHING)
        self.recover(server)
        self.settle_as(server, "ACTIVE")
        assert first.state(self.container(server, first)) == "running"
        self.delete(server)
        assert self.left("compute1") == self.left("compute2") == []
        self.await_use(compute1=NOTHING, compute2=NOTHING)

    def restart(self, host: str) -> None:
        """Have a host back, and Nova know it."""
        self.computes.pop(host, None)
        self.start_compute(host)
        (service,) = self.admin_api.get_services(host=host, binary="nova-compute")
        self.admin_api.put_service_force_down(service["id"], False)


class TestEvacuateWithVzctl4(EvacuateTests, twohosts.TwoHostsTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"


class TestEvacuateWithVzctl9(EvacuateTests, twohosts.TwoHostsTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"
