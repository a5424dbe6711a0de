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

import configparser
import ipaddress
import json
import shlex
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovznovadriver.compute import netfiles, spec


def subnet(cidr, *addresses, gateway=None, routes=(), dns=(), **more):
    network = ipaddress.ip_network(cidr)
    return spec.Subnet(
        network=network,
        addresses=tuple(
            ipaddress.ip_interface(f"{a}/{network.prefixlen}") for a in addresses
        ),
        gateway=ipaddress.ip_address(gateway) if gateway else None,
        routes=tuple(
            spec.Route(ipaddress.ip_network(to), ipaddress.ip_address(via))
            for to, via in routes
        ),
        dns=tuple(map(ipaddress.ip_address, dns)),
        **more,
    )


def nic(index, *subnets, mtu=None):
    return spec.Nic(
        index=index,
        name=f"eth{index}",
        mac=f"fa:16:3e:00:00:0{index}",
        devname=f"tap{index}",
        port_id=f"port-{index}",
        network_id="net",
        vif_type="ovs",
        mtu=mtu,
        subnets=subnets,
    )


IPV4 = subnet(
    "10.0.0.0/24",
    "10.0.0.5",
    "10.0.0.6",
    gateway="10.0.0.1",
    routes=[("10.9.0.0/16", "10.0.0.9")],
    dns=["10.0.0.2", "8.8.8.8"],
)
IPV6 = subnet(
    "2001:db8::/64",
    "2001:db8::5",
    "2001:db8::6",
    gateway="fe80::1",
    routes=[("2001:db8:9::/48", "2001:db8::9")],
    dns=["2001:4860::1", "8.8.8.8"],
)
SECOND = subnet("10.1.0.0/24", "10.1.0.5", gateway="10.1.0.1", dns=["8.8.8.8"])
DHCP4 = subnet("10.2.0.0/24", dhcp=True)
DHCP6 = subnet("2001:db8:2::/64", dhcp=True, ipv6_mode="dhcpv6-stateful")
SLAAC = subnet("2001:db8:3::/64", "2001:db8:3::5", gateway="fe80::1", ipv6_mode="slaac")

BOTH = [nic(0, IPV4, IPV6, mtu=1450), nic(1, SECOND)]
ASKING = [nic(0, DHCP4, DHCP6), nic(1, SLAAC), nic(2)]


def written(name, nics):
    (writer,) = [writer for writer in netfiles.WRITERS if writer.name == name]
    return {file.path: file for file in writer.write(nics)}


def test_ifupdown_static():
    (file,) = written("ifupdown", BOTH).values()
    assert file.path == "/etc/network/interfaces"
    assert (
        file.content
        == """\
# Written by Nova, and written anew when a port comes or goes.
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet static
    pre-up ip link set dev eth0 mtu 1450
    address 10.0.0.5
    netmask 255.255.255.0
    up ip addr add 10.0.0.6/24 dev eth0
    up ip -4 route add 0.0.0.0/0 via 10.0.0.1 dev eth0
    up ip -4 route add 10.9.0.0/16 via 10.0.0.9 dev eth0
iface eth0 inet6 static
    pre-up ip link set dev eth0 mtu 1450
    address 2001:db8::5
    netmask 64
    accept_ra 0
    up ip addr add 2001:db8::6/64 dev eth0
    up ip -6 route add ::/0 via fe80::1 dev eth0
    up ip -6 route add 2001:db8:9::/48 via 2001:db8::9 dev eth0

auto eth1
iface eth1 inet static
    address 10.1.0.5
    netmask 255.255.255.0
"""
    )


def test_ifupdown_dynamic():
    (file,) = written("ifupdown", ASKING).values()
    assert (
        file.content
        == """\
# Written by Nova, and written anew when a port comes or goes.
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet dhcp
iface eth0 inet6 dhcp

auto eth1
iface eth1 inet6 auto

auto eth2
iface eth2 inet manual
    up ip link set dev eth2 up
"""
    )


