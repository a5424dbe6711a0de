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


"""The template of containers whose tree comes from elsewhere.

vzctl makes no container without a template. This one has only directories, which the
tree that has come replaces.
"""

from __future__ import annotations

import gzip
import io
import os
import pathlib
import tarfile
from collections.abc import Iterator

from ovznovadriver.openvz import node as ovz_node

#: No image's name: those are UUIDs.
NAME = "ovz-empty"

#: Those that vzctl's own scripts look into.
_DIRECTORIES = ("dev", "etc", "proc", "root", "sbin", "sys", "tmp", "usr", "var")


def prepare(node: ovz_node.Node) -> str:
    """Have the template in the cache.

    :returns: what `vzctl create --ostemplate` takes
    """
    path = pathlib.Path(node.paths.templates) / f"{NAME}.tar.gz"
    content = _archive(node.family.tree_dir)
    if not path.exists() or path.read_bytes() != content:
        fresh = path.with_name(f".{NAME}.{os.getpid()}")
        fresh.write_bytes(content)
        # root reads it, and maybe not by way of root's own rights.
        fresh.chmod(0o644)
        fresh.replace(path)
    return str(path) if node.family.template_paths else NAME


def parts(node: ovz_node.Node) -> Iterator[tuple[pathlib.Path, int]]:
    """The template's files under way, and the processes that write them."""
    for path in pathlib.Path(node.paths.templates).glob(f".{NAME}.*"):
        pid = path.name.rpartition(".")[2]
        if pid.isdecimal():
            yield path, int(pid)


def _archive(prefix: str) -> bytes:
    """The archive, the same at every call.

    :param prefix: the directory that the tree lies beneath; empty for none
    """
    plain = io.BytesIO()
    names = [f"{prefix}/{name}" if prefix else name for name in _DIRECTORIES]
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name in [prefix, *names] if prefix else names:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            member.mode = 0o755
            archive.addfile(member)
    return gzip.compress(plain.getvalue(), mtime=0)
