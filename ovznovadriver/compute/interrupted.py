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


"""Moves that a killed service has left between two hosts; see restart.py.

Nova's record says which host is to have a server. What has come of it elsewhere is
removed when that is certain, and left alone as long as it may be all there is.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

from nova.compute import power_state, rpcapi, vm_states
from nova.network import neutron
from oslo_log import log as logging

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import livemigration, servers
from ovznovadriver.compute.scene import Finding, Scene
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import transfer
from ovznovadriver.openvz.container import OvzContainer
from ovznovadriver.openvz.vzlist import State

LOG = logging.getLogger(__name__)

#: What a migration's status is when nothing more will come of it.
OVER = frozenset(
    {"reverted", "confirmed", "failed", "cancelled", "done", "completed", "error"}
)
#: Those of a live migration after which the server is for certain where it was.
STAYED = frozenset({"failed", "cancelled"})


class Moves:
    """The moves that were under way, as one start of the service finds them.

    :param live: those of servers that run meanwhile
    :param scene: what is on the node
    """

    def __init__(
        self,
        node: ovz_node.Node,
        live: livemigration.LiveMigrations,
        context: Any,
        scene: Scene,
    ) -> None:
        self._node = node
        self._live = live
        self._context = context
        self._scene = scene

    # -- what has come from other hosts ---------------------------------------------

    def arrivals(self, here: set[str]) -> Iterator[Finding]:
        """Trees and CTIDs of moves to this host of which nothing will come.

        :param here: the servers that Nova has on this host
        """
        try:
            for key, busy in self._scene.seen["incoming"].items():
                if not busy and key not in here and self._is_over(key):
                    yield Finding(
                        "received",
                        f"server {key}",
                        "its move to this host is over: what has come of it is removed",
                        functools.partial(transfer.drop, self._node, key),
                    )
            for ctid in filter(self._has_come, sorted(self._scene.abandoned)):
                uuid = str(self._scene.uuid(ctid))
                if uuid not in here and self._is_over(uuid):
                    yield self._came_to_nothing(ctid, uuid)
        except Exception:
            LOG.exception("What has come of moves to this host is not known")

    def _moves_here(self, uuid: str) -> list[str]:
        """The status of each move of a server to this host, the last one at the end."""
        known = objects.MigrationList.get_by_filters(
            self._context, {"instance_uuid": uuid}
        )
        came = [move for move in known if move.dest_compute == self._node.host]
        return [move.status for move in sorted(came, key=lambda move: int(move.id))]

    def _is_over(self, uuid: str) -> bool:
        """Whether a server was to come here, and will not."""
        found = self._moves_here(uuid)
        return bool(found) and OVER.issuperset(found)

    def _has_come(self, ctid: str) -> bool:
        """Whether a CTID was kept for a server that comes as it runs, and still is."""
        scene = self._scene
        return (
            scene.has(ctid, ovz_ctid.ARRIVING)
            and scene.uuid(ctid) is not None
            and not scene.is_tagged(ctid)
            and not scene.holder(ctid)
        )

    def _came_to_nothing(self, ctid: str, uuid: str) -> Finding:
        """What to do about what came of a server that Nova does not have here."""
        scene, name = self._scene, self._scene.name(ctid)
        whole = ctid in scene.infos or ctid in scene.seen["confs"]
        # After an error it may be here, and not where Nova has it.
        place = self._place(uuid)
        if whole and place and self._moves_here(uuid)[-1] not in STAYED:
            return Finding(
                "arriving",
                name,
                f"its move to this host ended in an error, and Nova has it on {place}:"
                " it may be here, and is left alone. See 'When it fails half-way' in"
                " the driver's documentation of migration",
            )
        return Finding(
            "arriving",
            name,
            "its move to this host is over: what has come of it is removed",
            functools.partial(self._remove, ctid),
        )

    def _place(self, uuid: str) -> str | None:
        """The host that Nova has a server on; None where Nova has it no more."""
        try:
            found = objects.Instance.get_by_uuid(self._context, uuid, expected_attrs=[])
        except nova_exception.InstanceNotFound:
            return None
        return str(found.host)

    def _remove(self, ctid: str) -> None:
        container = self._scene.container(ctid)
        info = self._scene.infos.get(ctid)
        if info is not None and info.state not in (State.STOPPED, State.MOUNTED):
            raise exception.OvzError(
                f"it is {info.state.value} here; see on which host Nova has the server"
            )
        container.delete()

    # -- one server, which comes or goes as it runs ----------------------------------

    def complete_arrival(self, instance: Any) -> str | None:
        """Make the container of a server that has come as it ran this host's own."""
        came = self._live.is_handed_over(instance) or [
            ctid
            for ctid in filter(self._has_come, self._scene.abandoned)
            if self._scene.uuid(ctid) == instance.uuid and ctid in self._scene.infos
        ]
        if not came:
            return None
        self._live.arrive(instance, instance.get_network_info())
        return "it came as it ran: it is this host's now, and its network is connected"

    def end_live_move(self, instance: Any, container: OvzContainer) -> str | None:
        """See to a server that was leaving as it ran."""
        known = objects.MigrationList.get_by_filters(
            self._context, {"instance_uuid": instance.uuid}
        )
        moves = [
            move
            for move in known
            if move.source_compute == self._node.host and move.is_live_migration
            if move.status == "running"
        ]
        if not moves:
            return None
        move = max(moves, key=lambda move: int(move.id))
        if self._live.is_handed_over(instance):
            return self._end_handover(instance, move)
        if not self._is_configured(instance.uuid):
            return self._follow(instance, move)
        if not container.ovz_id:
            # It is hidden.
            return None
        if container.refresh() is State.SUSPENDED:
            return self._resume(instance, move)
        if container.ovz_id not in self._scene.seen["sent"]:
            if not self._has_stopped_leaving(instance, container):
                return self.end_live_move(instance, container)
            done = self._call_back(instance, container, move)
            self._node.claims.forget(container.ovz_id, ovz_ctid.LEAVING)
            return done
        servers.settle(instance, vm_states.ERROR, power_state.NOSTATE)
        return (
            f"it may run here, on host {move.dest_compute}, or frozen on both, and is"
            " left alone, in ERROR: see 'When it fails half-way' in the driver's"
            " documentation of migration"
        )

    def _end_handover(self, instance: Any, move: Any) -> str:
        """See to a server that was changing hands."""
        try:
            self._live.take(instance)
        except exception.ContainerTaken:
            return self._follow(instance, move)
        return self._resume(instance, move)

    def _resume(self, instance: Any, move: Any) -> str:
        """Let a server run on here that was suspended in order to leave."""
        if self._live.stay(instance):
            return self._recall(instance, move)
        self._live.settle_suspended(instance)
        return "it was leaving, is here, and could not be resumed: it stays suspended"

    def _has_stopped_leaving(self, instance: Any, container: OvzContainer) -> bool:
        """End the vzmigrate of a server that goes, where one is still at it.

        :returns: False where it has ended by itself: what it has done by then is in
            the scene
        :raises TransferError: it is still at it, and cannot be ended
        """
        if not self._scene.holder(container.ovz_id):
            return True
        try:
            self._live.abort(instance)
        except exception.TransferError:
            self._scene = Scene(self._node)
            if self._scene.holder(container.ovz_id):
                raise
            return False
        return True

    def _call_back(
        self, instance: Any, container: OvzContainer, move: Any
    ) -> str | None:
        """Have Nova remove there what came of a server that cannot run there yet."""
        if container.refresh() not in (State.RUNNING, State.PAUSED):
            return None
        if not self._scene.holder(container.ovz_id):
            # What vzmigrate has frozen looks like what runs.
            container.thaw()
        return self._recall(instance, move)

    def _recall(self, instance: Any, move: Any) -> str:
        """Have Nova remove on the other host what was made for a server that stays."""
        rpcapi.ComputeAPI().rollback_live_migration_at_destination(
            self._context, instance, move.dest_compute, True, None
        )
        return (
            "it was leaving as it ran, and runs on here: what has come of it on host"
            f" {move.dest_compute} is removed"
        )

    def _follow(self, instance: Any, move: Any) -> str:
        """Let Nova have a server where vzmigrate has brought it.

        As Nova does itself when a live migration fails after that: in ERROR.
        """
        ports = instance.get_network_info()
        neutron.API().migrate_instance_start(self._context, instance, move)
        place = objects.ComputeNode.get_first_node_by_host_for_old_compat(
            self._context, move.dest_compute
        )
        instance.host = move.dest_compute
        instance.node, instance.compute_id = place.hypervisor_hostname, place.id
        servers.settle(instance, vm_states.ERROR, instance.power_state)
        move.status = "error"
        move.save()
        self._live.unplug(instance, ports)
        self._live.clean_up(
            instance, None, move, destroy_disks=True, destroy_vifs=False
        )
        return (
            f"it has gone to host {instance.host} as it ran, and Nova has it there now,"
            " in ERROR: set its state to active, and reboot it hard"
        )

    def _is_configured(self, uuid: str) -> bool:
        """Whether there is a container of a server here, be it one that is hidden.

        The configuration is what vzmigrate takes away at its end.
        """
        confs = (
            os.path.join(self._node.paths.conf, f"{ctid}.conf")
            for ctid in self._node.claims.find(uuid)
        )
        names = (conf["name"] for conf in self._scene.seen["confs"].values())
        return uuid in names or any(map(os.path.lexists, confs))
