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

"""Images that no vzctl unpacks, made into a tar.gz by the programs that can.

An archive packed by zstd or lz4 is unpacked by these; a disk image (raw, qcow2,
ploop) is read by guestfish of libguestfs. That one looks at partitions and file
systems in a virtual machine of its own, which runs as this user: the host's kernel
never mounts what a stranger has made. All write a tar archive to their standard
output, which is packed as it comes: no other copy of the content touches the disk.

What an image is, is told from its content, by oslo.utils' format inspector, before
any program opens it. That refuses what names other files: backing files, external
data files, descriptors.
"""

from __future__ import annotations

import dataclasses
import gzip
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import IO, Protocol

from oslo_utils.imageutils import format_inspector

from ovznovadriver import exception
from ovznovadriver.openvz import command

#: As Glance calls them.
DISK_FORMATS = frozenset({"raw", "qcow2", "ploop"})

#: Bytes that unpacking one archive may take of memory: 'zstd --ultra -22' needs 128.
_ZSTD_MEMORY_MB = 256

#: See template.py: the archive is read from the local disk only.
_GZIP_LEVEL = 1

#: The beginning of an archive that has only one meaning.
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    # As the kernel packs itself.
    b"\x02\x21\x4c\x18": "lz4",
}
_USTAR = (257, b"ustar")

#: QEMU calls ploop's format 'parallels':
#: https://www.qemu.org/docs/master/interop/parallels.html
_PLOOP = (b"WithoutFreeSpace", b"WithouFreSpacExt")

#: File systems that a disk may be without a partition table: offset and bytes.
_FILE_SYSTEMS = (
    (0x438, b"\x53\xef"),  # ext2, ext3, ext4
    (0, b"XFSB"),
    (0x10040, b"_BHRfS_M"),  # btrfs
)
_HEAD = 0x10048

#: guestfish says so when its virtual machine does not start: the node's fault, or
#: that of an image which QEMU cannot read.
_NO_LAUNCH = ("guestfs_launch", "supermin")


@dataclasses.dataclass(frozen=True)
class Way:
    """How an image becomes a tar archive.

    :ivar arguments: the program, and all that goes before the image's path
    :ivar more: what comes after it
    :ivar package: what has the program, for whoever has to install it
    """

    arguments: tuple[str, ...]
    more: tuple[str, ...]
    package: str


def _guestfish(disk_format: str) -> Way:
    return Way(
        ("guestfish", "--ro", f"--format={disk_format}", "-a"),
        # Mounts what the only system in the image mounts, within the machine.
        ("-i", "tar-out", "/", "-", "numericowner:true", "xattrs:true", "acls:true"),
        "libguestfs-tools (RPM: guestfs-tools)",
    )


_UNPACKERS = {
    "zstd": Way(("zstd", "-d", "-c", "-q", f"-M{_ZSTD_MEMORY_MB}MB"), (), "zstd"),
    "lz4": Way(("lz4", "-d", "-c", "-q"), (), "lz4"),
}


class Streamer(Protocol):
    """What runs a program; see :meth:`ovznovadriver.openvz.utils.Executor.stream`."""

    def stream(
        self,
        *cmd: str,
        output: Callable[[bytes], object],
        timeout: float,
        env: Mapping[str, str] | None = None,
    ) -> command.Completed:
        """Run a command as this user, and hand over its output as it comes."""
        ...


