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

"""A container's tree, walked from the host without ever leaving it.

Nothing in a tree is trusted: a tenant or the maker of an image may have planted
links, FIFOs, devices or ``..`` anywhere, and a running container changes its tree
while it is being read.

How a path is resolved: one component after the other, each opened relative to
the directory before it and with O_NOFOLLOW. A link's text is read and resolved
by hand inside the tree, as chroot does; ``..`` goes back to the directory that
was passed on the way, and stays at the top. So the kernel never follows a link
for us and no name leads out, whatever the container does meanwhile. openat2(2)
would do the same in one call, but needs Linux 5.6, and OpenVZ's kernels begin at
2.6.32: one way for all kernels is one way to test.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import uuid
from collections.abc import Callable, Iterator

from ovznovadriver import exception

#: The highest CTID that vzctl takes; those to 100 are reserved (vzctl(8)).
MAX_CTID = 2147483644
MIN_CTID = 101

#: Where a container's root is beneath its directory: itself for vzctl 4 and for
#: a mounted root, "fs" in a simfs private area of vzctl 7 and later.
SUBDIRECTORIES = ("", "fs")

#: Links followed in one path; the kernel's own limit (path_resolution(7)).
MAX_LINKS = 40

#: Components walked in one path, those from links included. Each holds a file
#: descriptor while the path is walked.
MAX_COMPONENTS = 256

#: PATH_MAX of Linux, in bytes.
MAX_PATH = 4096

_INTEGER = re.compile(r"[1-9][0-9]{2,9}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_PATH_ERRNOS = frozenset(
    {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EXDEV}
)
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR})


def is_ctid(text: object) -> bool:
    """Whether the text is a CTID: an integer from 101 up, or a UUID.

    The all-zero UUID is vzctl's other name for the host itself.
    """
    if not isinstance(text, str):
        return False
    if _INTEGER.fullmatch(text):
        return MIN_CTID <= int(text) <= MAX_CTID
    return bool(_UUID.fullmatch(text)) and uuid.UUID(text).int != 0


@contextlib.contextmanager
def named_errors(action: str, path: str) -> Iterator[None]:
    """Turn the system's errors into this package's, with the path's name."""
    try:
        yield
    except OSError as error:
        kind = (
            exception.UnsafePath if error.errno in _PATH_ERRNOS else exception.OvzError
        )
        raise kind(f"cannot {action} {path!r}: {error.strerror}") from error


def open_base(base: str) -> int:
    if not os.path.isabs(base) or "\0" in base:
        raise exception.UnsafePath(f"{base!r} is not an absolute directory")
    # The operator may have made the area a link to another disk.
    return os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def checked_ctid(ctid: str) -> str:
    if not is_ctid(ctid):
        raise exception.UnsafePath(f"{ctid!r} is not a CTID")
    return ctid


def checked_sub(sub: str) -> str:
    """A place of a root directory; see :data:`SUBDIRECTORIES`.

    :raises UnsafePath: it is another one
    """
    if sub not in SUBDIRECTORIES:
        raise exception.UnsafePath(f"{sub!r} is not a place of a root directory")
    return sub


def _components(path: bytes) -> list[bytes]:
    """The components, the last one first: a stack of what is yet to be walked."""
    return [part for part in path.split(b"/") if part not in (b"", b".")][::-1]


class Tree:
    """A container's root directory, held open.

    :param base: absolute directory that holds the containers' directories
    :param ctid: the container's directory in it
    :param sub: one of SUBDIRECTORIES
    """

    def __init__(self, base: str, ctid: str, sub: str) -> None:
        name = "/".join(filter(None, (checked_ctid(ctid), checked_sub(sub))))
        with contextlib.ExitStack() as stack, named_errors("open", f"{base}/{name}"):
            descriptor = open_base(base)
            for part in name.split("/"):
                stack.callback(os.close, descriptor)
                descriptor = os.open(part, OPEN_DIR, dir_fd=descriptor)
        self._root = descriptor

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._root)

    @property
    def descriptor(self) -> int:
        """The open root directory, as long as this is open."""
        return self._root

    def owner(self) -> tuple[int, int]:
        """UID and GID of the root directory."""
        info = os.fstat(self._root)
        return info.st_uid, info.st_gid

    @contextlib.contextmanager
    def parent(
        self,
        path: str,
        *,
        follow: bool,
        make: Callable[[int, bytes], None] | None = None,
    ) -> Iterator[tuple[int, bytes]]:
        """Walk to a path's last component.

        Gives the open directory and the component's name in it, which is no
        link when ``follow`` is set, and empty for the tree's own root.

        :param follow: whether a link at the last component is walked, too
        :param make: called with (directory, name) for a directory that is missing
        """
        walk = _Walk(self._root, path, make)
        try:
            yield walk.run(follow)
        finally:
            walk.close()


def _checked_path(path: str) -> bytes:
    if "\0" in path or not path.strip("/"):
        raise exception.UnsafePath(f"{path!r} is not a path of a file")
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise exception.UnsafePath(f"{path!r} is not a path of a file") from error
    if len(encoded) >= MAX_PATH:
        raise exception.UnsafePath(f"the path {path[:64]!r}… is too long")
    return encoded


