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

"""Nodes of this project's own kind, over simulated ones."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovznovadriver.openvz import command, hostends, processes, resources, vzctl
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer
from tests.simulator.node import Family, SimNode

if TYPE_CHECKING:
    import pytest

HOST = "host1"
UUID = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"
OTHER_UUID = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a02"
VETHS = (
    vzctl.Veth("eth0", "fa:16:3e:00:00:01", "tap0"),
    vzctl.Veth("eth1", "fa:16:3e:00:00:02", "tap1"),
)
TAPS = [veth.host_ifname for veth in VETHS]
ENDS = tuple(
    hostends.HostEnd(host_ifname=veth.host_ifname, name=veth.name, mac=veth.mac)
    for veth in VETHS
)


class Runner:
    """Notes what would run, and answers with an exit code."""

    def __init__(self, returncode: int = 0) -> None:
        self.returncode = returncode
        self.commands: list[tuple[str, ...]] = []
        self.options: dict[str, Any] = {}

    def run(self, *cmd: str, **options: Any) -> command.Completed:
        self.commands.append(cmd)
        self.options = options
        return command.Completed(self.returncode, "out", "err")


def simulated(root: Path, family: Family, **options: Any) -> SimNode:
    """A fresh node whose containers' root is one that this user can give files to."""
    sim = SimNode(root, family, **options)
    uid, gid = (100000, 100000) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    sim.set_vz_conf(LOCAL_UID=str(uid), LOCAL_GID=str(gid))
    return sim


def neighbour(sim: SimNode, root: Path) -> SimNode:
    """Another node with the same private areas."""
    found = simulated(root, sim.family)
    found.set_vz_conf(VE_PRIVATE=f"{sim.private_dir}/$VEID")
    return found


def options(sim: SimNode, **changes: Any) -> ovz_node.Options:
    """The options of a service on a simulated node.

    :param changes: other values than the usual ones, by name
    """
    usual = ovz_node.Options(
        vz_conf=str(sim.root / "etc/vz/vz.conf"),
        ve_private_dir=None,
        ve_root_dir=None,
        ve_conf_dir=str(sim.conf_dir),
        names_dir=str(sim.names_dir),
        lock_dir=str(sim.root / "claims"),
        image_template_dir=None,
        sysfs_dir=str(sim.root / "sys"),
        privilege="privsep",
        root_helper="sudo nova-rootwrap /etc/nova/rootwrap.conf",
        program_dirs=(str(sim.bin_dir),),
        lock_wait=5,
        limits=vzctl.TimeLimits(),
        layout="simfs",
        default_config="basic",
        default_os_hint="",
        # Limits of bandwidth cost four processes a start.
        sizing=resources.SizingOptions(tc_mbit_per_unit=0),
    )
    return dataclasses.replace(usual, **changes)


def open_node(sim: SimNode, host: str = HOST, **changes: Any) -> ovz_node.Node:
    """A Nova host's node, as a service opens it when it starts."""
    return ovz_node.Node.open(host, options(sim, **changes))


def add_image(sim: SimNode, name: str = "image") -> str:
    """Put an image into the cache; what `vzctl create --ostemplate` calls it."""
    archive = sim.add_template(name)
    return str(archive) if sim.family == "9" else name


def create(
    node: ovz_node.Node, image: str, uuid: str = UUID, **options: Any
) -> OvzContainer:
    """A stopped container of an instance."""
    usual = {"nova_id": "7", "name": "instance-00000007"}
    return OvzContainer.create(node, image, uuid=uuid, **{**usual, **options})


def with_interfaces(container: OvzContainer) -> None:
    """Configure a container's interfaces; for create()."""
    container.add_interfaces(VETHS)


def foreign(sim: SimNode, image: str, ctid: str, description: str = "") -> None:
    """A container that somebody else made."""
    done = sim.run("vzctl", "create", ctid, "--ostemplate", image)
    assert done.rc == 0, done
    if description:
        describe(sim, ctid, description)


def legacy(
    sim: SimNode,
    image: str,
    ctid: str,
    host: str = HOST,
    uuid: str = UUID,
    name: str = "instance-00000007",
) -> str:
    """A container of the driver of 2014; its CTID."""
    tag = {"host": host, "name": name, "nova_id": "7", "uuid": uuid}
    foreign(sim, image, ctid, json.dumps(tag))
    sim.run("vzctl", "set", ctid, "--name", uuid, "--save")
    return ctid


def describe(sim: SimNode, ctid: str, text: str) -> None:
    """Give a container a description, as somebody else would."""
    done = sim.run("vzctl", "set", ctid, "--description", text, "--save")
    assert done.rc == 0, done


def subcommands(sim: SimNode) -> list[str]:
    """What vzctl was asked, in order."""
    return [call.subcommand for call in sim.commands("vzctl")]


def traces(sim: SimNode, node: ovz_node.Node) -> dict[str, list[str]]:
    """What there is of containers on a node, by directory; nothing when clean."""
    places = {**node.artifact_dirs(), "claims": node.options.lock_dir}
    found = {
        kind: sorted(n for n in os.listdir(path) if not _is_furniture(n))
        for kind, path in places.items()
    }
    found["net"] = sim.nics()
    groups = Path(node.paths.cgroup).glob("*/vz-*")
    found["cgroup"] = sorted(str(path) for path in groups)
    return {kind: names for kind, names in found.items() if names}


def _is_furniture(name: str) -> bool:
    # CTID 0 is the host itself.
    return name.endswith(".conf-sample") or name in (".lock", "0.conf")


def end_what_hangs(sim: SimNode, patch: pytest.MonkeyPatch) -> None:
    """Let a command's time be over when it hangs by order, and no other's ever."""
    mark = sim.root / "sim/hangs"

    def wait(process: Any, streams: Any, _deadline: float) -> bool:
        while process.poll() is None:
            if mark.exists():
                mark.unlink()
                return False
            streams.move(0.01)
        return True

    patch.setattr(processes, "_wait", wait)


def script(path: Path, *lines: str) -> Path:
    """A shell script that vzctl may run."""
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return path


def external_script(sim: SimNode, *lines: str) -> None:
    """What vzctl 4 runs for each host end that it has made."""
    path = script(sim.root / "hook", *lines)
    (sim.root / "etc/vz/vznet.conf").write_text(f'EXTERNAL_SCRIPT="{path}"\n')
