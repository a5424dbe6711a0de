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

"""nova-compute as an unprivileged user, on nodes that belong to root."""

from __future__ import annotations

import io
import json
import os
import shlex
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import fixtures
import pytest
from oslo_privsep import daemon, priv_context

from ovznovadriver.openvz import gate, privsep, transfer
from ovznovadriver.openvz.container import OvzContainers
from tests.contract.place import made_for_this_worker
from tests.families import THOROUGH
from tests.functional import base, twohosts
from tests.functional import fixtures as cloud_fixtures
from tests.privilege import neighbours
from tests.simulator.node import SimNode

pytestmark = [
    pytest.mark.skipif(
        "OVZ_PRIVILEGE" not in os.environ,
        reason="needs a user and sudo; 'tox -e privilege' sets them up",
    ),
    pytest.mark.skipif(
        os.environ.get("OVZ_PRIVILEGE") == "rootwrap" and not THOROUGH,
        reason="a hundred processes of sudo's: set OVZ_THOROUGH",
    ),
]

#: Nova's tests replace it, and these want the real one.
_CHANNEL = daemon.RootwrapClientChannel
_ACCESS = os.access


def _access(path: Any, mode: int, **how: Any) -> bool:
    """As it would be if everybody could read Python: see _become in __main__.py.

    For access(2), what a user that is not root may do besides does not count.
    """
    return _ACCESS(path, mode, **how) or (mode == os.F_OK and os.path.exists(path))


class OpenVSwitch(cloud_fixtures.OpenVSwitch):
    """Keeps its records where the user may write."""

    def port_dir(self, node: Any) -> Path:
        """See the class above."""
        return Path(self._cloud._directory) / "ovs" / node.root.name


class AsUser(base.SimulatedNodes):
    """Services that go to root as the one that runs the tests has to."""

    #: What a host's node is called, but for its family; see neighbours.py.
    NODES: ClassVar[dict[str, str]] = {"compute1": "service", "compute2": "neighbour"}

    def _choose_driver(self) -> None:
        super()._choose_driver()
        self.useFixture(fixtures.MonkeyPatch("os.access", _access))

    def _simulate_nodes(self) -> None:
        super()._simulate_nodes()
        helper = os.environ["OVZ_PRIVILEGE_HELPER"]
        self.flags(rootwrap_config=shlex.split(helper)[-1])
        patches = {
            "oslo_privsep.daemon.RootwrapClientChannel": _CHANNEL,
            "ovznovadriver.openvz.privsep.context.client_mode": True,
        }
        for name, value in patches.items():
            self.useFixture(fixtures.MonkeyPatch(name, value))
        if privsep.context.channel is None:
            priv_context.init(shlex.split(helper))

    def make_node(self, host: str) -> SimNode:
        """A node that is there already: root has made it."""
        root = made_for_this_worker() / f"{self.NODES[host]}{self.FAMILY}"
        self.nodes[host] = SimNode(root, self.FAMILY)
        return self.nodes[host]

    def configure(self, node: SimNode) -> None:
        """Set the options of a service that is not root."""
        super().configure(node)
        options = {
            "privilege": os.environ["OVZ_PRIVILEGE"],
            "lock_dir": str(self._directory / f"claims-{node.root.name}"),
            "program_dirs": [str(node.bin_dir), "/usr/bin"],
        }
        self.flags(group="openvz", **options)

    def _assert_nothing_is_left(self, host: str) -> None:
        node = self.driver(host)._node
        assert OvzContainers.list_vz_artifacts(node) == []
        assert node.claims.ctids() == []
        assert self.ovs.ports(self.nodes[host]) == {}


