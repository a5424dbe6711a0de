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

"""All that a node's directories say of containers, by one look.

The verbs run as the host's root, as those of rootfs.py do. Only names, links and the
few small files of this driver and of vzctl are read, never a container's tree.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import incoming, leftovers, procfs, swap, tree, vzconf

#: What this driver keeps of a container beside its configuration.
OURS = ("nics", "rescue", "resize")

_TEMPORARY = re.compile(r"(?P<ctid>[0-9a-fA-F-]+)\.[a-z]+\.ovz-[0-9a-f]{16}")
#: The memory of a container that vzmigrate sends to another host: from line 1005 of
#: bin/vzmigrate.in (vzctl 4.9.4) on, before it comes to life there, and to line 1115.
_SENT = re.compile(r"tmp-dump\.([0-9]+)")
_TEMPORARY_CONF = re.compile(r"ve\.conf\.ovz-[0-9a-f]{16}")
_NETIF = re.compile(r"^NETIF=(\"[^\"\n]*\"|\S*)", re.MULTILINE)
_NAME = re.compile(r"^NAME=(\"[^\"\n]*\"|\S*)", re.MULTILINE)
_DESCRIPTION = re.compile(r"^DESCRIPTION=(\"[^\"\n]*\"|\S*)", re.MULTILINE)
#: Bytes of a configuration that are read; vzctl's own are about one thousand.
_MAX_CONF = 1 << 20


def survey(*, dirs: dict[str, str], sub: str) -> dict[str, Any]:
    """What there is on a node.

    :param dirs: private, root, conf, names, lock and dump
    :param sub: the root tree's directory in a private area
    :returns: by CTID "places" (kinds of directories), "files" (what is in the
        configurations' directory beside the configuration), "locks" (PID of the vzctl
        that has it, 0 for a dead one), "swaps" (see :func:`swap.state`, or a sentence
        that says why it is not known), "confs" ("name", "description",
        "interfaces": each with its "ifname", "mac" and "host_ifname", as far as they
        are known); "sent" (CTIDs whose memory goes, or went, to another host); and
        "mounts" (paths), "temporary" (paths), "incoming" (by key,
        whether somebody works on it), "marks" (keys), "proofs" (name: host)
    :raises OvzError: a directory cannot be read
    """
    tree.checked_sub(sub)
    found: dict[str, Any] = {"places": _places(dirs)}
    with tree.named_errors("list", dirs["conf"]):
        names = os.listdir(dirs["conf"])
    found["files"] = _files(names)
    found["temporary"] = sorted(_temporary(dirs, names))
    found["locks"] = _locks(dirs["lock"])
    found["sent"] = _sent(dirs["dump"])
    found["swaps"] = {
        ctid: _swap(dirs, ctid, sub)
        for ctid, kinds in found["files"].items()
        if "rescue" in kinds
    }
    ctids = [c for c, places in found["places"].items() if "conf" in places]
    found["confs"] = {
        ctid: conf for ctid in ctids if (conf := _conf(dirs, ctid)) is not None
    }
    areas = [f"{os.path.realpath(dirs[kind])}/" for kind in ("private", "root")]
    found["mounts"] = [
        point
        for point in leftovers.mount_points()
        if any(point.startswith(area) for area in areas)
    ]
    return {**found, **_incoming(dirs["private"])}


def _places(dirs: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, directory in dirs.items():
        for ctid in leftovers.list_artifacts(dirs={kind: directory}):
            found.setdefault(ctid, []).append(kind)
    return found


def _files(names: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        ctid, _, rest = name.partition(".")
        if tree.is_ctid(ctid) and rest in OURS:
            found.setdefault(ctid, []).append(rest)
    return found


def _temporary(dirs: Mapping[str, str], names: list[str]) -> Iterator[str]:
    for name in names:
        match = _TEMPORARY.fullmatch(name)
        if match and tree.is_ctid(match["ctid"]):
            yield os.path.join(dirs["conf"], name)
    # vzctl 7 has the configuration in the private area, with a link to it.
    for name in names:
        ctid = name.removesuffix(".conf")
        link = os.path.join(dirs["conf"], name)
        if not tree.is_ctid(ctid) or ctid == name or not os.path.islink(link):
            continue
        with contextlib.suppress(OSError):
            for other in os.listdir(os.path.join(dirs["private"], ctid)):
                if _TEMPORARY_CONF.fullmatch(other):
                    yield os.path.join(dirs["private"], ctid, other)


def _locks(directory: str) -> dict[str, int]:
    found = {}
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    for name in names:
        ctid = name.removesuffix(".lck")
        if ctid == name or not tree.is_ctid(ctid):
            continue
        with contextlib.suppress(FileNotFoundError):
            found[ctid] = _holder(os.path.join(directory, name))
    return found


def _sent(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = map(_SENT.fullmatch, sorted(names))
    return [match[1] for match in found if match and tree.is_ctid(match[1])]


def _holder(path: str) -> int:
    """The process that has a lock; 0 for one that is gone."""
    content = _read(path, 64).split()[:1]
    if not content or not content[0].isdigit():
        # 1: it is being written.
        return 0 if leftovers.is_nobodys(path) else 1
    pid = int(content[0])
    return pid if procfs.is_running(pid) else 0


def _read(path: str, limit: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def _swap(dirs: dict[str, str], ctid: str, sub: str) -> dict[str, Any] | str | None:
    try:
        return swap.state(dirs=dirs, ctid=ctid, sub=sub)
    except exception.OvzError as error:
        return str(error)


def _conf(dirs: Mapping[str, str], ctid: str) -> dict[str, Any] | None:
    path = os.path.realpath(os.path.join(dirs["conf"], f"{ctid}.conf"))
    places = (dirs["conf"], os.path.join(dirs["private"], ctid))
    if os.path.dirname(path) not in map(os.path.realpath, places):
        return None
    try:
        text = _read(path, _MAX_CONF).decode(errors="replace")
    except OSError:
        return None
    return {
        "name": _setting(_NAME, text),
        "description": _setting(_DESCRIPTION, text),
        "interfaces": vzconf.interfaces(_setting(_NETIF, text)),
    }


def _setting(pattern: re.Pattern[str], text: str) -> str:
    # vzctl takes the last one.
    found = pattern.findall(text)
    return str(found[-1]).strip('"') if found else ""


def _incoming(private: str) -> dict[str, Any]:
    keys = {key: _is_busy(private, key) for key in incoming.keys(private)}
    return {
        "incoming": keys,
        "marks": [key for key in incoming.marks(private) if key not in keys],
        "proofs": incoming.proofs(private),
    }


def _is_busy(private: str, key: str) -> bool:
    """Whether somebody works on a tree that comes from another host."""
    path = os.path.join(private, incoming.checked_key(key))
    try:
        holder = os.open(path, tree.OPEN_DIR)
    except OSError:
        return True
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(holder)
    return False


def remove_temporary(*, dirs: dict[str, str], paths: list[str]) -> None:
    """Remove what a file was on its way to its name.

    :param dirs: private, conf
    :param paths: of those that :func:`survey` tells of; one that is gone is fine
    :raises UnsafePath: one is something else
    """
    with tree.named_errors("list", dirs["conf"]):
        known = set(_temporary(dirs, os.listdir(dirs["conf"])))
    for path in paths:
        if path not in known and os.path.lexists(path):
            raise exception.UnsafePath(f"{path!r} is no temporary file")
        with (
            tree.named_errors("remove", path),
            contextlib.suppress(FileNotFoundError),
        ):
            os.unlink(path)


#: The verbs of the privileged side, by name.
VERBS: Mapping[str, Callable[..., Any]] = {
    verb.__name__: verb for verb in (survey, remove_temporary)
}
