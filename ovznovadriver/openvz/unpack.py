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

"""A verb of the privileged side: what tar has not restored of a container's tree.

vzctl unpacks an image by tar, which is not told to restore extended attributes and
ACLs; vzctl 4 then shifts the owners, by which the kernel takes the setuid and setgid
bits and the capabilities from a program. An image that :mod:`ovznovadriver.openvz.pack`
has made brings a list of all these, in a directory which this verb removes. Nothing in
the list is trusted: it may be anybody's.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import attributes, pack, template
from ovznovadriver.openvz.sink import LOOK
from ovznovadriver.openvz.tree import OPEN_DIR, Tree, named_errors, remove_entry

#: Bytes of one file of the list: a line of it may exceed pack.ATTRIBUTES_SIZE, by as
#: much as a file can have attributes.
PART_LIMIT = 16 << 20

_NO_LIST = "the image's list of attributes makes no sense"
_MALFORMED = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, RecursionError),
)
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class _Note:
    """A line of the list; an empty path is the tree's root."""

    path: bytes
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    attributes: dict[str, bytes]


def restore_attributes(
    *, base: str, ctid: str, sub: str, uid: int, gid: int, seconds: float
) -> int:
    """Restore what the list in a new container's tree says, and remove the list.

    :param uid: the offset of the container's users, where its tree has it
    :param gid: the offset of its groups
    :param seconds: how long it may take
    :returns: how many files had something to restore
    :raises UnsafePath: the list is none
    :raises OvzError: it takes too long, or an attribute cannot be set
    """
    deadline = time.monotonic() + seconds
    with Tree(base, ctid, sub) as opened, named_errors("restore", f"{base}/{ctid}"):
        root = opened.descriptor
        try:
            stage = os.open(pack.STAGE, OPEN_DIR, dir_fd=root)
        except FileNotFoundError:
            return 0
        try:
            top = os.fstat(root)
            offset = (uid, gid) if top.st_uid >= uid else (0, 0)
            count = 0
            last: _Note | None = None
            for number in range(template.MAX_MEMBERS):
                data = _part(stage, number)
                if data is None:
                    break
                for line in data.splitlines():
                    if time.monotonic() > deadline:
                        raise exception.OvzError(
                            f"attributes were not restored within {seconds:g} s"
                        )
                    note = _checked(line)
                    if not note.path:
                        last = note
                    elif _apply(root, note, offset):
                        count += 1
        finally:
            os.close(stage)
        remove_entry(root, pack.STAGE)
        if last is not None:
            # Its time changed just now.
            _restore(root, last, offset)
            os.utime(root, ns=(last.mtime_ns, last.mtime_ns))
            count += 1
    return count


def _part(stage: int, number: int) -> bytes | None:
    name = os.path.basename(pack.ATTRIBUTES) + b"%d" % number
    try:
        descriptor = os.open(
            name,
            os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
            dir_fd=stage,
        )
    except FileNotFoundError:
        return None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or info.st_size > PART_LIMIT:
            raise exception.UnsafePath(_NO_LIST)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(PART_LIMIT)
    finally:
        os.close(descriptor)


def _checked(line: bytes) -> _Note:
    try:
        found = json.loads(line)
        note = _Note(
            os.fsencode(found["path"]),
            int(found["mode"]) & 0o7777,
            (int(found["owner"][0]), int(found["owner"][1])),
            int(found["mtime_ns"]),
            {
                str(name): base64.b64decode(value, validate=True)
                for name, value in found["attributes"].items()
            },
        )
        for name in note.attributes:
            name.encode()  # as the kernel gets it
    except _MALFORMED as error:
        raise exception.UnsafePath(_NO_LIST) from error
    misplaced = [i for i in note.owner if not 0 <= i < 2**32 - 1]
    others = [n for n in note.attributes if not attributes.is_kept(n) or "\0" in n]
    if others or misplaced or b"\0" in note.path or abs(note.mtime_ns) >= 2**62:
        raise exception.UnsafePath(_NO_LIST)
    return note


def _apply(root: int, note: _Note, offset: tuple[int, int]) -> bool:
    """Restore what one line says; False where the file is not there."""
    try:
        looked = pack.open_beneath(root, note.path, LOOK)
    except OSError as error:
        if error.errno in _NO_FILE:
            return False
        raise
    try:
        _restore(looked, note, offset)
    finally:
        os.close(looked)
    return True


def _restore(opened: int, note: _Note, offset: tuple[int, int]) -> None:
    # The one way from a name-only descriptor to its file, and it follows no link.
    place = f"/proc/self/fd/{opened}"
    info = os.fstat(opened)
    uid, gid = (inner + shift for inner, shift in zip(note.owner, offset, strict=True))
    if (info.st_uid, info.st_gid) != (uid, gid):
        _change_owner(opened, uid, gid)
    if stat.S_ISLNK(info.st_mode):
        return
    # After the owner, whose change takes bits and capabilities away.
    os.chmod(place, note.mode)
    try:
        values = attributes.to_host(note.attributes, *offset)
    except ValueError as error:
        raise exception.UnsafePath(str(error)) from error
    for name, value in values.items():
        try:
            os.setxattr(place, name, value)
        except OSError as error:
            raise exception.OvzError(
                f"{name!r} of {note.path!r} cannot be restored: {error.strerror}"
            ) from error


def _change_owner(opened: int, uid: int, gid: int) -> None:
    try:
        os.chown(f"/proc/self/fd/{opened}", uid, gid)
    except PermissionError:
        # Whoever is not root has unpacked all as its own, on a simulated node.
        if os.geteuid() == 0:
            raise


#: The verbs of the privileged side, by name.
VERBS: Mapping[str, Callable[..., Any]] = {"restore_attributes": restore_attributes}
