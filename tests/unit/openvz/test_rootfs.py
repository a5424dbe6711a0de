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

import errno
import os
import socket
import stat

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import rootfs
from tests.unit.openvz import hostile

LIMIT = 100


def owner():
    return {"uid": os.getuid(), "gid": os.getgid()}


@pytest.fixture
def node(tmp_path):
    return hostile.Node(tmp_path)


@pytest.mark.parametrize("plant", sorted(set(hostile.PLANTS) - hostile.DIRECTORIES))
def test_whatever_is_planted_at_the_place_is_replaced_by_the_file(node, plant):
    hostile.PLANTS[plant](node.root / "shadow", node.outside)

    rootfs.write_files(**node.place, files=[hostile.entry("/shadow")])

    info = (node.root / "shadow").lstat()
    assert stat.S_ISREG(info.st_mode)
    assert (node.root / "shadow").read_bytes() == b"new"
    assert os.listdir(node.root) == ["shadow"]


def test_a_directory_at_the_place_of_a_file_is_refused_and_nothing_stays(node):
    (node.root / "shadow").mkdir()

    with pytest.raises(exception.UnsafePath, match="shadow"):
        rootfs.write_files(**node.place, files=[hostile.entry("/shadow")])

    assert os.listdir(node.root) == ["shadow"]


def test_links_resolve_inside_the_tree_as_after_chroot(node):
    (node.root / "usr").mkdir()
    (node.root / "usr/os-release").write_bytes(b"ID=x")
    (node.root / "absolute").symlink_to("/usr/os-release")
    (node.root / "relative").symlink_to("../../usr/os-release")
    (node.root / "usr/up").symlink_to("..")

    for path in ("/absolute", "relative", "/usr/up/usr/up/absolute", "../../absolute"):
        content = rootfs.read_file(**node.place, path=path, limit=LIMIT)
        assert content == b"ID=x", path


def test_a_file_goes_to_where_a_linked_directory_leads_inside(node):
    (node.root / "run").mkdir()
    (node.root / "var").mkdir()
    (node.root / "var/run").symlink_to("/run")

    rootfs.write_files(**node.place, files=[hostile.entry("/var/run/x/y")])

    assert (node.root / "run/x/y").read_bytes() == b"new"


def test_mode_and_owner_are_as_given_whatever_the_umask(node):
    old = os.umask(0o077)
    try:
        rootfs.write_files(
            **node.place,
            files=[hostile.entry("/a/b/file")],
            directories=[{**owner(), "path": "/root/.ssh", "mode": 0o700}],
        )
    finally:
        os.umask(old)

    modes = {p: stat.S_IMODE((node.root / p).stat().st_mode) for p in _names(node)}
    assert modes == {
        "a": 0o755,
        "a/b": 0o755,
        "a/b/file": 0o640,
        "root": 0o755,
        "root/.ssh": 0o700,
    }


