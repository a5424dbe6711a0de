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

"""What a list of attributes restores, and what none of them can reach."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import unpack
from tests import trees
from tests.unit.openvz import hostile


@pytest.fixture
def node(tmp_path: Path) -> hostile.Node:
    return hostile.Node(tmp_path)


def _line(path: str, mode: int = 0o640, **found: str) -> str:
    note = {"path": path, "mode": mode, "mtime_ns": 0, "attributes": found}
    note["owner"] = [os.getuid(), os.getgid()]
    return json.dumps({**note, "attributes": found or {"user.x": "eA=="}}) + "\n"


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "{}",
        _line("../outside/target"),
        _line("/../../outside/target"),
        _line("a\0b"),
        _line("file", **{"trusted.x": "eA=="}),
        _line("file", **{"security.selinux": "eA=="}),
        _line("file", **{"user.x": "!"}),
        _line("file", **{"system.posix_acl_access": "eA=="}),
        _line("file").replace("[", "[-1,"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(node: hostile.Node, line: str) -> None:
    (node.root / "file").touch()
    (node.root / ".ovz-snapshot").mkdir()
    (node.root / ".ovz-snapshot/attributes.0").write_text(line)
    before = node.outside_state()

    with pytest.raises(exception.UnsafePath):
        unpack.restore_attributes(**node.place, uid=0, gid=0, seconds=9)

    assert node.outside_state() == before


def test_a_tree_without_a_list_stays_as_it_is(node: hostile.Node) -> None:
    (node.root / "file").touch()
    before = trees.describe(node.root)

    assert unpack.restore_attributes(**node.place, uid=0, gid=0, seconds=9) == 0

    assert trees.describe(node.root) == before


def listed(node: hostile.Node, *parts: str) -> int:
    """Restore what a list of such parts says; of how many files."""
    stage = node.root / ".ovz-snapshot"
    stage.mkdir()
    for number, part in enumerate(parts):
        (stage / f"attributes.{number}").write_text(part)
    return unpack.restore_attributes(**node.place, uid=0, gid=0, seconds=9)


def test_each_part_of_a_list_is_restored_and_the_list_removed(
    node: hostile.Node,
) -> None:
    for name in ("one", "two"):
        (node.root / name).touch()

    count = listed(node, _line("one", 0o4755), _line("gone") + _line("two", 0o600))

    assert count == 2
    assert (node.root / "one").stat().st_mode & 0o7777 == 0o4755
    assert (node.root / "two").stat().st_mode & 0o7777 == 0o600
    assert os.getxattr(node.root / "two", "user.x") == b"x"
    assert sorted(os.listdir(node.root)) == ["one", "two"]


def test_the_root_has_its_own_mode_and_time(node: hostile.Node) -> None:
    listed(node, _line("", 0o751))

    info = node.root.stat()
    assert (info.st_mode & 0o7777, info.st_mtime_ns) == (0o751, 0)


def test_no_link_is_followed_to_a_file(node: hostile.Node) -> None:
    (node.root / "link").symlink_to(node.outside / "target")
    (node.root / "dir").symlink_to(node.outside / "dir")
    (node.root / "file").touch()
    before = node.outside_state()

    paths = ("link", "dir/target", "file/target")
    # The link itself has an owner, and nothing else.
    assert listed(node, "".join(map(_line, paths))) == 1

    assert node.outside_state() == before


@pytest.mark.parametrize("plant", ["fifo", "link_to_file", "directory"])
def test_a_part_that_is_no_plain_file_is_not_read(
    node: hostile.Node, plant: str
) -> None:
    (node.root / ".ovz-snapshot").mkdir()
    (node.root / "file").touch(0o600)
    # Also where a link leads to a list that would do.
    (node.outside / "target").write_text(_line("file"))
    hostile.PLANTS[plant](node.root / ".ovz-snapshot/attributes.0", node.outside)
    before = node.outside_state()

    with pytest.raises(exception.OvzError):
        unpack.restore_attributes(**node.place, uid=0, gid=0, seconds=9)

    assert node.outside_state() == before
    assert (node.root / "file").stat().st_mode & 0o777 == 0o600


def test_a_list_is_bounded_in_size_and_time(
    node: hostile.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node.root / "file").touch()
    line = _line("file")
    monkeypatch.setattr(unpack, "PART_LIMIT", len(line))
    assert listed(node, line) == 1

    with pytest.raises(exception.UnsafePath):
        listed(node, f"{line}\n")
    (node.root / ".ovz-snapshot/attributes.0").write_text(line)
    with pytest.raises(exception.OvzError, match="not restored within 0 s"):
        unpack.restore_attributes(**node.place, uid=0, gid=0, seconds=0)
