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

"""This machine as the demo's node: what it needs, and where to look.

Nothing here knows Nova, so that a machine which cannot be used is told so at once.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

VZ_CONF = Path("/etc/vz/vz.conf")

#: Stands before a real program, and notes each call for the demo's screen.
_WRAPPER = """\
#!{python} -SE
import json, subprocess, sys, time
start = time.time()
ended = subprocess.run([{program!r}, *sys.argv[1:]])
record = [[{name!r}, *sys.argv[1:]], ended.returncode, start, time.time() - start]
with open({log!r}, "a") as file:
    file.write(json.dumps(record) + "\\n")
sys.exit(ended.returncode)
"""

#: What init of a container made of busybox does.
_INITTAB = "::sysinit:/bin/hostname -F /etc/hostname\n::ctrlaltdel:/bin/poweroff\n"


class CannotRunError(Exception):
    """Why the demo cannot run on this machine, in one sentence."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A call of a real program, as SimNode records those of its own."""

    argv: tuple[str, ...]
    rc: int
    start: float
    seconds: float


class RealNode:
    """This machine, seen as the harness sees a simulated node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin_dir = root / "bin"
        self.bin_dir.mkdir(parents=True)
        self._log = root / "commands"
        self._log.touch()
        self._private = Path(
            settings(VZ_CONF).get("VE_PRIVATE", "/vz/private/$VEID")
        ).parent
        for name in ("vzctl", "vzlist"):
            wrapper = self.bin_dir / name
            wrapper.write_text(
                _WRAPPER.format(
                    python=sys.executable,
                    program=shutil.which(name),
                    name=name,
                    log=str(self._log),
                )
            )
            wrapper.chmod(0o755)
        self.before = {path.name for path in self._private.iterdir()}

    def commands(self) -> list[Command]:
        """Every call of vzctl and vzlist so far."""
        lines = self._log.read_text().splitlines()
        return [
            Command(tuple(argv), rc, start, seconds)
            for argv, rc, start, seconds in map(json.loads, lines)
        ]

    def containers(self) -> list[str]:
        """The containers that were not there before the demo."""
        now = {path.name for path in self._private.iterdir()}
        return sorted(now - self.before)

    def conf(self, ctid: str) -> dict[str, str]:
        """A container's configuration."""
        return settings(VZ_CONF.parent / "conf" / f"{ctid}.conf")


def settings(path: Path) -> dict[str, str]:
    """The parameters of one of OpenVZ's configuration files."""
    found = re.findall(r'^([A-Z_0-9]+)="?(.*?)"?$', path.read_text(), re.MULTILINE)
    return dict(found)


def prepare(image: Path | None) -> bytes:
    """The image to boot on this machine.

    :param image: a file to take instead of one made of busybox

    :raises CannotRunError: it cannot run here
    """
    if os.geteuid() != 0:
        raise CannotRunError("vzctl must be run as root.")
    programs = {name: shutil.which(name) for name in ("vzctl", "vzlist")}
    for name, program in programs.items():
        if program is None:
            raise CannotRunError(f"there is no {name} on PATH.")
    if not VZ_CONF.is_file():
        raise CannotRunError(f"there is no {VZ_CONF}; is OpenVZ installed?")
    looked = subprocess.run(
        [str(programs["vzlist"]), "-a", "-j"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if looked.returncode or "[" not in looked.stdout:
        said = (looked.stderr or looked.stdout).strip().splitlines() or ["nothing"]
        raise CannotRunError(f"vzlist cannot see containers here; it says: {said[-1]}")
    if image is None:
        return _busybox_rootfs()
    try:
        return image.read_bytes()
    except OSError as error:
        raise CannotRunError(f"{image}: {error.strerror}.") from error


def _busybox_rootfs() -> bytes:
    """A root file system made of the machine's static busybox."""
    path = shutil.which("busybox")
    if path is None:
        raise CannotRunError(
            "there is no image: give one with --image, or install busybox-static."
        )
    busybox = Path(path).read_bytes()
    if b"/ld-linux" in busybox or b"/ld-musl" in busybox:
        raise CannotRunError(
            f"{path} is not a static one: give an image with --image, or install"
            " busybox-static."
        )
    files = {
        "bin/busybox": (0o755, busybox),
        "etc/inittab": (0o644, _INITTAB.encode()),
        "etc/passwd": (0o644, b"root:x:0:0:root:/root:/bin/sh\n"),
        "etc/shadow": (0o600, b"root:*:19000:0:99999:7:::\n"),
        "etc/group": (0o644, b"root:x:0:\n"),
        "etc/hostname": (0o644, b"template\n"),
    }
    links = {
        "sbin/init": "../bin/busybox",
        **{
            f"bin/{name}": "busybox"
            for name in ("sh", "hostname", "poweroff", "halt", "reboot", "ip", "ls")
        },
        "sbin/halt": "../bin/busybox",
        "sbin/reboot": "../bin/busybox",
    }
    return _archive(files, links)


def _archive(files: dict[str, tuple[int, bytes]], links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp", "var"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            folder.mode = 0o755
            archive.addfile(folder)
        for name, (mode, content) in files.items():
            member = tarfile.TarInfo(name)
            member.mode = mode
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type = tarfile.SYMTYPE
            link.linkname = target
            archive.addfile(link)
    return buffer.getvalue()
