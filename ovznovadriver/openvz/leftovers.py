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

"""What the directories of a node know of containers, and removing what is left.

These verbs run as the host's root, as those of rootfs.py do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from ovznovadriver import exception
from ovznovadriver.openvz import procfs, tree

#: As vzctl makes them: others may pass, what is inside decides for itself.
ROOT_DIR_MODE = 0o755

#: Bytes of a lock: a PID, and the status that vzctl writes after it.
_LOCK_LIMIT = 4096
#: What follows the CTID in a lock's name, and in one's that is being made (mkstemp(3)).
_LOCK = re.compile(r"\.lck([0-9A-Za-z]{6})?")
#: Seconds after which a lock that names no process is not just being written.
_LOCK_WRITTEN = 60


def _refuse_mounted(path: str) -> None:
    mounted = [point for point in mount_points() if _is_beneath(point, path)]
    if mounted:
        raise exception.UnsafePath(f"something is mounted at {mounted[0]!r}")


def _is_beneath(point: str, path: str) -> bool:
    return point == path or point.startswith(path + "/")


def mount_points() -> list[str]:
    """Where something is mounted, by /proc/self/mountinfo (proc(5)), field 5."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        return [_unescape(line.split(" ")[4]) for line in f]


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _remove_private(directory: str, ctid: str) -> None:
    _refuse_mounted(os.path.join(os.path.realpath(directory), ctid))
    _remove_names(directory, [ctid])


def _remove_root(directory: str, ctid: str) -> None:
    path = os.path.join(os.path.realpath(directory), ctid)
    _refuse_mounted(path)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)


def _remove_conf(directory: str, ctid: str) -> None:
    for name in _names_with(directory, f"{ctid}."):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def _remove_dump(directory: str, ctid: str) -> None:
    dump = f"Dump.{ctid}"
    names = _names_with(directory, dump)
    found = [n for n in names if n == dump or n[len(dump)] == "."]
    # That is what vzmigrate sends to another host.
    found += [n for n in _names_with(directory, "tmp-dump.") if n == f"tmp-dump.{ctid}"]
    _remove_names(directory, found)


def _remove_lock(directory: str, ctid: str) -> None:
    """Remove a dead process's lock; and what one left that was killed in locking.

    vzctl writes a lock as ``<ctid>.lckXXXXXX`` and links it to its name (vps_lock() of
    vzctl 4, _lock_file() of libvzctl).
    """
    lock = f"{ctid}.lck"
    for name in sorted(_names_with(directory, lock)):
        if not _LOCK.fullmatch(name, len(ctid)):
            continue
        path = os.path.join(directory, name)
        with contextlib.suppress(FileNotFoundError):
            _refuse_held(path, unwritten=name != lock)
            os.unlink(path)


def _refuse_held(path: str, unwritten: bool = False) -> None:
    content, _ = tree.read_plain(path, _LOCK_LIMIT)
    if unwritten and not content:
        return
    owner = content.split()[:1]
    if not owner or not owner[0].isdigit():
        if is_nobodys(path):
            return
        raise exception.OvzError(f"{path!r} does not say whose lock it is")
    if procfs.is_running(int(owner[0])):
        raise exception.OvzError(f"{path!r} is held by process {int(owner[0])}")


def is_nobodys(path: str) -> bool:
    """Whether a lock that names no process will never name one.

    So a power cut leaves them. vzctl takes such a lock for stale at once: its own are
    written before they have their name. vzmigrate's is written right after that.
    """
    return os.lstat(path).st_mtime < time.time() - _LOCK_WRITTEN


def _remove_name_links(directory: str, ctid: str) -> None:
    for name, owner in _name_links(directory):
        if owner == ctid:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))


def _remove_cgroups(directory: str, ctid: str) -> None:
    """Remove the empty groups ``vz-<ctid>``, of every controller."""
    parents = [directory]
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        parents += [e.path for e in entries if e.is_dir(follow_symlinks=False)]
    for parent in parents:
        top = os.path.join(parent, f"vz-{ctid}")
        for group, _groups, _files in os.walk(top, topdown=False):
            os.rmdir(group)


def _remove_names(directory: str, names: Iterable[str]) -> None:
    try:
        parent = tree.open_base(directory)
    except FileNotFoundError:
        return
    try:
        for name in names:
            tree.remove_entry(parent, name)
    finally:
        os.close(parent)


_REMOVERS: Mapping[str, Callable[[str, str], None]] = {
    "root": _remove_root,
    "private": _remove_private,
    "dump": _remove_dump,
    "names": _remove_name_links,
    "cgroup": _remove_cgroups,
    "conf": _remove_conf,
    "lock": _remove_lock,
}


