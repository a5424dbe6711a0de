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


"""Resize on the same host: the container stays, and what it may use changes.

Its root tree is not touched by any of it; a disk image (layout ploop) gets another
size. Before the first change its configuration is kept beside it (see
openvz.keptconf): a revert, and whatever fails, restores that file as it was.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

from oslo_log import log as logging

from nova import exception as nova_exception
from ovznovadriver import exception
from ovznovadriver.compute import lifecycle, network, servers, undo
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import resources, vzconf
from ovznovadriver.openvz.container import OvzContainer
from ovznovadriver.openvz.vzlist import State

LOG = logging.getLogger(__name__)


class Resizes:
    """What Nova asks of a server that gets another flavor and stays where it is.

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

    def check(self, instance: Any, flavor: Any) -> OvzContainer:
        """See that a server's container could have a flavor here.

        :returns: the container
        :raises ResizeError: it could not; nothing has changed
        """
        container = servers.find(self._node, instance)
        try:
            # What is frozen here may be the only one there is, or run elsewhere.
            container.refuse_leaving()
            container.refuse_swapped()
            found = servers.limits(self._node, flavor)
            self._check_sample(container, instance.flavor, flavor)
        except (
            exception.InvalidValue,
            exception.ConfigurationError,
            exception.TransferError,
            nova_exception.InvalidInput,
        ) as error:
            raise nova_exception.ResizeError(reason=str(error)) from error
        if flavor.ephemeral_gb:
            raise nova_exception.ResizeError(
                reason="OpenVZ containers here cannot have ephemeral disks"
            )
        self._check_disk(container, instance.flavor, flavor, found)
        return container

    def _check_disk(
        self,
        container: OvzContainer,
        old: Any,
        new: Any,
        found: resources.Limits,
    ) -> None:
        if new.root_gb >= old.root_gb or found.diskspace is None:
            return
        used = container.used_kb()
        # Where it is not known, vzctl refuses what does not fit.
        if used is not None and used > found.diskspace.soft_kb:
            raise nova_exception.ResizeError(
                reason=f"the server's files take {used} KiB, which do not fit into a"
                f" root disk of {new.root_gb} GiB; remove some of them first"
            )

    def prepare(
        self, instance: Any, flavor: Any, network_info: Any, timeout: int
    ) -> None:
        """Stop a server, and give it the limits of another flavor.

        All that can fail, but for the start, is done here: from here on Nova has the
        new flavor's use in its books, also where the rest fails.

        :param timeout: seconds for a clean stop
        :raises InstanceFaultRollback: something failed; the server is, and runs, as
            before
        """
        try:
            container = self.check(instance, flavor)
        except nova_exception.ResizeError as error:
            raise nova_exception.InstanceFaultRollback(error) from error
        steps = undo.Undo(f"resize of {instance.uuid}")
        try:
            with steps:
                container.keep()
                steps.add("the kept configuration", container.forget_kept)
                if container.state is not State.STOPPED:
                    steps.add("starting", self._life.power_on, instance, network_info)
                self._life.power_off(instance, timeout)
                self._network.unplug(instance, network_info)
                steps.add("the configuration", container.restore)
                self.apply(container, instance.flavor, flavor)
        except Exception as error:
            roll_back(steps, error)

    def finish(self, instance: Any, network_info: Any, power_on: bool) -> None:
        """Start a server that has its new limits.

        :param power_on: False leaves it stopped
        :raises OvzError: it does not start. It is stopped, with the limits that it
            had: Nova gives it its old flavor back.
        """
        container = servers.find(self._node, instance)
        with undo.Undo(f"resize of {instance.uuid}") as steps:
            steps.add("the configuration", self._restore, container)
            self._describe(container, instance, network_info)
            if power_on:
                self._life.boot(container, instance, network_info)

    def _describe(
        self, container: OvzContainer, instance: Any, network_info: Any
    ) -> None:
        nics = self._network.nics(instance, network_info)
        servers.describe(self._node, container, instance, network_info, nics)

    def _other_sample(self, old: Any, new: Any) -> str | None:
        """The sample configuration that a new flavor has, and the old one has not.

        :raises InvalidInput: it cannot be used
        """
        sample = self._life.sample(new.extra_specs or {})
        if sample == self._life.sample(old.extra_specs or {}):
            return None
        return sample or self._node.sample

    def _check_sample(self, container: OvzContainer, old: Any, new: Any) -> None:
        sample = self._other_sample(old, new)
        if sample is None or container.layout != "ploop":
            return
        path = self._node.paths.sample(sample)
        if "DISKSPACE" in vzconf.read_settings(path):
            # It would come before, and whatever else is given.
            raise exception.InvalidValue(
                f"{path} would resize the server's disk image: remove DISKSPACE from"
                " it, or give both flavors the same vz_config_file"
            )

    def apply(self, container: OvzContainer, old: Any, new: Any) -> None:
        """Give a stopped container the limits of another flavor.

        :raises DiskImageNotResized: its disk image cannot have its size
        """
        sample = self._other_sample(old, new)
        if sample:
            container.apply_config(sample)
        before = servers.limits(self._node, old)
        after = servers.limits(self._node, new)
        if container.layout == "ploop" and after.diskspace == before.diskspace:
            # To resize an image to what it has takes a mount.
            after = dataclasses.replace(after, diskspace=None)
        with container.changes():
            lifecycle.apply_limits(container, after)
            # What the old flavor had, and the new one has not, would stay in force.
            container.set_iolimits(
                0 if before.iolimit and not after.iolimit else None,
                0 if before.iopslimit and not after.iopslimit else None,
            )

    def _restore(self, container: OvzContainer) -> None:
        self._life.halt(container)
        container.restore()

    def confirm(self, instance: Any) -> None:
        """Forget what the server had before."""
        servers.find(self._node, instance).forget_kept()

    def revert(self, instance: Any, network_info: Any, power_on: bool) -> None:
        """Let a server be as it was, also where nothing of the resize was done yet.

        :param power_on: False leaves it stopped
        """
        container = servers.find(self._node, instance)
        if container.is_kept:
            self._restore(container)
            try:
                self._describe(container, instance, network_info)
            except exception.OvzError as error:
                # It has its limits back, and that is what counts.
                LOG.warning(
                    "The guest is still told of the other flavor: %s",
                    error,
                    instance=instance,
                )
        if power_on:
            self._life.power_on(instance, network_info)


def roll_back(steps: undo.Undo, error: Exception) -> NoReturn:
    """Tell Nova that a move failed, and its steps were undone.

    :raises InstanceFaultRollback: so Nova takes the server for what it was before
    :raises Exception: the error itself, where it is not as it was before
    """
    if not steps.complete:
        raise error
    raise nova_exception.InstanceFaultRollback(
        nova_exception.ResizeError(reason=str(error))
    ) from error
