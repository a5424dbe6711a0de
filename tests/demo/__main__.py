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

"""``python -m tests.demo``: see what the driver does, without root.

Exit code 0 when every server did what it was asked, 1 when one did not, 2 when
the demo cannot run as it was asked to.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import unittest
from pathlib import Path

from tests.demo import machine
from tests.demo import screen as screens


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo",
        description="Boot, use and delete three servers through Nova's REST API.",
    )
    parser.add_argument(
        "--family",
        choices=("4", "9"),
        default="4",
        help="the family of vzctl that the simulated node has (default: 4)",
    )
    parser.add_argument(
        "--real",
        action="store_true",
        help="use this machine's own vzctl and vzlist, as root",
    )
    parser.add_argument(
        "--image",
        type=Path,
        help="with --real: a root file system as a tar archive; default: one made of"
        " this machine's static busybox",
    )
    parser.add_argument("--no-color", action="store_true", help="no colours")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; its exit code."""
    arguments = _arguments(argv)
    screen = screens.Screen(
        sys.stdout, screens.wants_colour(sys.stdout, arguments.no_color)
    )
    started = time.monotonic()
    screen.title("OpenVZ containers as Nova servers")
    image = None
    if arguments.real:
        try:
            image = machine.prepare(arguments.image)
        except machine.CannotRunError as reason:
            screen.line(f"--real cannot run here: {reason}")
            return 2
    screen.line(
        "Starting Nova's API, scheduler, conductor and compute, and placement",
        end=" … ",
    )
    with tempfile.NamedTemporaryFile(
        prefix="ovznovadriver-demo-", suffix=".log", delete=False
    ) as file:
        log = Path(file.name)
    # Imported here: it takes seconds, and something is on the screen by then.
    from tests.demo import real, story

    logging.captureWarnings(True)
    logging.getLogger().handlers = [logging.FileHandler(log)]
    demo = story.Demo("runTest") if image is None else real.RealDemo("runTest")
    demo.image = image
    demo.FAMILY = arguments.family
    demo.screen = screen
    demo.started = started
    return _run(demo, screen, log)


def _run(demo: unittest.TestCase, screen: screens.Screen, log: Path) -> int:
    result = unittest.TestResult()
    demo.run(result)
    problems = [*result.failures, *result.errors]
    if not problems:
        log.unlink()
        return 0
    text = problems[0][1]
    with log.open("a") as file:
        file.write(text)
    sentence = text.strip().splitlines()[-1]
    screen.line()
    screen.line(screen.style("bad", "The demo failed: ") + sentence)
    screen.line(f"Nova's log and the traceback are in {log}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
