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

"""What the kernel says of processes."""

import os
import subprocess
import sys

from ovznovadriver.openvz import procfs


def test_a_process_may_have_any_name():
    code = (
        "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a) \\xff', 0, 0, 0);"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert procfs.start_time(child.pid) >= procfs.start_time(os.getpid())
        assert int(procfs.fields(child.pid)[1]) == os.getpid()
        child.communicate()


def test_one_that_has_ended_does_not_run_though_nobody_asks():
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert procfs.fields(child.pid)[0] == b"Z"
    assert not procfs.is_running(child.pid)

    child.wait()
    assert procfs.fields(child.pid) is None
    assert not procfs.is_running(child.pid)


def test_a_number_that_no_process_can_have_is_that_of_none():
    assert not procfs.is_running(10**30)
