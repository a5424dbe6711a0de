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

"""The config drive: all that Nova tells a server, as files.

A container has no block device to find a drive on. cloud-init's ConfigDrive
source reads the same files from a seed directory first (SEED; see get_data of
cloudinit/sources/DataSourceConfigDrive.py), and ds-identify, which decides at boot
whether cloud-init runs at all, looks for it there too (check_configdrive_v2 of
tools/ds-identify).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nova.api.metadata import base as metadata

from ovznovadriver.compute import netfiles
from ovznovadriver.compute.spec import IPInterface, Nic, Subnet

#: The seed directory, in the tree.
SEED = "/var/lib/cloud/seed/config_drive"


def config_drive(
    instance: Any,
    network_info: Any,
    nics: Sequence[Nic],
    *,
    admin_password: str | None = None,
    injected_files: Iterable[tuple[str, bytes]] | None = None,
) -> tuple[tuple[str, bytes], ...]:
    """The files of a server's config drive.

    :param instance: nova.objects.Instance
    :param network_info: nova.network.model.NetworkInfo
    :param nics: the same, as nics_from_nova made it
    :param injected_files: as spawn gets them
    :returns: (path relative to the drive's root, content)
    """
    described = metadata.InstanceMetadata(
        instance,
        content=list(injected_files or ()),
        extra_md={"admin_pass": admin_password} if admin_password else {},
        network_info=network_info,
        network_metadata=network_data(nics),
    )
    return tuple(
        (path, content.encode() if isinstance(content, str) else content)
        for path, content in described.metadata_for_config_drive()
    )


def network_data(nics: Sequence[Nic]) -> dict[str, list[dict[str, Any]]]:
    """network_data.json, of the form that Nova documents.

    Nova's own has only the first address of each IP version, and of a subnet with
    DHCP neither address, route, name server nor MTU.
    """
    networks: list[dict[str, Any]] = []
    for nic in nics:
        for subnet in nic.subnets:
            networks += _networks(nic, subnet, len(networks))
    return {
        "links": [_link(nic) for nic in nics],
        "networks": networks,
        "services": _services(netfiles.name_servers(nics)),
    }


def _link(nic: Nic) -> dict[str, Any]:
    return {
        "id": nic.devname,
        # Not in Nova's form. cloud-init takes it for the name inside the guest.
        "name": nic.name,
        "vif_id": nic.port_id,
        "type": "phy",
        "mtu": nic.mtu,
        "ethernet_mac_address": nic.mac,
    }


def _services(servers: Iterable[object]) -> list[dict[str, str]]:
    return [{"type": "dns", "address": str(server)} for server in servers]


def _networks(nic: Nic, subnet: Subnet, number: int) -> list[dict[str, Any]]:
    def network(kind: str, offset: int = 0) -> dict[str, Any]:
        return {
            "id": f"network{number + offset}",
            "type": f"ipv{subnet.version}{kind}",
            "link": nic.devname,
            "network_id": nic.network_id,
        }

    if subnet.asks_dhcp:
        return [network("_dhcp")]
    if subnet.autoconf:
        found = [network(f"_{subnet.ipv6_mode}")]
    else:
        found = [
            network("", offset) | _static(address)
            for offset, address in enumerate(subnet.addresses)
        ]
    for offset, entry in enumerate(found):
        # Once is enough, and twice is an error for some of cloud-init's renderers.
        entry["routes"] = [] if offset else _routes(subnet)
        entry["services"] = [] if offset else _services(subnet.dns)
    return found


def _static(address: IPInterface) -> dict[str, str]:
    return {"ip_address": str(address.ip), "netmask": str(address.netmask)}


def _routes(subnet: Subnet) -> list[dict[str, str]]:
    routes = []
    # Advertisements bring their router along.
    if subnet.gateway is not None and not subnet.autoconf:
        everywhere = type(subnet.gateway)(0)
        routes.append(_route(everywhere, everywhere, subnet.gateway))
    for route in subnet.routes:
        network = route.destination
        routes.append(_route(network.network_address, network.netmask, route.gateway))
    return routes


def _route(network: object, netmask: object, gateway: object) -> dict[str, str]:
    return {
        "network": str(network),
        "netmask": str(netmask),
        "gateway": str(gateway),
    }
