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
"""Rescue and unrescue, through the REST API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.functional import base, diskimages, shared
from tests.functional import fixtures as cloud_fixtures


class RescueTests:
    """What holds for both families of vzctl."""

    def test_a_server_is_rescued_and_comes_back_as_it_was(self) -> None:
        server = self.boot("web-1")
        ctid = self.container(server)
        (self.tree(server) / "etc/mine").write_text("kept")
        before = self.node.conf_text(ctid)

        self._rescue(server)

        assert self.node.state(ctid) == "running"
        assert not (self.tree(server) / "etc/mine").exists()
        own = self.tree(server) / "instance"
        assert (own / "etc/mine").read_text() == "kept"
        (own / "etc/mine").write_text("mended")
        # A tree to work in has a network, too.
        assert any(name.startswith("tap") for name in self.node.nics())

        self._unrescue(server)

        assert self.container(server) == ctid
        assert (self.tree(server) / "etc/mine").read_text() == "mended"
        assert self.node.state(ctid) == "running"
        assert self.node.conf_text(ctid) == before
        assert self.node.containers() == [ctid]
        self.delete(server)
        assert self.left_on(self.node) == []

    @pytest.mark.slow
    def test_a_rescue_that_fails_anywhere_leaves_the_server_as_it_was(self) -> None:
        server = self.boot("web-1")
        ctid = self.container(server)
        (self.tree(server) / "etc/mine").write_text("kept")
        before = self.node.conf_text(ctid)
        for subcommand, when in (
            ("create", "before"),
            ("create", "after"),
            ("start", "before"),
            ("start", "after"),
        ):
            self.node.fail("vzctl", subcommand, rc=96, stderr="no\n", when=when)

            self.api.post_server_action(server["id"], {"rescue": {}})
            self._wait_for_state_change(server, "ERROR")

            assert (self.tree(server) / "etc/mine").read_text() == "kept"
            assert self.node.conf_text(ctid) == before
            assert self.node.containers() == [ctid]
            self.api.post_server_action(
                server["id"], {"os-resetState": {"state": "active"}}
            )
            self.act(server, "reboot", {"type": "HARD"})

        self.delete(server)
        assert self.left_on(self.node) == []

    def _rescue(self, server: dict[str, Any], **request: Any) -> None:
        self.api.post_server_action(server["id"], {"rescue": request})
        self._wait_for_state_change(server, "RESCUE")

    def _unrescue(self, server: dict[str, Any]) -> None:
        self.api.post_server_action(server["id"], {"unrescue": None})
        self._wait_for_state_change(server, "ACTIVE")


class TestRescueWithVzctl4(RescueTests, shared.SharedCloudTest):
    """vzctl 4; with it, what does not depend on the family."""

    @pytest.mark.slow
    def test_another_image_and_a_password_are_used(self) -> None:
        server = self.boot("web-1")
        image = self.glance.add_image(
            cloud_fixtures.rootfs_tarball(
                {**cloud_fixtures.ROOTFS, "etc/tools": (0o644, "here")}
            )
        )

        self._rescue(server, rescue_image_ref=image, adminPass="r3scue")

        assert (self.tree(server) / "etc/tools").read_text() == "here"
        shadow = (self.tree(server) / "etc/shadow").read_text()
        own = (self.tree(server) / "instance/etc/shadow").read_text()
        assert shadow.splitlines()[0] != own.splitlines()[0]

    @pytest.mark.slow
    def test_a_rescued_server_can_be_deleted(self) -> None:
        server = self.boot("web-1")
        self._rescue(server)

        self.delete(server)

        assert self.left_on(self.node) == []
        assert self.neutron._ports == {}

    @pytest.mark.slow
    def test_a_tree_that_the_guest_moved_is_not_lost(self) -> None:
        server = self.boot("web-1")
        self._rescue(server)
        tree = self.tree(server)
        (tree / "instance").rename(tree / "elsewhere")

        self.api.post_server_action(server["id"], {"unrescue": None})
        self._wait_for_state_change(server, "ERROR")

        assert (tree / "elsewhere/sbin/init").exists()
        assert "put it back there" in self.fault(server)
        self.settle(server)
        # Nova does not unrescue it any more.
        found = self.act(server, "reboot", {"type": "HARD"})
        assert found["status"] == "ERROR"
        (tree / "elsewhere").rename(tree / "instance")
        found = self.act(server, "reboot", {"type": "HARD"})
        assert found["status"] == "ACTIVE"
        assert not (self.tree(server) / "instance").exists()

    @pytest.mark.slow
    def test_what_rescues_a_server_does_not_become_its_image(self) -> None:
        server = self.boot("web-1")
        self._rescue(server)
        self.api.post_server_action(
            server["id"], {"os-resetState": {"state": "active"}}
        )
        images = set(self.glance.images)

        self.act(server, "createImage", {"name": "image"})

        self.wait_until("the image to go", lambda: set(self.glance.images) == images)
        self.act(server, "reboot", {"type": "HARD"})
        assert not (self.tree(server) / "instance").exists()


class TestRescueWithVzctl9(RescueTests, shared.SharedCloudTest):
    """vzctl 9."""

    FAMILY = "9"


class TestNoRescueOfDiskImages(diskimages.DiskImages, base.OpenVZFunctionalTest):
    """With layout ploop."""

    @pytest.mark.slow
    def test_a_server_in_a_disk_image_is_not_rescued(self) -> None:
        server = self.boot("web-1")
        ctid = self.container(server)
        (self.tree(server) / "file").write_text("content")
        self.node.clear_commands()

        self.api.post_server_action(server["id"], {"rescue": {}})
        self._wait_for_state_change(server, "ERROR")

        assert "its layout is ploop" in self.fault(server)
        assert self.subcommands(self.node) == ["stop"]
        self.api.post_server_action(
            server["id"], {"os-resetState": {"state": "active"}}
        )
        self.act(server, "reboot", {"type": "HARD"})
        assert self.node.containers() == [ctid]
        assert self.node.state(ctid) == "running"
        assert (self.tree(server) / "file").read_text() == "content"
        self.delete(server)
        assert self.left_on(self.node) == []
