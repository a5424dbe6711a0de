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

"""Archives that `vzctl create` unpacks: a look at one, and making one.

A root file system comes as a tar archive, plain or packed with gzip, bzip2 or xz;
:mod:`ovznovadriver.openvz.convert` makes one of anything else. vzctl 4 takes it as it
is. vzctl 7 unpacks a tar.gz over the private area, of which the root is a
subdirectory: every member must lie beneath it, or the container's root stays empty
while vzctl reports success. :func:`repack` makes such an archive of any other in one
pass, in limited memory and without unpacking to the disk.

vzctl unpacks as root and on the host. GNU tar guards itself, and this module comes
before it: an archive is read to its end once, and refused when it is damaged, or when
a member's name, or the way to it, leads out of the tree.
"""

from __future__ import annotations

import bz2
import contextlib
import copy
import dataclasses
import gzip
import io
import lzma
import math
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from ovznovadriver import exception

#: What a template may be called after its name, in the order in which vzctl 4 looks.
SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz")

#: No distribution has a tenth of it; 64 bits of each name are remembered.
MAX_MEMBERS = 2_000_000

#: A packer may fill up what follows the end of the archive.
MAX_TRAILER = 64 << 20

_CHUNK = 1 << 20

#: Bytes of the headers of one member: long names, extended attributes, the map of a
#: sparse file. tarfile would read a header of any size into memory.
_MAX_HEADER = 4 << 20

#: Bytes of pax headers that hold for all members; git writes one of 52.
_MAX_GLOBAL = 64 << 10

#: An archive made by 'xz -9' needs 65 MiB; one may be made that needs 4 GiB.
_XZ_MEMORY = 256 << 20

#: Three times as fast as level 6 for a result that is a ninth larger (90 and 28 MB/s
#: of a Debian system, 36 and 32 %): it is read from the local disk only.
_GZIP_LEVEL = 1

#: What vzctl executes (/sbin/init, then /bin/init), and where these are when sbin and
#: bin are links into usr.
_INITS = frozenset({"sbin/init", "bin/init", "usr/sbin/init", "usr/bin/init"})

#: pax records that follow from the member and are written anew. Without names of
#: users and groups tar restores the numbers, which are the container's.
_OWN_RECORDS = frozenset(
    {"path", "linkpath", "size", "uid", "gid", "uname", "gname", "hdrcharset"}
)

#: What tarfile raises for headers that make no sense.
_MALFORMED = (
    tarfile.TarError,
    LookupError,
    RecursionError,
    ValueError,
)

#: Where a sparse file holds data: offset and bytes of each part.
Extents = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Template:
    """An archive that vzctl can unpack.

    :ivar suffix: how its file has to be called after its name
    :ivar size: bytes of the archive when not packed, about what it takes on a disk
    :ivar members: how many there are in it
    """

    suffix: str
    size: int
    members: int


def inspect(path: str, limit: int | None = None) -> Template:
    """Read an archive to its end.

    :param limit: the most that it may take unpacked, in bytes
    :raises ImageUnsuitable: it is damaged, unsafe, or no root file system
    :raises ImageTooLarge: it takes more than the limit
    :raises OSError: it cannot be read
    """
    with _unpacked(path) as (suffix, raw):
        source = _Source(raw, limit)
        count = sum(1 for _ in _Archive(source).members())
        return Template(suffix, source.position, count)


