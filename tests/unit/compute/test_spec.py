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

import dataclasses
import ipaddress
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nova.network import model

from ovznovadriver import exception
from ovznovadriver.compute import spec

PORT = "51a9642b-1414-4bd6-9a92-1320ddc55a63"
NETWORK = "4587c867-a2e6-4356-8c5b-bc077dcb8620"


def subnet(**changes):
    values = {
        "cidr": "10.0.0.0/24",
        "gateway": model.IP(address="10.0.0.1", type="gateway"),
        "ips": [model.FixedIP(address="10.0.0.5"), model.FixedIP(address="10.0.0.6")],
        "dns": [model.IP(address="10.0.0.2", type="dns")],
        "routes": [
            model.Route(cidr="10.9.0.0/16", gateway=model.IP(address="10.0.0.9"))
        ],
    }
    return model.Subnet(**values | changes)


def vif(*, subnets=(), mtu=1450, **changes):
    network = model.Network(id=NETWORK, bridge="br-int", subnets=list(subnets), mtu=mtu)
    values = {
        "id": PORT,
        "address": "FA:16:3E:00:00:01",
        "network": network,
        "type": "ovs",
        "devname": "tap51a9642b-14",
    }
    return model.VIF(**values | changes)


def one(**changes):
    (nic,) = spec.nics_from_nova(model.NetworkInfo([vif(**changes)]))
    return nic


def test_a_port_becomes_a_nic():
    assert one(subnets=[subnet()]) == spec.Nic(
        index=0,
        name="eth0",
        mac="fa:16:3e:00:00:01",
        devname="tap51a9642b-14",
        port_id=PORT,
        network_id=NETWORK,
        vif_type="ovs",
        mtu=1450,
        subnets=(
            spec.Subnet(
                network=ipaddress.ip_network("10.0.0.0/24"),
                addresses=(
                    ipaddress.ip_interface("10.0.0.5/24"),
                    ipaddress.ip_interface("10.0.0.6/24"),
                ),
                gateway=ipaddress.ip_address("10.0.0.1"),
                routes=(
                    spec.Route(
                        ipaddress.ip_network("10.9.0.0/16"),
                        ipaddress.ip_address("10.0.0.9"),
                    ),
                ),
                dns=(ipaddress.ip_address("10.0.0.2"),),
            ),
        ),
    )


def test_what_neutron_leaves_out_is_none():
    empty = subnet(gateway=model.IP(address=None), dns=[], routes=[], ips=[])
    nic = one(subnets=[empty, subnet(gateway=None)], mtu=None)

    assert nic.mtu is None
    assert [found.gateway for found in nic.subnets] == [None, None]
    assert nic.subnets[0].addresses == ()
    assert one().subnets == ()


def test_a_nic_with_ipv6_only():
    ipv6 = subnet(
        cidr="2001:db8::/64",
        gateway=model.IP(address="fe80::1"),
        ips=[model.FixedIP(address="2001:db8::5")],
        routes=[],
        ipv6_address_mode="slaac",
    )
    (found,) = one(subnets=[ipv6]).subnets

    assert found.version == 6
    assert found.autoconf
    assert found.addresses == (ipaddress.ip_interface("2001:db8::5/64"),)


@pytest.mark.parametrize(
    ("meta", "ips", "asks"),
    [
        ({}, [], False),
        ({"enable_dhcp": True}, [], True),
        ({"dhcp_server": "10.0.0.3"}, [], True),
        ({"enable_dhcp": True}, [model.FixedIP(address="10.0.0.5")], False),
    ],
)
def test_a_guest_asks_dhcp_only_for_an_address_that_nova_does_not_know(meta, ips, asks):
    (found,) = one(subnets=[subnet(ips=ips, **meta)]).subnets
    assert found.asks_dhcp is asks
    assert found.dhcp is bool(meta)


