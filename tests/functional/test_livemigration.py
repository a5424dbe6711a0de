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

"""Live migration through the REST API."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from nova import objects
from tests.functional import twohosts
from tests.simulator.node import SimNode

SMALL = (1, 512, 1)
NOTHING = (0, 0, 0)


class LiveMigrationTest(twohosts.TwoHostsTest):
    """Two hosts whose root users reach each other."""

    #: Seconds that vzmigrate may take.
    LIMIT = 60

    def configure(self, node: SimNode) -> None:
        """Set the options of a node's service; another host has other CTIDs."""
        super().configure(node)
        # Where vzmigrate can freeze containers.
        node.switch("openvz_kernel", True)
        others = {
            twohosts.ADDRESSES[host]: other
            for host, other in self.nodes.items()
            if other is not node
        }
        node.add_peers(others)
        for other in others.values():
            (address,) = [
                twohosts.ADDRESSES[h] for h, n in self.nodes.items() if n is node
            ]
            other.add_peers({address: node})
        first = 1000 * len(self.nodes)
        self.flags(
            group="openvz",
            ctid_first=first,
            ctid_last=first + 999,
            live_migration_timeout=self.LIMIT,
        )

    def ask(self, server: dict[str, Any], **changes: Any) -> None:
        """Ask for a live migration to the other host."""
        _, target = self.ends(server)
        order = {"host": target, "block_migration": "auto", **changes}
        self._acts(server, {"os-migrateLive": order})

    def migrate(self, server: dict[str, Any], status: str = "completed") -> None:
        """Have a live migration to the other host, and wait for its end."""
        before = len(self._migrations(server))
        self.ask(server)
        self.wait_until("the end", lambda: self._ended(server, before))
        assert self._ended(server, before) == status

    def _ended(self, server: dict[str, Any], before: int) -> str:
        statuses = [migration.status for migration in self._migrations(server)]
        last = statuses[-1] if len(statuses) > before else ""
        busy = self.instance(server).task_state is not None
        return last if last in ("completed", "failed", "error") and not busy else ""

    def _migrations(self, server: dict[str, Any]) -> list[Any]:
        found = objects.MigrationList.get_by_filters(
            self.cell_context(), {"instance_uuid": server["id"]}
        )
        return sorted(found, key=lambda migration: int(migration.id))

    def await_reason(self, server: dict[str, Any], text: str) -> None:
        """Wait until a reason is put down; after it the scheduler puts down its own."""

        def found() -> bool:
            faults = objects.InstanceFaultList.get_by_instance_uuids(
                self.cell_context(), [server["id"]]
            )
            return any(text in fault.message for fault in faults)

        self.wait_until(text, found)

    def ports(self) -> list[int]:
        """How many ports each host has plugged."""
        return [len(self.ovs.ports(node)) for node in self.nodes.values()]


