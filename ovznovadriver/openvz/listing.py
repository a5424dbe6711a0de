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

"""A tree, listed: whether two trees on two hosts are the same.

The listing of a tree is everything about it but the contents of its files: names,
kinds, modes, owners, sizes, times of modification to the nanosecond, devices, targets
of links, which names are one file, extended attributes and ACLs. Two hosts compare its
digest. What rsync has copied it has compared by content itself.

One directory is open at a time, and each is opened from the top anew, without
following links. No file system but the tree's own is entered.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from ovznovadriver import exception
from ovznovadriver.openvz import attributes
from ovznovadriver.openvz.tree import MAX_PATH, OPEN_DIR

# In a running container whatever was seen may be gone, or another thing.
_CHANGING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
_ATTRIBUTES_AT = "/proc/self/fd/{}/{}"


@dataclass
class Listing:
    """What was found in a tree.

    :ivar digest: of all that is listed
    :ivar entries: how many names there are
    :ivar size_kb: what it takes on the disk, in KiB
    :ivar content: bytes in its plain files, their holes too
    :ivar fresh: the plain files that changed (by ctime, which no program of a
        container can set) since the time asked for: inode -> names
    """

    digest: str = ""
    entries: int = 0
    size_kb: int = 0
    content: int = 0
    fresh: dict[int, list[bytes]] = field(default_factory=dict)


def list_tree(top: int, *, since: int | None = None, changing: bool = False) -> Listing:
    """List the tree at an open directory.

    :param since: nanoseconds; see :attr:`Listing.fresh`
    :param changing: what has gone meanwhile is passed over
    :raises UnsafePath: a path is too long
    :raises OSError: something cannot be read
    """
    found = Listing()
    digest = hashlib.sha256()
    names: dict[int, bytes] = {}
    device = os.fstat(top).st_dev
    for path, directory, name, info in _walk(top, device, changing):
        found.entries += 1
        links = b""
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            first = names.setdefault(info.st_ino, path)
            links = b"" if first == path else first
        if not links:
            found.size_kb += info.st_blocks // 2
            found.content += info.st_size if stat.S_ISREG(info.st_mode) else 0
        with _changes_suppressed(changing):
            digest.update(_line(path, directory, name, info, links))
        if (
            since is not None
            and stat.S_ISREG(info.st_mode)
            and info.st_ctime_ns >= since
        ):
            found.fresh.setdefault(info.st_ino, []).append(path)
    found.digest = digest.hexdigest()
    return found


@contextlib.contextmanager
def _changes_suppressed(changing: bool) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not changing or error.errno not in _CHANGING:
            raise


def _walk(
    top: int, device: int, changing: bool
) -> Iterator[tuple[bytes, int, str, os.stat_result]]:
    """Path, directory, name in it and status of everything, in an order of its own."""
    yield b"", top, ".", os.fstat(top)
    pending = [b""]
    while pending:
        path = pending.pop()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_changes_suppressed(changing))
            directory = _open(top, path)
            stack.callback(os.close, directory)
            if os.fstat(directory).st_dev != device:
                continue
            prefix = path + b"/" if path else b""
            inner = []
            for name in sorted(os.listdir(directory), key=os.fsencode):
                # Suppressed for each name, or those after a gone one were missing.
                with _changes_suppressed(changing):
                    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    below = prefix + os.fsencode(name)
                    # Which no program of the host could copy, and which a guest can
                    # make so deep that the walk does not end.
                    if len(below) >= MAX_PATH:
                        raise exception.UnsafePath(
                            f"the path {below[:64]!r}… in the container is too long"
                        )
                    yield below, directory, name, info
                    if stat.S_ISDIR(info.st_mode):
                        inner.append(below)
            pending += reversed(inner)


def _open(top: int, path: bytes) -> int:
    descriptor = os.open(".", OPEN_DIR, dir_fd=top)
    for part in path.split(b"/") if path else ():
        outer = descriptor
        try:
            descriptor = os.open(part, OPEN_DIR, dir_fd=outer)
        finally:
            os.close(outer)
    return descriptor


def _line(
    path: bytes, directory: int, name: str, info: os.stat_result, links: bytes
) -> bytes:
    mode = info.st_mode
    kind = stat.S_IFMT(mode)
    values = [mode, info.st_uid, info.st_gid, info.st_mtime_ns]
    rest = [path, links]
    if kind == stat.S_IFREG:
        values.append(info.st_size)
    elif kind == stat.S_IFLNK:
        rest.append(os.fsencode(os.readlink(name, dir_fd=directory)))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        values.append(info.st_rdev)
    if kind != stat.S_IFLNK:
        place = _ATTRIBUTES_AT.format(directory, name)
        for attribute, value in sorted(attributes.read(place).items()):
            rest += [attribute.encode(), value]
    fields = [str(value).encode() for value in values] + rest
    # Each with its length, so that no two listings can be written alike.
    return b"".join(b"%d:%s" % (len(item), item) for item in fields) + b"\n"
