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

"""What outlives a process is put aside and brought back as it was."""

from __future__ import annotations

import json
from pathlib import Path

from tests.chaos.world import World


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.clear()
    assert world.is_new
    world.note(first=1)
    (world.path / "link").symlink_to("nowhere")
    world.save("state")
    world.note(second=2)
    (world.path / "link").unlink()

    world.restore("state")

    assert world.has("state")
    assert not world.has("another")
    assert world.notes() == {"first": 1}
    assert (world.path / "link").readlink() == Path("nowhere")


def test_a_note_of_a_rescue_names_the_inodes_of_the_copy(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.clear()
    trees = [world.path / "compute1/vz/private" / name for name in ("101", "102")]
    note = world.path / "compute1/etc/vz/conf/101.rescue"
    for path in (*trees, note.parent):
        path.mkdir(parents=True)
    first, second = (path.stat().st_ino for path in trees)
    note.write_text(json.dumps({"tree": "102", "inode": second, "own": first}))
    world.save("state")

    world.restore("state")

    first, second = (path.stat().st_ino for path in trees)
    expected = {"tree": "102", "inode": second, "own": first}
    assert json.loads(note.read_text()) == expected
