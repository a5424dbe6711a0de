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


"""Servers move: which way a move goes, and what Nova asks of each end of it."""

from __future__ import annotations

from typing import Any

import nova.conf
from oslo_log import log as logging

from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import (
    coldmigration,
    evacuation,
    lifecycle,
    livemigration,
    network,
    resize,
)
from ovznovadriver.openvz import node as ovz_node

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


class Migrations:
    """What Nova asks of the two ends of a resize or a cold migration.

    :param life: the servers of this host
    :param network: their ports
    :param evacuations: those from hosts that are lost
    """

    def __init__(
        self,
        node: ovz_node.Node,
        life: lifecycle.Lifecycle,
        network: network.Network,
        evacuations: evacuation.Evacuations,
    ) -> None:
        self._life = life
        self._evacuations = evacuations
        self._resizes = resize.Resizes(node, life, network)
        self._cold = coldmigration.ColdMigrations(node, life, network, self._resizes)
        self._live = livemigration.LiveMigrations(node, life, network)

    def leave(
        self,
        context: Any,
        instance: Any,
        address: str,
        flavor: Any,
        network_info: Any,
        timeout: int,
    ) -> str:
        """Stop a server, and bring its files to where it goes.

        :param address: of the destination
        :param flavor: the one that it gets
        :param timeout: seconds for a clean stop
        :returns: what :meth:`arrive` is given
        :raises InstanceFaultRollback: it cannot go; it is, and runs, as before
        """
        if not _stays(context, instance, address):
            return self._cold.leave(instance, address, flavor, network_info, timeout)
        self._resizes.prepare(instance, flavor, network_info, timeout)
        return ""

    def arrive(
        self,
        migration: Any,
        instance: Any,
        disk_info: str,
        network_info: Any,
        image_meta: Any,
        power_on: bool,
    ) -> None:
        """Have a server here, with its new flavor.

        :param disk_info: what :meth:`leave` returned
        :param power_on: False leaves it stopped
        """
        if _is_in_place(migration):
            self._resizes.finish(instance, network_info, power_on)
        else:
            self._cold.arrive(
                migration, instance, disk_info, network_info, image_meta, power_on
            )

    def return_(
        self, migration: Any, instance: Any, network_info: Any, power_on: bool
    ) -> None:
        """Have a server here again, as it was before it left.

        :param power_on: False leaves it stopped
        """
        if _is_in_place(migration):
            self._resizes.revert(instance, network_info, power_on)
        else:
            self._cold.return_(migration, instance, network_info, power_on)

    def confirm(self, migration: Any, instance: Any, network_info: Any) -> None:
        """Remove what a server left here."""
        if _is_in_place(migration):
            self._resizes.confirm(instance)
        else:
            self._cold.confirm(instance, network_info)

    def reboot(
        self, context: Any, instance: Any, network_info: Any, hard: bool
    ) -> None:
        """Restart a server, also one whose arrival failed.

        :param hard: from any state, at once; otherwise its init stops it cleanly
        """
        if hard:
            self._live.adopt(instance)
            self._cold.complete(context, instance, network_info)
            self._cold.stay(instance)
        self._life.reboot(instance, network_info, hard)

    def destroy(
        self, context: Any, instance: Any, network_info: Any, destroy_disks: bool
    ) -> None:
        """Remove a server; files that are another host's go back there before.

        One whose evacuation has not come to its end is kept.

        :param destroy_disks: see :meth:`.lifecycle.Lifecycle.destroy`
        """
        if self._evacuations.keep(context, instance, network_info):
            return
        # Nobody else would remove one that changes hands.
        self._live.take(instance)
        self._cold.give_back(context, instance)
        self._life.destroy(instance, network_info, destroy_disks=destroy_disks)

    def forget(self, instance: Any) -> bool:
        """Remove what a move has left here of a server that is deleted.

        :returns: whether nothing is left
        """
        try:
            self._live.take(instance)
            self._life.destroy(instance, None, destroy_vifs=False)
        except exception.OvzError:
            LOG.exception("Something is left", instance=instance)
            return False
        return True


def _stays(context: Any, instance: Any, address: str) -> bool:
    """Whether the destination of a move that begins is this host.

    :param address: the destination's
    """
    progress = instance.migration_context
    if progress is None:
        return address == str(CONF.my_ip)
    # Several hosts may have one address; the record names the host.
    migration = objects.Migration.get_by_id_and_instance(
        context, progress.migration_id, instance.uuid
    )
    return _is_in_place(migration)


def _is_in_place(migration: Any) -> bool:
    return bool(migration.source_compute == migration.dest_compute)
