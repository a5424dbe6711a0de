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

"""The root file system that the contract tests make containers from."""

from __future__ import annotations

import functools
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

#: A file by which a test knows that a tree was unpacked, and its content.
MARK = "etc/contract"
MARK_CONTENT = b"unpacked\n"

SHADOW = "etc/shadow"

_DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp", "usr")
_DIRECTORIES += ("usr/sbin", "var")
_FILES: dict[str, tuple[int, bytes]] = {
    MARK: (0o644, MARK_CONTENT),
    "etc/group": (0o644, b"root:x:0:\n"),
    "etc/hosts": (0o644, b"127.0.0.1 localhost\n"),
    "etc/inittab": (0o644, b"::ctrlaltdel:/sbin/poweroff\n"),
    "etc/passwd": (0o644, b"root:x:0:0:root:/root:/bin/sh\n"),
    SHADOW: (0o600, b"root:*:19000:0:99999:7:::\n"),
}
_PROGRAMS = ("sbin/init", "usr/sbin/chpasswd")
_APPLETS = ("halt", "hostname", "ip", "ls", "poweroff", "reboot", "sh")


@functools.cache
def busybox() -> tuple[bytes, frozenset[str]] | str:
    """The machine's static busybox and its applets, or why there is none."""
    path = shutil.which("busybox")
    if path is None:
        return "there is no busybox on PATH for the container's init"
    content = Path(path).read_bytes()
    if b"/ld-linux" in content or b"/ld-musl" in content:
        return f"{path} is not a static one: it cannot be the container's init"
    listed = subprocess.run(
        [path, "--list"], capture_output=True, text=True, check=True, timeout=60
    )
    return content, frozenset(listed.stdout.split())


@functools.cache
def archive(prefix: str, boots: bool) -> bytes:
    """A tar.gz.

    :param prefix: goes before the name of every member
    :param boots: with busybox in it; otherwise its programs are there, but empty
    """
    files = dict(_FILES)
    links = {}
    found = busybox() if boots else ""
    if isinstance(found, str):
        files |= dict.fromkeys(_PROGRAMS, (0o755, b"#!/bin/sh\n"))
    else:
        files["bin/busybox"] = (0o755, found[0])
        places = [*_PROGRAMS, *(f"bin/{name}" for name in _APPLETS)]
        places += ["sbin/halt", "sbin/poweroff", "sbin/reboot"]
        links |= dict.fromkeys(places, "/bin/busybox")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        # The root directory itself, too: where containers have a UID offset, vzctl
        # gives no other directory the owner without whom it does not start.
        for name in (prefix or "./", *(prefix + d for d in _DIRECTORIES)):
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for name, (mode, content) in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.mode, member.size = mode, len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in links.items():
            member = tarfile.TarInfo(prefix + name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()
