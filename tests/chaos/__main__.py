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

"""``python -m tests.chaos``: kill the service at every step of every operation.

Exit code 0 when everything holds, 1 when something does not, 2 when it cannot be tried.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tests import ssh
from tests.chaos import matrix, operations, report, soak, treatment

FAMILIES = ("4", "9")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Kill nova-compute before and after each command of each operation,"
        " start it again, and check that nothing is lost and nothing is left.",
    )
    parser.add_argument("--family", choices=FAMILIES, help="of vzctl; default: both")
    parser.add_argument(
        "--operation",
        action="append",
        choices=tuple(operations.OPERATIONS),
        help="one of them, and again for more; default: all",
    )
    parser.add_argument(
        "--point",
        action="append",
        type=matrix.Point.parse,
        help="like compute1:3-before, and again for more; default: all",
    )
    parser.add_argument(
        "--moment",
        action="append",
        choices=matrix.MOMENTS,
        help="when it is killed, and again for more; default: before and after",
    )
    parser.add_argument(
        "--ending",
        choices=("turns", "all", *treatment.ENDINGS),
        default="turns",
        help="what is done with the server afterwards; default: one or the other by"
        " turns, so that with both families a point has had all",
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="how many at once; default: 2"
    )
    parser.add_argument(
        "--soak",
        type=float,
        metavar="SECONDS",
        help="instead, do everything at random for so long",
    )
    parser.add_argument(
        "--seed", type=int, help="what --soak begins with; default: a new one"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep all logs and the nodes"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="say also which points hold"
    )
    return parser.parse_args(argv)


def endings(mode: str, family: str, point: matrix.Point) -> tuple[str, ...]:
    """How the server is treated that a point leaves."""
    names = tuple(treatment.ENDINGS)
    if mode == "all":
        return names
    if mode == "turns":
        turn = FAMILIES.index(family) + matrix.MOMENTS.index(point.when)
        return (names[turn % len(names)],)
    return (mode,)


def _try(
    stand: matrix.Stand, name: str, arguments: argparse.Namespace
) -> Iterator[matrix.Verdict]:
    try:
        moments = arguments.moment or ("before", "after")
        for point in arguments.point or stand.points(name, moments):
            for ending in endings(arguments.ending, stand.family, point):
                yield stand.strike(name, point, ending)
    except RuntimeError as error:
        yield matrix.Verdict(name, stand.family, "-", "-", "", (str(error),), 0.0)


# -- several at once ---------------------------------------------------------------


class Workers:
    """Processes that try one operation each; what they find comes by pipes."""

    def __init__(self, place: Path, jobs: int) -> None:
        self._free = [place / f"job{number}" for number in range(jobs)]
        self._selector = selectors.DefaultSelector()
        self._running: dict[int, int] = {}

    def run(
        self,
        units: Iterable[Any],
        work: Callable[[Path, Any], Iterator[matrix.Verdict]],
    ) -> Iterator[matrix.Verdict]:
        """What comes of each of the units."""
        waiting = list(units)
        try:
            while waiting or self._running:
                while waiting and self._free:
                    self._start(waiting.pop(0), work)
                for key, _ in self._selector.select():
                    yield from self._read(key)
        finally:
            for process in self._running:
                os.kill(process, signal.SIGTERM)
            for process in self._running:
                os.waitpid(process, 0)

    def _start(
        self, unit: Any, work: Callable[[Path, Any], Iterator[matrix.Verdict]]
    ) -> None:
        place = self._free.pop(0)
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            with contextlib.suppress(SystemExit), open(writing, "w") as pipe:
                for verdict in work(place, unit):
                    print(
                        json.dumps(dataclasses.asdict(verdict)), file=pipe, flush=True
                    )
            os._exit(0)
        os.close(writing)
        self._running[process] = reading
        pipe = os.fdopen(reading)
        self._selector.register(pipe, selectors.EVENT_READ, (process, place))

    def _read(self, key: selectors.SelectorKey) -> Iterator[matrix.Verdict]:
        line = key.fileobj.readline()  # type: ignore[union-attr]
        if line:
            found = json.loads(line)
            yield matrix.Verdict(**{**found, "problems": tuple(found["problems"])})
            return
        process, place = key.data
        self._selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr]
        os.waitpid(process, 0)
        del self._running[process]
        self._free.append(place)


def _units(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Family and operation of each unit; the long ones first."""
    families = [arguments.family] if arguments.family else FAMILIES
    names = arguments.operation or list(operations.OPERATIONS)
    found = [
        (family, name)
        for name in names
        for family in families
        if family in operations.OPERATIONS[name].families
    ]
    return sorted(found, key=lambda unit: -operations.OPERATIONS[unit[1]].hosts)


def _matrix(arguments: argparse.Namespace, place: Path) -> int:
    units = _units(arguments)
    reason = ssh.reason_not_to()
    if reason and any(operations.OPERATIONS[name].hosts > 1 for _, name in units):
        print(f"Servers cannot be moved here: {reason}.", file=sys.stderr)
        return 2
    started = time.monotonic()
    # It imports what the others need.
    matrix.Stand(place / "job0" / units[0][0], units[0][0]).ready("none", 1)

    def work(job: Path, unit: tuple[str, str]) -> Iterator[matrix.Verdict]:
        family, name = unit
        return _try(matrix.Stand(job / family, family), name, arguments)

    found = []
    for verdict in Workers(place, arguments.jobs).run(units, work):
        found.append(verdict)
        if verdict.problems:
            print(report.failure(verdict), flush=True)
        elif arguments.verbose:
            print(report.success(verdict), flush=True)
    print(report.table(found))
    seconds = time.monotonic() - started
    print(
        f"{len(found)} times killed in {seconds:.0f} s,"
        f" {sum(v.seconds for v in found) / max(1, len(found)):.1f} s each"
    )
    return int(any(verdict.problems for verdict in found))


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def main(argv: list[str] | None = None) -> int:
    """The command; its exit code."""
    arguments = _arguments(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    # What is imported says something; the services have logs of their own.
    logging.getLogger().handlers = [logging.NullHandler()]
    place = Path(tempfile.mkdtemp(prefix="ovz-chaos-"))
    try:
        if arguments.soak:
            return soak.main(place, arguments)
        return _matrix(arguments, place)
    finally:
        if arguments.keep:
            print(f"Everything is in {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