def test_netplan_static():
    (file,) = written("netplan", BOTH).values()
    assert (file.path, file.mode) == ("/etc/netplan/90-nova.yaml", 0o600)
    comment, _, content = file.content.partition("\n")
    assert comment.startswith("#")
    assert json.loads(content)["network"] == {
        "version": 2,
        "ethernets": {
            "eth0": {
                "dhcp4": False,
                "dhcp6": False,
                "accept-ra": False,
                "addresses": [
                    *("10.0.0.5/24", "10.0.0.6/24"),
                    *("2001:db8::5/64", "2001:db8::6/64"),
                ],
                "routes": [
                    {"to": "0.0.0.0/0", "via": "10.0.0.1"},
                    {"to": "10.9.0.0/16", "via": "10.0.0.9"},
                    {"to": "::/0", "via": "fe80::1"},
                    {"to": "2001:db8:9::/48", "via": "2001:db8::9"},
                ],
                "nameservers": {"addresses": ["10.0.0.2", "8.8.8.8", "2001:4860::1"]},
                "mtu": 1450,
            },
            "eth1": {
                "dhcp4": False,
                "dhcp6": False,
                "accept-ra": False,
                "addresses": ["10.1.0.5/24"],
                "nameservers": {"addresses": ["8.8.8.8"]},
            },
        },
    }


def test_netplan_dynamic():
    (file,) = written("netplan", ASKING).values()
    ethernets = json.loads(file.content.partition("\n")[2])["network"]["ethernets"]
    assert ethernets == {
        "eth0": {"dhcp4": True, "dhcp6": True, "accept-ra": True},
        "eth1": {"dhcp4": False, "dhcp6": False, "accept-ra": True},
        "eth2": {"dhcp4": False, "dhcp6": False, "accept-ra": False},
    }


def test_networkd():
    files = written("networkd", BOTH)
    assert list(files) == [
        f"/etc/systemd/network/00-nova-eth{n}.network" for n in (0, 1)
    ]
    assert (
        files["/etc/systemd/network/00-nova-eth0.network"].content
        == """\
# Written by Nova, and written anew when a port comes or goes.
[Match]
Name=eth0

[Link]
MTUBytes=1450

[Network]
DHCP=no
IPv6AcceptRA=no
Address=10.0.0.5/24
Address=10.0.0.6/24
Address=2001:db8::5/64
Address=2001:db8::6/64
DNS=10.0.0.2
DNS=8.8.8.8
DNS=2001:4860::1

[Route]
Destination=0.0.0.0/0
Gateway=10.0.0.1

[Route]
Destination=10.9.0.0/16
Gateway=10.0.0.9

[Route]
Destination=::/0
Gateway=fe80::1

[Route]
Destination=2001:db8:9::/48
Gateway=2001:db8::9
"""
    )


@pytest.mark.parametrize(
    ("subnets", "dhcp", "accept"),
    [
        ((), "no", "no"),
        ((DHCP4,), "ipv4", "no"),
        ((DHCP6,), "ipv6", "yes"),
        ((DHCP4, DHCP6), "yes", "yes"),
        ((IPV4, SLAAC), "no", "yes"),
    ],
)
def test_networkd_dynamic(subnets, dhcp, accept):
    (file,) = written("networkd", [nic(0, *subnets)]).values()
    assert f"\nDHCP={dhcp}\nIPv6AcceptRA={accept}\n" in file.content


def keyfile(nics, name):
    directory = "/etc/NetworkManager/system-connections"
    file = written("NetworkManager", nics)[f"{directory}/{name}.nmconnection"]
    assert file.mode == 0o600, "NetworkManager ignores a keyfile that others can read"
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(file.content)
    return {section: dict(parser[section]) for section in parser.sections()}


