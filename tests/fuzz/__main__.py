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

"""``python -m tests.fuzz``: try every border with inputs that nobody thought of.

Needs atheris (Google's fuzzer for Python, which finds inputs by what code they reach);
``tox -e fuzz`` installs it. Each target runs in a process of its own, from the inputs
in tests/fuzz/corpus, for its share of the executions; then a table says how many there
were, and what part of its modules' lines they reached. An input that breaks something
stays in the directory that is named, and the exit code is 1.

With ``--mutants`` faults are put into the parsers, one by one, and each must be found.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The driver is not to be imported before atheris is.
    from tests.fuzz.target import Target

CORPUS = Path(__file__).parent / "corpus"
MODULES = ("tools", "trees", "peers", "nova")
#: Seconds that one input may take.
INPUT_LIMIT = 10
#: Bytes of one input; larger ones are nothing else to the parsers.
INPUT_SIZE = 8192
#: Executions after which a fault that is not found counts as overlooked.
MUTANT_RUNS = 300_000

_EXECUTED = re.compile(r"stat::number_of_executed_units: (\d+)")


def all_targets() -> dict[str, Target]:
    """All targets, by name."""
    found: dict[str, Target] = {}
    for name in MODULES:
        found |= importlib.import_module(f"tests.fuzz.{name}").TARGETS
    return found


def _target(name: str) -> Target:
    """One target, without the modules of the others: they take long to import."""
    for module in MODULES:
        found: dict[str, Target] = importlib.import_module(
            f"tests.fuzz.{module}"
        ).TARGETS
        if name in found:
            return found[name]
    raise SystemExit(f"there is no target {name}")


# -- one target, in a process of its own --------------------------------------------


def _fuzz(name: str, fault: str | None, flags: Sequence[str]) -> int:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: use 'tox -e fuzz'", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["ovznovadriver"]):
        target = _target(name)
    if fault is not None:
        target.faults[fault]()
    atheris.Setup([sys.argv[0], *flags], target.run)
    atheris.Fuzz()
    return 0


def _replay(name: str, place: Path) -> int:
    """Run a target's inputs again, and print how much of its modules they reach."""
    import coverage

    measured = coverage.Coverage(data_file=None, source=["ovznovadriver"])
    measured.start()
    target = _target(name)
    for path in sorted(place.iterdir()):
        target.run(path.read_bytes())
    measured.stop()
    shares = []
    for module in target.modules:
        file = sys.modules[f"ovznovadriver.{module}"].__file__
        _, lines, _, missing, _ = measured.analysis2(file)
        shares.append(f"{module} {100 * (1 - len(missing) / len(lines)):.0f} %")
    print(", ".join(shares))
    return 0


# -- all of them --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run of a target ended.

    :ivar problem: what was found; empty for nothing
    """

    executions: int
    problem: str
    coverage: str = ""


def _run(name: str, flags: Sequence[str], fault: str | None, place: Path) -> Outcome:
    command = [sys.executable, "-m", "tests.fuzz", "--child", name]
    command += ["--fault", fault] if fault else []
    found = place / "found"
    found.mkdir(parents=True)
    given = [
        *flags,
        f"-timeout={INPUT_LIMIT}",
        f"-max_len={INPUT_SIZE}",
        "-print_final_stats=1",
        "-rss_limit_mb=3000",
        f"-artifact_prefix={place}/",
        str(found),
        str(CORPUS / name),
    ]
    done = subprocess.run(
        [*command, "--", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    executed = _EXECUTED.search(done.stdout)
    count = int(executed[1]) if executed else 0
    if done.returncode == 0:
        return Outcome(count, "")
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    marked = [n for n, line in enumerate(lines) if "Uncaught Python" in line]
    start = marked[0] + 1 if marked else max(0, len(lines) - 15)
    return Outcome(count, "\n".join(lines[start : start + 25]))


def _coverage(name: str, place: Path) -> str:
    replayed = place / "all"
    replayed.mkdir()
    for source in (place / "found", CORPUS / name):
        for path in source.iterdir():
            shutil.copy(path, replayed / path.name)
    command = [sys.executable, "-m", "tests.fuzz", "--replay", name, str(replayed)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip()[-200:]


def _fuzz_all(names: Sequence[str], asked: argparse.Namespace, top: Path) -> int:
    flags = [f"-runs={max(1, asked.executions // len(names))}"]
    if asked.seconds:
        flags.append(f"-max_total_time={asked.seconds}")
    failed, total = 0, 0
    for name in names:
        place = top / name
        begun = time.monotonic()
        outcome = _run(name, flags, None, place)
        total += outcome.executions
        seconds = time.monotonic() - begun
        if outcome.problem:
            failed += 1
            print(f"{name}: broken; the input is in {place}\n{outcome.problem}")
        else:
            reached = _coverage(name, place)
            print(f"{name:16} {outcome.executions:9} {seconds:5.0f} s  {reached}")
            shutil.rmtree(place)
        sys.stdout.flush()
    print(f"{len(names)} targets, {total} executions, {failed} broken")
    return 1 if failed else 0


def _try_faults(names: Sequence[str], top: Path) -> int:
    targets = all_targets()
    overlooked = count = 0
    for name in names:
        faults = targets[name].faults
        for number, fault in enumerate(faults):
            place = top / f"{name}-{number}"
            outcome = _run(name, [f"-runs={MUTANT_RUNS}"], fault, place)
            count += 1
            if not outcome.problem:
                overlooked += 1
            found = "found" if outcome.problem else "OVERLOOKED"
            print(f"{name:16} {fault:32} {found}", flush=True)
            shutil.rmtree(place)
    print(f"{count} faults, {overlooked} overlooked")
    return 1 if overlooked else 0


def main() -> int:
    """Fuzz; the exit code says whether all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--target", action="append", help="only this one; repeatable")
    parser.add_argument("--executions", type=int, default=1_200_000, help="of all")
    parser.add_argument("--seconds", type=int, help="at most, for each target")
    parser.add_argument("--mutants", action="store_true", help="put faults in")
    parser.add_argument("--list", action="store_true", help="print the targets")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--fault", help=argparse.SUPPRESS)
    parser.add_argument("--replay", help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return _fuzz(asked.child, asked.fault, asked.flags)
    if asked.replay:
        return _replay(asked.replay, Path(asked.flags[0]))
    names = asked.target or list(all_targets())
    if asked.list:
        print("\n".join(names))
        return 0
    top = Path(tempfile.mkdtemp(prefix="ovz-fuzz-"))
    failed = _try_faults(names, top) if asked.mutants else _fuzz_all(names, asked, top)
    if not failed:
        shutil.rmtree(top)
    return failed


if __name__ == "__main__":
    sys.exit(main())
