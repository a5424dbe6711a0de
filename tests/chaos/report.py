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

"""The table at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.chaos.matrix import Verdict

_HEAD = ("operation", "family", "commands", "points", "failed", "seconds")


def table(verdicts: Iterable[Verdict]) -> str:
    """How many points each operation has, and how many of them are violated."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.operation, verdict.family), []).append(verdict)
    rows = [
        _row(operation, family, group) for (operation, family), group in groups.items()
    ]
    everything = [verdict for group in groups.values() for verdict in group]
    total = _row("all", "", everything)
    total[2] = str(sum(int(row[2]) for row in rows))
    total[3] = str(sum(int(row[3]) for row in rows))
    total[4] = str(sum(int(row[4]) for row in rows))
    return _aligned([list(_HEAD), *rows, total])


def _row(operation: str, family: str, group: Sequence[Verdict]) -> list[str]:
    points = {verdict.point for verdict in group}
    commands = {point.rpartition("-")[0] for point in points}
    failed = {verdict.point for verdict in group if verdict.problems}
    seconds = sum(verdict.seconds for verdict in group)
    numbers = (len(commands), len(points), len(failed))
    return [operation, family, *map(str, numbers), f"{seconds:.0f}"]


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def success(verdict: Verdict) -> str:
    """That a point holds."""
    return (
        f"{verdict.operation}, family {verdict.family}, {verdict.point}"
        f" ({verdict.command[:40]}), then {verdict.ending}: {verdict.seconds:.1f} s"
    )


def failure(verdict: Verdict) -> str:
    """What is wrong at a point, and how to see it again."""
    return "\n".join(
        [
            f"{verdict.operation}, family {verdict.family}, killed at {verdict.point}"
            f" ({verdict.command[:100] or '?'}), then {verdict.ending}:",
            *(f"  {problem}" for problem in verdict.problems),
            f"  again: python -m tests.chaos --family {verdict.family} --operation"
            f" {verdict.operation} --point {verdict.point} --ending {verdict.ending}"
            " --keep",
        ]
    )
