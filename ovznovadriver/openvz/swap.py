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

"""Another root tree for a container, with its own one inside, and back.

So a container is rescued: it starts from a fresh tree, and finds its own at
/:data:`PLACE`. Two renames do it, and two undo it; nothing is copied or mounted.

These verbs run as the host's root, as those of rootfs.py do. Between two renames the
process may be killed: the file ``<ctid>.rescue`` among the configuration files, made
before the first and removed after the last, says which tree was to be swapped, and
:func:`swap_out` settles whatever it finds.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import tree

#: Where a rescued container finds its own tree.
PLACE = "instance"

#: Bytes of the file that says what is swapped; it has about 100.
_NOTE_LIMIT = 4096


def note_path(directory: str, ctid: str) -> str:
    """The file that is there while a container's tree is swapped, or being swapped.

    :param directory: of the configuration files
    """
    return os.path.join(directory, f"{tree.checked_ctid(ctid)}.rescue")


class _Area:
    """A private area, held open: the directory that holds the root tree.

    :param sub: the root tree's directory in it; "" where it is the area itself
    """

    def __init__(self, base: int, ctid: str, sub: str) -> None:
        self.base = base
        self.ctid = tree.checked_ctid(ctid)
        self._sub = tree.checked_sub(sub)

    @contextlib.contextmanager
    def holder(self) -> Iterator[tuple[int, str]]:
        """The directory that the root tree is in, and its name there."""
        if not self._sub:
            yield self.base, self.ctid
            return
        descriptor = os.open(self.ctid, tree.OPEN_DIR, dir_fd=self.base)
        try:
            yield descriptor, self._sub
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def root(self) -> Iterator[int]:
        """The root tree."""
        with self.holder() as (parent, name):
            descriptor = os.open(name, tree.OPEN_DIR, dir_fd=parent)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def identity(self) -> int | None:
        """The root tree's inode; None where there is none."""
        try:
            with self.root() as descriptor:
                return os.fstat(descriptor).st_ino
        except FileNotFoundError:
            return None

    def make_holder(self) -> None:
        """Make the area, for a root tree to come."""
        if self._sub:
            # It is there already where this was interrupted once.
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.ctid, 0o700, dir_fd=self.base)


