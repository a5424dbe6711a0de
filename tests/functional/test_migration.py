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


"""Cold migration, and resize to another host, through the REST API."""

from __future__ import annotations

from typing import Any

import fixtures
import pytest

from ovznovadriver.openvz import transfer
from tests import ssh, trees
from tests.functional import diskimages, twohosts
from tests.simulator.node import SimNode

SMALL = (1, 512, 1)
LARGE = (2, 1024, 2)
NOTHING = (0, 0, 0)


class MigrationTests:
    """What holds for both families of vzctl."""

    @pytest.mark.slow
    def test_a_server_moves_and_comes_back(self) -> None:
        server = self.boot("web-1", host="compute1")
        first, second = self.nodes["compute1"], self.nodes["compute2"]
        tree = self.seen(server)
        ctid = self.container(server)
        before = first.conf_text(ctid)

        self.move(server)

        assert self.host_of(server) == "compute2"
        there = self.container(server, second)
        assert (second.state(there), first.state(ctid)) == ("running", "stopped")
        assert self.seen(server) == self.seen(server, "compute1") == tree
        assert (len(self.ovs.ports(first)), len(self.ovs.ports(second))) == (0, 1)
        assert self.admin_api.get_server(server["id"])["progress"] == 100
        self.await_use(compute1=SMALL, compute2=SMALL)

        self.revert(server)

        assert self.host_of(server) == "compute1"
        assert first.state(ctid) == "running"
        assert first.conf_text(ctid) == before
        assert self.seen(server) == tree
        assert len(self.ovs.ports(first)) == 1
        assert self.left("compute2") == []
        self.await_use(compute1=SMALL, compute2=NOTHING)

        self.move(server, flavor=self.large)
        self.confirm(server)

        assert self.host_of(server) == "compute2"
        there = self.container(server, second)
        assert second.state(there) == "running"
        assert second.conf(there)["DISKSPACE"].startswith(f"{2 << 20}:")
        assert self.seen(server) == tree
        assert self.left("compute1") == []
        self.await_use(compute1=NOTHING, compute2=LARGE)

        self.act(server, "os-stop")
        self.move(server)
        self.confirm(server, "SHUTOFF")

        assert self.host_of(server) == "compute1"
        assert first.state(self.container(server, first)) == "stopped"
        assert self.seen(server) == tree
        self.act(server, "os-start")
        assert first.state(self.container(server, first)) == "running"
        self.delete(server)
        assert self.left("compute1") == []
        assert self.left("compute2") == []

    @pytest.mark.slow
    def test_a_server_that_cannot_arrive_is_brought_up_by_a_hard_reboot(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        steps = (("create", "before"), ("set", "after"), ("start", "after"))
        for step in steps:
            subcommand, when = step
            source, target = self.ends(server)
            self.nodes[target].fail("vzctl", subcommand, rc=96, when=when)

            self.move(server, "ERROR")

            assert self.host_of(server) == target, step
            # The copy that it left is whole, and does not run.
            stale = self.container(server, self.nodes[source])
            assert self.nodes[source].state(stale) == "stopped", step
            assert self.seen(server, source) == tree, step
            self.await_use(**{source: NOTHING, target: SMALL})

            self.recover(server)

            node = self.nodes[target]
            assert node.state(self.container(server, node)) == "running", step
            assert self.seen(server) == tree, step
            assert len(self.ovs.ports(node)) == 1, step
        source, target = self.ends(server)
        self.delete(server)
        assert self.left(source) == []
        # What it left there goes with it, by a periodic task of Nova's.
        self.run_periodic("_cleanup_running_deleted_instances", target)
        assert self.left(target) == []

    @pytest.mark.slow
    def test_a_server_that_could_not_arrive_has_the_limits_that_nova_says(self) -> None:
        server = self.boot("web-1", host="compute1")
        first, second = self.nodes["compute1"], self.nodes["compute2"]
        before = first.conf(self.container(server))
        second.fail("vzctl", "start", rc=96)

        self.move(server, "ERROR", flavor=self.large)
        self.recover(server)

        # Nova has given it its old flavor back.
        self.await_use(compute1=NOTHING, compute2=LARGE)
        after = second.conf(self.container(server, second))
        for name in ("DISKSPACE", "PHYSPAGES", "CPUS"):
            assert after[name] == before[name], name


class TestMigrationWithVzctl4(MigrationTests, twohosts.TwoHostsTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"

    @pytest.mark.slow
    def test_a_server_that_cannot_leave_runs_on(self) -> None:
        server = self.boot("web-1", host="compute1")
        node = self.nodes["compute1"]
        ctid = self.container(server)
        tree = self.seen(server)
        before = node.conf_text(ctid)
        for step, when in (
            ("hello", "before"),
            ("send", "after"),
            ("stop", "after"),
            ("final send", "after"),
            ("verify", "before"),
        ):
            if step == "stop":
                node.fail("vzctl", "stop", rc=96, stderr="no stop today", when=when)
            else:
                twohosts.DirectTransfer.fault = (step, when)

            self.move(server, "ACTIVE")

            self.await_use(compute1=SMALL, compute2=NOTHING)
            self.await_reason(server, f"no {step} today")
            assert self.host_of(server) == "compute1", (step, when)
            assert node.state(ctid) == "running", (step, when)
            assert node.conf_text(ctid) == before, (step, when)
            assert self.seen(server) == tree, (step, when)
            assert self.left("compute2") == [], (step, when)
            assert len(self.ovs.ports(node)) == 1, (step, when)
        self.delete(server)
        assert self.left("compute1") == []

    @pytest.mark.slow
    def test_a_server_is_deleted_on_its_way(self) -> None:
        failed = self.boot("web-1", host="compute1")
        self.nodes["compute2"].fail("vzctl", "create", rc=96)
        self.move(failed, "ERROR")
        self.delete({**failed, "status": "ERROR"})
        assert self.left("compute2") == []

        moved = self.boot("web-2", host="compute1")
        self.move(moved)
        self.delete(moved)

        busy = self.boot("web-3", host="compute1")
        first = self.nodes["compute1"]
        first.clear_commands()
        first.slow("vzctl", "stop", seconds=1.5)
        self._acts(busy, {"migrate": None})
        self.wait_until("stop", lambda: "stop" in self.subcommands(first))
        self.api.delete_server(busy["id"])
        # Nova may say ERROR of it on the way: its migration failed.
        self._wait_until_deleted({**busy, "status": "ERROR"})

        for host in self.HOSTS:
            self.run_periodic("_cleanup_running_deleted_instances", host)
            self.wait_until(host, lambda host=host: self.left(host) == [])
        self.await_use(compute1=NOTHING, compute2=NOTHING)


class TestMigrationWithVzctl9(MigrationTests, twohosts.TwoHostsTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"

    @pytest.mark.slow
    def test_a_confirm_or_a_revert_that_fails_keeps_the_tree_in_use(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        source, target = self.ends(server)
        self.move(server)
        self.nodes[source].fail("vzctl", "destroy", rc=96)
        self._acts(server, {"confirmResize": None})
        self._wait_for_state_change(server, "ERROR")

        assert self.host_of(server) == target
        assert self.seen(server) == tree
        self.await_use(**{source: NOTHING, target: SMALL})
        self.recover(server)
        for end, subcommand in ((1, "destroy"), (0, "start")):
            ends = self.ends(server)
            self.move(server)
            self.nodes[ends[end]].fail("vzctl", subcommand, rc=96)

            self.revert(server, "ERROR")

            self.recover(server)
            assert self.host_of(server) == ends[end], subcommand
            assert self.seen(server) == tree, subcommand
            node = self.nodes[ends[end]]
            assert node.state(self.container(server, node)) == "running", subcommand
        self.delete(server)


class TestMigrationOfDiskImages(
    diskimages.DiskImages, MigrationTests, twohosts.TwoHostsTest
):
    """With layout ploop."""

    def _size_gb(self, server: dict[str, Any]) -> int:
        node = self.nodes[self.host_of(server)]
        hard_kb = node.image_kb(self.container(server, node)) + (4 << 10)
        return hard_kb >> 20

    def test_an_image_is_sent_once_after_the_stop_and_has_its_size_there(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        assert self._size_gb(server) == 1

        self.move(server, flavor=self.large)

        assert twohosts.DirectTransfer.passes == [("stopped", False)]
        assert self.seen(server) == tree
        assert self._size_gb(server) == 2

        self.revert(server)

        assert self.host_of(server) == "compute1"
        assert self.seen(server) == tree
        assert self._size_gb(server) == 1

    @pytest.mark.slow
    def test_an_image_that_could_not_have_its_size_has_the_one_that_it_had(
        self,
    ) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.seen(server)
        second = self.nodes["compute2"]
        # The first one is of the new container, which has an image of its own.
        second.fail("vzctl", "set", nth=2, rc=154, stderr="no room\n")

        self.move(server, "ERROR", flavor=self.large)
        assert "no room" in self.reason(server)
        assert self._size_gb(server) == 1
        self.recover(server)

        assert self.host_of(server) == "compute2"
        assert second.state(self.container(server, second)) == "running"
        assert self.seen(server) == tree
        assert self._size_gb(server) == 1

    @pytest.mark.slow
    def test_an_image_that_would_become_smaller_stays_where_it_is(self) -> None:
        server = self.boot("web-1", host="compute1")
        self.move(server, flavor=self.large)
        self.confirm(server)
        second = self.nodes["compute2"]
        ctid = self.container(server, second)
        twohosts.DirectTransfer.passes.clear()

        self.move(server, "ACTIVE", flavor=self.flavor_id)

        self.await_reason(server, "cannot become smaller on the way")
        assert second.state(ctid) == "running"
        assert twohosts.DirectTransfer.passes == []
        assert self.left("compute1") == []


class TestMigrationOfDiskImagesOnSharedDisk(
    diskimages.DiskImages, twohosts.TwoHostsTest
):
    """With layout ploop, and the files of both hosts on one disk."""

    def make_node(self, host: str) -> SimNode:
        """Make the node of a host."""
        node = super().make_node(host)
        if host != "compute1":
            twohosts.put_on_one_disk(self.nodes["compute1"], node)
        return node

    @pytest.mark.slow
    def test_a_server_stays_where_it_is(self) -> None:
        server = self.boot("web-1", host="compute1")

        self.move(server, "ACTIVE")

        self.await_reason(server, "could come to be in use on both")
        node = self.nodes["compute1"]
        assert node.state(self.container(server, node)) == "running"


class TestMigrationOnSharedDisk(twohosts.OneDiskTest):
    """The files of both hosts are on one disk: none of them is copied."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.boot("web-1", host="compute1")
        self.tree = self.seen(self.server)
        first, second = self.nodes["compute1"], self.nodes["compute2"]
        self.first, self.second = first, second
        self.ctid = self.container(self.server)
        self.number = (first.private_dir / self.ctid).stat().st_ino
        # Whatever sends, sends nothing.
        twohosts.DirectTransfer.fault = ("final send", "before")

    def assert_at(self, node: SimNode, state: str = "running") -> None:
        """The server is there, with the very files that it had, and they nowhere else.

        :param state: the container's
        """
        ctid = self.container(self.server, node)
        places = {
            path.name: path.stat().st_ino for path in self.first.private_dir.iterdir()
        }
        assert places.pop(ctid) == self.number
        assert self.number not in places.values()
        assert node.state(ctid) == state
        assert self.seen(self.server) == self.tree

    @pytest.mark.slow
    def test_a_server_moves_and_comes_back(self) -> None:
        before = self.first.conf_text(self.ctid)

        self.move(self.server)

        assert self.host_of(self.server) == "compute2"
        self.assert_at(self.second)
        assert len(self.ovs.ports(self.second)) == 1
        assert self.admin_api.get_server(self.server["id"])["progress"] == 100
        self.await_use(compute1=SMALL, compute2=SMALL)

        self.revert(self.server)

        self.assert_at(self.first)
        assert self.first.conf_text(self.ctid) == before
        assert self.second.containers() == []
        self.await_use(compute1=SMALL, compute2=NOTHING)

        self.move(self.server, flavor=self.large)
        self.confirm(self.server)

        self.assert_at(self.second)
        assert self.first.containers() == []
        self.await_use(compute1=NOTHING, compute2=LARGE)

        self.act(self.server, "os-stop")
        self.move(self.server)
        self.confirm(self.server, "SHUTOFF")

        self.assert_at(self.first, "stopped")
        self.delete(self.server)
        assert self.left("compute1") == self.left("compute2") == []

    @pytest.mark.slow
    def test_a_server_is_deleted_before_its_move_is_confirmed(self) -> None:
        self.move(self.server)

        self.delete(self.server)

        for host in self.HOSTS:
            self.run_periodic("_cleanup_running_deleted_instances", host)
            self.wait_until(host, lambda host=host: self.left(host) == [])

    @pytest.mark.slow
    def test_a_server_that_cannot_leave_runs_on(self) -> None:
        before = self.first.conf_text(self.ctid)
        for step in ("sees_claim", "stop", "set"):
            if step == "sees_claim":
                twohosts.DirectTransfer.fault = (step, "before")
            else:
                self.first.fail("vzctl", step, rc=96, when="after")

            self.move(self.server, "ACTIVE")

            self.assert_at(self.first)
            assert self.first.conf_text(self.ctid) == before, step
            assert self.second.containers() == [], step

    @pytest.mark.slow
    def test_a_server_that_cannot_arrive_is_brought_up_by_a_hard_reboot(self) -> None:
        for step, when in (("create", "before"), ("set", "after"), ("start", "after")):
            source, target = self.ends(self.server)
            self.nodes[target].fail("vzctl", step, rc=96, when=when)

            self.move(self.server, "ERROR")
            self.recover(self.server)

            assert self.host_of(self.server) == target, step
            self.assert_at(self.nodes[target])
        source, target = self.ends(self.server)
        self.delete(self.server)
        self.run_periodic("_cleanup_running_deleted_instances", target)
        assert self.left(source) == self.left(target) == []

    @pytest.mark.slow
    def test_a_confirm_or_a_revert_that_fails_keeps_the_files(self) -> None:
        self.move(self.server)
        self.first.fail("vzctl", "destroy", rc=96)
        self._acts(self.server, {"confirmResize": None})
        self._wait_for_state_change(self.server, "ERROR")
        self.assert_at(self.second)
        self.recover(self.server)
        self.assert_at(self.second)
        for end, step in ((1, "destroy"), (0, "start")):
            ends = self.ends(self.server)
            self.move(self.server)
            self.nodes[ends[end]].fail("vzctl", step, rc=96)

            self.revert(self.server, "ERROR")
            self.recover(self.server)

            assert self.host_of(self.server) == ends[end], step
            self.assert_at(self.nodes[ends[end]])
        self.delete(self.server)


@pytest.mark.timeout(300)
@pytest.mark.skipif(ssh.reason_not_to() is not None, reason=str(ssh.reason_not_to()))
class TestMigrationBySsh(twohosts.TwoHostsTest):
    """By a real ssh and a real rsync: many processes for a move."""

    WAY = transfer.Transfer
    PATIENCE = 200.0

    def setUp(self) -> None:
        super().setUp()
        server = ssh.serving(self._directory / "ssh")
        self.sshd = server.__enter__()
        self.addCleanup(server.__exit__, None, None, None)
        peers = {
            twohosts.ADDRESSES[host]: self.sshd.peer_of(node, host)
            for host, node in self.nodes.items()
        }
        self.useFixture(
            fixtures.MonkeyPatch(
                "ovznovadriver.openvz.transfer.Peer.from_options",
                lambda _cls, address, _group: peers[address],
            )
        )

    def come(self, tree: trees.Tree) -> trees.Tree:
        """What is to be seen of a tree that has come."""
        return tree

    def test_a_server_moves_and_its_files_are_the_same(self) -> None:
        server = self.boot("web-1", host="compute1")
        tree = self.come(self.seen(server))

        self.move(server)

        assert self.host_of(server) == "compute2"
        assert self.seen(server) == tree
        self.confirm(server)
        assert self.left("compute1") == []
        self.delete(server)
        assert self.left("compute2") == []

    @pytest.mark.slow
    def test_a_host_whose_key_is_not_the_known_one_gets_nothing(self) -> None:
        server = self.boot("web-1", host="compute1")
        self.sshd.change_host_key()

        self.move(server, "ACTIVE")

        self.await_reason(server, "another host key")
        node = self.nodes["compute1"]
        assert node.state(self.container(server, node)) == "running"
        assert self.left("compute2") == []


@pytest.mark.slow
class TestMigrationOfDiskImagesBySsh(diskimages.DiskImages, TestMigrationBySsh):
    """With layout ploop: what stands for an image is a directory in it."""

    def come(self, tree: trees.Tree) -> trees.Tree:
        """What is to be seen of a tree that has come: a real image has no holes."""
        return {
            name: {**what, "sparse": False} if "sparse" in what else what
            for name, what in tree.items()
        }
