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

"""What the servers of this host need when the service starts after it was killed.

Nova itself sets a server to ERROR whose build was interrupted, and finishes deletes,
reboots, starts, stops and unpauses; it has a move undone, and forgets snapshots. The
other tasks it leaves as they are, and a server with a task can only be deleted.
:data:`RULES` says what is done about those, before Nova looks at the servers.

What lies on the node without regard to Nova is :mod:`ovznovadriver.compute.recovery`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from nova.compute import power_state, rpcapi, task_states, vm_states
from oslo_log import log as logging

from nova import exception as nova_exception
from nova import objects
from ovznovadriver.compute import (
    evacuation,
    interfaces,
    interrupted,
    lifecycle,
    livemigration,
    network,
    recovery,
    rescue,
    servers,
    unfinished,
)
from ovznovadriver.compute.scene import Scene
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer
from ovznovadriver.openvz.vzlist import State

LOG = logging.getLogger(__name__)

_SHELVING = (
    task_states.SHELVING,
    task_states.SHELVING_IMAGE_PENDING_UPLOAD,
    task_states.SHELVING_IMAGE_UPLOADING,
)
#: Those in which a server starts, and Nova is content when it runs.
_STARTING = (
    task_states.POWERING_ON,
    task_states.REBOOTING,
    task_states.REBOOTING_HARD,
    task_states.REBOOT_STARTED,
    task_states.REBOOT_STARTED_HARD,
    task_states.RESUMING,
)
_DOWN = (State.STOPPED, State.MOUNTED)
#: In these Nova has its own reasons not to look at a server, or removes it.
_NOT_LOOKED_AT = (
    vm_states.BUILDING,
    vm_states.DELETED,
    vm_states.ERROR,
    vm_states.SHELVED_OFFLOADED,
    vm_states.SOFT_DELETED,
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a killed service may have left a server in, and what is done about it.

    :ivar kind: its name
    :ivar found: what is looked for
    :ivar done: what is done about it
    :ivar concerns: whether a server may be in it, by what Nova knows alone
    :ivar act: does it
    :ivar gone_too: whether it also concerns a server that has no container here
    """

    kind: str
    found: str
    done: str
    concerns: Callable[[Any], bool]
    act: Callable[[Restart, Any, OvzContainer], str | None]
    gone_too: bool = False