class TestLiveMigrationWithVzctl4(LiveMigrationTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"

    def test_a_server_moves_as_it_runs(self) -> None:
        server = self.boot("web-1", host="compute1")
        second = self.nodes["compute2"]
        ctid = self.container(server)
        tree = self.seen(server)
        self.nodes["compute1"].fail("vzmigrate", "resume", rc=7, when="after")

        self.migrate(server, "failed")

        self._check_that_it_stayed(server, tree)

        self.migrate(server)

        assert self.host_of(server) == "compute2"
        assert second.state(ctid) == "running"
        assert self.seen(server) == tree
        assert self.left("compute1") == []
        assert self.ports() == [0, 1]
        assert "start" not in self.subcommands(second)
        self.await_use(compute1=NOTHING, compute2=SMALL)
        self.delete(server)
        assert self.left("compute2") == []

    def _check_that_it_stayed(self, server: dict[str, Any], tree: Any) -> None:
        node = self.nodes["compute1"]
        assert self.host_of(server) == "compute1"
        assert self.api.get_server(server["id"])["status"] == "ACTIVE"
        assert node.state(self.container(server)) == "running"
        assert self.seen(server) == tree
        # Nova does not wait for the clean-up there.
        self.wait_until("clean-up", lambda: self.left("compute2") == [])
        assert self.ports() == [1, 0]
        self.await_use(compute1=SMALL, compute2=NOTHING)

    @pytest.mark.slow
    def test_a_server_comes_back_as_it_runs(self) -> None:
        server = self.boot("web-1", host="compute1")
        ctid = self.container(server)
        tree = self.seen(server)
        self.migrate(server)

        self.migrate(server)

        self._check_that_it_stayed(server, tree)
        assert self.container(server) == ctid
        self.act(server, "reboot", {"type": "HARD"})
        self._check_that_it_stayed(server, tree)
        self.delete(server)
        assert self.left("compute1") == []

    def _check_each_step(self, when: Literal["before", "after"]) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        for step in "prepare copy freeze dump sync undump resume".split():
            self.nodes["compute1"].fail("vzmigrate", step, rc=6, when=when)

            self.migrate(server, "failed")

            self._check_that_it_stayed(server, tree)
        # At the pre-check, and when the same is checked once more.
        for nth, status in ((1, "error"), (2, "failed")):
            self.nodes["compute1"].fail("vzmigrate", "check", nth=nth, rc=18, when=when)
            self.migrate(server, status)
            self._check_that_it_stayed(server, tree)
        self.delete(server)
        assert self.left("compute1") == []

    @pytest.mark.slow
    def test_a_server_whose_move_fails_before_any_step_runs_on(self) -> None:
        self._check_each_step("before")

    @pytest.mark.slow
    def test_a_server_whose_move_fails_after_any_step_runs_on(self) -> None:
        self._check_each_step("after")

    @pytest.mark.slow
    def test_a_server_that_cannot_move_is_refused_with_the_reason(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        ctid = self.container(server)
        first, second = self.nodes["compute1"], self.nodes["compute2"]

        def refused(reason: str, **changes: Any) -> None:
            before = len(self._migrations(server))
            self.ask(server, **changes)
            self.wait_until(reason, lambda: self._ended(server, before))
            self.await_reason(server, reason)
            assert first.containers() == [ctid]
            assert second.containers() == []

        second.switch("other_cpu", True)
        refused("Destination node CPU is not compatible")
        second.switch("other_cpu", False)
        refused("block_migration 'auto'", block_migration=False)
        self._check_that_it_stayed(server, tree)
        claim = second.root / "claims" / ctid
        claim.mkdir(parents=True)
        refused(f"CTID {ctid} is taken on host compute2")
        claim.rmdir()
        self.act(server, "pause")
        refused("only one that is running")
        assert first.state(ctid) == "paused"
        self.delete(server)

    @pytest.mark.slow
    def test_a_server_that_arrives_badly_is_brought_up_by_a_hard_reboot(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        ctid = self.container(server)
        second = self.nodes["compute2"]
        second.fail("vzctl", "set", rc=96)

        self.migrate(server, "error")

        assert self.host_of(server) == "compute2"
        assert self.left("compute1") == []
        assert second.state(ctid) == "running"

        self.recover(server)

        assert second.state(ctid) == "running"
        assert self.seen(server) == tree
        assert self.ports() == [0, 1]
        # And one that nobody has repaired can be deleted.
        self.nodes["compute1"].fail("vzctl", "set", rc=96)
        self.migrate(server, "error")
        self.delete({**server, "status": "ERROR"})
        assert self.left("compute1") == []
        assert self.left("compute2") == []

    @pytest.mark.slow
    def test_a_move_under_way_is_neither_aborted_nor_hurried(self) -> None:
        server = self.boot("web-1", host="compute1")
        self.nodes["compute1"].slow("vzmigrate", "copy", seconds=3)
        self.ask(server)
        self.wait_until(
            "running",
            lambda: [m for m in self._migrations(server) if m.status == "running"],
        )
        (migration,) = self._migrations(server)
        path = f"/servers/{server['id']}/migrations/{migration.id}"
        self.admin_api.api_post(f"{path}/action", {"force_complete": None})
        self.admin_api.api_delete(path)

        self.wait_until("the end", lambda: self._ended(server, 0))

        assert self.host_of(server) == "compute2"
        self.delete(server)


class TestLiveMigrationThatHangs(LiveMigrationTest):
    """vzmigrate is ended by its time limit."""

    LIMIT = 3

    @pytest.mark.slow
    def test_a_server_that_was_not_frozen_yet_runs_on(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        self.nodes["compute1"].hang("vzmigrate", "copy", when="after")

        self.migrate(server, "failed")

        TestLiveMigrationWithVzctl4._check_that_it_stayed(self, server, tree)
        self.delete(server)
        assert self.left("compute1") == []

    @pytest.mark.slow
    def test_of_a_server_that_may_be_on_either_host_nothing_is_removed(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        ctid = self.container(server)
        first, second = self.nodes["compute1"], self.nodes["compute2"]
        first.hang("vzmigrate", "sync", when="after")

        self.migrate(server, "error")

        assert "or on both; nothing was removed" in self.fault(server)
        assert first.state(ctid) == "paused"
        assert second.containers() == [ctid]
        # What the documentation tells the operator to do.
        for node, *command in (
            (second, "vzctl", "destroy", ctid),
            (first, "vzctl", "chkpnt", ctid, "--resume"),
        ):
            assert node.run(*command).rc == 0
        self.recover(server)
        assert self.host_of(server) == "compute1"
        assert self.seen(server) == tree
        self.migrate(server)
        assert self.host_of(server) == "compute2"
        self.delete(server)
        assert self.left("compute1") == self.left("compute2") == []


class TestLiveMigrationWithVzctl9(LiveMigrationTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"

    @pytest.mark.slow
    def test_a_server_is_refused_with_the_reason(self) -> None:
        server = self.boot("web-1", host="compute1")

        self.migrate(server, "error")

        self.await_reason(server, "no server moves live with vzctl 7")
        assert self.host_of(server) == "compute1"
        assert self.nodes["compute1"].state(server["id"]) == "running"
        assert self.left("compute2") == []
        self.await_use(compute1=SMALL, compute2=NOTHING)
