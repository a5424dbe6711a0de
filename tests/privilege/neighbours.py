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

"""Nodes that an unprivileged service sends trees to, by ssh as the same user.

They are set up as doc/source/migration.rst says: ``ovz-receive`` is the one command
that the key permits, and goes to root by the line in sudoers.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex
import shutil
import sys
from collections.abc import Sequence

from ovznovadriver.openvz import transfer
from tests import ssh
from tests.simulator.node import Family, SimNode

SCRIPTS = pathlib.Path(sys.executable).parent
#: What is added to the owners in containers.
OFFSET = 100000

_NOVA_CONF = """\
[DEFAULT]
host = neighbour
state_path = {home}
rootwrap_config = {rootwrap}
[oslo_concurrency]
lock_path = {home}
[openvz]
privilege = {way}
vz_conf = {sim.root}/etc/vz/vz.conf
ve_conf_dir = {sim.conf_dir}
names_dir = {sim.names_dir}
lock_dir = {home}/claims
sysfs_dir = {sim.root}/sys
program_dirs = {sim.bin_dir}
"""


@dataclasses.dataclass(frozen=True)
class Service:
    """Who works on the node, and how it becomes root.

    :ivar user: its name
    :ivar home: its directory
    :ivar way: privsep or rootwrap
    :ivar rootwrap: rootwrap.conf
    :ivar become: what runs a command as the user, with what it takes to read Python
        and the checkout; empty where everybody may
    """

    user: str
    home: pathlib.Path
    way: str
    rootwrap: pathlib.Path
    become: Sequence[str]


def path(place: pathlib.Path, family: str) -> pathlib.Path:
    """The file that says how the neighbour of a node is reached."""
    return place / f"neighbour{family}.json"


def add(
    server: ssh.Sshd, service: Service, place: pathlib.Path, family: Family
) -> pathlib.Path:
    """Set one up beside the nodes in a directory.

    :returns: the program that root runs to become the service; it is in no way needed
        where everybody may read Python and the checkout
    """
    sim = SimNode(place / f"neighbour{family}", family, uid_offset=OFFSET)
    home = service.home / sim.root.name / service.way / place.name
    (home / "claims").mkdir(parents=True)
    conf = sim.root / "nova.conf"
    values = {**dataclasses.asdict(service), "home": home}
    conf.write_text(_NOVA_CONF.format(**values, sim=sim))
    receiver = place / f"receive{family}"
    command = [
        *service.become,
        str(SCRIPTS / "ovz-receive"),
        "--config-file",
        str(conf),
    ]
    receiver.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
    receiver.chmod(0o755)
    asked = f"sudo {receiver}" if service.become else str(receiver)
    key = home / "id"
    shutil.move(server.let_in(f'restrict,command="{asked}" '), key)
    known = home / "known_hosts"
    shutil.copy(server.known_hosts, known)
    for made in (home, *home.rglob("*")):
        shutil.chown(made, service.user, service.user)
    peer = transfer.Peer(
        host=ssh.HOST,
        user=service.user,
        ssh_key=str(key),
        known_hosts=str(known),
        port=server.port,
        timeout=60.0,
    )
    path(place, family).write_text(json.dumps(dataclasses.asdict(peer)))
    return receiver
