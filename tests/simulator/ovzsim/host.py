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
"""The simulated node on disk: where things are, and how a fresh one looks."""

from __future__ import annotations

import json
import os

from ovzsim import base, samples

FAMILIES = ("4", "9")

# What the node can do; tests change it with SimNode.
SWITCHES: dict[str, bool] = {
    "ploop": False,  # family 4: the kernel has ploop
    "criu": True,  # family 4: checkpoints work
    "check_init": False,  # start looks for an init in the container's tree
    "openvz_kernel": False,  # family 4: vswap, disk quota and I/O limits are there
    "other_cpu": False,  # a running container cannot be moved here
    "netns": False,  # NICs are veth pairs into network namespaces, which needs root
    "blind_vzlist": False,  # family 4: no /proc/vz, vzlist sees nothing
}
# Device nodes that every node has, beneath <root>/dev.
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun")


class Host:
    """One simulated node.

    :param root: directory of the node; made when it is not there.
    :param family: "4" for vzctl 4.9.4, "9" for vzctl 9.0.1.
    """

    def __init__(self, root: str, family: str) -> None:
        if family not in FAMILIES:
            raise base.Exit(
                base.UNMODELLED,
                f"ovzsim: OVZ_SIM_FAMILY must be one of {', '.join(FAMILIES)}, "
                f"not {family!r}\n",
            )
        self.root = os.path.abspath(root)
        self.family = family
        self._conf: dict[str, str] | None = None

    @classmethod
    def from_environment(cls, env: dict[str, str]) -> Host:
        """The node that OVZ_SIM_ROOT and OVZ_SIM_FAMILY name; both must be there."""
        for name in ("OVZ_SIM_ROOT", "OVZ_SIM_FAMILY"):
            if not env.get(name):
                raise base.Exit(base.UNMODELLED, f"ovzsim: {name} is not set\n")
        host = cls(env["OVZ_SIM_ROOT"], env["OVZ_SIM_FAMILY"])
        host.ensure()
        return host

    # -- places ---------------------------------------------------------------

    def path(self, *parts: str) -> str:
        """A path beneath the node's directory."""
        return os.path.join(self.root, *parts)

    def sim(self, *parts: str) -> str:
        """A path in the simulator's own corner of the node."""
        return os.path.join(self.root, "sim", *parts)

    def conf_path(self, ctid: str) -> str:
        """A container's configuration file."""
        return self.path("etc/vz/conf", f"{ctid}.conf")

    def name_path(self, name: str) -> str:
        """The link that a container's name is."""
        return self.path("etc/vz/names", name)

    def lock_path(self, ctid: str) -> str:
        """A container's lock file."""
        return self.path("vz/lock", f"{ctid}.lck")

    def interface(self, name: str) -> str:
        """The directory that stands for a network interface of the host."""
        return self.path("sys/class/net", name)

    # -- settings -------------------------------------------------------------

    def vz_conf(self) -> dict[str, str]:
        """vz.conf, read once a call. :raises Exit: 10 when it is not there."""
        if self._conf is None:
            from ovzsim.conffile import ConfFile

            path = self.path("etc/vz/vz.conf")
            try:
                self._conf, _ = ConfFile.load(path).parse(strict=False)
            except FileNotFoundError:
                raise base.Exit(
                    10, f"Global configuration file {path} not found\n"
                ) from None
        return self._conf

    def switch(self, name: str) -> bool:
        """One of SWITCHES, as set for this node."""
        try:
            chosen = json.loads(base.read_text(self.sim("switches.json")))
        except FileNotFoundError:
            chosen = {}
        return bool(chosen.get(name, SWITCHES[name]))

    def uid_offset(self) -> tuple[int, int]:
        """LOCAL_UID and LOCAL_GID, (0, 0) where containers have no such offset."""
        conf = self.vz_conf()
        uid = int(conf.get("LOCAL_UID") or 0)
        return uid, int(conf.get("LOCAL_GID") or uid)

    # -- a fresh node ---------------------------------------------------------

    def ensure(self) -> None:
        """Lays the node out where it is not; any number of processes may do so."""
        marker = self.sim("family")
        try:
            made_for = base.read_text(marker).strip()
        except FileNotFoundError:
            self._lay_out()
            base.write_text(marker, self.family + "\n")
            return
        if made_for != self.family:
            raise base.Exit(
                base.UNMODELLED,
                f"ovzsim: {self.root} was made for family {made_for}, "
                f"OVZ_SIM_FAMILY says {self.family}\n",
            )

    def _lay_out(self) -> None:
        for place, mode in (
            ("etc/vz/conf", 0o755),
            ("etc/vz/names", 0o755),
            ("etc/vz/dists", 0o755),
            ("vz/private", 0o700),
            ("vz/root", 0o700),
            ("vz/template/cache", 0o755),
            ("vz/lock", 0o755),
            ("vz/dump", 0o755),
            ("sys/class/net/lo", 0o755),
            ("sys/fs/cgroup", 0o755),
            ("dev/net", 0o755),
            ("sim/state", 0o755),
            ("sim/faults", 0o755),
            ("sim/stdin", 0o755),
        ):
            os.makedirs(self.path(place), exist_ok=True)
            os.chmod(self.path(place), mode)
        for device in _DEVICES:
            base.write_text(self.path("dev", device), "")
        self._write_new("etc/vz/vz.conf", samples.vz_conf(self.family, self.root))
        for name, text in samples.samples(self.family).items():
            self._write_new(f"etc/vz/conf/ve-{name}.conf-sample", text)

    def _write_new(self, place: str, text: str) -> None:
        if not os.path.exists(self.path(place)):
            base.write_text(self.path(place), text)