def test_ports_keep_their_order_and_get_names_by_it():
    vifs = [vif(id=f"port-{n}", devname=f"tap{n}") for n in range(3)]
    nics = spec.nics_from_nova(vifs)

    names = [(nic.index, nic.name, nic.devname) for nic in nics]
    assert names == [(n, f"eth{n}", f"tap{n}") for n in range(3)]


@given(
    st.lists(st.integers(0, 20), unique=True, max_size=6),
    st.dictionaries(st.integers(0, 20), st.integers(0, 99), max_size=6),
)
def test_names_that_are_kept_stay_and_the_others_are_the_first_free(ports, kept):
    taken = {f"eth{number}" for number in kept.values()}
    if len(taken) < len(kept):
        return  # two ports of one name were never kept
    names = {f"port-{port}": f"eth{number}" for port, number in kept.items()}
    vifs = [vif(id=f"port-{port}", devname=f"tap{port}") for port in ports]

    found = {nic.port_id: nic.name for nic in spec.nics_from_nova(vifs, names)}

    free = iter([f"eth{n}" for n in range(200) if f"eth{n}" not in taken])
    assert found == {port: names.get(port) or next(free) for port in found}


@pytest.mark.parametrize("name", ["", "eth", "eth100", "lo", "eth0 up", "../eth0"])
def test_a_kept_name_is_checked(name):
    with pytest.raises(exception.InvalidValue):
        spec.nics_from_nova([vif()], {PORT: name or "eth0\n"})


def test_a_hybrid_plug_has_the_bridge_that_nova_names():
    assert one(details={"ovs_hybrid_plug": True}).bridge == "qbr51a9642b-14"
    assert one(details={"ovs_hybrid_plug": False}).bridge is None
    assert one(details=None).bridge is None


def test_a_port_without_a_devname_gets_the_name_that_nova_makes():
    assert one(devname=None).devname == "tap51a9642b-14"


def test_two_ports_cannot_have_one_host_interface():
    with pytest.raises(exception.InvalidValue, match="devname"):
        spec.nics_from_nova([vif(), vif()])


def test_the_error_of_an_asynchronous_allocation_comes_through():
    def vifs():
        raise LookupError("no more addresses")
        yield

    with pytest.raises(LookupError):
        spec.nics_from_nova(vifs())


@pytest.mark.parametrize(
    "changes",
    [
        {"vnic_type": "direct"},
        {"type": "binding_failed"},
        {"type": "unbound"},
        {"network": None},
    ],
)
def test_a_port_that_no_container_can_have_is_named(changes):
    with pytest.raises(exception.NetworkUnsupported, match=PORT):
        one(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "fa:16:3e:00:00"},
        {"address": None},
        {"address": "fa:16:3e:00:00:01\n"},
        {"devname": "a" * 16},
        {"devname": "tap x"},
        {"devname": "../tap"},
        {"devname": "-tap"},
        {"id": "a\nb"},
        {"id": None},
        {"id": []},
        {"mtu": 67},
        {"mtu": 65536},
        {"mtu": "1450\nX=1"},
        {"mtu": True},
    ],
)
def test_a_malformed_port_is_refused(changes):
    with pytest.raises(exception.InvalidValue):
        one(**changes)


def raw_ip(text):
    """An address as a database that Nova does not check may hold it."""
    return {"address": text}


@pytest.mark.parametrize(
    "changes",
    [
        {"gateway": raw_ip("10.0.0.1\n")},
        {"dns": [raw_ip("fe80::1%eth0\niface x")]},
        {"dns": [raw_ip("fe80::1%eth0")]},
        {"gateway": raw_ip("fe80::1")},
        {"ips": [raw_ip("10.0.0.5/8")]},
        {"ips": [raw_ip("2001:db8::5")]},
        {"ips": [raw_ip("")]},
        {"dns": [raw_ip("dns.example.com")]},
        {"routes": [{"cidr": "10.9.0.0/16", "gateway": None}]},
        {"routes": [{"cidr": "default", "gateway": raw_ip("10.0.0.1")}]},
        {"routes": [{"cidr": "::/0", "gateway": raw_ip("10.0.0.1")}]},
        {"cidr": "10.0.0.0/33"},
        {"cidr": "fe80::%x\n/64", "gateway": None, "ips": [], "routes": []},
        {"routes": [{"cidr": "fe80::%x\n/64", "gateway": raw_ip("fe80::1")}]},
        {"cidr": ""},
        {"meta": {"ipv6_address_mode": "slaac"}},
        {"cidr": "::/64", "meta": {"ipv6_address_mode": "x\n"}, "gateway": None},
    ],
)
def test_a_malformed_subnet_is_refused(changes):
    bad = dict(subnet()) | changes
    with pytest.raises(exception.InvalidValue):
        one(subnets=[bad])