def repack(
    path: str, target: IO[bytes], prefix: str, limit: int | None = None
) -> Template:
    """Make a tar.gz with all members beneath a directory, and check it like inspect.

    Modes, times, devices, numeric owners, extended attributes, ACLs and holes in
    sparse files stay. The root itself gets mode 0755, as vzctl 4 gives it.

    :param target: where the archive is written; what is there after an error is of
        no use
    :param prefix: the directory
    :raises ImageUnsuitable: as inspect
    :raises OSError: it cannot be read, or the target not be written
    """
    count = 0
    with (
        _unpacked(path) as (_, raw),
        gzip.GzipFile("", "wb", _GZIP_LEVEL, target, mtime=0) as packed,
        tarfile.TarFile(
            fileobj=packed,
            mode="w",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        ) as result,
    ):
        source = _Source(raw, limit)
        # vzctl makes this directory before, with mode 0700, and not every archive
        # has a member for its root.
        root = tarfile.TarInfo(prefix)
        root.type, root.mode = tarfile.DIRTYPE, 0o755
        result.addfile(root)
        for member in _Archive(source).members():
            header, body = _beneath(prefix, member, source)
            try:
                result.addfile(header, body)
            except (ValueError, OverflowError) as error:
                raise exception.ImageUnsuitable(
                    f"{member.name!r} cannot be repacked: {error}"
                ) from error
            _forget_members(result)
            count += 1
        return Template(".tar.gz", source.position, count)


def pad(path: str) -> None:
    """Fill a plain archive up to whole KiB.

    vzctl 4 asks the shell whether there is room for the size in KiB, and fails for a
    fraction. A tar archive may end after any 512 bytes, and zeros after it mean
    nothing.
    """
    size = os.path.getsize(path)
    os.truncate(path, size + -size % 1024)


# -- reading ----------------------------------------------------------------


@contextlib.contextmanager
def _unpacked(path: str) -> Iterator[tuple[str, IO[bytes]]]:
    """The suffix for an archive by its content, and what it holds."""
    with open(path, "rb") as file:
        head = file.peek(6)
        if head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                yield ".tar.gz", unpacked  # type: ignore[misc]  # a BinaryIO in all but name
        elif head.startswith(b"BZh"):
            with bz2.BZ2File(file, "rb") as unpacked_bz2:
                yield ".tar.bz2", unpacked_bz2
        elif head.startswith(b"\xfd7zXZ\x00"):
            with io.BufferedReader(_Xz(file), _CHUNK) as unpacked_xz:
                yield ".tar.xz", unpacked_xz
        else:
            yield ".tar", file


