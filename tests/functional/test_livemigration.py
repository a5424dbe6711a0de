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

import os
import signal
from collections import Counter
from typing import Any, Literal

import fixtures
import pytest

from nova import objects
from ovznovadriver.compute import livemigration
from ovznovadriver.openvz import firstpass
from tests.functional import livehosts, twohosts

SMALL = (1, 512, 1)
NOTHING = (0, 0, 0)
_OVER = ("completed", "failed", "error", "cancelled")


class LiveMigrationTest(livehosts.LiveHosts):
    """What is asked of servers that move as they run, and looked at."""

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
        return last if last in _OVER and not busy else ""

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

    # -- a failure at each command -------------------------------------------------

    def _check_each_command(self, host: str) -> None:
        server = self.boot("web-1", host="compute1")
        self.nodes[host].clear_commands()
        self.migrate(server)
        # Those of vzmigrate itself fail above.
        counts = Counter(
            (call.program, call.subcommand)
            for call in self.nodes[host].commands()
            if call.program != "vzmigrate"
        )
        assert counts["vzlist", ""] > 1
        self.delete(server)
        for call, count in counts.items():
            for nth in range(1, count + 1):
                self._check_that_it_is_on_one_host(host, *call, nth)

    def _check_that_it_is_on_one_host(
        self, host: str, program: str, subcommand: str, nth: int
    ) -> None:
        about = f"{host}: {program} {subcommand} {nth}"
        # The old host keeps what it could not remove.
        before = {name: set(self.left(name)) for name in self.HOSTS}
        # And Nova what a migration reserved that ended in an error.
        use = {name: self._use(name) for name in self.HOSTS}
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        self.nodes[host].fail(program, subcommand, nth=nth, rc=1, stderr="no luck")
        self.ask(server)
        self.wait_until(about, lambda: self._ended(server, 0))
        status = self._ended(server, 0)
        self.nodes[host].clear_faults()
        place = self.host_of(server)
        if self.api.get_server(server["id"])["status"] == "ERROR":
            self.recover(server)

        assert place == ("compute2" if status == "completed" else place), about
        self.wait_until(about, lambda: self._places() == [place])
        ctid = self.container(server)
        assert self.nodes[place].state(ctid) == "running", about
        assert self.seen(server) == tree, about
        if status != "error" or place == "compute1":
            use[place] = tuple(map(sum, zip(use[place], SMALL, strict=True)))
            self.await_use(**use)
        # As an operator does: Nova keeps it after an error.
        for migration in self._migrations(server):
            self.placement.delete(f"/allocations/{migration.uuid}")
        self.delete(server)
        self.wait_until(about, lambda: set(self.left(place)) <= before[place])
        assert self._places() == [], about

    def _use(self, host: str) -> Any:
        """What placement has in use of a host: CPUs, MB, GB."""
        found = self._get_provider_usages(self._get_provider_uuid_by_host(host))
        return tuple(found[name] for name in ("VCPU", "MEMORY_MB", "DISK_GB"))

    def _places(self) -> list[str]:
        """The hosts that have a container."""
        return [host for host, node in self.nodes.items() if node.containers()]


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

    def test_nova_shows_how_far_a_move_is(self) -> None:
        interval = (livemigration, "PROGRESS_INTERVAL", 0.2)
        self.useFixture(fixtures.MockPatchObject(*interval))
        server = self.boot("web-1", host="compute1")
        first = self.nodes["compute1"]
        self.addCleanup(first.go_on)
        place = first.private_dir / self.container(server)
        (place / "content").write_bytes(os.urandom(4 << 20))
        first.hang("vzmigrate", "pass", when="after")
        self.ask(server)
        path = f"/servers/{server['id']}"

        def progress() -> int:
            shown: int = self.api.get_server(server["id"])["progress"]
            return shown

        self.wait_until("progress", lambda: progress() > 0)

        assert progress() < 90
        (shown,) = self.admin_api.api_get(f"{path}/migrations").body["migrations"]
        total = shown["disk_total_bytes"]
        assert total > 4 << 20
        assert 0 < shown["disk_processed_bytes"] < total
        assert shown["disk_remaining_bytes"] == total - shown["disk_processed_bytes"]
        assert shown["memory_total_bytes"] is None
        first.go_on()
        self.wait_until("the end", lambda: self._ended(server, 0))
        assert self._ended(server, 0) == "completed"
        assert progress() == 0
        self.delete(server)

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
    @pytest.mark.timeout(600)
    def test_whatever_fails_on_its_host_the_server_is_on_one(self) -> None:
        self._check_each_command("compute1")

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_whatever_fails_on_the_other_host_the_server_is_on_one(self) -> None:
        self._check_each_command("compute2")

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
    def test_a_server_whose_move_is_aborted_runs_on(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        first = self.nodes["compute1"]
        first.hang("vzmigrate", "pass")
        path = self._begin_move(server)

        # It needs no force.
        self.admin_api.api_post(f"{path}/action", {"force_complete": None})
        self.admin_api.api_delete(path)

        self.wait_until("the end", lambda: self._ended(server, 0))
        assert self._ended(server, 0) == "cancelled"
        self._check_that_it_stayed(server, tree)
        self.migrate(server)
        assert self.host_of(server) == "compute2"
        assert self.seen(server) == tree
        self.delete(server)
        assert self.left("compute1") == self.left("compute2") == []

    @pytest.mark.slow
    def test_a_move_that_is_aborted_too_late_goes_on(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        first = self.nodes["compute1"]
        first.hang("vzmigrate", "pass", nth=2)
        path = self._begin_move(server)

        self.admin_api.api_delete(path)

        self.await_reason(server, "its first pass is over")
        ctid = self.container(server)
        assert first.state(ctid) == "paused"
        assert not self._ended(server, 0)
        # It comes to an end, as the connection breaks.
        mover = firstpass._mover(str(first.lock_dir / f"{ctid}.lck"), ctid)
        for rsync in firstpass._children(mover):
            os.kill(rsync.pid, signal.SIGTERM)
        self.wait_until("the end", lambda: self._ended(server, 0))
        assert self._ended(server, 0) == "failed"
        self._check_that_it_stayed(server, tree)
        self.delete(server)

    def _begin_move(self, server: dict[str, Any]) -> str:
        """Have a move begun that hangs in a pass; where the API has it."""
        self.ask(server)
        half = self.nodes["compute2"].private_dir / self.container(server)
        self.wait_until("a pass", (half / ".half.a1B2c3").exists)
        (migration,) = self._migrations(server)
        return f"/servers/{server['id']}/migrations/{migration.id}"


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


class TestLiveMigrationOnSharedDisk(twohosts.OneDiskTest, LiveMigrationTest):
    """The files of both hosts are on one disk: the server changes hands there."""

    def setUp(self) -> None:
        super().setUp()
        self.first, self.second = self.nodes["compute1"], self.nodes["compute2"]

    def _boot(self) -> dict[str, Any]:
        server = self.boot("web-1", host="compute1")
        self.tree = self.seen(server)
        self.ctid = self.container(server)
        self.number = (self.first.private_dir / self.ctid).stat().st_ino
        return server

    def _check(self, server: dict[str, Any], host: str, state: str = "running") -> None:
        """The server is there, with the very files that it had, and nowhere else."""
        assert self.host_of(server) == host
        assert self._places() == [host]
        node = self.nodes[host]
        assert node.state(self.ctid) == state
        assert [p.name for p in self.first.private_dir.iterdir()] == [self.ctid]
        assert (self.first.private_dir / self.ctid).stat().st_ino == self.number
        assert self.seen(server) == self.tree

    def test_a_server_goes_and_comes_back_with_its_memory(self) -> None:
        server = self._boot()
        self.second.clear_commands()

        self.migrate(server)

        self._check(server, "compute2")
        assert self.api.get_server(server["id"])["status"] == "ACTIVE"
        assert self.subcommands(self.second).count("resume") == 1
        assert "start" not in self.subcommands(self.second)
        assert self.ports() == [0, 1]
        self.await_use(compute1=NOTHING, compute2=SMALL)

        self.migrate(server)

        self._check(server, "compute1")
        assert self.ports() == [1, 0]
        self.act(server, "reboot", {"type": "HARD"})
        self._check(server, "compute1")
        self.delete(server)
        assert self.left("compute1") == self.left("compute2") == []

    @pytest.mark.slow
    def test_a_server_that_cannot_leave_runs_on(self) -> None:
        server = self._boot()
        for when in ("before", "after"):
            self.first.fail("vzctl", "suspend", rc=16, when=when)

            self.migrate(server, "failed")

            self._check(server, "compute1")
            assert self.api.get_server(server["id"])["status"] == "ACTIVE"
            assert self.ports() == [1, 0]
            self.await_use(compute1=SMALL, compute2=NOTHING)
        self.first.fail("vzctl", "suspend", rc=16, when="after")
        self.first.fail("vzctl", "resume", rc=17)
        self.migrate(server, "failed")
        self._check(server, "compute1", "suspended")
        # Its memory is not lost.
        assert self.act(server, "resume")["status"] == "ACTIVE"
        self.migrate(server)
        self._check(server, "compute2")
        self.delete(server)

    @pytest.mark.slow
    def test_a_server_that_cannot_arrive_is_brought_up_by_a_hard_reboot(self) -> None:
        server = self._boot()
        for program, subcommand in (("vzctl", "set"), ("vzctl", "resume")):
            target = self.ends(server)[1]
            self.nodes[target].fail(program, subcommand, rc=17, stderr="no luck")

            self.migrate(server, "error")
            self.recover(server)

            self._check(server, target)
        # And one that nobody has repaired can be deleted.
        self.nodes[self.ends(server)[1]].fail("vzctl", "resume", rc=17)
        self.migrate(server, "error")
        self.delete({**server, "status": "ERROR"})
        assert self.left("compute1") == self.left("compute2") == []

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_whatever_fails_on_its_host_the_server_is_on_one(self) -> None:
        self._check_each_command("compute1")

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_whatever_fails_on_the_other_host_the_server_is_on_one(self) -> None:
        self._check_each_command("compute2")


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
