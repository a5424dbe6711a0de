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

"""A tree goes into an archive and comes out of it the same, and nothing else does."""

from __future__ import annotations

import io
import mmap
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import (
    pack,
    rootfs,
    template,
    unpack,
)
from tests import trees
from tests.unit.openvz import hostile
from tests.unit.openvz.packing import how, members, untar, wait_for_clock
from tests.unit.openvz.pipes import Pipe

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give files away and make devices"
)
OFFSET = 100000


@pytest.fixture
def node(tmp_path: Path) -> hostile.Node:
    return hostile.Node(tmp_path)


def pack_in_two(
    node: hostile.Node, pipe: Pipe, between: Callable[[], object], **more: Any
) -> bytes:
    """Pack as a running container is."""
    wait_for_clock()
    packed = pack.pack_contents(**how(node, pipe, **more))
    between()
    pack.pack_tree(**how(node, pipe, **more), packed=packed)
    return pipe.end()


def make_root(node: hostile.Node) -> None:
    (node.root / "sbin").mkdir()
    (node.root / "sbin/init").write_bytes(b"#!/bin/sh\n")


def shift(top: Path) -> None:
    """Shift owners as vzctl 4 does: name by name."""
    for place, directories, files in os.walk(os.fsencode(top)):
        for name in (*directories, *files):
            path = os.path.join(place, name)
            info = os.lstat(path)
            os.lchown(path, info.st_uid + OFFSET, info.st_gid + OFFSET)
    os.chown(top, OFFSET, OFFSET)


# -- identity -------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("offset", [0, pytest.param(OFFSET, marks=needs_root)])
def test_what_is_packed_and_unpacked_is_the_same_tree(
    node: hostile.Node, pipe: Pipe, tmp_path: Path, offset: int, running: bool
) -> None:
    make_root(node)
    trees.fill(node.root / "srv", offset)
    if offset:
        os.chown(node.root, offset, offset)
        trees.give(node.root / "sbin", offset)
    node.root.chmod(0o751)
    os.setxattr(node.root, "user.top", b"1")
    before = trees.describe(node.root, offset)
    ids = {"uid": offset, "gid": offset}
    if running:
        archive = pack_in_two(node, pipe, lambda: None, **ids)
    else:
        pack.pack_tree(**how(node, pipe, **ids))
        archive = pipe.end()

    base = tmp_path / "other"
    untar(archive, base / hostile.CTID)
    if offset:
        shift(base / hostile.CTID)
    place = {"base": str(base), "ctid": hostile.CTID, "sub": ""}
    unpack.restore_attributes(**place, **ids, seconds=60)

    assert trees.describe(base / hostile.CTID, offset) == before
    # The archive is one that the driver takes.
    (tmp_path / "image.tar").write_bytes(archive)
    template.inspect(str(tmp_path / "image.tar"))


@needs_root
def test_times_keep_their_nanoseconds_and_tar_knows_attributes(
    node: hostile.Node, pipe: Pipe, tmp_path: Path
) -> None:
    trees.fill(node.root / "srv")
    pack.pack_tree(**how(node, pipe))
    (tmp_path / "archive").write_bytes(pipe.end())
    (tmp_path / "x").mkdir()

    options = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"]
    command = ["tar", *options, "-C", str(tmp_path / "x"), "-xf"]
    subprocess.run([*command, str(tmp_path / "archive")], check=True)

    assert trees.describe(tmp_path / "x/srv") == trees.describe(node.root / "srv")
    assert (tmp_path / "x/srv/plain").stat().st_mtime_ns == 1_600_000_000_123_456_789


def test_an_offset_that_is_not_in_use_changes_no_owner(
    node: hostile.Node, pipe: Pipe
) -> None:
    (node.root / "file").touch()

    pack.pack_tree(**how(node, pipe, uid=4_000_000, gid=4_000_000))

    assert members(pipe.end())["file"].uid == os.geteuid()


def test_owners_that_the_container_does_not_have_are_nobody(
    node: hostile.Node, pipe: Pipe
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    (node.root / "file").touch()
    os.chown(node.root, OFFSET, OFFSET)

    pack.pack_tree(**how(node, pipe, uid=OFFSET, gid=OFFSET))

    assert members(pipe.end())["file"].uid == 65534


# -- a tree that changes ----------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    before = path.stat()
    path.write_bytes(content)
    # As a program may, to hide it.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda top: None,
    "same size and time": lambda top: _write(top / "file", b"CONTENT"),
    "longer": lambda top: (top / "file").write_bytes(b"much longer than before"),
    "deleted": lambda top: (top / "file").unlink(),
    "renamed": lambda top: (top / "file").rename(top / "dir/other"),
    "directory renamed": lambda top: (top / "dir").rename(top / "moved"),
    "directory becomes a link": lambda top: (
        shutil.rmtree(top / "dir"),
        (top / "dir").symlink_to("/etc"),
    ),
    "file becomes a directory": lambda top: (
        (top / "file").unlink(),
        (top / "file").mkdir(),
    ),
    "new": lambda top: (top / "new").write_bytes(b"new"),
    "linked": lambda top: os.link(top / "file", top / "name"),
    "mode": lambda top: (top / "file").chmod(0o600),
    "attribute": lambda top: os.setxattr(top / "file", "user.x", b"y"),
    "mapped": lambda top: _write_by_map(top / "file"),
}


def _write_by_map(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:1] = b"C"