def way_of(path: str, claimed: str) -> Way | None:
    """How an image becomes a tar archive; None for one that template.py reads.

    :param claimed: Glance's disk_format, one of :data:`DISK_FORMATS`
    :raises ImageUnsuitable: it is something else, or refers to other files
    :raises OSError: it cannot be read
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if claimed == "ploop":
        if not head.startswith(_PLOOP):
            raise exception.ImageUnsuitable("it is no ploop image (root.hds)")
        return _guestfish("parallels")
    if claimed == "raw":
        packing = next((n for m, n in _PACKED.items() if head.startswith(m)), None)
        if packing is not None:
            return _UNPACKERS.get(packing)
        if head.startswith(_USTAR[1], _USTAR[0]):
            return None
    found = _inspected(path)
    if claimed == "qcow2" and found == "qcow2":
        return _guestfish("qcow2")
    if claimed == "raw" and found == "gpt":
        # The inspector's name for any partition table.
        return _guestfish("raw")
    if claimed == "raw" and found == "raw":
        bare = any(head.startswith(magic, at) for at, magic in _FILE_SYSTEMS)
        # An archive of before 1988 has no mark; what is none is told when it is read.
        return _guestfish("raw") if bare else None
    raise exception.ImageUnsuitable(
        f"Glance says that its format is {claimed}, but its content is {found}"
    )


def _inspected(path: str) -> str:
    try:
        found = format_inspector.detect_file_format(path)
        if found is None:
            raise exception.ImageUnsuitable("its format cannot be told")
        if str(found) in DISK_FORMATS | {"gpt"}:
            found.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        reasons = "; ".join(str(reason) for reason in error.failures.values())
        raise exception.ImageUnsuitable(f"it is not safe to open: {reasons}") from error
    except format_inspector.ImageFormatError as error:
        raise exception.ImageUnsuitable(
            f"it has more than one meaning: {error}"
        ) from error
    return str(found)


class _Packed:
    """Packs what comes, up to a limit."""

    def __init__(self, target: gzip.GzipFile, limit: int) -> None:
        self._target = target
        self._limit = limit
        self._size = 0

    def add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise exception.ImageTooLarge(self._size, self._limit)
        self._target.write(data)


def convert(
    streamer: Streamer,
    way: Way,
    path: str,
    target: IO[bytes],
    *,
    limit: int,
    timeout: float,
) -> None:
    """Write an image's content as a tar.gz; what it holds is for template.py to judge.

    :param path: of a plain name, which no program takes for an option or a URL
    :param target: what is there after an error is of no use
    :param limit: the most bytes that the archive may have unpacked
    :param timeout: seconds
    :raises ImageUnsuitable: the program is not there, cannot read the image, or does
        not end in time
    :raises ImageTooLarge: there is more than the limit
    :raises CommandFailed: guestfish cannot start its virtual machine
    :raises OSError: the target cannot be written
    """
    program = way.arguments[0]
    with (
        # Sockets and overlays, which a program that is ended leaves behind.
        tempfile.TemporaryDirectory(prefix=f"ovz-{os.getpid()}-") as scratch,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, target, mtime=0) as packed,
    ):
        env = {
            # libvirt's way has a daemon start the machine, as another user.
            "LIBGUESTFS_BACKEND": "direct",
            # What the machine boots from: made once, and not below TMPDIR each time.
            "LIBGUESTFS_CACHEDIR": "/var/tmp",  # noqa: S108 - libguestfs' own default
        }
        env = {name: os.environ.get(name, value) for name, value in env.items()}
        env |= {"TMPDIR": scratch, "XDG_RUNTIME_DIR": scratch}
        cmd = (*way.arguments, path, *way.more)
        try:
            done = streamer.stream(
                *cmd, output=_Packed(packed, limit).add, timeout=timeout, env=env
            )
        except exception.ConfigurationError as error:
            raise exception.ImageUnsuitable(
                f"this host has no {program} to read it with: install {way.package}"
            ) from error
        except exception.CommandTimedOut as error:
            raise exception.ImageUnsuitable(
                f"{program} did not read it within {timeout:g} s"
                " ([openvz]image_conversion_timeout)"
            ) from error
    if done.returncode == 0:
        return
    failure = exception.CommandFailed(
        " ".join(cmd), done.returncode, stderr=done.stderr
    )
    if any(word in done.stderr for word in _NO_LAUNCH):
        raise failure
    # What follows is advice for who uses the program by hand.
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
    reason = reason.removeprefix(f"{program}: ")
    raise exception.ImageUnsuitable(f"{program} cannot read it: {reason}") from failure
