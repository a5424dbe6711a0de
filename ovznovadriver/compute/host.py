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

"""The host: what it is, what it has, and what of it is in use."""

from __future__ import annotations

import os
import platform
import shutil
import time
from typing import Any

import nova.conf
import os_traits
import psutil
from nova.objects import fields
from os_resource_classes import DISK_GB, MEMORY_MB, VCPU
from oslo_log import log as logging
from oslo_serialization import jsonutils

from nova import utils as nova_utils
from nova.virt import driver
from ovznovadriver import conf
from ovznovadriver.openvz import container as ovz_container
from ovznovadriver.openvz import nethook, resources, vzctl
from ovznovadriver.openvz import node as ovz_node

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

conf.register_opts(CONF)

#: How old, in seconds, a look at the containers may be that is only reported.
REPORT_MAX_AGE = 30

TRAIT = "CUSTOM_HYPERVISOR_OPENVZ"

_ARCH_TRAITS = {
    fields.Architecture.X86_64: os_traits.HW_ARCH_X86_64,
    fields.Architecture.I686: os_traits.HW_ARCH_I686,
    fields.Architecture.AARCH64: os_traits.HW_ARCH_AARCH64,
}


def node_options() -> ovz_node.Options:
    """A copy of the options as they are now, for one node."""
    group = CONF.openvz
    return ovz_node.Options(
        vz_conf=group.vz_conf,
        ve_private_dir=group.ve_private_dir,
        ve_root_dir=group.ve_root_dir,
        ve_conf_dir=group.ve_conf_dir,
        names_dir=group.names_dir,
        lock_dir=group.lock_dir,
        image_template_dir=group.image_template_dir,
        sysfs_dir=group.sysfs_dir,
        privilege=group.privilege,
        root_helper=nova_utils.get_root_helper(),
        program_dirs=tuple(group.program_dirs),
        lock_wait=group.lock_wait,
        limits=vzctl.TimeLimits(
            command=group.command_timeout,
            create=group.create_timeout,
            start=group.start_timeout,
            stop=group.stop_timeout,
            move=group.live_migration_timeout,
        ),
        ctids=(group.ctid_first, group.ctid_last),
        layout=group.layout,
        default_config=group.default_config,
        default_os_hint=group.default_os_hint,
        sizing=resources.SizingOptions(
            default_config=group.default_config,
            use_ubc=group.use_ubc,
            use_cpuunit=group.use_cpuunit,
            use_cpulimit=group.use_cpulimit,
            use_cpus=group.use_cpus,
            use_ioprio=group.use_ioprio,
            use_disk_quotas=group.use_disk_quotas,
            cpulimit_overcommit_multiplier=group.cpulimit_overcommit_multiplier,
            memory_unit_size=group.memory_unit_size,
            file_descriptors_per_unit=group.file_descriptors_per_unit,
            kmemsize_percent_of_memory=group.kmemsize_percent_of_memory,
            kmemsize_barrier_differential=group.kmemsize_barrier_differential,
            numtcpsock_default=group.numtcpsock_default,
            numtcpsock_map=resources.parse_numtcpsock_map(group.numtcpsock_map),
            disk_space_oversub_percent=group.disk_space_oversub_percent,
            tc_mbit_per_unit=group.tc_mbit_per_unit,
            tc_max_line_speed=group.tc_max_line_speed,
        ),
    )


def facts() -> resources.HostFacts:
    """What sizing needs to know of the host."""
    return resources.HostFacts(
        memory_mb=psutil.virtual_memory().total // 2**20,
        cpus=psutil.cpu_count() or 1,
        page_size=os.sysconf("SC_PAGE_SIZE"),
    )


def uptime() -> str:
    """How long the host has been up, in words."""
    seconds = int(time.time() - psutil.boot_time())
    days, rest = divmod(seconds, 86400)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"up {days} days, {rest // 3600}:{rest % 3600 // 60:02d}, load average: {load}"
    )


def open_node(host: str) -> ovz_node.Node:
    """Look at this node, check that the driver can work on it, and say what is odd.

    :raises ConfigurationError: one sentence that says what to do
    """
    node = ovz_node.Node.open(host, node_options())
    warn_of_legacy(node)
    warn_of_hook(node)
    return node