@pytest.mark.parametrize("change", CHANGES)
def test_the_archive_is_the_tree_of_the_freeze(
    node: hostile.Node, pipe: Pipe, tmp_path: Path, change: str
) -> None:
    (node.root / "dir").mkdir()
    (node.root / "dir/inner").write_bytes(b"inner")
    (node.root / "file").write_bytes(b"content")
    base = tmp_path / "other"

    archive = pack_in_two(node, pipe, lambda: CHANGES[change](node.root))
    untar(archive, base / hostile.CTID)
    place = {"base": str(base), "ctid": hostile.CTID, "sub": ""}
    unpack.restore_attributes(**place, uid=0, gid=0, seconds=60)

    assert trees.describe(base / hostile.CTID) == trees.describe(node.root)


def test_a_file_written_through_an_old_mapping_counts_as_changed(
    node: hostile.Node, pipe: Pipe
) -> None:
    (node.root / "file").write_bytes(b"content")
    with (
        (node.root / "file").open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as mapped,
    ):
        mapped[0:1] = b"1"

        def write() -> None:
            mapped[0:1] = b"2"

        archive = pack_in_two(node, pipe, write)

    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        content = tar.extractfile("file")
        assert content is not None
        assert content.read() == b"2ontent"


def test_what_has_not_changed_is_not_packed_again(
    node: hostile.Node, pipe: Pipe
) -> None:
    for number in range(20):
        (node.root / f"f{number}").write_bytes(os.urandom(100_000))

    archive = pack_in_two(node, pipe, (node.root / "f0").touch)

    assert 2_100_000 < len(archive) < 2_300_000


def test_files_that_are_cut_while_they_are_read_do_not_break_the_archive(
    node: hostile.Node, pipe: Pipe, monkeypatch: Any
) -> None:
    (node.root / "file").write_bytes(b"x" * 5_000_000)
    real = os.preadv

    def cut(descriptor: int, buffers: Any, offset: int) -> int:
        if offset:
            os.truncate(node.root / "file", 1_000_000)
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", cut)
    archive = pack_in_two(node, pipe, lambda: None)

    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        content = tar.extractfile("file")
        assert content is not None
        assert content.read() == b"x" * 1_000_000


def test_another_tree_in_its_place_is_refused(node: hostile.Node, pipe: Pipe) -> None:
    packed = pack.pack_contents(**how(node, pipe))
    node.root.rename(node.base / "gone")
    node.root.mkdir()

    with pytest.raises(exception.OvzError, match="another one by now"):
        pack.pack_tree(**how(node, pipe), packed=packed)


# -- what must not be --------------------------------------------------------------


@needs_root
def test_what_is_mounted_is_not_packed(
    node: hostile.Node, pipe: Pipe, tmp_path: Path
) -> None:
    (node.root / "mnt").mkdir()
    (node.root / "bound").mkdir()
    (node.root / "file").touch()
    mounts = [
        ["mount", "-t", "tmpfs", "none", str(node.root / "mnt")],
        ["mount", "--bind", str(node.outside), str(node.root / "bound")],
        ["mount", "--bind", str(node.outside / "target"), str(node.root / "file")],
    ]
    done = []
    try:
        for mount in mounts:
            if subprocess.run(mount, check=False, capture_output=True).returncode:
                pytest.skip("nothing can be mounted here")
            done.append(mount[-1])
        (node.root / "mnt/file").write_bytes(hostile.SECRET)
        archive = pack_in_two(node, pipe, lambda: None)
    finally:
        for place in done:
            subprocess.run(["umount", place], check=True)  # noqa: S607

    assert hostile.SECRET not in archive
    assert set(members(archive)) == {".", "mnt", "bound"}


def test_a_path_that_nobody_could_unpack_is_said_to_be_too_long(
    node: hostile.Node, pipe: Pipe
) -> None:
    here = os.getcwd()
    os.chdir(node.root)
    try:
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        pack.pack_contents(**how(node, pipe))
        with pytest.raises(exception.UnsafePath, match="too long"):
            pack.pack_tree(**how(node, pipe))
    finally:
        os.chdir(here)
        rootfs.write_files(**node.place, files=[], remove=["d" * 250])


def test_the_containers_own_stage_is_not_packed(node: hostile.Node, pipe: Pipe) -> None:
    (node.root / ".ovz-snapshot").mkdir()
    (node.root / ".ovz-snapshot/attributes.0").write_text("hostile")

    archive = pack_in_two(node, pipe, lambda: None)

    assert b"hostile" not in archive


# -- a whole system -----------------------------------------------------------------


@needs_root
@pytest.mark.skipif(
    "OVZ_TEST_DEBOOTSTRAP" not in os.environ,
    reason="takes a minute and a mirror: set OVZ_TEST_DEBOOTSTRAP to its address",
)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("running", [False, True])
def test_a_debian_system_is_the_same_afterwards(
    node: hostile.Node, pipe: Pipe, tmp_path: Path, running: bool
) -> None:
    program = shutil.which("debootstrap")
    if program is None:
        pytest.skip("debootstrap is not installed")
    mirror = os.environ["OVZ_TEST_DEBOOTSTRAP"]
    command = [program, "--variant=minbase", "stable", str(node.root), mirror]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"there is no mirror at {mirror}")
    trees.shift(node.root, OFFSET)
    before = trees.describe(node.root, OFFSET)
    ids = {"uid": OFFSET, "gid": OFFSET}
    if running:
        archive = pack_in_two(node, pipe, lambda: None, **ids)
    else:
        pack.pack_tree(**how(node, pipe, **ids))
        archive = pipe.end()

    base = tmp_path / "other"
    untar(archive, base / hostile.CTID)
    shift(base / hostile.CTID)
    place = {"base": str(base), "ctid": hostile.CTID, "sub": ""}
    unpack.restore_attributes(**place, **ids, seconds=600)

    assert trees.describe(base / hostile.CTID, OFFSET) == before
