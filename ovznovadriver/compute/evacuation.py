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


"""Evacuation with the files: the host is lost, and the disk that they are on is not.

Hosts that share their private areas share their lock directory, too: it says under
which CTID the lost host has a server's files. A new container takes them over by a
rename, so that they are in one place at any time. What the lost host still has of the
server is without files from then on; it removes that when it comes back. Until Nova
has the server on the new host, both keep what is needed to give them back: the new one
notes that it takes them before it does, and the lost one, come back, removes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from nova.compute import task_states, vm_states
from nova.objects import fields
from oslo_log import log as logging

from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import (
    emptytemplate,
    handover,
    lifecycle,
    network,
    servers,
    undo,
)
from ovznovadriver.openvz import ctid
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer

LOG = logging.getLogger(__name__)

#: What an evacuation's status is of which Nova does not know how it ends: asked for,
#: and begun. As in nova.compute.manager, _destroy_evacuated_instances.
UNDER_WAY = ("accepted", "pre-migrating")
#: Nova's periodic tasks remove such servers, without a task.
_REMOVED = (vm_states.SOFT_DELETED, vm_states.DELETED)


class Evacuations:
    """What Nova asks of the host that a lost host's servers come to.

    :param life: the servers of this host
    :param network: their ports
    """

    def __init__(
        self,
        node: ovz_node.Node,
        life: lifecycle.Lifecycle,
        network: network.Network,
    ) -> None:
        self._node = node
        self._life = life
        self._network = network

    def find(self, instance: Any) -> str | None:
        """The CTID under which a server's files lie here; None where they do not.

        Nova says until the end of an evacuation that the server is on the lost host.

        :raises TransferError: a third host has them, whose evacuation was interrupted,
            or which the server was leaving: without them the server would be made anew
            from its image
        """
        node = self._node
        # Where a CTID is a UUID, both hosts would have the server in one place; and
        # that an image of ploop is not in use elsewhere cannot be seen.
        if node.family.uuid_ctids or node.layout == "ploop":
            return None
        if instance.host in (None, node.host):
            return None
        there = self._places()
        self._refuse_handed(instance)
        self._refuse_lent(instance, there)
        for number in self._made(instance):
            if number in there:
                return number
        self._refuse_taken(instance, there)
        return None

    def _made(self, instance: Any) -> list[str]:
        """The CTIDs of the containers that Nova's host of a server has made for it."""
        claims = self._node.claims
        return [
            number
            for number in claims.find(instance.uuid, instance.host)
            if claims.has(number, ctid.MADE)
        ]

    def _places(self) -> set[str]:
        dirs = {"private": self._node.paths.private}
        return set(self._node.executor.call("list_artifacts", dirs=dirs))

    def _holders(
        self, instance: Any, mark: str, there: set[str]
    ) -> Iterator[tuple[str, str]]:
        """(host, CTID) of each claim for a server with a mark whose files are there."""
        claims = self._node.claims
        for number in filter(there.__contains__, claims.ctids()):
            owner = claims.owner(number)
            if (
                owner is not None
                and owner.uuid == instance.uuid
                and claims.has(number, mark)
            ):
                yield owner.host, number

    def _refuse_taken(self, instance: Any, there: set[str]) -> None:
        for host, number in self._holders(instance, ctid.TAKEN, there):
            raise exception.TransferError(
                f"host {host} has the files, in"
                f" {self._node.paths.private}/{number}, by an evacuation that was"
                " interrupted: it gives them back when nova-compute starts there;"
                " see 'Evacuation' in the driver's documentation of migration"
            )

    def _refuse_handed(self, instance: Any) -> None:
        """Refuse a server that was moving as it ran when its host was lost."""
        number = handover.Handover(self._node).awaits(instance.uuid)
        if number is not None:
            raise exception.TransferError(
                f"its files and its memory are in {self._node.paths.private}/"
                f"{handover.PREFIX}{number}, or taken by the host that it was moving"
                " to: see 'When a change of hands is interrupted' in the driver's"
                " documentation of migration"
            )

    def _refuse_lent(self, instance: Any, there: set[str]) -> None:
        """Refuse a server that was moving when its host was lost, before it had files.

        What that host has made of it then is empty.
        """
        for host, number in self._holders(instance, ctid.LENT, there):
            if host != instance.host:
                raise exception.TransferError(
                    f"host {host} has the files still, in"
                    f" {self._node.paths.private}/{number}: host {instance.host} was"
                    " lost before it took them"
                )

    def arrive(
        self,
        instance: Any,
        image_meta: Any,
        network_info: Any,
        block_device_info: Any,
    ) -> None:
        """Make a server of the files that its lost host has left, and start it.

        :raises NotImplementedError: there are none
        :raises OvzError: something failed. The files are where they were.
        """
        left = self.find(instance)
        if left is None:
            raise NotImplementedError
        lifecycle.refuse_volumes(instance, block_device_info)
        self._check_owner(left)
        LOG.info(
            "Taking over the files that host %(host)s has as container %(ctid)s",
            {"host": instance.host, "ctid": left},
            instance=instance,
        )
        for state in (
            task_states.REBUILD_BLOCK_DEVICE_MAPPING,
            task_states.REBUILD_SPAWNING,
        ):
            # As Nova's own way goes, step by step.
            before, instance.task_state = instance.task_state, state
            instance.save(expected_task_state=[before])
        nics = self._network.nics(instance, network_info)
        ends = network.host_ends(nics, servers.limits(self._node, instance.flavor))
        template = emptytemplate.prepare(self._node)
        with undo.Undo(f"evacuation of {instance.uuid}") as steps:
            container = self._life.make(instance, image_meta, template, nics)
            steps.add("the files", self._give_back, container, left)
            # Before: were this process killed in between, nobody would know of it.
            self._node.claims.note(container.ovz_id, ctid.TAKEN)
            self._call("take_tree", container, left)
            servers.describe(self._node, container, instance, network_info, nics)
            self._life.bring_up(steps, container, instance, network_info, ends)

    def _check_owner(self, left: str) -> None:
        found = self._node.executor.call(
            "inspect_tree",
            base=self._node.paths.private,
            ctid=left,
            sub=self._node.family.tree_dir,
            kinds=[],
            contents=[],
            limit=0,
        )["owner"]
        if (found["uid"], found["gid"]) != self._node.guest_ids:
            raise exception.TransferError(
                f"the files belong to {found['uid']}:{found['gid']}, and a container's"
                f" root is {':'.join(map(str, self._node.guest_ids))} on host"
                f" {self._node.host}: LOCAL_UID and LOCAL_GID in vz.conf differ"
            )

    # -- one that has not come to its end ---------------------------------------------

    def has_begun(self, instance: Any) -> bool:
        """Whether there is anything here of a server that was being evacuated."""
        return OvzContainer.find_remains(self._node, instance.uuid) is not None

    def has_files(self, instance: Any) -> bool:
        """Whether a container here has the files, and Nova's host of the server not."""
        container = OvzContainer.find_remains(self._node, instance.uuid)
        if container is None or not self._node.claims.has(container.ovz_id, ctid.TAKEN):
            return False
        there = self._places()
        return container.ovz_id in there and not there.intersection(
            self._made(instance)
        )

    def undo(self, instance: Any) -> None:
        """Undo :meth:`arrive`, or what Nova does without it, however far it came.

        Interrupted, it can be called again.

        :raises TransferError: the files cannot go back; they stay in the container
        """
        container = OvzContainer.find_remains(self._node, instance.uuid)
        if container is not None:
            # Without its files vzlist does not show it, and it does not run.
            with contextlib.suppress(exception.ContainerNotFound):
                self._life.halt(container)
            if self.has_files(instance):
                self._return(instance, container)
        self._life.destroy(instance, instance.get_network_info(), keep_incoming=True)

    def _return(self, instance: Any, container: OvzContainer) -> None:
        made = self._made(instance)
        place = f"{self._node.paths.private}/{container.ovz_id}"
        if len(made) != 1:
            raise exception.TransferError(
                f"the files in {place} cannot go back to host {instance.host}, which"
                " has no container for them any more: they stay"
            )
        self._call("return_tree", container, made[0])
        if made[0] not in self._places():
            raise exception.TransferError(f"the files in {place} have not gone back")

    def keep(self, context: Any, instance: Any, network_info: Any) -> bool:
        """Stop a server of this host, and keep it, when its evacuation has not ended.

        Nova has a host that comes back remove it, also when the other host has not
        begun yet, or will not come to the end: its files may be the only ones.

        :returns: whether it has to be kept; otherwise nothing is done
        """
        node = self._node
        if instance.host != node.host or instance.deleted:
            return False
        if instance.task_state == task_states.DELETING:
            return False
        if self._has_come_back(context, instance):
            LOG.warning(
                "It was evacuated, and has come back since: it is kept as it is",
                instance=instance,
            )
            return True
        if not self._evacuated(context, instance, *UNDER_WAY):
            return False
        LOG.warning(
            "Its evacuation has not come to its end: it is stopped here, and kept",
            instance=instance,
        )
        container = OvzContainer.find_remains(node, instance.uuid)
        if container is not None:
            with contextlib.suppress(exception.ContainerNotFound):
                self._life.halt(container)
        self._network.unplug(instance, network_info)
        return True

    def _has_come_back(self, context: Any, instance: Any) -> bool:
        """Whether Nova removes a server for an evacuation that is long over.

        It does so at a start of the service that was not started since: it had lost
        its connection only, and the server has moved here again meanwhile. Whatever
        else removes a server has a task.
        """
        if instance.task_state is not None or instance.vm_state in _REMOVED:
            return False
        return self._evacuated(context, instance, "done")

    def _evacuated(self, context: Any, instance: Any, *status: str) -> bool:
        """Whether Nova knows of an evacuation of a server from this host."""
        found = objects.MigrationList.get_by_filters(
            context,
            {
                "instance_uuid": instance.uuid,
                "source_compute": self._node.host,
                "migration_type": fields.MigrationType.EVACUATION,
                "status": list(status),
            },
        )
        return bool(found)

    # -- single steps -----------------------------------------------------------------

    def _give_back(self, container: OvzContainer, left: str) -> None:
        self._call("return_tree", container, left)
        # Never with the files in it: where they cannot go back, both stay.
        container.delete()

    def _call(self, verb: str, container: OvzContainer, left: str) -> None:
        dirs = {"private": self._node.paths.private}
        self._node.executor.call(verb, dirs=dirs, ctid=container.ovz_id, other=left)
