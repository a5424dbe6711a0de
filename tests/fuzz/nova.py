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

"""Targets: what Nova hands over of flavors, images and ports."""

from __future__ import annotations

import copy
from typing import Any

from ovznovadriver import exception
from ovznovadriver.compute import spec
from ovznovadriver.openvz import resources, vzctl
from tests.fuzz.target import Source, Target, as_json, broken

_KEYS = (
    "vz_config_file",
    "vz_cpulimit",
    "vz_bandwidth",
    "quota:cpu_shares",
    "quota:cpu_quota",
    "quota:cpu_period",
    "quota:disk_total_bytes_sec",
    "quota:disk_read_bytes_sec",
    "quota:disk_write_iops_sec",
    "quota:vif_inbound_average",
    "quota:vif_inbound_peak",
    "quota:vif_inbound_burst",
    "quota:vif_outbound_average",
)


def _flavor(data: bytes) -> None:
    source = Source(data)
    flavor = resources.Flavor(
        memory_mb=source.number(2**24),
        vcpus=source.number(512),
        root_gb=source.number(2**20),
        swap_mb=source.number(2**20),
        extra_specs={source.choice(_KEYS): source.text() for _ in range(4)},
    )
    host = resources.HostFacts(memory_mb=65536, cpus=16)
    for ubc in (False, True):
        options = resources.SizingOptions(use_ubc=ubc)
        try:
            found = resources.limits(flavor, host, options)
        except exception.InvalidValue as error:
            str(error)
            continue
        # What vzctl takes.
        disk = found.diskspace and (found.diskspace.soft_kb, found.diskspace.hard_kb)
        settings = vzctl.Settings(
            applyconfig=None,
            numflock=found.numflock,
            numfile=found.numfile,
            numtcpsock=found.numtcpsock,
            cpuunits=found.cpuunits,
            cpulimit=found.cpulimit,
            cpus=found.cpus,
            ioprio=found.ioprio,
            diskspace_kb=disk,
            iolimit=found.iolimit,
            iopslimit=found.iopslimit,
        )
        vzctl.check_arguments(
            ["set", "101", *settings.arguments(vzctl.FAMILY_4), "--save"]
        )
        assert found.cpuunits is None or 8 <= found.cpuunits <= 500000


_PORT: dict[str, Any] = {
    "id": "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01",
    "address": "fa:16:3e:00:00:01",
    "type": "ovs",
    "devname": "tap5d35cf5b-8d",
    "details": {"ovs_hybrid_plug": True},
    "network": {
        "id": "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a02",
        "meta": {"mtu": 1450},
        "subnets": [
            {
                "cidr": "192.0.2.0/24",
                "gateway": {"address": "192.0.2.1"},
                "ips": [{"address": "192.0.2.5"}],
                "dns": [{"address": "192.0.2.2"}],
                "routes": [{"cidr": "10.0.0.0/8", "gateway": {"address": "192.0.2.9"}}],
                "meta": {"dhcp_server": "192.0.2.3"},
            }
        ],
    },
}
_LEAVES = (
    ("id",),
    ("address",),
    ("type",),
    ("vnic_type",),
    ("devname",),
    ("network", "id"),
    ("network", "meta", "mtu"),
    ("network", "subnets", 0, "cidr"),
    ("network", "subnets", 0, "gateway", "address"),
    ("network", "subnets", 0, "ips", 0, "address"),
    ("network", "subnets", 0, "dns", 0, "address"),
    ("network", "subnets", 0, "routes", 0, "cidr"),
    ("network", "subnets", 0, "meta", "ipv6_address_mode"),
)


def _ports(data: bytes) -> None:
    source = Source(data)
    port = copy.deepcopy(_PORT)
    for _ in range(2):
        *way, last = source.choice(_LEAVES)
        text = source.data()
        place: Any = port
        for step in way:
            place = place[step]
        place[last] = as_json(text) if source.number(1) else text.decode("latin-1")
    try:
        (nic,) = spec.nics_from_nova([port])
    except (exception.InvalidValue, exception.NetworkUnsupported) as error:
        str(error)
        return
    assert nic.devname.isascii()
    assert len(nic.devname) <= spec.MAX_DEVNAME
    for subnet in nic.subnets:
        for address in (*subnet.addresses, *subnet.dns):
            assert str(address).replace(":", "").replace(".", "").isascii()
            assert "%" not in str(address)


TARGETS = {
    "flavor": Target(
        _flavor,
        ("openvz.resources",),
        {
            "any number": broken(
                resources, "_integer", lambda _: lambda key, value, least: int(value)
            ),
            "below the least": broken(resources, "MIN_CPUUNITS", lambda _: 0),
        },
    ),
    "ports": Target(
        _ports,
        ("compute.spec",),
        {
            "an address of any text": broken(
                spec, "_mac", lambda _: lambda text: text.lower()
            ),
            "any name of an interface": broken(
                spec, "_devname", lambda _: lambda text: text
            ),
        },
    ),
}
