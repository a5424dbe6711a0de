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
"""Swapping root trees, wherever it is interrupted."""

import contextlib
import os
import shutil

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import swap

CTID, HELPER, SPARE = "101", "102", "103"


@pytest.fixture(autouse=True)
def _no_power_cuts(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["", "fs"])
def sub(request):
    """Where a root tree is in a private area."""
    return request.param


@pytest.fixture
def dirs(tmp_path, sub):
    """A node with a container, and a fresh tree beside it."""
    found = {}
    for name in ("private", "conf"):
        (tmp_path / name).mkdir()
        found[name] = str(tmp_path / name)
    for ctid, text in ((CTID, "own"), (HELPER, "fresh")):
        root = tmp_path / "private" / ctid / sub
        root.mkdir(parents=True)
        (root / "who").write_text(text)
    return found


@pytest.fixture
def look(tmp_path, sub):
    """Whose the trees are, by CTID and path."""

    def read():
        return {
            f"{path.parent.relative_to(tmp_path / 'private')}": path.read_text()
            for path in sorted((tmp_path / "private").rglob("who"))
        }

    def named(ctid, inner=""):
        return "/".join(part for part in (ctid, sub, inner) if part)

    read.named = named
    return read


def both(dirs, sub, other=HELPER):
    return {"dirs": dirs, "ctid": CTID, "sub": sub, "other": other}


def test_a_rescued_container_has_its_own_tree_inside(dirs, sub, look):
    swap.swap_in(**both(dirs, sub))

    assert look() == {look.named(CTID): "fresh", look.named(CTID, "instance"): "own"}


def test_afterwards_it_is_as_it_was(dirs, sub, look, tmp_path):
    before = os.stat(os.path.join(dirs["private"], CTID, sub))
    swap.swap_in(**both(dirs, sub))

    assert swap.swap_out(**both(dirs, sub, SPARE)) is True

    assert look() == {look.named(CTID): "own"}
    after = os.stat(os.path.join(dirs["private"], CTID, sub))
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert os.listdir(dirs["conf"]) == []
    assert SPARE not in os.listdir(dirs["private"])


def test_one_that_is_not_rescued_is_left_alone(dirs, sub, look):
    assert swap.swap_out(**both(dirs, sub, SPARE)) is False

    assert look()[look.named(CTID)] == "own"


def test_it_is_not_rescued_twice(dirs, sub, look):
    swap.swap_in(**both(dirs, sub))
    os.makedirs(os.path.join(dirs["private"], SPARE, sub))

    with pytest.raises(exception.OvzError, match="being rescued already"):
        swap.swap_in(**both(dirs, sub, SPARE))

    assert look()[look.named(CTID, "instance")] == "own"


@pytest.mark.parametrize("plant", ["directory", "link", "file"])
def test_an_image_with_something_at_the_place_is_refused(dirs, sub, look, plant):
    place = os.path.join(dirs["private"], HELPER, sub, "instance")
    if plant == "directory":
        os.mkdir(place)
    elif plant == "link":
        os.symlink("/etc", place)
    else:
        open(place, "w").close()

    with pytest.raises(exception.UnsafePath, match="of its own"):
        swap.swap_in(**both(dirs, sub))

    assert look()[look.named(CTID)] == "own"
    assert swap.swap_out(**both(dirs, sub, SPARE)) is False


@pytest.mark.parametrize("plant", ["nothing", "link"])
def test_a_tree_that_the_guest_moved_away_is_not_guessed(dirs, sub, plant):
    swap.swap_in(**both(dirs, sub))
    root = os.path.join(dirs["private"], CTID, sub)
    os.rename(f"{root}/instance", f"{root}/elsewhere")
    if plant == "link":
        os.symlink("elsewhere", f"{root}/instance")

    with pytest.raises(exception.UnsafePath, match="put it back there"):
        swap.swap_out(**both(dirs, sub, SPARE))

    assert os.path.exists(f"{root}/elsewhere/who")


class Killed(BaseException):
    """The process ends here."""


