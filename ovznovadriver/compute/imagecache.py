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

"""The template cache: what lies there, who uses it, and what goes.

An image has two files there: ``<image id>.tar`` (or .tar.gz, .tar.bz2, .tar.xz), and
``<image id>.json``, which says what the first one is. The second is written last; an
archive without it is a left-over. What is under way lies in ``.incoming``, which only
the user of nova-compute can read, with the locks. So the files of this driver are
told from an operator's own templates.

Several hosts may share the directory. All that they tell each other is in it: the
locks, and two times. The JSON file's time of change is when `vzctl create` was last
given the image, and the archive's when a server of it was last known. An image is in
use as long as such a create may run; whoever adds, uses or removes one holds its lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import time
from collections.abc import Collection, Iterator

from oslo_concurrency import lockutils
from oslo_log import log as logging

from ovznovadriver.openvz import template

LOG = logging.getLogger(__name__)

#: A file of a fetch that was not written to for so long, in seconds, is a left-over.
STALE_AFTER = 24 * 3600

_INCOMING = ".incoming"

#: What Glance's ids look like. Only by that an archive without its JSON file is told
#: from an operator's own template.
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is cached of an image; the content of its JSON file.

    :ivar suffix: of the archive's file
    :ivar file_size: bytes of the archive's file
    :ivar unpacked_size: bytes of the archive when not packed
    :ivar prefix: the directory that the members lie beneath; empty for none
    :ivar checksum: Glance's checksum of the image, None when it has none
    :ivar hash_algo: the algorithm of hash_value, None when Glance has no such hash
    :ivar hash_value: Glance's hash of the image
    :ivar certificates: the trusted certificates that its signature was checked by
    """

    image_id: str
    suffix: str
    file_size: int
    unpacked_size: int
    prefix: str
    checksum: str | None
    hash_algo: str | None
    hash_value: str | None
    certificates: list[str]


