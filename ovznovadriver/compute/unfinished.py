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


"""Evacuations to this host that a killed service has left unfinished; see restart.py.

Nova has such a server on the lost host until the end, and looks for no end itself. Each
is undone, as Nova does when an evacuation fails: what was made here goes, the files go
back to the lost host's container, and the server is in ERROR, so that it can be
evacuated again. Nothing is undone of what Nova has on this host.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

from nova.compute import power_state, task_states, vm_states
from nova.objects import fields
from nova.scheduler.client import report
from oslo_log import log as logging

from nova import exception as nova_exception
from nova import objects
from ovznovadriver.compute import evacuation, servers
from ovznovadriver.compute.scene import Finding, Scene
from ovznovadriver.openvz import node as ovz_node

LOG = logging.getLogger(__name__)

#: An evacuation's status that says that it may not have come to its end. Nova sets the
#: last one when the lost host is back, however far the other one is.
_UNFINISHED = (*evacuation.UNDER_WAY, "completed")
_REBUILDING = (
    task_states.REBUILDING,
    task_states.REBUILD_BLOCK_DEVICE_MAPPING,
    task_states.REBUILD_SPAWNING,
)


class Unfinished:
    """The evacuations that were under way, as one start of the service finds them.

    :param scene: what is on the node
    """

    def __init__(
        self,
        node: ovz_node.Node,
        evacuations: evacuation.Evacuations,
        context: Any,
        scene: Scene,
    ) -> None:
        self._node = node
        self._evacuations = evacuations
        self._context = context
        self._scene = scene

    def findings(self, here: set[str]) -> Iterator[Finding]:
        """What is to be done about each of them.

        :param here: the servers that Nova has on this host
        """
        try:
            for instance in self._candidates(here):
                yield from self._judged(instance)
        except Exception:
            LOG.exception("What has come of evacuations to this host is not known")

    def _candidates(self, here: set[str]) -> list[Any]:
        """Servers on other hosts of which something may be here."""
        scene = self._scene
        known = self._migrations(host=self._node.host, status=list(_UNFINISHED))
        uuids = {
            move.instance_uuid for move in known if move.dest_compute == self._node.host
        }
        uuids |= {scene.tags[ctid].uuid for ctid in scene.tags if scene.is_tagged(ctid)}
        uuids |= {uuid for ctid in scene.abandoned if (uuid := scene.uuid(ctid))}
        if not uuids - here:
            return []
        found = objects.InstanceList.get_by_filters(
            self._context,
            {"uuid": sorted(uuids - here), "deleted": False},
            expected_attrs=["info_cache", "flavor", "migration_context"],
        )
        return [one for one in found if one.host not in (None, self._node.host)]

    def _migrations(self, **filters: Any) -> list[Any]:
        known = objects.MigrationList.get_by_filters(
            self._context,
            {"migration_type": fields.MigrationType.EVACUATION, **filters},
        )
        return sorted(known, key=lambda move: int(move.id))

    def _judged(self, instance: Any) -> Iterator[Finding]:
        every = objects.MigrationList.get_by_filters(
            self._context, {"instance_uuid": instance.uuid}
        )
        moves = sorted(every, key=lambda move: int(move.id))
        # What came before another move is over, whatever its status is.
        attempts = itertools.takewhile(
            lambda move: self._is_attempt(move, instance), reversed(moves)
        )
        ours = [move for move in attempts if move.dest_compute == self._node.host]
        if not ours or not self._is_unfinished(ours[0], instance):
            return
        yield Finding(
            "evacuating",
            f"server {instance.uuid}",
            f"its evacuation from host {instance.host} was interrupted: its files go"
            " back, what was made of it here is removed, and it is in ERROR",
            functools.partial(self._undo, instance, ours[0], ours[0] is moves[-1]),
        )

    @staticmethod
    def _is_attempt(move: Any, instance: Any) -> bool:
        """Whether this is an evacuation from where Nova still has the server."""
        return bool(
            move.migration_type == fields.MigrationType.EVACUATION
            and move.source_compute == instance.host
            and move.status != "done"
        )

    def _is_unfinished(self, move: Any, instance: Any) -> bool:
        """Whether nothing will come of an attempt, and that is not known to Nova."""
        if move.status == "pre-migrating":
            return True
        if move.status == "accepted":
            # Nova's message may still be on its way.
            return self._evacuations.has_begun(instance)
        # By a status that is older the server may be anywhere by now, and be well.
        if move.status == "completed" and instance.task_state in _REBUILDING:
            return True
        return self._evacuations.has_files(instance)

    def _undo(self, instance: Any, move: Any, is_last: bool) -> None:
        """Undo one; interrupted, it is found again as long as its status stays.

        :param is_last: nothing was asked of the server since
        """
        self._evacuations.undo(instance)
        self._free(instance, move)
        if is_last and instance.task_state != task_states.DELETING:
            instance.drop_migration_context()
            servers.settle(instance, vm_states.ERROR, power_state.NOSTATE)
        move.status = "failed"
        move.save()

    def _free(self, instance: Any, move: Any) -> None:
        """Have placement know that it needs nothing here, but where Nova has it.

        When the lost host came back meanwhile, Nova has given up what it had there.
        """
        ours = self._provider(move.dest_compute, move.dest_node)
        theirs = self._provider(move.source_compute, move.source_node)
        client = report.report_client_singleton()
        known = client.get_allocs_for_consumer(self._context, instance.uuid)
        found = known["allocations"]
        freed = found.pop(ours, None)
        if freed is None:
            return
        if theirs and not found:
            found[theirs] = {"resources": freed["resources"]}
        client.put_allocations(self._context, instance.uuid, known)

    def _provider(self, host: str, node: str | None) -> str | None:
        """The UUID of a host's provider; None where there is none any more."""
        try:
            found = objects.ComputeNode.get_by_host_and_nodename(
                self._context, host, node
            )
        except nova_exception.ComputeHostNotFound:
            return None
        return str(found.uuid)