class _Walk:
    """One walk along a path: the directories passed, and what is yet to come."""

    def __init__(
        self, root: int, path: str, make: Callable[[int, bytes], None] | None
    ) -> None:
        self._root = root
        self._path = path
        self._make = make
        self._passed: list[int] = []
        self._links = 0
        self._steps = 0

    @property
    def _here(self) -> int:
        return self._passed[-1] if self._passed else self._root

    def close(self) -> None:
        while self._passed:
            os.close(self._passed.pop())

    def run(self, follow: bool) -> tuple[int, bytes]:
        pending = _components(_checked_path(self._path))
        while pending:
            self._steps += 1
            if self._steps > MAX_COMPONENTS:
                raise exception.UnsafePath(f"{self._path!r} has too many components")
            name = pending.pop()
            if name == b"..":
                if self._passed:
                    os.close(self._passed.pop())
                continue
            if pending or follow:
                target = self._link(name)
                if target is not None:
                    pending += _components(target)
                    if target.startswith(b"/"):
                        self.close()
                    continue
            if not pending:
                return self._here, name
            self._enter(name)
        return self._here, b""

    def _link(self, name: bytes) -> bytes | None:
        """The text of a link; None when the name is something else or missing."""
        try:
            target = os.readlink(name, dir_fd=self._here)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise
        self._links += 1
        if self._links > MAX_LINKS:
            raise exception.UnsafePath(f"{self._path!r} has too many links")
        return target

    def _enter(self, name: bytes) -> None:
        # If a link has taken the name's place since it was looked at, O_NOFOLLOW
        # makes this an error.
        try:
            descriptor = os.open(name, OPEN_DIR, dir_fd=self._here)
        except FileNotFoundError:
            if self._make is None:
                raise
            self._make(self._here, name)
            descriptor = os.open(name, OPEN_DIR, dir_fd=self._here)
        self._passed.append(descriptor)


def look(tree: Tree, path: str) -> int | None:
    """A descriptor of what is at the path, opened by name only (O_PATH).

    Nothing happens to a device or a FIFO that is opened so. None: not there.
    """
    try:
        with tree.parent(path, follow=True) as (directory, name):
            return os.open(name or b".", _OPEN_LOOK, dir_fd=directory)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise


def temporary_name() -> str:
    """A name that nobody can have planted, short enough for any file system."""
    return f".ovz-{secrets.token_hex(8)}"


def read_plain(path: str, limit: int) -> tuple[bytes, int]:
    """What is in a plain file of the node, and its mode.

    :param path: no link is followed at its last component
    :param limit: bytes
    :raises UnsafePath: it is something else, or larger
    :raises OSError: it cannot be read
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise exception.UnsafePath(f"{path!r} is not a plain file")
        with open(descriptor, "rb", closefd=False) as stream:
            content = stream.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise exception.UnsafePath(f"{path!r} is larger than {limit} bytes")
    return content, stat.S_IMODE(mode)


def replace_file(path: str, content: bytes, mode: int) -> None:
    """Have a file of the node with that content, wholly or not at all.

    On the way it has a name that begins like its own: what an interruption leaves is
    removed with the container that it is of.

    :raises OSError: it cannot be written; the one before stays
    """
    fresh = f"{path}{temporary_name()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(fresh, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            os.fchmod(descriptor, mode)
            stream.flush()
            # Else a file that is empty after a power cut may have its name.
            os.fsync(descriptor)
        os.rename(fresh, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
        raise


def remove_path(tree: Tree, path: str) -> None:
    """Remove whatever is at a path of a tree; missing is fine."""
    with contextlib.ExitStack() as stack:
        try:
            directory, name = stack.enter_context(tree.parent(path, follow=False))
        except OSError as error:
            if error.errno in _NOT_THERE:
                return
            raise
        if not name:
            raise exception.UnsafePath(f"{path!r} is the root directory")
        remove_entry(directory, name)


def remove_entry(parent: int, name: bytes | str) -> None:
    """Remove what has the name in an open directory; links are not followed."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        descriptor = os.open(name, OPEN_DIR, dir_fd=parent)
        try:
            _empty(descriptor)
        finally:
            os.close(descriptor)
        os.rmdir(name, dir_fd=parent)


def _empty(top: int) -> None:
    """Remove all that is in an open directory.

    Each directory found is first moved up to ``top`` and emptied there. So the
    depth that a guest has made costs neither memory nor descriptors, no link can
    take the place of a directory on the way, and what is mounted stays untouched:
    a mount point cannot be renamed (EBUSY).
    """
    pending = _sweep(top, top)
    while pending:
        name = pending.pop()
        descriptor = os.open(name, OPEN_DIR, dir_fd=top)
        try:
            pending += _sweep(descriptor, top)
        finally:
            os.close(descriptor)
        os.rmdir(name, dir_fd=top)


def _sweep(directory: int, top: int) -> list[str]:
    """Remove a directory's files and move its directories; their new names."""
    moved = []
    for name in os.listdir(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            fresh = temporary_name()
            os.rename(name, fresh, src_dir_fd=directory, dst_dir_fd=top)
            moved.append(fresh)
    return moved
