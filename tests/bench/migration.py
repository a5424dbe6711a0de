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

"""``python -m tests.bench.migration [--runs N]``: how long a cold migration is down.

A container's tree of 1 GiB goes to another simulated node, by an SSH server of its own
on loopback. Then, in each round, 10 MiB of it change, and two are timed by turns:

* what a server that moves waits for: the pass after it has stopped, and the proof that
  both trees are the same;
* a bare rsync of the same changes, by the same ssh, to a copy of its own.

It prints the medians and their ratio, and fails when that is above 1.2.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ovznovadriver.openvz import privsep, transfer
from tests import ssh, support

FILES = 4096
FILE_SIZE = 256 << 10
CHANGED = 40
#: What the proof and the driver's own way may cost.
LIMIT = 1.2


class Scene:
    """A tree, its copy by the driver, and its copy by rsync alone."""

    def __init__(self, directory: Path, server: ssh.Sshd) -> None:
        here, there = (
            support.simulated(directory / name, "9") for name in ("here", "there")
        )
        node = support.open_node(here)
        container = support.create(node, support.add_image(here))
        self.ctid = container.ovz_id
        self.tree = here.private_dir / self.ctid / node.family.tree_dir
        for number in range(FILES):
            path = self.tree / f"usr/{number % 64}/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(FILE_SIZE))
        self.transfer = transfer.Transfer(node, server.peer_of(there))
        self._bare = self._bare_command(directory / "bare", server)
        self._round = 0

    def _bare_command(self, target: Path, server: ssh.Sshd) -> list[str]:
        options = ["-F", "none", "-p", str(server.port), "-i", str(server.let_in())]
        options += ["-o", f"UserKnownHostsFile={server.known_hosts}"]
        user = pwd.getpwuid(os.geteuid()).pw_name
        shell = shlex.join(["ssh", *options, "-l", user])
        rsync = shutil.which("rsync") or ""
        copy = ["-aHAXS", "--numeric-ids", "--delete", "--modify-window=-1"]
        return [rsync, *copy, "-e", shell, f"{self.tree}/", f"{ssh.HOST}:{target}/"]

    def first(self) -> None:
        """What happens while the container still runs."""
        self.transfer.send(self.ctid, support.UUID)
        self.bare()

    def change(self) -> None:
        """Change 10 MiB; both copies get the same."""
        self._round += 1
        for number in range(CHANGED):
            path = self.tree / f"usr/{number % 64}/{number + self._round * 64}"
            path.write_bytes(os.urandom(FILE_SIZE))

    def driver(self) -> float:
        """Seconds that a server waits for, from its stop on."""
        with self.transfer.connected(self.ctid, support.UUID) as finish:
            begun = time.perf_counter()
            finish()
        self.transfer.verify(self.ctid, support.UUID)
        return time.perf_counter() - begun

    def bare(self) -> float:
        """Seconds of rsync alone."""
        begun = time.perf_counter()
        subprocess.run(self._bare, check=True)
        return time.perf_counter() - begun


def measure(runs: int) -> tuple[float, float]:
    """Medians of the seconds by the driver, and by rsync alone."""
    taken: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="ovz-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with ssh.serving(directory / "ssh") as server:
            scene = Scene(directory, server)
            scene.first()
            for number in range(runs):
                scene.change()
                # Who is first has to read what has just been written.
                if number % 2:
                    ours, bare = scene.driver(), scene.bare()
                else:
                    bare, ours = scene.bare(), scene.driver()
                taken.append((ours, bare))
    medians = [statistics.median(times) for times in zip(*taken, strict=True)]
    return medians[0], medians[1]


def main() -> int:
    """Measure, and print; the exit code is 1 when it takes too long."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.migration")
    parser.add_argument("--runs", type=int, default=7, help="rounds (default: 7)")
    runs = parser.parse_args().runs
    reason = ssh.reason_not_to()
    if reason:
        print(f"This cannot be measured here: {reason}.", file=sys.stderr)
        return 1
    if os.geteuid() != 0:
        privsep.context.set_client_mode(False)
    ours, bare = measure(runs)
    print(f"{'':<20} {'driver ms':>9} {'bare ms':>9} {'ratio':>6}")
    ratio = ours / bare
    print(
        f"{'10 MiB of 1 GiB':<20} {ours * 1000:>9.0f} {bare * 1000:>9.0f} {ratio:>6.2f}"
    )
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
