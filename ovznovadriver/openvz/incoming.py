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

"""Verbs of the privileged side: trees that come from other hosts.

Such a tree lies in the directory of the private areas, as ``.incoming-<key>/tree``,
where the key is the instance's UUID; the directory above it is root's alone, as what
comes may be setuid. :mod:`ovznovadriver.openvz.reception` fills it, and
:func:`adopt_incoming` makes it the root tree of a container. Whoever works on it holds
a lock on its directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import listing, tree

PREFIX = ".incoming-"
TREE = "tree"
#: The tree that the container had, until it is removed.
REPLACED = "replaced"
#: What is appended to the directory's name for the mark that its tree was adopted.
_ADOPTED = ".adopted"
#: Seconds to wait for another one that works on the same tree.
LOCK_WAIT = 20.0

_PROOF_PREFIX = ".ovz-proof-"
_PROOF = re.compile(r"\.ovz-proof-[0-9a-f]{32}")
#: Seconds after which a proof is a left-over.
_PROOF_LIFE = 3600
#: Characters; Nova's database has room for as many.
_MAX_HOST = 255
_KEY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOCK_PAUSE = 0.1


def checked_key(key: object) -> str:
    """The name of a tree's directory.

    :raises CommandRefused: the key is no UUID in lower case
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise exception.CommandRefused(f"{key!r} is not the UUID of an instance")
    return PREFIX + key


