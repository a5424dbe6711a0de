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

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

CTID = "101"
SECRET = b"the host's own\n"

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


def _loop(place: Path, _outside: Path) -> None:
    place.symlink_to(place.name)


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


def _odd_target(place: Path, outside: Path) -> None:
    os.symlink(os.fsencode(outside) + b"/\n\xff\xfe", os.fsencode(place))


def _long_target(place: Path, outside: Path) -> None:
    place.symlink_to("./" * 1500 + "../" * 60 + str(outside).lstrip("/"))


def _directory(place: Path, _outside: Path) -> None:
    place.mkdir()
    (place / "inner").symlink_to("..")


PLANTS: dict[str, Plant] = {
    plant.__name__.strip("_"): plant
    for plant in (
        _absolute_link,
        _relative_link,
        _magic_link,
        _link_to_file,
        _dangling_link,
        _loop,
        _hard_link,
        _fifo,
        _socket,
        _device,
        _odd_target,
        _long_target,
        _directory,
    )
    if plant is not _device or os.geteuid() == 0
}


class Node:
    """A node's directories with one container, and what lies outside of it."""

    def __init__(self, top: Path) -> None:
        self.outside = top / "outside"
        self.outside.mkdir()
        (self.outside / "target").write_bytes(SECRET)
        (self.outside / "dir").mkdir()
        (self.outside / "dir" / "target").write_bytes(SECRET)
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
            state[str(path.relative_to(self.outside))] = (*kept, content)
        return state


def entry(path: str, content: bytes = b"new", **more: object) -> dict[str, object]:
    """A file for write_files, owned by whoever runs the tests."""
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    return {"path": path, "content": content, "mode": 0o640, **owner, **more}
