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

"""Where an archive goes: what is written to, how much, and for how long."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import pack, sink
from tests.unit.openvz import hostile
from tests.unit.openvz.packing import how, members, wait_for_clock
from tests.unit.openvz.pipes import Pipe
from tests.unit.openvz.processes import open_descriptors


@pytest.fixture
def node(tmp_path: Path) -> hostile.Node:
    return hostile.Node(tmp_path)


@pytest.mark.parametrize("what", ["file", "directory", "link", "null", "missing"])
def test_only_a_fifo_of_the_caller_is_written_to(
    node: hostile.Node, pipe: Pipe, tmp_path: Path, what: str
) -> None:
    place = tmp_path / "place"
    if what == "file":
        place.write_bytes(b"kept")
    elif what == "directory":
        place.mkdir()
    elif what == "link":
        place.symlink_to(pipe.path)
    elif what == "null":
        place = Path("/dev/null")

    with pytest.raises(exception.UnsafePath):
        pack.pack_tree(**{**how(node, pipe), "pipe": str(place)})
    with pytest.raises(exception.UnsafePath):
        pack.pack_tree(**{**how(node, pipe), "owner": os.geteuid() + 1})
    if what == "file":
        assert place.read_bytes() == b"kept"


@pytest.mark.parametrize("what", ["fifo", "link", "device"])
def test_only_a_plain_file_of_the_caller_is_the_spool(
    node: hostile.Node, pipe: Pipe, tmp_path: Path, what: str
) -> None:
    if what not in hostile.PLANTS and what != "link":
        pytest.skip("only root can make a device")
    plant = "link_to_file" if what == "link" else what
    hostile.PLANTS[plant](tmp_path / "spool", node.outside)
    before = node.outside_state()

    with pytest.raises(exception.UnsafePath):
        pack.pack_tree(
            **how(node, pipe), spool=str(tmp_path / "spool"), spool_limit=1000
        )

    assert node.outside_state() == before


def test_the_spool_takes_the_first_bytes_and_the_pipe_the_rest(
    node: hostile.Node, pipe: Pipe, tmp_path: Path
) -> None:
    (node.root / "file").write_bytes(os.urandom(3_000_000))
    spool = tmp_path / "spool"
    spool.touch()

    done = pack.pack_tree(**how(node, pipe), spool=str(spool), spool_limit=1_000_000)
    rest = pipe.end()

    assert done["spooled"] == len(spool.read_bytes()) == 1_000_000
    assert done["bytes"] == 1_000_000 + len(rest)
    content = members(spool.read_bytes() + rest)
    assert content["file"].size == 3_000_000


@pytest.mark.parametrize(
    ("bound", "message"),
    [({"limit": 100_000}, "more than 100000 bytes"), ({"seconds": 0}, "within 0 s")],
)
def test_an_archive_is_bounded_in_size_and_time(
    node: hostile.Node, pipe: Pipe, bound: dict[str, Any], message: str
) -> None:
    (node.root / "file").write_bytes(b"x" * 1_000_000)
    wait_for_clock()

    for verb in (pack.pack_contents, pack.pack_tree):
        with pytest.raises(exception.OvzError, match=message):
            verb(**how(node, pipe, **bound))


def test_a_reader_that_does_not_read_is_waited_for_in_vain(
    node: hostile.Node, tmp_path: Path
) -> None:
    (node.root / "file").write_bytes(b"x" * 3_000_000)
    pipe = Pipe(tmp_path / "slow")

    with pytest.raises(exception.OvzError, match=r"within 0\.2 s"):
        pack.pack_tree(**how(node, pipe, seconds=0.2))
    os.close(pipe.reader)


def test_a_reader_that_goes_ends_the_packing(
    node: hostile.Node, tmp_path: Path
) -> None:
    (node.root / "file").write_bytes(b"x" * 3_000_000)
    pipe = Pipe(tmp_path / "gone")
    threading.Timer(0.1, os.close, [pipe.reader]).start()

    for _ in range(2):
        with pytest.raises(exception.OvzError, match="nobody reads"):
            pack.pack_tree(**how(node, pipe))


def test_small_pieces_go_out_together(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")
    os.set_blocking(pipe.reader, False)
    with sink.Sink(str(pipe.path), None, 0, os.geteuid(), 100, 60) as target:
        target.write(b"header")
        target.content(memoryview(b"content"))
        with pytest.raises(BlockingIOError):
            os.read(pipe.reader, 100)
        assert target.size == 0

        target.flush()

        assert os.read(pipe.reader, 100) == b"headercontent"
        assert target.size == 13
    os.close(pipe.reader)


def test_a_spool_that_is_refused_leaves_nothing_open(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")
    before = open_descriptors()

    with pytest.raises(exception.UnsafePath, match="No such file"):
        sink.Sink(str(pipe.path), str(tmp_path / "x"), 9, os.geteuid(), 9, 60)

    assert open_descriptors() <= before
    os.close(pipe.reader)
