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

"""Where the contract tests and the measurements find the tools and their node."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import resources, utils, vzctl
from tests.simulator.node import SimNode

#: The way to root of an unprivileged user, as tests/privilege sets it; else None.
WAY = os.environ.get("OVZ_PRIVILEGE")


def made_for_this_worker() -> Path:
    """The directory with the nodes that tests/privilege has made for this process."""
    worker = os.environ["PYTEST_XDIST_WORKER"]
    return Path(os.environ["OVZ_PRIVILEGE_DIR"], worker)


@dataclass(frozen=True)
class Place:
    """The tools, and the node that they work on.

    :ivar root: the directory of a simulated node; None for the machine itself
    :ivar program_dirs: where vzctl and vzlist are
    :ivar sim: a simulated node that is this test's alone, so that it may order
        faults
    """

    root: Path | None
    program_dirs: tuple[str, ...]
    sim: SimNode | None = None

    def path(self, path: str) -> Path:
        """Where the node has what is at an absolute path of a usual one."""
        return (self.root or Path("/")) / path.lstrip("/")

    def options(self, lock_dir: Path) -> ovz_node.Options:
        """The driver's options for this node."""
        conf = self.path("/etc/vz/conf")
        default = (conf / "ve-basic.conf-sample").is_file()
        return ovz_node.Options(
            vz_conf=str(self.path("/etc/vz/vz.conf")),
            ve_private_dir=None,
            ve_root_dir=None,
            ve_conf_dir=str(conf),
            names_dir=str(self.path("/etc/vz/names")),
            lock_dir=str(lock_dir),
            image_template_dir=None,
            sysfs_dir=str(self.path("/sys")),
            privilege=WAY or utils.PRIVSEP,
            root_helper=os.environ.get("OVZ_PRIVILEGE_HELPER", ""),
            program_dirs=self.program_dirs,
            lock_wait=5,
            # What takes longer hangs: all of it together must fit into a test's time.
            limits=vzctl.TimeLimits(command=30, create=30, start=30, stop=30),
            layout="simfs",
            default_config="basic" if default else "",
            default_os_hint="",
            sizing=resources.SizingOptions(),
        )

    def executor(self, lock_wait: float = 0) -> utils.Executor:
        """A way to the commands of its own."""
        return utils.Executor(
            privilege=WAY or utils.PRIVSEP,
            root_helper=os.environ.get("OVZ_PRIVILEGE_HELPER", ""),
            program_dirs=self.program_dirs,
            lock_wait=lock_wait,
        )

    def cannot(self, error: exception.CommandFailed) -> None:
        """This failed; a real machine that is not able to do it skips the test."""
        if self.root is not None:
            raise error
        pytest.skip(f"not on this machine: {error}")
