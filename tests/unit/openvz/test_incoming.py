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

"""Incoming trees: held, adopted and dropped, wherever that is interrupted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import incoming, tree

KEY = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"
CTID = "101"


@pytest.fixture(params=["", "fs"])
def sub(request: pytest.FixtureRequest) -> str:
    """Where a root tree is in a private area."""
    return str(request.param)


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(incoming, "LOCK_WAIT", 0.0)
    private = tmp_path / "private"
    private.mkdir()
    return private


@pytest.fixture
def dirs(private: Path) -> dict[str, str]:
    return {"private": str(private)}


def arrive(private: Path, text: str = "came") -> Path:
    """Something has come."""
    with incoming.held(str(private), KEY):
        holder = private / f".incoming-{KEY}"
        (holder / "tree" / "who").write_text(text)
        return holder


def contain(private: Path, sub: str) -> Path:
    root = private / CTID / sub
    root.mkdir(parents=True)
    (root / "who").write_text("was there")
    return root


def test_what_comes_lies_where_only_its_owner_can_enter(private: Path) -> None:
    holder = arrive(private)
    assert holder.stat().st_mode & 0o777 == 0o700
    holder.chmod(0o755)
    assert arrive(private).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "key", ["", "..", "a/b", KEY.upper(), f"{KEY}/..", f"{KEY}\n", None, 5, "*"]
)
def test_a_key_is_a_uuid_and_nothing_else(
    private: Path, dirs: dict[str, str], key: str
) -> None:
    for work in (
        lambda: incoming.held(str(private), key).__enter__(),
        lambda: incoming.adopt_incoming(dirs=dirs, ctid=CTID, sub="", key=key),
        lambda: incoming.drop_incoming(dirs=dirs, key=key),
    ):
        with pytest.raises(exception.CommandRefused, match="not the UUID"):
            work()
    assert list(private.iterdir()) == []


def test_a_planted_link_is_not_followed(private: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (private / f".incoming-{KEY}").symlink_to(tmp_path / "outside")
    with pytest.raises(NotADirectoryError), incoming.held(str(private), KEY):
        pass
    assert list((tmp_path / "outside").iterdir()) == []


def test_two_do_not_work_on_one_tree(private: Path, dirs: dict[str, str]) -> None:
    with incoming.held(str(private), KEY):
        for work in (
            lambda: incoming.held(str(private), KEY).__enter__(),
            lambda: incoming.adopt_incoming(dirs=dirs, ctid=CTID, sub="", key=KEY),
            lambda: incoming.drop_incoming(dirs=dirs, key=KEY),
        ):
            with pytest.raises(exception.TransferError, match="in use"):
                work()
    incoming.drop_incoming(dirs=dirs, key=KEY)


def test_a_tree_replaces_that_of_a_container(
    private: Path, dirs: dict[str, str], sub: str
) -> None:
    root = contain(private, sub)
    arrive(private)
    incoming.adopt_incoming(dirs=dirs, ctid=CTID, sub=sub, key=KEY)
    assert (root / "who").read_text() == "came"
    assert os.listdir(private) == [CTID]


def test_a_container_without_a_tree_gets_one(
    private: Path, dirs: dict[str, str], sub: str
) -> None:
    arrive(private)
    incoming.adopt_incoming(dirs=dirs, ctid=CTID, sub=sub, key=KEY)
    assert (private / CTID / sub / "who").read_text() == "came"
    assert os.listdir(private) == [CTID]


@pytest.mark.parametrize("call", ["mkdir", "rename", "unlink", "rmdir", "listdir"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_interrupted_adoption_is_brought_to_its_end(
    private: Path,
    dirs: dict[str, str],
    sub: str,
    call: str,
    nth: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = contain(private, sub)
    arrive(private)
    calls = []
    real = getattr(os, call)

    def breaks(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, breaks)
        try:
            incoming.adopt_incoming(dirs=dirs, ctid=CTID, sub=sub, key=KEY)
        except KeyboardInterrupt:
            # It is never lost: either tree can be had, at any moment.
            assert [p.read_text() for p in private.rglob("who")].count("came") == 1
            incoming.adopt_incoming(dirs=dirs, ctid=CTID, sub=sub, key=KEY)
    assert (root / "who").read_text() == "came"
    assert os.listdir(private) == [CTID]


def test_nothing_is_adopted_where_nothing_has_come(
    private: Path, dirs: dict[str, str], sub: str
) -> None:
    root = contain(private, sub)
    with pytest.raises(exception.TransferError, match="nothing has come"):
        incoming.adopt_incoming(dirs=dirs, ctid=CTID, sub=sub, key=KEY)
    assert (root / "who").read_text() == "was there"


def test_a_directory_without_a_tree_is_not_adopted(
    private: Path, dirs: dict[str, str], sub: str
) -> None:
    root = contain(private, sub)
    (private / f".incoming-{KEY}").mkdir()
    with pytest.raises(exception.TransferError, match="has no tree"):
        incoming.adopt_incoming(dirs=dirs, ctid=CTID, sub=sub, key=KEY)
    assert (root / "who").read_text() == "was there"


@pytest.mark.parametrize(("ctid", "sub"), [("1", ""), ("../x", ""), (CTID, "etc")])
def test_a_tree_goes_nowhere_else(
    private: Path, dirs: dict[str, str], ctid: str, sub: str
) -> None:
    arrive(private)
    with pytest.raises(exception.UnsafePath):
        incoming.adopt_incoming(dirs=dirs, ctid=ctid, sub=sub, key=KEY)


def test_what_is_half_removed_is_not_taken_for_adopted(
    private: Path, dirs: dict[str, str], sub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = contain(private, sub)
    arrive(private)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", raises_interrupt)
        with pytest.raises(KeyboardInterrupt):
            incoming.drop_incoming(dirs=dirs, key=KEY)
    with pytest.raises(exception.TransferError, match="has no tree"):
        incoming.adopt_incoming(dirs=dirs, ctid=CTID, sub=sub, key=KEY)
    assert (root / "who").read_text() == "was there"


def raises_interrupt(*_args: object, **_kwargs: object) -> None:
    raise KeyboardInterrupt


def test_a_mark_that_was_left_does_not_stand_for_what_comes_later(
    private: Path, dirs: dict[str, str]
) -> None:
    (private / f".incoming-{KEY}.adopted").touch()
    arrive(private)
    assert not (private / f".incoming-{KEY}.adopted").exists()
    (private / f".incoming-{KEY}.adopted").touch()
    incoming.drop_incoming(dirs=dirs, key=KEY)
    assert list(private.iterdir()) == []


def test_dropping_is_done_once_or_twice_and_leaves_others(
    private: Path, dirs: dict[str, str]
) -> None:
    contain(private, "")
    arrive(private)
    (private / ".incoming-other").mkdir()
    assert incoming.list_incoming(dirs=dirs) == [KEY]
    incoming.drop_incoming(dirs=dirs, key=KEY)
    incoming.drop_incoming(dirs=dirs, key=KEY)
    assert incoming.list_incoming(dirs=dirs) == []
    assert sorted(os.listdir(private)) == [".incoming-other", CTID]


def test_what_comes_is_listed_with_its_root(private: Path) -> None:
    arrive(private)
    with incoming.held(str(private), KEY) as (_parent, holder):
        assert incoming.list_received(holder).entries == 2


def test_a_size_is_that_on_the_disk_and_that_of_what_is_sent(
    private: Path, sub: str
) -> None:
    root = contain(private, sub)
    with open(root / "sparse", "wb") as file:
        file.truncate(1 << 30)
    (root / "full").write_bytes(os.urandom(1 << 20))
    os.link(root / "full", root / "linked")
    (root / "link").symlink_to("full")
    size_kb, content = incoming.tree_size(base=str(private), ctid=CTID, sub=sub)
    assert 1024 <= size_kb < 2048
    assert content == (1 << 30) + (1 << 20) + len("was there")


def test_a_proof_is_seen_in_the_same_place_only(
    dirs: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    name = incoming.plant_proof(dirs=dirs)
    assert incoming.find_proof(dirs=dirs, name=name)
    others = {"private": str(tmp_path / "elsewhere")}
    assert not incoming.find_proof(dirs=others, name=name)
    incoming.remove_proof(dirs=dirs, name=name)
    incoming.remove_proof(dirs=dirs, name=name)
    assert not incoming.find_proof(dirs=dirs, name=name)


def test_proofs_that_were_left_are_removed(private: Path, dirs: dict[str, str]) -> None:
    old, young = incoming.plant_proof(dirs=dirs), incoming.plant_proof(dirs=dirs)
    os.utime(private / old, (0, time.time() - 7200))
    third = incoming.plant_proof(dirs=dirs)
    assert sorted(os.listdir(private)) == sorted([young, third])


def test_a_proof_says_who_made_it(private: Path, dirs: dict[str, str]) -> None:
    made = {
        incoming.plant_proof(dirs=dirs, host=host): host
        for host in ("host1", "h\u00f4te", "")
    }

    assert incoming.proofs(str(private)) == made


@pytest.mark.parametrize("host", ["a\nb", "x" * 256])
def test_a_proof_says_nothing_else(dirs: dict[str, str], host: str) -> None:
    with pytest.raises(exception.InvalidValue):
        incoming.plant_proof(dirs=dirs, host=host)


@pytest.mark.parametrize("name", ["", "101", "../x", ".ovz-proof-", ".incoming-x"])
def test_a_proof_has_no_other_name(
    private: Path, dirs: dict[str, str], name: str
) -> None:
    contain(private, "")
    for verb in (incoming.find_proof, incoming.remove_proof):
        with pytest.raises(exception.CommandRefused):
            verb(dirs=dirs, name=name)
    assert (private / CTID).is_dir()


def test_a_tree_of_another_host_is_taken_and_given_back(
    private: Path, dirs: dict[str, str]
) -> None:
    (private / "205" / "sbin").mkdir(parents=True)
    theirs = contain(private, "")
    number = theirs.stat().st_ino

    for _ in range(2):
        incoming.take_tree(dirs=dirs, ctid="205", other=CTID)
        assert (private / "205").stat().st_ino == number
        assert os.listdir(private) == ["205"]
        for _ in range(2):
            incoming.return_tree(dirs=dirs, ctid="205", other=CTID)
        assert theirs.stat().st_ino == number
        assert os.listdir(private) == [CTID]


def test_nothing_is_lost_for_a_tree_that_is_not_there(
    private: Path, dirs: dict[str, str]
) -> None:
    mine = contain(private, "")
    with pytest.raises(exception.TransferError, match="205 has no files"):
        incoming.take_tree(dirs=dirs, ctid=CTID, other="205")
    assert (mine / "who").read_text() == "was there"

    (private / "205").mkdir()
    incoming.return_tree(dirs=dirs, ctid=CTID, other="205")
    assert (mine / "who").read_text() == "was there"


@pytest.mark.parametrize("verb", [incoming.take_tree, incoming.return_tree])
def test_a_private_area_that_is_a_link_is_not_taken(
    private: Path, dirs: dict[str, str], tmp_path: Path, verb: Callable[..., None]
) -> None:
    (tmp_path / "outside").mkdir()
    for name in ("205", CTID):
        (private / name).symlink_to(tmp_path / "outside")
    with pytest.raises(exception.UnsafePath):
        verb(dirs=dirs, ctid="205", other=CTID)
    assert sorted(os.listdir(private)) == sorted(["205", CTID])


def test_every_verb_is_listed_by_its_name() -> None:
    assert all(incoming.VERBS[name].__name__ == name for name in incoming.VERBS)
    assert tree.is_ctid(CTID)
