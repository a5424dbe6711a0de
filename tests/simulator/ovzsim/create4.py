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
"""``vzctl create`` of family 4."""

from __future__ import annotations

import os

from ovzsim import area, base, params4, template, units
from ovzsim.base import Exit
from ovzsim.call import Call, NameTaken, link_name, unlink_name
from ovzsim.conffile import ConfFile
from ovzsim.container4 import note, warn_distribution

_FAILED = "Creation of container private area failed\n"
_NO_PLOOP = (
    "No ploop support in the kernel, or kernel is way too old.\n"
    "Make sure you have OpenVZ kernel 042stab058.7 or later running,\n"
    "and kernel ploop modules loaded.\n"
    "Alternatively, if you can't or don't want to use ploop, please\n"
    "add --layout simfs option, or set VE_LAYOUT=simfs in {vz_conf}\n"
)


def create(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl create CTID …"""
    request = params4.parse_options(call.host, ctid, args, params4.CREATE)
    note(call)
    with call.work(ctid):
        _Creation(call, request).run()
    return 0


class _Creation:
    def __init__(self, call: Call, request: params4.Request) -> None:
        self.call = call
        self.host = call.host
        self.request = request
        self.ctid = request.ctid
        self.sample = ""
        path = self.host.conf_path(self.ctid)
        self.fresh = not os.path.exists(path)
        self.file = ConfFile(path) if self.fresh else call.load(self.ctid)

    def run(self) -> None:
        """Every check first, then the private area, then the configuration."""
        self._sample()
        old, _ = self.file.parse(strict=True)
        place = area.Area(self.host, self.ctid, {**old, **self.request.plain})
        if os.path.exists(place.private):
            raise Exit(44, f"Private area already exists in {place.private}\n{_FAILED}")
        layout = self.request.layout or self.host.vz_conf().get("VE_LAYOUT", "ploop")
        if layout == "ploop" and not self.host.switch("ploop"):
            vz_conf = self.host.path("etc/vz/vz.conf")
            raise Exit(99, _NO_PLOOP.format(vz_conf=vz_conf) + _FAILED)
        size_kb = self._image_size(old) if layout == "ploop" else 0
        archive = self._archive()
        name = self.request.plain.get("NAME", "")
        if name:
            self._take_name(name)
        try:
            self._unpack(archive, place, size_kb)
            self._configure(old, layout)
        except BaseException:
            base.remove_tree(place.private)
            unlink_name(self.host, self.ctid, name or "-")
            raise
        os.makedirs(place.root, exist_ok=True)
        self.call.streams.say("Container private area was created")

    def _sample(self) -> None:
        streams, config = self.call.streams, self.request.config
        if not self.fresh:
            if config:
                raise Exit(
                    82,
                    f"Error: container config file {self.file.path} already exists, "
                    f"can not use --config option\n{_FAILED}",
                )
            streams.say(
                "Warning: CT config file already exists, not applying a default "
                "config sample.\nIt might lead to incomplete CT configuration, you "
                "can use --applyconfig to fix."
            )
            return
        self.sample = config or self.host.vz_conf().get("CONFIGFILE", "")
        path = self.host.path("etc/vz/conf", f"ve-{self.sample}.conf-sample")
        try:
            self.file.lines = ConfFile.load(path).lines
        except FileNotFoundError:
            raise Exit(
                82,
                f"Sample config {path} not found: No such file or directory\n{_FAILED}",
            ) from None

    @property
    def template(self) -> str:
        """The template's name."""
        chosen = self.request.plain.get("OSTEMPLATE")
        return chosen or self.host.vz_conf().get("DEF_OSTEMPLATE", "")

    def _archive(self) -> str:
        cache = os.path.join(self.host.vz_conf()["TEMPLATE"], "cache")
        archive = template.find_cached(cache, self.template)
        if archive is None:
            raise Exit(
                91,
                f"vztmpl-dl ERROR: template {self.template} not found!\n"
                f"Cached OS template {cache}/{self.template}.tar[.gz|.bz2|.xz] "
                f"not found\n{_FAILED}",
            )
        return archive

    def _take_name(self, name: str) -> None:
        # The link must lead to a file, or another create would take it for stale.
        try:
            linked = link_name(self.host, self.ctid, name, "")
        except NameTaken as taken:
            raise Exit(
                131,
                f"Conflict: name {name} already used by container {taken.holder}\n"
                f"{_FAILED}",
            ) from None
        if linked:
            self.call.streams.say(f"Name {name} assigned")

    def _image_size(self, old: dict[str, str]) -> int:
        """The size of a ploop image in KiB: the hard limit (src/lib/create.c)."""
        given = self.request.changes(old).get("DISKSPACE") or old.get("DISKSPACE", "")
        given = given or self.host.vz_conf().get("DISKSPACE", "")
        size = units.pair(given, units.KILOBYTES)[1]
        if not size:
            raise Exit(63, f"Error: diskspace not set (required for ploop)\n{_FAILED}")
        return size

    def _unpack(self, archive: str, place: area.Area, image_kb: int) -> None:
        if image_kb:
            image = f"{place.private}.tmp/root.hdd/root.hdd"
            self.call.streams.say(f"Creating image: {image} size={image_kb}K")
        self.call.streams.say(f"Creating container private area ({self.template})")
        tree = place.private
        if image_kb:
            place.make_image(image_kb)
            tree = os.path.join(place.private, area.PLOOP_TREE)
        else:
            os.makedirs(tree)
        template.unpack(archive, tree)
        uid, gid = self.host.uid_offset()
        if uid and os.geteuid() == 0:
            template.shift_owners(tree, uid, gid)

    def _configure(self, old: dict[str, str], layout: str) -> None:
        changes = self.request.changes(old)
        vz_conf = self.host.vz_conf()
        if self.fresh:
            for name in ("VE_ROOT", "VE_PRIVATE"):
                changes.setdefault(name, vz_conf[name])
            changes["ORIGIN_SAMPLE"] = self.sample
        changes["VE_LAYOUT"] = layout
        changes["OSTEMPLATE"] = self.template
        self.file.update(changes, params4.ORDER)
        warn_distribution(self.host, {"OSTEMPLATE": self.template}, self.call.streams)
        self.call.streams.say("Performing postcreate actions")
        self.file.save()
        self.call.streams.say(f"CT configuration saved to {self.file.path}")
