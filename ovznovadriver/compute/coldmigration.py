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
that it came from stays, stopped, until the move is confirmed. Where both hosts have
their files on one disk nothing is sent: the tree is lent, see lending.

A disk image (layout ploop) is sent once, after the stop. That its file shows, by its
times, what the kernel wrote into it past the page cache is nowhere promised; vzmigrate
sends none that is in use by rsync, either (bin/vzmigrate.in, vzctl 4.9.4).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from typing import Any

import nova.conf
from nova.compute import task_states
from oslo_log import log as logging

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import (
    emptytemplate,
    lending,
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

#: The versions of what Nova carries from one end of a move to the other: of a tree that
#: is sent, and of one that is lent.
VERSION = 1
LENT_VERSION = 2

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
        self._lending = lending.Lending(node)

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
            shared, lent = self._check(container, way, flavor)
        except (exception.OvzError, nova_exception.ResizeError) as error:
            raise nova_exception.InstanceFaultRollback(
                nova_exception.MigrationPreCheckError(reason=str(error))
            ) from error
        steps = undo.Undo(f"migration of {instance.uuid}")
        stop = functools.partial(
            self._stop, steps, container, instance, network_info, timeout
        )
        try:
            with steps:
                if lent:
                    stop()
                    steps.add("the files", self._lending.recall, instance.uuid)
                    self._lending.lend(container)
                    progress.teller(instance, 0, 100)(1.0)
                else:
                    self._send(steps, container, way, instance, stop)
                if shared:
                    steps.add("the name", container.save_ovz_metadata)
                    container.prep_for_migration()
        except Exception as error:
            resize.roll_back(steps, error)
        version = LENT_VERSION if lent else VERSION
        return json.dumps({"version": version, "key": instance.uuid})

    def _check(
        self, container: OvzContainer, way: transfer.Transfer, flavor: Any
    ) -> tuple[bool, bool]:
        """See that a container's tree can go to another host.

        :param flavor: the one that it gets
        :returns: whether the other host sees the private areas of this one, and
            whether it can have the tree by a rename there
        :raises TransferError: it cannot go; nothing has changed
        """
        node, uuid = self._node, container.uuid or ""
        if uuid in transfer.incoming(node) or self._lending.awaits(uuid):
            raise exception.TransferError(
                "its arrival on this host was not finished: reboot it hard first"
            )
        theirs = way.hello()
        ours = transfer.local_facts(node, container.layout)
        reason = transfer.refusal(ours, theirs)
        if reason is not None:
            raise exception.TransferError(reason)
        shared = way.is_shared(uuid)
        if shared and node.family.uuid_ctids:
            raise exception.TransferError(
                f"host {theirs.host} has its private areas where this one has them,"
                f" and {node.family.name} cannot have a server twice in one"
                " place, as it has until its move is confirmed"
            )
        if container.layout == "ploop":
            self._check_image(container, flavor, shared)
        if shared and way.sees_claim(container.ovz_id, uuid):
            return True, True
        reason = transfer.refusal(ours, theirs, needed_kb=way.tree_kb(container.ovz_id))
        if reason is not None:
            raise exception.TransferError(reason)
        return shared, False

    def _check_image(self, container: OvzContainer, flavor: Any, shared: bool) -> None:
        """See that a disk image can go to another host, and have its size there.

        :raises TransferError: it cannot
        """
        if shared:
            raise exception.TransferError(
                "both hosts have their private areas in one place, and a disk image"
                " that is there could come to be in use on both"
            )
        wanted = servers.limits(self._node, flavor).diskspace
        size_kb = container.image_kb
        if wanted and size_kb and wanted.hard_kb < size_kb:
            # Whether the files fit shows when it is tried, which is too late there.
            raise exception.TransferError(
                f"its disk image has {size_kb} KiB, and cannot become smaller on the"
                " way to another host; on the same host it can, where"
                " [DEFAULT]allow_resize_to_same_host is set"
            )

    def _stop(
        self,
        steps: undo.Undo,
        container: OvzContainer,
        instance: Any,
        network_info: Any,
        timeout: int,
    ) -> None:
        if container.refresh() is not State.STOPPED:
            steps.add("starting", self._life.power_on, instance, network_info)
        self._life.power_off(instance, timeout)
        self._network.unplug(instance, network_info)

    def _send(
        self,
        steps: undo.Undo,
        container: OvzContainer,
        way: transfer.Transfer,
        instance: Any,
        stop: Callable[[], None],
    ) -> None:
        """Send a container's tree while it runs, and once more when it has stopped."""
        steps.add("the copy", way.discard, instance.uuid)
        image = container.layout == "ploop"
        if not image:
            self._send_ahead(container, way, instance)
        tell = progress.teller(instance, 0 if image else _RUNNING_SHARE, 100)
        # ploop fills the holes of an image when it is mounted (ploop's lib/check.c).
        connected = way.connected(
            container.ovz_id, instance.uuid, tell, holes=not image
        )
        # The server is down from its stop to the end of this pass.
        with connected as finish:
            stop()
            finish()
        way.verify(container.ovz_id, instance.uuid)

    def _send_ahead(
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
        self._lending.recall(instance.uuid)
        servers.find(self._node, instance).take_back()
        self.restore_name(instance)
        if power_on:
            self._life.power_on(instance, network_info)
        if instance.task_state != task_states.RESIZE_REVERTING:
            # The service ended while the server was leaving.
            self._discard(migration, instance)

    def stay(self, instance: Any) -> None:
        """Have a server be this host's again that was to leave, and Nova has here.

        :raises TransferError: another host has its files
        """
        self._lending.recall(instance.uuid)
        self.restore_name(instance)

    def restore_name(self, instance: Any) -> None:
        """Give a container its name again, where it gave that up to leave."""
        link = os.path.join(self._node.paths.names, instance.uuid)
        if not self._node.family.uuid_ctids and not os.path.lexists(link):
            servers.find(self._node, instance).save_ovz_metadata()

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

        :raises TransferError: what it lent was not taken
        :raises CleanupFailed: with what could not be removed
        """
        self._lending.refuse_kept(instance.uuid)
        self._life.destroy(instance, network_info)

    # -- where it goes --------------------------------------------------------------

    def arrive(
        self,
        migration: Any,
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
        lender = None
        if _version(disk_info) == LENT_VERSION:
            lender = self._lender(migration, instance)
        else:
            self._check_arrived(instance)
        self._remove_stale(instance)
        container = self._adopt(instance, image_meta, network_info, lender)
        if power_on:
            with undo.Undo(f"arrival of {instance.uuid}") as steps:
                steps.add("stopping", self._life.halt, container)
                self._life.boot(container, instance, network_info)
        else:
            self._network.plug(instance, network_info)
        # From now on Nova may have the tree removed that this one was copied from.
        os.sync()

    def _lender(self, migration: Any, instance: Any) -> str:
        """The CTID under which the host that a server comes from lends its files."""
        source = migration.source_compute
        lender = self._lending.lender(instance.uuid, source)
        if lender is None:
            raise exception.TransferError(
                f"host {source} lends no files of server {instance.uuid}: do both have"
                " the same [openvz]lock_dir?"
            )
        return lender

    def complete(self, context: Any, instance: Any, network_info: Any) -> None:
        """Finish an arrival that failed, so that the server can be started.

        Nothing happens to one that has not come here, or whose move is confirmed.
        """
        come = instance.uuid in transfer.incoming(self._node)
        lent = self._lending.awaits(instance.uuid)
        migration = self._arrival(context, instance)
        if migration is None:
            return
        if come or lent:
            self._finish(migration, instance, network_info, lent=not come)
        if migration.old_instance_type_id != migration.new_instance_type_id:
            self._limit(servers.find(self._node, instance), instance)

    def _finish(
        self, migration: Any, instance: Any, network_info: Any, *, lent: bool
    ) -> None:
        LOG.info("Finishing the interrupted arrival", instance=instance)
        try:
            self._life.halt(servers.find(self._node, instance))
        except nova_exception.InstanceNotFound:
            # There may be one that has no files: not its own, and not the lender's.
            self._remove_stale(instance)
        lender = self._lender(migration, instance) if lent else None
        self._adopt(instance, instance.image_meta, network_info, lender)

    def _arrival(self, context: Any, instance: Any) -> Any | None:
        """The move by which a server has come here, last of all; None without."""
        move = instance.migration_context
        if move is None:
            return None
        migration = objects.Migration.get_by_id_and_instance(
            context, move.migration_id, instance.uuid
        )
        # Nova names this host only when the whole tree was here.
        source, target = migration.source_compute, migration.dest_compute
        here = source != target == self._node.host == instance.host
        comes = migration.migration_type in ("migration", "resize")
        return migration if here and comes else None

    def give_back(self, context: Any, instance: Any) -> None:
        """Have the files that were lent to this host be where they came from again.

        Nothing happens to a server whose move is not being reverted.

        :raises TransferError: they cannot; nothing has changed
        """
        if instance.task_state != task_states.RESIZE_REVERTING:
            return
        migration = self._arrival(context, instance)
        container = OvzContainer.find_remains(self._node, instance.uuid)
        if migration is None or container is None:
            return
        lender = self._lending.lender(instance.uuid, migration.source_compute)
        if lender is not None and self._lending.has(container, lender):
            self._life.halt(container)
            self._lending.give_back(container, lender)

    def _check_arrived(self, instance: Any) -> None:
        if instance.uuid not in transfer.incoming(self._node):
            raise exception.TransferError(
                f"nothing has come to this host for server {instance.uuid}"
            )

    def _remove_stale(self, instance: Any) -> None:
        """Remove what an earlier stay, or an arrival that came to nothing, has left."""
        stale = OvzContainer.find_remains(self._node, instance.uuid)
        if stale is not None:
            LOG.warning(
                "Container %s is left from when the server was here, or to come here,"
                " before; now that it comes, it is removed",
                stale.ovz_id,
                instance=instance,
            )
            self._life.destroy(instance, None, destroy_vifs=False, keep_incoming=True)

    def _adopt(
        self, instance: Any, image_meta: Any, network_info: Any, lender: str | None
    ) -> OvzContainer:
        nics = self._network.nics(instance, network_info)
        try:
            container = servers.find(self._node, instance)
        except nova_exception.InstanceNotFound:
            template = emptytemplate.prepare(self._node)
            container = self._life.make(instance, image_meta, template, nics)
        # Were the container removed now, its tree could be this server's.
        if lender is None:
            transfer.adopt(self._node, container.ovz_id, instance.uuid)
            self._fit(container, instance)
        else:
            self._lending.borrow(container, lender)
        servers.describe(self._node, container, instance, network_info, nics)
        return container

    def _fit(self, container: OvzContainer, instance: Any) -> None:
        """Give a disk image that has come the size that the server is to have.

        :raises DiskImageNotResized: it cannot
        """
        if container.layout != "ploop":
            return
        wanted = servers.limits(self._node, instance.flavor).diskspace
        before = servers.limits(self._node, instance.old_flavor).diskspace
        if wanted is not None and wanted != before:
            container.set_diskspace(wanted.soft_kb, wanted.hard_kb)

    def _limit(self, container: OvzContainer, instance: Any) -> None:
        """Give a container the limits that its server has by now.

        Nova gives one that could not arrive its old flavor back.
        """
        now, old, new = instance.flavor, instance.old_flavor, instance.new_flavor
        other = new if now.flavorid == old.flavorid else old
        self._life.halt(container)
        self._resizes.apply(container, other, now)


def _version(disk_info: str) -> int:
    """How a tree comes."""
    try:
        version: int = json.loads(disk_info)["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise exception.TransferError(
            "what the other host says of the server makes no sense"
        ) from error
    if version not in (VERSION, LENT_VERSION):
        raise exception.TransferError(
            f"the other host describes the server by version {version}, and this one"
            f" knows versions {VERSION} and {LENT_VERSION}: install the same driver on"
            " both"
        )
    return version
