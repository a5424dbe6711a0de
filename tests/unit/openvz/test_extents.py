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

"""Which parts of a sparse file are read."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import pytest
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import extents, pack
from tests.unit.openvz import hostile
from tests.unit.openvz.packing import how, members, untar
from tests.unit.openvz.pipes import Pipe

PAGE = 4096


@pytest.fixture
def node(tmp_path: Path) -> hostile.Node:
    return hostile.Node(tmp_path)


@pytest.mark.parametrize("count", [100, 1000])
def test_a_file_with_many_holes_has_a_short_map(
    node: hostile.Node, pipe: Pipe, tmp_path: Path, monkeypatch: Any, count: int
) -> None:
    monkeypatch.setattr(extents, "MAX_EXTENTS", 100)
    with (node.root / "holes").open("wb") as file:
        for number in range(count):
            file.seek(number * 16384)
            file.write(b"x" * 4096)
    pack.pack_tree(**how(node, pipe))
    archive = pipe.end()

    untar(archive, tmp_path / "x")

    assert (tmp_path / "x/holes").read_bytes() == (node.root / "holes").read_bytes()
    assert members(archive)["holes"].sparse is not None
    assert len(members(archive)["holes"].sparse) <= 101


def never() -> None:
    raise AssertionError("nobody looks at the clock for so few")


@pytest.fixture
def sparse(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Opens a file that has data in some of its pages."""
    with contextlib.ExitStack() as stack:

        def write(pages: Iterable[int], size: int) -> int:
            file = stack.enter_context((tmp_path / "sparse").open("w+b"))
            file.truncate(size)
            for page in pages:
                os.pwrite(file.fileno(), b"x" * PAGE, page * PAGE)
            return file.fileno()

        yield write


@pytest.mark.parametrize(
    ("pages", "size", "expected"),
    [
        ([], 0, ()),
        ([], 9 * PAGE, ()),
        ([0, 1], 2 * PAGE, ((0, 2 * PAGE),)),
        ([2], 9 * PAGE, ((2 * PAGE, PAGE),)),
        ([0, 4, 5, 8], 9 * PAGE, ((0, PAGE), (4 * PAGE, 2 * PAGE), (8 * PAGE, PAGE))),
        # It has grown meanwhile: what is read ends where it did.
        ([0, 1, 2], PAGE + 7, ((0, PAGE + 7),)),
        ([2], PAGE, ()),
    ],
)
def test_only_what_is_no_hole_is_read(
    sparse: Callable[..., int],
    pages: list[int],
    size: int,
    expected: extents.Extents,
) -> None:
    assert extents.find(sparse(pages, size), size, never) == expected


def test_where_the_file_system_cannot_say_all_is_data() -> None:
    with open("/proc/self/status", "rb") as file:
        assert extents.find(file.fileno(), 700, never) == ((0, 700),)


def test_the_largest_holes_stay_where_there_are_too_many(
    sparse: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extents, "MAX_EXTENTS", 3)
    pages = [0, 2, 12, 14, 34, 36]

    found = extents.find(sparse(pages, 40 * PAGE), 40 * PAGE, never)

    assert [(start // PAGE, size // PAGE) for start, size in found] == [
        *((0, 3), (12, 3), (34, 3))
    ]


def test_a_search_among_many_parts_ends_when_its_time_does(
    sparse: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extents, "MAX_EXTENTS", 3)

    def over() -> None:
        raise exception.OvzError("too long")

    descriptor = sparse(range(0, 100, 2), 100 * PAGE)
    with pytest.raises(exception.OvzError, match="too long"):
        extents.find(descriptor, 100 * PAGE, over)


Gaps = st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(1, 1 << 30)), min_size=1)


@hypothesis.given(Gaps, st.integers(1, 9))
def test_fewer_parts_have_all_the_data_in_order(
    gaps: list[tuple[int, int]], most: int
) -> None:
    parts, end = [], 0
    for hole, size in gaps:
        parts.append((end + hole, size))
        end += hole + size

    with mock.patch.object(extents, "MAX_EXTENTS", most):
        merged = extents._merged(parts)

    assert len(merged) == min(most, len(parts))
    assert all(a + size < b for (a, size), (b, _) in itertools.pairwise(merged))
    for start, size in parts:
        assert any(a <= start and start + size <= a + b for a, b in merged)