class Restart:
    """What the service does about Nova's servers when it starts.

    :param life: the servers of this host
    :param rescuer: what rescues them
    :param ports: gives them interfaces
    :param net: their ports
    :param live: those that come as they run
    :param evacuations: those that come from a host that is lost
    """

    def __init__(
        self,
        node: ovz_node.Node,
        life: lifecycle.Lifecycle,
        rescuer: rescue.Rescue,
        ports: interfaces.Interfaces,
        net: network.Network,
        live: livemigration.LiveMigrations,
        evacuations: evacuation.Evacuations,
    ) -> None:
        self.node = node
        self.life = life
        self.rescuer = rescuer
        self.ports = ports
        self.net = net
        self._live = live
        self._evacuations = evacuations
        self.context: Any = None
        self.scene: Scene
        self.moves: interrupted.Moves

    def process(self, context: Any, instances: Any) -> None:
        """Complete or undo what was under way with servers; a log line for each.

        Whatever fails is logged, and keeps nobody from starting.

        :param instances: nova.objects.InstanceList of this host
        """
        if recovery.other_service(self.node) is not None:
            # The tasks of the servers are that one's, and under way.
            return
        try:
            self.context = context
            self.scene = Scene(self.node, recovery.LOOK_MAX_AGE)
            self.moves = interrupted.Moves(self.node, self._live, context, self.scene)
            containers = {
                self.scene.tags[ctid].uuid: self.scene.container(ctid)
                for ctid in self.scene.tags
                if self.scene.is_tagged(ctid)
            }
        except Exception:
            LOG.exception("What was under way with the servers is not known")
            return
        for instance in instances:
            if instance.host == self.node.host:
                self._look_at(instance, containers.get(instance.uuid))
        here = {instance.uuid for instance in instances}
        evacuations = unfinished.Unfinished(
            self.node, self._evacuations, context, self.scene
        )
        for finding in (*self.moves.arrivals(here), *evacuations.findings(here)):
            LOG.warning("Recovery: %s: %s", finding.subject, finding.what)
            recovery.apply(finding)

    def _look_at(self, instance: Any, container: OvzContainer | None) -> None:
        bare = OvzContainer(self.node, "", uuid=instance.uuid)
        for rule in RULES:
            if container is None and not rule.gone_too:
                continue
            try:
                if not rule.concerns(instance):
                    continue
                done = rule.act(self, instance, container or bare)
                if done:
                    LOG.warning("Recovery: %s", done, instance=instance)
            except Exception:
                LOG.exception(
                    "Recovery: %s cannot be dealt with", rule.kind, instance=instance
                )

    # -- one server -------------------------------------------------------------------

    def settle_pausing(self, instance: Any, container: OvzContainer) -> str | None:
        """Undo a pause, and complete the end of one; Nova does the rest."""
        if container.state in _DOWN:
            servers.settle(instance, instance.vm_state, instance.power_state)
            return "it was being paused, or unpaused, and does not run"
        if container.state not in (State.RUNNING, State.PAUSED):
            return None
        container.thaw()
        return "it was being paused, or unpaused: it runs on"

    def settle_suspending(self, instance: Any, container: OvzContainer) -> str | None:
        """Let Nova know what a suspension came to."""
        state = container.state
        if state is State.SUSPENDED:
            servers.settle(instance, vm_states.SUSPENDED, power_state.SUSPENDED)
            return "it was being suspended, and is"
        if state is State.RUNNING:
            servers.settle(instance, vm_states.ACTIVE, power_state.RUNNING)
            return "it was being suspended, and runs on"
        if state in _DOWN:
            # As after any other end of the node: Nova starts it, or has it as stopped.
            servers.settle(instance, instance.vm_state, instance.power_state)
            return "it was being suspended, and does not run"
        return None

    def settle_resuming(self, instance: Any, container: OvzContainer) -> str | None:
        """Let Nova know what a resumption came to."""
        state = container.state
        if state is State.RUNNING:
            servers.settle(instance, vm_states.ACTIVE, power_state.RUNNING)
            return "it was being resumed, and runs"
        if state is State.SUSPENDED:
            servers.settle(instance, vm_states.SUSPENDED, power_state.SUSPENDED)
            return "it was being resumed, and is suspended"
        if state in _DOWN:
            servers.settle(instance, vm_states.STOPPED, power_state.SHUTDOWN)
            return "it was being resumed, and does not run: its memory is lost"
        return None

    def connect(self, _instance: Any, container: OvzContainer) -> str | None:
        """Finish the host's side of the interfaces of a server that has started."""
        if container.state is not State.RUNNING:
            return None
        ends = container.wiring.kept()
        container.wiring.connect(ends)
        container.wiring.announce(ends)
        return "it was being started: its interfaces are connected"

    def settle_rescuing(self, instance: Any, container: OvzContainer) -> str | None:
        """Let a server that was being rescued be what it was, if it does not run so."""
        swapped = "rescue" in self.scene.seen["files"].get(container.ovz_id, [])
        if container.state is State.RUNNING:
            # Not even stopped yet, or done but for Nova's knowing of it.
            done = vm_states.RESCUED if swapped else instance.vm_state
            self.connect(instance, container)
            servers.settle(instance, done, power_state.RUNNING)
            return f"it was being rescued: it is {done}"
        if instance.vm_state == vm_states.ACTIVE:
            self._end_rescue(instance)
        else:
            self.rescuer.settle(instance)
            servers.settle(instance, instance.vm_state, power_state.SHUTDOWN)
        return "it was being rescued: it has its own files again"

    def complete_unrescue(self, instance: Any, container: OvzContainer) -> str | None:
        """Let a server whose rescue was being ended be what it is without."""
        swapped = "rescue" in self.scene.seen["files"].get(container.ovz_id, [])
        if container.state is State.RUNNING and not swapped:
            self.connect(instance, container)
            servers.settle(instance, vm_states.ACTIVE, power_state.RUNNING)
        else:
            self._end_rescue(instance)
        return "its rescue was being ended: it has its own files again, and runs"

    def _end_rescue(self, instance: Any) -> None:
        try:
            self.rescuer.unrescue(instance)
        except Exception:
            servers.settle(instance, vm_states.ERROR, power_state.SHUTDOWN)
            raise
        servers.settle(instance, vm_states.ACTIVE, power_state.RUNNING)

    def fail_arrival(self, instance: Any, _container: OvzContainer) -> str | None:
        """Let a server that was arriving be in ERROR, as Nova does when that fails.

        A hard reboot then finishes the arrival.
        """
        progress = instance.migration_context
        if progress is not None:
            migration = objects.Migration.get_by_id_and_instance(
                self.context, progress.migration_id, instance.uuid
            )
            migration.status = "error"
            migration.save()
        servers.settle(instance, vm_states.ERROR, instance.power_state)
        return "it was arriving, or being resized: a hard reboot finishes that"

    def revert_again(self, instance: Any, _container: OvzContainer) -> str | None:
        """Have Nova revert a move once more, from the beginning: each step may be done.

        So nobody can confirm it, when the container is gone here and only the one that
        it came from is left.
        """
        try:
            migration = objects.Migration.get_by_instance_and_status(
                self.context, instance.uuid, "reverting"
            )
        except nova_exception.MigrationNotFoundByStatus:
            return None
        if migration.dest_compute != self.node.host:
            return None
        wanted = objects.RequestSpec.get_by_instance_uuid(self.context, instance.uuid)
        rpcapi.ComputeAPI().revert_resize(
            self.context, instance, migration, self.node.host, wanted
        )
        return "its move was being reverted: that begins anew"

    def undo_shelving(self, instance: Any, container: OvzContainer) -> str | None:
        """Let a server that was being shelved be what it was."""
        runs = instance.vm_state == vm_states.ACTIVE
        if runs and container.state is not State.RUNNING:
            self.life.power_on(instance, instance.get_network_info())
        state = power_state.RUNNING if runs else instance.power_state
        servers.settle(instance, instance.vm_state, state)
        return "it was being shelved: it is as before"

    def forget_password(self, instance: Any, _container: OvzContainer) -> str | None:
        """Let a server whose password was being set be as it is."""
        servers.settle(instance, instance.vm_state, instance.power_state)
        return "its password was being set: set it again"

    def forget_kept(self, _instance: Any, container: OvzContainer) -> str | None:
        """Let go what a resize has kept that is over."""
        if not container.is_kept:
            return None
        container.forget_kept()
        return "its resize is over: the configuration from before it is removed"

    def attach(self, instance: Any, container: OvzContainer) -> str | None:
        """Give a server the interfaces of its ports that it has not."""
        conf = self.scene.seen["confs"].get(container.ovz_id)
        ports = instance.get_network_info()
        if conf is None or not ports:
            return None
        nics = {nic.port_id: nic for nic in self.net.nics(instance, ports)}
        names = {nic.devname for nic in nics.values()}
        macs = {nic.mac.lower() for nic in nics.values()}
        there = {
            nic.get("host_ifname"): nic.get("mac", "").lower()
            for nic in conf["interfaces"]
        }
        missing = [
            vif
            for vif in ports
            if (nic := nics.get(vif["id"])) is not None
            and nic.devname not in there
            and nic.mac.lower() not in there.values()
        ]
        others = {name: mac for name, mac in there.items() if name not in names}
        # That is how the driver of 2014 left them.
        old = [str(name) for name, mac in others.items() if mac in macs]
        if old:
            LOG.warning(
                "Recovery: the host ends of its interfaces are %s, not those of its"
                " ports: a reboot connects them",
                ", ".join(sorted(old)),
                instance=instance,
            )
        extra = [name for name, mac in others.items() if mac not in macs]
        if extra:
            LOG.warning(
                "Recovery: it has interfaces whose host ends are %s, and Nova has no"
                " ports for them",
                ", ".join(sorted(map(str, extra))),
                instance=instance,
            )
        for vif in missing:
            self.ports.attach(self.context, instance, vif)
        if not missing:
            return None
        ids = ", ".join(vif["id"] for vif in missing)
        return f"it had no interface for port {ids}, and has now"


