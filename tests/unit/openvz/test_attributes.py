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

from __future__ import annotations

import struct

import pytest

from ovznovadriver.openvz import attributes

OFFSET = 100000


def acl(user: int, group: int) -> bytes:
    entries = ((1, 6, 2**32 - 1), (2, 4, user), (8, 5, group), (32, 0, 2**32 - 1))
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    return struct.pack("<I", 2) + packed


def capability(root: int | None) -> bytes:
    revision = 0x02000001 if root is None else 0x03000001
    packed = struct.pack("<5I", revision, 1 << 13, 0, 0, 0)
    return packed if root is None else packed + struct.pack("<I", root)


@pytest.mark.parametrize(
    ("name", "host", "guest"),
    [
        ("user.x", b"value", b"value"),
        (attributes.ACCESS_ACL, acl(OFFSET + 5, OFFSET + 6), acl(5, 6)),
        (attributes.DEFAULT_ACL, acl(OFFSET, OFFSET), acl(0, 0)),
        (attributes.CAPABILITY, capability(OFFSET), capability(None)),
        (attributes.CAPABILITY, capability(OFFSET + 9), capability(9)),
    ],
)
def test_numbers_are_the_containers_in_an_image(
    name: str, host: bytes, guest: bytes
) -> None:
    assert attributes.to_guest({name: host}, OFFSET, OFFSET) == {name: guest}
    assert attributes.to_host({name: guest}, OFFSET, OFFSET) == {name: host}
    assert attributes.to_guest({name: host}, 0, 0) == {name: host}


def test_capabilities_of_another_container_are_left_out() -> None:
    found = {attributes.CAPABILITY: capability(7)}
    assert attributes.to_guest(found, OFFSET, OFFSET) == {}


def test_users_that_the_container_does_not_have_are_nobody() -> None:
    found = attributes.to_guest({attributes.ACCESS_ACL: acl(5, 6)}, OFFSET, OFFSET)
    assert found == {attributes.ACCESS_ACL: acl(65534, 65534)}


@pytest.mark.parametrize("value", [b"", b"\2\0\0\0x", b"\3\0\0\0"])
def test_what_is_no_acl_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="access control"):
        attributes.to_host({attributes.ACCESS_ACL: value}, 1, 1)


@pytest.mark.parametrize("value", [b"", capability(None)[:19], capability(1) + b"x"])
def test_what_are_no_capabilities_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="capabilities"):
        attributes.to_host({attributes.CAPABILITY: value}, 1, 1)


def test_the_hosts_own_attributes_are_not_kept() -> None:
    for name in ("security.selinux", "security.ima", "trusted.overlay.opaque"):
        assert not attributes.is_kept(name)


def test_tar_gets_acls_as_text_and_keywords_without_equals_signs() -> None:
    found = {attributes.ACCESS_ACL: acl(5, 6), "user.a=%": b"v"}
    assert attributes.records(found) == [
        (b"SCHILY.acl.access", b"user::rw-,user:5:r--,group:6:r-x,other::---"),
        (b"SCHILY.xattr.user.a%3D%25", b"v"),
    ]
