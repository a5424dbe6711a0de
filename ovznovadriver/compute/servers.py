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

"""A server's container, and what its flavor and place mean on this node."""

from __future__ import annotations

import uuid
from typing import Any

from nova import exception as nova_exception
from ovznovadriver import exception
from ovznovadriver.compute import drive, guest, host, spec
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import resources
from ovznovadriver.openvz.container import OvzContainer


def find(node: ovz_node.Node, instance: Any, max_age: float = 0) -> OvzContainer:
    """The container of a server.

    :param max_age: how old, in seconds, what is known of it may be
    :raises InstanceNotFound: it has none on this node
    """
    try:
        return OvzContainer.find(node, uuid=instance.uuid, max_age=max_age)
    except exception.ContainerNotFound as error:
        raise nova_exception.InstanceNotFound(instance_id=instance.uuid) from error


def flavor(nova_flavor: Any) -> resources.Flavor:
    """Nova's flavor, as limits are computed from it."""
    return resources.Flavor(
        memory_mb=nova_flavor.memory_mb,
        vcpus=nova_flavor.vcpus,
        root_gb=nova_flavor.root_gb,
        swap_mb=nova_flavor.swap,
        extra_specs=dict(nova_flavor.extra_specs or {}),
    )


def limits(node: ovz_node.Node, nova_flavor: Any) -> resources.Limits:
    """What a container of a flavor may use on this node."""
    return resources.limits(flavor(nova_flavor), host.facts(), node.options.sizing)


def place(node: ovz_node.Node, tree: tuple[str, str, str]) -> guest.Place:
    """A container's tree, as :meth:`OvzContainer.tree` tells of it, for its guest."""
    uid, gid = node.guest_ids
    return guest.Place(*tree, uid=uid, gid=gid)


def describe(
    node: ovz_node.Node,
    container: OvzContainer,
    instance: Any,
    ports: Any,
    nics: tuple[spec.Nic, ...],
    gone: tuple[spec.Nic, ...] = (),
    *,
    changed: bool = False,
) -> None:
    """Tell a server's guest anew, in its tree, what it is and which interfaces it has.

    :param ports: Nova's description of its interfaces
    :param gone: interfaces that it has no more
    :param changed: whether its interfaces have changed
    :raises OvzError: the tree cannot be written to
    """
    files = drive.config_drive(instance, ports, nics)
    with container.tree() as tree:
        guest.refresh(
            node.executor, place(node, tree), files, nics, gone, changed=changed
        )


def rescuer(instance_uuid: str) -> str:
    """The UUID of the container that the rescue tree of a server is made in."""
    return str(uuid.uuid5(uuid.UUID(instance_uuid), "rescue"))


def end_rescue(container: OvzContainer) -> None:
    """Let a stopped container have its own tree, and nothing else be there.

    :raises UnsafePath: its own tree is not where a rescue puts it; nothing has changed
    """
    helper = container.helper(rescuer(container.uuid or ""))
    container.swap_out(helper)
    helper.delete()


def settle(instance: Any, vm_state: str, power: Any) -> None:
    """Let Nova know what a server is, and that nothing is under way with it.

    :raises UnexpectedTaskStateError: something else is meanwhile
    """
    before = instance.task_state
    instance.vm_state = vm_state
    instance.power_state = power
    instance.task_state = None
    instance.save(expected_task_state=[before])
