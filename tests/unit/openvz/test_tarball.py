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

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovznovadriver.openvz import tarball

NAMES = st.binary(min_size=1, max_size=300).filter(
    lambda n: b"\0" not in n and n.strip(b"/") == n
)
IDS = st.integers(0, 2**32 - 2)


def read(data: bytes) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(data + tarball.END)) as tar:
        (member,) = tar
        return member


@given(NAMES, NAMES, IDS, IDS, st.integers(-(10**18), 10**20), st.integers(0, 0o7777))
def test_a_member_is_read_as_it_was_written(
    name: bytes, target: bytes, uid: int, gid: int, mtime_ns: int, mode: int
) -> None:
    member = tarball.Member(
        name, tarball.SYMLINK, mode, uid, gid, mtime_ns, target=target
    )
    found = read(tarball.header(member))

    assert found.name.encode(errors="surrogateescape") == name
    assert found.linkname.encode(errors="surrogateescape") == target
    assert (found.uid, found.gid, found.mode) == (uid, gid, mode)
    assert found.mtime == pytest.approx(mtime_ns / 10**9, abs=1e-3)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8 << 30, 1 << 50])
def test_sizes_of_any_length_are_kept(size: int) -> None:
    member = tarball.Member(b"f", tarball.REGULAR, 0o644, 0, 0, 0, size)
    header = tarball.header(member)
    with tarfile.open(fileobj=io.BytesIO(header + tarball.END)) as tar:
        assert tar.next().size == size  # type: ignore[union-attr]
    assert (size + len(tarball.padding(size))) % 512 == 0


def test_a_record_counts_its_own_length_where_that_grows_by_it() -> None:
    for length in range(80, 120):
        value = b"v" * length
        member = tarball.Member(b"f", tarball.REGULAR, 0o644, 0, 0, 0)
        found = read(tarball.header(member, [(b"SCHILY.xattr.user.x", value)]))
        assert found.pax_headers["SCHILY.xattr.user.x"] == value.decode()