def test_networkmanager_static():
    found = keyfile(BOTH, "eth0")
    assert uuid.UUID(found["connection"].pop("uuid"))
    assert found == {
        "connection": {
            "id": "eth0",
            "type": "ethernet",
            "interface-name": "eth0",
            "autoconnect-priority": "100",
        },
        "ethernet": {"mtu": "1450"},
        "ipv4": {
            "method": "manual",
            "address1": "10.0.0.5/24",
            "address2": "10.0.0.6/24",
            "gateway": "10.0.0.1",
            "route1": "10.9.0.0/16,10.0.0.9",
            "dns": "10.0.0.2;8.8.8.8;",
        },
        "ipv6": {
            "method": "manual",
            "address1": "2001:db8::5/64",
            "address2": "2001:db8::6/64",
            "gateway": "fe80::1",
            "route1": "2001:db8:9::/48,2001:db8::9",
            "dns": "2001:4860::1;",
        },
    }
    other = keyfile(BOTH, "eth1")
    assert "gateway" not in other["ipv4"]
    assert other["ipv6"] == {"method": "ignore"}


def test_networkmanager_dynamic():
    asking = keyfile(ASKING, "eth0")
    assert (asking["ipv4"], asking["ipv6"]) == ({"method": "auto"},) * 2
    advertised = keyfile(ASKING, "eth1")
    assert advertised["ipv4"] == {"method": "disabled"}
    assert advertised["ipv6"] == {"method": "auto", "addr-gen-mode": "eui64"}


def variables(content):
    words = (shlex.split(line, comments=True) for line in content.splitlines())
    return dict(word.split("=", 1) for found in words for word in found)


def test_network_scripts_static():
    directory = "/etc/sysconfig/network-scripts"
    files = written("network-scripts", BOTH)
    assert sorted(files) == sorted(
        f"{directory}/{kind}-eth{n}"
        for kind in ("ifcfg", "route", "route6")
        for n in (0, 1)
    )
    assert variables(files[f"{directory}/ifcfg-eth0"].content) == {
        "DEVICE": "eth0",
        "TYPE": "Ethernet",
        "ONBOOT": "yes",
        "BOOTPROTO": "none",
        "IPADDR": "10.0.0.5",
        "PREFIX": "24",
        "IPADDR1": "10.0.0.6",
        "PREFIX1": "24",
        "GATEWAY": "10.0.0.1",
        "IPV6INIT": "yes",
        "IPV6_AUTOCONF": "no",
        "IPV6ADDR": "2001:db8::5/64",
        "IPV6ADDR_SECONDARIES": "2001:db8::6/64",
        "IPV6_DEFAULTGW": "fe80::1%eth0",
        "MTU": "1450",
        "IPV6_MTU": "1450",
        "DNS1": "10.0.0.2",
        "DNS2": "8.8.8.8",
        "DNS3": "2001:4860::1",
    }
    routes = {
        kind: files[f"{directory}/{kind}-eth0"].content
        for kind in (
            "route",
            "route6",
        )
    }
    assert routes == {
        "route": "10.9.0.0/16 via 10.0.0.9 dev eth0\n",
        "route6": "2001:db8:9::/48 via 2001:db8::9 dev eth0\n",
    }
    assert "GATEWAY" not in variables(files[f"{directory}/ifcfg-eth1"].content)
    assert files[f"{directory}/route-eth1"].content == ""


def test_network_scripts_dynamic():
    files = written("network-scripts", ASKING)
    eth0, eth1, eth2 = (
        variables(files[f"/etc/sysconfig/network-scripts/ifcfg-eth{n}"].content)
        for n in range(3)
    )
    assert (eth0["BOOTPROTO"], eth0["DHCPV6C"], eth0["IPV6INIT"]) == (
        *("dhcp", "yes", "yes"),
    )
    assert (eth1["BOOTPROTO"], eth1["IPV6_AUTOCONF"]) == ("none", "yes")
    assert eth1["IPV6_ADDR_GEN_MODE"] == "eui64"
    assert (eth2["BOOTPROTO"], eth2["IPV6INIT"]) == ("none", "no")