@given(st.text(max_size=30))
def test_no_text_becomes_an_address_that_could_break_out_of_a_line(text):
    try:
        (found,) = one(subnets=[dict(subnet()) | {"dns": [raw_ip(text)]}]).subnets
    except exception.InvalidValue:
        return
    for address in found.dns:
        assert set(str(address)) <= set("0123456789abcdef.:")


def instance(**changes):
    values = {"uuid": PORT, "hostname": "web-1", "key_data": None}
    return SimpleNamespace(**values | changes)


def test_a_server_becomes_a_guest():
    found = spec.guest_from_nova(
        instance(key_data="ssh-ed25519 AAAA me\n\n# no key\nssh-rsa BBBB"),
        admin_password="s3cret",
        injected_files=[("/etc/motd", b"hi"), ("etc/x", "ü")],
        drive=[("openstack/latest/meta_data.json", b"{}")],
    )

    assert found == spec.GuestSpec(
        hostname="web-1",
        admin_password="s3cret",
        ssh_keys=("ssh-ed25519 AAAA me", "ssh-rsa BBBB"),
        files=(
            spec.InjectedFile("/etc/motd", b"hi"),
            spec.InjectedFile("etc/x", "ü".encode()),
        ),
        drive=(("openstack/latest/meta_data.json", b"{}"),),
    )


def test_secrets_are_not_in_the_text_of_a_guest():
    found = spec.guest_from_nova(
        instance(),
        admin_password="s3cret",
        injected_files=[("/x", b"s3cret")],
        drive=[("user_data", b"s3cret")],
    )
    assert "s3cret" not in repr(found)


def test_a_server_without_anything_is_fine():
    found = spec.guest_from_nova(instance(hostname=None), admin_password="")
    assert found == spec.GuestSpec(hostname=f"server-{PORT}")


@pytest.mark.parametrize("name", ["a", "web-1", "1.example.com", "a" * 63])
def test_host_names_of_rfc_1123(name):
    assert spec.checked_hostname(name) == name


@pytest.mark.parametrize(
    "name", ["", "a\n", "a b", "-a", "a-", "a..b", ".a", "a_b", "ä", "a" * 64, "a$(b)"]
)
def test_what_is_no_host_name(name):
    with pytest.raises(exception.InvalidValue):
        spec.checked_hostname(name)


@pytest.mark.parametrize("password", ["a\nb", "a\0b", "a\rb", "\x7f"])
def test_a_password_must_fit_into_a_line_and_is_not_shown(password):
    with pytest.raises(exception.InvalidValue) as caught:
        spec.guest_from_nova(instance(), admin_password=f"s3cret{password}")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("key", ["ssh-rsa A\0B", "ssh-rsa \x1b[2J"])
def test_a_key_with_control_characters_is_refused(key):
    with pytest.raises(exception.InvalidValue, match="ssh key"):
        spec.guest_from_nova(instance(key_data=key))


@pytest.mark.parametrize("path", ["", "/", "a\0b"])
def test_a_personality_file_needs_a_path(path):
    with pytest.raises(exception.InvalidValue, match="path"):
        spec.guest_from_nova(instance(), injected_files=[(path, b"")])


def test_the_values_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        one().mac = "x"
