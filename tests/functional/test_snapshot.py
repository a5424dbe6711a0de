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

"""Images of servers, and servers made from them: createImage, backup, shelve."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import fixtures
import pytest
from oslo_config import cfg

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import snapshot
from ovznovadriver.openvz import privileged
from ovznovadriver.openvz.container import OvzContainer
from tests import support, trees
from tests.functional import base, diskimages, twohosts
from tests.functional import fixtures as cloud_fixtures

CONF = cfg.CONF

#: What the driver writes into each server's tree, and what holds it.
OWN_FILES = ("etc", "root", "var/lib/cloud")


class _Snapshots:
    """How snapshots are taken, and what is looked at."""

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.flags(snapshot_timeout=60, group="openvz")

    def _create_image(
        self, server: dict[str, Any], *, name: str = "snapshot", fails: bool = False
    ) -> str:
        known = set(self.glance.images)
        self.act(server, "createImage", {"name": name})
        self.wait_until("the thread to end", lambda: not self._threads())
        if fails:
            return ""
        (image,) = set(self.glance.images) - known
        return str(image)

    def _around(self, verb: str, before: Any) -> None:
        """Have something done before a verb of the privileged side is."""
        real = privileged.VERBS[verb]

        def changed(**kwargs: Any) -> Any:
            before()
            return real(**kwargs)

        self.useFixture(
            fixtures.MockPatchObject(
                privileged, "VERBS", {**privileged.VERBS, verb: changed}
            )
        )

    def _at(self, verb: str, server: dict[str, Any]) -> tuple[str, str]:
        return verb, self._state_on_node(server)

    def _state_on_node(self, server: dict[str, Any]) -> str:
        node = self.driver()._node
        node.look.forget()
        ctid = self.container(server)
        found = OvzContainer.find(node, ovz_id=ctid)
        return str(found.state.value)

    def _offset(self, server: dict[str, Any]) -> int:
        return self.tree(server).stat().st_uid if os.geteuid() == 0 else 0

    def _last_fault(self, server: dict[str, Any]) -> str:
        def look() -> Any:
            return objects.InstanceFault.get_latest_for_instance(
                self.cell_context(), server["id"]
            )

        return str(self.wait_until("the fault", look).message)

    def _directory_of_snapshots(self) -> Path:
        return Path(CONF.openvz.snapshot_dir)

    @staticmethod
    def _threads() -> list[str]:
        names = [thread.name for thread in threading.enumerate()]
        return [n for n in names if n.startswith(("ovz-snapshot", "ovz-progress"))]

    def _assert_unharmed(self, server: dict[str, Any]) -> None:
        found = self.api.get_server(server["id"])
        assert found["status"] == "ACTIVE"
        assert self._state_on_node(server) == "running"
        self._assert_nothing_is_left()

    def _assert_nothing_is_left(self) -> None:
        directory = self._directory_of_snapshots()
        assert not directory.exists() or list(directory.iterdir()) == []
        assert self._threads() == []


class SnapshotTests(_Snapshots):
    """What holds for both families of vzctl, and for each layout."""

    # -- identity ---------------------------------------------------------------

    def test_a_server_made_from_a_snapshot_is_the_same_tree(self) -> None:
        server = self.boot("web-1", networks="none")
        data = trees.fill(self.tree(server) / "srv", self._offset(server))
        before = trees.describe(self.tree(server), self._offset(server))

        image = self._create_image(server)
        copy = self.boot("web-2", networks="none", image_id=image)

        after = trees.describe(self.tree(copy), self._offset(copy))
        assert set(trees.without(after, OWN_FILES)) == set(
            trees.without(before, OWN_FILES)
        )
        assert trees.without(after, OWN_FILES) == trees.without(before, OWN_FILES)
        assert data <= set(before)

    @pytest.mark.slow
    def test_each_state_can_be_packed_and_is_kept(self) -> None:
        server = self.boot("web-1", networks="none")
        (self.tree(server) / "srv").mkdir()
        (self.tree(server) / "srv/file").write_text("content")

        for action, status in (
            (None, "ACTIVE"),
            ("pause", "PAUSED"),
            ("unpause", "ACTIVE"),
            ("suspend", "SUSPENDED"),
            ("resume", "ACTIVE"),
            ("os-stop", "SHUTOFF"),
        ):
            if action:
                self.act(server, action)
            image = self._create_image(server, name=f"image-{action}")
            found = self.api.get_server(server["id"])
            assert found["status"] == status, action
            assert self._state_on_node(server) == {
                "ACTIVE": "running",
                "SHUTOFF": "stopped",
            }.get(status, status.lower())
            copy = self.boot(f"copy-{action}", networks="none", image_id=image)
            assert (self.tree(copy) / "srv/file").read_text() == "content"
            self.delete(copy)
        self._assert_nothing_is_left()

    @pytest.mark.slow
    def test_the_image_says_what_it_is(self) -> None:
        self.image_id = self.glance.add_image(
            cloud_fixtures.rootfs_tarball(),
            os_distro="debian",
            architecture="x86_64",
        )
        server = self.boot("web-1", networks="none")

        image = self.glance.show(None, self._create_image(server, name="my image"))

        assert image["name"] == "my image"
        assert (image["disk_format"], image["container_format"]) == ("raw", "bare")
        wanted = {
            "os_distro": "debian",
            "architecture": "x86_64",
            "hypervisor_type": "openvz",
            "vm_mode": "exe",
            "image_location": "snapshot",
            "image_state": "available",
        }
        assert wanted.items() <= image["properties"].items()

    # -- while it is being taken --------------------------------------------------

    def test_a_running_server_is_frozen_for_the_second_part_alone(self) -> None:
        server = self.boot("web-1", networks="none")
        states: list[tuple[str, str]] = []
        for verb in ("pack_contents", "pack_tree"):
            self._around(verb, lambda verb=verb: states.append(self._at(verb, server)))

        self._create_image(server)

        assert states == [("pack_contents", "running"), ("pack_tree", "paused")]
        assert self._state_on_node(server) == "running"

    @pytest.mark.slow
    def test_what_changes_meanwhile_is_as_at_the_freeze(self) -> None:
        server = self.boot("web-1", networks="none")
        top = self.tree(server) / "srv"
        top.mkdir()
        for name in ("same", "changed", "deleted", "renamed", "file"):
            (top / name).write_text(name)
        (top / "dir").mkdir()
        (top / "dir/inner").write_text("inner")
        time.sleep(0.1)  # longer than a tick of the clock of files

        def change() -> None:
            (top / "changed").write_text("CHANGED")
            (top / "deleted").unlink()
            (top / "renamed").rename(top / "to")
            (top / "new").write_text("new")
            (top / "file").unlink()
            (top / "file").mkdir()
            (top / "dir/inner").unlink()
            (top / "dir").rmdir()
            (top / "dir").symlink_to("file")
            trees.give(top, self._offset(server))

        self._around("pack_tree", change)
        image = self._create_image(server)
        wanted = trees.describe(top, self._offset(server))
        copy = self.boot("web-2", networks="none", image_id=image)

        assert trees.describe(self.tree(copy) / "srv", self._offset(copy)) == wanted
        assert (self.tree(copy) / "srv/changed").read_text() == "CHANGED"

    @pytest.mark.slow
    def test_task_states_and_progress_are_told(self) -> None:
        server = self.boot("web-1", networks="none")
        (self.tree(server) / "data").write_bytes(os.urandom(4 << 20))
        self.node.set_usage(self.container(server), diskspace=8 << 10)
        self.useFixture(fixtures.MockPatchObject(snapshot, "PROGRESS_INTERVAL", 0.01))
        seen: list[tuple[Any, int]] = []
        told = threading.Event()

        def look(image_id: str, size: int) -> None:
            found = self.instance(server)
            if not told.is_set() and size > 1 << 20:
                self.wait_until("progress", lambda: self.instance(server).progress)
                told.set()
            seen.append((found.task_state, self.instance(server).progress))

        self.glance.on_upload = look
        self._create_image(server)

        assert {state for state, _ in seen} == {"image_uploading"}
        assert 0 < max(progress for _, progress in seen) < 100
        assert self.instance(server).progress == 100

    # -- what goes wrong ----------------------------------------------------------

    @pytest.mark.slow
    def test_an_image_deleted_during_the_upload_leaves_nothing(self) -> None:
        server = self.boot("web-1", networks="none")
        (self.tree(server) / "data").write_bytes(os.urandom(8 << 20))

        def delete(image_id: str, size: int) -> None:
            if self.glance.images.pop(image_id, None):
                self.deleted = image_id
            raise nova_exception.ImageNotFound(image_id=image_id)

        self.glance.on_upload = delete
        self._create_image(server, fails=True)

        assert self.glance.content(self.deleted) is None
        self._assert_unharmed(server)

    @pytest.mark.slow
    def test_a_glance_that_fails_leaves_no_image(self) -> None:
        server = self.boot("web-1", networks="none")
        (self.tree(server) / "data").write_bytes(os.urandom(8 << 20))

        def fail(image_id: str, size: int) -> None:
            raise nova_exception.GlanceConnectionFailed(server="x", reason="y")

        self.glance.on_upload = fail
        images = set(self.glance.images)
        self._create_image(server, fails=True)

        assert set(self.glance.images) == images
        self._assert_unharmed(server)

    @pytest.mark.slow
    def test_a_packer_that_fails_while_the_server_is_frozen(self) -> None:
        server = self.boot("web-1", networks="none")

        def fail() -> None:
            raise exception.OvzError("no more")

        self._around("pack_tree", fail)
        images = set(self.glance.images)
        self._create_image(server, fails=True)

        assert set(self.glance.images) == images
        assert "no more" in self._last_fault(server)
        self._assert_unharmed(server)

    @pytest.mark.slow
    def test_a_packer_that_takes_too_long_is_ended(self) -> None:
        self.flags(snapshot_timeout=1, group="openvz")
        server = self.boot("web-1", networks="none")
        self._around("pack_contents", lambda: time.sleep(1.1))

        self._create_image(server, fails=True)

        assert "within" in self._last_fault(server)
        self._assert_unharmed(server)

    @pytest.mark.slow
    def test_a_server_that_cannot_be_frozen_is_not_packed(self) -> None:
        server = self.boot("web-1", networks="none")
        subcommand = "chkpnt" if self.FAMILY == "4" else "pause"
        self.node.fail("vzctl", subcommand, rc=16, stderr="no way to freeze")
        images = set(self.glance.images)

        self._create_image(server, fails=True)

        assert set(self.glance.images) == images
        assert "no way to freeze" in self._last_fault(server)
        self._assert_unharmed(server)

    @pytest.mark.slow
    def test_a_freeze_that_takes_too_long_and_stays_is_remembered(self) -> None:
        server = self.boot("web-1", networks="none")
        freeze, unfreeze, nth = (
            ("chkpnt", "chkpnt", 2) if self.FAMILY == "4" else ("pause", "resume", 1)
        )
        with pytest.MonkeyPatch.context() as patch:
            support.end_what_hangs(self.node, patch)
            self.node.hang("vzctl", freeze, when="after")
            self.node.hang("vzctl", unfreeze, nth=nth)
            self._create_image(server, fails=True)
        assert self._state_on_node(server) == "paused"

        self.restart_compute("compute1")

        self._assert_unharmed(server)

    @pytest.mark.slow
    def test_a_server_deleted_meanwhile_leaves_no_image(self) -> None:
        server = self.boot("web-1", networks="none")
        images = set(self.glance.images)
        (self.tree(server) / "data").write_bytes(os.urandom(4 << 20))
        deleted = threading.Event()

        def delete(image_id: str, size: int) -> None:
            if not deleted.is_set():
                deleted.set()
                self.delete(server)

        self.glance.on_upload = delete
        self.api.post_server_action(server["id"], {"createImage": {"name": "x"}})
        assert deleted.wait(self.PATIENCE)

        self.wait_until("the image to go", lambda: set(self.glance.images) == images)
        self.wait_until("the thread to end", lambda: not self._threads())
        assert self.left_on(self.node) == []

    def test_a_second_one_meanwhile_is_refused_and_does_no_harm(self) -> None:
        """As after somebody has reset the state of a server, in the middle of one."""
        server = self.boot("web-1", networks="none")
        other = self.glance.add_image(b"")
        refused: list[str] = []

        def again() -> None:
            if refused:
                return
            refused.append("not")
            try:
                self.driver().snapshot(
                    self.cell_context(),
                    self.instance(server),
                    other,
                    lambda **_states: None,
                )
            except nova_exception.NovaException as error:
                refused.append(str(error))

        self._around("pack_tree", again)
        image = self._create_image(server)

        assert "still being taken" in refused[-1]
        self.boot("web-2", networks="none", image_id=image)
        self._assert_unharmed(server)

    @pytest.mark.slow
    def test_a_server_that_was_left_frozen_runs_on_with_the_next_one(self) -> None:
        server = self.boot("web-1", networks="none")
        subcommand, nth = ("chkpnt", 2) if self.FAMILY == "4" else ("resume", 1)
        self.node.fail("vzctl", subcommand, nth=nth, rc=17, stderr="no way back")
        self._create_image(server, fails=True)
        assert self._state_on_node(server) == "paused"

        self._create_image(server)

        self._assert_unharmed(server)

    def test_a_server_left_frozen_by_a_dead_service_runs_on(self) -> None:
        server = self.boot("web-1", networks="none")
        place = self._directory_of_snapshots() / server["id"]
        place.mkdir(parents=True)
        (place / "frozen").touch()
        self.driver().pause(self.instance(server))

        self.restart_compute("compute1")

        assert self._state_on_node(server) == "running"
        self._assert_nothing_is_left()

    # -- what Nova makes of it ------------------------------------------------------

    @pytest.mark.slow
    def test_a_backup_is_taken_and_rotated(self) -> None:
        server = self.boot("web-1", networks="none")
        for number in range(2):
            self.act(
                server,
                "createBackup",
                {"name": f"b{number}", "backup_type": "daily", "rotation": 1},
            )
        kept = [i for i in self.glance.images.values() if i["name"].startswith("b")]
        assert [image["name"] for image in kept] == ["b1"]
        assert self.glance.content(kept[0]["id"])

    @pytest.mark.slow
    def test_a_shelved_server_comes_back_as_it_was(self) -> None:
        server = self.boot("web-1", networks="none")
        trees.fill(self.tree(server) / "srv", self._offset(server))
        before = trees.describe(self.tree(server) / "srv", self._offset(server))

        self.api.post_server_action(server["id"], {"shelve": None})
        self._wait_for_state_change(server, "SHELVED_OFFLOADED")
        self.settle(server)
        assert self.left_on(self.node) == []
        self.api.post_server_action(server["id"], {"unshelve": None})
        self._wait_for_state_change(server, "ACTIVE")
        self.settle(server)

        after = trees.describe(self.tree(server) / "srv", self._offset(server))
        assert after == before
        self._assert_nothing_is_left()


class SnapshotTest4(SnapshotTests, base.OpenVZFunctionalTest):
    """Snapshots with vzctl 4."""


class SnapshotTest9(SnapshotTests, base.OpenVZFunctionalTest):
    """Snapshots with vzctl 9."""

    FAMILY = "9"


@pytest.mark.slow
class SnapshotTestOfDiskImages(
    diskimages.DiskImages, SnapshotTests, base.OpenVZFunctionalTest
):
    """Snapshots with layout ploop."""


class SnapshotTestOfStoppedDiskImages(
    diskimages.DiskImages, _Snapshots, base.OpenVZFunctionalTest
):
    """Disk images that are mounted for a snapshot."""

    def test_a_stopped_server_is_mounted_for_it_alone(self) -> None:
        server = self.boot("web-1", networks="none")
        ctid = self.container(server)
        (self.tree(server) / "file").write_text("content")
        self.act(server, "os-stop")
        states: list[str] = []

        def look() -> None:
            states.append(self.node.state(ctid))
            if len(states) > 1:
                raise exception.OvzError("no more")

        self._around("pack_tree", look)
        image = self._create_image(server)
        assert (states, self.node.state(ctid)) == (["mounted"], "stopped")

        self._create_image(server, fails=True)
        assert (states, self.node.state(ctid)) == (["mounted"] * 2, "stopped")
        self._assert_nothing_is_left()

        copy = self.boot("web-2", networks="none", image_id=image)
        assert (self.tree(copy) / "file").read_text() == "content"

    @pytest.mark.slow
    def test_a_disk_that_cannot_be_mounted_is_not_packed(self) -> None:
        server = self.boot("web-1", networks="none")
        self.act(server, "os-stop")
        for subcommand in ("mount", "umount"):
            images = set(self.glance.images)
            self.node.fail("vzctl", subcommand, rc=152, stderr="no ploop device")

            self._create_image(server, fails=True)

            assert set(self.glance.images) == images
            assert "no ploop device" in self._last_fault(server)
        # What could not be unmounted is so when the service starts.
        assert self._state_on_node(server) == "mounted"
        self.restart_compute("compute1")
        assert self._state_on_node(server) == "stopped"
        self._assert_nothing_is_left()


@pytest.mark.slow
class TestUnshelveElsewhere(twohosts.TwoHostsTest):
    """A shelved server comes back on another host."""

    def test_its_files_come_along(self) -> None:
        server = self.boot("web-1", host="compute1")
        files = self.files(server)
        self.act(server, "shelve")
        self.settle_as(server, "SHELVED_OFFLOADED")
        assert self.left("compute1") == []

        self.admin_api.microversion = "2.91"
        self.admin_api.post_server_action(
            server["id"], {"unshelve": {"host": "compute2"}}
        )
        self.settle_as(server, "ACTIVE")

        assert self.host_of(server) == "compute2"
        assert self.files(server) == files
        self.delete(server)
        assert self.left("compute2") == []

    def files(self, server: dict[str, Any]) -> trees.Tree:
        """What the driver does not write anew when a server is made of an image."""
        seen = self.seen(server)
        return {path: seen[path] for path in seen if path.startswith(b"srv")}
