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

"""Disk images like those that distributions publish, read by the real libguestfs.

One conversion takes half a minute without hardware virtualisation, so these run on
request only: `tox -e cloudimage`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.functional import base
from tests.functional import fixtures as cloud_fixtures

_PROGRAMS = ("guestfish", "qemu-img", "mkfs.ext4", "sfdisk")
_MISSING = [name for name in _PROGRAMS if shutil.which(name) is None]

pytestmark = [
    pytest.mark.skipif(
        "OVZ_TEST_CLOUD_IMAGES" not in os.environ,
        reason="OVZ_TEST_CLOUD_IMAGES is not set (tox -e cloudimage sets it)",
    ),
    pytest.mark.skipif(
        bool(_MISSING),
        reason=f"{', '.join(_MISSING)} not installed (libguestfs-tools, qemu-utils,"
        " e2fsprogs, fdisk)",
    ),
    pytest.mark.timeout(900),
]

_MIB = 1 << 20


def _run(*command: str, text: str = "") -> None:
    subprocess.run(command, input=text.encode(), check=True, capture_output=True)


def make_tree(root: Path) -> None:
    """A root file system with what a cloud image has more than a container."""
    for name in cloud_fixtures.DIRECTORIES:
        (root / name).mkdir(parents=True)
    for name, (mode, content) in cloud_fixtures.ROOTFS.items():
        (root / name).write_text(content)
        (root / name).chmod(mode)
    (root / "boot/grub").mkdir(parents=True)
    (root / "boot/vmlinuz").write_bytes(os.urandom(_MIB))
    (root / "etc/fstab").write_text("LABEL=cloudimg / ext4 defaults 0 1\n")
    (root / "etc/debian_version").write_text("12.5\n")
    (root / "lib").symlink_to("usr/lib")
    (root / "usr/lib").mkdir()
    os.link(root / "etc/hostname", root / "etc/hostname.link")
    (root / "tmp").chmod(0o1777)
    if os.geteuid() == 0:
        os.chown(root / "var/lib", 33, 12345)


def make_disk(directory: Path, disk_format: str, *, partition: bool) -> bytes:
    """A disk image of :func:`make_tree`.

    :param disk_format: as QEMU calls it
    """
    tree, system, disk = (directory / name for name in ("tree", "system", "disk"))
    make_tree(tree)
    _run("truncate", "-s", "24M", str(system))
    _run("mkfs.ext4", "-q", "-L", "cloudimg", "-d", str(tree), str(system))
    if partition:
        _run("truncate", "-s", "26M", str(disk))
        _run("sfdisk", "-q", str(disk), text="start=2048, size=49152, type=83\n")
        with disk.open("r+b") as file:
            file.seek(_MIB)
            file.write(system.read_bytes())
    else:
        system.rename(disk)
    result = directory / "result"
    _run("qemu-img", "convert", "-f", "raw", "-O", disk_format, str(disk), str(result))
    return result.read_bytes()


class CloudImageTests:
    """Each family with another kind of image: the way to a tree is the same."""

    DISK_FORMAT = "qcow2"
    QEMU_FORMAT = "qcow2"
    PARTITION = True
    PATIENCE = 600.0

    def test_a_cloud_image_boots_and_is_converted_once(self) -> None:
        data = make_disk(
            self._directory / "image", self.QEMU_FORMAT, partition=self.PARTITION
        )
        image = self.glance.add_image(data, disk_format=self.DISK_FORMAT)
        server = self.boot("web-1", image_id=image, networks="none")

        assert server["OS-EXT-STS:power_state"] == 1
        tree = self.tree(server)
        assert (tree / "etc/debian_version").read_text() == "12.5\n"
        assert os.readlink(tree / "lib") == "usr/lib"
        assert (tree / "boot/vmlinuz").stat().st_size == _MIB
        assert (tree / "etc/shadow").stat().st_mode & 0o7777 == 0o640
        assert (tree / "tmp").stat().st_mode & 0o7777 == 0o1777
        if os.geteuid() == 0:
            base_uid = (tree / "sbin/init").stat().st_uid
            found = (tree / "var/lib").stat()
            assert (found.st_uid - base_uid, found.st_gid - base_uid) == (33, 12345)

        # What would convert a second time is not there any more.
        self.useFixture(
            cloud_fixtures.fixtures.EnvironmentVariable("PATH", str(self.node.bin_dir))
        )
        self.boot("web-2", image_id=image, networks="none")
        assert self.glance.downloads == [image]


class TestCloudImageWithVzctl4(CloudImageTests, base.OpenVZFunctionalTest):
    """The family of OpenVZ 6 and stock kernels, and a disk with partitions."""

    FAMILY = "4"


class TestCloudImageWithVzctl9(CloudImageTests, base.OpenVZFunctionalTest):
    """The family of OpenVZ and Virtuozzo 7 to 9, and one of its own images."""

    FAMILY = "9"
    DISK_FORMAT = "ploop"
    QEMU_FORMAT = "parallels"


class TestRawImageWithVzctl4(CloudImageTests, base.OpenVZFunctionalTest):
    """A disk that is one file system."""

    FAMILY = "4"
    DISK_FORMAT = QEMU_FORMAT = "raw"
    PARTITION = False
