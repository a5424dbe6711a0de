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

"""``python -m tests.bench.snapshot [--tree DIRECTORY] [--runs N] [--level L]``.

What a snapshot costs, against the bare commands on the same tree in the same run, by
turns: ``tar | gzip`` of the same level. The container does not run, or runs and is
frozen for the second part; for that the seconds of the freeze are shown, which is all
that the privileged side does in it (the two vzctl commands around it come on top).

Without a tree a copy of /usr/share and /usr/lib/python3 is packed. It decides nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ovznovadriver.compute import snapshot
from ovznovadriver.openvz import pack

_DEFAULT = ("/usr/share", "/usr/lib/python3")
_TOP = 400 << 20
_TAR, _GZIP = shutil.which("tar") or "tar", shutil.which("gzip") or "gzip"


def _bare(tree: Path, level: int) -> int:
    """Bytes of the archive that tar and gzip make."""
    tar = subprocess.Popen(
        [_TAR, "--format=posix", "--xattrs", "-C", str(tree), "-cf", "-", "."],
        stdout=subprocess.PIPE,
    )
    gzip = subprocess.Popen(
        [_GZIP, f"-{level}"], stdin=tar.stdout, stdout=subprocess.PIPE
    )
    assert tar.stdout is not None
    assert gzip.stdout is not None
    tar.stdout.close()
    size = 0
    while data := gzip.stdout.read(1 << 20):
        size += len(data)
    if tar.wait() or gzip.wait():
        raise SystemExit("tar or gzip failed")
    return size


class _Run:
    """One snapshot, without Glance.

    :ivar frozen: seconds
    :ivar size: bytes of the image
    """

    def __init__(self, tree: Path, level: int, running: bool) -> None:
        self.frozen = 0.0
        self.size = 0
        with tempfile.TemporaryDirectory(prefix="ovz-bench-") as directory:
            place = Path(directory)
            (place / "spool").touch()
            stream = snapshot._Stream(place, level, lambda: None)
            ends = [os.open(place / n, os.O_WRONLY) for n in ("first", "second")]
            # In a process of its own, as the privileged side is.
            spawner = multiprocessing.get_context("fork")
            seconds = spawner.Value("d", 0.0)
            packing = spawner.Process(
                target=self._pack, args=(tree, place, ends, running, seconds)
            )
            packing.start()
            for end in ends:
                os.close(end)
            while data := stream.read():
                self.size += len(data)
            packing.join()
            stream.close()
            self.frozen = seconds.value

    @staticmethod
    def _pack(
        tree: Path, place: Path, ends: list[int], running: bool, seconds: Any
    ) -> None:
        how: dict[str, Any] = {
            "base": str(tree.parent), "ctid": tree.name, "sub": "",
            "owner": os.geteuid(), "uid": 0, "gid": 0,
            "limit": 1 << 60, "seconds": 3600.0,
        }  # fmt: skip
        try:
            if running:
                packed = pack.pack_contents(**how, pipe=str(place / "first"))
                os.close(ends.pop(0))
                start = time.perf_counter()
                pack.pack_tree(
                    **how,
                    pipe=str(place / "second"),
                    packed=packed,
                    spool=str(place / "spool"),
                    spool_limit=1 << 40,
                )
                seconds.value = time.perf_counter() - start
            else:
                pack.pack_tree(**how, pipe=str(place / "first"))
        finally:
            for end in ends:
                os.close(end)


#: Seconds by the clock, and of CPU time.
_Cost = tuple[float, float]


class _Watch:
    """Measures from now on."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> _Cost:
        times = os.times()
        # This process, and those that it has waited for.
        return time.perf_counter(), sum(times[:4])

    def cost(self) -> _Cost:
        now = self._now()
        return now[0] - self._start[0], now[1] - self._start[1]


def _median(costs: list[_Cost]) -> _Cost:
    walls, cpus = zip(*costs, strict=True)
    return statistics.median(walls), statistics.median(cpus)


def _make_tree(directory: Path) -> Path:
    tree = directory / "101"
    tree.mkdir()
    size = 0
    for source in _DEFAULT:
        for place, _, files in os.walk(source):
            target = tree / place.lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            for name in files:
                path = Path(place, name)
                if path.is_file() and not path.is_symlink() and size < _TOP:
                    shutil.copy2(path, target / name)
                    size += path.stat().st_size
    return tree


def _measure(tree: Path, runs: int, level: int) -> None:
    _bare(tree, level)  # so that everything is in memory, for all of them
    files = sum(len(f) + len(d) for _, d, f in os.walk(tree))
    size = sum(
        Path(place, name).lstat().st_size
        for place, _, names in os.walk(tree)
        for name in names
    )
    print(f"{files} files, {size >> 20} MiB, level {level}")
    bare: list[_Cost] = []
    ours: dict[bool, list[_Cost]] = {False: [], True: []}
    frozen = []
    for _ in range(runs):
        watch = _Watch()
        bare_size = _bare(tree, level)
        bare.append(watch.cost())
        for running, taken in ours.items():
            watch = _Watch()
            run = _Run(tree, level, running)
            taken.append(watch.cost())
            if running:
                frozen.append(run.frozen)
            print(f"  image {run.size / bare_size:.3f} of tar's", flush=True)
    bare_time, bare_cpu = _median(bare)
    mib = size >> 20
    print(f"tar | gzip   {bare_time:7.2f} s {mib / bare_time:7.1f} MiB/s")
    for running, taken in ours.items():
        wall, cpu = _median(taken)
        what = "running" if running else "not running"
        print(
            f"{what:<12} {wall:7.2f} s {mib / wall:7.1f} MiB/s; of the bare commands'"
            f" throughput: {bare_time / wall:.2f} by the clock,"
            f" {bare_cpu / cpu:.2f} for the same CPU time"
        )
    print(f"frozen for       {statistics.median(frozen):7.2f} s")


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.snapshot")
    parser.add_argument("--tree", type=Path, help="a directory named like a CTID")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: 3)")
    parser.add_argument("--level", type=int, default=1, help="of gzip (default: 1)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ovz-bench-") as directory:
        tree = asked.tree or _make_tree(Path(directory))
        time.sleep(0.1)
        _measure(tree.resolve(), asked.runs, asked.level)
    return 0


if __name__ == "__main__":
    sys.exit(main())
