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
"""Unpacking of template archives."""

from __future__ import annotations

import os

from ovzsim.base import Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tarfile import TarInfo

# What family 4 does not unpack, though a Python of today would.
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz")


def find_cached(cache: str, name: str) -> str | None:
    """The archive of a template in the cache, whatever it is packed with."""
    for suffix in _SUFFIXES:
        path = os.path.join(cache, name + suffix)
        if os.path.isfile(path):
            return path
    return None


def unpack(archive: str, target: str) -> None:
    """Unpacks a tar, tar.gz, tar.bz2 or tar.xz, told apart by content.

    Owners are kept only when root. Members that would lead out of the directory, also
    by way of a link in the archive, are left out; so are devices when not root.

    :raises Exit: 46, the archive is damaged.
    """
    import tarfile

    try:
        with open(archive, "rb") as handle:
            if handle.read(4) == _ZSTANDARD:
                raise tarfile.ReadError("unknown packing")
        with tarfile.open(archive) as tar:
            members = _inside(tar.getmembers())
            if os.geteuid() != 0:
                members = [m for m in members if not m.isdev() or m.isfifo()]
            # Python before 3.11.4 has no filters, later ones warn without one.
            trusted = getattr(tarfile, "fully_trusted_filter", None)
            if trusted is not None:
                tar.extraction_filter = trusted
            tar.extractall(target, members, numeric_owner=True)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise Exit(
            46,
            f"tar: {error}\nCreation of container private area failed\n",
        ) from None


def _inside(members: list[TarInfo]) -> list[TarInfo]:
    """The members that stay below the directory they are unpacked in."""
    outward = {
        os.path.normpath(m.name)
        for m in members
        if m.issym() and (m.linkname.startswith("/") or ".." in m.linkname.split("/"))
    }

    def stays(path: str) -> bool:
        parts = os.path.normpath(path).split("/")
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        return not path.startswith("/") and parts[0] != ".." and not above & outward

    return [
        m for m in members if stays(m.name) and (not m.islnk() or stays(m.linkname))
    ]


def shift_owners(tree: str, uid: int, gid: int) -> None:
    """Adds the container's UID and GID offset to every owner below a directory."""
    for place, directories, files in os.walk(tree):
        for name in (*directories, *files):
            path = os.path.join(place, name)
            held = os.lstat(path)
            os.lchown(path, held.st_uid + uid, held.st_gid + gid)
    held = os.lstat(tree)
    os.lchown(tree, held.st_uid + uid, held.st_gid + gid)
