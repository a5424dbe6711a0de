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
"""``vzctl set`` and ``unset`` of family 9."""

from __future__ import annotations

from ovzsim import guest, netif, params9, request9, units
from ovzsim.base import Exit, Unmodelled
from ovzsim.call import Call, NameTaken, link_name, unlink_name
from ovzsim.conffile import ConfFile
from ovzsim.container9 import Container
from ovzsim.create9 import random_uuid
from ovzsim.getopt_long import BadOption, parse
from ovzsim.lock import ContainerLock

_NOT_SAVED = (
    "WARNING: Changes are not saved and will be dropped on the next start. Suspend or "
    "migrate operations may fail. Use --save to save the settings in the configuration "
    "file."
)
_SWAP = "WARNING: Use of swap significantly slows down both the container and the node."


def set_(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl set CTID … [--save]"""
    request = params9.parse_options(call.host, ctid, args, params9.SET)
    _check(request)
    with call.work(ctid) as lock:
        return _Setting(call, request, lock).run()


def _check(request: request9.Request) -> None:
    if request.save:
        return
    if request.setmode == "restart":
        raise Exit(20, "It is not allowed to use restart mode without --save\n")
    if request.disk.keys() & {"add", "del", "set"}:
        raise Exit(20, "The --save option have to be used with --device-*\n")
    if request.bind_add or request.bind_del:
        raise Exit(
            20,
            "The --bindmount-* options must be used together with the --save option.\n",
        )
    if "NAME" in request.plain:
        raise Exit(137, "Unable to use the --name option without --save\n")


class _Setting:
    def __init__(
        self, call: Call, request: request9.Request, lock: ContainerLock
    ) -> None:
        self.call = call
        self.host = call.host
        self.streams = call.streams
        self.request = request
        self.lock = lock
        self.rc = 0
        try:
            self.file = call.load(request.ctid)
        except FileNotFoundError:
            # The real tool goes on, and leaves a stray configuration file.
            self.file = ConfFile(call.host.conf_path(request.ctid))
        self.old = call.values(self.file)
        try:
            self.container: Container | None = Container(call, request.ctid)
        except Exit:
            self.container = None

    def run(self) -> int:
        """Applies, and saves what could be applied: also when something failed."""
        request = self.request
        for line in request.says:
            self.streams.say(line)
        for line in request.warns:
            self.streams.warn(line)
        if request.swap:
            self.streams.warn(_SWAP)
        changes = self._changes()
        if "NAME" in changes:
            self._rename(changes)
        self._disks(changes)
        self._network(changes)
        if request.userpasswd:
            self._password()
        if request.save:
            self.file.update(changes, request9.ORDER)
            self.file.save()
            self.streams.say(f"Saved parameters for Container {request.ctid}")
        else:
            self.streams.say(_NOT_SAVED)
        if request.setmode == "restart" and self._running and self.container:
            self.container.stop(fast=False, lock=self.lock)
            Container(self.call, request.ctid).start()
        return self.rc

    @property
    def _running(self) -> bool:
        return self.container is not None and self.container.state.running

    def _failed(self, rc: int, line: str) -> None:
        """Something could not be done; the rest is saved all the same."""
        self.rc = rc
        self.streams.warn(line)

    def _changes(self) -> dict[str, str | None]:
        changes = self.request.changes(self.old)
        if self.request.applyconfig:
            changes.update(self._sample(self.request.applyconfig))
        return changes

    def _sample(self, name: str) -> dict[str, str]:
        path = self.host.path("etc/vz/conf", f"ve-{name}.conf-sample")
        try:
            values, _ = ConfFile.load(path).parse(strict=False)
        except FileNotFoundError:
            raise Exit(109, f"Sample config file {path} not found\n") from None
        changes = {"ORIGIN_SAMPLE": name}
        for key in ("ONBOOT", "CPUUNITS", "NETFILTER", "QUOTATIME"):
            if key in values:
                changes[key] = values[key]
        for key in ("PHYSPAGES", "SWAPPAGES", "DISKSPACE", "DISKINODES"):
            if key in values:
                changes[key] = request9.pair_text(*units.pair(values[key], units.COUNT))
        return changes

    def _rename(self, changes: dict[str, str | None]) -> None:
        name, old_name = changes["NAME"], self.old.get("NAME", "")
        if not name:
            if old_name:
                unlink_name(self.host, self.request.ctid, old_name)
                self.streams.say(f"Name {old_name} detached")
            return
        try:
            linked = link_name(self.host, self.request.ctid, name, old_name)
        except NameTaken as taken:
            del changes["NAME"]
            self._failed(
                137,
                f"Conflict: name {name} already used by Container {taken.holder}",
            )
            return
        if linked:
            self.streams.say(f"Name {name} assigned")

    # -- disks ----------------------------------------------------------------

    def _disks(self, changes: dict[str, str | None]) -> None:
        disk = self.request.disk
        if "add" in disk:
            self._add_disk(changes)
        elif "del" in disk:
            self._delete_disk(changes, disk["del"])
        elif "set" in disk:
            if disk["set"] in self.old.get("DISK", ""):
                raise Unmodelled("--device-set")
            self._no_disk("configure", disk["set"])
        resize = "DISKSPACE" in self.request.plain or (
            "size" in disk and "add" not in disk
        )
        if resize and (self.old.get("ROOT_DISK") == "no" or "DISK" in self.old):
            changes.pop("DISKSPACE", None)
            self._no_disk("configure", params9.ZERO_UUID)

    def _no_disk(self, verb: str, uuid: str) -> None:
        self._failed(21, f"Unable to {verb} the disk with uuid {uuid}: no such disk")

    def _add_disk(self, changes: dict[str, str | None]) -> None:
        disk = self.request.disk
        if "image" in disk:
            raise Unmodelled("--device-add hdd --image")
        if "device" not in disk:
            if "size" in disk:
                raise Unmodelled("--device-add hdd --size")
            self._failed(163, "The --size option have to be specified")
            return
        uuid = disk.get("uuid") or f"{{{random_uuid()}}}"
        entry = f"uuid={uuid},size=0"
        if "mnt" in disk:
            entry += f",mnt={disk['mnt']}"
        entry += f",device={disk['device']}"
        held = [e for e in self.old.get("DISK", "").split(";") if e]
        if disk.get("mnt") == "/":
            changes["DISKSPACE"] = "0:0"
            changes["ROOT_DISK"] = None
        if uuid != params9.ZERO_UUID:  # that one is never written
            held.append(entry)
        changes["DISK"] = ";".join(held)
        self.streams.say(
            f"The device {disk['device']} uuid={uuid} has been successfully added."
        )

    def _delete_disk(self, changes: dict[str, str | None], uuid: str) -> None:
        held = [e for e in self.old.get("DISK", "").split(";") if e]
        gone = [e for e in held if e.startswith(f"uuid={uuid},")]
        if not gone:
            self._no_disk("delete", uuid)
            return
        device = gone[0].partition("device=")[2]
        changes["DISK"] = ";".join(e for e in held if e not in gone)
        self.streams.say(
            f"The ploop device {device} has been successfully unregistered"
        )

    # -- NICs -----------------------------------------------------------------

    def _network(self, changes: dict[str, str | None]) -> None:
        request = self.request
        before = netif.parse(self.old.get("NETIF", ""))
        added = netif.find(request.nic_add, request.nic_ifname)
        known = netif.find(before, request.nic_ifname)
        if request.nic_ifname and added is None and known is None:
            changes.pop("NETIF", None)
            self._failed(21, f"Virtual adapter {request.nic_ifname} is not configured")
            return
        if "NETIF" not in changes or not self._running or self.container is None:
            return
        after = netif.parse(str(changes["NETIF"]))
        names = {nic["host_ifname"] for nic in after}
        self.container.unplug(
            [n["host_ifname"] for n in before if n["host_ifname"] not in names]
        )
        held = set(self.container.state.nics)
        self.container.plug([nic for nic in after if nic["host_ifname"] not in held])

    # -- password -------------------------------------------------------------

    def _password(self) -> None:
        container = Container(self.call, self.request.ctid)
        started = not container.state.running
        if started:
            container.need_root_disk()
            container.start()
        changed = guest.change_password(
            container.area.tree,
            self.request.userpasswd,
            self.request.crypted,
            self.streams,
        )
        if started:
            container.stop(fast=True)
        if not changed:
            self.rc = 74


def unset(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl unset CTID --option … --save"""
    known = dict.fromkeys(params9.SET, False)
    try:
        options, _ = parse(args, known, ctid)
    except BadOption as error:
        raise Exit(21, f"{error}\n") from None
    names = {name for name, _ in options} - {"save"}
    if names != {"cpulimit"}:
        raise Unmodelled(f"unset of {', '.join(sorted(names))}")
    with call.work(ctid):
        container = Container(call, ctid)
        container.file.update({"CPULIMIT": None, "CPULIMIT_MHZ": None}, ())
        container.file.save()
        call.streams.say(f"Unset parameters for Container {ctid}")
    return 0
