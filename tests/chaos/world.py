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

"""What outlives a process: one directory, that can be put aside and brought back."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any


def _renumber(note: Path, source: Path, target: Path) -> None:
    """Have a note of a rescue name the inodes of the copy, as it does those of trees.

    :param note: in the copy
    """
    numbers = {
        path.lstat().st_ino: (target / path.relative_to(source)).lstat().st_ino
        for path in source.glob("*/vz/private/**/")
    }
    found = json.loads(note.read_text())
    for key in ("inode", "own"):
        found[key] = numbers.get(found[key], found[key])
    note.write_text(json.dumps(found))


class World:
    """The directory of a cloud, always at the same path: nodes know theirs.

    :param place: where it lies, and what was put aside of it
    """

    def __init__(self, place: Path) -> None:
        self.path = place / "world"
        self._saved = place / "saved"
        self._saved.mkdir(parents=True, exist_ok=True)

    # -- put aside, and brought back --------------------------------------------

    def clear(self) -> None:
        """Begin with nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        for name in ("databases", "tmp"):
            (self.path / name).mkdir(parents=True)

    def has(self, name: str) -> bool:
        """Whether a state was put aside."""
        return (self._saved / name).is_dir()

    def save(self, name: str) -> None:
        """Put the present state aside."""
        shutil.rmtree(self._saved / name, ignore_errors=True)
        self._copy(self.path, self._saved / name)

    def restore(self, name: str) -> None:
        """Bring a state back."""
        shutil.rmtree(self.path)
        self._copy(self._saved / name, self.path)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        # Owners, devices, holes: all that Python's shutil forgets.
        argv = ["cp", "--archive", "--sparse=always", str(source), str(target)]
        subprocess.run(argv, check=True)
        for note in target.glob("*/etc/vz/conf/*.rescue"):
            _renumber(note, source, target)

    # -- what is in it ----------------------------------------------------------

    @property
    def is_new(self) -> bool:
        """Whether no cloud was here yet."""
        return not self._notes.exists()

    @property
    def databases(self) -> Path:
        """Where SQLite's files lie."""
        return self.path / "databases"

    @property
    def temporary(self) -> Path:
        """Where the service has its temporary files."""
        return self.path / "tmp"

    @property
    def _notes(self) -> Path:
        return self.path / "notes.json"

    def notes(self) -> dict[str, Any]:
        """What the harness has noted of it."""
        if self.is_new:
            return {}
        found: dict[str, Any] = json.loads(self._notes.read_text())
        return found

    def note(self, **changes: Any) -> None:
        """Note something more."""
        self._notes.write_text(json.dumps({**self.notes(), **changes}, indent=1))
