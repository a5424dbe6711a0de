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

"""A suspended container changes hands between hosts that see the same private areas.

What is handed over lies among the private areas, as ``.handed-<ctid>``, which is
root's alone: ``conf``, ``dump`` and ``tree``, the private area itself. Where the tree
is says who has the container: in its own place, the host that has the configuration;
in ``.handed-<ctid>``, nobody. It comes there, and goes from there, by one rename, and
nothing of it is ever copied or removed. The host that takes it first says so in there,
by a link that can be made but once; no other host takes it from then on.

Of vzctl 4 only: with vzctl 7 the configuration and the dump are in the private area.

These verbs run as the host's root, as those of rootfs.py do.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import extents, incoming, leftovers, tree

PREFIX = ".handed-"

_TREE = "tree"
_CONF = "conf"
_DUMP = "dump"
# Links that lead to the name of a host.
_GIVER = "giver"
_TAKER = "taker"
#: What is appended to a name when there is nothing under it any more.
_GONE = ".gone"
#: Bytes of a configuration; vzctl's own are about one thousand.
_MAX_CONF = 1 << 20
#: Characters of a host's name; Nova's database has room for as many.
_MAX_HOST = 255
#: Where a container's files are, which need not be the same on both hosts.
_PLACES = {"VE_PRIVATE": "private", "VE_ROOT": "root"}
_PLACE = re.compile(rb"^(VE_PRIVATE|VE_ROOT)=.*$", re.MULTILINE)


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    descriptor = tree.open_base(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _held(parent: int, name: str) -> Iterator[int]:
    """What is handed over under a name, with nobody else on this host at work on it.

    :raises FileNotFoundError: nothing is
    """
    holder = os.open(name, tree.OPEN_DIR, dir_fd=parent)
    try:
        if os.fstat(holder).st_uid != os.geteuid():
            raise exception.UnsafePath(f"{name!r} is somebody else's")
        incoming.lock(holder, name)
        yield holder
    finally:
        os.close(holder)


def _is_dir(directory: int, name: str) -> bool:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        raise exception.UnsafePath(f"{name!r} is not a directory")
    return True


def _checked_host(host: object) -> str:
    if not isinstance(host, str) or not 0 < len(host) <= _MAX_HOST or "\0" in host:
        raise exception.InvalidValue(f"{str(host)[:100]!a} is not the name of a host")
    return host


def _conf_path(dirs: Mapping[str, str], ctid: str) -> str:
    return os.path.join(dirs["conf"], f"{ctid}.conf")


def _dump_path(dirs: Mapping[str, str], ctid: str) -> str:
    return os.path.join(dirs["dump"], f"Dump.{ctid}")


def hand_over(*, dirs: dict[str, str], ctid: str, host: str) -> list[str]:
    """Have a suspended container be no host's, until one takes it.

    Interrupted, or failed, it is undone by :func:`take_over`, by the same host.

    :param dirs: private, root, conf, names, dump and cgroup
    :param host: the Nova host that gives it
    :returns: what of it could not be removed here, one sentence each
    :raises OvzError: it is not handed over
    """
    name = PREFIX + tree.checked_ctid(ctid)
    private = dirs["private"]
    with (
        tree.named_errors("hand over", f"{private}/{ctid}"),
        _directory(private) as parent,
    ):
        if not _is_dir(parent, ctid):
            raise exception.TransferError(f"container {ctid} has no files here")
        os.mkdir(name, 0o700, dir_fd=parent)
        with _held(parent, name) as holder:
            place = f"{private}/{name}"
            os.symlink(_checked_host(host), _GIVER, dir_fd=holder)
            _copy(_dump_path(dirs, ctid), f"{place}/{_DUMP}")
            content, mode = tree.read_plain(_conf_path(dirs, ctid), _MAX_CONF)
            tree.replace_file(f"{place}/{_CONF}", content, mode)
            os.fsync(holder)
            # From now on it is not here: whoever looks does not see it, also after a
            # power cut.
            os.unlink(_conf_path(dirs, ctid))
            _fsync(dirs["conf"])
            os.rename(ctid, _TREE, src_dir_fd=parent, dst_dir_fd=holder)
            os.fsync(holder)
            os.fsync(parent)
    rest = {kind: path for kind, path in dirs.items() if kind != "private"}
    return leftovers.remove_container(dirs=rest, ctid=ctid)


def _copy(source: str, target: str) -> None:
    """Copy a dump: a file of OpenVZ's kernel, or a directory of files of CRIU's.

    :raises UnsafePath: it is something else
    :raises OSError: it cannot be; nothing has the target's name then
    """
    fresh = f"{target}{tree.temporary_name()}"
    try:
        if stat.S_ISDIR(os.lstat(source).st_mode):
            os.mkdir(fresh, 0o700)
            for name in os.listdir(source):
                _copy_file(f"{source}/{name}", f"{fresh}/{name}")
            _fsync(fresh)
        else:
            _copy_file(source, fresh)
        os.rename(fresh, target)
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(fresh)
        raise


def _copy_file(source: str, target: str) -> None:
    """Copy a plain file with its holes."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with contextlib.ExitStack() as stack:
        reads = os.open(source, flags)
        stack.callback(os.close, reads)
        info = os.fstat(reads)
        if not stat.S_ISREG(info.st_mode):
            raise exception.UnsafePath(f"{source!r} is not a plain file")
        writes = os.open(target, new, 0o600)
        stack.callback(os.close, writes)
        for start, size in extents.find(reads, info.st_size, lambda: None):
            os.lseek(writes, start, os.SEEK_SET)
            done = 0
            while done < size:
                sent = os.sendfile(writes, reads, start + done, size - done)
                if not sent:
                    raise exception.OvzError(f"{source!r} became shorter")
                done += sent
        os.ftruncate(writes, info.st_size)
        os.fsync(writes)


