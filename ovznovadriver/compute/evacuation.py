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
server is without files from then on; it removes that when it comes back.
"""

from __future__ import annotations

from typing import Any

from nova.compute import task_states
from oslo_log import log as logging

from ovznovadriver import exception
from ovznovadriver.compute import emptytemplate, lifecycle, network, servers, undo
from ovznovadriver.openvz import ctid
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer

LOG = logging.getLogger(__name__)


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
        """
        node = self._node
        # Where a CTID is a UUID, both hosts would have the server in one place; and
        # that an image of ploop is not in use elsewhere cannot be seen.
        if node.family.uuid_ctids or node.layout == "ploop":
            return None
        if instance.host in (None, node.host):
            return None
        claimed = node.claims.find(instance.uuid, instance.host)
        dirs = {"private": node.paths.private}
        there = node.executor.call("list_artifacts", dirs=dirs)
        for number in claimed:
            if number in there and node.claims.has(number, ctid.MADE):
                return number
        return None

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

    def _give_back(self, container: OvzContainer, left: str) -> None:
        self._call("return_tree", container, left)
        # Never with the files in it: where they cannot go back, both stay.
        container.delete()

    def _call(self, verb: str, container: OvzContainer, left: str) -> None:
        dirs = {"private": self._node.paths.private}
        self._node.executor.call(verb, dirs=dirs, ctid=container.ovz_id, other=left)
