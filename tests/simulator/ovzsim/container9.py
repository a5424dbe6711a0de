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
"""A container of family 9 and the steps that several subcommands take with it."""

from __future__ import annotations

import os
import time

from ovzsim import area, base, faults, guest, hooks, links, netif, state
from ovzsim.base import Exit, Unmodelled
from ovzsim.call import Call
from ovzsim.lock import ContainerLock


def no_config() -> Exit:
    """Exit 14, the container has no configuration file."""
    return Exit(14, "Container configuration file does not exist\n")


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
            raise no_config() from None
        self.conf = call.values(self.file)
        self.area = area.Area(self.host, ctid, self.conf)
        self.state = state.State(self.host, ctid)
        self.links = links.of(self.host)

    @property
    def dump(self) -> str:
        """The checkpoint of a suspended container."""
        return os.path.join(self.area.private, "dump/Dump")

    @property
    def has_root_disk(self) -> bool:
        """Something is there that can be its root."""
        if self.conf.get("ROOT_DISK") == "no":
            return False
        return not self.area.is_ploop or os.path.isdir(self.area.plain_tree)

    def need_root_disk(self) -> None:
        """:raises Exit: 21 when the container has no root disk."""
        if "mnt=/" in self.conf.get("DISK", "").replace(";", ",").split(","):
            raise Unmodelled("a root disk that was attached with --device-add")
        if not self.has_root_disk:
            raise Exit(21, "Container root disk is not configured\n")

    def mount(self) -> None:
        """Mounts the root, and runs the mount script."""
        if not self.area.exists:
            raise Exit(
                43, f"Container private area {self.area.private} does not exist\n"
            )
        if self.conf.get("ROOT_DISK") != "no":
            self.need_root_disk()
            self.area.mount()
        try:
            hooks.action_script(self.call, self.ctid, "mount")
        except Exit:
            self._unmount()
            raise
        self.state.mounted = True
        self.state.save()
        self.streams.say("Container is mounted")

    def umount(self) -> None:
        """Runs the umount script, and unmounts the root."""
        hooks.action_script(self.call, self.ctid, "umount")
        self._unmount()
        self.state.mounted = False
        self.state.save()
        self.streams.say("Container is unmounted")

    def _unmount(self) -> None:
        if self.conf.get("ROOT_DISK") != "no":
            self.area.umount()

    def start(self) -> None:
        """Starts the container, or goes on with a suspended one."""
        self.streams.say("Starting Container ...")
        if not self.area.exists:
            raise Exit(
                43, f"Container private area {self.area.private} does not exist\n"
            )
        self.need_root_disk()
        if self.state.mounted:
            self.umount()
        self.mount()
        if self.host.switch("check_init") and not guest.has_init(self.area.tree):
            self.umount()
            raise Exit(47, "Unable to start init, probably incorrect template\n")
        restored = self.dump if os.path.exists(self.dump) else ""
        self.links.open(self.ctid)
        self.state.started(restored)
        self.plug(netif.parse(self.conf.get("NETIF", "")))
        if restored:
            os.unlink(restored)
        self.streams.say("Container start in progress...")

    def plug(self, nics: list[netif.Nic]) -> None:
        """Makes the host ends of NICs; a pair that is there already is adopted."""
        for nic in nics:
            said = self.links.plug_9(self.ctid, nic)
            if said:
                self.streams.say(said)
            self.state.nics.append(nic["host_ifname"])
        self.state.save()

    def unplug(self, names: list[str]) -> None:
        """Takes host ends of NICs away from the running container."""
        for name in names:
            if name in self.state.nics:
                self.links.remove(name)
                self.state.nics.remove(name)
        self.state.save()

    def stop(self, fast: bool, lock: ContainerLock | None = None) -> None:
        """Stops the container, and unmounts it when it is this process that ends it."""
        verb = "Killing" if fast else "Stopping"
        self.streams.say(f"{verb} the Container ...")
        seconds = 0.0 if fast else faults.slow_stop(self.call.faults)
        if seconds:
            self._slow_stop(seconds, lock)
        else:
            self.state.stopped()
        self.streams.say("Container was stopped")
        self.umount()

    def _slow_stop(self, seconds: float, lock: ContainerLock | None) -> None:
        limit = float(self.host.vz_conf().get("STOP_TIMEOUT") or 60)
        self.state = faults.stop_in_child(
            self.host, self.ctid, min(seconds, limit), lock
        )
        if seconds > limit:
            self.streams.say("Killing the Container ...")

    def suspend(self) -> None:
        """Writes a checkpoint and stops."""
        os.makedirs(os.path.dirname(self.dump), exist_ok=True)
        base.write_text(self.dump, f"checkpoint of {self.ctid} at {time.time()}\n")
        self.state.stopped()
        self.umount()
