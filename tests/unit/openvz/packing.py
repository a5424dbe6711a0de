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

"""A container's tree is packed, and unpacked."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

from ovznovadriver.openvz import pack
from tests.unit.openvz import hostile
from tests.unit.openvz.pipes import Pipe


def how(node: hostile.Node, pipe: Pipe, **more: Any) -> dict[str, Any]:
    """What packing into a pipe is told, with other values by name."""
    limits = {"limit": 1 << 40, "seconds": 60}
    to = {"pipe": str(pipe.path), "owner": os.geteuid()}
    return {**node.place, **to, "uid": 0, "gid": 0, **limits, **more}


def wait_for_clock() -> None:
    """Have the clock of files past all that was written."""
    time.sleep(0.06)


def untar(archive: bytes, target: Path) -> None:
    """Unpack as vzctl does."""
    target.mkdir(parents=True)
    command = ["tar", "--numeric-owner", "-C", str(target), "-xf", "-"]
    subprocess.run(command, input=archive, check=True)


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    """What is in an archive, by name, but for what it brings for the unpacking."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            m.name: m for m in tar if not m.name.startswith(os.fsdecode(pack.STAGE))
        }
