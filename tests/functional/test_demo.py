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

"""The demo runs, as a user would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.functional import CHECKOUT

# The demo is a Nova of its own, on busy machines.
pytestmark = pytest.mark.timeout(300)


def _demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.demo", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_three_servers_live_and_nothing_is_left() -> None:
    ran = _demo()

    assert ran.returncode == 0, ran.stdout
    assert ran.stderr == ""
    assert "\x1b" not in ran.stdout
    booted = re.findall(r"^(\S+) +ACTIVE  container \d+  [\d.]+", ran.stdout, re.M)
    assert booted == ["web-1", "web-2", "db-1"]
    for command in ("create", "set", "start", "chkpnt", "suspend", "stop", "destroy"):
        assert f"vzctl {command} 101" in ran.stdout
    assert ran.stdout.endswith("nothing is left on the node.\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="says first that it must be root")
def test_it_says_why_it_cannot_use_this_machine() -> None:
    ran = _demo("--real", PATH="/nowhere")

    assert ran.returncode == 2
    assert "there is no vzctl on PATH" in ran.stdout
