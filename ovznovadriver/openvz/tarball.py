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

"""Headers of tar archives in the pax format, made of bytes.

Python's tarfile takes texts and floats: names that are no UTF-8 survive only by way of
surrogates, times lose their nanoseconds, and sparse files cannot be written at all.
Owners are numbers here, and names of users never appear.

The format: pax(1) of POSIX, "pax Interchange Format" and "ustar Interchange Format".
Sparse files are version 1.0 of the manual of GNU tar:
https://www.gnu.org/software/tar/manual/html_node/PAX-1.html
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BLOCK = 512

REGULAR, LINK, SYMLINK = b"0", b"1", b"2"
CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"3", b"4", b"5", b"6"

#: Two empty blocks are the end.
END = bytes(2 * BLOCK)

#: The type of what a mode says; a socket has none.
KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: FIFO,
}

Record = tuple[bytes, bytes]
Extents = Sequence[tuple[int, int]]

_NAME = 100
_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777


@dataclass(frozen=True)
class Member:
    """What an archive says of a file, apart from its content.

    :ivar name: its path, without a slash at the beginning
    :ivar kind: one of this module's types
    :ivar mtime_ns: nanoseconds since the epoch
    :ivar size: bytes of its content
    :ivar target: what a link leads to
    :ivar device: major and minor number
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)


def padding(size: int) -> bytes:
    """What fills up a content of that many bytes."""
    return bytes(-size % BLOCK)


def header(member: Member, records: Iterable[Record] = ()) -> bytes:
    """All that comes before a member's content.

    :param records: further pax records
    """
    extra = list(records)
    seconds, nanoseconds = divmod(member.mtime_ns, 10**9)
    if nanoseconds or not 0 <= seconds <= _MAX_NUMBER:
        extra.append((b"mtime", _time(member.mtime_ns)))
    if len(member.name) > _NAME:
        extra.append((b"path", member.name))
    if len(member.target) > _NAME:
        extra.append((b"linkpath", member.target))
    for keyword, number, limit in (
        (b"uid", member.uid, _MAX_ID),
        (b"gid", member.gid, _MAX_ID),
        (b"size", member.size, _MAX_NUMBER),
    ):
        if number > limit:
            extra.append((keyword, b"%d" % number))
    block = _block(
        member.name,
        member.kind,
        (member.mode & 0o7777, member.uid, member.gid),
        (member.size, seconds),
        member.target,
        member.device,
    )
    if not extra:
        return block
    data = b"".join(_record(keyword, value) for keyword, value in extra)
    before = _block(b"././@PaxHeader", b"x", (0o644, 0, 0), (len(data), 0))
    return b"".join((before, data, padding(len(data)), block))


def sparse(member: Member, extents: Extents) -> tuple[Member, list[Record], bytes]:
    """A file with holes: its member and records for :func:`header`, and its map.

    The map comes before the content, which is that of the extents alone.

    :param extents: where it holds data: offset and bytes of each part, in order
    """
    if not extents or sum(extents[-1]) < member.size:
        # A file that ends in a hole ends with an empty extent.
        extents = (*extents, (member.size, 0))
    numbers = [len(extents), *(number for extent in extents for number in extent)]
    text = b"".join(b"%d\n" % number for number in numbers)
    text += padding(len(text))
    directory, _, name = member.name.rpartition(b"/")
    stored = Member(
        # What a tar that does not know sparse files unpacks it to.
        name=(directory + b"/" if directory else b"") + b"GNUSparseFile.0/" + name,
        kind=REGULAR,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime_ns=member.mtime_ns,
        size=len(text) + sum(size for _, size in extents),
    )
    records = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", member.name),
        (b"GNU.sparse.realsize", b"%d" % member.size),
    ]
    return stored, records, text


def _block(
    name: bytes,
    kind: bytes,
    access: tuple[int, int, int],
    numbers: tuple[int, int],
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """One header block; what does not fit into it is in a pax record as well."""
    mode, uid, gid = access
    size, seconds = numbers
    block = b"".join(
        (
            name[:_NAME].ljust(_NAME, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % (uid if uid <= _MAX_ID else 0),
            b"%07o\0" % (gid if gid <= _MAX_ID else 0),
            b"%011o\0" % (size if size <= _MAX_NUMBER else 0),
            b"%011o\0" % (seconds if 0 <= seconds <= _MAX_NUMBER else 0),
            b"        ",
            kind,
            target[:_NAME].ljust(_NAME, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0%07o\0" % device,
            bytes(167),
        )
    )
    return b"%s%06o\0 %s" % (block[:148], sum(block), block[156:])


def _record(keyword: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (keyword, value)
    length = len(rest)
    # It counts its own digits, too.
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d%s" % (length, rest)


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    return sign + b"%d.%09d" % divmod(abs(nanoseconds), 10**9)
