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

"""A server boots: what becomes of a request on the node."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ovznovadriver.openvz import metadata
from tests.functional import fixtures as cloud_fixtures
from tests.functional import shared

#: A key that no one has the private half of.
KEY = (
    "ssh-ed25519"
    " AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me"
)

#: Where cloud-init looks for a config drive that is a directory.
SEED = "var/lib/cloud/seed/config_drive/openstack/latest"


class BootTests:
    """What holds for both families of vzctl."""

    def test_a_server_becomes_a_running_container(self) -> None:
        server = self.boot("web-1")

        assert server["OS-EXT-STS:power_state"] == 1
        conf = self.node.conf(self.container(server))
        tag = metadata.decode(conf["DESCRIPTION"])
        assert tag is not None
        assert (tag.host, tag.uuid) == ("compute1", server["id"])
        assert tag.name == server["OS-EXT-SRV-ATTR:instance_name"]
        assert conf["HOSTNAME"] == "web-1"
        assert (self.tree(server) / "sbin/init").is_file()
        assert self.glance.downloads == [self.image_id]

    def test_every_port_is_a_veth_pair_plugged_into_its_bridge(self) -> None:
        server = self.boot(
            "router-1",
            networks=[
                {"uuid": self.neutron.storage_network["id"]},
                {"uuid": self.neutron.network_1["id"]},
            ],
        )

        assert list(server["addresses"]) == ["storage", "private"]
        ports = self._ports(server)
        devnames = [f"tap{port['id']}"[:14] for port in ports]
        netif = self.node.conf(self.container(server))["NETIF"].lower()
        nics = [
            dict(field.partition("=")[::2] for field in nic.split(","))
            for nic in netif.split(";")
        ]
        assert [nic["ifname"] for nic in nics] == ["eth0", "eth1"]
        assert [nic["host_ifname"] for nic in nics] == devnames
        assert [nic["mac"] for nic in nics] == [port["mac_address"] for port in ports]
        assert all(nic["host_mac"] != nic["mac"] for nic in nics)
        assert self.ovs.interfaces(self.node) == set(devnames)
        records = self.ovs.ports(self.node)
        assert set(records) == set(devnames)
        for port, devname in zip(ports, devnames, strict=True):
            assert port["status"] == "ACTIVE"
            assert records[devname] == {
                "bridge": "br-int",
                "devname": devname,
                "iface-id": port["id"],
                "attached-mac": port["mac_address"],
                "vm-uuid": server["id"],
                "create_tap": False,
                "create_port": True,
            }

    def test_a_server_needs_no_port(self) -> None:
        server = self.boot("alone", networks="none")

        assert not self.node.conf(self.container(server)).get("NETIF")
        assert self.ovs.calls == []

    @pytest.mark.slow
    def test_two_servers_of_one_image_download_it_once(self) -> None:
        body = {
            "name": "twin",
            "imageRef": self.image_id,
            "flavorRef": self.flavor_id,
            "networks": "none",
            "min_count": 2,
            "max_count": 2,
        }
        self.api.post_server({"server": body})
        servers = self.api.get_servers()
        assert len(servers) == 2
        for server in servers:
            self._wait_for_state_change(server, "ACTIVE")

        assert self.glance.downloads == [self.image_id]
        first, second = (self.container(server) for server in servers)
        assert first != second

    def test_the_guest_finds_all_that_the_user_gave(self) -> None:
        self.api.api_post(
            "/os-keypairs",
            {
                "keypair": {
                    "name": "mine",
                    "type": "ssh",
                    "public_key": KEY,
                }
            },
        )
        self.addCleanup(self.api.api_delete, "/os-keypairs/mine")
        server = self.boot(
            "web-1",
            key_name="mine",
            adminPass="correct-horse",
            metadata={"role": "front"},
            user_data=base64.b64encode(b"#cloud-config\n{}\n").decode(),
        )

        tree = self.tree(server)
        assert (tree / "etc/hostname").read_text().strip() == "web-1"
        keys = (tree / "root/.ssh/authorized_keys").read_text()
        assert KEY in keys
        hashed = (tree / "etc/shadow").read_text().splitlines()[0].split(":")[1]
        assert hashed.startswith("$6$")
        seed = tree / SEED
        meta = json.loads((seed / "meta_data.json").read_text())
        assert meta["uuid"] == server["id"]
        assert meta["meta"] == {"role": "front"}
        assert meta["admin_pass"] == "correct-horse"
        assert "mine" in meta["public_keys"]
        assert (seed / "user_data").read_bytes() == b"#cloud-config\n{}\n"
        links = json.loads((seed / "network_data.json").read_text())["links"]
        (port,) = self._ports(server)
        assert [link["ethernet_mac_address"] for link in links] == [port["mac_address"]]
        self._assert_owned_by_the_guest(server, "root/.ssh/authorized_keys")
        self._assert_nowhere_in_an_argument("correct-horse")

    def test_the_network_is_written_for_images_without_cloud_init(self) -> None:
        server = self.boot("web-1")

        (address,) = (
            found["addr"]
            for found in server["addresses"]["private"]
            if found["version"] == 4
        )
        interfaces = (self.tree(server) / "etc/network/interfaces").read_text()
        assert address in interfaces
        assert "192.168.1.1" in interfaces
        resolv = (self.tree(server) / "etc/resolv.conf").read_text()
        assert "nameserver 192.168.1.2" in resolv

    def test_a_damaged_image_gives_an_error_and_leaves_nothing(self) -> None:
        whole = cloud_fixtures.rootfs_tarball()
        damaged = self.glance.add_image(whole[:-20], claimed_data=whole)

        server = self.boot("web-1", image_id=damaged, status="ERROR")

        assert damaged in self.fault(server)
        self._assert_no_template()
        self.delete(server)
        assert self.left_on(self.node) == []

    def test_an_image_that_is_no_archive_is_refused(self) -> None:
        image = self.glance.add_image(b"QFI\xfb" + b"\0" * 4096)

        server = self.boot("web-1", image_id=image, status="ERROR")

        assert image in self.fault(server)
        self._assert_no_template()
        self.delete(server)
        assert self.left_on(self.node) == []

    def test_personality_files_of_old_clients_are_written(self) -> None:
        self.api.microversion = "2.56"
        server = self.boot(
            "web-1",
            personality=[
                {
                    "path": "/etc/motd",
                    "contents": base64.b64encode(b"welcome\n").decode(),
                }
            ],
        )

        assert (self.tree(server) / "etc/motd").read_bytes() == b"welcome\n"
        self._assert_owned_by_the_guest(server, "etc/motd")

    def _ports(self, server: dict[str, Any]) -> list[dict[str, Any]]:
        """A server's Neutron ports in the order of its NICs."""
        ports = self.neutron.list_ports(True, device_id=server["id"])["ports"]
        addresses = [
            found["OS-EXT-IPS-MAC:mac_addr"]
            for network in server["addresses"].values()
            for found in network
        ]
        return sorted(ports, key=lambda port: addresses.index(port["mac_address"]))

    def test_a_rebuild_makes_the_tree_anew(self) -> None:
        server = self.boot("web-1")
        planted = self.tree(server) / "etc" / "planted"
        planted.write_text("of the old tree")

        image = server["image"]["id"]
        self.act(server, "rebuild", {"imageRef": image, "adminPass": "another-1"})

        found = self.api.get_server(server["id"])
        assert found["status"] == "ACTIVE"
        ctid = self.container(server)
        assert not (self.tree(server) / "etc" / "planted").exists()
        assert len(self.node.containers()) == 1
        assert set(self.ovs.ports(self.node)) == self.ovs.interfaces(self.node)
        assert self.node.state(ctid) == "running"

    def _assert_no_template(self) -> None:
        assert list(self.node.template_dir.glob("[!.]*")) == []
        assert list(self.node.template_dir.rglob("*.part")) == []

    def _assert_owned_by_the_guest(self, server: dict[str, Any], path: str) -> None:
        written, unpacked = (
            (self.tree(server) / name).stat() for name in (path, "sbin/init")
        )
        assert (written.st_uid, written.st_gid) == (unpacked.st_uid, unpacked.st_gid)

    def _assert_nowhere_in_an_argument(self, secret: str) -> None:
        for command in self.node.commands():
            assert not any(secret in word for word in command.argv)
        assert secret not in self.stdlog.logger.output


class TestBootWithVzctl4(BootTests, shared.SharedCloudTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"

    def test_ctids_begin_above_the_reserved_ones(self) -> None:
        server = self.boot("web-1", networks="none")

        assert int(self.container(server)) > 100


class TestBootWithVzctl9(BootTests, shared.SharedCloudTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"

    def test_the_ctid_is_the_servers_uuid(self) -> None:
        server = self.boot("web-1", networks="none")

        assert self.container(server) == server["id"]