def test_wicked_static():
    files = written("wicked", BOTH)
    assert variables(files["/etc/sysconfig/network/ifcfg-eth0"].content) == {
        "STARTMODE": "auto",
        "BOOTPROTO": "static",
        "IPADDR": "10.0.0.5/24",
        "IPADDR_1": "10.0.0.6/24",
        "IPADDR_2": "2001:db8::5/64",
        "IPADDR_3": "2001:db8::6/64",
        "MTU": "1450",
    }
    assert files["/etc/sysconfig/network/ifroute-eth0"].content == (
        "0.0.0.0/0 10.0.0.1 - eth0\n"
        "10.9.0.0/16 10.0.0.9 - eth0\n"
        "::/0 fe80::1 - eth0\n"
        "2001:db8:9::/48 2001:db8::9 - eth0\n"
    )


@pytest.mark.parametrize(
    ("subnets", "protocol"),
    [
        ((DHCP4,), "dhcp4"),
        ((DHCP6,), "dhcp6"),
        ((DHCP4, DHCP6), "dhcp"),
        ((DHCP4, IPV6), "dhcp4+static"),
        ((), "static"),
    ],
)
def test_wicked_dynamic(subnets, protocol):
    files = written("wicked", [nic(0, *subnets)])
    found = variables(files["/etc/sysconfig/network/ifcfg-eth0"].content)
    assert found["BOOTPROTO"] == protocol


def test_only_the_first_nic_with_a_gateway_has_the_default_route():
    plain = subnet("10.3.0.0/24", "10.3.0.5")
    found = netfiles.plans([nic(0, plain), nic(1, SECOND), nic(2, IPV4, IPV6)])

    assert [plan.ipv4.gateway for plan in found] == [None, SECOND.gateway, None]
    assert [plan.ipv6.gateway for plan in found] == [None, None, IPV6.gateway]


def test_a_destination_has_one_route_that_of_the_first_nic():
    """`ip route add` of a second one fails, and ifup ends there."""
    to, anywhere = "10.9.0.0/16", "0.0.0.0/0"
    nics = [
        nic(0, subnet("10.0.0.0/24", "10.0.0.5", routes=[(to, "10.0.0.9")])),
        nic(
            1,
            subnet("10.1.0.0/24", "10.1.0.5", routes=[(anywhere, "10.1.0.9")]),
            subnet("10.2.0.0/24", "10.2.0.5", routes=[(anywhere, "10.2.0.9")]),
        ),
        nic(2, subnet("10.3.0.0/24", "10.3.0.5", routes=[(to, "10.3.0.9")])),
        nic(3, SECOND),
    ]

    assert [plan.routes for plan in netfiles.plans(nics)] == [
        [(to, "10.0.0.9")],
        [(anywhere, "10.1.0.9")],
        [],
        [],
    ]


def test_a_gateway_goes_before_a_host_route_to_everywhere():
    both = subnet(
        "10.0.0.0/24",
        "10.0.0.5",
        gateway="10.0.0.1",
        routes=[("0.0.0.0/0", "10.0.0.9")],
    )

    (plan,) = netfiles.plans([nic(0, both)])

    assert plan.routes == [("0.0.0.0/0", "10.0.0.1")]


def test_a_subnet_with_dhcp_whose_address_is_known_is_static():
    known = subnet("10.2.0.0/24", "10.2.0.5", gateway="10.2.0.1", dhcp=True)
    (plan,) = netfiles.plans([nic(0, known)])

    assert plan.addresses == ["10.2.0.5/24"]
    assert not plan.ipv4.dhcp
    assert plan.ipv4.gateway == known.gateway