class _Xz(io.RawIOBase):
    """What xz packed, one stream after the other, in limited memory.

    lzma.LZMAFile does the same without a limit.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._decoder = self._new_decoder()

    @staticmethod
    def _new_decoder() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            packed = b""
            if self._decoder.eof:
                packed = self._next_stream()
                if not packed:
                    return 0
                self._decoder = self._new_decoder()
            elif self._decoder.needs_input:
                packed = self._source.read(_CHUNK)
                if not packed:
                    raise EOFError("it ends too early")
            data = self._decoder.decompress(packed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _next_stream(self) -> bytes:
        """The beginning of the stream that follows; zeros between streams are legal."""
        packed = self._decoder.unused_data.lstrip(b"\0")
        while not packed:
            read = self._source.read(_CHUNK)
            if not read:
                return b""
            packed = read.lstrip(b"\0")
        return packed


class _Source:
    """The unpacked bytes of an archive, forwards and once.

    tarfile reads headers by :meth:`read`, which is limited; contents are taken by
    :meth:`take`.

    :ivar position: how many bytes were read
    :ivar last: what tarfile read last
    """

    def __init__(self, raw: IO[bytes], limit: int | None) -> None:
        self._raw = raw
        self._limit = limit
        self._header = 0
        self.position = 0
        self.last = b""

    def begin_header(self) -> None:
        """The headers of another member may be read."""
        self._header = _MAX_HEADER

    def read(self, size: int) -> bytes:
        self._header -= size
        if size < 0 or self._header < 0:
            raise exception.ImageUnsuitable(
                f"a member's headers are larger than {_MAX_HEADER >> 20} MiB"
            )
        self.last = self.take(size)
        return self.last

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        if position < self.position:
            raise exception.ImageUnsuitable("a member's size is not possible")
        while self.position < position:
            if not self.take(min(_CHUNK, position - self.position)):
                return

    def take(self, size: int) -> bytes:
        """The next bytes, fewer only at the end."""
        try:
            data = self._raw.read(size)
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise exception.ImageUnsuitable(f"it is damaged: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            # So gzip and bz2 call damaged data.
            raise exception.ImageUnsuitable(f"it is damaged: {error}") from error
        self.position += len(data)
        if self._limit is not None and self.position > self._limit:
            raise exception.ImageTooLarge(self.position, self._limit)
        return data


@dataclasses.dataclass(frozen=True)
class _Member:
    """A member that was checked.

    :ivar name: its path beneath the root, without '.' components; the root's is empty
    :ivar target: the same of what a hard link is a link to
    :ivar extents: where a sparse file holds data: offset and bytes; else None
    :ivar stored: how many bytes of content follow the header
    """

    info: tarfile.TarInfo
    name: str
    target: str
    extents: Extents | None
    stored: int


class _Archive:
    """The members of an archive, each checked before it is given."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        # Hashes of names: whoever makes an archive cannot choose them, and they take
        # the same room for any name.
        self._files: set[int] = set()
        self._symlinks: set[int] = set()
        self._bootable = False

    def members(self) -> Iterator[_Member]:
        """All members.

        :raises ImageUnsuitable: at the latest at the end
        """
        for count, member in enumerate(self._read()):
            if count == MAX_MEMBERS:
                raise exception.ImageUnsuitable(f"it has more than {count} members")
            yield member
        self._finish()

    def _read(self) -> Iterator[_Member]:
        archive = None
        while True:
            self._source.begin_header()
            try:
                if archive is None:
                    archive = tarfile.TarFile(
                        fileobj=self._source,  # type: ignore[arg-type]  # all that it uses
                        mode="r",
                        encoding="utf-8",
                        errors="surrogateescape",
                    )
                info = archive.next()
            except _MALFORMED as error:
                raise exception.ImageUnsuitable(
                    f"it is no tar archive, or damaged: {error}"
                ) from error
            if info is None:
                return
            _forget_members(archive)
            records = archive.pax_headers.items()
            if sum(len(key) + len(value) for key, value in records) > _MAX_GLOBAL:
                raise exception.ImageUnsuitable("its global headers are too large")
            yield self._checked(info, archive.offset - self._source.position)

    def _finish(self) -> None:
        # tarfile takes whatever is no header for the end.
        if self._source.last != bytes(tarfile.BLOCKSIZE):
            raise exception.ImageUnsuitable("it is damaged: it ends too early")
        trailer = 0
        # The checksum of what is packed comes at its end.
        while data := self._source.take(_CHUNK):
            trailer += len(data)
            if trailer > MAX_TRAILER:
                raise exception.ImageUnsuitable("something follows the archive's end")
        if not self._bootable:
            raise exception.ImageUnsuitable(
                "it is not the root file system of a container: it has no init"
                " (sbin/init)"
            )

    def _checked(self, info: tarfile.TarInfo, room: int) -> _Member:
        """A member, when there is nothing against it.

        :param room: how many bytes the archive has for its content
        """
        name = _inside(info.name)
        self._check_way(name if info.isdir() else name.rpartition("/")[0], info)
        if not name and not info.isdir():
            raise exception.ImageUnsuitable("its root is no directory")
        if not info.isreg() and info.size:
            # tar programs differ in whether such a member has content.
            raise exception.ImageUnsuitable(f"{info.name!r} cannot have a content")
        if not math.isfinite(info.mtime):
            raise exception.ImageUnsuitable(f"{info.name!r} has no possible time")
        target, extents, stored = "", None, info.size
        if info.islnk():
            target = self._linked(info)
        elif info.issym():
            if not info.linkname or "\0" in info.linkname:
                raise exception.ImageUnsuitable(f"{info.name!r} cannot be a link")
            self._symlinks.add(hash(name))
        elif info.issparse():
            extents = _extents(info, room)
            stored = sum(size for _, size in extents)
        elif not (info.isreg() or info.isdir() or info.isdev()):
            raise exception.ImageUnsuitable(
                f"{info.name!r} is of a kind ({info.type!r}) that is no file"
            )
        if not info.isdir():
            self._files.add(hash(name))
            self._bootable |= name in _INITS and not info.isdev()
        return _Member(info, name, target, extents, stored)

    def _check_way(self, path: str, info: tarfile.TarInfo) -> None:
        """Refuse a member that tar would make in the place a link points to."""
        while path:
            if hash(path) in self._symlinks:
                raise exception.ImageUnsuitable(
                    f"{info.name!r} goes through the symbolic link {path!r}"
                )
            path = path.rpartition("/")[0]

    def _linked(self, info: tarfile.TarInfo) -> str:
        target = _inside(info.linkname)
        self._check_way(target.rpartition("/")[0], info)
        if hash(target) not in self._files:
            raise exception.ImageUnsuitable(
                f"{info.name!r} is a link to {info.linkname!r}, which is not there"
            )
        return target


