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

"""Verbs of the privileged side: files of a container, from the host.

They run as the host's root. tree.py says how a path stays inside the tree.

Every verb takes either ``base`` (an absolute directory such as the private
area's) with ``ctid``, or ``dirs`` (a dict of such directories); these are the
only absolute host paths, and whether they may be trusted is checked by the
privileged side before. In and out go only str, bytes, int, bool, None, lists and
dicts. All verbs raise UnsafePath for a path that is not what it must be, and
OvzError for other errors of the system, such as a full disk.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import keptconf, leftovers, swap
from ovznovadriver.openvz.tree import (
    OPEN_DIR,
    Tree,
    is_ctid,
    look,
    named_errors,
    remove_path,
    temporary_name,
)

__all__ = ["VERBS", "inspect_tree", "is_ctid", "read_file", "write_files"]

_OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    return "directory" if stat.S_ISDIR(mode) else "other"


def _read(opened: Tree, path: str, limit: int) -> bytes | None:
    with named_errors("read", path):
        looked = look(opened, path)
        if looked is None:
            return None
        try:
            info = os.fstat(looked)
            if not stat.S_ISREG(info.st_mode):
                raise exception.UnsafePath(f"{path!r} is not a plain file")
            # The way from a name-only descriptor to one that reads the same file.
            descriptor = os.open(f"/proc/self/fd/{looked}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(looked)
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(limit + 1)
    if len(content) > limit:
        raise exception.UnsafePath(f"{path!r} is larger than {limit} bytes")
    return content


def read_file(*, base: str, ctid: str, sub: str, path: str, limit: int) -> bytes | None:
    """The content of a plain file of a container; None when it is not there.

    Links are followed inside the tree.

    :param limit: bytes; a larger file is an error
    :raises UnsafePath: for anything but a plain file, and for a larger one
    """
    with Tree(base, ctid, sub) as opened:
        return _read(opened, path, limit)


def inspect_tree(
    *,
    base: str,
    ctid: str,
    sub: str,
    kinds: list[str],
    contents: list[str],
    limit: int,
) -> dict[str, dict[str, Any]]:
    """What is at many paths of a container, and what is in some of its files.

    One bad path does not hide the others: it has the kind "other", and the
    content None.

    :param kinds: paths to look at
    :param contents: paths of plain files to read
    :param limit: bytes of one file
    :returns: {"kinds": {path: "file" | "directory" | "other" | None},
        "contents": {path: bytes | None}, "owner": {"uid": int, "gid": int}}; None is
        for what is not there, the owner is that of the root directory
    """
    with Tree(base, ctid, sub) as opened:
        uid, gid = opened.owner()
        return {
            "owner": {"uid": uid, "gid": gid},
            "kinds": {path: _kind_at(opened, path) for path in kinds},
            "contents": {path: _content_at(opened, path, limit) for path in contents},
        }


def _kind_at(opened: Tree, path: str) -> str | None:
    try:
        with named_errors("look at", path):
            looked = look(opened, path)
            if looked is None:
                return None
            try:
                return _kind(os.fstat(looked).st_mode)
            finally:
                os.close(looked)
    except exception.UnsafePath:
        return "other"


def _content_at(opened: Tree, path: str, limit: int) -> bytes | None:
    try:
        return _read(opened, path, limit)
    except exception.UnsafePath:
        return None


def write_files(
    *,
    base: str,
    ctid: str,
    sub: str,
    files: list[dict[str, Any]],
    directories: list[dict[str, Any]] | None = None,
    remove: list[str] | None = None,
) -> None:
    """Write files into a container's tree.

    First everything at the paths in ``remove`` is removed, then the directories
    that are missing are made, then the files are written. A file is written
    under a temporary name and renamed to its place: what was planted there (a
    link, a FIFO, a device, a hard link) is replaced, never followed or opened.
    Parents that are missing are made with mode 0755 and the file's owner.

    :param files: of {"path", "content" (bytes), "mode" (without the setuid,
        setgid and sticky bits), "uid", "gid"}, and
        "keep" (bool, optional): use the mode and owner of the plain file that is
        being replaced, where there is one
    :param directories: of {"path", "mode", "uid", "gid"}; existing ones stay as
        they are
    :param remove: paths; links are removed, not followed, and missing is fine
    :raises UnsafePath: for a path that cannot be walked or is a directory
    :raises OvzError: for any other error; no temporary file stays
    """
    with Tree(base, ctid, sub) as opened:
        for path in remove or []:
            with named_errors("remove", path):
                remove_path(opened, path)
        for directory in directories or []:
            with named_errors("make", directory["path"]):
                _make_directories(opened, **directory)
        for file in files:
            with named_errors("write", file["path"]):
                _write(opened, **file)


def _maker(mode: int, uid: int, gid: int) -> Callable[[int, bytes], None]:
    def make(parent: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            return  # made by somebody else meanwhile: theirs
        descriptor = os.open(name, OPEN_DIR, dir_fd=parent)
        try:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)

    return make


def _make_directories(opened: Tree, path: str, mode: int, uid: int, gid: int) -> None:
    with opened.parent(path, follow=True, make=_maker(0o755, uid, gid)) as (
        parent,
        name,
    ):
        if name:
            _maker(mode, uid, gid)(parent, name)


def _write(
    opened: Tree,
    path: str,
    content: bytes,
    mode: int,
    uid: int,
    gid: int,
    keep: bool = False,
) -> None:
    with opened.parent(path, follow=False, make=_maker(0o755, uid, gid)) as (
        directory,
        name,
    ):
        if not name:
            raise exception.UnsafePath(f"{path!r} is not a path of a file")
        if keep:
            mode, uid, gid = _attributes(directory, name) or (mode, uid, gid)
        if mode & ~0o777:
            raise exception.UnsafePath(f"{path!r} must not become setuid or setgid")
        temporary = temporary_name()
        descriptor = os.open(temporary, _OPEN_NEW, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                os.fchown(descriptor, uid, gid)
                os.fchmod(descriptor, mode)  # after fchown, which clears setuid
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # the guest was faster
                os.unlink(temporary, dir_fd=directory)
            raise


def _attributes(directory: int, name: bytes) -> tuple[int, int, int] | None:
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(info.st_mode):
        return None
    return info.st_mode & 0o777, info.st_uid, info.st_gid


#: The verbs of the privileged side, by name.
VERBS: Mapping[str, Callable[..., Any]] = {
    verb.__name__: verb
    for verb in (
        read_file,
        inspect_tree,
        write_files,
        leftovers.remove_container,
        leftovers.remove_dump,
        leftovers.list_artifacts,
        leftovers.check_dirs,
        leftovers.ensure_root_dir,
        swap.swap_in,
        swap.swap_out,
        swap.settle_swap,
        keptconf.keep_conf,
        keptconf.restore_conf,
        keptconf.drop_conf,
    )
}
