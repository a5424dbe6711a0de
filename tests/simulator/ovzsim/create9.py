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
"""``vzctl create`` of family 9."""

from __future__ import annotations

import os

from ovzsim import area, base, params9, request9, template
from ovzsim.base import Exit, Unmodelled
from ovzsim.call import Call, NameTaken, link_name, unlink_name
from ovzsim.conffile import ConfFile

_LAYOUTS = {"simfs": "4", "ploop": "5"}
_FAILED = "VE_PRIVATE is not set\nCreation of Container private area failed\n"


def create(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl create CTID …"""
    request = params9.parse_options(call.host, ctid, args, params9.CREATE)
    if request.layout and request.layout not in _LAYOUTS:
        return 20  # without a word
    with call.work(ctid):
        _Creation(call, request).run()
    return 0


def random_uuid() -> str:
    """A UUID of version 4."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


class _Creation:
    def __init__(self, call: Call, request: request9.Request) -> None:
        self.call = call
        self.host = call.host
        self.request = request
        self.ctid = request.ctid

    def run(self) -> None:
        """Every check first, then the private area, then the registration."""
        request, streams = self.request, self.call.streams
        conf_path = self.host.conf_path(self.ctid)
        place = area.Area(self.host, self.ctid, self._places())
        if os.path.lexists(conf_path) or os.path.exists(place.private):
            raise Exit(44, f"Container {self.ctid} already exists\n")
        name = request.plain.get("NAME") or ""
        sample = request.config or self.host.vz_conf().get("CONFIGFILE", "basic")
        sample_path = self.host.path("etc/vz/conf", f"ve-{sample}.conf-sample")
        if not os.path.exists(sample_path):
            raise Exit(82, f"Sample config file {sample_path} not found\n")
        self._check_name(name)
        layout = self._layout()
        archive = "" if request.no_hdd else self._archive(layout)
        if archive:
            streams.say(
                f"Creating Container private area ({archive}) with applications from "
                f"config (ve-{sample}.conf-sample)"
            )
        try:
            self._private_area(place, layout, archive)
            self._register(place, conf_path, sample, sample_path, archive)
            self._take_name(name)
        except BaseException:
            base.remove_tree(place.private)
            if os.path.islink(conf_path):
                os.unlink(conf_path)
            unlink_name(self.host, self.ctid, name or "-")
            raise
        os.makedirs(place.root, exist_ok=True)
        streams.say(f"Container {self.ctid} was successfully registered")
        streams.say(f"Container private area {place.private} created")

    def _places(self) -> dict[str, str]:
        return {k: v for k, v in self.request.plain.items() if v is not None}

    def _check_name(self, name: str) -> None:
        from ovzsim.call import linked_ctid

        holder = linked_ctid(self.host, name) if name else None
        if holder is not None and holder != self.ctid:
            raise self._conflict(name, holder)

    def _conflict(self, name: str, holder: str) -> Exit:
        return Exit(137, f"Conflict: name {name} already used by Container {holder}\n")

    def _take_name(self, name: str) -> None:
        if not name:
            return
        try:
            link_name(self.host, self.ctid, name, "")
        except NameTaken as taken:
            raise self._conflict(name, taken.holder) from None
        self.call.streams.say(f"Assign the name: {name}")

    def _layout(self) -> str:
        """ "4" for simfs, "5" for ploop."""
        if self.request.layout:
            return _LAYOUTS[self.request.layout]
        return "4" if self.host.vz_conf().get("VEFSTYPE") == "simfs" else "5"

    def _archive(self, layout: str) -> str:
        chosen = self.request.plain.get("OSTEMPLATE")
        template_name = chosen or ""
        if not template_name.startswith("/"):
            raise Exit(
                21,
                "executable /usr/sbin/vzpkg not found\n"
                "The cached package set '' is not compatible with layout "
                f"{layout}. Update the cache\n{_FAILED}",
            )
        is_image = ".ploop" in template_name or ".qcow2" in template_name
        if layout == "5" and not is_image:
            raise Exit(
                21,
                f"The cached package set '{template_name}' is not compatible with "
                f"layout 5. Update the cache\n{_FAILED}",
            )
        if not os.path.exists(template_name):
            raise Exit(
                48,
                "vz-create_prvt ERROR: Tarball does not exist: "
                f"{template_name}\n{_FAILED}",
                f"Creating Container private area ({template_name}) with "
                f"applications from config (ve-basic.conf-sample)\n",
            )
        if layout == "5":
            raise Unmodelled("ploop images as templates")
        return template_name

    def _private_area(self, place: area.Area, layout: str, archive: str) -> None:
        for directory in ("dump", "fs", "scripts"):
            os.makedirs(os.path.join(place.private, directory), mode=0o700)
        if layout == "5":
            os.mkdir(os.path.join(place.private, "root.hdd"), 0o700)
        os.symlink(layout, os.path.join(place.private, ".ve.layout"))
        with open(f"{place.private}/.owner", "w", encoding="ascii") as owner:
            owner.write("0\n")
        if not archive:
            return
        # Anything but tar.gz, by name: exit code 0 and nothing unpacked.
        if archive.endswith((".tar.gz", ".tgz")):
            template.unpack(archive, place.private)
        self.call.streams.say("Container is mounted")
        self.call.streams.say("Postcreate action done")

    def _register(
        self,
        place: area.Area,
        conf_path: str,
        sample: str,
        sample_path: str,
        archive: str,
    ) -> None:
        changes = self.request.changes({})
        vz_conf = self.host.vz_conf()
        for name in ("VE_ROOT", "VE_PRIVATE"):
            changes.setdefault(name, vz_conf[name])
        changes["ORIGIN_SAMPLE"] = sample
        changes["VEID"] = self.ctid
        dashes = "-" in self.ctid
        changes["UUID"] = self.request.uuid or (self.ctid if dashes else random_uuid())
        if self.request.no_hdd:
            changes["ROOT_DISK"] = "no"
        if archive:
            changes["OSTEMPLATE"] = f".{archive}"
        file = ConfFile(f"{place.private}/ve.conf")
        file.lines = ConfFile.load(sample_path).lines
        file.update(changes, _ORDER)
        file.save()
        os.symlink(file.path, conf_path)


# A fresh configuration has its names in an order of its own.
_ORDER = (
    "VE_ROOT",
    "VE_PRIVATE",
    "OSTEMPLATE",
    "NAME",
    "DESCRIPTION",
    "HOSTNAME",
    "ORIGIN_SAMPLE",
    "ROOT_DISK",
    "VEID",
    "UUID",
)