@contextlib.contextmanager
def _opened(path: str | int, name: str) -> Iterator[int]:
    if isinstance(path, str):
        descriptor = tree.open_base(path)
    else:
        descriptor = os.open(name, tree.OPEN_DIR, dir_fd=path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def lock(holder: int, name: str) -> None:
    """Wait until nobody else on this host works in an open directory.

    :raises TransferError: somebody still does after :data:`LOCK_WAIT`
    """
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise exception.TransferError(
                    f"{name} is in use: another transfer of the same server is under"
                    " way, or an interrupted one has not ended yet"
                ) from None
        time.sleep(_LOCK_PAUSE)


@contextlib.contextmanager
def held(base: str, key: str) -> Iterator[tuple[int, int]]:
    """The directory of an incoming tree, made where it is missing, and locked.

    :returns: the open directory of the private areas, and the open directory
    """
    name = checked_key(key)
    with _opened(base, "") as parent:
        # It is there already when another pass has come before.
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        with _opened(parent, name) as holder:
            if os.fstat(holder).st_uid != os.geteuid():
                raise exception.UnsafePath(f"{base}/{name} is somebody else's")
            os.fchmod(holder, 0o700)
            lock(holder, name)
            _unmark(parent, name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(TREE, 0o755, dir_fd=holder)
            yield parent, holder


def list_received(holder: int) -> listing.Listing:
    """List the tree in an open directory of :func:`held`."""
    with _opened(holder, TREE) as top:
        return listing.list_tree(top)


def adopt_incoming(*, dirs: dict[str, str], ctid: str, sub: str, key: str) -> None:
    """Make an incoming tree the root tree of a container that is stopped.

    The tree that the container has, if any, is removed. Interrupted, it is brought to
    its end when it is called again.

    :param dirs: private
    :param sub: the root tree's directory in a private area
    :raises TransferError: nothing has come under this key
    """
    name = checked_key(key)
    place = "/".join(filter(None, (tree.checked_ctid(ctid), tree.checked_sub(sub))))
    with _opened(dirs["private"], "") as parent, tree.named_errors("adopt", name):
        try:
            holder = os.open(name, tree.OPEN_DIR, dir_fd=parent)
        except FileNotFoundError:
            if _unmark(parent, name):
                return
            raise exception.TransferError(
                f"nothing has come to this host for {key}"
            ) from None
        try:
            lock(holder, name)
            _adopt(parent, holder, name, place)
            tree.remove_entry(parent, name)
        finally:
            os.close(holder)
        _unmark(parent, name)


def _adopt(parent: int, holder: int, name: str, place: str) -> None:
    ctid, _, sub = place.partition("/")
    with contextlib.ExitStack() as stack:
        directory = parent
        if sub:
            with contextlib.suppress(FileExistsError):
                os.mkdir(ctid, 0o700, dir_fd=parent)
            directory = stack.enter_context(_opened(parent, ctid))
        last = sub or ctid
        if _is_dir(holder, TREE):
            # As what is removed loses its tree, too, an adoption is marked.
            _mark(parent, name)
            if _is_dir(directory, last) and not _is_dir(holder, REPLACED):
                os.rename(last, REPLACED, src_dir_fd=directory, dst_dir_fd=holder)
            os.rename(TREE, last, src_dir_fd=holder, dst_dir_fd=directory)
        elif not _is_marked(parent, name):
            raise exception.TransferError(f"what has come for {place} has no tree")


def _mark(parent: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    os.close(os.open(name + _ADOPTED, flags, 0o600, dir_fd=parent))


def _is_marked(parent: int, name: str) -> bool:
    return os.access(name + _ADOPTED, os.F_OK, dir_fd=parent, follow_symlinks=False)


def _unmark(parent: int, name: str) -> bool:
    """Remove the mark of an adoption; whether there was one."""
    try:
        os.unlink(name + _ADOPTED, dir_fd=parent)
    except FileNotFoundError:
        return False
    return True


def _is_dir(directory: int, name: str) -> bool:
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(info.st_mode):
        raise exception.UnsafePath(f"{name!r} is not a directory")
    return True


def drop_incoming(*, dirs: dict[str, str], key: str) -> None:
    """Remove an incoming tree; nothing happens where there is none.

    :param dirs: private
    """
    name = checked_key(key)
    with _opened(dirs["private"], "") as parent, tree.named_errors("remove", name):
        _unmark(parent, name)
        try:
            holder = os.open(name, tree.OPEN_DIR, dir_fd=parent)
        except FileNotFoundError:
            return
        try:
            lock(holder, name)
            tree.remove_entry(parent, name)
        finally:
            os.close(holder)


def list_incoming(*, dirs: dict[str, str]) -> list[str]:
    """The keys of the incoming trees, sorted.

    :param dirs: private
    """
    return keys(dirs["private"])


def keys(private: str) -> list[str]:
    """The keys of the trees in a directory of private areas, sorted."""
    return _keys(private, "")


def marks(private: str) -> list[str]:
    """The keys that are marked as adopted in a directory of private areas, sorted."""
    return _keys(private, _ADOPTED)


def _keys(private: str, suffix: str) -> list[str]:
    with tree.named_errors("list", private):
        names = os.listdir(private)
    found = [
        name.removeprefix(PREFIX).removesuffix(suffix)
        for name in names
        if name.startswith(PREFIX) and name.endswith(suffix)
    ]
    return sorted(key for key in found if _KEY.fullmatch(key))


def tree_size(*, base: str, ctid: str, sub: str) -> tuple[int, int]:
    """How large a container's tree is.

    :returns: what it takes on the disk, in KiB; and the bytes in its plain files, their
        holes too
    """
    with tree.Tree(base, ctid, sub) as opened:
        found = listing.list_tree(opened.descriptor, changing=True)
    return found.size_kb, found.content


# -- trees that other hosts left on a shared disk ------------------------------


def take_tree(*, dirs: dict[str, str], ctid: str, other: str) -> None:
    """Make another container's private area that of one that was just made.

    What that one has is removed; the other one has none afterwards. Interrupted, it
    can be called again, and :func:`return_tree` undoes it.

    :param dirs: private
    :param other: the CTID of a container of another host, which does not run
    :raises TransferError: it has no private area here
    """
    tree.checked_ctid(ctid), tree.checked_ctid(other)
    with _opened(dirs["private"], "") as parent, tree.named_errors("take", other):
        if not _is_dir(parent, other):
            raise exception.TransferError(f"container {other} has no files here")
        if _is_dir(parent, ctid):
            tree.remove_entry(parent, ctid)
        os.rename(other, ctid, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)


def return_tree(*, dirs: dict[str, str], ctid: str, other: str) -> None:
    """Undo :func:`take_tree`, as far as it came; nothing is removed.

    :param dirs: private
    """
    tree.checked_ctid(ctid), tree.checked_ctid(other)
    with _opened(dirs["private"], "") as parent, tree.named_errors("return", other):
        if _is_dir(parent, ctid) and not _is_dir(parent, other):
            os.rename(ctid, other, src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)


# -- whether two hosts see the same directory ---------------------------------


def plant_proof(*, dirs: dict[str, str], host: str = "") -> str:
    """Make a file of a name that nobody can guess; left-overs of others go.

    :param dirs: private
    :param host: the Nova host that makes it, so that it can clean up after itself
    :returns: its name
    :raises InvalidValue: that is not what a host is called
    """
    if len(host) > _MAX_HOST or not host.isprintable():
        raise exception.InvalidValue(f"{host[:100]!a} is not the name of a host")
    name = _PROOF_PREFIX + secrets.token_hex(16)
    with _opened(dirs["private"], "") as parent, tree.named_errors("make", name):
        for other in filter(_PROOF.fullmatch, os.listdir(parent)):
            with contextlib.suppress(FileNotFoundError):
                info = os.stat(other, dir_fd=parent, follow_symlinks=False)
                if info.st_mtime < time.time() - _PROOF_LIFE:
                    os.unlink(other, dir_fd=parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=parent), "wb") as stream:
            stream.write(host.encode())
    return name


def proofs(private: str) -> dict[str, str]:
    """The proofs in a directory of private areas, and the hosts that made them."""
    found = {}
    with tree.named_errors("list", private):
        names = sorted(filter(_PROOF.fullmatch, os.listdir(private)))
    for name in names:
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(f"{private}/{name}", flags)
            try:
                said = os.read(descriptor, 4 * _MAX_HOST)
            finally:
                os.close(descriptor)
            found[name] = said.decode(errors="replace")
    return found


def _checked_proof(name: object) -> str:
    if not isinstance(name, str) or not _PROOF.fullmatch(name):
        raise exception.CommandRefused(f"{name!r} is not the name of a proof")
    return name


def find_proof(*, dirs: dict[str, str], name: str) -> bool:
    """Whether a file of :func:`plant_proof`, on another host, is seen here.

    :param dirs: private
    """
    _checked_proof(name)
    with _opened(dirs["private"], "") as parent, tree.named_errors("look at", name):
        # A network file system asks its server anew for a list, not for a name.
        os.listdir(parent)
        try:
            os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise
    return True


def remove_proof(*, dirs: dict[str, str], name: str) -> None:
    """Remove a file of :func:`plant_proof`.

    :param dirs: private
    """
    _checked_proof(name)
    with (
        _opened(dirs["private"], "") as parent,
        tree.named_errors("remove", name),
        contextlib.suppress(FileNotFoundError),
    ):
        os.unlink(name, dir_fd=parent)


#: The verbs of the privileged side, by name.
VERBS: Mapping[str, Callable[..., Any]] = {
    verb.__name__: verb
    for verb in (
        adopt_incoming,
        drop_incoming,
        list_incoming,
        tree_size,
        take_tree,
        return_tree,
        plant_proof,
        find_proof,
        remove_proof,
    )
}