class Store:
    """The entries of a template cache.

    :param directory: where they lie
    :param lease: how long, in seconds, `vzctl create` may need what it was given
    :param max_bytes: the most that all archives are to take; None for no bound
    """

    def __init__(
        self, directory: pathlib.Path, lease: float, max_bytes: int | None = None
    ) -> None:
        self._directory = directory
        self._incoming = directory / _INCOMING
        self._lease = lease
        self._max_bytes = max_bytes

    @contextlib.contextmanager
    def lock(self, image_id: str, blocking: bool = True) -> Iterator[None]:
        """Be the only one, of all hosts, who does something with an image.

        :raises AcquireLockFailedException: it is held, and that is not waited for
        """
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        with lockutils.lock(
            f"ovz-image-{image_id}",
            external=True,
            lock_path=str(self._incoming),
            blocking=blocking,
        ):
            yield

    def archive(self, entry: Entry) -> pathlib.Path:
        """The file that an entry is about."""
        return self._directory / (entry.image_id + entry.suffix)

    def _note(self, image_id: str) -> pathlib.Path:
        return self._directory / f"{image_id}.json"

    def look_up(self, image_id: str) -> Entry | None:
        """What is cached of an image, None when that is not whole."""
        try:
            entry = Entry(**json.loads(self._note(image_id).read_bytes()))
            size = self.archive(entry).stat().st_size
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return None
        whole = entry.image_id == image_id and size == entry.file_size
        return entry if whole else None

    # -- with the image's lock held -----------------------------------------------

    def use(self, entry: Entry) -> None:
        """Keep an image for as long as `vzctl create` may take."""
        os.utime(self._note(entry.image_id))
        os.utime(self.archive(entry))

    @contextlib.contextmanager
    def part(self, image_id: str, step: str) -> Iterator[pathlib.Path]:
        """A file under way; it is gone afterwards.

        What is there before is of a dead process.
        """
        path = self._incoming / f"{image_id}.{step}.part"
        path.unlink(missing_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def add(self, entry: Entry, result: pathlib.Path) -> None:
        """Move an archive in, and after it the file that makes it count."""
        self._make_room(entry)
        # Only root reads it again; a user of the host must not read images.
        result.chmod(0o600)
        _sync(result)
        with self.part(entry.image_id, "json") as note:
            note.write_text(json.dumps(dataclasses.asdict(entry)))
            _sync(note)
            self._unlink(entry.image_id)
            result.rename(self.archive(entry))
            note.rename(self._note(entry.image_id))
        _sync(self._directory)

    def _unlink(self, image_id: str) -> None:
        self._note(image_id).unlink(missing_ok=True)
        for suffix in template.SUFFIXES:
            (self._directory / (image_id + suffix)).unlink(missing_ok=True)

    # -- what goes ------------------------------------------------------------------

    def clean(self, used: Collection[str], min_age: float | None) -> None:
        """Remove what died with a process, what is too old, and what is too much.

        :param used: ids of the images that servers have been made from
        :param min_age: how long, in seconds, another image must not have been used to
            go; None keeps all
        """
        self.remove_stale()
        for entry in self._entries():
            if entry.image_id in used:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self.archive(entry))
            elif min_age is not None and self._idle(entry) >= min_age:
                self._remove(entry, "no server was made from it lately")
        self._make_room(None)

    def remove_stale(self) -> None:
        """Remove what died with a process and belongs to images nobody asks for."""
        for path in self._incoming.glob("*.part"):
            if _age(path) > STALE_AFTER:
                path.unlink(missing_ok=True)
                LOG.warning("Removed an abandoned download: %s", path)
        for path in self._directory.iterdir():
            image_id, dot, suffix = path.name.partition(".")
            if (
                _UUID.fullmatch(image_id)
                and dot + suffix in (".json", *template.SUFFIXES)
                and _age(path) > STALE_AFTER
                and self.look_up(image_id) is None
            ):
                self._remove_half(image_id)

    def parts(self) -> list[pathlib.Path]:
        """The files under way."""
        return sorted(self._incoming.glob("*.part"))

    def is_busy(self, path: pathlib.Path) -> bool:
        """Whether somebody works on the image of one of :meth:`parts`."""
        with self._at_once(path.name.partition(".")[0]) as held:
            return not held

    def remove_part(self, path: pathlib.Path) -> bool:
        """Remove one of :meth:`parts` that a dead process has left.

        :returns: whether it is gone: nobody works on its image
        """
        with self._at_once(path.name.partition(".")[0]) as held:
            if held:
                path.unlink(missing_ok=True)
            return held

    def _remove_half(self, image_id: str) -> None:
        with self._at_once(image_id) as held:
            if held and self.look_up(image_id) is None:
                self._unlink(image_id)
                LOG.warning("Removed an image that was cached half: %s", image_id)

    def _make_room(self, newcomer: Entry | None) -> None:
        """Remove the images that were not used for the longest, as far as needed."""
        if self._max_bytes is None:
            return
        ours = newcomer.image_id if newcomer else None
        others = [entry for entry in self._entries() if entry.image_id != ours]
        size = sum(entry.file_size for entry in others)
        size += newcomer.file_size if newcomer else 0
        for entry in sorted(others, key=self._idle, reverse=True):
            if size <= self._max_bytes:
                return
            if self._remove(entry, "the cache is full"):
                size -= entry.file_size
        if size > self._max_bytes:
            LOG.warning(
                "The image cache takes %(size)d bytes, more than"
                " [openvz]image_cache_max_mb: all that is in it is in use",
                {"size": size},
            )

    def _remove(self, entry: Entry, reason: str) -> bool:
        """Remove an image unless it is in use; whether it is gone."""
        with self._at_once(entry.image_id) as held:
            if not held or _age(self._note(entry.image_id)) < self._lease:
                return False
            self._unlink(entry.image_id)
        LOG.info(
            "Removed image %(image)s from the cache (%(size)d bytes): %(reason)s",
            {"image": entry.image_id, "size": entry.file_size, "reason": reason},
        )
        return True

    @contextlib.contextmanager
    def _at_once(self, image_id: str) -> Iterator[bool]:
        """The image's lock if nobody holds it; whether it is held now."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.lock(image_id, blocking=False))
            except lockutils.AcquireLockFailedException:
                yield False
            else:
                yield True

    def _entries(self) -> list[Entry]:
        """What counts in the cache; files of others are not seen."""
        notes = self._directory.glob("*.json")
        found = [self.look_up(path.stem) for path in notes]
        return [entry for entry in found if entry is not None]

    def _idle(self, entry: Entry) -> float:
        """Seconds since a server of an image was known."""
        return _age(self.archive(entry))


def _age(path: pathlib.Path) -> float:
    """Seconds since a file was changed; 0 where it is gone, which needs nothing."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0


def _sync(path: pathlib.Path) -> None:
    """Have a file, or the entries of a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
