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

The data of an image of Glance never change, therefore a cached one is neither asked
for nor read again: preparing it takes two looks at files. What lies in the cache, and
what goes, is :mod:`ovznovadriver.compute.imagecache`'s.

For vzctl 4 an archive is kept as it is. vzctl 7 gets a tar.gz made from it, whose
members lie beneath ``fs/``; see :mod:`ovznovadriver.openvz.template`. Disk images, and
archives that no vzctl can unpack, are made into archives first; see
:mod:`ovznovadriver.openvz.convert`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import pathlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import nova.conf
from nova.compute import utils as compute_utils
from nova.image import glance
from oslo_concurrency import lockutils
from oslo_log import log as logging

from nova import exception as nova_exception
from ovznovadriver import conf, exception
from ovznovadriver.compute import imagecache
from ovznovadriver.openvz import convert, template
from ovznovadriver.openvz import node as ovz_node

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

conf.register_opts(CONF)

GIB = 1 << 30

#: What a create may wait for besides its own time limit, in seconds: the claim of a
#: CTID, and root's side.
_CREATE_GRACE = 300

#: A word that `vzctl` takes for a template or a distribution.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """The image that a server is to be made from.

    :ivar checksum: Glance's checksum, where Nova's request knows it
    :ivar trusted_certs: nova.objects.TrustedCerts of the server, or None
    :ivar root_bytes: the size of the flavor's root disk; None when it has no limit
    """

    image_id: str
    checksum: str | None = None
    trusted_certs: Any = None
    root_bytes: int | None = None

    @property
    def certificates(self) -> list[str]:
        return sorted(self.trusted_certs.ids) if self.trusted_certs else []

    def is_met_by(self, entry: imagecache.Entry) -> bool:
        """Whether what is cached is that image, and verified as the server demands."""
        if self.certificates and not (
            entry.certificates and set(entry.certificates) <= set(self.certificates)
        ):
            return False
        known = self.checksum and entry.checksum
        return not known or entry.checksum == self.checksum


class ImageCache:
    """The images of a node.

    :param node: whose template cache, and for which family of vzctl
    """

    def __init__(self, node: ovz_node.Node) -> None:
        options = CONF.openvz
        self._executor = node.executor
        self._gives_paths = node.family.template_paths
        self._prefix = node.family.tree_dir
        self._timeout = options.image_conversion_timeout
        self._max_unpacked = options.image_unpacked_max_gb * GIB
        self._store = imagecache.Store(
            pathlib.Path(node.paths.templates),
            lease=node.options.limits.create + _CREATE_GRACE,
            max_bytes=options.image_cache_max_mb << 20 or None,
        )
        self._api = glance.API()

    def prepare(self, context: Any, instance: Any, image_meta: Any) -> str:
        """Have a server's image in the cache; it stays while `vzctl create` may run.

        :param context: the request's context, for Glance
        :param instance: nova.objects.Instance
        :param image_meta: nova.objects.ImageMeta
        :returns: what `vzctl create --ostemplate` takes: the name of a template, or
            the path of its archive where the family wants that
        :raises ImageUnacceptable: no container can be made from the image
        :raises FlavorDiskSmallerThanImage: it does not fit into the flavor's root disk
        :raises DiskFull: the cache has no room
        :raises CommandFailed: this host cannot convert images
        :raises NovaException: what Nova's access to Glance raises
        """
        wanted = _wanted(instance, image_meta)
        with self._store.lock(wanted.image_id):
            entry = self._look_up(wanted) or self._fetch(context, wanted)
            self._store.use(entry)
        if wanted.root_bytes is not None and entry.unpacked_size > wanted.root_bytes:
            raise nova_exception.FlavorDiskSmallerThanImage(
                flavor_size=wanted.root_bytes, image_size=entry.unpacked_size
            )
        return str(self._store.archive(entry)) if self._gives_paths else entry.image_id

    def cache(self, context: Any, image_id: str) -> bool:
        """Have an image in the cache before a server wants it.

        :returns: whether it was not there yet
        :raises NovaException: as :meth:`prepare`
        """
        _check_id(image_id)
        wanted = _Wanted(image_id)
        with self._store.lock(image_id):
            if self._look_up(wanted) is not None:
                return False
            self._fetch(context, wanted)
            return True

    def manage(self, instances: Any) -> None:
        """Remove what the cache does not need, by Nova's own options.

        :param instances: nova.objects.InstanceList, of all hosts that share storage
        """
        options = CONF.image_cache
        self._store.clean(
            used={instance.image_ref for instance in instances},
            min_age=options.remove_unused_original_minimum_age_seconds
            if options.remove_unused_base_images
            else None,
        )

    # -- with the image's lock held -----------------------------------------------

    def _look_up(self, wanted: _Wanted) -> imagecache.Entry | None:
        entry = self._store.look_up(wanted.image_id)
        if entry is None or not wanted.is_met_by(entry) or entry.prefix != self._prefix:
            return None
        return entry

    def _fetch(self, context: Any, wanted: _Wanted) -> imagecache.Entry:
        self._store.remove_stale()
        started = time.monotonic()
        with (
            self._store.part(wanted.image_id, "download") as download,
            self._store.part(wanted.image_id, "convert") as converted,
            self._store.part(wanted.image_id, "repack") as repacked,
            _as_nova_says(wanted),
        ):
            info = self._api.get(context, wanted.image_id)
            _check_formats(info)
            # As Nova's own drivers do, where an operator has bounded such work.
            with compute_utils.disk_ops_semaphore:
                self._download(context, wanted, download)
                _check_content(download, info)
                limit = wanted.root_bytes or self._max_unpacked
                result = self._as_archive(download, converted, info, limit)
                found, result = self._as_template(result, repacked, limit)
            entry = imagecache.Entry(
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
            self._store.add(entry, result)
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

    def _as_archive(
        self,
        download: pathlib.Path,
        converted: pathlib.Path,
        info: Mapping[str, Any],
        limit: int,
    ) -> pathlib.Path:
        """An archive that template.py can read, of whatever an image is."""
        way = convert.way_of(str(download), info["disk_format"])
        if way is None:
            return download
        with (
            # One at a time: each may be a virtual machine.
            lockutils.lock("ovz-image-conversion"),
            converted.open("wb") as file,
        ):
            convert.convert(
                self._executor,
                way,
                str(download),
                file,
                limit=limit,
                timeout=self._timeout,
            )
        download.unlink()
        return converted

    def _as_template(
        self, archive: pathlib.Path, repacked: pathlib.Path, limit: int
    ) -> tuple[template.Template, pathlib.Path]:
        """Check an archive and give it the form that vzctl takes."""
        if self._prefix:
            with repacked.open("wb") as file:
                found = template.repack(str(archive), file, self._prefix, limit)
            return found, repacked
        found = template.inspect(str(archive), limit)
        if found.suffix == ".tar":
            template.pad(str(archive))
        return found, archive


def capabilities(node: ovz_node.Node) -> dict[str, bool]:
    """What the node can make containers from, as Nova's capabilities."""
    try:
        node.executor.find("guestfish", run_as_root=False)
    except exception.ConfigurationError:
        disks = False
    else:
        disks = True
    return {"supports_image_type_qcow2": disks, "supports_image_type_ploop": disks}


