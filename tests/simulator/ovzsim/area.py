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
"""A container's places on disk: private area, root mount point, its file tree."""

from __future__ import annotations

import contextlib
import os
import re

from ovzsim import base
from ovzsim.base import Exit
from ovzsim.host import Host

# Where a ploop image of the simulator keeps what a real one keeps in its file system.
PLOOP_TREE = "root.hdd/.tree"
_DESCRIPTOR = "root.hdd/DiskDescriptor.xml"
# What a size leaves to its file system: all but four clusters of 1 MiB (new_fs_size in
# ploop_resize_image of ploop's lib/ploop.c).
_CLUSTERS_KB = 4 << 10


def expand(template: str, ctid: str) -> str:
    """VE_ROOT or VE_PRIVATE with the container's number in it."""
    return template.replace("$VEID", ctid).replace("${VEID}", ctid)


class Area:
    """Where a container's files are, from its configuration and vz.conf."""

    def __init__(self, host: Host, ctid: str, conf: dict[str, str]) -> None:
        vz_conf = host.vz_conf()
        self._family = host.family
        self.private = expand(conf.get("VE_PRIVATE") or vz_conf["VE_PRIVATE"], ctid)
        self.root = expand(conf.get("VE_ROOT") or vz_conf["VE_ROOT"], ctid)
        self.exists = bool(self.private) and os.path.isdir(self.private)

    @property
    def is_ploop(self) -> bool:
        """The tree lies in a ploop image, seen only while it is mounted."""
        return os.path.isdir(os.path.join(self.private, "root.hdd"))

    @property
    def plain_tree(self) -> str:
        """Where the tree lies while nothing is mounted."""
        if self.is_ploop:
            return os.path.join(self.private, PLOOP_TREE)
        return self.private if self._family == "4" else f"{self.private}/fs"

    @property
    def tree(self) -> str:
        """Where the tree is now."""
        plain = self.plain_tree
        return self.root if self.is_ploop and not os.path.isdir(plain) else plain

    # -- a ploop image ----------------------------------------------------------

    @property
    def image_kb(self) -> int:
        """The size of the file system in the image."""
        text = base.read_text(os.path.join(self.private, _DESCRIPTOR))
        found = re.search("<Disk_size>([0-9]+)</Disk_size>", text)
        assert found, text
        return int(found[1]) // 2 - _CLUSTERS_KB

    def used_kb(self) -> int:
        """What the files in the image take."""
        blocks = 0
        for place, _, files in os.walk(self.tree):
            for name in ("", *files):
                # It may be mounted, or written to, at this moment.
                with contextlib.suppress(FileNotFoundError):
                    blocks += os.lstat(os.path.join(place, name)).st_blocks
        return blocks // 2

    def make_image(self, size_kb: int) -> None:
        """Makes an empty image."""
        os.makedirs(os.path.join(self.private, PLOOP_TREE))
        self._write_size(size_kb)

    def resize_image(self, size_kb: int) -> None:
        """Resizes the image, mounted or not, as ploop_resize_image does it online.

        A smaller size inflates the balloon, which needs as much free room.

        :raises Exit: 154, its files need more; it has the size that it had.
        """
        new, used = size_kb - _CLUSTERS_KB, self.used_kb()
        if new < min(used, self.image_kb):
            reason = (
                f"Unable to change image size to {new * 2} sectors, minimal size is"
                f" {used * 2}"
            )
            raise Exit(154, f"{reason}\nFailed to resize image: {reason} [38]\n")
        self._write_size(size_kb)

    def _write_size(self, size_kb: int) -> None:
        base.write_text(
            os.path.join(self.private, _DESCRIPTOR),
            "<Parallels_disk_image><Disk_Parameters>"
            f"<Disk_size>{size_kb * 2}</Disk_size>"
            "</Disk_Parameters></Parallels_disk_image>\n",
        )

    # -- mounting ---------------------------------------------------------------

    def mount(self) -> None:
        """Shows the tree at the root mount point.

        A ploop image's tree moves there, so that it is nowhere else; a simfs tree is
        shown through a symbolic link, which needs no privilege.
        """
        self._clear_root()
        os.makedirs(os.path.dirname(self.root), exist_ok=True)
        if self.is_ploop:
            os.rename(self.plain_tree, self.root)
        else:
            os.symlink(self.plain_tree, self.root)

    def umount(self) -> None:
        """Undoes mount()."""
        if self.is_ploop and not os.path.isdir(self.plain_tree):
            os.rename(self.root, self.plain_tree)
        self._clear_root()
        os.makedirs(self.root, exist_ok=True)

    def _clear_root(self) -> None:
        if os.path.islink(self.root):
            os.unlink(self.root)
        elif os.path.isdir(self.root):
            os.rmdir(self.root)

    def remove(self) -> str:
        """Removes private area and root mount point, as destroy does.

        :returns: the warning of vzctl when the mount point cannot be removed, which
            stops nothing; empty without one.
        """
        base.remove_tree(self.private)
        try:
            if os.path.islink(self.root):
                os.unlink(self.root)
            else:
                os.rmdir(self.root)
        except OSError as error:
            return f"Warning: failed to remove {self.root}: {error.strerror}"
        return ""
