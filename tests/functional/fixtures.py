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

"""What Nova talks to besides the driver: Glance, Neutron and Open vSwitch.

They stand where Nova's own fixtures stand, and add what a driver meets in
real life: images with content and a hash, ports that become ACTIVE only when
their interface appears on the node, and the event that Neutron sends then.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import fixtures
from nova.tests import fixtures as nova_fixtures
from nova.tests.functional.api import client as api_client

from nova import exception as nova_exception
from nova import objects

#: What the root file system of the test image holds: path -> (mode, content).
ROOTFS: dict[str, tuple[int, str]] = {
    "sbin/init": (0o755, "#!/bin/sh\nexec sleep infinity\n"),
    "sbin/ifup": (0o755, "#!/bin/sh\n"),
    "bin/sh": (0o755, "#!/bin/sh\n"),
    "usr/sbin/chpasswd": (0o755, "#!/bin/sh\n"),
    "etc/passwd": (
        0o644,
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/usr/sbin:/bin/false\n",
    ),
    "etc/shadow": (0o640, "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"),
    "etc/group": (0o644, "root:x:0:\n"),
    "etc/hostname": (0o644, "template\n"),
    "etc/hosts": (0o644, "127.0.0.1 localhost\n"),
    "etc/os-release": (0o644, 'ID=debian\nVERSION_ID="12"\n'),
    "etc/network/interfaces": (0o644, "auto lo\niface lo inet loopback\n"),
}


DIRECTORIES = (
    *("bin", "dev", "etc", "etc/network", "proc", "root", "sbin", "tmp", "usr"),
    *("usr/sbin", "var", "var/lib"),
)


def rootfs_tarball(files: dict[str, tuple[int, str]] | None = None) -> bytes:
    """A gzipped tar archive of a root file system, the same at every call."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in DIRECTORIES:
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            folder.mode = 0o755
            archive.addfile(folder)
        for name, (mode, content) in (files or ROOTFS).items():
            data = content.encode()
            member = tarfile.TarInfo(name)
            member.mode = mode
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def facts_of(data: bytes) -> dict[str, Any]:
    """What Glance says of an image's data."""
    return {
        "size": len(data),
        "checksum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "os_hash_algo": "sha512",
        "os_hash_value": hashlib.sha512(data).hexdigest(),
    }