def _forget_members(archive: Any) -> None:
    """Keep tarfile from gathering all members in memory."""
    archive.members.clear()


def _inside(path: str) -> str:
    """A path of the archive relative to its root.

    :raises ImageUnsuitable: it leads out
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise exception.ImageUnsuitable(f"the path {path!r} is not inside its root")
    return "/".join(parts)


def _extents(info: tarfile.TarInfo, room: int) -> Extents:
    """Where a sparse file holds data, in the order in which it is stored."""
    sparse: Any = info.sparse
    # Those without data fill up a header.
    extents = tuple((offset, size) for offset, size in sparse if size)
    end = 0
    for offset, size in extents:
        if offset < end or size < 0:
            raise exception.ImageUnsuitable(f"{info.name!r} has a damaged sparse map")
        end = offset + size
    if end > info.size or sum(size for _, size in extents) > room:
        raise exception.ImageUnsuitable(f"{info.name!r} has a damaged sparse map")
    return extents


# -- writing ----------------------------------------------------------------


class _Body:
    """The content of a member for tarfile: some bytes, then those of the source."""

    def __init__(self, head: bytes, source: _Source) -> None:
        self._head = head
        self._source = source

    def read(self, size: int) -> bytes:
        data, self._head = self._head[:size], self._head[size:]
        if len(data) < size:
            data += self._source.take(size - len(data))
        if len(data) < size:
            raise exception.ImageUnsuitable("it is damaged: it ends too early")
        return data


def _beneath(
    prefix: str, member: _Member, source: _Source
) -> tuple[tarfile.TarInfo, Any]:
    """The header of a member beneath a directory, and its content."""
    header = copy.copy(member.info)
    header.name = f"{prefix}/{member.name}" if member.name else prefix
    header.uname = header.gname = ""
    header.pax_headers = {
        key: value
        for key, value in member.info.pax_headers.items()
        if key not in _OWN_RECORDS and not key.startswith("GNU.")
    }
    if not member.name:
        header.mode = 0o755
    if header.islnk():
        header.linkname = f"{prefix}/{member.target}"
    if not header.isreg():
        return header, None
    header.type = tarfile.REGTYPE
    head = b""
    if member.extents is not None:
        head = _make_sparse(header, member.extents)
    header.size = len(head) + member.stored
    return header, _Body(head, source)


def _make_sparse(header: tarfile.TarInfo, extents: Extents) -> bytes:
    """Turn a header into that of a sparse file, and give the map before its content.

    tarfile only reads such files. This is version 1.0 of the pax format as the manual
    of GNU tar describes it: https://www.gnu.org/software/tar/manual/html_node/PAX-1.html
    """
    directory, _, name = header.name.rpartition("/")
    header.pax_headers = {
        **header.pax_headers,
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": header.name,
        "GNU.sparse.realsize": str(header.size),
    }
    # What a tar that does not know sparse files unpacks it to.
    header.name = f"{directory}/GNUSparseFile.0/{name}"
    if not extents or sum(extents[-1]) < header.size:
        # A file that ends in a hole ends with an empty extent.
        extents = (*extents, (header.size, 0))
    numbers = [len(extents), *(number for extent in extents for number in extent)]
    text = "".join(f"{number}\n" for number in numbers).encode()
    return text + bytes(-len(text) % tarfile.BLOCKSIZE)
