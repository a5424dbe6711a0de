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


"""Cold migration: a server's files go to another host, and a container is made there.

The order is what keeps the files safe. The tree is sent while the server runs, and
again after it has stopped, and compared. Only then does Nova say that the server is
on the other host, where a container is made and takes the tree over. The container
that it came from stays, stopped, until the move is confirmed.
"""

from __future__ import annotations

import json
import os
from typing import Any

import nova.conf
from nova.compute import task_states
from oslo_log import log as logging

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import (
    emptytemplate,
    lifecycle,
    network,
    progress,
    resize,
    servers,
    undo,
)
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import transfer
from ovznovadriver.openvz.container import OvzContainer
from ovznovadriver.openvz.vzlist import State

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

#: The version of what Nova carries from one end of a move to the other.
VERSION = 1

#: How much of a move's progress, in percent, the passes are that come before the stop.
_RUNNING_SHARE = 80


class ColdMigrations:
    """What Nova asks of the two ends of a move to another host.

    :param life: the servers of this host
    :param network: their ports
    :param resizes: judges the flavors that they get
    """

    def __init__(
        self,
        node: ovz_node.Node,
        life: lifecycle.Lifecycle,
        network: network.Network,
        resizes: resize.Resizes,
    ) -> None:
        self._node = node
        self._life = life
        self._network = network
        self._resizes = resizes

    # -- where it comes from --------------------------------------------------------

    def leave(
        self,
        instance: Any,
        address: str,
        flavor: Any,
        network_info: Any,
        timeout: int,
    ) -> str:
        """Send a server's files to where it goes, and stop it.

        :param address: of the destination
        :param flavor: the one that it gets
        :param timeout: seconds for a clean stop
        :returns: what :meth:`arrive` is given
        :raises InstanceFaultRollback: it cannot go, or something failed; it is, and
            runs, as before
        """
        peer = transfer.Peer.from_options(address, CONF.openvz)
        way = transfer.Transfer(self._node, peer)
        try:
            container = self._resizes.check(instance, flavor)
            shared = self._check(container, way)
        except (exception.OvzError, nova_exception.ResizeError) as error:
            raise nova_exception.InstanceFaultRollback(
                nova_exception.MigrationPreCheckError(reason=str(error))
            ) from error
        steps = undo.Undo(f"migration of {instance.uuid}")
        try:
            with steps:
                steps.add("the copy", way.discard, instance.uuid)
                self._send(container, way, instance)
                if container.refresh() is not State.STOPPED:
                    steps.add("starting", self._life.power_on, instance, network_info)
                tell = progress.teller(instance, _RUNNING_SHARE, 100)
                # The server is down from its stop to the end of this pass.
                with way.connected(container.ovz_id, instance.uuid, tell) as finish:
                    self._life.power_off(instance, timeout)
                    self._network.unplug(instance, network_info)
                    finish()
                way.verify(container.ovz_id, instance.uuid)
                if shared:
                    steps.add("the name", container.save_ovz_metadata)
                    container.prep_for_migration()
        except Exception as error:
            resize.roll_back(steps, error)
        return json.dumps({"version": VERSION, "key": instance.uuid})

    def _check(self, container: OvzContainer, way: transfer.Transfer) -> bool:
        """See that a container's tree can go to another host.

        :returns: whether the other host sees the private areas of this one
        :raises TransferError: it cannot; nothing has changed
        """
        theirs = way.hello()
        reason = transfer.refusal(
            transfer.local_facts(self._node, container.layout),
            theirs,
            needed_kb=way.tree_kb(container.ovz_id),
        )
        if reason is not None:
            raise exception.TransferError(reason)
        shared = way.is_shared(container.uuid or "")
        if shared and self._node.family.uuid_ctids:
            raise exception.TransferError(
                f"host {theirs.host} has its private areas where this one has them,"
                f" and {self._node.family.name} cannot have a server twice in one"
                " place, as it has until its move is confirmed"
            )
        return shared

    def _send(
        self,
        container: OvzContainer,
        way: transfer.Transfer,
        instance: Any,
    ) -> None:
        """The passes over a tree before its container stops.

        One that does not run is sent but once, by the pass that comes after them.
        """
        passes = CONF.openvz.rsync_iterations
        if container.refresh() is State.STOPPED:
            return
        for number in range(passes):
            tell = progress.teller(
                instance,
                _RUNNING_SHARE * number // passes,
                _RUNNING_SHARE * (number + 1) // passes,
            )
            way.send(container.ovz_id, instance.uuid, progress=tell)

    def return_(
        self, migration: Any, instance: Any, network_info: Any, power_on: bool
    ) -> None:
        """Have a server here again, as it was before it left, or while it was leaving.

        :param power_on: False leaves it stopped
        """
        container = servers.find(self._node, instance)
        container.take_back()
        if not self._has_name(container):
            container.save_ovz_metadata()
        if power_on:
            self._life.power_on(instance, network_info)
        if instance.task_state != task_states.RESIZE_REVERTING:
            # The service ended while the server was leaving.
            self._discard(migration, instance)

    def _has_name(self, container: OvzContainer) -> bool:
        if self._node.family.uuid_ctids:
            return True
        link = os.path.join(self._node.paths.names, container.uuid or "")
        return os.path.lexists(link)

    def _discard(self, migration: Any, instance: Any) -> None:
        peer = transfer.Peer.from_options(migration.dest_host, CONF.openvz)
        try:
            transfer.Transfer(self._node, peer).discard(instance.uuid)
        except exception.OvzError as error:
            LOG.warning(
                "A part of the server's files stays on host %(host)s: %(error)s",
                {"host": migration.dest_compute, "error": error},
                instance=instance,
            )

    def confirm(self, instance: Any, network_info: Any) -> None:
        """Remove what a server left here.

        :raises CleanupFailed: with what could not be removed
        """
        self._life.destroy(instance, network_info)

    # -- where it goes --------------------------------------------------------------

    def arrive(
        self,
        instance: Any,
        disk_info: str,
        network_info: Any,
        image_meta: Any,
        power_on: bool,
    ) -> None:
        """Make a server of the files that have come, and start it.

        :param disk_info: what :meth:`leave` returned
        :param power_on: False leaves it stopped
        :raises OvzError: something failed. What has come stays; see :meth:`complete`.
        """
        _check_version(disk_info)
        self._check_arrived(instance)
        self._remove_stale(instance)
        container = self._adopt(instance, image_meta, network_info)
        if power_on:
            with undo.Undo(f"arrival of {instance.uuid}") as steps:
                steps.add("stopping", self._life.halt, container)
                self._life.boot(container, instance, network_info)
        else:
            self._network.plug(instance, network_info)
        # From now on Nova may have the tree removed that this one was copied from.
        os.sync()

    def complete(self, context: Any, instance: Any, network_info: Any) -> None:
        """Finish an arrival that failed, so that the server can be started.

        Nothing happens to one that is not arriving.
        """
        if not self._is_arriving(context, instance):
            return
        LOG.info("Finishing the interrupted arrival", instance=instance)
        try:
            self._life.halt(servers.find(self._node, instance))
        except nova_exception.InstanceNotFound:
            LOG.debug("It has no container yet", instance=instance)
        self._adopt(instance, instance.image_meta, network_info)

    def _is_arriving(self, context: Any, instance: Any) -> bool:
        if instance.uuid not in transfer.incoming(self._node):
            return False
        move = instance.migration_context
        if move is None:
            return False
        migration = objects.Migration.get_by_id_and_instance(
            context, move.migration_id, instance.uuid
        )
        # Nova names this host only when the whole tree was here.
        return (
            migration.migration_type in ("migration", "resize")
            and migration.dest_compute == self._node.host == instance.host
        )

    def _check_arrived(self, instance: Any) -> None:
        if instance.uuid not in transfer.incoming(self._node):
            raise exception.TransferError(
                f"nothing has come to this host for server {instance.uuid}"
            )

    def _remove_stale(self, instance: Any) -> None:
        """Remove what an earlier stay has left, when its end could not be confirmed."""
        stale = OvzContainer.find_remains(self._node, instance.uuid)
        if stale is not None:
            LOG.warning(
                "Container %s is what was left when the server went from here to"
                " another host; now that it comes back, it is removed",
                stale.ovz_id,
                instance=instance,
            )
            self._life.destroy(instance, None, destroy_vifs=False, keep_incoming=True)

    def _adopt(self, instance: Any, image_meta: Any, network_info: Any) -> OvzContainer:
        nics = self._network.nics(instance, network_info)
        try:
            container = servers.find(self._node, instance)
        except nova_exception.InstanceNotFound:
            template = emptytemplate.prepare(self._node)
            container = self._life.make(instance, image_meta, template, nics)
        # Were the container removed now, its tree could be this server's.
        transfer.adopt(self._node, container.ovz_id, instance.uuid)
        servers.describe(self._node, container, instance, network_info, nics)
        return container


def _check_version(disk_info: str) -> None:
    try:
        version = json.loads(disk_info)["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise exception.TransferError(
            "what the other host says of the server makes no sense"
        ) from error
    if version != VERSION:
        raise exception.TransferError(
            f"the other host describes the server by version {version}, and this one"
            f" knows version {VERSION}: install the same driver on both"
        )
