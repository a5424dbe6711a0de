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

"""Rescue: a server starts from another tree, and finds its own at /instance.

The container stays the same, with its CTID, limits and interfaces: its root tree is
swapped (see openvz.swap). For the moment of its making the rescue tree belongs to a
container of its own, whose "instance" is :func:`servers.rescuer`.
"""

from __future__ import annotations

from typing import Any

from nova import exception as nova_exception
from ovznovadriver.compute import (
    drive,
    guest,
    image,
    lifecycle,
    network,
    servers,
    snapshot,
    spec,
    undo,
)
from ovznovadriver.openvz import node as ovz_node


class Rescue:
    """What Nova asks of a server that does not start any more.

    :param life: the servers of this host
    :param network: their ports
    :param images: what the rescue tree is made from
    """

    def __init__(
        self,
        node: ovz_node.Node,
        life: lifecycle.Lifecycle,
        network: network.Network,
        images: image.ImageCache,
    ) -> None:
        self._node = node
        self._life = life
        self._network = network
        self._images = images

    def rescue(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        image_meta: Any,
        password: str | None,
    ) -> None:
        """Start a server from a tree of the image, or of its own image.

        :raises InstanceNotRescuable: its layout does not allow it
        :raises CommandFailed: vzctl failed. The server is as it was, and stopped.
        """
        container = servers.find(self._node, instance)
        if container.layout == "ploop":
            raise nova_exception.InstanceNotRescuable(
                instance_id=instance.uuid,
                reason="its layout is ploop, and a disk image cannot be shown inside",
            )
        # Nova has stopped it; a tree is never taken from under one that runs.
        self._life.halt(container)
        # What a former attempt has left, which may hold the server's own tree.
        servers.end_rescue(container)
        nics = self._network.nics(instance, network_info)
        guest_spec = spec.guest_from_nova(
            instance,
            admin_password=password,
            drive=drive.config_drive(
                instance, network_info, nics, admin_password=password
            ),
        )
        if "id" not in image_meta or not image_meta.id:
            image_meta.id = instance.image_ref
        template = self._images.prepare(context, instance, image_meta)
        with undo.Undo(f"rescue of {instance.uuid}") as steps:
            # It may run by then: vzctl can fail after a start, too.
            steps.add("its own tree", self.settle, instance)
            helper = container.make_helper(
                servers.rescuer(container.uuid or ""), template
            )
            with helper.tree() as tree:
                snapshot.restore(self._node, tree)
                place = servers.place(self._node, tree)
                guest.prepare(self._node.executor, place, guest_spec, nics)
            container.swap_in(helper)
            helper.delete()
            self._life.boot(container, instance, network_info, rescue=True)

    def unrescue(self, instance: Any) -> None:
        """Start a server from its own tree again, as it was left there.

        One that is not rescued is only started.
        """
        container = servers.find(self._node, instance)
        self._life.halt(container)
        servers.end_rescue(container)
        self._life.boot(container, instance, instance.get_network_info())

    def settle(self, instance: Any) -> None:
        """Stop a server, and let it have its own tree, whatever was under way."""
        container = servers.find(self._node, instance)
        self._life.halt(container)
        servers.end_rescue(container)
