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
"""A container of family 4 and the steps that several subcommands take with it."""

from __future__ import annotations

import os

from ovzsim import area, base, cgroups, faults, guest, hooks, links, netif, state, words
from ovzsim.base import Exit, Streams
from ovzsim.call import Call
from ovzsim.host import Host
from ovzsim.lock import ContainerLock

_NOTE = "Directory /proc/vz not found, assuming non-OpenVZ kernel"


def note(call: Call) -> None:
    """The first line of almost every command on a stock kernel."""
    if not call.host.switch("openvz_kernel"):
        call.streams.say(_NOTE)


def warn_distribution(host: Host, conf: dict[str, str], streams: Streams) -> None:
    """Says so when there is no distribution file for the template."""
    template = conf.get("OSTEMPLATE", "")
    first = template.partition("-")[0]
    if template and first not in words.DISTRIBUTIONS:
        streams.warn(
            f"Warning: configuration file for distribution {template} not found, "
            f"using defaults from {host.path('etc/vz/dists/default')}"
        )


class Container:
    """An existing container: configuration, places, state."""

    def __init__(self, call: Call, ctid: str) -> None:
        self.call = call
        self.ctid = ctid
        self.host = call.host
        self.streams = call.streams
        try:
            self.file = call.load(ctid)
        except FileNotFoundError:
            raise Exit(14, "Container config file does not exist\n") from None
        self.conf = call.values(self.file)
        self.area = area.Area(self.host, ctid, self.conf)
        self.state = state.State(self.host, ctid)
        self.links = links.of(self.host)

    @property
    def dump(self) -> str:
        """The checkpoint that start would restore."""
        directory = self.host.vz_conf().get("DUMPDIR") or self.host.path("vz/dump")
        return os.path.join(directory, f"Dump.{self.ctid}")

    # -- the steps that several commands share --------------------------------

    def mount(self) -> None:
        """Mounts the private area, or says that it is missing (43)."""
        if not self.area.exists:
            raise Exit(
                43,
                f"Container private area {self.area.private} does not exist\n",
            )
        self.area.mount()
        self.state.mounted = True
        self.state.save()
        self.streams.say("Container is mounted")

    def umount(self) -> None:
        """Unmounts the private area."""
        self.area.umount()
        self.state.mounted = False
        self.state.save()
        self.streams.say("Container is unmounted")

    def start(self, wait: bool = False, bare: bool = False) -> None:
        """Starts or restores the container.

        :param bare: without network and devices, as ``--userpasswd`` does it.
        """
        if not self.area.exists:
            raise Exit(
                43, f"Container private area {self.area.private} does not exist\n"
            )
        restored = self.dump if os.path.exists(self.dump) else ""
        self.streams.say(
            "Restoring container ..." if restored else "Starting container..."
        )
        self._check_owner()
        if self.state.mounted:
            self.umount()
        self.mount()
        self._warn_distribution()
        if self.host.switch("check_init") and not guest.has_init(self.area.tree):
            self.umount()
            raise Exit(
                47,
                "Unable to start init, probably incorrect template\n"
                "Container start failed\n",
            )
        cgroups.apply(self.host, self.ctid, dict(self.conf))
        self.links.open(self.ctid)
        self.state.started(restored)
        if not bare:
            try:
                self._connect()
            except Exit as failure:
                self._give_up(failure)
        if restored:
            remove_dump(restored)
            self.streams.say("Restoring completed successfully")
        elif wait:
            self.streams.say("Container start in progress, waiting ...")
            self.streams.say("Container started successfully")
        else:
            self.streams.say("Container start in progress...")

    def _give_up(self, failure: Exit) -> None:
        self.state.stopped()
        self.umount()
        raise Exit(
            failure.rc,
            f"{failure.err}Container start failed (try to check kernel messages, "
            'e.g. "dmesg | tail")\n',
        )

    def _connect(self) -> None:
        """Addresses, devices and NICs."""
        if self.conf.get("IP_ADDRESS"):
            self.streams.say(f"Adding IP address(es): {self.conf['IP_ADDRESS']}")
        if self.conf.get("DEVNODES") or self.conf.get("DEVICES"):
            self.streams.say("Setting devices")
        if self.conf.get("IOPRIO") and not self.host.switch("openvz_kernel"):
            self.streams.warn("Warning: ioprio not supported by the kernel, skipping")
        self.plug(netif.parse(self.conf.get("NETIF", "")))

    def plug(self, nics: list[netif.Nic]) -> None:
        """Makes the host ends of NICs, and has vznetcfg told of each.

        A name that is taken already costs the container its NIC and nothing else.

        :raises Exit: 130, vznetcfg's external script failed
        """
        if not nics:
            return
        listed = " ".join(nic["host_ifname"] for nic in nics)
        self.streams.say(f"Configure veth devices: {listed} ")
        for nic in nics:
            name = nic["host_ifname"]
            if name not in self.state.nics:
                missing = self.links.plug_4(self.ctid, nic)
                if missing:
                    self.streams.warn(missing)
                else:
                    self.state.nics.append(name)
                    self.state.save()
            hooks.vznetcfg(self.call, self.ctid, name)

    def unplug(self, names: list[str]) -> None:
        """Takes host ends of NICs away from the running container."""
        for name in names:
            if name in self.state.nics:
                self.links.remove(name)
                self.state.nics.remove(name)
        self.state.save()

    def stop(self, fast: bool, lock: ContainerLock | None = None) -> None:
        """Stops the container, and unmounts it when it is this process that ends it."""
        self.streams.say("Killing container ..." if fast else "Stopping container ...")
        seconds = 0.0 if fast else faults.slow_stop(self.call.faults)
        if seconds:
            self._slow_stop(seconds, lock)
        else:
            self.state.stopped()
        if fast:
            cgroups.remove(self.host, self.ctid)
        else:
            cgroups.empty(self.host, self.ctid)
        self.streams.say("Container was stopped")
        self.umount()

    def _slow_stop(self, seconds: float, lock: ContainerLock | None) -> None:
        limit = float(
            self.conf.get("STOP_TIMEOUT")
            or self.host.vz_conf().get("STOP_TIMEOUT")
            or 120
        )
        self.state = faults.stop_in_child(
            self.host, self.ctid, min(seconds, limit), lock
        )
        if seconds > limit:
            self.streams.say("Killing container ...")

    def _check_owner(self) -> None:
        uid, gid = self.host.uid_offset()
        if not uid or os.geteuid() != 0:
            return
        held = os.stat(self.area.private)
        if self.area.is_ploop or (held.st_uid, held.st_gid) == (uid, gid):
            return
        raise Exit(
            47,
            f"Container private area is owned by {held.st_uid}:{held.st_gid}, but "
            f"configuration file says we should run with {uid}:{gid}.\n"
            "Refusing to run.\n",
        )

    def _warn_distribution(self) -> None:
        warn_distribution(self.host, self.conf, self.streams)


def remove_dump(path: str) -> None:
    """Removes a checkpoint, file or directory."""
    if os.path.isdir(path):
        base.remove_tree(path)
    else:
        os.unlink(path)
