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

"""A server's life: from spawn to destroy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nova.conf
from nova.compute import api as compute_api
from nova.compute import power_state, task_states, vm_states
from oslo_log import log as logging

from nova import context as nova_context
from nova import exception as nova_exception
from nova.virt import driver as nova_driver
from nova.virt import hardware
from ovznovadriver import exception
from ovznovadriver.compute import (
    drive,
    guest,
    host,
    image,
    netfiles,
    network,
    servers,
    snapshot,
    spec,
    undo,
)
from ovznovadriver.openvz import hostends, resources, transfer
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer, OvzContainers
from ovznovadriver.openvz.vzlist import State

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

POWER_STATES = {
    State.RUNNING: power_state.RUNNING,
    State.STOPPED: power_state.SHUTDOWN,
    State.MOUNTED: power_state.SHUTDOWN,
    State.SUSPENDED: power_state.SUSPENDED,
    State.PAUSED: power_state.PAUSED,
    State.UNKNOWN: power_state.NOSTATE,
}

#: How old, in seconds, the news may be that a container is not in the state that
#: Nova knows: Nova acts on it.
_NEWS_MAX_AGE = 3


class Lifecycle:
    """What Nova asks of a server.

    :param network: its ports
    :param images: what it is made from
    """

    def __init__(
        self,
        node: ovz_node.Node,
        network: network.Network,
        images: image.ImageCache,
    ) -> None:
        self._node = node
        self._network = network
        self._images = images

    # -- what is there --------------------------------------------------------------

    def _find(self, instance: Any, max_age: float = 0) -> OvzContainer:
        return servers.find(self._node, instance, max_age)

    def list_uuids(self) -> list[str]:
        """The UUIDs of this host's servers, and of those of which something is here.

        So Nova finds out, and lets it be removed, when a server was deleted on its way
        here, or has gone with its files to another host while this one was lost.
        """
        found = OvzContainers.list(self._node, host.REPORT_MAX_AGE)
        here = {c.uuid for c in found if c.uuid and not c.is_aside}
        here |= self._node.claims.hidden({container.ovz_id for container in found})
        return sorted(here.union(transfer.incoming(self._node)))

    def list_names(self) -> list[str]:
        """Nova's names of this host's servers."""
        found = OvzContainers.list(self._node, host.REPORT_MAX_AGE)
        return [c.name for c in found if c.name and not c.is_aside]

    def exists(self, instance: Any) -> bool:
        """Whether the server has a container here, now."""
        found = OvzContainers.list(self._node)
        return any(c.uuid == instance.uuid and not c.is_aside for c in found)

    def get_info(self, instance: Any, use_cache: bool) -> hardware.InstanceInfo:
        """A server's power state.

        :param use_cache: what is known from a look a few seconds ago will do
        """
        container = self._find(instance, host.REPORT_MAX_AGE if use_cache else 0)
        if use_cache and POWER_STATES[container.state] != instance.power_state:
            container = self._find(instance, _NEWS_MAX_AGE)
        return hardware.InstanceInfo(
            state=POWER_STATES[container.state], internal_id=container.ovz_id
        )

    # -- spawn ----------------------------------------------------------------------

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: str | None,
        network_info: Any,
        block_device_info: Any,
        power_on: bool,
    ) -> None:
        """Make a server's container and start it; a failure leaves nothing of it."""
        refuse_volumes(instance, block_device_info)
        nics = self._network.nics_anew(instance, network_info)
        network.describe_devices(context, instance, nics)
        guest_spec = spec.guest_from_nova(
            instance,
            admin_password=admin_password,
            injected_files=injected_files,
            drive=drive.config_drive(
                instance,
                network_info,
                nics,
                admin_password=admin_password,
                injected_files=injected_files,
            ),
        )
        ends = network.host_ends(nics, servers.limits(self._node, instance.flavor))
        # Before the image, which may take long to come.
        self.sample(instance.flavor.extra_specs or {})
        template = self._images.prepare(context, instance, image_meta)
        with undo.Undo(f"spawn of {instance.uuid}") as steps:
            container = self.make(instance, image_meta, template, nics)
            steps.add("removing the container", container.delete)
            with container.tree() as tree:
                snapshot.restore(self._node, tree)
                place = servers.place(self._node, tree)
                guest.prepare(self._node.executor, place, guest_spec, nics)
            if power_on:
                self.bring_up(steps, container, instance, network_info, ends)
            else:
                steps.add("ports", self._network.unplug, instance, network_info)
                self._network.plug(instance, network_info)

    def bring_up(
        self,
        steps: undo.Undo,
        container: OvzContainer,
        instance: Any,
        network_info: Any,
        ends: Sequence[hostends.HostEnd],
    ) -> None:
        """Start a container for the first time here, with ports that Neutron has seen.

        :param steps: gets what undoes it
        :param ends: the host ends of its interfaces
        """
        steps.add("unplugging", self._network.unplug, instance, network_info)
        # Stopped before it is removed, and also when only Neutron fails.
        steps.add("stopping", self._kill, container)
        with self._network.plugged(instance, network_info):
            container.start(ends)
        container.wiring.announce(ends)

    def make(
        self,
        instance: Any,
        image_meta: Any,
        template: str,
        nics: tuple[spec.Nic, ...],
    ) -> OvzContainer:
        """Make the container of a server, with its limits and interfaces; stopped.

        :param template: what `vzctl create --ostemplate` takes
        :raises InvalidInput: the flavor names a sample that cannot be used
        :raises ClaimError: no CTID for it, or it is there already
        :raises CommandFailed: vzctl failed. What was made is gone again.
        """
        limits = servers.limits(self._node, instance.flavor)
        size = _image_size(self._node, limits)

        def configure(container: OvzContainer) -> None:
            self._configure(container, instance, image_meta, nics)
            # To resize a disk image to what it has takes a mount.
            left = dataclasses.replace(limits, diskspace=None) if size else limits
            apply_limits(container, left)

        return OvzContainer.create(
            self._node,
            template,
            nova_id=str(instance.id),
            name=instance.name,
            uuid=instance.uuid,
            config=self.sample(instance.flavor.extra_specs or {}),
            diskspace_kb=size,
            configure=configure,
        )

    def _configure(
        self,
        container: OvzContainer,
        instance: Any,
        image_meta: Any,
        nics: tuple[spec.Nic, ...],
    ) -> None:
        container.set_hostname(spec.hostname(instance))
        # After a boot of the host Nova says which servers start again.
        container.set_onboot(False)
        os_hint = image.os_hint(
            instance, image_meta, self._node.options.default_os_hint
        )
        if os_hint:
            container.set_vz_os_hint(os_hint)
        container.set_nameservers(tuple(netfiles.name_servers(nics)))
        container.add_interfaces(network.veths(nics))

    def sample(self, extra_specs: Mapping[str, str]) -> str | None:
        """The sample configuration that a flavor names.

        :raises InvalidInput: it cannot be used
        """
        name = extra_specs.get("vz_config_file")
        if name is None:
            return None
        try:
            if self._node.suits(name):
                return name
            reason = (
                f"vz_config_file = {name} limits memory by beancounters, and"
                " [openvz]use_ubc is off"
            )
        except (exception.ConfigurationError, exception.InvalidValue) as error:
            reason = f"vz_config_file = {name}: {error}"
        raise nova_exception.InvalidInput(reason=reason)

    # -- destroy --------------------------------------------------------------------

    def destroy(
        self,
        instance: Any,
        network_info: Any,
        *,
        destroy_disks: bool = True,
        destroy_vifs: bool = True,
        keep_incoming: bool = False,
    ) -> None:
        """Remove all that there is of a server, be it half there or gone.

        :param destroy_disks: False keeps the container, stopped and set aside: Nova
            asks for that when it makes the server anew in another cell
        :param destroy_vifs: False leaves the ports plugged
        :param keep_incoming: leave what has come of it from another host
        :raises MayRun: it cannot be stopped, or seen; nothing has been removed
        :raises CleanupFailed: with what could not be removed; the rest is gone
        """
        steps: list[tuple[str, Callable[[], None]]] = []
        forgotten: list[str] = []
        try:
            container = OvzContainer.find_remains(self._node, instance.uuid)
            if container is None:
                LOG.info("There is no container to remove", instance=instance)
            else:
                forgotten = _forgotten(container, network_info)
                # Nothing is taken from under a container that still runs.
                self._kill(container)
        except exception.OvzError as error:
            raise exception.MayRun(str(error)) from error
        # Before the container: by it Nova knows of what was interrupted.
        if destroy_vifs:
            steps.append(
                ("ports", lambda: self._network.unplug(instance, network_info))
            )
        if destroy_vifs and forgotten:
            unplug = self._network.unplug_forgotten
            steps.append(("other ports", lambda: unplug(instance, forgotten)))
        if container is not None:
            if not destroy_disks:
                container.set_aside()
            elif not _is_reverted_in_place(instance, container):
                steps += self._removal(container)
        if destroy_disks and not keep_incoming:
            steps.append(
                ("incoming files", lambda: transfer.drop(self._node, instance.uuid))
            )
        undo.attempt_all(f"Removing server {instance.uuid}", steps)

    @staticmethod
    def _removal(container: OvzContainer) -> list[tuple[str, Callable[[], None]]]:
        steps = [(f"container {container.ovz_id}", container.delete)]
        uuid = servers.rescuer(container.uuid or "")
        if container.has_helper(uuid):
            steps.append(("rescue tree", container.helper(uuid).delete))
        return steps

    def _kill(self, container: OvzContainer) -> None:
        """Stop a container at once, whatever it does."""
        try:
            state = container.state
        except exception.ContainerNotFound:
            return
        if state is State.PAUSED:
            # Somebody may have done so by hand: vzlist 4 does not tell.
            container.thaw()
        if state in (State.PAUSED, State.RUNNING, State.UNKNOWN):
            container.stop(fast=True)

    # -- power ----------------------------------------------------------------------

    def power_on(self, instance: Any, network_info: Any) -> None:
        """Start a server; nothing happens to one that runs."""
        container = self._find(instance)
        if container.state is State.PAUSED:
            container.unpause()
        elif container.state is not State.RUNNING:
            self.boot(container, instance, network_info)

    def boot(
        self,
        container: OvzContainer,
        instance: Any,
        network_info: Any,
        *,
        rescue: bool = False,
    ) -> None:
        """Start a container that does not run, afresh, from the server's own tree.

        :param rescue: start it from the tree that it has, as if Nova had it as rescued
        """
        nics = self._network.nics(instance, network_info)
        ends = self._ends_of(instance, nics)
        veths = network.veths(nics)
        if not self._node.family.template_paths:
            # With vzctl 7 only root can see what it has: not at each start.
            container.hang_interfaces(veths)
        # start would go on from a dump, also from a former container's.
        container.discard_dump()
        if container.is_swapped and not rescue:
            self._end_unknown_rescue(container, instance)
        self._network.plug(instance, network_info)
        try:
            container.start(ends)
        except exception.InterfaceMissing:
            if not container.hang_interfaces(veths):
                raise
            container.start(ends)
        container.wiring.announce(ends)

    def _end_unknown_rescue(self, container: OvzContainer, instance: Any) -> None:
        """Let a server have its own tree, unless Nova has it as rescued.

        As after an unrescue that failed: Nova has the server in ERROR then, and takes
        it for one that runs as ever when it is rebooted or started.
        """
        if instance.vm_state == vm_states.RESCUED:
            return
        LOG.warning(
            "It has the tree that rescues it, and Nova does not have it as rescued: it"
            " gets its own one",
            instance=instance,
        )
        self.halt(container)
        servers.end_rescue(container)

    def _ends(self, instance: Any, network_info: Any) -> tuple[hostends.HostEnd, ...]:
        return self._ends_of(instance, self._network.nics(instance, network_info))

    def _ends_of(
        self, instance: Any, nics: tuple[spec.Nic, ...]
    ) -> tuple[hostends.HostEnd, ...]:
        return network.host_ends(nics, servers.limits(self._node, instance.flavor))

    def power_off(self, instance: Any, timeout: int = 0) -> None:
        """Stop a server.

        One that has no container is off: Nova's rebuild, tried again after a crash in
        the middle of it, begins with this.

        :param timeout: seconds for a clean stop; 0 kills it
        :raises InstancePowerOffFailure: it still runs
        """
        try:
            container = self._find(instance)
        except nova_exception.InstanceNotFound:
            LOG.warning("It has no container that could run", instance=instance)
            return
        if container.state is State.SUSPENDED:
            container.discard_dump()
        if timeout and container.state is State.RUNNING:
            self._stop_cleanly(container, timeout)
        self.halt(container)
        if container.state is not State.STOPPED:
            raise nova_exception.InstancePowerOffFailure(
                reason=f"container {container.ovz_id} is {container.state.value}"
            )

    @staticmethod
    def _stop_cleanly(container: OvzContainer, timeout: float | None = None) -> None:
        try:
            container.stop(timeout=timeout)
        except exception.CommandTimedOut:
            LOG.info(
                "Container %s did not stop in time; it is killed", container.ovz_id
            )

    def reboot(self, instance: Any, network_info: Any, hard: bool) -> None:
        """Restart a server.

        :param hard: from any state, at once; otherwise its init stops it cleanly
        """
        container = self._find(instance)
        # What is frozen here may be the only one there is.
        container.refuse_leaving()
        if not hard and container.state is State.RUNNING:
            self._stop_cleanly(container)
        self.halt(container)
        self.boot(container, instance, network_info)
        if hard and container.is_kept:
            # By a resize that was interrupted: Nova has given it up with this.
            container.forget_kept()

    def halt(self, container: OvzContainer) -> None:
        """Stop a container at once, and unmount it."""
        self._kill(container)
        if container.state is State.MOUNTED:
            container.umount()

    def poll_rebooting(self, instances: Any) -> None:
        """Look after servers that Nova says have been rebooting for too long.

        One that runs is left alone: its init takes its time to stop, and is killed
        when that is over. One that does not run is started by a hard reboot.
        """
        for entry in instances:
            # nova's contract suite hands over pairs with the network.
            instance = entry[0] if isinstance(entry, tuple) else entry
            if self._find(instance).state is not State.RUNNING:
                LOG.warning("Rebooting hard: it did not come up", instance=instance)
                compute_api.API().reboot(
                    nova_context.get_admin_context(), instance, "HARD"
                )

    def pause(self, instance: Any) -> None:
        """Freeze a server in memory."""
        self._find(instance).pause()

    def unpause(self, instance: Any) -> None:
        """Let a paused server run on; nothing happens to one that runs."""
        container = self._find(instance)
        if container.state is not State.RUNNING:
            container.unpause()

    def suspend(self, instance: Any) -> None:
        """Write a server's memory to disk and stop it.

        :raises InstanceFaultRollback: vzctl cannot; the server runs on
        :raises InstanceSuspendFailure: vzctl failed, and it does not run
        """
        container = self._find(instance)
        try:
            container.suspend()
        except exception.CommandFailed as error:
            failure = nova_exception.InstanceSuspendFailure(reason=str(error))
            _refuse_change(container, State.RUNNING, failure)
            raise failure from error

    def resume(self, instance: Any, network_info: Any) -> None:
        """Start a suspended server from what was written; one that runs stays so.

        :raises InstanceFaultRollback: it cannot, and is suspended still
        :raises InstanceResumeFailure: it cannot, and is not
        """
        container = self._find(instance)
        if container.state is State.RUNNING:
            return
        try:
            ends = self._ends(instance, network_info)
            self._network.plug(instance, network_info)
            container.resume(ends)
        except (exception.OvzError, nova_exception.NovaException) as error:
            failure = nova_exception.InstanceResumeFailure(reason=str(error))
            # In ERROR nobody could resume it any more: its memory would be lost.
            _refuse_change(container, State.SUSPENDED, failure)
            raise failure from error

    def resume_after_boot(self, instance: Any, network_info: Any) -> None:
        """Bring back what ran before the host was rebooted."""
        container = self._find(instance)
        if container.state is State.SUSPENDED:
            # vz's init script suspends containers at shutdown (VE_STOP_MODE).
            self.resume(instance, network_info)
        else:
            self.power_on(instance, network_info)

    # -- the rest -------------------------------------------------------------------

    def plug_vifs(self, instance: Any, network_info: Any) -> None:
        """Record a server's ports in Open vSwitch.

        Nova asks for it when it starts, and takes this one error for the server's
        alone: any other would keep the service from starting.

        :raises VirtualInterfacePlugException: a port cannot be plugged, or not any more
        """
        try:
            self._network.nics(instance, network_info)
        except (exception.NetworkUnsupported, exception.InvalidValue) as error:
            raise nova_exception.VirtualInterfacePlugException(str(error)) from error
        self._network.plug(instance, network_info)

    def unplug_vifs(self, instance: Any, network_info: Any) -> None:
        """Remove a server's ports from Open vSwitch."""
        self._network.unplug(instance, network_info)

    def set_admin_password(self, instance: Any, password: str) -> None:
        """Set root's password in a running server."""
        self._find(instance).set_password("root", password)


