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

"""Every verb of the privileged side on a full disk: an error, and no remains."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import announce
from tests.unit.openvz.processes import open_descriptors
from tests.unit.openvz.verbs import USES, Node

_TEMPORARY = re.compile(r".*\.ovz-[0-9a-f]{16}")

#: Those that write nothing, or only names, which a full disk has room for.
WITHOUT_CONTENT = {
    *("read_file", "inspect_tree", "tree_size", "remove_container", "remove_dump"),
    *("list_artifacts", "check_dirs", "ensure_root_dir", "drop_conf", "survey"),
    *("adopt_incoming", "drop_incoming", "list_incoming", "find_proof"),
    *("remove_proof", "plant_proof", "announce", "swap_out", "settle_swap"),
    *("restore_attributes", "remove_temporary", "pack_contents", "end_first_pass"),
    *("take_tree", "return_tree", "measure_first_pass"),
    "swap_out after an interruption",
}
#: Those that leave it to programs.
BY_TOOLS = {"send_tree", "apply_host_ends", "check_host_ends", "drop_pairs"}


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Not a byte more goes into any file of this process, nor of those it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("verb", [verb for verb in USES if verb not in BY_TOOLS])
def test_what_cannot_be_written_is_told_and_leaves_nothing(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, use = Node(tmp_path / "node", "fs"), USES[verb]
    monkeypatch.setattr(announce, "NAMESPACES", node.dir("netns"))
    use.prepare(node)
    before, descriptors = node.state(), open_descriptors()

    said = []
    with no_room():
        try:
            use.call(node)
        except exception.OvzError as error:
            said.append(str(error))
    for pipe in node.pipes:
        pipe.end()

    assert node.state() == before
    assert open_descriptors() <= descriptors
    assert [p for p in node.top.rglob("*") if _TEMPORARY.fullmatch(p.name)] == []
    if verb not in WITHOUT_CONTENT:
        told = [*said, *map(str, node.answers)]
        assert any("File too large" in text for text in told), told