def os_hint(instance: Any, image_meta: Any, default: str) -> str | None:
    """The distribution that vzctl is to take an image for, if anything says it.

    vzctl looks for the scripts of ``debian-12``, then for those of ``debian``.

    :param instance: nova.objects.Instance; Nova's ImageMeta leaves out os_version, and
        its system_metadata keeps it
    :param image_meta: nova.objects.ImageMeta; its property os_distro counts
    :param default: where the image says nothing that vzctl could take
    """
    distro = image_meta.properties.get("os_distro")
    known = instance.system_metadata if "system_metadata" in instance else {}
    version = known.get("image_os_version")
    if distro and version and _WORD.fullmatch(f"{distro}-{version}"):
        distro = f"{distro}-{version}"
    for origin, value in (
        ("os_distro of the image", distro),
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
    _check_id(image_id)
    root_gb = instance.flavor.root_gb
    return _Wanted(
        image_id=image_id,
        checksum=image_meta.checksum if "checksum" in image_meta else None,
        trusted_certs=instance.trusted_certs,
        root_bytes=root_gb * GIB if root_gb else None,
    )


def _check_id(image_id: str) -> None:
    if not _WORD.fullmatch(image_id):
        raise nova_exception.ImageUnacceptable(
            image_id=image_id, reason="its id cannot be the name of a template"
        )


@contextlib.contextmanager
def _as_nova_says(wanted: _Wanted) -> Iterator[None]:
    try:
        yield
    except exception.ImageTooLarge as error:
        if wanted.root_bytes is None:
            raise nova_exception.ImageUnacceptable(
                image_id=wanted.image_id,
                reason=f"{error} ([openvz]image_unpacked_max_gb)",
            ) from error
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
    if disk not in convert.DISK_FORMATS or container not in ("bare", "", None):
        raise exception.ImageUnsuitable(
            f"it has disk_format {disk} and container_format {container}; accepted is"
            " a tar archive of a root file system (raw), or a disk image (raw, qcow2,"
            " ploop), with container_format bare"
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
