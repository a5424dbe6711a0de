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

"""Every verb of the privileged side, led through what a tenant may have planted.

The verbs are those of :data:`privileged.VERBS`: a new one is covered by
:data:`verbs.USES` or :data:`verbs.NO_TREE`, or the suite fails. Each path that a verb
uses is given there, and each plant is put in the place of each of its components,
beneath the directories that are the operator's own. Whatever a verb makes of that,
answer or refusal: what is outside stays as it is and shows in no answer and in no
file, no descriptor stays open, no link leads on from the node's directories, and it
takes no time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import announce, permit, privileged
from tests.unit.openvz import hostile
from tests.unit.openvz.processes import open_descriptors
from tests.unit.openvz.verbs import (
    AT_TOP,
    CTID,
    NO_TREE,
    USES,
    VZCTL4_ONLY,
    Node,
    Use,
)


def test_each_verb_is_here() -> None:
    assert {verb.split(" ")[0] for verb in USES} | set(NO_TREE) == set(privileged.VERBS)
    assert not set(USES) & set(NO_TREE)


# -- the suite ----------------------------------------------------------------------


def _cases() -> list[Any]:
    """Each verb; where a root tree's place matters, with both."""
    cases = []
    for verb, use in USES.items():
        for sub in ("", "fs"):
            marks = [] if sub or verb in AT_TOP else [pytest.mark.slow]
            if verb in VZCTL4_ONLY and sub:
                continue
            if sub or verb in VZCTL4_ONLY or use.components("") != use.components("fs"):
                name = f"{verb}-{sub or 'top'}"
                cases.append(pytest.param(verb, sub, id=name, marks=marks))
    return cases


def _try(use: Use, node: Node, plant: str, place: str) -> list[str]:
    """Call a verb; what it must not have done."""
    before, links = node.state(), node.links()
    descriptors = open_descriptors()
    with contextlib.suppress(exception.OvzError):
        use.call(node)
    seen = [*node.answers, *(pipe.end() for pipe in node.pipes)]
    wrong = []
    if not open_descriptors() <= descriptors:
        wrong.append("descriptors stay open")
    # What has a name inside is inside.
    shared = plant == "hard_link"
    may = shared and any(place.startswith(path) for path in use.hard_links)
    if not may and node.state() != before:
        wrong.append("what is outside is not what it was")
    if not shared and any(hostile.SECRET in data for data in (*seen, *node.written())):
        wrong.append("what is outside has come in")
    if not node.links() <= links:
        wrong.append(f"there are new links: {node.links() - links}")
    return wrong


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where that can be: a disk takes four times as long."""
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
            os.setxattr(made, "user.x", b"")
        except OSError:
            made = str(tmp_path)
        yield Path(made)


@pytest.mark.parametrize(("verb", "sub"), _cases())
def test_nothing_planted_leads_out(
    verb: str, sub: str, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    use = USES[verb]
    wrong = {}
    first = zlib.crc32(verb.encode())
    cases = [
        (place, plant)
        for number, place in enumerate(use.components(sub))
        for plant in hostile.some_plants(first + number)
    ]
    for number, (place, plant) in enumerate(cases):
        node = Node(quick / str(number), sub)
        monkeypatch.setattr(announce, "NAMESPACES", node.dir("netns"))
        monkeypatch.setattr(permit, "TOOL_DIRS", (node.dir("bin"),))
        use.prepare(node)
        node.plant(plant, place)
        problems = _try(use, node, plant, place)
        if problems:
            wrong[place, plant] = problems
        shutil.rmtree(node.top)
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "verb", ["tree_size", "pack_tree", "pack_contents", "remove_container", "swap_out"]
)
def test_a_tree_of_very_many_files_is_walked(verb: str, quick: Path) -> None:
    use = USES[verb]
    node = Node(quick / "node", "fs")
    use.prepare(node)
    many = node.top / "private" / CTID / "fs" / "many"
    for number in range(200):
        (many / str(number)).mkdir(parents=True)
        (many / str(number) / "file").touch()
        for inner in range(1000):
            os.link(many / str(number) / "file", many / str(number) / str(inner))

    assert _try(use, node, "many_files", "") == []
