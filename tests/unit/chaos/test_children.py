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

"""Processes that are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# In a process without threads, as only such a one is forked.
_SCRIPT = """
import os, pathlib, signal, sys, threading, time
from tests.chaos import children

log = pathlib.Path(sys.argv[1])
def fail(): raise ValueError("first\\nlast")
done = children.call(lambda: [1, "two"], log, 60)
assert (done.value, done.killed, done.error) == ([1, "two"], False, None), done
failed = children.call(fail, log, 60)
assert failed.error == "ValueError: last", failed
assert "Traceback" in log.read_text()
killed = children.call(lambda: os.kill(os.getpid(), signal.SIGKILL), log, 60)
assert (killed.killed, killed.error) == (True, None), killed
late = children.call(lambda: time.sleep(100), log, 0.1)
assert not late.killed and "within 0.1 s" in late.error, late
threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
try:
    children.call(lambda: None, log, 60)
except RuntimeError as error:
    assert "threads" in str(error)
    print("all is well")
"""


def test_each_way_to_end_is_told_from_the_others(tmp_path: Path) -> None:
    argv = [sys.executable, "-W", "ignore", "-c", _SCRIPT, str(tmp_path / "log")]
    project = Path(__file__).resolve().parents[3]

    done = subprocess.run(argv, cwd=project, capture_output=True, text=True)

    assert done.stdout == "all is well\n", done.stderr
