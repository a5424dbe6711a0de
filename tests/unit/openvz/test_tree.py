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
import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import tree
from tests.unit.openvz import hostile

UUID = "6f1bd3c2-0a7e-4d0c-9d9f-3a5d6c1f2b10"


@pytest.fixture
def node(tmp_path):
    return hostile.Node(tmp_path)


@pytest.mark.parametrize("text", ["101", "2147483644", UUID, UUID.upper()])
def test_what_is_a_ctid(text):
    assert tree.is_ctid(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "100", "0101", "2147483645", "-101", "101 ", "101\n", "1e3", "١٠٢"),
        *(UUID + "\n", UUID[:-1], f"{{{UUID}}}", UUID.replace("-", ""), "..", "101/.."),
        "00000000-0000-0000-0000-000000000000",
        101,
        None,
    ],
)
def test_what_is_no_ctid(text):
    assert not tree.is_ctid(text)


# -- against the kernel's own openat2 ---------------------------------------

_SYS_OPENAT2 = 437  # the same on all architectures
_RESOLVE_IN_ROOT, _RESOLVE_NO_MAGICLINKS = 0x10, 0x02


def inode_of(descriptor):
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def kernel_look(root, path):
    """What the kernel finds at a path with RESOLVE_IN_ROOT: (inode) or an errno."""
    how = (ctypes.c_uint64 * 3)(
        os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
    )
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.syscall(_SYS_OPENAT2, root, path.encode(), how, ctypes.sizeof(how))
    if found < 0:
        return errno.errorcode[ctypes.get_errno()]
    return inode_of(found)


def our_look(node, path):
    try:
        with tree.Tree(str(node), hostile.CTID, "") as opened:
            found = tree.look(opened, path)
    except exception.UnsafePath:
        return "ELOOP"
    except OSError as error:
        return errno.errorcode[error.errno]
    if found is None:
        return None
    return inode_of(found)


NAMES = st.sampled_from(["a", "b", "c", ".."])
PATHS = st.lists(NAMES, min_size=1, max_size=6).map("/".join)
TARGETS = st.tuples(st.sampled_from(["", "/"]), PATHS).map("".join)
FORESTS = st.dictionaries(PATHS, st.one_of(TARGETS, st.none(), st.just("")), max_size=8)


def plant(root, forest):
    """Files (None), directories ("") and links, as far as they fit into a tree."""
    for path, what in forest.items():
        place = Path(root, *[part for part in path.split("/") if part != ".."])
        with contextlib.suppress(OSError):
            if what is None:
                place.touch()
            elif what == "":
                place.mkdir(parents=True)
            else:
                place.symlink_to(what)


def has_openat2():
    try:
        root = os.open("/", os.O_RDONLY)
        try:
            return kernel_look(root, "..") != "ENOSYS"
        finally:
            os.close(root)
    except KeyError:  # an errno without a name
        return False


@pytest.mark.skipif(not has_openat2(), reason="the kernel has no openat2")
@settings(max_examples=200, deadline=None)
@given(forest=FORESTS, path=PATHS)
def test_a_path_leads_to_where_openat2_with_resolve_in_root_leads(forest, path):
    top = tempfile.mkdtemp()
    try:
        root = Path(top, hostile.CTID)
        root.mkdir()
        plant(root, forest)
        descriptor = os.open(root, os.O_RDONLY)
        try:
            expected = kernel_look(descriptor, path)
        finally:
            os.close(descriptor)
        # "Not there" has two errors, and both are None here.
        wanted = None if expected in ("ENOENT", "ENOTDIR") else expected
        assert our_look(top, path) == wanted
    finally:
        shutil.rmtree(top)


# -- a guest that is faster -------------------------------------------------


def swapping(monkeypatch, name, swap):
    """Let the guest act right after the walker has looked at a name."""
    look = os.readlink

    def readlink(path, *, dir_fd=None):
        try:
            return look(path, dir_fd=dir_fd)
        finally:
            if path == name:
                swap()

    monkeypatch.setattr(os, "readlink", readlink)


def test_a_directory_that_becomes_a_link_after_the_look_is_not_entered(
    node, monkeypatch
):
    (node.root / "etc").mkdir()

    def swap():
        (node.root / "etc").rmdir()
        (node.root / "etc").symlink_to(node.outside)

    swapping(monkeypatch, b"etc", swap)
    with (
        tree.Tree(str(node.base), hostile.CTID, "") as opened,
        pytest.raises(OSError, match=r"Not a directory|Too many"),
        opened.parent("/etc/target", follow=True),
    ):
        pytest.fail("the link was followed")


def test_a_file_that_becomes_a_link_after_the_look_is_only_looked_at(node, monkeypatch):
    (node.root / "x").touch()

    def swap():
        (node.root / "x").unlink()
        (node.root / "x").symlink_to(node.outside / "target")

    swapping(monkeypatch, b"x", swap)
    with tree.Tree(str(node.base), hostile.CTID, "") as opened:
        found = tree.look(opened, "/x")
    assert inode_of(found) == (node.root / "x").lstat().st_ino


