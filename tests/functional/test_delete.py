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

"""A server is deleted: whatever state it is in, nothing of it stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.functional import shared


class DeleteTests:
    """What holds for both families of vzctl."""

    def test_nothing_is_left_of_a_server_in_any_state(self) -> None:
        for action in (None, "os-stop", "pause", "suspend"):
            server = self.boot(f"web-{action}")
            if action:
                self.act(server, action)
            self.delete(server)
            assert self.left_on(self.node) == [], action
            assert self.neutron._ports == {}, action

    @pytest.mark.slow
    def test_a_container_without_its_private_area_is_deleted(self) -> None:
        server = self.boot("web-1")
        self.act(server, "os-stop")
        ctid = self.container(server)
        shutil.rmtree(Path(self.node.root) / "vz/private" / ctid)

        self.delete(server)

        assert self.left_on(self.node) == []

    @pytest.mark.slow
    def test_a_container_without_its_configuration_is_deleted(self) -> None:
        server = self.boot("web-1")
        self.act(server, "os-stop")
        ctid = self.container(server)
        (Path(self.node.root) / f"etc/vz/conf/{ctid}.conf").unlink()

        self.delete(server)

        assert self.left_on(self.node) == []

    def test_a_server_whose_container_is_gone_already_is_deleted(self) -> None:
        server = self.boot("web-1")
        self.act(server, "os-stop")
        self.driver().destroy(self.cell_context(), self.instance(server), [])

        self.delete(server)

        assert self.left_on(self.node) == []

    def test_a_failing_vzlist_is_not_an_empty_node(self) -> None:
        server = self.boot("web-1")
        ctid = self.container(server)
        for nth in range(1, 30):
            self.node.fail("vzlist", nth=nth, rc=1, stderr="out of memory")

        self.api.delete_server(server["id"])
        self._wait_for_state_change(server, "ERROR")

        assert self.node.containers() == [ctid]
        # Another server that was given its addresses would have them twice.
        assert len(self.neutron._ports) == 1

    @pytest.mark.slow
    def test_the_other_servers_stay(self) -> None:
        gone = self.boot("web-1")
        stays = self.boot("web-2")

        self.delete(gone)

        assert self.node.containers() == [self.container(stays)]
        assert len(self.ovs.ports(self.node)) == 1
        assert self.settle(stays)["status"] == "ACTIVE"


class TestDeleteWithVzctl4(DeleteTests, shared.SharedCloudTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"


class TestDeleteWithVzctl9(DeleteTests, shared.SharedCloudTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"
