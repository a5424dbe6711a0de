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

"""The demo over this machine's own vzctl."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import fixtures

from tests.demo import machine, story


class RealDemo(story.Demo):
    """Nova's services over this machine's vzctl; os-vif stays a stand-in."""

    def setUp(self) -> None:
        """Start everything; Nova's tests keep their hands off the machine's /sys."""
        with mock.patch("nova.tests.fixtures.SysFsPoisonFixture", fixtures.Fixture):
            super().setUp()
        self.addCleanup(self._clean_up)

    def _clean_up(self) -> None:
        """Leave nothing on the machine, also where the demo fails."""
        for server in self.api.get_servers():
            self.delete(server)
        cache = Path(self.driver(self.HOST)._node.paths.templates)
        for path in cache.rglob(f"*{self.image_id}*"):
            path.unlink()

    def describe_node(self) -> str:
        """What the servers run on, in a few words."""
        family = self.driver(self.HOST)._node.family.name
        return f"this machine's {family} (ports are not plugged into Open vSwitch)"

    def make_node(self, host: str) -> Any:
        """This machine."""
        self.nodes[host] = machine.RealNode(self._directory / host)
        return self.nodes[host]

    def net_dir(self, node: Any) -> Path:
        """The machine's own network interfaces."""
        return Path("/sys/class/net")

    def configure(self, node: Any) -> None:
        """The driver's defaults, but for where programs and claims are.

        Disk quotas are off: stock kernels have none.
        """
        self.flags(
            program_dirs=[str(node.bin_dir)],
            lock_dir=str(node.root / "claims"),
            use_disk_quotas=False,
            group="openvz",
        )

    def left_on(self, node: Any) -> list[str]:
        """Private areas and port records that were not there before."""
        ports = self.ovs.ports(node)
        return [*node.containers(), *ports]
