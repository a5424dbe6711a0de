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

import contextlib
import ctypes
import os
import stat

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import leftovers, rootfs, tree
from tests.unit.openvz import hostile

CTID = "101"
UUID = "6f1bd3c2-0a7e-4d0c-9d9f-3a5d6c1f2b10"
DEAD = 2**22 + 1  # above the highest pid of Linux (proc(5), pid_max)
MS_BIND = 4096


@pytest.fixture
def dirs(tmp_path):
    made = {}
    for kind in ("private", "root", "conf", "dump", "lock", "names", "cgroup"):
        (tmp_path / kind).mkdir()
        made[kind] = str(tmp_path / kind)
    return made


def fill(tmp_path, ctid):
    """All that a container can leave behind; the paths, relative."""
    (tmp_path / "private" / ctid / "etc").mkdir(parents=True)
    (tmp_path / "private" / ctid / "etc/passwd").touch()
    (tmp_path / "root" / ctid).mkdir()
    for name in ("conf", "conf.destroyed", "mount"):
        (tmp_path / "conf" / f"{ctid}.{name}").touch()
    (tmp_path / "dump" / f"Dump.{ctid}").mkdir()
    (tmp_path / "dump" / f"Dump.{ctid}" / "pages.img").touch()
    (tmp_path / "dump" / f"Dump.{ctid}.fail").touch()
    (tmp_path / "lock" / f"{ctid}.lck").write_text(f"{DEAD}\nstarting\n")
    # Of vzctl commands that were killed while they took the lock.
    (tmp_path / "lock" / f"{ctid}.lckVq3ab7").write_text(f"{DEAD}\n\n")
    (tmp_path / "lock" / f"{ctid}.lckZyxw09").touch()
    (tmp_path / "names" / f"name-{ctid}").symlink_to(f"/etc/vz/conf/{ctid}.conf")
    (tmp_path / "cgroup" / f"vz-{ctid}").mkdir()
    (tmp_path / "cgroup/memory" / f"vz-{ctid}" / "system.slice").mkdir(parents=True)


def everything(tmp_path):
    return sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))


@pytest.mark.parametrize("ctid", [CTID, UUID])
def test_nothing_of_the_container_stays_and_all_of_the_others_does(
    tmp_path, dirs, ctid
):
    for other in ("1010", "102"):
        fill(tmp_path, other)
    (tmp_path / "cgroup/cpu").mkdir()
    (tmp_path / "conf/ve-basic.conf-sample").touch()
    (tmp_path / "names/plain").touch()
    before = everything(tmp_path)
    fill(tmp_path, ctid)

    assert leftovers.remove_container(dirs=dirs, ctid=ctid) == []

    assert everything(tmp_path) == before
    assert leftovers.remove_container(dirs=dirs, ctid=ctid) == []


def test_directories_that_are_missing_hold_nothing(tmp_path, dirs):
    missing = {kind: f"{path}/missing" for kind, path in dirs.items()}

    assert leftovers.remove_container(dirs=missing, ctid=CTID) == []


def test_all_steps_are_tried_and_each_failure_is_told(tmp_path, dirs):
    fill(tmp_path, CTID)
    (tmp_path / "root" / CTID / "file").touch()
    (tmp_path / "conf" / f"{CTID}.d").mkdir()
    (tmp_path / "lock" / f"{CTID}.lck").write_text(f"{os.getpid()}\n")

    failures = leftovers.remove_container(dirs=dirs, ctid=CTID)

    assert [failure.partition(":")[0] for failure in failures] == [
        "root",
        "conf",
        "lock",
    ]
    assert "not empty" in failures[0]
    assert f"held by process {os.getpid()}" in failures[2]
    assert (tmp_path / "root" / CTID / "file").exists()
    assert (tmp_path / "lock" / f"{CTID}.lck").exists()
    assert not (tmp_path / "private" / CTID).exists()


def test_a_lock_that_a_living_process_is_taking_stays(tmp_path, dirs):
    lock = tmp_path / "lock" / f"{CTID}.lckVq3ab7"
    lock.write_text(f"{os.getpid()}\n\n")

    failures = leftovers.remove_container(dirs=dirs, ctid=CTID)

    assert f"held by process {os.getpid()}" in failures[0]
    assert lock.exists()


def test_what_is_no_lock_of_vzctls_stays(tmp_path, dirs):
    other = tmp_path / "lock" / f"{CTID}.lck.backup"
    other.write_text(f"{DEAD}\n")

    assert leftovers.remove_container(dirs=dirs, ctid=CTID) == []

    assert other.exists()


@pytest.mark.parametrize("content", ["", "\n", "nobody\n", "-1\n"])
def test_a_lock_that_does_not_say_whose_it_is_stays(tmp_path, dirs, content):
    lock = tmp_path / "lock" / f"{CTID}.lck"
    lock.write_text(content)

    failures = leftovers.remove_container(dirs=dirs, ctid=CTID)

    assert "whose lock" in failures[0]
    assert lock.exists()


