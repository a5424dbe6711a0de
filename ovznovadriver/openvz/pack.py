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

"""Verbs of the privileged side: a container's tree as a tar archive.

They run as the host's root. The archive goes into a pipe that the caller made and
reads; it is plain tar (see tarball.py), and packing it is the caller's work.

**A container that does not run** is packed by :func:`pack_tree` alone.

**A running one** is packed in two parts, so that it is frozen for the second alone.
:func:`pack_contents`, while it runs, packs the content of each file under a name that
is made of the inode's number, in the directory :data:`STAGE`. Then the caller freezes
the container, and :func:`pack_tree` packs the tree as it is now: directories, links,
devices, all names. A file that has not changed since before the first part began
becomes a hard link to what was packed of it, any other is packed whole. So the tree is
exactly that of the moment of the freeze: what was deleted or renamed meanwhile has no
name in it, and what was packed of it in vain goes with the directory :data:`STAGE`,
which :mod:`ovznovadriver.openvz.unpack` removes.

How a change is seen: by the time of the inode's last change (ctime), which no program
of a container can set. A file whose time is not from before the beginning counts as
changed. Who writes by a memory mapping sets that time with the first write alone, until
what was written is on the disk; so that is seen to before a file is read.

The walk holds one directory open at a time, and opens each anew from the top, one
component after the other and without following links. It enters no file system but
the tree's own, and nothing that is mounted. A file is opened by name only first
(O_PATH), which does nothing to a FIFO or a device; only a plain file is then read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import stat
import struct
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import attributes, extents, leftovers, tarball, template
from ovznovadriver.openvz.sink import LOOK, Sink
from ovznovadriver.openvz.tree import MAX_PATH, OPEN_DIR, Tree

LOG = logging.getLogger(__name__)

#: Holds what was packed while the container ran, and the list of attributes. A
#: container's own file of this name, at the top, is never packed.
STAGE = b".ovz-snapshot"

#: The files of the list of attributes in it, numbered from 0.
ATTRIBUTES = STAGE + b"/attributes."

#: Bytes of one of them, about.
ATTRIBUTES_SIZE = 1 << 20

#: Files packed while the container runs; each is two members of at most so many.
MAX_STAGED = template.MAX_MEMBERS * 2 // 5

_CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
#: The kernel's clock of inodes ticks every 10 ms at most; nanoseconds.
_TICK = 20_000_000
_LIBC = ctypes.CDLL(None, use_errno=True)
#: SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER.
_WRITE_AND_WAIT = ctypes.c_uint(1 | 2 | 4)
_STAGED = struct.Struct("=Qq")
# In a running container whatever was seen may be gone, or another thing.
_CHANGING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO}
)


def pack_contents(
    *,
    base: str,
    ctid: str,
    sub: str,
    pipe: str,
    owner: int,
    uid: int,
    gid: int,
    limit: int,
    seconds: float,
) -> dict[str, Any]:
    """Pack the contents of a running container's files, for :func:`pack_tree`.

    :param pipe: a FIFO; somebody must have it open for reading
    :param owner: the user whose the pipe is
    :param uid: the offset of the container's users, where its tree has it
    :param gid: the offset of its groups
    :param limit: bytes that the archive may have
    :param seconds: how long it may take
    :returns: what :func:`pack_tree` takes as ``packed``
    :raises UnsafePath: the pipe is no FIFO of that user
    :raises OvzError: it takes too long or becomes too large, or nobody reads any more
    """
    since = time.time_ns() - _TICK
    with (
        Tree(base, ctid, sub) as opened,
        Sink(pipe, None, 0, owner, limit, seconds) as sink,
    ):
        packer = _Packer(opened, sink, uid, gid)
        packer.stage(since)
        sink.flush()
    return {
        "since": since,
        "top": _identity(packer.top),
        "parts": packer.parts,
        "bytes": sink.size,
        "members": packer.members,
        "staged": b"".join(_STAGED.pack(*item) for item in packer.staged.items()),
    }


def pack_tree(
    *,
    base: str,
    ctid: str,
    sub: str,
    pipe: str,
    owner: int,
    uid: int,
    gid: int,
    limit: int,
    seconds: float,
    packed: dict[str, Any] | None = None,
    spool: str | None = None,
    spool_limit: int = 0,
) -> dict[str, Any]:
    """Pack the tree of a container that does not run, or is frozen.

    :param packed: what :func:`pack_contents` has returned
    :param spool: a file of the same owner, which takes the first bytes
    :param spool_limit: how many; the pipe gets the rest
    :returns: {"members": int, "bytes": int, "sockets": int (left out), "spooled": int}
    :raises UnsafePath: a path of the tree is too long, or as :func:`pack_contents`
    :raises OvzError: as :func:`pack_contents`, or the tree is another one by now

    The other parameters are those of :func:`pack_contents`.
    """
    with (
        Tree(base, ctid, sub) as opened,
        Sink(pipe, spool, spool_limit, owner, limit, seconds) as sink,
    ):
        packer = _Packer(opened, sink, uid, gid)
        if packed is not None:
            packer.resume(packed)
        packer.pack()
        sink.write(tarball.END)
        sink.flush()
    if packer.sockets:
        LOG.info("%d sockets of container %s are left out", packer.sockets, ctid)
    return {
        "members": packer.members,
        "bytes": sink.size,
        "sockets": packer.sockets,
        "spooled": sink.spooled,
    }


def _identity(top: os.stat_result) -> list[int]:
    return [top.st_dev, top.st_ino]


# -- what goes there --------------------------------------------------------


class _Packer:
    """One walk over a tree.

    :ivar top: what the tree's root directory is
    :ivar members: how many members the archive has by now
    :ivar staged: the inodes packed while the container ran, and their change time
    :ivar parts: how many files of attributes were written
    :ivar sockets: how many sockets were left out
    """

    def __init__(self, opened: Tree, sink: Sink, uid: int, gid: int) -> None:
        self.members = 0
        self.parts = 0
        self.sockets = 0
        self.staged: dict[int, int] = {}
        self._since = 0
        self._sink = sink
        self._root = opened.descriptor
        self.top = os.fstat(self._root)
        # See guest._root_of: an offset may be configured, and not in use.
        self._uid, self._gid = (uid, gid) if self.top.st_uid >= uid else (0, 0)
        self._links: dict[int, bytes] = {}
        self._notes = bytearray()
        self._buffer = memoryview(bytearray(_CHUNK))
        self._mounts = _mounts_beneath(self._root)

    def resume(self, packed: dict[str, Any]) -> None:
        """Go on from what was packed while the container ran."""
        if packed["top"] != _identity(self.top):
            raise exception.OvzError("the container's tree is another one by now")
        self._since = packed["since"]
        self.parts = packed["parts"]
        self.members = packed["members"]
        self.staged = dict(_STAGED.iter_unpack(packed["staged"]))

    # -- the two parts ----------------------------------------------------------

    def stage(self, since: int) -> None:
        """Pack the content of all files that are older than a time."""
        self._member(
            tarball.Member(STAGE, tarball.DIRECTORY, 0o700, 0, 0, since), records=[]
        )
        for path, directory, entry in self._walk(changing=True):
            if entry is None or len(self.staged) >= MAX_STAGED:
                continue
            with _suppressed_changes():
                info = entry.stat(follow_symlinks=False)
                if (
                    stat.S_ISREG(info.st_mode)
                    and info.st_ctime_ns < since
                    and info.st_ino not in self.staged
                    and path not in self._mounts
                ):
                    self._stage_file(directory, os.fsencode(entry.name), since)
        self._write_notes()

    def _stage_file(self, directory: int, name: bytes, since: int) -> None:
        with _looked_at(directory, name) as (looked, before):
            if not stat.S_ISREG(before.st_mode) or before.st_ctime_ns >= since:
                return
            path = b"%s/%d" % (STAGE, before.st_ino)
            self._file(path, looked, before, settle=True)
            if os.fstat(looked).st_ctime_ns == before.st_ctime_ns:
                self.staged[before.st_ino] = before.st_ctime_ns

    def pack(self) -> None:
        """Pack the tree."""
        if not self._since:
            member = tarball.Member(
                STAGE, tarball.DIRECTORY, 0o700, 0, 0, self.top.st_mtime_ns
            )
            self._member(member, records=[])
        for path, directory, entry in self._walk(changing=False):
            if entry is None:
                self._directory(path, directory)
                continue
            info = entry.stat(follow_symlinks=False)
            if path in self._mounts:
                LOG.warning("%r is mounted, and is left out", path)
            elif stat.S_ISSOCK(info.st_mode):
                self.sockets += 1
            elif not self._as_link(path, info):
                self._entry(path, directory, os.fsencode(entry.name))
        self._write_notes()

    def _as_link(self, path: bytes, info: os.stat_result) -> bool:
        """Pack a name of what is in the archive already."""
        target = None
        if stat.S_ISREG(info.st_mode):
            changed = self.staged.get(info.st_ino)
            if changed == info.st_ctime_ns and changed < self._since:
                target = b"%s/%d" % (STAGE, info.st_ino)
        if target is None and info.st_nlink > 1:
            target = self._links.get(info.st_ino)
        if target is None:
            return False
        member = self._describe(path, tarball.LINK, info, target=target)
        self._member(member, records=[])
        return True

    def _entry(self, path: bytes, directory: int, name: bytes) -> None:
        with _looked_at(directory, name) as (looked, info):
            kind = tarball.KINDS[stat.S_IFMT(info.st_mode)]
            if kind == tarball.REGULAR:
                self._file(path, looked, info)
            elif kind == tarball.SYMLINK:
                target = os.readlink(b"", dir_fd=looked)
                self._note(path, info, {})
                self._member(self._describe(path, kind, info, target=target), [])
            elif kind == tarball.DIRECTORY:
                raise exception.OvzError(f"{path!r} has changed while it was packed")
            else:
                number = info.st_rdev
                device = (os.major(number), os.minor(number))
                if kind == tarball.FIFO:
                    device = (0, 0)
                found = attributes.read(f"/proc/self/fd/{looked}")
                member = self._describe(path, kind, info, device=device)
                self._member(member, self._note(path, info, found))
            if info.st_nlink > 1:
                self._links[info.st_ino] = path

    def _directory(self, path: bytes, descriptor: int) -> None:
        info = os.fstat(descriptor)
        found = attributes.read(descriptor)
        member = self._describe(path or b"./", tarball.DIRECTORY, info)
        self._member(member, self._note(path, info, found))

    # -- one member -------------------------------------------------------------

    def _describe(
        self, name: bytes, kind: bytes, info: os.stat_result, **more: Any
    ) -> tarball.Member:
        return tarball.Member(
            name,
            kind,
            stat.S_IMODE(info.st_mode),
            attributes.inner_id(info.st_uid, self._uid),
            attributes.inner_id(info.st_gid, self._gid),
            info.st_mtime_ns,
            **more,
        )

    def _member(self, member: tarball.Member, records: list[tarball.Record]) -> None:
        self.members += 1
        if self.members > template.MAX_MEMBERS:
            raise exception.OvzError(
                f"the container has more than {template.MAX_MEMBERS} files, and no"
                " server could be made from its image"
            )
        if not self.members % 1024:
            self._sink.check_time()
        self._sink.write(tarball.header(member, records))

    def _file(
        self, name: bytes, looked: int, info: os.stat_result, *, settle: bool = False
    ) -> None:
        """Pack a plain file, of exactly the size that it had.

        :param settle: have the next write to it change its time
        """
        descriptor = _open_to_read(looked)
        try:
            if settle:
                _settle(descriptor)
            records = self._note(name, info, attributes.read(descriptor))
            member = self._describe(name, tarball.REGULAR, info, size=info.st_size)
            parts: tarball.Extents = ((0, info.st_size),)
            if info.st_blocks * 512 < info.st_size:
                parts = extents.find(descriptor, info.st_size, self._sink.check_time)
            if parts == ((0, info.st_size),):
                self._member(member, records)
            else:
                member, sparse, text = tarball.sparse(member, parts)
                self._member(member, [*sparse, *records])
                self._sink.write(text)
            for offset, size in parts:
                self._content(descriptor, offset, size)
            self._sink.write(tarball.padding(sum(size for _, size in parts)))
        finally:
            os.close(descriptor)

    def _content(self, descriptor: int, offset: int, size: int) -> None:
        end = offset + size
        while offset < end:
            wanted = self._buffer[: min(_CHUNK, end - offset)]
            count = os.preadv(descriptor, [wanted], offset)
            if count == 0:
                # It was cut meanwhile; whoever packs a running container sees that.
                count = len(wanted)
                wanted[:] = bytes(count)
            self._sink.content(wanted[:count])
            offset += count

    # -- what tar does not restore ----------------------------------------------

    def _note(
        self, path: bytes, info: os.stat_result, found: dict[str, bytes]
    ) -> list[tarball.Record]:
        """Remember what has to be restored after tar; the pax records for it.

        To be called before the member is written.
        """
        special = info.st_mode & (stat.S_ISUID | stat.S_ISGID)
        # Where owners are shifted name by name, a file of many names goes too far.
        linked = path.startswith(STAGE) or (
            info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode)
        )
        if not (found or special or linked) and path:
            return []
        inner = attributes.to_guest(found, self._uid, self._gid)
        note = json.dumps(
            {
                "path": os.fsdecode(path),
                "mode": stat.S_IMODE(info.st_mode),
                "owner": [
                    attributes.inner_id(info.st_uid, self._uid),
                    attributes.inner_id(info.st_gid, self._gid),
                ],
                "mtime_ns": info.st_mtime_ns,
                "attributes": {k: b64encode(v).decode() for k, v in inner.items()},
            }
        )
        self._notes += note.encode() + b"\n"
        if len(self._notes) >= ATTRIBUTES_SIZE:
            self._write_notes()
        return attributes.records(inner)

    def _write_notes(self) -> None:
        """Add what was remembered to the archive; only between two members."""
        data, self._notes = bytes(self._notes), bytearray()
        if not data:
            return
        name = ATTRIBUTES + b"%d" % self.parts
        mtime = self.top.st_mtime_ns
        member = tarball.Member(name, tarball.REGULAR, 0o600, 0, 0, mtime, len(data))
        self._member(member, [])
        self._sink.write(data + tarball.padding(len(data)))
        self.parts += 1

    # -- the walk ---------------------------------------------------------------

    def _walk(
        self, *, changing: bool
    ) -> Iterator[tuple[bytes, int, os.DirEntry[str] | None]]:
        """Each directory, and after it what is in it but for directories.

        :param changing: what has gone meanwhile is passed over
        :returns: path, the open directory that it is in, and the entry; for a
            directory itself: path, itself, None
        """
        pending = [b""]
        while pending:
            path = pending.pop()
            with contextlib.ExitStack() as stack:
                if changing:
                    stack.enter_context(_suppressed_changes())
                descriptor = self._open_directory(path)
                stack.callback(os.close, descriptor)
                yield path, descriptor, None
                if not self._is_own(path, descriptor):
                    LOG.warning("What is mounted at %r is left out", path)
                    continue
                entries = stack.enter_context(os.scandir(descriptor))
                prefix = path + b"/" if path else b""
                for entry in entries:
                    name = os.fsencode(entry.name)
                    inner = prefix + name
                    if inner == STAGE:
                        continue
                    if len(inner) >= MAX_PATH:
                        if changing:
                            continue
                        raise exception.UnsafePath(
                            f"the path {inner[:64]!r}… in the container is too long"
                        )
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(inner)
                    else:
                        yield inner, descriptor, entry

    def _open_directory(self, path: bytes) -> int:
        return open_beneath(self._root, path, OPEN_DIR)

    def _is_own(self, path: bytes, descriptor: int) -> bool:
        same = os.fstat(descriptor).st_dev == self.top.st_dev
        return same and path not in self._mounts


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """Open what is at a path of an open directory; no link on the way is followed.

    :param flags: with O_NOFOLLOW, for the last component
    :raises OSError: a component is missing, or no directory
    """
    parts = path.split(b"/") if path else []
    if b".." in parts:
        raise exception.UnsafePath(f"{path!r} leads out")
    last = parts.pop() if parts else b"."
    descriptor = root
    try:
        for part in parts:
            inner = os.open(part, OPEN_DIR, dir_fd=descriptor)
            if descriptor != root:
                os.close(descriptor)
            descriptor = inner
        return os.open(last, flags, dir_fd=descriptor)
    finally:
        if descriptor != root:
            os.close(descriptor)


@contextlib.contextmanager
def _looked_at(directory: int, name: bytes) -> Iterator[tuple[int, os.stat_result]]:
    looked = os.open(name, LOOK, dir_fd=directory)
    try:
        yield looked, os.fstat(looked)
    finally:
        os.close(looked)


def _open_to_read(looked: int) -> int:
    path = f"/proc/self/fd/{looked}"
    try:
        # So that the snapshot leaves no trace in the container's files.
        return os.open(path, _READ | os.O_NOATIME)
    except PermissionError:  # only for the owner and for root
        return os.open(path, _READ)


def _settle(descriptor: int) -> None:
    """Have what is dirty of a file written, whereupon the next write is noticed.

    Not by fsync, which waits for the file system's journal and the disk's cache, also
    for a file of which nothing is dirty.
    """
    # An offset and a length of 0 are the whole file (sync_file_range(2)).
    whole = ctypes.c_int64(0)
    if _LIBC.sync_file_range(descriptor, whole, whole, _WRITE_AND_WAIT) != 0:
        os.fsync(descriptor)


@contextlib.contextmanager
def _suppressed_changes() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _CHANGING:
            raise


def _mounts_beneath(root: int) -> frozenset[bytes]:
    """What is mounted beneath an open directory, as paths in it."""
    top = os.readlink(f"/proc/self/fd/{root}").rstrip("/") + "/"
    return frozenset(
        os.fsencode(point.removeprefix(top))
        for point in leftovers.mount_points()
        if point.startswith(top)
    )


#: The verbs of the privileged side, by name.
VERBS: Mapping[str, Callable[..., Any]] = {
    verb.__name__: verb for verb in (pack_contents, pack_tree)
}
