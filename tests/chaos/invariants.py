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

"""What has to hold after a crash, and who may have what is on a node.

Each function gives sentences, one for each thing that is wrong; none when all is well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nova import context, objects
from ovznovadriver.openvz import metadata
from tests import trees
from tests.chaos.cloud import PLANTED, PLANTED_TEXT, Cloud
from tests.simulator.node import SimNode

#: The directories of a node in which each name is somebody's.
PLACES = (
    *("vz/private", "vz/root", "vz/lock", "vz/dump", "claims", "sim/state"),
    *("etc/vz/conf", "etc/vz/names", "sys/class/net", "ovs/ports"),
    *("vz/template/cache", "vz/template/cache/.incoming"),
    *("sys/fs/cgroup/cpu", "sys/fs/cgroup/memory"),
)
#: What belongs to nobody, and stays.
FURNITURE = ("lo", ".lock", ".incoming")
#: Commands that change nothing of the container that they name.
HARMLESS = ("status", "exec2", "exec")


def entries(node: SimNode) -> list[str]:
    """All that there is on a node that is somebody's, as paths beneath its root."""
    return sorted(
        f"{place}/{path.name}"
        for place in PLACES
        if _directory(node, place).is_dir()
        for path in _directory(node, place).iterdir()
        if not path.name.endswith("-sample") and path.name not in FURNITURE
        if not _is_lock(path)
    )


def _directory(node: SimNode, place: str) -> Path:
    if place == "vz/private":
        # It may be another node's.
        return Path(node.host.vz_conf()["VE_PRIVATE"]).parent
    return node.root / place


def _is_lock(path: Path) -> bool:
    """Whether it is a lock of oslo.concurrency's, which stays, with nothing in it."""
    return path.name.startswith("ovz-") and path.is_file() and not path.stat().st_size


def temporary(path: Path) -> list[str]:
    """The driver's own temporary files, and those of what it runs.

    Nova's fixtures leave theirs, in which these may be.
    """
    return sorted(found.name for found in path.rglob("ovz-*"))


def containers(node: SimNode) -> dict[str, metadata.Tag | None]:
    """The tags of a node's containers, by CTID."""
    return {
        ctid: metadata.decode(node.conf(ctid).get("DESCRIPTION", ""))
        for ctid in node.containers()
    }


# -- what is there has an owner ----------------------------------------------------


def owned(cloud: Cloud) -> list[str]:
    """Everything on the nodes belongs to a server that Nova has."""
    known = {instance.uuid for instance in cloud.instances()}
    return [
        f"{host}: {entry} belongs to no server"
        for host, node in cloud.nodes.items()
        for entry in ownerless(node, known, cloud.neutron._ports.values())
    ]


def ownerless(
    node: SimNode, known: Iterable[str], ports: Iterable[dict[str, Any]]
) -> list[str]:
    """What is on a node that belongs to none of the servers.

    :param known: their UUIDs
    :param ports: Neutron's ports
    """
    marks = set(known)
    marks |= {
        f"tap{port['id']}"[:14] for port in ports if port.get("device_id") in marks
    }
    for ctid, tag in containers(node).items():
        if tag is not None and tag.uuid in marks:
            marks.add(ctid)
    for claim in (node.root / "claims").glob("*/owner"):
        if json.loads(claim.read_text())["uuid"] in marks:
            marks.add(claim.parent.name)
    return [
        entry
        for entry in entries(node)
        if not entry.startswith("vz/template/") or _is_unfinished(entry)
        if not _is_marked(entry, marks)
    ]


def _is_marked(entry: str, marks: set[str]) -> bool:
    name = entry.rpartition("/")[2]
    if any(len(mark) > 8 and mark in name for mark in marks):
        return True
    # A number can be part of another one.
    words = name.replace("-", ".").split(".")
    return any(word in marks for word in words)


def _is_unfinished(entry: str) -> bool:
    """Whether a file of the cache is no image, and what belongs to one."""
    return not entry.endswith((".tar.gz", ".tar.xz", ".tar", ".json"))


def allocated(cloud: Cloud, moves: Iterable[str] = ()) -> list[str]:
    """Placement has allocations of nobody but Nova's servers, and their moves.

    A move that Nova broke off when it started keeps its allocations, also when the
    server is deleted: there is no one but Nova who could remove them, and it leaves
    that to operators, by ``nova-manage placement audit``.

    :param moves: the UUIDs of moves that may have some
    """
    known = {instance.uuid for instance in cloud.instances()} | set(moves)
    # Of these the scheduler has seen to some, and no cell knows yet.
    waiting = objects.BuildRequestList.get_all(context.get_admin_context())
    known |= {request.instance_uuid for request in waiting}

    def found() -> list[str]:
        return [
            f"{provider['name']}: placement has an allocation of {consumer}, which is"
            f" no server: {allocation['resources']}"
            for provider in cloud._get_all_providers()
            for consumer, allocation in cloud.allocations(provider["uuid"]).items()
            if consumer not in known
        ]

    # The API answers before Nova has come to the end of it.
    return list(cloud._patiently(3.0, found))


def placed(cloud: Cloud, server: dict[str, Any]) -> list[str]:
    """Placement has a server where Nova has it, and nowhere else."""
    here = cloud.host_of(server)
    found = [
        provider["name"]
        for provider in cloud._get_all_providers()
        if server["id"] in cloud.allocations(provider["uuid"])
    ]
    return [] if found == [here] else [f"it is on {here}, and placed on {found}"]


# -- the healthy server ------------------------------------------------------------