class Life(AsUser):
    """What a server goes through in its life."""

    OPEN_VSWITCH = OpenVSwitch

    def setUp(self) -> None:
        super().setUp()
        self.flags(allow_resize_to_same_host=True)

    def test_a_server_lives_as_with_a_service_of_roots(self) -> None:
        files = [{"path": "/etc/motd", "contents": "aGVsbG8K"}]
        self.api.microversion = "2.56"
        server = self.boot(personality=files, config_drive=True)
        self.api.microversion = "latest"

        # By the ways of input, of a pipe, and of files in the tree.
        self.act(server, "changePassword", {"adminPass": "another-1"})
        self.act(server, "createImage", {"name": "copy"})
        (image,) = [i for i in self.glance.images.values() if i["name"] == "copy"]
        content = io.BytesIO(self.glance.content(image["id"]))
        with tarfile.open(fileobj=content) as archive:
            names = {name.removeprefix("./") for name in archive.getnames()}
        assert "etc/shadow" in names
        self.act(server, "pause")
        self.act(server, "unpause")
        self.act(server, "suspend")
        self.act(server, "resume")
        self.act(server, "reboot", {"type": "SOFT"})
        self.act(server, "os-stop")
        self.act(server, "os-start")

        request = {"net_id": self.neutron.storage_network["id"]}
        done = self.api.attach_interface(server["id"], {"interfaceAttachment": request})
        port = done.body["interfaceAttachment"]["port_id"]
        self.api.detach_interface(server["id"], port)
        self.wait_until("detached", lambda: self._ports(server) == 1)
        self.act(server, "rescue", {})
        self.act(server, "unrescue")
        self.act(server, "rebuild", {"imageRef": self.image_id})
        self.act(server, "resize", {"flavorRef": self._larger()})
        self.act(server, "confirmResize")
        self._wait_for_state_change(server, "ACTIVE")
        found = self.api.api_get(f"/servers/{server['id']}/diagnostics").body
        assert found["state"] == "running"
        for task in (
            "update_available_resource",
            "_run_image_cache_manager_pass",
            "_sync_power_states",
        ):
            self.run_periodic(task)
        self.restart_compute("compute1")
        assert self.api.get_server(server["id"])["status"] == "ACTIVE"
        self.delete(server)
        self._assert_nothing_is_left("compute1")

    def _ports(self, server: dict[str, Any]) -> int:
        return len(self.api.get_port_interfaces(server["id"]))

    def _larger(self) -> str:
        return self._create_flavor(
            name="ct1.large", memory_mb=1024, vcpu=2, disk=2, ephemeral=0
        )


class TestService4(Life, base.OpenVZFunctionalTest):
    """With vzctl 4."""


class TestService9(Life, base.OpenVZFunctionalTest):
    """With vzctl 7 and above."""

    FAMILY = "9"


class Move(AsUser):
    """A server goes to another node, by ssh as the same user."""

    OPEN_VSWITCH = OpenVSwitch
    WAY = transfer.Transfer

    def setUp(self) -> None:
        described = neighbours.path(made_for_this_worker(), self.FAMILY)
        if not described.exists():
            pytest.skip("needs OpenSSH's server and rsync")
        if not _ACCESS(gate.__file__, os.R_OK):
            pytest.skip("needs the driver installed where everybody may read it")
        self.peer = transfer.Peer(**json.loads(described.read_text()))
        super().setUp()
        self.useFixture(
            fixtures.MonkeyPatch(
                "ovznovadriver.openvz.transfer.Peer.from_options",
                lambda _cls, _address, _group: self.peer,
            )
        )

    def configure(self, node: SimNode) -> None:
        """The other service has the claims that ovz-receive sees, too."""
        super().configure(node)
        if node.root.name.startswith("neighbour"):
            claims = Path(str(self.peer.ssh_key)).parent / "claims"
            self.flags(group="openvz", lock_dir=str(claims))

    def test_a_server_moves(self) -> None:
        server = self.boot(host="compute1")

        self.move(server)

        assert self.host_of(server) == "compute2"
        self.confirm(server)
        self._assert_nothing_is_left("compute1")
        self.act(server, "reboot", {"type": "SOFT"})
        self.delete(server)
        self._assert_nothing_is_left("compute2")


class TestMove4(Move, twohosts.TwoHostsTest):
    """With vzctl 4."""


class TestMove9(Move, twohosts.TwoHostsTest):
    """With vzctl 7 and above."""

    FAMILY = "9"
