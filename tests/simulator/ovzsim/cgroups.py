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
"""The few cgroup files that show whether a limit is enforced (family 4)."""

from __future__ import annotations

import os

from ovzsim import base, units
from ovzsim.host import Host

_CONTROLLERS = ("cpu", "cpuset", "memory", "devices")
# What the kernel shows where there is no limit, rounded down to a page.
_NO_LIMIT = 2**63 - 1 - (2**63 - 1) % units.PAGE


def apply(host: Host, ctid: str, params: dict[str, str | None]) -> None:
    """Writes limits where a kernel would show them.

    In upstream mode the barrier of PHYSPAGES is what is enforced, not the limit.
    """
    for controller in _CONTROLLERS:
        os.makedirs(_path(host, ctid, controller), exist_ok=True)
    for name, (controller, file) in {
        "CPUUNITS": ("cpu", "cpu.shares"),
        "CPUMASK": ("cpuset", "cpuset.cpus"),
    }.items():
        if params.get(name):
            _write(host, ctid, f"{controller}/{file}", str(params[name]))
    quota = None
    if params.get("CPULIMIT"):
        quota = int(str(params["CPULIMIT"])) * 1000
    if params.get("CPUS") and params["CPUS"] != "0":
        quota = int(str(params["CPUS"])) * 100000  # overwrites cpulimit
    if quota is not None:
        _write(host, ctid, "cpu/cpu.cfs_quota_us", str(quota or -1))
    if params.get("PHYSPAGES"):
        barrier, _ = units.pair(str(params["PHYSPAGES"]), units.PAGES)
        limit = min(barrier * units.PAGE, _NO_LIMIT) if barrier else _NO_LIMIT
        _write(host, ctid, "memory/memory.limit_in_bytes", str(limit))


def remove(host: Host, ctid: str) -> None:
    """Takes the cgroups away, which only ``stop --fast`` does."""
    for controller in _CONTROLLERS:
        base.remove_tree(_path(host, ctid, controller))


def empty(host: Host, ctid: str) -> None:
    """Leaves the cgroups of a destroyed container as the kernel's own can be removed.

    Files in a real cgroup are no obstacle to rmdir; in a plain directory they are.
    """
    for controller in _CONTROLLERS:
        path = _path(host, ctid, controller)
        if os.path.isdir(path):
            for name in os.listdir(path):
                os.unlink(os.path.join(path, name))


def _path(host: Host, ctid: str, controller: str) -> str:
    return host.path("sys/fs/cgroup", controller, f"vz-{ctid}")


def _write(host: Host, ctid: str, place: str, text: str) -> None:
    controller, file = place.split("/")
    base.write_text(os.path.join(_path(host, ctid, controller), file), text + "\n")
