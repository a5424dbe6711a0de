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

"""Hosts between which servers move as they run."""

from __future__ import annotations

from typing import Any

from tests.functional import twohosts
from tests.simulator.node import SimNode


class LiveHosts(twohosts.TwoHostsTest):
    """Two hosts whose root users reach each other."""

    #: Seconds that vzmigrate may take.
    LIMIT = 60

    def configure(self, node: SimNode) -> None:
        """Set the options of a node's service; another host has other CTIDs."""
        super().configure(node)
        # Where vzmigrate can freeze containers.
        node.switch("openvz_kernel", True)
        for other in self.nodes.values():
            if other is not node:
                other.add_peers({twohosts.ADDRESSES[self._name(node)]: node})
                node.add_peers({twohosts.ADDRESSES[self._name(other)]: other})
        first = 1000 * (1 + self.HOSTS.index(self._name(node)))
        self.flags(
            group="openvz",
            ctid_first=first,
            ctid_last=first + 999,
            live_migration_timeout=self.LIMIT,
        )

    def _name(self, node: SimNode) -> str:
        (found,) = [host for host, other in self.nodes.items() if other is node]
        return found

    def ask(self, server: dict[str, Any], **changes: Any) -> None:
        """Ask for a live migration to the other host."""
        _, target = self.ends(server)
        order = {"host": target, "block_migration": "auto", **changes}
        self._acts(server, {"os-migrateLive": order})
