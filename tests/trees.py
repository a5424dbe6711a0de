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

"""Trees of files that hold everything a file system can, and what is seen of them."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any

from ovznovadriver.compute import drive

Tree = dict[bytes, dict[str, Any]]

_IS_ROOT = os.geteuid() == 0
#: CAP_NET_RAW, permitted and effective (linux/capability.h).
_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def _acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as linux/posix_acl_xattr.h has it: tag, permissions and number of each."""
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    return struct.pack("<I", 2) + packed


def fill(top: Path, offset: int = 0) -> set[bytes]:
    """Make a directory with one of everything in it; the paths of what was made.

    :param offset: of the owners, as seen from here
    """
    top.mkdir()
    place = os.fsencode(top)
    _files(place)
    _links(place)
    _specials(place)
    if _IS_ROOT:
        _owners(place, offset)
    _attributes(place, offset)
    for path in _below(place):
        if not os.path.islink(path):
            os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    return {b"srv/" + os.path.relpath(path, place) for path in _below(place)}


def _files(top: bytes) -> None:
    long_name = b"n" * 255
    for name in (
        *(b"empty", b"plain", b"new\nline", b"not-\xff\xfe-utf8", b" blank ", b"-rf"),
        *(b"setuid", b"setgid", b"capable", b"attributes", b"acl", "ümläut".encode()),
        long_name,
    ):
        with open(top + b"/" + name, "wb") as file:
            file.write(b"" if name == b"empty" else name * 100)
    deep = top
    for _ in range(12):
        deep += b"/" + b"d" * 60
    os.makedirs(deep)
    with open(deep + b"/file", "wb") as file:
        file.write(b"deep")
    for name, data, end in (
        (b"sparse", {4 << 20: b"x" * 5000, 9 << 20: b"y"}, 12 << 20),
        (b"hole", {}, 3 << 20),
        (b"tail", {(1 << 20) - 3: b"end"}, 1 << 20),
    ):
        with open(top + b"/" + name, "wb") as file:
            for position, content in data.items():
                file.seek(position)
                file.write(content)
            file.truncate(end)
    os.mkdir(top + b"/sticky")
    os.chmod(top + b"/sticky", 0o1777)  # noqa: S103
    os.mkdir(top + b"/closed")
    os.chmod(top + b"/closed", 0o000 if _IS_ROOT else 0o700)


def _links(top: bytes) -> None:
    os.mkdir(top + b"/sub")
    os.link(top + b"/plain", top + b"/sub/hard")
    os.link(top + b"/capable", top + b"/hard capable")
    for name, target in (
        (b"link", b"plain"),
        (b"absolute", b"/etc/passwd"),
        (b"dangling", b"../" * 20 + b"nowhere"),
        (b"odd", b"\n\xff"),
        (b"long", b"l" * 1000),
    ):
        os.symlink(target, top + b"/" + name)


def _specials(top: bytes) -> None:
    os.mkfifo(top + b"/fifo", 0o640)
    if _IS_ROOT:
        os.mknod(top + b"/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(top + b"/disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))


def _owners(top: bytes, offset: int) -> None:
    for number, path in enumerate([top, *_below(top)]):
        mode = os.lstat(path).st_mode
        os.lchown(path, offset + number % 7 * 1000, offset + number % 5 * 100)
        if not stat.S_ISLNK(mode):
            os.chmod(path, stat.S_IMODE(mode))