def remove_container(*, dirs: dict[str, str], ctid: str) -> list[str]:
    """Remove what a destroyed container has left on the node.

    That is its directories in the root and private areas, its configuration and
    action scripts (``<ctid>.*``), its dump, the name links that lead to it, its
    lock when the owner is dead, and its empty cgroups. A root directory that is
    not empty, anything mounted and a lock that is held are left as they are.
    The lock goes last, so that the number stays taken as long as possible.

    :param dirs: any of root, private, dump, names, cgroup, conf, lock
    :returns: one sentence for each step that failed; all steps are tried
    """
    tree.checked_ctid(ctid)
    _refuse_unknown(dirs, _REMOVERS)
    failures = []
    for kind, remove in _REMOVERS.items():
        if kind not in dirs:
            continue
        try:
            remove(dirs[kind], ctid)
        except (OSError, exception.OvzError) as error:
            failures.append(f"{kind}: {error}")
    return failures


def remove_dump(*, dirs: dict[str, str], ctid: str) -> None:
    """Remove a container's dump, which its start would go on from.

    :param dirs: "dump", the node's directory of dumps; and "private" only where the
        guest's root is in a subdirectory of the private area: there the dump is
        beside it (layout 4 and later of libvzctl), elsewhere the same path would be
        the guest's own
    :raises OvzError: when it cannot be removed
    """
    tree.checked_ctid(ctid)
    _refuse_unknown(dirs, ("dump", "private"))
    if "dump" in dirs:
        with tree.named_errors("remove a dump in", dirs["dump"]):
            _remove_dump(dirs["dump"], ctid)
    if "private" in dirs and os.path.lexists(os.path.join(dirs["private"], ctid)):
        with (
            tree.Tree(dirs["private"], ctid, "") as area,
            tree.named_errors("remove", f"{ctid}/dump/Dump"),
        ):
            tree.remove_path(area, "dump/Dump")


# -- the node's directories -------------------------------------------------


def _names_with(directory: str, prefix: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if name.startswith(prefix)]
    except FileNotFoundError:
        return []


def _name_links(directory: str) -> Iterator[tuple[str, str]]:
    """(name, CTID) of each link of the names directory to a configuration."""
    for name in _names_with(directory, ""):
        try:
            target = os.readlink(os.path.join(directory, name))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                continue  # no link, or gone meanwhile
            raise
        yield name, os.path.basename(target).removesuffix(".conf")


def _entries(kind: str, directory: str) -> Iterator[str]:
    """What may be a CTID among the names in a directory of the node."""
    if kind == "names":
        for _name, owner in _name_links(directory):
            yield owner
        return
    for name in os.listdir(directory):
        if kind == "dump":
            head, _, rest = name.partition(".")
            if head == "Dump":
                yield rest.partition(".")[0]
        else:
            yield name.partition(".")[0]


_KNOWN_BY = ("private", "root", "conf", "dump", "lock", "names")


def list_artifacts(*, dirs: dict[str, str]) -> list[str]:
    """The CTIDs that the directories of the node know, sorted.

    A directory of private areas, roots or configurations that cannot be read is
    an error, never an empty node; those of dumps, locks and names appear only
    with the first dump, lock or name.

    :param dirs: any of private, root, conf, dump, lock, names
    """
    _refuse_unknown(dirs, _KNOWN_BY)
    found: set[str] = set()
    for kind, directory in dirs.items():
        with tree.named_errors("list", directory):
            try:
                found.update(filter(tree.is_ctid, _entries(kind, directory)))
            except FileNotFoundError:
                if kind in ("private", "root", "conf"):
                    raise
    return sorted(found)


def check_dirs(*, dirs: dict[str, str]) -> dict[str, str]:
    """What is wrong with directories that the service needs.

    :param dirs: any names, and the directory of each
    :returns: for each that cannot be used, what it is ("does not exist", "is not
        a directory", "cannot be written to")
    """
    problems = {}
    for name, directory in dirs.items():
        if not os.path.isdir(directory):
            there = os.path.lexists(directory)
            problems[name] = "is not a directory" if there else "does not exist"
        elif not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            problems[name] = "cannot be written to"
    return problems


def ensure_root_dir(*, base: str, ctid: str) -> bool:
    """Make the directory that a container's root is mounted at, when missing.

    vzctl does not start a container without it.

    :returns: whether it was made
    """
    path = f"{base}/{tree.checked_ctid(ctid)}"
    with tree.named_errors("make", path):
        parent = tree.open_base(base)
        try:
            os.mkdir(ctid, dir_fd=parent)
            os.chmod(ctid, ROOT_DIR_MODE, dir_fd=parent)  # whatever the umask
        except FileExistsError:
            info = os.stat(ctid, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                raise exception.UnsafePath(f"{path!r} is not a directory") from None
            return False
        finally:
            os.close(parent)
    return True


def _refuse_unknown(dirs: Iterable[str], known: Iterable[str]) -> None:
    unknown = set(dirs) - set(known)
    if unknown:
        raise exception.UnsafePath(f"no such kind of directory: {sorted(unknown)}")
