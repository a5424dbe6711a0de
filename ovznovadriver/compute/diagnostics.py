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

"""What there is to say of a server: one vzlist, and files of the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nova.compute import power_state
from nova.objects import diagnostics as nova_diagnostics

from nova.virt import configdrive
from ovznovadriver.compute import lifecycle, network, servers, spec
from ovznovadriver.openvz import counters
from ovznovadriver.openvz import node as ovz_node

_KIB_PER_PAGE = 4


class Diagnostics:
    """What Nova asks of a server's health.

    :param network: the ports of this host's servers
    """

    def __init__(self, node: ovz_node.Node, network: network.Network) -> None:
        self._node = node
        self._network = network

    def plain(self, instance: Any) -> dict[str, Any]:
        """As API versions before 2.48 show it: in words of the driver's own."""
        info = servers.find(self._node, instance).info
        found: dict[str, Any] = {
            "ctid": info.ctid,
            "state": info.state.value,
            "uptime_seconds": info.uptime,
            "processes": info.numproc,
            "cpu_time": counters.cpu_time(self._node, info.ctid),
            "memory_kb": _kib(info.physpages),
            "disk_kb": info.diskspace_kb,
        }
        for nic, counted in self._nics(instance):
            if counted is None:
                continue
            for way, traffic in (("rx", counted.received), ("tx", counted.sent)):
                found |= {
                    f"{nic.devname}_{way}": traffic.octets,
                    f"{nic.devname}_{way}_packets": traffic.packets,
                    f"{nic.devname}_{way}_errors": traffic.errors,
                    f"{nic.devname}_{way}_drop": traffic.dropped,
                }
        return found

    def standard(self, instance: Any) -> nova_diagnostics.Diagnostics:
        """As API versions from 2.48 on show it: in words that all drivers share.

        Nova's list of drivers is closed and has no OpenVZ, and its API wants one of
        them (nova.objects.fields.HypervisorDriver, 34.0): "driver" names the one
        that containers come nearest to, "hypervisor" says the truth.
        """
        info = servers.find(self._node, instance).info
        state = lifecycle.POWER_STATES[info.state]
        found = nova_diagnostics.Diagnostics(
            state=power_state.STATE_MAP[state],
            driver="libvirt",
            hypervisor="openvz",
            hypervisor_os="linux",
            config_drive=configdrive.required_by(instance),
            uptime=None if info.uptime is None else int(info.uptime),
        )
        found.memory_details = nova_diagnostics.MemoryDiagnostics(
            maximum=instance.flavor.memory_mb,
            used=None if info.physpages is None else _kib(info.physpages) // 1024,
        )
        # One counter for all: a container's processes share its CPUs.
        found.add_cpu(id=0, time=counters.cpu_time(self._node, info.ctid))
        found.num_cpus = instance.flavor.vcpus
        for nic, counted in self._nics(instance):
            found.add_nic(mac_address=nic.mac, **_standard_counters(counted))
        found.num_disks = 1
        return found

    def _nics(
        self, instance: Any
    ) -> Iterator[tuple[spec.Nic, counters.Counters | None]]:
        for nic in self._network.nics(instance, instance.get_network_info()):
            yield nic, counters.of_interface(self._node, nic.devname)


def _kib(pages: int | None) -> Any:
    return None if pages is None else pages * _KIB_PER_PAGE


def _standard_counters(counted: counters.Counters | None) -> dict[str, int]:
    if counted is None:
        return {}
    return {
        f"{way}_{name}": value
        for way, traffic in (("rx", counted.received), ("tx", counted.sent))
        for name, value in (
            ("octets", traffic.octets),
            ("packets", traffic.packets),
            ("errors", traffic.errors),
            ("drop", traffic.dropped),
        )
    }