def test_a_lock_that_will_never_say_whose_it_is_is_removed(tmp_path, dirs):
    lock = tmp_path / "lock" / f"{CTID}.lck"
    lock.touch()
    os.utime(lock, (1e9, 1e9))

    assert leftovers.remove_container(dirs=dirs, ctid=CTID) == []

    assert not lock.exists()


def test_links_in_the_nodes_directories_are_removed_but_not_followed(tmp_path, dirs):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text(f"{DEAD}\n")
    (tmp_path / "private" / CTID).symlink_to(outside)
    (tmp_path / "conf" / f"{CTID}.conf").symlink_to(outside / "file")
    (tmp_path / "dump" / f"Dump.{CTID}").symlink_to(outside)
    (tmp_path / "lock" / f"{CTID}.lck").symlink_to(outside / "file")
    (tmp_path / "root" / CTID).symlink_to(outside)

    failures = leftovers.remove_container(dirs=dirs, ctid=CTID)

    # rmdir and the lock's O_NOFOLLOW refuse a link; vzctl makes none there.
    assert [failure.partition(":")[0] for failure in failures] == ["root", "lock"]
    assert os.listdir(outside) == ["file"]
    assert not (tmp_path / "private" / CTID).is_symlink()


@pytest.mark.parametrize("kind", ["private", "root"])
@pytest.mark.parametrize("below", ["", "/proc", "/with blank"])
def test_nothing_is_removed_where_something_is_mounted(
    tmp_path, dirs, monkeypatch, kind, below
):
    fill(tmp_path, CTID)
    point = f"{dirs[kind]}/{CTID}{below}"
    monkeypatch.setattr(leftovers, "mount_points", lambda: ["/", point])

    failures = leftovers.remove_container(dirs=dirs, ctid=CTID)

    assert failures == [f"{kind}: something is mounted at {point!r}"]
    assert (tmp_path / kind / CTID).is_dir()


def test_a_mount_of_another_container_does_not_count(tmp_path, dirs, monkeypatch):
    fill(tmp_path, CTID)
    points = [f"{dirs['root']}/1010", f"{dirs['root']}"]
    monkeypatch.setattr(leftovers, "mount_points", lambda: points)

    assert leftovers.remove_container(dirs=dirs, ctid=CTID) == []


@contextlib.contextmanager
def bound(source, target, top):
    """A bind mount; undone wherever beneath ``top`` it has been moved to."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None) != 0:
        pytest.skip(f"cannot mount here: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        for point in leftovers.mount_points():
            if point.startswith(f"{top}/"):
                assert libc.umount2(os.fsencode(point), 0) == 0


def test_a_bind_mount_in_a_tree_keeps_its_content(tmp_path, dirs):
    """Also when it came after the look: a mount point cannot be moved."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    point = tmp_path / "private" / CTID / "deep/with blank"
    point.mkdir(parents=True)

    with bound(outside, point, tmp_path):
        failures = leftovers.remove_container(dirs=dirs, ctid=CTID)
        assert failures == [f"private: something is mounted at {str(point)!r}"]

        parent = tree.open_base(dirs["private"])
        try:
            with pytest.raises(OSError, match="busy"):
                tree.remove_entry(parent, CTID)
        finally:
            os.close(parent)

    assert os.listdir(outside) == ["file"]


def test_mount_points_are_read_with_their_escapes(tmp_path):
    assert leftovers._unescape("/a\\040b\\011c\\134d") == "/a b\tc\\d"
    assert "/" in leftovers.mount_points()


def test_only_known_kinds_of_directories_are_taken(dirs):
    for verb in (
        lambda given: leftovers.remove_container(dirs=given, ctid=CTID),
        lambda given: leftovers.remove_dump(dirs=given, ctid=CTID),
        lambda given: leftovers.list_artifacts(dirs=given),
    ):
        with pytest.raises(exception.UnsafePath, match="etc"):
            verb({"etc": "/etc"})


@pytest.mark.parametrize("ctid", ["", "0", "100", "..", "101/etc", "*"])
def test_no_verb_takes_what_is_no_ctid(dirs, ctid):
    with pytest.raises(exception.UnsafePath, match="CTID"):
        leftovers.remove_container(dirs=dirs, ctid=ctid)
    with pytest.raises(exception.UnsafePath, match="CTID"):
        leftovers.remove_dump(dirs=dirs, ctid=ctid)
    with pytest.raises(exception.UnsafePath, match="CTID"):
        leftovers.ensure_root_dir(base=dirs["root"], ctid=ctid)


# -- dumps ------------------------------------------------------------------


def test_a_dump_is_removed_and_nothing_else(tmp_path, dirs):
    fill(tmp_path, CTID)
    fill(tmp_path, "1010")
    before = everything(tmp_path)

    for _ in range(2):
        leftovers.remove_dump(dirs={"dump": dirs["dump"]}, ctid=CTID)

    gone = set(before) - set(everything(tmp_path))
    assert gone == {
        *("dump/Dump.101", "dump/Dump.101/pages.img", "dump/Dump.101.fail"),
    }