def _move(source: tuple[int, str], target: tuple[int, str]) -> None:
    os.rename(source[1], target[1], src_dir_fd=source[0], dst_dir_fd=target[0])


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = tree.open_base(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Note:
    """The file that says what is being swapped."""

    def __init__(self, directory: str, ctid: str) -> None:
        self.path = note_path(directory, ctid)

    def write(self, other: str, inode: int | None, own: int | None) -> None:
        """Put it down.

        :param other: the CTID whose root tree is the other one, on the way
        :param inode: the other tree's
        :param own: the container's own tree's
        """
        text = json.dumps({"tree": other, "inode": inode, "own": own})
        tree.replace_file(self.path, text.encode(), 0o600)

    def read(self) -> dict[str, Any] | None:
        try:
            content, _ = tree.read_plain(self.path, _NOTE_LIMIT)
            found = json.loads(content)
            tree.checked_ctid(found["tree"])
            found["inode"], found["own"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise exception.OvzError(f"{self.path} cannot be read: {error}") from error
        return dict(found)

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def swap_in(*, dirs: dict[str, str], ctid: str, sub: str, other: str) -> None:
    """Give a stopped container another's root tree, with its own at PLACE in it.

    :param dirs: private, conf
    :param sub: the root tree's directory in a private area
    :param other: the container whose tree it gets; it has none afterwards
    :raises UnsafePath: there is something at PLACE already
    :raises OvzError: the container is rescued already, or the system's error
    """
    note = _Note(dirs["conf"], ctid)
    if note.read() is not None:
        raise exception.OvzError(f"container {ctid} is being rescued already")
    with _opened(dirs["private"]) as base, tree.named_errors("rescue", ctid):
        own, fresh = _Area(base, ctid, sub), _Area(base, other, sub)
        with fresh.root() as root, own.holder() as place, fresh.holder() as source:
            try:
                # Nothing else can be replaced by a directory.
                os.mkdir(PLACE, dir_fd=root)
            except FileExistsError:
                raise exception.UnsafePath(
                    f"the rescue image has a /{PLACE} of its own"
                ) from None
            note.write(other, os.fstat(root).st_ino, own.identity())
            _move(place, (root, PLACE))
            _move(source, place)


def swap_out(*, dirs: dict[str, str], ctid: str, sub: str, other: str) -> bool:
    """Give a stopped container its own root tree back, and remove the other one.

    Where the swap, in or out, was interrupted, it is brought to its end: the
    container has its own tree afterwards.

    :param dirs: private, conf
    :param other: a CTID of which nothing is there, for the tree that goes
    :returns: whether the container was rescued
    :raises UnsafePath: its own tree is not at PLACE any more; nothing has changed
    """
    tree.checked_ctid(other)
    tree.checked_sub(sub)
    note = _Note(dirs["conf"], ctid)
    found = note.read()
    if found is None:
        return False
    with _opened(dirs["private"]) as base, tree.named_errors("unrescue", ctid):
        own = _Area(base, ctid, sub)
        spare = _Area(base, found["tree"], sub)
        if spare.identity() != found["inode"] and own.identity() != found["own"]:
            spare = _Area(base, other, sub)
            _move_aside(own, spare, note, found["own"])
        if own.identity() is None:
            with spare.root() as root, own.holder() as place:
                _check_place(root, ctid)
                _move((root, PLACE), place)
        if spare.identity() == found["inode"]:
            # The root tree first: as long as it is there, it is known.
            with spare.holder() as place:
                tree.remove_entry(*place)
            tree.remove_entry(base, spare.ctid)
    note.remove()
    return True


def state(*, dirs: dict[str, str], ctid: str, sub: str) -> dict[str, Any] | None:
    """How far the swap of a container's trees is; None where there is none.

    :param dirs: private, conf
    :returns: {"tree": the CTID that the other tree has to do with, "whole": the
        container has the other tree, and all is where it belongs}
    :raises OvzError: it has neither of the two trees, as after a backup was restored
    """
    tree.checked_sub(sub)
    note = _Note(dirs["conf"], ctid)
    found = note.read()
    if found is None:
        return None
    with _opened(dirs["private"]) as base, tree.named_errors("look at", ctid):
        has = _Area(base, ctid, sub).identity()
    if has not in (None, found["own"], found["inode"]):
        raise exception.OvzError(
            f"container {ctid} has another tree than {note.path} knows: if it is"
            " its own, remove that file; if it is the one that rescues it, move the"
            f" tree in its /{PLACE} to its place, and remove the file then"
        )
    whole = has is not None and has == found["inode"]
    return {"tree": found["tree"], "whole": whole}


def settle_swap(*, dirs: dict[str, str], ctid: str, sub: str) -> bool:
    """Bring a swap to its end that was interrupted; one that is whole stays.

    :param dirs: private, conf
    :returns: whether the container was settled, and has its own tree
    :raises OvzError: as :func:`swap_out`
    """
    found = state(dirs=dirs, ctid=ctid, sub=sub)
    if found is None or found["whole"]:
        return False
    return swap_out(dirs=dirs, ctid=ctid, sub=sub, other=found["tree"])


def _move_aside(own: _Area, spare: _Area, note: _Note, inode: int | None) -> None:
    with own.root() as root:
        _check_place(root, own.ctid)
    spare.make_holder()
    note.write(spare.ctid, own.identity(), inode)
    with own.holder() as source, spare.holder() as target:
        _move(source, target)


def _check_place(root: int, ctid: str) -> None:
    """Refuse to take for a container's tree what is no directory: a link, say."""
    try:
        os.close(os.open(PLACE, tree.OPEN_DIR, dir_fd=root))
    except OSError as error:
        raise exception.UnsafePath(
            f"container {ctid} has its own tree not at /{PLACE} any more"
            f" ({error.strerror}): put it back there"
        ) from error
