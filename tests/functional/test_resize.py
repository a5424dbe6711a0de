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


"""Resize on the same host, through the REST API."""

from __future__ import annotations

import os
import threading
from typing import Any

import fixtures
import pytest

from nova import objects
from tests import trees
from tests.functional import base, diskimages, shared


class _Resizes:
    """What is asked of servers that stay on their host, and looked at."""

    def setUp(self) -> None:
        super().setUp()
        self.flags(allow_resize_to_same_host=True)
        self.large = self._create_flavor(
            name="ct1.large",
            extra_spec={"quota:vif_outbound_average": "1000"},
            memory_mb=1024,
            vcpu=2,
            disk=2,
            ephemeral=0,
        )

    def _resize(
        self, server: dict[str, Any], flavor: str, status: str = "VERIFY_RESIZE"
    ) -> None:
        self.api.post_server_action(server["id"], {"resize": {"flavorRef": flavor}})
        self._settle_as(server, status)

    def _confirm(self, server: dict[str, Any], status: str = "ACTIVE") -> None:
        self.api.post_server_action(server["id"], {"confirmResize": None})
        # Nova has no task for a server while it confirms.
        self._wait_for_state_change(server, status)
        self._await_end(server)

    def _revert(self, server: dict[str, Any], status: str = "ACTIVE") -> None:
        self.api.post_server_action(server["id"], {"revertResize": None})
        self._settle_as(server, status)
        if status != "ERROR":
            self._await_end(server)

    def _await_end(self, server: dict[str, Any]) -> None:
        """Wait until Nova has forgotten the other flavor, the last that it does."""
        self.wait_until("end", lambda: self.instance(server).old_flavor is None)

    def _settle_as(self, server: dict[str, Any], status: str) -> None:
        if status == "ERROR":
            self._wait_for_state_change(server, "ERROR")
        assert self.settle(server)["status"] == status

    def _recover(self, server: dict[str, Any]) -> None:
        """What an operator does with a server that failed."""
        self.api.post_server_action(
            server["id"], {"os-resetState": {"state": "active"}}
        )
        self.act(server, "reboot", {"type": "HARD"})

    def _await_reason(self, server: dict[str, Any], text: str) -> None:
        """Wait until Nova has put down why the last thing asked of a server failed."""

        def said() -> bool:
            fault = objects.InstanceFault.get_latest_for_instance(
                self.cell_context(), server["id"]
            )
            return fault is not None and text in fault.message

        self.wait_until(text, said)

    def _seen(self, server: dict[str, Any]) -> trees.Tree:
        """All that there is to see of a server's files; the first time with many."""
        tree = self.tree(server)
        if not (tree / "srv").exists():
            trees.fill(tree / "srv", self.node.uid_offset or 0)
        return trees.of_the_guest(trees.describe(tree, self.node.uid_offset or 0))

    def _ends(self, ctid: str) -> str:
        """What the host has to do for a server's interfaces."""
        return (self.node.conf_dir / f"{ctid}.nics").read_text()

    def _disk_gb(self, ctid: str) -> int:
        return int(self.node.conf(ctid)["DISKSPACE"].split(":")[0]) >> 20

    def _await_use(self, *expected: int) -> None:
        """Wait until placement has what is in use: CPUs, MB, GB."""
        provider = self._get_provider_uuid_by_host("compute1")

        def as_expected() -> bool:
            found = self._get_provider_usages(provider)
            return tuple(found[n] for n in ("VCPU", "MEMORY_MB", "DISK_GB")) == expected

        self.wait_until(f"use of {expected}", as_expected)


class ResizeTests(_Resizes):
    """What holds for both families of vzctl."""

    def test_a_server_is_resized_reverted_and_confirmed(self) -> None:
        server = self.boot("web-1")
        ctid = self.container(server)
        tree = self._seen(server)
        before = self.node.conf_text(ctid)
        small_ends = self._ends(ctid)

        self._resize(server, self.large)

        large = self.node.conf_text(ctid)
        assert self._disk_gb(ctid) == 2
        assert self._ends(ctid) != small_ends
        assert self.node.state(ctid) == "running"
        assert self._seen(server) == tree

        self._revert(server)

        assert self.node.conf_text(ctid) == before
        assert self._ends(ctid) == small_ends
        assert self.node.state(ctid) == "running"
        assert self._seen(server) == tree
        self._await_use(1, 512, 1)

        self._resize(server, self.large)
        self._confirm(server)

        assert self.node.conf_text(ctid) == large
        assert self.node.state(ctid) == "running"
        assert self._seen(server) == tree
        assert self.node.containers() == [ctid]
        assert [p for p in self.left_on(self.node) if "resize" in p] == []
        self._await_use(2, 1024, 2)

        # A smaller disk, when it is large enough for what is in it.
        blob = self.tree(server) / "blob"
        with blob.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (1 << 30) + (1 << 20))
        self.node.clear_commands()
        self._resize(server, self.flavor_id, "ACTIVE")
        self._await_reason(server, "remove some of them first")
        assert self.subcommands(self.node) == []
        assert self.node.conf_text(ctid) == large
        self._await_use(2, 1024, 2)
        with blob.open("r+b") as file:
            file.truncate(0)
            # A hole takes no room.
            file.truncate(1 << 31)
        self._resize(server, self.flavor_id)
        self._confirm(server)

        assert self.node.conf_text(ctid) == before
        self.delete(server)
        assert self.left_on(self.node) == []

    @pytest.mark.slow
    def test_a_stopped_server_stays_stopped(self) -> None:
        server = self.boot("web-1")
        ctid = self.container(server)
        before = self.node.conf_text(ctid)
        self.act(server, "os-stop")

        self._resize(server, self.large)
        assert self.node.state(ctid) == "stopped"
        self._revert(server, "SHUTOFF")

        assert self.node.state(ctid) == "stopped"
        assert self.node.conf_text(ctid) == before

        self._resize(server, self.large)
        self._confirm(server, "SHUTOFF")
        assert self.node.state(ctid) == "stopped"

    @pytest.mark.slow
    def test_a_server_is_deleted_in_the_middle(self) -> None:
        resized = self.boot("web-1")
        self._resize(resized, self.large)
        self.delete(resized)
        assert self.left_on(self.node) == []

        busy = self.boot("web-2")
        self.node.slow("vzctl", "stop", seconds=1.5)
        self.node.clear_commands()
        self.api.post_server_action(busy["id"], {"resize": {"flavorRef": self.large}})
        self.wait_until("stop", lambda: "stop" in self.subcommands(self.node))

        self.api.delete_server(busy["id"])
        # Nova may say ERROR of it on the way: its resize failed.
        self._wait_until_deleted({**busy, "status": "ERROR"})

        self.wait_until("nothing", lambda: self.left_on(self.node) == [])
        self._await_use(0, 0, 0)