def kill_at(monkeypatch, number):
    """Let the process be killed before its number-th change of a directory."""
    left = [number]

    def counted(call):
        def wrapper(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return call(*args, **kwargs)

        return wrapper

    for name in ("rename", "mkdir", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("number", range(1, 12))
@pytest.mark.parametrize("way", ["in", "out"])
def test_wherever_it_is_killed_it_can_be_settled(
    dirs, sub, look, monkeypatch, number, way
):
    if way == "out":
        swap.swap_in(**both(dirs, sub))
    with monkeypatch.context() as patch:
        kill_at(patch, number)
        try:
            if way == "in":
                swap.swap_in(**both(dirs, sub))
            else:
                swap.swap_out(**both(dirs, sub, SPARE))
        except Killed:
            pass

    # Whoever comes next may not choose the same name for the tree that goes.
    swap.swap_out(**both(dirs, sub, "104"))

    found = look()
    assert found.pop(look.named(CTID)) == "own"
    # The helper's own removal takes away what was not swapped.
    assert set(found) <= {look.named(HELPER)}
    assert [name for name in os.listdir(dirs["conf"]) if name.endswith(".rescue")] == []


@pytest.mark.parametrize("number", range(1, 12))
@pytest.mark.parametrize("way", ["in", "out"])
def test_wherever_it_is_killed_it_is_rescued_or_is_not(
    dirs, sub, look, monkeypatch, number, way
):
    if way == "out":
        swap.swap_in(**both(dirs, sub))
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        kill_at(patch, number)
        if way == "in":
            swap.swap_in(**both(dirs, sub))
        else:
            swap.swap_out(**both(dirs, sub, SPARE))
    place = {"dirs": dirs, "ctid": CTID, "sub": sub}

    for _ in range(2):
        swap.settle_swap(**place)

    found = look()
    rescued = swap.state(**place) is not None
    assert found.pop(look.named(CTID)) == ("fresh" if rescued else "own")
    if rescued:
        assert found.pop(look.named(CTID, "instance")) == "own"
    assert set(found) <= {look.named(HELPER)}


def test_one_that_is_rescued_stays_so(dirs, sub, look):
    place = {"dirs": dirs, "ctid": CTID, "sub": sub}
    assert swap.settle_swap(**place) is False
    swap.swap_in(**both(dirs, sub))
    before = look()

    assert swap.settle_swap(**place) is False

    assert look() == before
    assert swap.state(**place) == {"tree": HELPER, "whole": True}


def test_trees_that_were_restored_are_told_and_left_alone(dirs, sub, look):
    place = {"dirs": dirs, "ctid": CTID, "sub": sub}
    swap.swap_in(**both(dirs, sub))
    # As a backup does, which gives everything another inode.
    area = os.path.join(dirs["private"], CTID)
    shutil.copytree(area, f"{area}.copy", symlinks=True)
    os.rename(area, f"{area}.gone")
    os.rename(f"{area}.copy", area)
    before = look()

    with pytest.raises(exception.OvzError, match="another tree than"):
        swap.settle_swap(**place)

    assert look() == before


def test_a_container_that_got_the_number_meanwhile_is_not_touched(dirs, sub, look):
    swap.swap_in(**both(dirs, sub))
    os.makedirs(os.path.join(dirs["private"], HELPER, sub), exist_ok=True)
    with open(os.path.join(dirs["private"], HELPER, sub, "who"), "w") as file:
        file.write("another's")

    swap.swap_out(**both(dirs, sub, SPARE))

    assert look() == {look.named(CTID): "own", look.named(HELPER): "another's"}


@pytest.mark.parametrize("text", ["", "{}", '{"tree": "../etc"}', "[1]"])
def test_a_note_that_cannot_be_read_stops_it(dirs, sub, look, text):
    with open(os.path.join(dirs["conf"], f"{CTID}.rescue"), "w") as file:
        file.write(text)

    with pytest.raises(exception.OvzError):
        swap.swap_out(**both(dirs, sub, SPARE))

    assert look()[look.named(CTID)] == "own"