def test_a_dump_in_the_private_area_is_removed(tmp_path, dirs):
    area = tmp_path / "private" / UUID
    (area / "dump/Dump").mkdir(parents=True)
    (area / "fs/dump/Dump").mkdir(parents=True)
    where = {"dump": dirs["dump"], "private": dirs["private"]}

    for _ in range(2):
        leftovers.remove_dump(dirs=where, ctid=UUID)
    leftovers.remove_dump(dirs=where, ctid=CTID)

    assert os.listdir(area / "dump") == []
    assert (area / "fs/dump/Dump").is_dir()


def test_a_dump_that_cannot_be_removed_is_an_error(tmp_path, dirs):
    (tmp_path / "private" / UUID).mkdir()
    (tmp_path / "private" / UUID / "dump").symlink_to("dump")

    with pytest.raises(exception.UnsafePath, match="dump"):
        leftovers.remove_dump(dirs={"private": dirs["private"]}, ctid=UUID)


# -- listing ----------------------------------------------------------------


def test_every_directory_tells_the_ctids_that_it_knows(tmp_path, dirs):
    (tmp_path / "private/101").mkdir()
    (tmp_path / "root/102").mkdir()
    (tmp_path / "conf/103.conf.destroyed").touch()
    (tmp_path / "dump/Dump.104").touch()
    (tmp_path / "dump/Dump.105.fail").touch()
    (tmp_path / "lock/106.lck").touch()
    (tmp_path / "names/web").symlink_to("/etc/vz/conf/107.conf")
    (tmp_path / f"names/{UUID}").symlink_to(f"../conf/{UUID}.conf")
    del dirs["cgroup"]

    assert leftovers.list_artifacts(dirs=dirs) == [
        *("101", "102", "103", "104", "105", "106", "107"),
        UUID,
    ]


def test_what_is_no_container_is_not_listed(tmp_path, dirs):
    (tmp_path / "conf/0.conf").touch()
    (tmp_path / "conf/100.conf").touch()
    (tmp_path / "conf/ve-basic.conf-sample").touch()
    (tmp_path / "dump/core.101").touch()
    (tmp_path / "names/101").touch()
    (tmp_path / "lock/vz.lck").touch()
    os.mkdir(os.fsencode(dirs["private"]) + b"/\xff.101\n")
    del dirs["cgroup"]

    assert leftovers.list_artifacts(dirs=dirs) == []


@pytest.mark.parametrize("kind", ["private", "root", "conf"])
def test_a_directory_that_cannot_be_read_is_no_empty_node(tmp_path, dirs, kind):
    with pytest.raises(exception.OvzError, match="missing"):
        leftovers.list_artifacts(dirs={kind: f"{dirs[kind]}/missing"})


@pytest.mark.parametrize("kind", ["dump", "lock", "names"])
def test_directories_that_vzctl_makes_when_needed_may_be_missing(dirs, kind):
    assert leftovers.list_artifacts(dirs={kind: f"{dirs[kind]}/missing"}) == []


# -- the directories themselves ---------------------------------------------


def test_what_is_wrong_with_a_directory_is_told(tmp_path):
    (tmp_path / "file").touch()

    problems = leftovers.check_dirs(
        dirs={
            "fine": str(tmp_path),
            "file": str(tmp_path / "file"),
            "missing": str(tmp_path / "missing"),
        }
    )

    assert problems == {"file": "is not a directory", "missing": "does not exist"}


def test_a_directory_that_cannot_be_written_to_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)

    problems = leftovers.check_dirs(dirs={"conf": str(tmp_path)})

    assert problems == {"conf": "cannot be written to"}


def test_a_missing_root_directory_is_made_once(tmp_path, dirs):
    old = os.umask(0o077)
    try:
        made = [
            leftovers.ensure_root_dir(base=dirs["root"], ctid=CTID) for _ in range(2)
        ]
    finally:
        os.umask(old)

    assert made == [True, False]
    assert stat.S_IMODE((tmp_path / "root" / CTID).stat().st_mode) == 0o755


@pytest.mark.parametrize("plant", sorted(set(hostile.PLANTS) - hostile.DIRECTORIES))
def test_what_is_no_directory_is_not_taken_for_the_root(tmp_path, dirs, plant):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/target").touch()
    hostile.PLANTS[plant](tmp_path / "root" / CTID, tmp_path / "outside")

    with pytest.raises(exception.UnsafePath, match="not a directory"):
        leftovers.ensure_root_dir(base=dirs["root"], ctid=CTID)


def test_the_verbs_are_in_the_table():
    for verb in (
        leftovers.remove_container,
        leftovers.remove_dump,
        leftovers.list_artifacts,
        leftovers.check_dirs,
        leftovers.ensure_root_dir,
    ):
        assert rootfs.VERBS[verb.__name__] is verb
