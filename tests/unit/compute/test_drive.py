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

import ipaddress
import json
from unittest import mock

import pytest
from nova.api.metadata import base as metadata
from nova.network import model

from nova import objects
from ovznovadriver.compute import drive
from tests.unit.compute.test_netfiles import ASKING, BOTH, SLAAC, nic, subnet

LATEST = "openstack/latest"
ANY = str(ipaddress.IPv4Address(0))


@pytest.fixture
def instance():
    objects.register_all()
    return objects.Instance(
        id=1,
        uuid="6f1bd3c2-0a7e-4d0c-9d9f-3a5d6c1f2b10",
        project_id="project",
        user_id="user",
        hostname="web-1",
        display_name="web 1",
        launch_index=0,
        reservation_id="r-1",
        availability_zone="nova",
        image_ref="image",
        kernel_id="",
        ramdisk_id="",
        root_device_name="/dev/vda",
        default_ephemeral_device=None,
        default_swap_device=None,
        created_at=None,
        key_name="mine",
        key_data="ssh-ed25519 AAAA me",
        user_data="IyEvYmluL3NoCg==",
        metadata={"role": "web"},
        system_metadata={},
        ec2_ids=objects.EC2Ids(
            instance_id="i-1", ami_id="ami-1", kernel_id="", ramdisk_id=""
        ),
        keypairs=objects.KeyPairList(
            objects=[
                objects.KeyPair(
                    name="mine", type="ssh", public_key="ssh-ed25519 AAAA me"
                )
            ]
        ),
        device_metadata=None,
        numa_topology=None,
        flavor=objects.Flavor(name="small", flavorid="1"),
        security_groups=objects.SecurityGroupList(objects=[]),
    )


@pytest.fixture
def files(instance):
    with (
        mock.patch.object(metadata.security_group_api, "get_instance_security_groups"),
        mock.patch.object(metadata, "_format_instance_mapping", return_value={}),
    ):
        return dict(
            drive.config_drive(
                instance,
                model.NetworkInfo([]),
                BOTH,
                admin_password="s3cret",
                injected_files=[("/etc/motd", b"hello")],
            )
        )


def test_the_drive_holds_what_nova_tells_the_server(files):
    told = json.loads(files[f"{LATEST}/meta_data.json"])

    assert told["uuid"] == "6f1bd3c2-0a7e-4d0c-9d9f-3a5d6c1f2b10"
    assert told["hostname"].startswith("web-1")
    assert told["admin_pass"] == "s3cret"
    assert told["meta"] == {"role": "web"}
    assert told["public_keys"] == {"mine": "ssh-ed25519 AAAA me"}
    assert files[f"{LATEST}/user_data"] == b"#!/bin/sh\n"


def test_personality_files_are_on_the_drive(files):
    (listed,) = json.loads(files[f"{LATEST}/meta_data.json"])["files"]

    assert listed["path"] == "/etc/motd"
    assert files[f"openstack{listed['content_path']}"] == b"hello"


def test_all_is_bytes_under_relative_paths(files):
    for path, content in files.items():
        assert isinstance(content, bytes)
        assert not path.startswith("/")
        assert ".." not in path


def test_the_network_on_the_drive_is_complete(files):
    assert json.loads(files[f"{LATEST}/network_data.json"]) == drive.network_data(BOTH)


def test_network_data_of_static_subnets():
    found = drive.network_data(BOTH)

    assert found["links"][0] == {
        "id": "tap0",
        "name": "eth0",
        "vif_id": "port-0",
        "type": "phy",
        "mtu": 1450,
        "ethernet_mac_address": "fa:16:3e:00:00:00",
    }
    first, second = found["networks"][:2]
    assert first == {
        "id": "network0",
        "type": "ipv4",
        "link": "tap0",
        "network_id": "net",
        "ip_address": "10.0.0.5",
        "netmask": "255.255.255.0",
        "routes": [
            {"network": ANY, "netmask": ANY, "gateway": "10.0.0.1"},
            {"network": "10.9.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.9"},
        ],
        "services": [
            {"type": "dns", "address": "10.0.0.2"},
            {"type": "dns", "address": "8.8.8.8"},
        ],
    }
    assert second["ip_address"] == "10.0.0.6"
    assert second["routes"] == second["services"] == []
    addresses = [entry["ip_address"] for entry in found["networks"]]
    assert addresses == [
        *("10.0.0.5", "10.0.0.6", "2001:db8::5", "2001:db8::6", "10.1.0.5"),
    ]
    ids = [entry["id"] for entry in found["networks"]]
    assert ids == [f"network{number}" for number in range(5)]
    assert [service["address"] for service in found["services"]] == [
        *("10.0.0.2", "8.8.8.8", "2001:4860::1"),
    ]


def test_network_data_of_ipv6_has_its_own_default_route_and_mask():
    (_, _, ipv6, *_rest) = drive.network_data(BOTH)["networks"]

    assert ipv6["type"] == "ipv6"
    assert ipv6["netmask"] == "ffff:ffff:ffff:ffff::"
    assert ipv6["routes"][0] == {"network": "::", "netmask": "::", "gateway": "fe80::1"}


def test_network_data_of_dynamic_subnets():
    found = drive.network_data(ASKING)["networks"]

    assert [(entry["type"], entry["link"]) for entry in found] == [
        ("ipv4_dhcp", "tap0"),
        ("ipv6_dhcp", "tap0"),
        ("ipv6_slaac", "tap1"),
    ]
    assert all("ip_address" not in entry for entry in found)
    assert found[2]["routes"] == []


def test_an_advertised_subnet_is_there_without_an_address_too():
    bare = subnet("2001:db8::/64", ipv6_mode="dhcpv6-stateless")

    (entry,) = drive.network_data([nic(0, bare)])["networks"]

    assert entry["type"] == "ipv6_dhcpv6-stateless"
    assert SLAAC.addresses


def test_text_of_nova_becomes_bytes():
    with mock.patch.object(metadata, "InstanceMetadata") as made:
        made.return_value.metadata_for_config_drive.return_value = [("a", "ü")]
        found = drive.config_drive(None, [], [])

    assert found == (("a", "ü".encode()),)
    assert made.call_args.kwargs["extra_md"] == {}