def test_dot_dot_goes_back_to_where_the_walk_came_from(node, monkeypatch):
    """A directory moved meanwhile must not turn .. into a way out."""
    (node.root / "a/b").mkdir(parents=True)
    (node.root / "x").write_bytes(b"inside")
    (node.root / "go").symlink_to("a/b/../../x")

    def swap():
        (node.root / "a/b").rename(node.outside / "b")

    real = os.open

    def opening(path, flags, *args, **kwargs):
        descriptor = real(path, flags, *args, **kwargs)
        if path == b"b":
            swap()
        return descriptor

    monkeypatch.setattr(os, "open", opening)
    with tree.Tree(str(node.base), hostile.CTID, "") as opened:
        found = tree.look(opened, "/go")
    assert inode_of(found) == (node.root / "x").stat().st_ino


# -- limits -----------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "///",
        "nul\0byte",
        "lone\udc80surrogate",
        "a/" * 3000,
        "a/" * (tree.MAX_COMPONENTS + 1) + "x",
    ],
)
def test_a_path_that_cannot_be_walked_is_refused(node, path):
    deep = node.root
    for _ in range(tree.MAX_COMPONENTS):
        deep = deep / "a"
    deep.mkdir(parents=True)

    with (
        tree.Tree(str(node.base), hostile.CTID, "") as opened,
        pytest.raises(exception.UnsafePath),
    ):
        tree.look(opened, path)


def test_links_are_followed_up_to_the_kernels_limit(node):
    (node.root / "link0").write_bytes(b"")
    for number in range(1, tree.MAX_LINKS + 2):
        (node.root / f"link{number}").symlink_to(f"link{number - 1}")

    with tree.Tree(str(node.base), hostile.CTID, "") as opened:
        os.close(tree.look(opened, f"link{tree.MAX_LINKS}"))
        with pytest.raises(exception.UnsafePath, match="too many links"):
            tree.look(opened, f"link{tree.MAX_LINKS + 1}")


# -- removing ---------------------------------------------------------------


def remove(node, name):
    parent = tree.open_base(str(node.base))
    try:
        tree.remove_entry(parent, name)
    finally:
        os.close(parent)


def test_a_tree_is_removed_with_all_that_was_planted(node):
    for name, plant_at in hostile.PLANTS.items():
        plant_at(node.root / name, node.outside)
    os.mkdir(os.fsencode(node.root) + b"/\xff\n")
    (node.root / ("x" * 255)).touch()
    before = node.outside_state()

    remove(node, hostile.CTID)

    assert os.listdir(node.base) == []
    assert node.outside_state() == before


def test_a_tree_deeper_than_any_path_or_stack_is_removed(node):
    depth = 3000
    here = os.open(node.root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    remove(node, hostile.CTID)

    assert os.listdir(node.base) == []


def test_removing_a_link_leaves_what_it_leads_to(node):
    (node.base / "102").symlink_to(node.outside)
    before = node.outside_state()

    remove(node, "102")

    assert os.listdir(node.base) == [hostile.CTID]
    assert node.outside_state() == before


def test_removing_what_is_not_there_is_fine(node):
    remove(node, "102")
    (node.root / "file").touch()
    with tree.Tree(str(node.base), hostile.CTID, "") as opened:
        tree.remove_path(opened, "/missing/below")
        tree.remove_path(opened, "/file/below")
    assert os.listdir(node.root) == ["file"]


def test_an_error_while_walking_to_what_is_removed_is_not_hidden(node):
    (node.root / "loop").symlink_to("loop")
    with (
        tree.Tree(str(node.base), hostile.CTID, "") as opened,
        pytest.raises(exception.UnsafePath),
    ):
        tree.remove_path(opened, "/loop/x")
    with (
        tree.Tree(str(node.base), hostile.CTID, "") as opened,
        pytest.raises(OSError, match="too long"),
    ):
        tree.remove_path(opened, "/" + "x" * 300 + "/x")


def test_a_file_is_replaced_wholly_with_its_mode(tmp_path):
    path = tmp_path / "101.nics"
    path.write_text("old")

    tree.replace_file(str(path), b"new", 0o640)

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "fchmod", "rename"])
def test_a_file_that_cannot_be_replaced_stays(tmp_path, monkeypatch, call):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "101.nics"
    path.write_text("old")
    monkeypatch.setattr(os, call, full)

    with pytest.raises(OSError, match="No space"):
        tree.replace_file(str(path), b"new", 0o640)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("kept")
    link = tmp_path / "101.nics"
    link.symlink_to(other)

    tree.replace_file(str(link), b"new", 0o600)

    assert (other.read_text(), link.read_text()) == ("kept", "new")
