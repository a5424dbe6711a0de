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


"""A cloud with two compute hosts, between which servers move."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fixtures

from nova import objects
from ovznovadriver import exception
from ovznovadriver.openvz import incoming, transfer
from tests import trees
from tests.functional import base
from tests.simulator.node import SimNode

ADDRESSES = {"compute1": "192.0.2.1", "compute2": "192.0.2.2"}


class DirectTransfer(transfer.Transfer):
    """Reaches the other host's node without ssh, and fails on order.

    :cvar others: the nodes of the hosts, by address
    :cvar fault: the method that fails next, and whether it has done its work by then
    :cvar passes: what was sent: "running" or "stopped", and whether with holes
    """

    others: ClassVar[dict[str, Any]] = {}
    fault: ClassVar[tuple[str, str] | None] = None
    passes: ClassVar[list[tuple[str, bool]]] = []

    def __init__(self, node: Any, peer: transfer.Peer) -> None:
        super().__init__(node, peer)
        self._other = self.others[peer.host]

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        when = self.fault[1] if self.fault and self.fault[0] == name else None
        if when is not None:
            type(self).fault = None
        if when == "before":
            raise exception.TransferError(f"no {name} today")
        yield
        if when == "after":
            raise exception.TransferError(f"no {name} today")

    def hello(self) -> transfer.Facts:
        """See Transfer."""
        with self._failing("hello"):
            return transfer.local_facts(self._other)

    def is_shared(self, key: str) -> bool:
        """See Transfer."""
        with self._failing("is_shared"):
            return bool(self._other.paths.private == self._node.paths.private)

    def sees_claim(self, ctid: str, key: str) -> bool:
        """See Transfer."""
        with self._failing("sees_claim"):
            return ctid in self._other.claims.find(key, self._node.host)

    def send(
        self,
        ctid: str,
        key: str,
        *,
        final: bool = False,
        progress: Callable[[float], object] | None = None,
    ) -> None:
        """See Transfer."""
        self._send(ctid, key, progress, final=final, holes=True)

    def _send(
        self,
        ctid: str,
        key: str,
        progress: Callable[[float], object] | None,
        *,
        final: bool,
        holes: bool,
    ) -> None:
        self.passes.append(("stopped" if final else "running", holes))
        with self._failing("final send" if final else "send"):
            place = incoming.held(self._other.paths.private, key)
            with place as (_, holder):
                source = f"{self._node.paths.private}/{ctid}/{self._sub}"
                target = f"/proc/{threading.get_native_id()}/fd/{holder}/tree/"
                words = ["-aHAXS", "--numeric-ids", "--modify-window=-1", "--delete"]
                subprocess.run(["/usr/bin/rsync", *words, source, target], check=True)
            assert progress is not None
            progress(0.5)
            progress(1.0)

    @contextmanager
    def connected(
        self,
        ctid: str,
        key: str,
        progress: Callable[[float], object] | None = None,
        *,
        holes: bool = True,
    ) -> Iterator[Callable[[], None]]:
        """See Transfer."""
        yield lambda: self._send(ctid, key, progress, final=True, holes=holes)

    @property
    def _sub(self) -> str:
        tree_dir = self._node.family.tree_dir
        return f"{tree_dir}/" if tree_dir else ""

    def verify(self, ctid: str, key: str) -> None:
        """See Transfer."""
        with self._failing("verify"):
            assert key in transfer.incoming(self._other), ctid

    def discard(self, key: str) -> None:
        """See Transfer."""
        with self._failing("discard"):
            transfer.drop(self._other, key)


class ReachableHosts(base.SimulatedNodes):
    """For test cases with more than one host: they reach each other by :attr:`WAY`."""

    #: What stands for Transfer.
    WAY: type[transfer.Transfer] = DirectTransfer

    def _simulate_nodes(self) -> None:
        self._acting = threading.local()
        super()._simulate_nodes()
        self.useFixture(
            fixtures.MonkeyPatch("ovznovadriver.openvz.transfer.Transfer", self.WAY)
        )
        DirectTransfer.fault = None
        DirectTransfer.passes.clear()

    def _address(self, host: str) -> str:
        return ADDRESSES[host]

    def configure(self, node: SimNode) -> None:
        """Set the options of a node's service, with the real ssh and rsync."""
        super().configure(node)
        self.flags(group="openvz", program_dirs=[str(node.bin_dir), "/usr/bin"])

    def _begin(self, driver: Any, host: str) -> None:
        """Stands for init_host: the host has an address, and a switch of its own."""
        super()._begin(driver, host)
        address = self._address(host)
        driver.get_host_ip_addr = lambda: address
        DirectTransfer.others[address] = driver._node
        for name in ("plug", "unplug", "unplug_forgotten"):
            call = getattr(driver._network, name)
            setattr(driver._network, name, self._noting(call, self.nodes[host]))

    def _noting(self, call: Callable[..., Any], node: SimNode) -> Callable[..., Any]:
        """Let Open vSwitch's stand-in know which host asks."""

        def noting(*args: Any) -> Any:
            self._acting.node = node
            try:
                return call(*args)
            finally:
                self._acting.node = None

        return noting

    def node_of_instance(self, instance_uuid: str) -> SimNode:
        """The node of the host that asks, or that a server is on."""
        return getattr(self._acting, "node", None) or super().node_of_instance(
            instance_uuid
        )