class TestResizeWithVzctl4(ResizeTests, shared.SharedCloudTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"


class TestResizeWithVzctl9(ResizeTests, shared.SharedCloudTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"


class _DiskImages(diskimages.DiskImages):
    """The disk's size is the image's."""

    def _disk_gb(self, ctid: str) -> int:
        hard_kb = self.node.image_kb(ctid) + (4 << 10)
        assert str(hard_kb) == self.node.conf(ctid)["DISKSPACE"].split(":")[1]
        return hard_kb >> 20


@pytest.mark.slow
class TestResizeOfDiskImages(_DiskImages, ResizeTests, base.OpenVZFunctionalTest):
    """With layout ploop."""


class FailingResizeTests(_Resizes):
    """What holds for both families of vzctl.

    On clouds of their own: what the API does not let one revert stays in placement.
    """

    @pytest.mark.slow
    def test_a_resize_that_fails_anywhere_leaves_the_server_as_it_was(self) -> None:
        server = self.boot("web-1")
        ctid = self.container(server)
        tree = self._seen(server)
        before = self.node.conf_text(ctid)
        for subcommand, when, status, used in (
            # All of it was undone.
            ("stop", "after", "ACTIVE", (1, 512, 1)),
            ("set", "after", "ACTIVE", (1, 512, 1)),
            # Nova cannot go back any more.
            ("start", "before", "ERROR", (2, 1024, 2)),
            ("start", "after", "ERROR", (2, 1024, 2)),
        ):
            step = (subcommand, when)
            self.node.fail("vzctl", subcommand, rc=96, stderr="no\n", when=when)

            self._resize(server, self.large, status)

            self._await_use(*used)
            assert self.node.conf_text(ctid) == before, step
            assert self.node.containers() == [ctid], step
            assert self._seen(server) == tree, step
            if status == "ERROR":
                self._recover(server)
            assert self.node.state(ctid) == "running", step
        for subcommand in ("stop", "start"):
            now = self.instance(server).flavor.flavorid
            self._resize(server, self.flavor_id if now == self.large else self.large)
            self.node.fail("vzctl", subcommand, rc=96, stderr="no\n")

            self._revert(server, "ERROR")

            self._recover(server)
            assert self._seen(server) == tree, subcommand
            assert self.node.containers() == [ctid], subcommand
            assert self.node.state(ctid) == "running", subcommand
        self.delete(server)
        assert self.left_on(self.node) == []


class TestFailingResizeWithVzctl4(FailingResizeTests, base.OpenVZFunctionalTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"


class TestFailingResizeWithVzctl9(FailingResizeTests, base.OpenVZFunctionalTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"


class TestFailingResizeOfDiskImages(
    _DiskImages, FailingResizeTests, base.OpenVZFunctionalTest
):
    """With layout ploop."""


class TestCrash(_Resizes, base.OpenVZFunctionalTest):
    """The service ends in the middle."""

    # The thread that stands for the crashed service ends with SystemExit.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    @pytest.mark.slow
    def test_a_crash_in_the_middle_is_taken_back(self) -> None:
        server = self.boot("web-1")
        ctid = self.container(server)
        before = self.node.conf_text(ctid)
        tree = self._seen(server)
        crashed = threading.Event()
        worker: list[threading.Thread] = []

        def crash(*_args: Any) -> None:
            worker.append(threading.current_thread())
            crashed.set()
            raise SystemExit

        self.driver()._network.unplug = crash
        # Who crashes undoes nothing.
        with fixtures.MonkeyPatch(
            "ovznovadriver.compute.undo.Undo.__exit__", lambda *_args: None
        ):
            self.api.post_server_action(
                server["id"], {"resize": {"flavorRef": self.large}}
            )
            assert crashed.wait(self.PATIENCE)
            worker[0].join(self.PATIENCE)
        assert self.node.state(ctid) == "stopped"

        self.restart_compute("compute1")
        self.settle(server)

        assert self.node.state(ctid) == "running"
        assert self.node.conf_text(ctid) == before
        assert self._seen(server) == tree
