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
"""Template archives for simulated nodes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

# The least tree in which the tools of the simulator find what they look for.
BASE_TREE: Mapping[str, str] = {
    "sbin/init": "#!/bin/sh\n",
    "usr/sbin/chpasswd": "#!/bin/sh\n",
    "usr/sbin/useradd": "#!/bin/sh\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/hosts": "127.0.0.1 localhost\n",
}
BASE_DIRECTORIES = ("bin", "dev", "proc", "root", "sys", "tmp", "var", "usr/bin")


def write_archive(
    path: Path,
    files: Mapping[str, str | bytes],
    prefix: str = "",
    modes: Mapping[str, int] | None = None,
) -> None:
    """Writes a tar archive, packed as its name says.

    :param files: content by path; a path with a slash at its end is a directory.
    :param prefix: goes before every member's name.
    :param modes: permissions by path, where they are not 0755 for programs and
        directories, 0640 for shadow and 0644 for the rest.
    """
    with tarfile.open(path, _opening_mode(path)) as tar:
        made: set[str] = set()
        for name, content in files.items():
            parents = (prefix + name.rstrip("/")).split("/")
            if not name.endswith("/"):
                parents = parents[:-1]
            for depth in range(1, len(parents) + 1):
                directory = "/".join(parents[:depth])
                if directory not in made:
                    made.add(directory)
                    member = tarfile.TarInfo(directory)
                    member.type, member.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(member)
            if name.endswith("/"):
                continue
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            member.mode = (modes or {}).get(name) or _mode(name)
            tar.addfile(member, io.BytesIO(data))


def _mode(name: str) -> int:
    if name == "etc/shadow":
        return 0o640
    return 0o755 if "bin/" in name else 0o644


def _opening_mode(path: Path) -> Literal["w:", "w:gz", "w:bz2", "w:xz"]:
    if path.name.endswith(".gz"):
        return "w:gz"
    if path.name.endswith(".bz2"):
        return "w:bz2"
    return "w:xz" if path.name.endswith(".xz") else "w:"
