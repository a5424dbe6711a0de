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

from __future__ import annotations

from typing import Any

import pytest

from tests.coverage_floor import missed_floors


def _report(lines: int, branches: int, module: float) -> dict[str, Any]:
    return {
        "totals": {
            "covered_lines": lines,
            "num_statements": 1000,
            "covered_branches": branches,
            "num_branches": 1000,
        },
        "files": {"a.py": {"summary": {"percent_covered": module}}},
    }


def test_exactly_at_the_floors_is_enough() -> None:
    assert missed_floors(_report(900, 900, 80.0)) == []


@pytest.mark.parametrize(
    ("lines", "branches", "module", "word"),
    [
        (899, 1000, 100.0, "lines"),
        (1000, 899, 100.0, "branches"),
        (1000, 1000, 79.9, "a.py"),
    ],
)
def test_each_floor_is_checked(
    lines: int, branches: int, module: float, word: str
) -> None:
    (missed,) = missed_floors(_report(lines, branches, module))
    assert word in missed