def warn_of_legacy(node: ovz_node.Node) -> None:
    """Say once which containers the driver of 2014 left here."""
    legacy = ovz_container.OvzContainers.legacy(node)
    if legacy:
        LOG.warning(
            "%(count)d containers were made by the driver of 2014 and stay untouched: "
            "%(ctids)s",
            {"count": len(legacy), "ctids": ", ".join(legacy)},
        )


def warn_of_hook(node: ovz_node.Node) -> None:
    """Say when interfaces would not come back with a container that restarts itself."""
    vz_dir = os.path.dirname(node.options.vz_conf)
    missing = nethook.hook_missing(vz_dir, node.version[0])
    if missing is not None:
        LOG.warning(
            "A container that restarts by itself comes back without what the host has"
            " to do for its interfaces: %s",
            missing,
        )


class Host:
    """What Nova and placement are told of a node.

    :ivar nodename: the name of the one hypervisor that a node is
    """

    def __init__(self, node: ovz_node.Node) -> None:
        self._node = node
        self.nodename = node.host

    def _disk(self) -> tuple[int, int, int]:
        """Size, use and free space, in GB, of what holds the private areas."""
        usage = shutil.disk_usage(self._node.paths.private)
        return usage.total // 2**30, usage.used // 2**30, usage.free // 2**30

    def available_resource(self) -> dict[str, Any]:
        """What :meth:`nova.virt.driver.ComputeDriver.get_available_resource` tells."""
        host = facts()
        arch = fields.Architecture.from_host()
        total_gb, used_gb, free_gb = self._disk()
        containers = ovz_container.OvzContainers.list(self._node, REPORT_MAX_AGE)
        major, minor, patch = self._node.version
        return {
            "vcpus": host.cpus,
            "memory_mb": host.memory_mb,
            "local_gb": total_gb,
            "vcpus_used": 0,
            "memory_mb_used": resources.memory_mb_used(
                c.info.physpages for c in containers
            ),
            "local_gb_used": used_gb,
            "hypervisor_type": fields.HVType.OPENVZ,
            "hypervisor_version": major * 1000000 + minor * 1000 + patch,
            "hypervisor_hostname": self.nodename,
            "cpu_info": jsonutils.dumps(
                {
                    "arch": arch,
                    "model": platform.processor() or platform.machine(),
                    "topology": {"cores": host.cpus, "sockets": 1, "threads": 1},
                }
            ),
            "disk_available_least": free_gb,
            "supported_instances": [
                (arch, fields.HVType.OPENVZ, fields.VMMode.EXE),
            ],
            "numa_topology": None,
            "stats": {"uptime": uptime()},
        }

    def update_provider_tree(self, tree: Any, nodename: str) -> None:
        """Tell placement what the node has.

        See :meth:`nova.virt.driver.ComputeDriver.update_provider_tree`.
        """
        host = facts()
        # Nova keeps these two for its drivers, underscore or not.
        ratios = driver.ComputeDriver._get_allocation_ratios(  # noqa: SLF001
            tree.data(nodename).inventory
        )
        reserved_gb = (
            driver.ComputeDriver._get_reserved_host_disk_gb_from_config()  # noqa: SLF001
        )
        inventory = {
            resource: {
                "total": total,
                "min_unit": 1,
                "max_unit": total,
                "step_size": 1,
                "allocation_ratio": ratios[resource],
                "reserved": reserved,
            }
            for resource, total, reserved in (
                (VCPU, host.cpus, CONF.reserved_host_cpus),
                (MEMORY_MB, host.memory_mb, CONF.reserved_host_memory_mb),
                (DISK_GB, self._disk()[0], reserved_gb),
            )
            # placement takes no inventory without anything in it.
            if total > 0
        }
        tree.update_inventory(nodename, inventory)
        traits = [TRAIT, _ARCH_TRAITS.get(fields.Architecture.from_host())]
        tree.add_traits(nodename, *(trait for trait in traits if trait))


def volume_connector() -> dict[str, Any]:
    """How this host would reach volumes.

    Nova also asks where no volume is involved. Volumes cannot be attached here, so
    there is no initiator.
    """
    return {
        "ip": CONF.my_block_storage_ip,
        "host": CONF.host,
        "initiator": None,
        "multipath": False,
    }
