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
"""``vzctl set`` of family 4."""

from __future__ import annotations

from ovzsim import cgroups, guest, netif, params4, units
from ovzsim.base import Exit
from ovzsim.call import Call, NameTaken, link_name, unlink_name
from ovzsim.conffile import ConfFile
from ovzsim.container4 import Container, note
from ovzsim.lock import ContainerLock

_NOT_SAVED = "Error: failed to apply some parameters, not saving configuration file!"
_NEEDS_RESTART = {"FEATURES": "features", "CAPABILITY": "capability"}
_SOME_FAILED = (
    "WARNING: Some of the parameters could not be applied to a running container.\n"
    "\tPlease consider using --setmode option"
)
_QUOTA = (
    "File /usr/sbin/vzquota not found\n"
    "Error: Unable to apply new quota values: quota not running\n"
)


def set_(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl set CTID … [--save]"""
    request = params4.parse_options(call.host, ctid, args, params4.SET)
    try:
        call.load(ctid)
    except FileNotFoundError as error:
        if request.save:
            call.streams.warn(
                f"WARNING: {error.filename} not found: No such file or directory"
            )
    note(call)
    with call.work(ctid) as lock:
        _Setting(call, request, lock).run()
    return 0


class _Setting:
    def __init__(
        self, call: Call, request: params4.Request, lock: ContainerLock
    ) -> None:
        self.call = call
        self.host = call.host
        self.streams = call.streams
        self.request = request
        self.lock = lock
        try:
            self.file = call.load(request.ctid)
        except FileNotFoundError:
            # The real tool goes on, and leaves a stray configuration file.
            self.file = ConfFile(call.host.conf_path(request.ctid))
        self.old = call.values(self.file)

    def run(self) -> None:
        """Applies first, saves afterwards; a failure in between saves nothing."""
        try:
            self._check()
            changes = self._changes()
            self._apply(changes)
        except Exit as failure:
            if not self.request.save:
                raise
            raise Exit(
                failure.rc, f"{failure.err}{_NOT_SAVED}\n", failure.out
            ) from None
        if self.request.save:
            self.file.update(changes, params4.ORDER)
            self.file.save()
            self.streams.say(f"CT configuration saved to {self.file.path}")
        elif self.request.reset_ub or (self.request.userpasswd and not changes):
            return
        else:
            lost = " and will be lost after CT restart" if self._running() else ""
            self.streams.say(
                f"WARNING: Settings were not saved to config{lost} (use --save flag)"
            )

    def _container(self) -> Container | None:
        try:
            return Container(_Silent(self.call), self.request.ctid)
        except Exit:
            return None

    def _running(self) -> bool:
        container = self._container()
        return container is not None and container.state.running

    def _is_ploop(self) -> bool:
        container = self._container()
        return container is not None and container.area.is_ploop

    # -- checks before anything is done ---------------------------------------

    def _check(self) -> None:
        request = self.request
        if request.save:
            if request.reset_ub:
                raise Exit(20, "Error: option --reset_ub is exclusive\n")
            return
        if request.force:
            raise Exit(20, "Error: --force is useless without --save\n")
        for name, option, rc in (
            ("NAME", "name", 131),
            ("OSTEMPLATE", "ostemplate", 20),
        ):
            if name in request.plain:
                raise Exit(
                    rc, f"Error: unable to use --{option} option without --save\n"
                )
        if "DISKSPACE" in request.changes(self.old) and self._is_ploop():
            raise Exit(
                20,
                "Error: can't use --diskspace without --save for a ploop-based"
                " container\n",
            )

    def _changes(self) -> dict[str, str | None]:
        changes = self.request.changes(self.old)
        if self.request.applyconfig:
            sample = self.request.applyconfig
            path = self.host.path("etc/vz/conf", f"ve-{sample}.conf-sample")
            try:
                values, _ = ConfFile.load(path).parse(strict=True)
            except FileNotFoundError:
                raise Exit(109, f"Sample config file not found: {path}\n") from None
            # The sample wins over options given beside it, in either order.
            changes.update(params4.sample_changes(values))
            changes["ORIGIN_SAMPLE"] = sample
        return changes

    # -- what takes effect at once --------------------------------------------

    def _apply(self, changes: dict[str, str | None]) -> None:
        container = self._container()
        running = container is not None and container.state.running
        if running and ("VE_ROOT" in changes or "VE_PRIVATE" in changes):
            which = "VE_ROOT" if "VE_ROOT" in changes else "VE_PRIVATE"
            raise Exit(32, f"Unable to change {which} on a running container\n")
        if "NAME" in changes:
            self._rename(str(changes["NAME"]))
        if container is not None and container.area.is_ploop:
            self._resize_image(container, changes)
        if self.request.setmode == "restart" and running and container is not None:
            self._restart(container, changes)
        elif running and container is not None:
            self._apply_live(container, changes)
        elif not self.request.save:
            self._apply_stopped()
        if self.request.userpasswd:
            self._password()

    def _resize_image(
        self, container: Container, changes: dict[str, str | None]
    ) -> None:
        """Before all that needs a running container, and also where one does not run.

        A sample's DISKSPACE does it, too (set() of src/vzctl-actions.c).
        """
        if changes.get("DISKSPACE"):
            size = units.pair(str(changes["DISKSPACE"]), units.KILOBYTES)[1]
            container.area.resize_image(size)
        if "DISKINODES" in changes:
            self.streams.say(
                "Warning: --diskinodes is ignored for ploop-based container"
            )

    def _rename(self, name: str) -> None:
        old_name = self.old.get("NAME", "")
        if not name:
            if old_name:
                unlink_name(self.host, self.request.ctid, old_name)
            self.streams.say("Name  assigned")
            return
        if len(name) > 255:
            path = self.host.name_path(name)
            raise Exit(
                131,
                f"Can't access file {path}: File name too long\n"
                f"Unable to create link {path}: File name too long\n",
            )
        try:
            linked = link_name(self.host, self.request.ctid, name, old_name)
        except NameTaken as taken:
            raise Exit(
                131, f"Conflict: name {name} already used by container {taken.holder}\n"
            ) from None
        if linked:
            self.streams.say(f"Name {name} assigned")

    def _restart(self, container: Container, changes: dict[str, str | None]) -> None:
        self.streams.say("Restarting container")
        live = Container(self.call, self.request.ctid)
        live.stop(fast=False, lock=self.lock)
        live.conf = {**container.conf, **{k: v or "" for k, v in changes.items()}}
        live.start()

    def _apply_stopped(self) -> None:
        request = self.request
        if request.uses_cpu:
            what = "CPU parameters"
        elif request.uses_ubc:
            what = "UBC parameters"
        else:
            what = ""
        if what:
            raise Exit(31, f"Unable to apply {what}: container is not running\n")
        if request.uses_disk and not self.host.switch("openvz_kernel"):
            raise Exit(62, _QUOTA)
        if "HOSTNAME" in request.plain or request.words or request.ip_add:
            self.streams.say("Unable to configure container: not running")

    def _apply_live(self, container: Container, changes: dict[str, str | None]) -> None:
        container.call = self.call
        container.streams = self.streams
        if self.request.userpasswd and not changes:
            if not self.request.save:
                self.streams.say("UB limits were set successfully")
            return
        self.streams.say("UB limits were set successfully")
        if changes.get("IOPRIO") and not self.host.switch("openvz_kernel"):
            self.streams.warn("Warning: ioprio not supported by the kernel, skipping")
        cgroups.apply(self.host, self.request.ctid, changes)
        if units.highest_of_mask(str(changes.get("CPUMASK", ""))) >= units.host_cpus():
            raise Exit(
                96,
                "Failed to set limits for CPU mask (Numerical result out of range)\n",
            )
        self._apply_io(container, changes)
        self._apply_network(container, changes)
        if self.request.devnodes or self.request.devices:
            self.streams.say("Setting devices")
        if self.request.setmode == "ignore":
            return
        failed = [
            f"Unable to set {what} on a running container"
            for name, what in _NEEDS_RESTART.items()
            if name in changes
        ]
        if "MOUNT_OPTS" in changes:
            failed.append("Unable to change mount options on a running container")
        for line in failed:
            self.streams.warn(line)
        if failed:
            self.streams.warn(_SOME_FAILED)

    def _apply_io(self, container: Container, changes: dict[str, str | None]) -> None:
        if self.host.switch("openvz_kernel"):
            return
        for name, what, unit in (
            ("IOLIMIT", "iolimit", "bytes/sec"),
            ("IOPSLIMIT", "iopslimit", "iops"),
        ):
            if name in changes:
                self.streams.say(f"Setting {what}: {changes[name]} {unit}")
                raise Exit(148, f"Unable to set {what}: Bad file descriptor\n")
        if container.area.is_ploop:
            return
        if "DISKSPACE" in changes or "DISKINODES" in changes:
            raise Exit(62, _QUOTA)

    def _apply_network(
        self, container: Container, changes: dict[str, str | None]
    ) -> None:
        request = self.request
        if request.ip_del and not self.host.switch("openvz_kernel"):
            raise Exit(
                100, "Unable to open /proc/vz/veinfo: No such file or directory\n"
            )
        if request.ip_add:
            self.streams.say(f"Adding IP address(es): {' '.join(request.ip_add)}")
        if request.nic_edit and not request.nic_add:
            self.streams.say("Configure veth devices:  ")
            raise Exit(20, "vps-netns_dev_add ERROR: Missing parameter: HNAME\n")
        before = netif.parse(self.old.get("NETIF", ""))
        gone = [
            nic["host_ifname"]
            for nic in before
            if netif.find(request.nics(before), nic["ifname"]) is None
        ]
        if request.nic_del:
            self.streams.say("Deleting veth devices:  ")
            container.unplug(gone)
        if request.nic_add:
            held = list(container.state.nics)
            try:
                container.plug(request.nic_add)
            except Exit:
                container.unplug([n for n in container.state.nics if n not in held])
                raise

    def _password(self) -> None:
        container = Container(self.call, self.request.ctid)
        started = not container.state.running
        if started:
            container.start(bare=True)
        changed = guest.change_password(
            container.area.tree,
            self.request.userpasswd,
            self.request.crypted,
            self.streams,
        )
        if started:
            container.stop(fast=True)
        if not changed:
            raise Exit(74)


class _Silent(Call):
    """The same call, without its output: to look without repeating warnings."""

    def __init__(self, call: Call) -> None:
        super().__init__(call.program, call.host, type(call.streams)(True), None)
        self.faults = call.faults
