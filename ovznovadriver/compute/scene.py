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

"""What there is on a node when a service starts, and what is found to be wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import metadata, vzlist
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer

#: What a container is in that does not run.
DOWN = (vzlist.State.STOPPED, vzlist.State.MOUNTED, vzlist.State.SUSPENDED)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a rule found.

    :ivar kind: the rule's
    :ivar subject: what it is about
    :ivar what: what is wrong, and what is done about it or must be
    :ivar act: does it; None where that is the operator's
    :ivar ctid: the container's that it is about, if it is about one
    """

    kind: str
    subject: str
    what: str
    act: Callable[[], object] | None = None
    ctid: str | None = None


class Scene:
    """All that there is on a node, by one vzlist and one request to root's side.

    :ivar infos: the containers that vzlist shows, by CTID
    :ivar tags: the tags of those that bear one
    :ivar seen: see :func:`ovznovadriver.openvz.survey.survey`
    :ivar unsettled: CTIDs that a swap of trees needs which could not be settled
    """

    def __init__(self, node: ovz_node.Node, max_age: float = 0) -> None:
        self.node = node
        # Those before these: who claims first, and then makes.
        self.abandoned = {
            ctid for ctid in node.claims.ctids() if node.claims.is_abandoned(ctid)
        }
        infos = node.look.containers(max_age)
        self.infos = {info.ctid: info for info in infos}
        tags = {info.ctid: metadata.decode(info.description) for info in infos}
        self.tags = {ctid: tag for ctid, tag in tags.items() if tag is not None}
        self.seen: dict[str, Any] = node.executor.call(
            "survey", dirs=node.artifact_dirs(), sub=node.family.tree_dir
        )
        self.claimed = set(node.claims.ctids())
        self.unsettled: set[str] = set()

    def container(self, ctid: str) -> OvzContainer:
        """A container of this host, be it only a claim."""
        info = self.infos.get(ctid)
        loaded = OvzContainer.load(self.node, info) if info else None
        return loaded or OvzContainer(self.node, ctid, uuid=self.uuid(ctid), info=info)

    def uuid(self, ctid: str) -> str | None:
        """The instance that a container is for, by its tag or its claim."""
        if ctid in self.tags:
            return self.tags[ctid].uuid
        owner = self.node.claims.owner(ctid)
        return owner.uuid if owner else None

    def name(self, ctid: str) -> str:
        """What messages call a container."""
        uuid = self.uuid(ctid)
        return f"container {ctid}" + (f" of server {uuid}" if uuid else "")

    def finding(
        self,
        kind: str,
        ctid: str,
        what: str,
        act: Callable[[], object] | None = None,
    ) -> Finding:
        """A finding about a container."""
        return Finding(kind, self.name(ctid), what, act, ctid)

    def is_tagged(self, ctid: str) -> bool:
        """Whether a container bears this host's tag."""
        return ctid in self.tags and self.tags[ctid].host == self.node.host

    def is_claimed_here(self, ctid: str) -> bool:
        """Whether this host has claimed a CTID, by whatever process."""
        owner = self.node.claims.owner(ctid)
        return owner is not None and owner.host == self.node.host

    def is_ours(self, ctid: str) -> bool:
        """Whether a CTID is this host's, by its tag or by an abandoned claim."""
        if ctid in self.tags:
            return self.is_tagged(ctid)
        return ctid in self.abandoned

    def holder(self, ctid: str) -> int:
        """The vzctl that works on a container; 0 where none does."""
        return int(self.seen["locks"].get(ctid, 0))

    def is_under_way(self, ctid: str) -> bool:
        """Whether a vzctl makes or removes a container that this host has claimed."""
        whole = self.has(ctid, ovz_ctid.MADE) and not self.has(ctid, ovz_ctid.REMOVING)
        return bool(self.holder(ctid)) and not whole

    def is_there(self, ctid: str) -> bool:
        """Whether there is anything of a container but its claim."""
        return ctid in self.infos or ctid in self.seen["places"]

    def has(self, ctid: str, *marks: str) -> bool:
        """Whether a claim has one of these marks."""
        return any(self.node.claims.has(ctid, mark) for mark in marks)

    def is_configured(self, ctid: str) -> bool:
        """Whether a container was ever more than `vzctl create` makes it."""
        info, conf = self.infos.get(ctid), self.seen["confs"].get(ctid)
        if info and info.description:
            return True
        return bool(conf) and any(conf.values())

    def is_half_made(self, ctid: str) -> bool:
        """Whether a container of an abandoned claim never came as far as its tag."""
        info = self.infos.get(ctid)
        return (
            ctid in self.abandoned
            and not self.has(ctid, ovz_ctid.MADE, ovz_ctid.ARRIVING)
            and self.is_there(ctid)
            and (info is None or info.state in DOWN)
            and not self.is_configured(ctid)
            and "nics" not in self.seen["files"].get(ctid, [])
        )

    def is_half_removed(self, ctid: str) -> bool:
        """Whether a container of an abandoned claim was destroyed, but not whole."""
        return (
            ctid in self.abandoned
            and self.has(ctid, ovz_ctid.REMOVING)
            and self.is_there(ctid)
            and ctid not in self.infos
            and not self.is_configured(ctid)
        )