def _refuse_change(
    container: OvzContainer, before: State, failure: nova_exception.NovaException
) -> None:
    """Have Nova take a server for what it was before, where that is so.

    :raises InstanceFaultRollback: it is; a failure of any other kind means ERROR
    """
    if container.refresh() is before:
        raise nova_exception.InstanceFaultRollback(failure) from failure


def _forgotten(container: OvzContainer, network_info: Any) -> list[str]:
    """The host ends that a container has, and Nova does not know how to unplug.

    So it is with an attachment that was interrupted when the server is deleted then,
    and with a port that could not be bound when the server moved.
    """
    known = {spec.devname(vif) for vif in network_info or [] if network.is_ovs(vif)}
    names = (end.host_ifname for end in container.wiring.kept())
    return [name for name in names if name not in known]


def apply_limits(container: OvzContainer, limits: resources.Limits) -> None:
    """Give a container its limits; call it within its changes()."""
    if limits.vswap is not None:
        container.set_vswap(limits.vswap.ram_mb, limits.vswap.swap_mb)
    if limits.ubc is not None:
        container.set_vmguarpages(limits.ubc.vmguarpages)
        container.set_privvmpages(limits.ubc.privvmpages)
        container.set_kmemsize(limits.ubc.kmemsize_barrier, limits.ubc.kmemsize_limit)
    for value, setter in (
        (limits.cpuunits, container.set_cpuunits),
        (limits.cpulimit, container.set_cpulimit),
        (limits.cpus, container.set_cpus),
        (limits.ioprio, container.set_ioprio),
    ):
        if value is not None:
            setter(value)
    if container.node.family.has_ubc:
        container.set_numfiles(limits.numfile or 1)
        container.set_numflock(limits.numflock or 1)
        container.set_numtcpsock(limits.numtcpsock or 1)
    if limits.diskspace is not None:
        container.set_diskspace(limits.diskspace.soft_kb, limits.diskspace.hard_kb)
    container.set_iolimits(limits.iolimit, limits.iopslimit)


def _image_size(
    node: ovz_node.Node, limits: resources.Limits
) -> tuple[int, int] | None:
    """The size of the disk image to create, where the layout is one."""
    if node.layout != "ploop" or limits.diskspace is None:
        return None
    return limits.diskspace.soft_kb, limits.diskspace.hard_kb


def _is_reverted_in_place(instance: Any, container: OvzContainer) -> bool:
    """Whether Nova removes the new server of a resize that is the old one, too."""
    return container.is_kept and instance.task_state == task_states.RESIZE_REVERTING


def refuse_volumes(instance: Any, block_device_info: Any) -> None:
    """:raises InvalidInput: the server is to have a disk that it cannot have"""
    wanted = []
    if nova_driver.block_device_info_get_mapping(block_device_info):
        wanted.append("volumes")
    if nova_driver.block_device_info_get_ephemerals(block_device_info) or (
        instance.flavor.ephemeral_gb
    ):
        wanted.append("ephemeral disks")
    if wanted:
        raise nova_exception.InvalidInput(
            reason=f"OpenVZ containers here cannot have {' or '.join(wanted)}"
        )
