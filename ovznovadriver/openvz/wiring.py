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

"""The host's side of a container's interfaces, from before its start to after.

What must be done to a host end whenever it appears is kept in a file of the node
(see hostends), so that the hook does it also when the container restarts by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from oslo_log import log as logging

from ovznovadriver import exception
from ovznovadriver.openvz import hostends, shaping
from ovznovadriver.openvz import node as ovz_node

LOG = logging.getLogger(__name__)


class Wiring:
    """Those of one container.

    :param ctid: the container's
    """

    def __init__(self, node: ovz_node.Node, ctid: str) -> None:
        self._node = node
        self._ctid = ctid

    def keep(self, ends: Sequence[hostends.HostEnd]) -> None:
        """Put down what is to be done to the host ends; they are all there are."""
        self._node.executor.call(
            "write_host_ends",
            base=self._node.paths.conf,
            ctid=self._ctid,
            text=hostends.encode(ends),
        )

    def refuse_taken(self, ends: Sequence[hostends.HostEnd]) -> None:
        """See that vzctl can make the host ends.

        vzctl 4 leaves out an interface whose host end has the name of one that is
        there already, and reports success.

        :raises InterfaceMissing: one cannot come into being
        """
        if self._node.family.adopts_host_ends:
            return
        for end in ends:
            if self._node.veth_exists(end.host_ifname):
                raise exception.InterfaceMissing(
                    f"container {self._ctid} cannot have its interface: the host has"
                    f" one named {end.host_ifname} already; remove it with 'ip link"
                    f" del {end.host_ifname}'"
                )

    def connect(self, ends: Sequence[hostends.HostEnd]) -> None:
        """Do to the host ends what is to be done, and announce the addresses.

        :param ends: those that must be there now
        :raises InterfaceMissing: one is not there, or is not what it must be
        """
        problems = [problem for end in ends if (problem := self._missing(end))]
        if ends and not problems:
            problems = self._node.executor.call(
                "apply_host_ends",
                base=self._node.paths.conf,
                ctid=self._ctid,
                programs=self._node.programs("ip", "tc"),
                names=[end.host_ifname for end in ends],
            )
        if problems:
            raise exception.InterfaceMissing(
                f"container {self._ctid} has no working network: {'; '.join(problems)}"
            )

    def _missing(self, end: hostends.HostEnd) -> str | None:
        if not self._node.veth_exists(end.host_ifname):
            return f"it runs without the interface whose host end is {end.host_ifname}"
        # Made beforehand by the hook, for vzctl to take into the container.
        if self._node.veth_exists(hostends.peer_name(end.host_ifname)):
            return f"vzctl did not take the other end of {end.host_ifname}"
        return None

    def announce(self, ends: Sequence[hostends.HostEnd]) -> None:
        """Let the network learn where the container's addresses are now.

        Where that fails it learns it from the guest itself, somewhat later: it is
        logged, and nothing that was done by then is in vain.
        """
        names = [end.host_ifname for end in ends if end.addresses]
        if not names:
            return
        try:
            self._node.executor.call(
                "announce", base=self._node.paths.conf, ctid=self._ctid, names=names
            )
        except exception.OvzError as error:
            LOG.warning(
                "The addresses of container %(ctid)s are not announced: %(error)s",
                {"ctid": self._ctid, "error": error},
            )

    def kept(self) -> tuple[hostends.HostEnd, ...]:
        """What :meth:`keep` has put down."""
        return hostends.read(self._node.paths.conf, self._ctid)

    def left(self) -> list[str]:
        """What the host has of interfaces that no container is at the other end of."""
        return [
            name
            for end in self.kept()
            for name in (
                hostends.peer_name(end.host_ifname),
                shaping.ifb_name(end.host_ifname),
            )
            if self._node.veth_exists(name)
        ]

    def drop_pairs(self) -> None:
        """Remove what :meth:`left` tells of; the container does not run.

        Nothing is asked where there is nothing.
        """
        if not self.left():
            return
        problems = self._node.executor.call(
            "drop_pairs",
            base=self._node.paths.conf,
            ctid=self._ctid,
            programs=self._node.programs("ip"),
        )
        if problems:
            raise exception.CleanupFailed(
                f"interfaces of container {self._ctid}", problems
            )

    def drop(self, ends: Sequence[hostends.HostEnd]) -> None:
        """Remove what outlives host ends that are gone."""
        names = [end.host_ifname for end in ends if end.outbound is not None]
        if names:
            self._node.executor.call(
                "drop_host_ends", names=names, programs=self._node.programs("ip")
            )