class TwoHostsTest(ReachableHosts, base.OpenVZFunctionalTest):
    """Two hosts, and what is asked of servers that move between them."""

    HOSTS = ("compute1", "compute2")

    def _furnish(self) -> None:
        super()._furnish()
        self.large = self._create_flavor(
            name="ct1.large", memory_mb=1024, vcpu=2, disk=2, ephemeral=0
        )

    # -- what is asked ---------------------------------------------------------------

    def host_of(self, server: dict[str, Any]) -> str:
        """The host that a server is on, as Nova says."""
        host: str = self.admin_api.get_server(server["id"])["OS-EXT-SRV-ATTR:host"]
        return host

    def ends(self, server: dict[str, Any]) -> tuple[str, str]:
        """The host that a server is on, and the other one."""
        here = self.host_of(server)
        return here, next(host for host in self.HOSTS if host != here)

    def move(
        self,
        server: dict[str, Any],
        status: str = "VERIFY_RESIZE",
        flavor: str | None = None,
    ) -> None:
        """Ask for a cold migration, or for a resize that cannot be on the same host."""
        self._acts(
            server, {"resize": {"flavorRef": flavor}} if flavor else {"migrate": None}
        )
        self.settle_as(server, status)

    def confirm(self, server: dict[str, Any], status: str = "ACTIVE") -> None:
        """Confirm a move."""
        self._acts(server, {"confirmResize": None})
        # Nova has no task for a server while it confirms.
        self._wait_for_state_change(server, status)
        self._await_end(server)

    def revert(self, server: dict[str, Any], status: str = "ACTIVE") -> None:
        """Revert a move."""
        self._acts(server, {"revertResize": None})
        self.settle_as(server, status)
        if status != "ERROR":
            self._await_end(server)

    def _acts(self, server: dict[str, Any], action: dict[str, Any]) -> None:
        self.api.post_server_action(server["id"], action)

    def _await_end(self, server: dict[str, Any]) -> None:
        """Wait until Nova has forgotten the other flavor, the last that it does."""
        self.wait_until("end", lambda: self.instance(server).old_flavor is None)

    def settle_as(self, server: dict[str, Any], status: str) -> None:
        """Wait until Nova does nothing with a server, which then has a status."""
        if status == "ERROR":
            self._wait_for_state_change(server, "ERROR")
        found = self.settle(server)["status"]
        assert found == status, (found, self.reason(server))

    def recover(self, server: dict[str, Any]) -> None:
        """What an operator does with a server that failed."""
        self._acts(server, {"os-resetState": {"state": "active"}})
        self.act(server, "reboot", {"type": "HARD"})

    # -- what is looked at -----------------------------------------------------------

    def reason(self, server: dict[str, Any]) -> str:
        """Why the last thing that was asked of a server failed."""
        fault = objects.InstanceFault.get_latest_for_instance(
            self.cell_context(), server["id"]
        )
        return str(fault.message) if fault else ""

    def await_reason(self, server: dict[str, Any], text: str) -> None:
        """Wait until Nova has put down why the last thing asked of a server failed."""
        self.wait_until(text, lambda: text in self.reason(server))

    def seen(self, server: dict[str, Any], host: str | None = None) -> trees.Tree:
        """All that there is to see of a server's files; the first time with many.

        :param host: whose copy of them; None for the one where the server is
        """
        node = self.nodes[host or self.host_of(server)]
        tree = node.tree(self.container(server, node))
        if not (tree / "srv").exists():
            trees.fill(tree / "srv", node.uid_offset or 0)
        return trees.of_the_guest(trees.describe(tree, node.uid_offset or 0))

    def await_use(self, **expected: tuple[int, int, int]) -> None:
        """Wait until placement has what is in use: CPUs, MB, GB by host."""
        providers = {host: self._get_provider_uuid_by_host(host) for host in expected}

        def found() -> dict[str, tuple[int, ...]]:
            return {
                host: tuple(
                    self._get_provider_usages(uuid)[name]
                    for name in ("VCPU", "MEMORY_MB", "DISK_GB")
                )
                for host, uuid in providers.items()
            }

        self.wait_until(f"use of {expected}", lambda: found() == expected)

    def left(self, host: str) -> list[str]:
        """What servers have left on a host, on their way, too."""
        node = self.nodes[host]
        return [*self.left_on(node), *map(str, node.private_dir.glob(".*"))]


def put_on_one_disk(first: SimNode, node: SimNode) -> None:
    """Have a node use the private areas and the claims of the first one."""
    node.set_vz_conf(VE_PRIVATE=f"{first.private_dir}/$VEID")
    claims = node.root / "claims"
    if not claims.is_symlink():
        claims.symlink_to(first.root / "claims")


class OneDiskTest(TwoHostsTest):
    """Both hosts have the private areas and the claims of the first one."""

    FAMILY = "4"

    def make_node(self, host: str) -> SimNode:
        """Make the node of a host."""
        node = super().make_node(host)
        first = self.nodes["compute1"]
        if node is not first:
            put_on_one_disk(first, node)
        return node
