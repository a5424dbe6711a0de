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

"""The inputs that fuzzing begins with, some of which once broke something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import trees
from tests.fuzz.__main__ import CORPUS, all_targets

TARGETS = all_targets()


@pytest.fixture(autouse=True, scope="module")
def cleaned() -> Iterator[None]:
    yield
    trees.clean_up()


@pytest.mark.parametrize(
    "path",
    sorted(CORPUS.glob("*/*")),
    ids=lambda path: str(path.relative_to(CORPUS)),
)
def test_nothing_breaks(path: Path) -> None:
    TARGETS[path.parent.name].run(path.read_bytes())


def test_each_target_has_inputs_and_faults() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(target.faults for target in TARGETS.values())
