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

"""Listings tell two trees apart by everything that rsync has to copy."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import listing
from ovznovadriver.openvz.tree import OPEN_DIR
from tests.unit.openvz import hostile

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


def listed(path: Path, **options: object) -> listing.Listing:
    descriptor = os.open(path, OPEN_DIR)
    try:
        return listing.list_tree(descriptor, **options)
    finally:
        os.close(descriptor)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "dir" / "inner").mkdir(parents=True)
    (top / "dir" / "file").write_text("content")
    (top / "dir" / "link").symlink_to("file")
    os.link(top / "dir" / "file", top / "second")
    (top / "other").write_text("content")
    os.mkfifo(top / "fifo")
    return top


def copied(top: Path) -> Path:
    copy = top.parent / "copy"
    subprocess.run(["/bin/cp", "-a", f"{top}/.", str(copy)], check=True)
    return copy


def kept_time(path: Path, change: Callable[[], object]) -> None:
    info = path.stat()
    change()
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _as_other_file(top: Path) -> None:
    (top / "second").unlink()
    shutil.copy2(top / "dir" / "file", top / "second")
    for path in (top, top / "dir"):
        os.utime(path, ns=(0, 0))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new name": lambda top: kept_time(top, (top / "new").touch),
    "a name less": lambda top: kept_time(top, (top / "other").unlink),
    "a rename": lambda top: kept_time(top, lambda: os.rename(top / "other", top / "o")),
    "a mode": lambda top: (top / "other").chmod(0o600),
    "setuid": lambda top: (top / "other").chmod(0o4644),
    "a time, by one nanosecond": lambda top: os.utime(
        top / "other", ns=(0, (top / "other").stat().st_mtime_ns + 1)
    ),
    "a directory's time": lambda top: os.utime(top / "dir", ns=(0, 1)),
    "the root's mode": lambda top: top.chmod(0o700),
    "a size": lambda top: kept_time(
        top / "other", lambda: (top / "other").write_text("content!")
    ),
    "a target": lambda top: kept_time(
        top / "dir",
        lambda: ((top / "dir/link").unlink(), (top / "dir/link").symlink_to("filf")),
    ),
    "an attribute": lambda top: os.setxattr(top / "other", "user.x", b"1"),
    "a kind": lambda top: kept_time(
        top, lambda: ((top / "fifo").unlink(), (top / "fifo").touch())
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(top: Path, change: str) -> None:
    before = listed(top)
    CHANGES[change](top)
    assert listed(top).digest != before.digest


@AS_ROOT
@pytest.mark.parametrize(
    "change",
    [
        lambda top: os.chown(top / "other", 1, 0),
        lambda top: os.chown(top / "other", 0, 1),
        lambda top: os.chown(top / "dir/link", 1, 1, follow_symlinks=False),
        lambda top: os.setxattr(
            top / "other", "security.capability", b"\1\0\0\2" + bytes(16)
        ),
    ],
    ids=["uid", "gid", "link", "capability"],
)
def test_an_owner_is_seen(top: Path, change: Callable[[Path], object]) -> None:
    before = listed(top)
    change(top)
    assert listed(top).digest != before.digest


@AS_ROOT
def test_a_device_is_seen(top: Path) -> None:
    digests = set()
    for minor in (3, 5):
        os.mknod(top / "device", 0o20666, os.makedev(1, minor))
        os.utime(top / "device", ns=(0, 0))
        os.utime(top, ns=(0, 0))
        digests.add(listed(top).digest)
        (top / "device").unlink()
    assert len(digests) == 2


def test_two_names_of_one_file_are_not_two_files(top: Path) -> None:
    for path in (top, top / "dir"):
        os.utime(path, ns=(0, 0))
    before = listed(top)
    _as_other_file(top)
    after = listed(top)
    assert after.digest != before.digest
    assert after.size_kb > before.size_kb


def test_a_copy_is_the_same_wherever_it_is_and_whatever_else_links_to_it(
    top: Path,
) -> None:
    copy = copied(top)
    os.link(copy / "other", top.parent / "elsewhere")
    ours, theirs = listed(top), listed(copy)
    assert ours.digest == theirs.digest
    assert ours.entries == theirs.entries == 8


def test_odd_names_cannot_be_taken_for_others(tmp_path: Path) -> None:
    digests = set()
    for name in (b"a\nb", b"a\xffb", "aüb".encode(), b"a 1:b", b"a"):
        top = tmp_path / str(len(digests))
        top.mkdir()
        Path(os.fsdecode(os.fsencode(top) + b"/" + name)).mkdir()
        for path in (*top.iterdir(), top):
            os.utime(path, ns=(0, 0))
        digests.add(listed(top).digest)
    assert len(digests) == 5


def test_a_deep_tree_is_listed_without_a_descriptor_for_each_level(
    tmp_path: Path,
) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for depth in range(300):
        os.mkdir(f"{top}/{'d/' * depth}d")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        assert listed(top).entries == 301
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_tree_deeper_than_any_path_is_refused(top: Path) -> None:
    here = os.open(top, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    with pytest.raises(exception.UnsafePath, match="too long"):
        listed(top, changing=True)


def test_nothing_is_opened_that_would_block(top: Path) -> None:
    hostile.PLANTS["socket"](top / "socket", top)
    assert listed(top).entries == 9


def test_fresh_is_what_changed_since_whatever_its_time_says(top: Path) -> None:
    now = max(p.lstat().st_ctime_ns for p in top.rglob("*"))
    assert listed(top, since=now + 1).fresh == {}
    while (top / "dir/file").stat().st_ctime_ns <= now:
        kept_time(top / "dir/file", lambda: (top / "dir/file").write_text("CONTENT"))
    inode = (top / "second").stat().st_ino
    found = listed(top, since=now + 1).fresh
    assert {name: sorted(paths) for name, paths in found.items()} == {
        inode: [b"dir/file", b"second"]
    }


def test_what_vanishes_is_passed_over_only_where_it_may(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda fd: [*real(fd), "gone"])
    assert listed(top, changing=True).entries == 8
    with pytest.raises(FileNotFoundError):
        listed(top)
