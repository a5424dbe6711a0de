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


"""``python -m tests.races``: the exit code says whether all held that must hold."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.races import race


def main() -> int:
    """Run, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.races")
    parser.add_argument("--processes", type=int, default=50, help="(default: 50)")
    parser.add_argument("--creates", type=int, default=200, help="each (default: 200)")
    asked = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ovz-races-") as directory:
        lives, wrong = race.race(Path(directory), asked.processes, asked.creates)
    ctids = {life.ctid for life in lives}
    print(
        f"{len(lives)} containers by {asked.processes} processes on"
        f" {len(race.HOSTS)} hosts, {len(ctids)} CTIDs,"
        f" {time.monotonic() - begun:.0f} s"
    )
    for sentence in wrong:
        print(sentence)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
