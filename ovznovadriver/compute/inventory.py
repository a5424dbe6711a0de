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

"""What an operator is told of a node's containers, and may have adopted."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

from ovznovadriver import exception
from ovznovadriver.compute import recovery, snapshot
from ovznovadriver.compute.scene import DOWN, Scene
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import metadata
from ovznovadriver.openvz.container import OvzContainer

#: Whose a container is that bears no tag of this driver's.
LEGACY = "2014"
NOBODY = "-"


@dataclasses.dataclass(frozen=True)
class Row:
    """One container.

    :ivar owner: the Nova host whose tag it bears; LEGACY for one of the driver of 2014,
        NOBODY for any other
    :ivar host: the Nova host that its description names
    :ivar problems: a sentence for each
    """

    ctid: str
    state: str
    owner: str
    host: str
    uuid: str
    name: str
    problems: tuple[str, ...]


def rows(scene: Scene) -> Iterator[Row]:
    """All containers that vzlist shows, and those of this host that it does not."""
    problems: dict[str | None, list[str]] = {}
    for finding in recovery.findings(scene):
        problems.setdefault(finding.ctid, []).append(f"{finding.kind}: {finding.what}")
    known = {*scene.infos, *(ctid for ctid in problems if ctid is not None)}
    for ctid in sorted(known, key=lambda text: (len(text), text)):
        info = scene.infos.get(ctid)
        tag = scene.tags.get(ctid)
        old = metadata.legacy(info.description) if info else None
        said = tag or old
        yield Row(
            ctid=ctid,
            state=info.state.value if info else "not shown",
            owner=tag.host if tag else LEGACY if old else NOBODY,
            host=said.host if said else NOBODY,
            uuid=said.uuid if said else scene.uuid(ctid) or NOBODY,
            name=said.name if said else NOBODY,
            problems=tuple(problems.get(ctid, ())),
        )


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """What holds up the maintenance of a node.

    :ivar kind: "runs", or what is under way
    """

    kind: str
    subject: str
    what: str


def obstacles(scene: Scene) -> Iterator[Obstacle]:
    """What of this host runs or is under way."""
    for ctid, info in scene.infos.items():
        # One that has lost its tag is still this host's, by its claim.
        is_ours = scene.is_tagged if ctid in scene.tags else scene.is_claimed_here
        if is_ours(ctid) and info.state not in DOWN:
            state = scene.container(ctid).state.value
            yield Obstacle("runs", scene.name(ctid), f"it is {state}")
    for ctid, pid in scene.seen["locks"].items():
        if pid and (scene.is_tagged(ctid) or scene.is_claimed_here(ctid)):
            yield Obstacle(
                "vzctl", scene.name(ctid), f"vzctl (process {pid}) works on it"
            )
    yield from _made(scene)
    for place in snapshot.under_way(scene.node.host):
        yield Obstacle("snapshot", f"server {place.name}", "a snapshot is being taken")
    for key, busy in scene.seen["incoming"].items():
        if busy:
            yield Obstacle("received", f"server {key}", "it comes from another host")


def _made(scene: Scene) -> Iterator[Obstacle]:
    claims = scene.node.claims
    for ctid in sorted(scene.claimed - scene.abandoned):
        if not scene.is_claimed_here(ctid):
            continue
        if claims.has(ctid, ovz_ctid.ARRIVING):
            what = "it comes from another host as it runs"
        elif claims.has(ctid, ovz_ctid.REMOVING):
            what = "it is being removed"
        elif not claims.has(ctid, ovz_ctid.MADE):
            what = "it is being made"
        else:
            continue
        yield Obstacle("under-way", scene.name(ctid), what)


# -- adopting -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Identity:
    """What an operator says of a server whose container says nothing any more."""

    name: str
    nova_id: str


def adoptable(scene: Scene, host: str) -> list[str]:
    """CTIDs of the containers that the driver of 2014 made for a Nova host."""
    found = []
    for ctid, info in scene.infos.items():
        old = metadata.legacy(info.description)
        if ctid not in scene.tags and old is not None and old.host == host:
            found.append(ctid)
    return found


def adopt(
    scene: Scene,
    ctid: str,
    host: str,
    identity: Identity | None = None,
    *,
    chosen: bool = True,
) -> OvzContainer:
    """Make a container this host's: give it a tag, a name and a claim.

    :param host: the one that its description must name, where it names one
    :param identity: for one whose description was changed by hand, and whose claim
        says which server it is
    :param chosen: whether the operator has named it; of two that say that they are
        the same server, one may be what a move has left
    :raises OvzError: it is not one that can be adopted; nothing has changed
    """
    tag = _tag(scene, ctid, host, identity)
    uuids: Collection[str] = [
        other.uuid for other in scene.tags.values() if other.host == scene.node.host
    ]
    if tag.uuid in uuids:
        raise exception.OvzError(f"server {tag.uuid} has a container here already")
    twins = [] if chosen else _twins(scene, ctid, tag)
    if twins:
        raise exception.OvzError(
            f"container {', '.join(twins)} is said to be server {tag.uuid}, too: see"
            " which of them it is, and give its CTID"
        )
    if scene.holder(ctid):
        raise exception.OvzError(
            f"vzctl (process {scene.holder(ctid)}) works on container {ctid}"
        )
    node = scene.node
    container = OvzContainer(
        node,
        ctid,
        nova_id=tag.nova_id,
        name=tag.name,
        uuid=tag.uuid,
        info=scene.infos[ctid],
    )
    metadata.encode(dataclasses.replace(tag, host=node.host))
    node.claims.adopt(ctid, tag.uuid)
    container.save_ovz_metadata()
    scene.tags[ctid] = dataclasses.replace(tag, host=node.host)
    return container


def _twins(scene: Scene, ctid: str, tag: metadata.Tag) -> list[str]:
    """Other containers that the driver of 2014 made for the same server and host."""
    return [
        other
        for other in adoptable(scene, tag.host)
        if other != ctid
        and (said := metadata.legacy(scene.infos[other].description)) is not None
        and said.uuid == tag.uuid
    ]


def _tag(scene: Scene, ctid: str, host: str, identity: Identity | None) -> metadata.Tag:
    info = scene.infos.get(ctid)
    if info is None:
        raise exception.OvzError(f"there is no container {ctid}")
    if ctid in scene.tags:
        raise exception.OvzError(
            f"container {ctid} bears a tag of host {scene.tags[ctid].host} already"
        )
    old = metadata.legacy(info.description)
    if old is not None:
        if old.host != host:
            raise exception.OvzError(
                f"container {ctid} was made for host {old.host}, not for {host}"
            )
        return old
    uuid = scene.uuid(ctid)
    if uuid is None or not scene.is_claimed_here(ctid):
        raise exception.OvzError(
            f"container {ctid} is not one that this driver, or that of 2014, has made"
        )
    if identity is None:
        raise exception.OvzError(
            f"container {ctid} is server {uuid} by its claim: give --name, and --id, as"
            " Nova shows them (OS-EXT-SRV-ATTR:instance_name)"
        )
    return metadata.Tag(host, identity.name, identity.nova_id, uuid)