def fingerprint(cloud: Cloud, name: str = "healthy") -> dict[str, Any]:
    """All that can be told of a server which nothing is done to."""
    server = cloud.server(name)
    if server is None:
        return {"server": "gone"}
    node = cloud.nodes[cloud.host_of(server)]
    ctid = cloud.container(server, node)
    ports = cloud.neutron.list_ports(True, device_id=server["id"])["ports"]
    taps = [f"tap{port['id']}"[:14] for port in ports]
    tree = trees.describe(node.tree(ctid), node.uid_offset or 0)
    return {
        "ctid": ctid,
        "state": node.state(ctid),
        "configuration": node.conf_text(ctid),
        "interfaces": (node.conf_dir / f"{ctid}.nics").read_text(),
        "links": {tap: node.link(tap) for tap in taps},
        "ports": {tap: cloud.ovs.ports(node).get(tap) for tap in taps},
        "addresses": server["addresses"],
        "status": [
            server[key]
            for key in ("status", "OS-EXT-STS:task_state", "OS-EXT-STS:power_state")
        ],
        "tree": hashlib.sha256(repr(sorted(tree.items())).encode()).hexdigest(),
    }


def unharmed(cloud: Cloud, before: dict[str, Any]) -> list[str]:
    """The healthy server is as it was, and no command was about it."""
    after = json.loads(json.dumps(fingerprint(cloud)))
    wrong = [
        f"the healthy server's {key} was {before[key]!r}, and is {after.get(key)!r}"
        for key in before
        if before[key] != after.get(key)
    ]
    ctid = before.get("ctid")
    return wrong + [
        f"the healthy server was touched: {' '.join(command.argv)}"
        for command in cloud.nodes[cloud.HOSTS[0]].commands("vzctl")
        if ctid in command.argv and command.subcommand not in HARMLESS
    ]


# -- a server that was struck ------------------------------------------------------


def in_use(cloud: Cloud, server: dict[str, Any], keeps: bool) -> list[str]:
    """A server that runs has all that a server has, and nothing more."""
    found = cloud.server(server["name"])
    if found is None or found["status"] != "ACTIVE":
        return [f"the server is {found and found['status']}, and not ACTIVE"]
    node = cloud.nodes[cloud.host_of(server)]
    ctid = cloud.container(server, node)
    wrong = []
    if node.state(ctid) != "running":
        wrong.append(f"the server is ACTIVE, and its container {node.state(ctid)}")
    planted = cloud.tree(server) / PLANTED
    if keeps and not (planted.exists() and planted.read_text() == PLANTED_TEXT):
        wrong.append("the user's file is not in the server any more")
    mine, healthy = shape(cloud, server), shape(cloud, cloud.server("healthy"))
    wrong += [f"the server has {entry} too much" for entry in sorted(mine - healthy)]
    wrong += [f"the server lacks {entry}" for entry in sorted(healthy - mine)]
    return wrong + _wiring(cloud, server, node, ctid)


def shape(cloud: Cloud, server: Any) -> set[str]:
    """What there is of a server on its node, but for its ports, without its names."""
    node = cloud.nodes[cloud.host_of(server)]
    ctid = cloud.container(server, node)
    names = {server["id"]: "UUID", ctid: "CTID"}
    found = set()
    for entry in entries(node):
        place, _, name = entry.rpartition("/")
        if not place.startswith(("sys/class", "ovs/")) and _is_marked(name, set(names)):
            for old, new in names.items():
                name = name.replace(old, new)
            found.add(f"{place}/{name}")
    return {entry.replace("UUID", "CTID") for entry in found if "cache" not in entry}


def _wiring(
    cloud: Cloud, server: dict[str, Any], node: SimNode, ctid: str
) -> list[str]:
    """A server's ports are those of Neutron, each with its interface and its record."""
    ports = cloud.neutron.list_ports(True, device_id=server["id"])["ports"]
    wanted = {f"tap{port['id']}"[:14] for port in ports}
    attached = {
        entry["port_id"] for entry in cloud.api.get_port_interfaces(server["id"])
    }
    configured = {
        word.removeprefix("host_ifname=")
        for nic in node.conf(ctid).get("NETIF", "").split(";")
        for word in nic.split(",")
        if word.startswith("host_ifname=")
    }
    wrong = []
    if {f"tap{port}"[:14] for port in attached} != wanted:
        wrong.append(f"Nova has the ports {sorted(attached)}, and Neutron {wanted}")
    if configured != wanted:
        wrong.append(f"the container has {sorted(configured)}, and not {wanted}")
    if not wanted <= set(node.nics()):
        wrong.append(f"the node has {node.nics()}, and not {wanted}")
    if not wanted <= set(cloud.ovs.ports(node)):
        wrong.append(f"Open vSwitch has {set(cloud.ovs.ports(node))}, and not {wanted}")
    return wrong


# -- the end -----------------------------------------------------------------------


def emptied(cloud: Cloud, before: dict[str, list[str]]) -> list[str]:
    """Without the victim there is on each node what was there before it.

    :param before: entries() of each host
    """
    wrong = []
    for host, node in cloud.nodes.items():
        left = set(entries(node)) - set(before[host])
        wrong += [
            f"{host}: {entry} is left"
            for entry in sorted(left)
            if not entry.startswith("vz/template/") or _is_unfinished(entry)
        ]
    wrong += [f"{name} is left" for name in temporary(cloud.world.temporary)]
    names = {instance.uuid: instance.display_name for instance in cloud.instances()}
    wrong += [
        f"Neutron has port {key} left"
        for key, port in cloud.neutron._ports.items()
        if names.get(port.get("device_id")) != "healthy"
    ]
    return wrong
