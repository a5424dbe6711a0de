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

"""``python -m tests.coverage_floor``: fail when too little of the code is tested.

It reads the ``.coverage`` file in the current directory, prints coverage's own
report, and then each floor that was not reached.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import coverage

#: Percent of the lines, and of the branches, of the whole package.
TOTAL = 90.0
#: Percent of the lines and branches together, of each module.
MODULE = 80.0


def _percent(covered: int, all_of_them: int) -> float:
    return 100.0 * covered / all_of_them if all_of_them else 100.0


def missed_floors(report: dict[str, Any]) -> list[str]:
    """A sentence for each floor that a report (``coverage json``) is below."""
    totals = report["totals"]
    figures = {
        "lines": _percent(totals["covered_lines"], totals["num_statements"]),
        "branches": _percent(totals["covered_branches"], totals["num_branches"]),
    }
    missed = [
        f"{figure:.1f} % of all {kind} are tested: {TOTAL:g} % must be"
        for kind, figure in figures.items()
        if figure < TOTAL
    ]
    for name, module in sorted(report["files"].items()):
        percent = module["summary"]["percent_covered"]
        if percent < MODULE:
            missed.append(f"{percent:.1f} % of {name} is tested: {MODULE:g} % must be")
    return missed


def main() -> int:
    """Check the coverage measured last; the exit code is 1 when it is too low."""
    measured = coverage.Coverage()
    measured.load()
    measured.report()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "coverage.json")
        measured.json_report(outfile=str(path))
        missed = missed_floors(json.loads(path.read_text()))
    for sentence in missed:
        print(sentence, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
