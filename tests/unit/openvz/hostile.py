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

"""Trees as a tenant would build them to get out, and what they must not reach."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from tests.families import THOROUGH

CTID = "101"
SECRET = b"the host's own\n"
#: Entries of the directory with many.
MANY = 50
#: Bytes of the sparse file: 1 TiB.
HUGE = 1 << 40
#: Directories in the deepest one, which no walk along a path reaches the end of.
DEPTH = 300

Plant = Callable[[Path, Path], None]


def _absolute_link(place: Path, outside: Path) -> None:
    place.symlink_to(outside)


def _relative_link(place: Path, outside: Path) -> None:
    place.symlink_to("../" * 60 + str(outside).lstrip("/"))


def _magic_link(place: Path, outside: Path) -> None:
    place.symlink_to(f"/proc/self/root{outside}")


def _link_to_file(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "target")


def _dangling_link(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "new")


def _relative_dangling_link(place: Path, outside: Path) -> None:
    place.symlink_to("../" * 60 + str(outside / "dir" / "new").lstrip("/"))


def _loop(place: Path, _outside: Path) -> None:
    place.symlink_to(place.name)


def _wide_loop(place: Path, _outside: Path) -> None:
    place.symlink_to(f"./{place.name}/..//{place.name}/./")


def _hard_link(place: Path, outside: Path) -> None:
    os.link(outside / "target", place)


def _fifo(place: Path, _outside: Path) -> None:
    os.mkfifo(place)


def _socket(place: Path, _outside: Path) -> None:
    # The path of a socket may have 107 bytes only; that of a descriptor is short.
    directory = os.open(place.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{directory}/{place.name}")
    os.close(directory)


def _device(place: Path, _outside: Path) -> None:
    os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def _disk(place: Path, _outside: Path) -> None:
    os.mknod(place, stat.S_IFBLK | 0o666, os.makedev(7, 250))


def _setuid_file(place: Path, _outside: Path) -> None:
    place.write_bytes(b"#!/bin/sh\n")
    place.chmod(0o6755)  # after the content, which takes the bits away


def _huge_file(place: Path, _outside: Path) -> None:
    place.touch()
    os.truncate(place, HUGE)


def _odd_target(place: Path, outside: Path) -> None:
    os.symlink(os.fsencode(outside) + b"/\n\xff\xfe", os.fsencode(place))


def _long_target(place: Path, outside: Path) -> None:
    place.symlink_to("./" * 1500 + "../" * 60 + str(outside).lstrip("/"))


def _directory(place: Path, _outside: Path) -> None:
    place.mkdir()
    (place / "inner").symlink_to("..")


def _deep_directory(place: Path, outside: Path) -> None:
    place.mkdir()
    here = os.open(place, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.symlink(outside, "target", dir_fd=here)
    os.close(here)


def _odd_names(place: Path, outside: Path) -> None:
    place.mkdir()
    for name in (b"new\nline", b"\xff\xfe", b"-rf", b" ", b"\x1b[2J", b"n" * 255):
        os.symlink(outside, os.fsencode(place) + b"/" + name)
    os.mkdir(os.fsencode(place) + b"/\n\xff")
    os.mkfifo(os.fsencode(place) + b"/\n\xff/ovz-listing 0 0\n")


def _many_files(place: Path, outside: Path) -> None:
    place.mkdir()
    for number in range(MANY):
        os.symlink(outside, place / str(number))


def _guest(place: Path, outside: Path) -> None:
    """What a distribution has, with links out where the driver writes."""
    (place / "etc").mkdir(parents=True)
    (place / "etc/resolv.conf").symlink_to(outside / "target")
    (place / "etc/hostname").symlink_to("../" * 60 + str(outside / "new").lstrip("/"))
    (place / "root").symlink_to(outside)
    (place / "sbin").symlink_to("usr/sbin")
    (place / "instance").symlink_to(outside)
    (place / "tree").symlink_to(outside)
    (place / ".ovz-snapshot").symlink_to(outside / "dir")


PLANTS: dict[str, Plant] = {
    plant.__name__.strip("_"): plant
    for plant in (
        _absolute_link,
        _relative_link,
        _magic_link,
        _link_to_file,
        _dangling_link,
        _relative_dangling_link,
        _loop,
        _wide_loop,
        _hard_link,
        _fifo,
        _socket,
        _device,
        _disk,
        _setuid_file,
        _huge_file,
        _odd_target,
        _long_target,
        _directory,
        _deep_directory,
        _odd_names,
        _many_files,
        _guest,
    )
    if plant not in (_device, _disk) or os.geteuid() == 0
}
#: Those that are directories.
DIRECTORIES = frozenset(
    {"directory", "deep_directory", "odd_names", "many_files", "guest"}
)


def some_plants(turn: int) -> list[str]:
    """The plants that the test command has for the n-th place; all take turns.

    With ``OVZ_THOROUGH`` (see tests/families.py) each place has all.
    """
    # Those of one sort stand together, so that each place has some of each.
    if THOROUGH:
        return list(PLANTS)
    return [plant for number, plant in enumerate(PLANTS) if (number + turn) % 4 == 0]


class Node:
    """A node's directories with one container, and what lies outside of it."""

    def __init__(self, top: Path) -> None:
        self.outside = top / "outside"
        self.outside.mkdir()
        (self.outside / "target").write_bytes(SECRET)
        (self.outside / "dir").mkdir()
        (self.outside / "dir" / "target").write_bytes(SECRET)
        (self.outside / "program").write_bytes(SECRET)
        (self.outside / "program").chmod(0o4755)
        with contextlib.suppress(OSError):  # not every file system has them
            os.setxattr(self.outside / "target", "user.canary", SECRET)
        self.base = top / "private"
        self.root = self.base / CTID
        self.root.mkdir(parents=True)

    @property
    def place(self) -> dict[str, str]:
        return {"base": str(self.base), "ctid": CTID, "sub": ""}

    def outside_state(self) -> dict[str, tuple[object, ...]]:
        state = {}
        for path in sorted([self.outside, *self.outside.rglob("*")]):
            info = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            kept = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns)
            found = [(name, os.getxattr(path, name)) for name in os.listxattr(path)]
            state[str(path.relative_to(self.outside))] = (*kept, content, *found)
        return state


def entry(path: str, content: bytes = b"new", **more: object) -> dict[str, object]:
    """A file for write_files, owned by whoever runs the tests."""
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    return {"path": path, "content": content, "mode": 0o640, **owner, **more}
