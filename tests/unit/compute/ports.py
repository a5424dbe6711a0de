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

"""Ports as Nova hands them over."""

from __future__ import annotations

from typing import Any

from nova.network import model

from tests.simulator.node import SimNode

PORTS = [
    "3c1a4e1e-0d2f-4a3b-9c55-0a1b2c3d4e01",
    "3c1a4e1e-0d2f-4a3b-9c55-0a1b2c3d4e02",
]


def vif(port: str = PORTS[0], **changes: Any) -> model.VIF:
    """A port, of two, with other values than the usual ones by name."""
    number = PORTS.index(port)
    usual = {
        "id": port,
        "address": f"fa:16:3e:00:00:0{number + 1}",
        "network": model.Network(
            id="6e3f2c1b-0000-4000-8000-000000000001", bridge="br-int", subnets=[]
        ),
        "type": model.VIF_TYPE_OVS,
        "details": {"port_filter": True},
        "ovs_interfaceid": port,
        "devname": f"tap3c1a4e1e-0{number}",
        "vnic_type": model.VNIC_TYPE_NORMAL,
        "active": False,
    }
    return model.VIF(**{**usual, **changes})


def network_info(*vifs: model.VIF) -> model.NetworkInfo:
    """The ports of a server; both, if none is given."""
    return model.NetworkInfo(vifs or [vif(port) for port in PORTS])


def taps(sim: SimNode) -> list[str]:
    """The host ends that a node has."""
    return [name for name in sim.nics() if name.startswith("tap")]


def stops(sim: SimNode) -> list[tuple[str, ...]]:
    """The options of each `vzctl stop`, in order."""
    return [command.argv[3:] for command in sim.commands("vzctl", "stop")]
