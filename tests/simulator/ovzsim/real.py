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
"""Programs of the machine that a node notes the calls of, and strikes with faults."""

from __future__ import annotations

import subprocess

from ovzsim import base
from ovzsim.call import Call


def main(call: Call, args: list[str]) -> int:
    """Runs the program itself, which gets this process's input and output."""
    call.claim_faults("", "")
    with call.work():
        return subprocess.run([base.system_program(call.program), *args]).returncode