class Glance(nova_fixtures.GlanceFixture):
    """Nova's Glance with images that have content, and a count of downloads."""

    def __init__(self, test: Any) -> None:
        super().__init__(test)
        self.downloads: list[str] = []
        #: Called with an image's id and what is there of its data, for each piece that
        #: is uploaded; what it raises ends the upload.
        self.on_upload: Callable[[str, int], None] = lambda image_id, size: None

    def add_image(
        self,
        data: bytes,
        *,
        name: str = "debian-12-rootfs",
        claimed_data: bytes | None = None,
        disk_format: str = "raw",
        min_disk: int = 0,
        **properties: str,
    ) -> str:
        """Store an image and return its id.

        :param claimed_data: what size and hashes are taken from, to have an
            image that arrives damaged
        :param min_disk: GB that a flavor's root disk has to have
        :param properties: image properties besides the usual ones
        """
        claimed = data if claimed_data is None else claimed_data
        image = {
            "id": str(uuid.uuid4()),
            "name": name,
            "created_at": self.timestamp,
            "updated_at": self.timestamp,
            "deleted_at": None,
            "deleted": False,
            "status": "active",
            "is_public": True,
            "container_format": "bare",
            "disk_format": disk_format,
            **facts_of(claimed),
            "min_ram": 0,
            "min_disk": min_disk,
            "protected": False,
            "visibility": "public",
            "tags": [],
            "properties": {
                "hypervisor_type": "openvz",
                "vm_mode": "exe",
                **properties,
            },
        }
        image_id: str = self.create(None, image, io.BytesIO(data))["id"]
        return image_id

    def download(
        self,
        context: Any,
        image_id: str,
        data: Any = None,
        dst_path: str | None = None,
        trusted_certs: Any = None,
    ) -> Any:
        """Give an image's content in the three ways that Nova's API has."""
        self.downloads.append(image_id)
        if data is None and dst_path is None:
            self.show(context, image_id)
            return iter([self._imagedata.get(image_id, b"")])
        return super().download(context, image_id, data, dst_path, trusted_certs)

    def update(
        self,
        context: Any,
        image_id: str,
        metadata: dict[str, Any],
        data: Any = None,
        purge_props: bool = False,
    ) -> dict[str, Any]:
        """Change what is said of an image, and take its data, as Glance does."""
        image = super().update(context, image_id, metadata, None, purge_props)
        if data is None:
            return dict(image)
        content = bytearray()
        while piece := data.read(1 << 20):
            # What uWSGI, before the real one, takes at once.
            assert len(piece) < 1 << 20
            content += piece
            self.on_upload(image_id, len(content))
        if image_id not in self.images:
            raise nova_exception.ImageNotFound(image_id=image_id)
        self._imagedata[image_id] = bytes(content)
        image.update(status="active", **facts_of(bytes(content)))
        return dict(image)

    def detail(self, context: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The images with some properties, the last one first."""
        wanted = {
            name.removeprefix("property-"): value
            for name, value in kwargs.get("filters", {}).items()
            if name.startswith("property-")
        }
        images: list[dict[str, Any]] = super().detail(context, **kwargs)[::-1]
        return [i for i in images if wanted.items() <= i["properties"].items()]

    def content(self, image_id: str) -> bytes | None:
        """What was uploaded of an image; None for nothing."""
        return self._imagedata.get(image_id)


class Neutron(nova_fixtures.NeutronFixture):
    """Nova's Neutron with ports as ML2/OVS makes them, each its own address.

    A port is DOWN until its interface appears in the bridge.
    """

    storage_network: ClassVar[dict[str, Any]] = {
        **nova_fixtures.NeutronFixture.network_1,
        "id": "5d5ff8a2-6b2a-4a4e-9a59-8b8ce3f0a3f1",
        "name": "storage",
        "mtu": 8950,
        "provider:segmentation_id": 25,
        "subnets": ["b8e5d2f0-53f9-4b6f-8c2e-70f3f9c6f6a7"],
    }
    storage_subnet: ClassVar[dict[str, Any]] = {
        **nova_fixtures.NeutronFixture.subnet_1,
        "id": "b8e5d2f0-53f9-4b6f-8c2e-70f3f9c6f6a7",
        "name": "storage-subnet",
        "network_id": storage_network["id"],
        "enable_dhcp": False,
        "gateway_ip": None,
        "cidr": "10.20.0.0/24",
        "allocation_pools": [{"start": "10.20.0.2", "end": "10.20.0.254"}],
    }

    def __init__(self, test: Any) -> None:
        super().__init__(test)
        private = {
            **self.subnet_1,
            "cidr": "192.168.1.0/24",
            "dns_nameservers": ["192.168.1.2"],
        }
        self._ports = {}
        self._networks[self.storage_network["id"]] = self.storage_network
        self._subnets = {
            private["id"]: private,
            self.subnet_ipv6_1["id"]: self.subnet_ipv6_1,
            self.storage_subnet["id"]: self.storage_subnet,
        }
        self._numbers = itertools.count(10)

    def setUp(self) -> None:
        super().setUp()
        # Nova's fixture turns waiting for Neutron off.
        self.test.flags(vif_plugging_timeout=100, vif_plugging_is_fatal=True)

    def create_port(self, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = (body or {"port": {}})["port"]
        network = request.get("network_id", self.network_1["id"])
        number = next(self._numbers)
        port = copy.deepcopy(self.default_port)
        port.update(copy.deepcopy(request))
        port.update(
            {
                "id": str(uuid.uuid4()),
                "network_id": network,
                "mac_address": f"fa:16:3e:00:00:{number:02x}",
                "status": "DOWN",
                "fixed_ips": self._addresses(network, number),
                "binding:vif_type": "ovs",
                "binding:vif_details": {
                    "port_filter": True,
                    "connectivity": "l2",
                    "bridge_name": "br-int",
                    "ovs_hybrid_plug": False,
                },
            }
        )
        self._ports[port["id"]] = port
        return {"port": copy.deepcopy(port)}

    def _addresses(self, network: str, number: int) -> list[dict[str, str]]:
        if network == self.storage_network["id"]:
            return [
                {
                    "ip_address": f"10.20.0.{number}",
                    "subnet_id": self.storage_subnet["id"],
                }
            ]
        return [
            {
                "ip_address": f"192.168.1.{number}",
                "subnet_id": self.subnet_1["id"],
            },
            {
                "ip_address": f"fd37:44e8:ad06::{number:x}",
                "subnet_id": self.subnet_ipv6_1["id"],
            },
        ]

    def active_ports(self) -> set[str]:
        """The IDs of the ports whose interface was last seen in its bridge."""
        return {key for key, port in self._ports.items() if port["status"] == "ACTIVE"}

    def set_status(self, port_id: str, status: str) -> None:
        """Set a port's status as its agent's report would."""
        if port_id in self._ports:
            self._ports[port_id]["status"] = status


class OpenDatabases(fixtures.Fixture):
    """Keeps Nova's databases open, each of which is a file of SQLite's.

    Nova opens one for each transaction, and whoever closes it as the last one has to
    bring its log home and sync it: with this, nobody does.
    """

    def __init__(self, engines: Iterable[Any]) -> None:
        super().__init__()
        self._engines = engines

    def _setUp(self) -> None:
        for engine in self._engines:
            connection = engine.connect()
            self.addCleanup(connection.close)
            # SQLite opens the file when something is read.
            connection.exec_driver_sql("SELECT 1 FROM sqlite_master").all()
            connection.rollback()


class InstanceChanges(fixtures.Fixture):
    """Sets an event whenever Nova has written a server to its database."""

    def _setUp(self) -> None:
        self.event = threading.Event()
        for name in ("create", "save", "destroy"):
            real = getattr(objects.Instance, name)
            self.useFixture(
                fixtures.MonkeyPatch(
                    f"nova.objects.Instance.{name}", self._telling(real)
                )
            )

    def _telling(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def method(instance: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return real(instance, *args, **kwargs)
            finally:
                self.event.set()

        return method


@dataclasses.dataclass(frozen=True)
class PortCall:
    """A call of os-vif.

    :ivar start: seconds since the epoch
    :ivar what: "add-port" or "del-port"
    """

    start: float
    what: str
    bridge: str
    devname: str

    @classmethod
    def now(cls, what: str, vif: Any) -> PortCall:
        """A call that came just now."""
        return cls(time.time(), what, vif.network.bridge, vif.vif_name)


class OpenVSwitch(fixtures.Fixture):
    """Stands at ``os_vif.plug`` and ``os_vif.unplug``; port records on disk.

    A node's ports are ``<node root>/ovs/ports/<devname>.json``. An agent, one
    thread for all nodes, sees which ports have their interface on the node,
    sets the Neutron port ACTIVE or DOWN, and lets Nova know as Neutron does.
    """

    #: How often the agent looks, in seconds.
    INTERVAL = 0.02

    def __init__(self, cloud: Any, *, agent_works: bool = True) -> None:
        super().__init__()
        self._cloud = cloud
        self._stopped = threading.Event()
        #: Cleared by a test in which Neutron stays silent.
        self.agent_works = agent_works
        #: What plug raises, in a test that lets os-vif fail.
        self.failure: Exception | None = None
        #: What os-vif was asked, in order.
        self.calls: list[PortCall] = []

    def _setUp(self) -> None:
        self.useFixture(fixtures.MonkeyPatch("os_vif.plug", self.plug))
        self.useFixture(fixtures.MonkeyPatch("os_vif.unplug", self.unplug))
        agent = threading.Thread(target=self._agent, name="ovs-agent", daemon=True)
        agent.start()
        self.addCleanup(agent.join)
        self.addCleanup(self._stopped.set)

    def plug(self, vif: Any, instance_info: Any) -> None:
        """Record a port, as ``ovs-vsctl --may-exist add-port`` would."""
        if self.failure:
            raise self.failure
        profile = vif.port_profile
        record = {
            "bridge": vif.network.bridge,
            "devname": vif.vif_name,
            "iface-id": profile.interface_id,
            "attached-mac": vif.address,
            "vm-uuid": instance_info.uuid,
            "create_tap": profile.create_tap,
            "create_port": profile.create_port,
        }
        folder = self.port_dir(self._cloud.node_of_instance(instance_info.uuid))
        folder.mkdir(parents=True, exist_ok=True)
        # Moved in whole: the agent reads these files at any time.
        path = folder / f"{vif.vif_name}.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(record, indent=2))
        temporary.replace(path)
        self.calls.append(PortCall.now("add-port", vif))

    def unplug(self, vif: Any, instance_info: Any) -> None:
        """Forget a port, as ``ovs-vsctl --if-exists del-port`` would."""
        folder = self.port_dir(self._cloud.node_of_instance(instance_info.uuid))
        (folder / f"{vif.vif_name}.json").unlink(missing_ok=True)
        self.calls.append(PortCall.now("del-port", vif))

    def port_dir(self, node: Any) -> Path:
        """The directory of a node's port records."""
        return Path(node.root) / "ovs" / "ports"

    def interfaces(self, node: Any) -> set[str]:
        """The network interfaces that a node has, but for its loopback."""
        return {path.name for path in self._cloud.net_dir(node).iterdir()} - {"lo"}

    def ports(self, node: Any) -> dict[str, dict[str, Any]]:
        """A node's port records by device name."""
        found = {}
        for path in sorted(self.port_dir(node).glob("*.json")):
            # It may go between the two looks.
            try:
                found[path.stem] = json.loads(path.read_text())
            except FileNotFoundError:
                continue
        return found

    def _agent(self) -> None:
        up = self._cloud.neutron.active_ports()
        while not self._stopped.wait(self.INTERVAL):
            if self.agent_works:
                up = self._report(up)

    def _report(self, up: set[str]) -> set[str]:
        """Tell Neutron which ports came up and which went, and Nova of the first."""
        now = {}
        neutron = self._cloud.neutron
        for node in list(self._cloud.nodes.values()):
            interfaces = self.interfaces(node)
            for devname, record in self.ports(node).items():
                if devname in interfaces:
                    now[record["iface-id"]] = record["vm-uuid"]
        for port in up - set(now):
            neutron.set_status(port, "DOWN")
        fresh = set(now) - up
        for port in fresh:
            neutron.set_status(port, "ACTIVE")
        if fresh:
            # A server may have gone by now.
            with contextlib.suppress(api_client.OpenStackApiNotFoundException):
                self._cloud.admin_api.create_server_external_events(
                    [
                        {
                            "name": "network-vif-plugged",
                            "server_uuid": now[port],
                            "tag": port,
                            "status": "completed",
                        }
                        for port in sorted(fresh)
                    ]
                )
        return set(now)
