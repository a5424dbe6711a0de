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

"""A server changes hands with its memory, where both hosts have its files on one disk.

It is suspended, and is no host's until one takes it; see openvz.handover. Its claim,
which such hosts share, says so meanwhile by the mark ``handed``, and is the taker's
then. Whoever Nova has the server with takes it: at the end of its live migration, when
that host's service starts, or before it is rebooted hard or deleted there.
"""

from __future__ import annotations

from typing import Any

from oslo_log import log as logging

from ovznovadriver import exception
from ovznovadriver.openvz import ctid
from ovznovadriver.openvz import handover as verbs
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer

LOG = logging.getLogger(__name__)

#: What the name begins with that a container has among the private areas meanwhile.
PREFIX = verbs.PREFIX


class Handover:
    """What a host gives to others, and takes from them."""

    def __init__(self, node: ovz_node.Node) -> None:
        self._node = node

    def give(self, container: OvzContainer) -> None:
        """Let a suspended container be the first host's that takes it.

        :raises OvzError: it could not; :meth:`take` undoes what was done
        """
        self._node.claims.note(container.ovz_id, ctid.HANDED)
        left: list[str] = self._call("hand_over", container.ovz_id, "names", "cgroup")
        if left:
            LOG.error(
                "Of container %(ctid)s, which has gone, something is left: %(left)s",
                {"ctid": container.ovz_id, "left": "; ".join(left)},
            )

    def awaits(self, uuid: str) -> str | None:
        """The CTID under which a server is handed over, by any host; None without."""
        claims = self._node.claims
        for number in claims.ctids():
            owner = claims.owner(number)
            if owner and owner.uuid == uuid and claims.has(number, ctid.HANDED):
                return number
        return None

    def take(self, uuid: str) -> bool:
        """Have a server that was handed over be this host's; it is suspended.

        Its container bears the tag of the host that it comes from. Interrupted, it can
        be called again.

        :returns: False where it was not handed over
        :raises ContainerTaken: another host has it
        :raises OvzError: something failed; it is no host's still
        """
        number = self.awaits(uuid)
        if number is None:
            return False
        if not self._call("take_over", number):
            raise exception.ContainerTaken(
                f"another host has taken over container {number}"
            )
        self._node.claims.sign(number, uuid)
        self._node.look.forget()
        return True

    def _call(self, verb: str, number: str, *more: str) -> Any:
        kinds = ("private", "root", "conf", "dump", *more)
        places = {**self._node.artifact_dirs(), "cgroup": self._node.paths.cgroup}
        return self._node.executor.call(
            verb,
            # A dump is as large as the memory that it is of.
            time_limit=self._node.options.limits.move,
            dirs={kind: places[kind] for kind in kinds},
            ctid=number,
            host=self._node.host,
        )
