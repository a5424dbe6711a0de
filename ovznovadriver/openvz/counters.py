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

"""What the kernel has counted for a container, from files that anybody may read."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ovznovadriver.openvz import node as ovz_node

#: Where a kernel says how long a container has run on its CPUs, in nanoseconds
#: (cpuacct.usage, Documentation/cgroup-v1/cpuacct), below its control groups: with
#: vzctl >= 7, and with vzctl 4 on a stock kernel.
_CPU_USAGE = (
    "cpuacct/machine.slice/{ctid}/cpuacct.usage",
    "cpuacct/vz-{ctid}/cpuacct.usage",
)


@dataclass(frozen=True)
class Traffic:
    """What an interface has received or sent.

    :ivar octets: bytes
    """

    octets: int
    packets: int
    errors: int
    dropped: int


@dataclass(frozen=True)
class Counters:
    """Both directions of an interface, as the guest sees them."""

    received: Traffic
    sent: Traffic


def of_interface(node: ovz_node.Node, host_ifname: str) -> Counters | None:
    """What an interface of a container has counted since it is there.

    What the host's end has sent the guest has received.

    :returns: None where the container does not run
    """
    place = os.path.join(node.paths.net, host_ifname, "statistics")
    try:
        return Counters(
            received=_traffic(place, "tx"),
            sent=_traffic(place, "rx"),
        )
    except FileNotFoundError:
        return None


def _traffic(place: str, direction: str) -> Traffic:
    names = ("bytes", "packets", "errors", "dropped")
    return Traffic(*(_number(f"{place}/{direction}_{name}") for name in names))


def cpu_time(node: ovz_node.Node, ctid: str) -> int | None:
    """How long a container has used CPUs, in nanoseconds.

    :returns: None where the kernel does not say
    """
    for place in _CPU_USAGE:
        try:
            return _number(os.path.join(node.paths.cgroup, place.format(ctid=ctid)))
        except FileNotFoundError:
            continue
    return None


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read(32))