def _fsync(path: str) -> None:
    descriptor = os.open(path, tree.OPEN_DIR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    directory, name = os.path.split(path)
    with _directory(directory) as parent:
        tree.remove_entry(parent, name)


def take_over(*, dirs: dict[str, str], ctid: str, host: str) -> bool:
    """Have a container that was handed over be this host's; it is suspended.

    So the host that gave it has it again, too, however far it came. Interrupted, or
    failed, it can be called again, by the same host only.

    :param dirs: private, root, conf and dump
    :param host: the Nova host that takes it
    :returns: whether it is here: False where another one has taken it
    :raises ContainerTaken: another host takes it
    :raises OvzError: something failed; it is nobody's still
    """
    name = PREFIX + tree.checked_ctid(ctid)
    private = dirs["private"]
    conf = _conf_path(dirs, ctid)
    with (
        tree.named_errors("take over", f"{private}/{name}"),
        _directory(private) as parent,
    ):
        tree.remove_entry(parent, name + _GONE)
        if not _is_dir(parent, name):
            return os.path.lexists(conf) and _is_dir(parent, ctid)
        with _held(parent, name) as holder:
            handed = _is_dir(holder, _TREE)
            if not handed and _link(holder, _TAKER) is None:
                _refuse_others(holder, ctid, host, ours=os.path.lexists(conf))
            _claim(holder, ctid, _checked_host(host))
            if _is_dir(parent, ctid) is handed:
                raise exception.TransferError(
                    f"{private}/{ctid} is in the way of the files in {private}/{name}:"
                    " see whose they are"
                    if handed
                    else f"the files of container {ctid} are neither in {private}/"
                    f"{name} nor in their own place"
                )
            _unpack(dirs, ctid, holder, f"{private}/{name}", anew=handed)
            if handed:
                os.rename(_TREE, ctid, src_dir_fd=holder, dst_dir_fd=parent)
                os.fsync(parent)
            # At once: half of it would not say any more who has taken it.
            os.rename(name, name + _GONE, src_dir_fd=parent, dst_dir_fd=parent)
        tree.remove_entry(parent, name + _GONE)
    return True


def _refuse_others(holder: int, ctid: str, host: str, *, ours: bool) -> None:
    """See that only who gives a container takes it back before it is handed over.

    :param ours: the configuration is here
    """
    giver = _link(holder, _GIVER)
    if giver != host and not (giver is None and ours):
        raise exception.TransferError(
            f"host {giver} has not handed over container {ctid}"
        )


def _claim(holder: int, ctid: str, host: str) -> None:
    """See that nobody else takes it, and that nobody else will from now on."""
    with contextlib.suppress(FileExistsError):
        os.symlink(host, _TAKER, dir_fd=holder)
        os.fsync(holder)
    taker = _link(holder, _TAKER)
    if taker != host:
        raise exception.ContainerTaken(f"host {taker} takes over container {ctid}")


def _link(holder: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=holder)
    except FileNotFoundError:
        return None


def _unpack(
    dirs: Mapping[str, str], ctid: str, holder: int, place: str, *, anew: bool
) -> None:
    """Put beside the others what was put down of a container, as far as it was.

    :param anew: what is there of another container is replaced
    """
    present = os.listdir(holder)
    dump, conf = _dump_path(dirs, ctid), _conf_path(dirs, ctid)
    if _DUMP in present and (anew or not os.path.lexists(dump)):
        os.makedirs(dirs["dump"], exist_ok=True)
        # That of a former container would be restored.
        _remove(dump)
        _copy(f"{place}/{_DUMP}", dump)
    if _CONF in present and (anew or not os.path.lexists(conf)):
        content, mode = tree.read_plain(f"{place}/{_CONF}", _MAX_CONF)
        tree.replace_file(conf, _placed(content, dirs), mode)
    for kind in ("dump", "conf"):
        if os.path.isdir(dirs[kind]):
            _fsync(dirs[kind])


def _placed(content: bytes, dirs: Mapping[str, str]) -> bytes:
    """A container's configuration with the places that this host has."""

    def line(found: re.Match[bytes]) -> bytes:
        setting = found[1].decode()
        return f'{setting}="{dirs[_PLACES[setting]]}/$VEID"'.encode()

    return _PLACE.sub(line, content)


#: The verbs of the privileged side, by name.
VERBS: Mapping[str, Callable[..., Any]] = {
    verb.__name__: verb for verb in (hand_over, take_over)
}
