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

"""Extended attributes of a container's files, in the container's own numbering.

Where vzctl shifts owners, the numbers of users in an ACL and the owner of a file's
capabilities are shifted as well, as seen from the host.

The layouts: linux/posix_acl_xattr.h and linux/capability.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator, Mapping

ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
CAPABILITY = "security.capability"

#: What nobody on the other side is, and what the kernel shows for it.
OVERFLOW_ID = 65534

_ACL_VERSION = struct.pack("<I", 2)
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08
_ACL_NAMES = {
    0x01: "user:",
    _ACL_USER: "user:{}",
    0x04: "group:",
    _ACL_GROUP: "group:{}",
    0x10: "mask:",
    0x20: "other:",
}

_REVISION = 0xFF000000
_REVISION_2, _REVISION_3 = 0x02000000, 0x03000000
_SIZE_2, _SIZE_3 = 20, 24


def is_kept(name: str) -> bool:
    """Whether an attribute is the container's.

    Labels of security modules (security.selinux, security.ima) and trusted.* are the
    host's.
    """
    return name.startswith("user.") or name in (ACCESS_ACL, DEFAULT_ACL, CAPABILITY)


def read(place: int | str) -> dict[str, bytes]:
    """The attributes of an open file that are kept, as the host sees them."""
    found = {}
    try:
        names = os.listxattr(place)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    for name in filter(is_kept, names):
        try:
            found[name] = os.getxattr(place, name)
        except OSError as error:
            if error.errno != errno.ENODATA:  # gone meanwhile
                raise
    return found


def inner_id(number: int, offset: int) -> int:
    """The container's number for a user or group of the host."""
    return number - offset if number >= offset else OVERFLOW_ID


def to_guest(found: Mapping[str, bytes], uid: int, gid: int) -> dict[str, bytes]:
    """Attributes in the container's numbering.

    :param found: as the host sees them
    :param uid: the offset of users
    :param gid: the offset of groups
    """
    values = {name: _moved(name, value, -uid, -gid) for name, value in found.items()}
    return {name: value for name, value in values.items() if value is not None}


def to_host(found: Mapping[str, bytes], uid: int, gid: int) -> dict[str, bytes]:
    """The opposite of :func:`to_guest`.

    :raises ValueError: an attribute makes no sense
    """
    values = {name: _moved(name, value, uid, gid) for name, value in found.items()}
    return {name: value for name, value in values.items() if value is not None}


def _moved(name: str, value: bytes, uid: int, gid: int) -> bytes | None:
    if name in (ACCESS_ACL, DEFAULT_ACL):
        return _moved_acl(value, uid, gid)
    if name == CAPABILITY and uid:
        return _moved_capability(value, uid)
    return value


def _entries(acl: bytes) -> Iterator[tuple[int, int, int]]:
    if acl[:4] != _ACL_VERSION or len(acl) % _ACL_ENTRY.size != 4:
        raise ValueError("this is no access control list")
    return _ACL_ENTRY.iter_unpack(acl[4:])


def _moved_acl(acl: bytes, uid: int, gid: int) -> bytes:
    parts = [_ACL_VERSION]
    for tag, permissions, number in _entries(acl):
        offset = {_ACL_USER: uid, _ACL_GROUP: gid}.get(tag)
        moved = number if offset is None else number + offset
        if offset is not None and not 0 <= moved < 2**32 - 1:
            moved = OVERFLOW_ID
        parts.append(_ACL_ENTRY.pack(tag, permissions, moved))
    return b"".join(parts)


def _moved_capability(value: bytes, uid: int) -> bytes | None:
    """Capabilities of a file; None for those that hold only for other containers.

    Revision 3 names the user that is root where they hold. Inside, and where
    nothing is shifted, that is revision 2.
    """
    magic = int.from_bytes(value[:4], "little")
    revision, flags = magic & _REVISION, magic & ~_REVISION
    if (revision, len(value)) == (_REVISION_2, _SIZE_2):
        # Set by the host's root, when it is read from a tree with shifted owners.
        root = max(uid, 0)
    elif (revision, len(value)) == (_REVISION_3, _SIZE_3):
        root = int.from_bytes(value[_SIZE_2:], "little") + uid
    else:
        raise ValueError("these are no capabilities of a file")
    if not 0 <= root < 2**32 - 1:
        return None
    sets = value[4:_SIZE_2]
    if root == 0:
        return struct.pack("<I", _REVISION_2 | flags) + sets
    return struct.pack("<I", _REVISION_3 | flags) + sets + struct.pack("<I", root)


def acl_text(acl: bytes) -> bytes:
    """An ACL as a text with numbers, which tar programs take (SCHILY.acl)."""
    words = []
    for tag, permissions, number in _entries(acl):
        with contextlib.suppress(KeyError):
            who = _ACL_NAMES[tag].format(number)
            rights = "".join(
                letter if permissions & bit else "-"
                for letter, bit in (("r", 4), ("w", 2), ("x", 1))
            )
            words.append(f"{who}:{rights}")
    return ",".join(words).encode()


def records(found: Mapping[str, bytes]) -> list[tuple[bytes, bytes]]:
    """The pax records by which tar programs know attributes."""
    made = []
    for name, value in found.items():
        if name == ACCESS_ACL:
            made.append((b"SCHILY.acl.access", acl_text(value)))
        elif name == DEFAULT_ACL:
            made.append((b"SCHILY.acl.default", acl_text(value)))
        else:
            # GNU tar's way (xheader.c) to have a '=' in a keyword.
            keyword = os.fsencode(name).replace(b"%", b"%25").replace(b"=", b"%3D")
            made.append((b"SCHILY.xattr." + keyword, value))
    return made
