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

"""Interfaces that come to a server, or leave it, after it was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oslo_log import log as logging

from nova import exception as nova_exception
from ovznovadriver import exception
from ovznovadriver.compute import (
    host,
    netfiles,
    network,
    servers,
    spec,
    undo,
)
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer, OvzContainers
from ovznovadriver.openvz.vzlist import State

LOG = logging.getLogger(__name__)


class Interfaces:
    """What Nova asks of the interfaces of a server that is there already.

    :param network: the ports of this host's servers
    """

    def __init__(self, node: ovz_node.Node, network: network.Network) -> None:
        self._node = node
        self._network = network

    def attach(self, context: Any, instance: Any, vif: Any) -> None:
        """Give a server one more interface, also while it runs.

        The guest finds it described in its config drive, or in its distribution's
        files; to bring it up is the guest's own doing.

        :raises InterfaceMissing: the interface did not come into being. All is as
            it was before.
        """
        container = servers.find(self._node, instance)
        ports = instance.get_network_info()
        before = self._network.nics(
            instance, [v for v in ports if v["id"] != vif["id"]]
        )
        after = self._network.nics(instance, _with(ports, vif))
        nic = _by_port(after, vif["id"])
        runs = container.state in (State.RUNNING, State.PAUSED)
        ends = self._ends(instance, after)
        (end,) = (e for e in ends if e.host_ifname == nic.devname)
        wiring = container.wiring
        if runs:
            wiring.refuse_taken([end])
        with undo.Undo(f"attaching port {nic.port_id} to {instance.uuid}") as steps:
            steps.add("the host ends", wiring.keep, self._ends(instance, before))
            # The hook wants to know of it when vzctl makes it.
            wiring.keep(ends)
            steps.add("unplugging", self._network.unplug, instance, [vif])
            self._network.plug(instance, [vif])
            steps.add("limits", wiring.drop, [end])
            steps.add("removing", self._remove, container, nic, before)
            with container.changes():
                container.add_interfaces(network.veths((nic,)))
                _set_name_servers(container, before, after)
            if runs:
                wiring.connect([end])
            steps.add("naming", network.keep, context, instance, before, (nic,))
            network.keep(context, instance, after)
            steps.add("the guest", self._refresh, container, instance, before, (nic,))
            self._refresh(container, instance, after)
        if runs:
            wiring.announce([end])

    def detach(self, context: Any, instance: Any, vif: Any) -> None:
        """Take an interface from a server, also while it runs.

        One that is gone already is no error.

        :raises InterfaceDetachFailed: the container still has it
        :raises CleanupFailed: the container has it no more, and something is left
        """
        container = servers.find(self._node, instance)
        # Nova may have forgotten a port that was deleted in Neutron.
        ports = _with(instance.get_network_info(), vif)
        before = self._network.nics(instance, ports)
        nic = _by_port(before, vif["id"])
        after = tuple(other for other in before if other is not nic)
        self._remove(container, nic, after)
        if self._node.veth_exists(nic.devname):
            raise nova_exception.InterfaceDetachFailed(instance_uuid=instance.uuid)
        steps: list[tuple[str, Callable[[], None]]] = [
            ("port", lambda: self._network.unplug(instance, [vif])),
            ("host ends", lambda: container.wiring.keep(self._ends(instance, after))),
            ("limits", lambda: container.wiring.drop(self._ends(instance, (nic,)))),
            ("names", lambda: network.keep(context, instance, after, (nic,))),
        ]
        undo.attempt_all(f"Detaching port {nic.port_id}", steps)
        try:
            self._refresh(container, instance, after, (nic,))
        except exception.OvzError as error:
            # Nova would keep the port, of which the guest's full disk may decide so.
            LOG.warning(
                "The guest is not told that port %(port)s is gone: %(error)s",
                {"port": nic.port_id, "error": error},
                instance=instance,
            )

    def mend_limits(self) -> None:
        """Put limits in force again that something has taken away.

        Open vSwitch does so when it is started again. One look at the host; what
        cannot be mended is logged, and tried again the next time.
        """
        try:
            running = [
                container
                for container in OvzContainers.list(self._node, host.REPORT_MAX_AGE)
                if container.state in (State.RUNNING, State.PAUSED)
            ]
            lacking = self._node.executor.call(
                "check_host_ends",
                base=self._node.paths.conf,
                ctids=[container.ovz_id for container in running],
                programs=self._node.programs("tc"),
            )
            for container in running:
                if container.ovz_id in lacking:
                    self._mend(container)
        except exception.OvzError as error:
            LOG.warning("The containers' bandwidth limits are not known: %s", error)

    @staticmethod
    def _mend(container: OvzContainer) -> None:
        LOG.warning(
            "Container %(ctid)s of instance %(uuid)s had lost its bandwidth limits",
            {"ctid": container.ovz_id, "uuid": container.uuid},
        )
        try:
            container.wiring.connect(container.wiring.kept())
        except exception.OvzError as error:
            LOG.warning("They are not in force: %s", error)

    @staticmethod
    def _remove(
        container: OvzContainer, nic: spec.Nic, others: tuple[spec.Nic, ...]
    ) -> None:
        with container.changes():
            container.remove_interfaces((nic.name,))
            _set_name_servers(container, (*others, nic), others)

    def _ends(self, instance: Any, nics: tuple[spec.Nic, ...]) -> Any:
        return network.host_ends(nics, servers.limits(self._node, instance.flavor))

    def _refresh(
        self,
        container: OvzContainer,
        instance: Any,
        nics: tuple[spec.Nic, ...],
        gone: tuple[spec.Nic, ...] = (),
    ) -> None:
        """Describe the interfaces to the guest anew."""
        ids = [nic.port_id for nic in nics]
        ports = [vif for vif in instance.get_network_info() if vif["id"] in ids]
        servers.describe(
            self._node, container, instance, ports, nics, gone, changed=True
        )


def _with(ports: Any, vif: Any) -> list[Any]:
    known = any(port["id"] == vif["id"] for port in ports)
    return [*ports] if known else [*ports, vif]


def _by_port(nics: tuple[spec.Nic, ...], port: str) -> spec.Nic:
    return next(nic for nic in nics if nic.port_id == port)


def _set_name_servers(
    container: OvzContainer, before: tuple[spec.Nic, ...], after: tuple[spec.Nic, ...]
) -> None:
    """Within changes(): where they change, which few ports bring about."""
    servers = netfiles.name_servers(after)
    if servers != netfiles.name_servers(before):
        container.set_nameservers(tuple(servers))