def _attributes(top: bytes, offset: int) -> None:
    os.chmod(top + b"/setuid", 0o4755)  # noqa: S103 - to be found again
    os.chmod(top + b"/setgid", 0o2711)  # noqa: S103
    os.setxattr(top + b"/attributes", b"user.plain", b"value")
    os.setxattr(top + b"/attributes", b"user.a=b%c", bytes(range(256)))
    os.setxattr(top + b"/sticky", b"user.directory", b"")
    if not _IS_ROOT:
        return
    acl = _acl(
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, offset + 1234),
        (0x04, 4, 0xFFFFFFFF),
        (0x08, 6, offset + 77),
        (0x10, 6, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
    os.setxattr(top + b"/acl", b"system.posix_acl_access", acl)
    os.setxattr(top + b"/fifo", b"system.posix_acl_access", acl)
    os.setxattr(top + b"/sub", b"system.posix_acl_default", acl)
    capability = _CAPABILITY
    if offset:
        capability = struct.pack("<I", 0x03000001) + capability[4:]
        capability += struct.pack("<I", offset)
    os.setxattr(top + b"/capable", b"security.capability", capability)


def give(top: Path, owner: int) -> None:
    """Have a directory and all in it belong to somebody, where that can be."""
    if _IS_ROOT:
        for path in [os.fsencode(top), *_below(os.fsencode(top))]:
            os.lchown(path, owner, owner)


def shift(top: Path, offset: int) -> None:
    """Shift the owners of all files, once each, and lose nothing else."""
    for path in [os.fsencode(top), *_below(os.fsencode(top))]:
        info = os.lstat(path)
        if info.st_uid >= offset:
            continue  # by another name
        os.lchown(path, info.st_uid + offset, info.st_gid + offset)
        if not stat.S_ISLNK(info.st_mode):
            os.chmod(path, stat.S_IMODE(info.st_mode))


def _below(top: bytes) -> list[bytes]:
    return [
        os.path.join(place, name)
        for place, directories, files in os.walk(top)
        for name in (*directories, *files)
    ]


def describe(top: Path, offset: int = 0, *, times: bool = True) -> Tree:
    """All that can be told of each file of a tree, in the container's own numbers.

    :param offset: of the owners, as seen from here
    :param times: whether times count; Python's tarfile, unlike tar, loses nanoseconds,
        so that microseconds are what counts
    """
    place = os.fsencode(top)
    first: dict[int, bytes] = {}
    found: Tree = {}
    for path in sorted([place, *_below(place)]):
        name = os.path.relpath(path, place)
        info = os.lstat(path)
        found[name] = {
            "mode": stat.filemode(info.st_mode),
            "owner": (info.st_uid - offset, info.st_gid - offset),
            "links": info.st_nlink if not stat.S_ISDIR(info.st_mode) else 0,
            "attributes": _attributes_of(path, offset),
        }
        if times and not stat.S_ISLNK(info.st_mode):
            found[name]["mtime"] = round(info.st_mtime_ns, -4)
        if stat.S_ISREG(info.st_mode):
            first.setdefault(info.st_ino, name)
            found[name]["same as"] = first[info.st_ino]
            found[name]["content"] = _content(path)
            found[name]["sparse"] = info.st_blocks * 512 < info.st_size
        elif stat.S_ISLNK(info.st_mode):
            found[name]["target"] = os.readlink(path)
        elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            found[name]["device"] = info.st_rdev
    return found


def _content(path: bytes) -> tuple[int, bytes]:
    """Size, and the content without zeros."""
    with open(path, "rb") as file:
        data = file.read()
    return len(data), data.replace(b"\0\0\0\0", b"")


def _attributes_of(path: bytes, offset: int) -> dict[str, bytes]:
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        value = os.getxattr(path, name, follow_symlinks=False)
        if name.startswith("system.posix_acl_"):
            entries = struct.iter_unpack("<HHI", value[4:])
            value = _acl(*((t, p, i - offset * (t in (2, 8))) for t, p, i in entries))
        if name == "security.capability" and len(value) == 24:
            root = int.from_bytes(value[20:], "little")
            assert root == offset
            value = struct.pack("<I", 0x02000001) + value[4:20]
        found[name] = value
    return found


def without(tree: Tree, places: tuple[str, ...]) -> Tree:
    """What is neither at one of these places nor beneath, nor above one."""
    kept = {}
    for name, what in tree.items():
        path = name.decode(errors="surrogateescape")
        beneath = any(f"{path}/".startswith(f"{place}/") for place in places)
        above = any(f"{place}/".startswith(f"{path}/") for place in places)
        if not beneath and not above:
            kept[name] = what
    return kept


def of_the_guest(tree: Tree) -> Tree:
    """A tree without what the driver tells the guest in it, anew after each move."""
    seed = drive.SEED.strip("/").rpartition("/")[0].encode()
    return {
        path: entry
        for path, entry in tree.items()
        if path != seed and not path.startswith(seed + b"/")
    }
