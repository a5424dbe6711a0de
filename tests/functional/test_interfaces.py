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
"""Interfaces that come and go, through the REST API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nova.tests.functional.api import client as api_client

from ovznovadriver.compute import drive
from tests.functional import shared


class InterfaceTests:
    """What holds for both families of vzctl."""

    def test_one_comes_and_goes_while_the_server_runs(self) -> None:
        server = self.boot("web-1")
        self.node.clear_commands()

        port = self._attach(server, tag="storage")

        assert self.subcommands(self.node) == ["set"]
        assert self._names(server) == ["eth0", "eth1"]
        assert port[:11] in self._joined(self.ovs.ports(self.node))
        assert len(self._taps()) == 2
        assert self._tags(server) == {self._mac(port): ["storage"]}
        self.node.clear_commands()

        self._detach(server, port)

        assert self.subcommands(self.node) == ["set"]
        assert self._names(server) == ["eth0"]
        assert len(self._taps()) == len(self.ovs.ports(self.node)) == 1
        assert self._tags(server) == {}
        self.delete(server)
        assert self.left_on(self.node) == []

    @pytest.mark.slow
    def test_it_works_in_every_state_that_nova_allows(self) -> None:
        server = self.boot("web-1")
        for action, back in (("pause", "unpause"), ("os-stop", "os-start")):
            self.act(server, action)

            port = self._attach(server)

            assert self._names(server) == ["eth0", "eth1"], action
            self._detach(server, port)
            assert self._names(server) == ["eth0"], action
            self.act(server, back)
            assert len(self._taps()) == 1, action

    @pytest.mark.slow
    def test_each_failure_leaves_the_server_as_it_was(self) -> None:
        server = self.boot("web-1")
        ctid = self.container(server)
        before = self.node.conf_text(ctid), self._nics_file(ctid)
        for when in ("before", "after"):
            self.node.fail("vzctl", "set", rc=96, stderr="no\n", when=when)

            self._refused(server)

            assert (self.node.conf_text(ctid), self._nics_file(ctid)) == before
            assert len(self._taps()) == len(self.ovs.ports(self.node)) == 1
            assert self.api.get_server(server["id"])["status"] == "ACTIVE"
        self.delete(server)
        assert self.left_on(self.node) == []

    # -- looking -------------------------------------------------------------

    def _ports(self, server: dict[str, Any]) -> list[str]:
        found = self.api.get_port_interfaces(server["id"])
        return [entry["port_id"] for entry in found]

    def _attach(self, server: dict[str, Any], tag: str | None = None) -> str:
        request = {"net_id": self.neutron.network_1["id"]}
        request |= {"tag": tag} if tag else {}
        done = self.api.attach_interface(server["id"], {"interfaceAttachment": request})
        return str(done.body["interfaceAttachment"]["port_id"])

    def _refused(self, server: dict[str, Any]) -> None:
        with pytest.raises(api_client.OpenStackApiException, match="500"):
            self._attach(server)

    def _detach(self, server: dict[str, Any], port: str) -> None:
        self.api.detach_interface(server["id"], port)

        self.wait_until("detached", lambda: port not in self._ports(server))

    def _taps(self) -> list[str]:
        return [name for name in self.node.nics() if name.startswith("tap")]

    def _mac(self, port: str) -> str:
        return str(self.neutron._ports[port]["mac_address"])

    def _netif(self, server: dict[str, Any]) -> list[dict[str, str]]:
        text = self.node.conf(self.container(server)).get("NETIF", "")
        return [
            dict(item.split("=", 1) for item in nic.split(","))
            for nic in text.split(";")
            if nic
        ]

    def _names(self, server: dict[str, Any]) -> list[str]:
        return [nic["ifname"] for nic in self._netif(server)]

    def _by_mac(self, server: dict[str, Any]) -> dict[str, str]:
        return {nic["mac"].lower(): nic["ifname"] for nic in self._netif(server)}

    def _tags(self, server: dict[str, Any]) -> dict[str, list[str]]:
        found = self.instance(server).device_metadata
        return {device.mac: device.tags for device in found.devices} if found else {}

    def _drive(self, server: dict[str, Any], name: str) -> str:
        path = self.tree(server) / drive.SEED.lstrip("/") / "openstack/latest" / name
        return path.read_text()

    def _nics_file(self, ctid: str) -> str:
        return (self.node.conf_dir / f"{ctid}.nics").read_text()

    @staticmethod
    def _joined(ports: dict[str, Any]) -> str:
        return " ".join(ports)


class TestInterfacesWithVzctl4(InterfaceTests, shared.SharedCloudTest):
    """vzctl 4."""


class TestInterfacesWithVzctl9(InterfaceTests, shared.SharedCloudTest):
    """vzctl 9; with it, what does not depend on the family."""

    FAMILY = "9"

    @pytest.mark.slow
    def test_the_guest_finds_it_described(self) -> None:
        server = self.boot("web-1")

        port = self._attach(server, tag="storage")

        described = json.loads(self._drive(server, "network_data.json"))
        assert [link["name"] for link in described["links"]] == ["eth0", "eth1"]
        (device,) = json.loads(self._drive(server, "meta_data.json"))["devices"]
        assert (device["mac"], device["tags"]) == (self._mac(port), ["storage"])
        written = (self.tree(server) / "etc/network/interfaces").read_text()
        assert "iface eth1" in written

        self._detach(server, port)

        described = json.loads(self._drive(server, "network_data.json"))
        assert [link["name"] for link in described["links"]] == ["eth0"]
        written = (self.tree(server) / "etc/network/interfaces").read_text()
        assert "eth1" not in written

    def test_names_stay_as_long_as_the_port_does(self) -> None:
        server = self.boot("web-1")
        (first,) = self._ports(server)
        second = self._attach(server)
        self._detach(server, first)
        kept = {self._mac(second): "eth1"}
        assert self._by_mac(server) == kept
        for action, arguments in (
            ("reboot", {"type": "HARD"}),
            ("rebuild", {"imageRef": self.image_id}),
        ):
            self.act(server, action, arguments)
            assert self._by_mac(server) == kept, action

        third = self._attach(server)

        assert self._by_mac(server) == kept | {self._mac(third): "eth0"}
        assert sorted(self._taps()) == sorted(self.ovs.ports(self.node))

    @pytest.mark.slow
    def test_an_interface_that_vzctl_leaves_out_is_refused(self) -> None:
        server = self.boot("web-1")
        self.node.fail("vzctl", "set", rc=0)

        self._refused(server)

        assert self._names(server) == ["eth0"]
        assert len(self.ovs.ports(self.node)) == 1

    @pytest.mark.slow
    def test_tags_of_a_boot_are_in_the_metadata(self) -> None:
        network = self.neutron.network_1["id"]

        server = self.boot("web-1", networks=[{"uuid": network, "tag": "front"}])

        (port,) = self._ports(server)
        (device,) = json.loads(self._drive(server, "meta_data.json"))["devices"]
        assert (device["mac"], device["tags"]) == (self._mac(port), ["front"])