def test_an_advertised_subnet_keeps_its_host_routes_but_not_its_address():
    routed = subnet(
        "2001:db8::/64",
        "2001:db8::5",
        gateway="fe80::1",
        routes=[("2001:db8:9::/48", "2001:db8::9")],
        ipv6_mode="dhcpv6-stateless",
    )
    (plan,) = netfiles.plans([nic(0, routed)])

    assert plan.addresses == []
    assert plan.routes == [("2001:db8:9::/48", "2001:db8::9")]


def test_resolv_conf_names_every_server_once():
    (file,) = netfiles.resolv_conf(BOTH)
    assert file.path == "/etc/resolv.conf"
    assert file.content.splitlines()[1:] == [
        f"nameserver {ip}" for ip in ("10.0.0.2", "8.8.8.8", "2001:4860::1")
    ]
    assert netfiles.resolv_conf(ASKING) == []


# What the trees of distributions hold of netfiles.PATHS, by their packages.
TREES = {
    "Debian 12 with ifupdown": (["/sbin/ifup", "/etc/network"], "ifupdown"),
    "Debian 12 minimal, networkd switched on": (
        [
            *("/sbin/ifup", "/etc/network", "/etc/systemd/network"),
            "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        ],
        "networkd",
    ),
    "Ubuntu 24.04": (
        [
            *("/usr/sbin/netplan", "/etc/netplan", "/etc/systemd/network"),
            "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        ],
        "netplan",
    ),
    "Alpine": (["/sbin/ifup", "/etc/network"], "ifupdown"),
    "CentOS 7": (
        [
            *("/sbin/ifup", "/usr/sbin/NetworkManager"),
            "/etc/sysconfig/network-scripts/ifup-eth",
        ],
        "network-scripts",
    ),
    "AlmaLinux 9": (["/usr/sbin/NetworkManager"], "NetworkManager"),
    "openSUSE Leap": (
        ["/sbin/ifup", "/usr/sbin/wicked", "/etc/sysconfig/network"],
        "wicked",
    ),
    "only a shell": ([], None),
}


@pytest.mark.parametrize("name", TREES)
def test_a_distribution_is_known_by_what_its_tree_holds(name):
    paths, expected = TREES[name]
    assert set(paths) <= set(netfiles.PATHS)
    kinds = {path: "file" if path in paths else None for path in netfiles.PATHS}

    writer = netfiles.find_writer(kinds)

    assert (writer.name if writer else None) == expected


ADDRESSES = {4: st.ip_addresses(v=4), 6: st.ip_addresses(v=6)}


@st.composite
def subnets(draw):
    version = draw(st.sampled_from([4, 6]))
    address = ADDRESSES[version]
    length = draw(st.integers(0, 32 if version == 4 else 128))
    found = [ipaddress.ip_interface(f"{ip}/{length}") for ip in draw(st.lists(address))]
    network = ipaddress.ip_interface(f"{draw(address)}/{length}").network
    return spec.Subnet(
        network=network,
        addresses=tuple(found),
        gateway=draw(st.none() | address),
        routes=tuple(spec.Route(network, draw(address)) for _ in range(2)),
        dns=tuple(draw(st.lists(st.ip_addresses(), max_size=3))),
        dhcp=draw(st.booleans()),
        ipv6_mode=draw(st.sampled_from([None, "slaac"])) if version == 6 else None,
    )


@given(st.lists(st.lists(subnets(), max_size=3), max_size=3))
def test_every_static_address_is_in_every_writers_files_and_nothing_odd(found):
    nics = [nic(number, *of_nic) for number, of_nic in enumerate(found)]
    for writer in netfiles.WRITERS:
        files = writer.write(nics)
        text = "".join(file.content for file in files)
        for plan in netfiles.plans(nics):
            for address in plan.ipv4.addresses + plan.ipv6.addresses:
                assert str(address.ip) in text, writer.name
        assert len({file.path for file in files}) == len(files)
        assert not set(text) & set("`$;|&<>\\") - {";"}
