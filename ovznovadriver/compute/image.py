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

"""Images of Glance in the node's template cache, ready for `vzctl create`.

An image has two files there: ``<image id>.tar`` (or .tar.gz, .tar.bz2, .tar.xz), and
``<image id>.json``, which says what the first one is. The second is written last; an
archive without it is a left-over. What is under way lies in ``.incoming``, which only
the user of nova-compute can read, with the locks. So the files of this driver are
told from an operator's own templates, and can be purged by their image's id.

The data of an image of Glance never change, therefore a cached one is neither asked
for nor read again: preparing it takes two looks at files.

For vzctl 4 the archive is kept as it is. vzctl 7 gets a tar.gz made from it, whose
members lie beneath ``fs/``; see :mod:`ovznovadriver.openvz.template`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from nova.image import glance
from oslo_concurrency import lockutils
from oslo_log import log as logging

from nova import exception as nova_exception
from ovznovadriver import exception
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import template

LOG = logging.getLogger(__name__)

#: A download that was not written to for so long, in seconds, is a left-over.
STALE_AFTER = 24 * 3600

_INCOMING = ".incoming"

#: A word that `vzctl` takes for a template or a distribution.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")


@dataclasses.dataclass(frozen=True)
class _Entry:
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


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """The image that a server is to be made from.

    :ivar checksum: Glance's checksum, where Nova's request knows it
    :ivar trusted_certs: nova.objects.TrustedCerts of the server, or None
    :ivar root_bytes: the size of the flavor's root disk; None when it has no limit
    """

    image_id: str
    checksum: str | None
    trusted_certs: Any
    root_bytes: int | None

    @property
    def certificates(self) -> list[str]:
        return sorted(self.trusted_certs.ids) if self.trusted_certs else []

    def is_met_by(self, entry: _Entry) -> bool:
        """Whether what is cached is that image, and verified as the server demands."""
        if self.certificates and not (
            entry.certificates and set(entry.certificates) <= set(self.certificates)
        ):
            return False
        known = self.checksum and entry.checksum
        return entry.image_id == self.image_id and (
            not known or entry.checksum == self.checksum
        )


class ImageCache:
    """The template cache of a node.

    :param node: whose cache, and for which family of vzctl
    """

    def __init__(self, node: ovz_node.Node) -> None:
        self._directory = pathlib.Path(node.paths.templates)
        self._incoming = self._directory / _INCOMING
        self._gives_paths = node.family.template_paths
        self._prefix = node.family.tree_dir
        self._api = glance.API()

    def prepare(self, context: Any, instance: Any, image_meta: Any) -> str:
        """Have a server's image in the cache.

        :param context: the request's context, for Glance
        :param instance: nova.objects.Instance
        :param image_meta: nova.objects.ImageMeta
        :returns: what `vzctl create --ostemplate` takes: the name of a template, or
            the path of its archive where the family wants that
        :raises ImageUnacceptable: no container can be made from the image
        :raises FlavorDiskSmallerThanImage: it does not fit into the flavor's root disk
        :raises DiskFull: the cache has no room
        :raises NovaException: what Nova's access to Glance raises
        """
        wanted = _wanted(instance, image_meta)
        entry = self._look_up(wanted)
        if entry is None:
            self._incoming.mkdir(mode=0o700, exist_ok=True)
            with lockutils.lock(
                f"ovz-image-{wanted.image_id}",
                external=True,
                lock_path=str(self._incoming),
            ):
                # Another spawn may have fetched it meanwhile.
                entry = self._look_up(wanted) or self._fetch(context, wanted)
        if wanted.root_bytes is not None and entry.unpacked_size > wanted.root_bytes:
            raise nova_exception.FlavorDiskSmallerThanImage(
                flavor_size=wanted.root_bytes, image_size=entry.unpacked_size
            )
        return str(self._archive(entry)) if self._gives_paths else entry.image_id

    # -- what is there ------------------------------------------------------

    def _archive(self, entry: _Entry) -> pathlib.Path:
        return self._directory / (entry.image_id + entry.suffix)

    def _note(self, image_id: str) -> pathlib.Path:
        return self._directory / f"{image_id}.json"

    def _look_up(self, wanted: _Wanted) -> _Entry | None:
        try:
            entry = _Entry(**json.loads(self._note(wanted.image_id).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        if not wanted.is_met_by(entry) or entry.prefix != self._prefix:
            return None
        try:
            size = self._archive(entry).stat().st_size
        except FileNotFoundError:
            return None
        return entry if size == entry.file_size else None

    # -- what is not there yet ----------------------------------------------

    def _fetch(self, context: Any, wanted: _Wanted) -> _Entry:
        self._remove_stale_parts()
        started = time.monotonic()
        with (
            self._part(wanted.image_id, "download") as download,
            self._part(wanted.image_id, "repack") as repacked,
            _as_nova_says(wanted),
        ):
            info = self._api.get(context, wanted.image_id)
            _check_formats(info)
            self._download(context, wanted, download)
            _check_content(download, info)
            found, result = self._convert(download, repacked, wanted.root_bytes)
            entry = _Entry(
                image_id=wanted.image_id,
                suffix=found.suffix,
                file_size=result.stat().st_size,
                unpacked_size=found.size,
                prefix=self._prefix,
                checksum=info.get("checksum"),
                hash_algo=info.get("os_hash_algo"),
                hash_value=info.get("os_hash_value"),
                certificates=wanted.certificates,
            )
            self._store(entry, result)
        LOG.info(
            "Image %(image)s is cached: %(size)d bytes, %(members)d members, after"
            " %(time).1f s",
            {
                "image": wanted.image_id,
                "size": entry.file_size,
                "members": found.members,
                "time": time.monotonic() - started,
            },
        )
        return entry

    @contextlib.contextmanager
    def _part(self, image_id: str, step: str) -> Iterator[pathlib.Path]:
        """A file under way; it is gone afterwards.

        The image's lock is held, so what is there before is of a dead process.
        """
        path = self._incoming / f"{image_id}.{step}.part"
        path.unlink(missing_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _remove_stale_parts(self) -> None:
        """Remove what died with a process and belongs to images nobody asks for."""
        oldest = time.time() - STALE_AFTER
        for path in self._incoming.glob("*.part"):
            # Its process may end just now.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    LOG.warning("Removed an abandoned download: %s", path)

    def _download(self, context: Any, wanted: _Wanted, path: pathlib.Path) -> None:
        try:
            # By path, because Nova's direct download from RBD needs one.
            self._api.download(
                context,
                wanted.image_id,
                dest_path=str(path),
                trusted_certs=wanted.trusted_certs,
            )
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # glanceclient says so that the data do not have the image's hash.
            raise exception.ImageUnsuitable(str(error.strerror)) from error

    def _convert(
        self, download: pathlib.Path, repacked: pathlib.Path, limit: int | None
    ) -> tuple[template.Template, pathlib.Path]:
        """Check an archive and give it the form that vzctl takes."""
        if self._prefix:
            with repacked.open("wb") as file:
                found = template.repack(str(download), file, self._prefix, limit)
            return found, repacked
        found = template.inspect(str(download), limit)
        if found.suffix == ".tar":
            template.pad(str(download))
        return found, download

    def _store(self, entry: _Entry, result: pathlib.Path) -> None:
        """Move an archive in, and after it the file that makes it count."""
        # Only root reads it again; a user of the host must not read images.
        result.chmod(0o600)
        _sync(result)
        with self._part(entry.image_id, "json") as note:
            note.write_text(json.dumps(dataclasses.asdict(entry)))
            _sync(note)
            self._note(entry.image_id).unlink(missing_ok=True)
            for suffix in template.SUFFIXES:
                (self._directory / (entry.image_id + suffix)).unlink(missing_ok=True)
            result.rename(self._archive(entry))
            note.rename(self._note(entry.image_id))
        _sync(self._directory)


def os_hint(image_meta: Any, default: str) -> str | None:
    """The distribution that vzctl is to take an image for, if anything says it.

    :param image_meta: nova.objects.ImageMeta; its property os_distro counts
    :param default: where the image says nothing that vzctl could take
    """
    for origin, value in (
        ("os_distro of the image", image_meta.properties.get("os_distro")),
        ("[openvz]default_os_hint", default),
    ):
        if not value:
            continue
        if _WORD.fullmatch(value):
            return str(value)
        LOG.warning(
            "%(origin)s is %(value)r, which vzctl cannot take: ignored",
            {"origin": origin, "value": value},
        )
    return None


def _wanted(instance: Any, image_meta: Any) -> _Wanted:
    image_id = image_meta.id if "id" in image_meta else None
    if not image_id or not instance.image_ref:
        raise nova_exception.ImageUnacceptable(
            image_id=image_id,
            reason="the server has none: boot from volume is not supported",
        )
    if not _WORD.fullmatch(image_id):
        raise nova_exception.ImageUnacceptable(
            image_id=image_id, reason="its id cannot be the name of a template"
        )
    root_gb = instance.flavor.root_gb
    return _Wanted(
        image_id=image_id,
        checksum=image_meta.checksum if "checksum" in image_meta else None,
        trusted_certs=instance.trusted_certs,
        root_bytes=root_gb << 30 if root_gb else None,
    )


@contextlib.contextmanager
def _as_nova_says(wanted: _Wanted) -> Iterator[None]:
    try:
        yield
    except exception.ImageTooLarge as error:
        raise nova_exception.FlavorDiskSmallerThanImage(
            flavor_size=error.limit, image_size=error.size
        ) from error
    except exception.ImageUnsuitable as error:
        raise nova_exception.ImageUnacceptable(
            image_id=wanted.image_id, reason=str(error)
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise exception.DiskFull(
            f"the template cache has no room for image {wanted.image_id}:"
            f" {error.strerror}"
        ) from error


def _check_formats(info: Mapping[str, Any]) -> None:
    disk, container = info.get("disk_format"), info.get("container_format")
    if disk != "raw" or container not in ("bare", "", None):
        raise exception.ImageUnsuitable(
            f"it has disk_format {disk} and container_format {container}; accepted is"
            " a tar archive of a root file system, plain or packed with gzip, bzip2"
            " or xz, as disk_format raw and container_format bare"
        )


def _check_content(path: pathlib.Path, info: Mapping[str, Any]) -> None:
    """Check a download against what Glance says of the image.

    :raises ImageUnsuitable: it is something else
    """
    size, expected = path.stat().st_size, info.get("size")
    if expected and size != expected:
        raise exception.ImageUnsuitable(f"{size} bytes of {expected} arrived")
    algorithm, value = _hash_of(info)
    if not value:
        LOG.warning("Glance has no hash of image %s to check it by", info.get("id"))
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        )
    if digest.hexdigest() != value:
        raise exception.ImageUnsuitable(
            f"its {algorithm} is {digest.hexdigest()}, but Glance says {value}"
        )


def _hash_of(info: Mapping[str, Any]) -> tuple[str, str | None]:
    """Algorithm and value of the best hash that Glance has and Python can make."""
    algorithm, value = info.get("os_hash_algo"), info.get("os_hash_value")
    if value and algorithm in hashlib.algorithms_available:
        return str(algorithm), str(value)
    return "md5", info.get("checksum")


def _sync(path: pathlib.Path) -> None:
    """Have a file, or the entries of a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