def _names(node):
    return sorted(str(p.relative_to(node.root)) for p in node.root.rglob("*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_files_and_the_parents_made_for_them_belong_to_the_containers_root(node):
    rootfs.write_files(
        **node.place, files=[hostile.entry("/a/file", uid=100000, gid=100001)]
    )

    for name in ("a", "a/file"):
        info = (node.root / name).stat()
        assert (info.st_uid, info.st_gid) == (100000, 100001)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_keep_takes_mode_and_owner_of_the_plain_file_that_is_replaced(node):
    shadow = node.root / "shadow"
    shadow.write_bytes(b"old")
    os.chown(shadow, 100000, 100042)
    shadow.chmod(0o640)

    entry = hostile.entry("/shadow", keep=True, mode=0o600)
    rootfs.write_files(**node.place, files=[entry])

    info = shadow.stat()
    assert shadow.read_bytes() == b"new"
    assert (info.st_uid, info.st_gid) == (100000, 100042)
    assert stat.S_IMODE(info.st_mode) == 0o640


def test_keep_takes_nothing_from_a_link_or_a_missing_file(node):
    (node.outside / "target").chmod(0o666)
    (node.root / "link").symlink_to(node.outside / "target")

    entries = [hostile.entry(p, keep=True, mode=0o600) for p in ("link", "missing")]
    rootfs.write_files(**node.place, files=entries)

    for name in ("link", "missing"):
        assert stat.S_IMODE((node.root / name).lstat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777])
def test_no_setuid_file_can_be_written(node, mode):
    with pytest.raises(exception.UnsafePath, match="setuid"):
        rootfs.write_files(**node.place, files=[hostile.entry("/x", mode=mode)])

    assert os.listdir(node.root) == []


def test_keep_does_not_carry_setuid_over(node):
    (node.root / "x").write_bytes(b"")
    (node.root / "x").chmod(0o4755)

    rootfs.write_files(**node.place, files=[hostile.entry("/x", keep=True)])

    assert stat.S_IMODE((node.root / "x").stat().st_mode) == 0o755


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(node, monkeypatch):
    (node.root / "x").write_bytes(b"old")

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(exception.OvzError, match=r"write '/x'.*No space"):
        rootfs.write_files(**node.place, files=[hostile.entry("/x")])

    assert os.listdir(node.root) == ["x"]
    assert (node.root / "x").read_bytes() == b"old"


def test_removal_comes_before_directories_and_files(node):
    seed = node.root / "seed"
    (seed / "old/deep").mkdir(parents=True)
    (seed / "old/user_data").write_bytes(b"another server's")

    rootfs.write_files(
        **node.place,
        remove=["/seed", "/not/there"],
        directories=[{**owner(), "path": "/seed", "mode": 0o700}],
        files=[hostile.entry("/seed/new")],
    )

    assert _names(node) == ["seed", "seed/new"]


def test_the_root_directory_itself_is_neither_removed_nor_written(node):
    (node.root / "keep").write_bytes(b"")

    for change in ({"remove": [".."]}, {"remove": ["a/.."]}):
        (node.root / "a").mkdir(exist_ok=True)
        with pytest.raises(exception.UnsafePath):
            rootfs.write_files(**node.place, files=[], **change)
    with pytest.raises(exception.UnsafePath):
        rootfs.write_files(**node.place, files=[hostile.entry("/a/..")])

    assert (node.root / "keep").exists()


def test_an_existing_directory_stays_as_it_is(node):
    (node.root / "d").mkdir(mode=0o711)
    wanted = [{**owner(), "path": p, "mode": 0o700} for p in ("/d", "/d/..")]

    rootfs.write_files(**node.place, files=[], directories=wanted)

    assert stat.S_IMODE((node.root / "d").stat().st_mode) == 0o711


def test_a_missing_file_reads_as_none(node):
    (node.root / "file").write_bytes(b"")

    for path in ("/missing", "/missing/below", "/file/below"):
        assert rootfs.read_file(**node.place, path=path, limit=LIMIT) is None


@pytest.mark.parametrize("plant", ["fifo", "socket", "device", "directory", "loop"])
def test_only_plain_files_are_read(node, plant):
    if plant not in hostile.PLANTS:
        pytest.skip("only root can make a device")
    hostile.PLANTS[plant](node.root / "x", node.outside)

    with pytest.raises(exception.UnsafePath, match="x"):
        rootfs.read_file(**node.place, path="/x", limit=LIMIT)


def test_a_file_is_read_up_to_its_limit_and_not_beyond(node):
    (node.root / "x").write_bytes(b"12345")

    assert rootfs.read_file(**node.place, path="/x", limit=5) == b"12345"
    with pytest.raises(exception.UnsafePath, match="larger than 4 bytes"):
        rootfs.read_file(**node.place, path="/x", limit=4)


def test_inspecting_tells_kinds_and_contents_and_survives_bad_paths(node):
    (node.root / "file").write_bytes(b"content")
    (node.root / "large").write_bytes(b"x" * (LIMIT + 1))
    (node.root / "link").symlink_to("file")
    (node.root / "dir").mkdir()
    hostile.PLANTS["fifo"](node.root / "fifo", node.outside)
    hostile.PLANTS["loop"](node.root / "loop", node.outside)

    names = ["file", "link", "large", "dir", "fifo", "loop", "missing", "x" * 300]
    found = rootfs.inspect_tree(**node.place, kinds=names, contents=names, limit=LIMIT)

    assert found["kinds"] == {
        "file": "file",
        "link": "file",
        "large": "file",
        "dir": "directory",
        "fifo": "other",
        "loop": "other",
        "missing": None,
        "x" * 300: "other",
    }
    contents = {name: data for name, data in found["contents"].items() if data}
    assert contents == {"file": b"content", "link": b"content"}


def test_the_tree_of_newer_vzctl_is_in_a_subdirectory(node):
    (node.root / "fs").mkdir()
    place = node.place | {"sub": "fs"}

    rootfs.write_files(**place, files=[hostile.entry("/../x")])

    assert _names(node) == ["fs", "fs/x"]


@pytest.mark.parametrize(
    "change",
    [
        {"ctid": "100"},
        {"ctid": "../outside"},
        {"ctid": "102"},
        {"sub": "dir"},
        {"sub": ".."},
        {"base": "private"},
        {"base": "/nowhere"},
    ],
)
def test_only_a_containers_own_root_is_opened(node, change):
    with pytest.raises(exception.OvzError):
        rootfs.write_files(**node.place | change, files=[hostile.entry("/x")])

    assert not list(node.base.parent.rglob("x"))


@pytest.mark.parametrize("level", ["", "fs"])
def test_the_containers_own_directory_must_not_be_a_link(node, level):
    place = node.base / "102"
    if level:
        place.mkdir()
    (place / level).symlink_to(node.outside)

    with pytest.raises(exception.UnsafePath):
        rootfs.write_files(
            **node.place | {"ctid": "102", "sub": level}, files=[hostile.entry("/x")]
        )

    assert not (node.outside / "x").exists()


def test_a_server_listening_on_a_planted_socket_hears_nothing(node):
    directory = os.open(node.root, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{directory}/sock")
        server.listen()
        server.setblocking(False)
        rootfs.write_files(**node.place, files=[hostile.entry("/sock")])
        with pytest.raises(BlockingIOError):
            server.accept()
    os.close(directory)