def _task(*states: str) -> Callable[[Any], bool]:
    def concerns(instance: Any) -> bool:
        return instance.task_state in states and instance.vm_state != vm_states.ERROR

    return concerns


def _is_settled(instance: Any) -> bool:
    looked_at = (*_NOT_LOOKED_AT, vm_states.RESIZED)
    return instance.task_state is None and instance.vm_state not in looked_at


def _is_resized(instance: Any) -> bool:
    return bool(instance.task_state == task_states.RESIZE_FINISH)


#: In the order in which they are applied. doc/source/recovery.rst has the same table.
RULES: tuple[Rule, ...] = (
    Rule(
        "leaving",
        "a server that was leaving as it ran",
        "where its memory was not sent yet, or no host has taken it, it runs on here,"
        " and what came of it on the other host is removed; where its container is not"
        " here any more, Nova has it on the other host, in ERROR, as after any arrival"
        " that failed; else it may be on either, and is set to ERROR, and does not"
        " start",
        lambda instance: instance.task_state == task_states.MIGRATING,
        lambda self, instance, there: self.moves.end_live_move(instance, there),
        gone_too=True,
    ),
    Rule(
        "arrived",
        "a server that has come as it ran, or changes hands, when Nova has it here"
        " already and its container has not this host's tag",
        "it is taken, and resumed; it gets the tag, the limits of its flavor here, and"
        " its network",
        lambda instance: instance.vm_state != vm_states.DELETED,
        lambda self, instance, _: self.moves.complete_arrival(instance),
        gone_too=True,
    ),
    Rule(
        "pausing",
        "a server that was being paused or unpaused",
        "it runs on; where it does not run, Nova forgets the task",
        _task(task_states.PAUSING, task_states.UNPAUSING),
        Restart.settle_pausing,
    ),
    Rule(
        "starting",
        "a server that was being started, rebooted or resumed, and runs",
        "the host's side of its interfaces is finished",
        _task(*_STARTING),
        Restart.connect,
    ),
    Rule(
        "suspending",
        "a server that was being suspended",
        "Nova has it as suspended, or as active, as it is; where it does not run, Nova"
        " forgets the task",
        _task(task_states.SUSPENDING),
        Restart.settle_suspending,
    ),
    Rule(
        "resuming",
        "a server that was being resumed",
        "Nova has it as active, as suspended or as stopped, as it is",
        _task(task_states.RESUMING),
        Restart.settle_resuming,
    ),
    Rule(
        "rescuing",
        "a server that was being rescued",
        "undone, unless it runs: it has its own files, and runs if it did before",
        _task(task_states.RESCUING),
        Restart.settle_rescuing,
    ),
    Rule(
        "unrescuing",
        "a server whose rescue was being ended",
        "completed: it has its own files, and runs",
        lambda instance: instance.task_state == task_states.UNRESCUING,
        Restart.complete_unrescue,
    ),
    Rule(
        "resizing",
        "a server that was getting its new limits, or arriving, after Nova had moved"
        " it here",
        "it is set to ERROR; a hard reboot finishes it, as after any arrival that"
        " failed",
        _is_resized,
        Restart.fail_arrival,
    ),
    Rule(
        "reverting",
        "a server whose move to this host, or resize, was being reverted",
        "that begins anew",
        lambda instance: instance.task_state == task_states.RESIZE_REVERTING,
        Restart.revert_again,
        gone_too=True,
    ),
    Rule(
        "shelving",
        "a server of which the image for shelving was being made",
        "undone: it is active or stopped, as before",
        _task(*_SHELVING),
        Restart.undo_shelving,
    ),
    Rule(
        "password",
        "a server whose password was being set",
        "Nova forgets the task",
        _task(task_states.UPDATING_PASSWORD),
        Restart.forget_password,
    ),
    Rule(
        "kept",
        "a server's configuration from before a resize that is over",
        "it is removed",
        _is_settled,
        Restart.forget_kept,
    ),
    Rule(
        "ports",
        "a server with a port that its container has no interface for: one was being"
        " attached or detached",
        "it gets the interface; a detach is asked for again",
        _is_settled,
        Restart.attach,
    ),
)
