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

"""Images on their way from a stand-in for Glance's API into a template cache."""

from __future__ import annotations

import errno
import gzip
import hashlib
import inspect
import io
import json
import lzma
import multiprocessing
import os
import pathlib
import tarfile
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nova.image import glance
from nova.objects import image_meta as image_meta_obj
from nova.objects import trusted_certs

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import image, imagecache
from ovznovadriver.openvz import template, utils, vzctl

IMAGE = "0a9b8c7d-1111-4222-8333-444455556666"
OTHER = "0a9b8c7d-1111-4222-8333-444455557777"
GIB = 1 << 30

both_families = pytest.mark.parametrize("family", [vzctl.FAMILY_4, vzctl.FAMILY_7])


def rootfs(*, init: str = "sbin/init", payload: bytes = b"x" * 3000) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in ((init, b"#!/bin/sh\n"), ("etc/payload", payload)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class FakeGlance:
    """What the cache uses of nova.image.glance.API.

    :ivar journal: a file with a line for each call, so that processes share it
    """

    def __init__(self, journal: pathlib.Path) -> None:
        self.journal = journal
        self.images: dict[str, dict[str, Any]] = {}
        self.data: dict[str, bytes] = {}
        self.certificates: list[Any] = []
        #: Called with the file when the data are in it.
        self.after_download: Callable[[pathlib.Path], None] = lambda path: None

    def add(self, data: bytes, image_id: str = IMAGE, **info: Any) -> None:
        self.data[image_id] = data
        self.images[image_id] = {
            "id": image_id,
            "disk_format": "raw",
            "container_format": "bare",
            "size": len(data),
            "checksum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(data).hexdigest(),
            "properties": {},
            **info,
        }

    def get(self, context: Any, image_id: str) -> dict[str, Any]:
        self._log("get")
        if image_id not in self.images:
            raise nova_exception.ImageNotFound(image_id=image_id)
        return self.images[image_id]

    def download(
        self, context: Any, image_id: str, dest_path: str, trusted_certs: Any
    ) -> None:
        self._log("download")
        self.certificates.append(trusted_certs)
        pathlib.Path(dest_path).write_bytes(self.data[image_id])
        self.after_download(pathlib.Path(dest_path))

    def _log(self, call: str) -> None:
        with self.journal.open("a") as file:
            file.write(f"{call}\n")

    def calls(self) -> list[str]:
        return self.journal.read_text().split() if self.journal.exists() else []


@pytest.fixture
def api(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> FakeGlance:
    api = FakeGlance(tmp_path / "journal")
    monkeypatch.setattr(glance, "API", lambda: api)
    return api


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    directory = tmp_path / "cache"
    directory.mkdir()
    return directory


def cache_of(
    directory: pathlib.Path, family: vzctl.Family = vzctl.FAMILY_4
) -> image.ImageCache:
    node: Any = SimpleNamespace(
        paths=SimpleNamespace(templates=str(directory)),
        family=family,
        options=SimpleNamespace(limits=vzctl.TimeLimits()),
        executor=utils.Executor(program_dirs=[str(directory.parent / "bin")]),
    )
    return image.ImageCache(node)


def server(
    *, root_gb: int = 1, image_ref: str = IMAGE, certificates: list[str] | None = None
) -> Any:
    certs = trusted_certs.TrustedCerts(ids=certificates) if certificates else None
    return SimpleNamespace(
        image_ref=image_ref,
        flavor=SimpleNamespace(root_gb=root_gb),
        trusted_certs=certs,
    )


def meta(image_id: str | None = IMAGE, **fields: Any) -> Any:
    return image_meta_obj.ImageMeta.from_dict(
        {**({"id": image_id} if image_id else {}), **fields}
    )


def prepare(cache: image.ImageCache, **fields: Any) -> str:
    return cache.prepare(None, server(**fields), meta())


def left(directory: pathlib.Path) -> list[str]:
    """What is in the cache, locks left out."""
    return sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith("ovz-image-")
    )


# -- what comes out ---------------------------------------------------------


@pytest.mark.parametrize(
    ("pack", "suffix"),
    [(bytes, ".tar"), (gzip.compress, ".tar.gz"), (lzma.compress, ".tar.xz")],
)
def test_vzctl_4_gets_the_name_of_the_archive_as_it_was(
    pack: Callable[[bytes], bytes],
    suffix: str,
    api: FakeGlance,
    directory: pathlib.Path,
) -> None:
    data = pack(rootfs())
    api.add(data)
    assert prepare(cache_of(directory)) == IMAGE
    assert left(directory) == [f"{IMAGE}.json", f"{IMAGE}{suffix}"]
    assert (directory / f"{IMAGE}{suffix}").read_bytes() == data


def test_vzctl_7_gets_the_path_of_an_archive_beneath_fs(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(lzma.compress(rootfs()))
    path = prepare(cache_of(directory, vzctl.FAMILY_7))
    assert path == str(directory / f"{IMAGE}.tar.gz")
    assert left(directory) == [f"{IMAGE}.json", f"{IMAGE}.tar.gz"]
    with tarfile.open(path, "r:gz") as archive:
        assert archive.getnames() == ["fs", "fs/sbin/init", "fs/etc/payload"]


@both_families
def test_vzctl_permits_what_comes_out(
    family: vzctl.Family, api: FakeGlance, directory: pathlib.Path
) -> None:
    # pytest's directories are words as vzctl's pattern wants them.
    api.add(rootfs())
    value = prepare(cache_of(directory, family))
    vzctl.check_arguments(["create", "101", "--ostemplate", value])


def test_a_plain_archive_has_whole_kib_for_vzctl_4(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    data = rootfs().rstrip(b"\0")
    data += bytes(-len(data) % 1024 + 512)
    api.add(data)
    prepare(cache_of(directory))
    assert (directory / f"{IMAGE}.tar").stat().st_size == len(data) + 512
    assert prepare(cache_of(directory)) == IMAGE
    assert api.calls() == ["get", "download"]


@both_families
def test_only_the_owner_can_read_an_image(
    family: vzctl.Family, api: FakeGlance, directory: pathlib.Path
) -> None:
    modes = []
    api.add(gzip.compress(rootfs()))
    api.after_download = lambda path: modes.append(path.parent.stat().st_mode & 0o777)
    prepare(cache_of(directory, family))
    assert modes == [0o700]
    assert (directory / f"{IMAGE}.tar.gz").stat().st_mode & 0o777 == 0o600


# -- what is cached ---------------------------------------------------------


@both_families
def test_a_cached_image_costs_no_call(
    family: vzctl.Family, api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    first = prepare(cache_of(directory, family))
    # Another service, after a restart.
    assert prepare(cache_of(directory, family)) == first
    assert api.calls() == ["get", "download"]


def test_images_do_not_mix(api: FakeGlance, directory: pathlib.Path) -> None:
    api.add(rootfs(payload=b"one"))
    api.add(gzip.compress(rootfs(payload=b"two")), OTHER)
    cache = cache_of(directory)
    assert cache.prepare(None, server(), meta()) == IMAGE
    assert cache.prepare(None, server(), meta(OTHER)) == OTHER
    assert left(directory) == [
        f"{IMAGE}.json",
        f"{IMAGE}.tar",
        f"{OTHER}.json",
        f"{OTHER}.tar.gz",
    ]


def cut(directory: pathlib.Path) -> None:
    os.truncate(directory / f"{IMAGE}.tar", 100)


def lose(name: str) -> Callable[[pathlib.Path], None]:
    return lambda directory: (directory / name).unlink()


def write_note(text: str) -> Callable[[pathlib.Path], None]:
    def write(directory: pathlib.Path) -> None:
        (directory / f"{IMAGE}.json").write_text(text)

    return write


def rename_in_note(directory: pathlib.Path) -> None:
    note = directory / f"{IMAGE}.json"
    note.write_text(note.read_text().replace(IMAGE, OTHER))


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lose(f"{IMAGE}.tar"),
        lose(f"{IMAGE}.json"),
        write_note(""),
        write_note("[]"),
        write_note('{"image_id": 5}'),
        write_note("\0" * 50),
        rename_in_note,
    ],
)
def test_what_is_cached_half_is_fetched_again(
    damage: Callable[[pathlib.Path], None], api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    cache = cache_of(directory)
    prepare(cache)
    damage(directory)
    assert prepare(cache) == IMAGE
    assert api.calls() == ["get", "download"] * 2
    assert (directory / f"{IMAGE}.tar").read_bytes() == rootfs()


def test_another_family_s_archive_is_replaced(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    prepare(cache_of(directory, vzctl.FAMILY_4))
    prepare(cache_of(directory, vzctl.FAMILY_7))
    assert left(directory) == [f"{IMAGE}.json", f"{IMAGE}.tar.gz"]
    assert api.calls() == ["get", "download"] * 2


def test_a_checksum_that_nova_knows_ties_the_cache_to_the_image(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    cache = cache_of(directory)
    known = api.images[IMAGE]["checksum"]
    for checksum, calls in ((known, 2), (known, 2), ("", 2), ("0" * 32, 4)):
        cache.prepare(None, server(), meta(checksum=checksum))
        assert len(api.calls()) == calls


def test_the_cache_says_what_it_was_checked_by(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    prepare(cache_of(directory), certificates=["b", "a"])
    note = json.loads((directory / f"{IMAGE}.json").read_text())
    assert note["hash_value"] == hashlib.sha512(rootfs()).hexdigest()
    assert note["unpacked_size"] == len(rootfs())
    assert note["certificates"] == ["a", "b"]


def test_the_server_s_certificates_reach_the_verification(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    wanting = server(certificates=["a"])
    cache_of(directory).prepare(None, wanting, meta())
    assert api.certificates == [wanting.trusted_certs]


@pytest.mark.parametrize(
    ("first", "second", "downloads"),
    [
        (None, None, 1),
        (None, ["a"], 2),
        (["a"], None, 1),
        (["a"], ["a", "b"], 1),
        (["a", "b"], ["a"], 2),
        (["a"], ["b"], 2),
    ],
)
def test_a_server_that_trusts_fewer_certificates_has_the_image_verified_again(
    first: list[str] | None,
    second: list[str] | None,
    downloads: int,
    api: FakeGlance,
    directory: pathlib.Path,
) -> None:
    api.add(rootfs())
    for certificates in (first, second):
        prepare(cache_of(directory), certificates=certificates)
    assert api.calls().count("download") == downloads


# -- what is refused --------------------------------------------------------


def broken(change: Callable[[bytes], bytes]) -> Callable[[FakeGlance], None]:
    """Glance has what it says, and something else arrives."""

    def add(api: FakeGlance) -> None:
        api.add(rootfs())
        api.data[IMAGE] = change(api.data[IMAGE])

    return add


REFUSED: dict[str, tuple[Callable[[FakeGlance], None], str]] = {
    "partial": (broken(lambda data: data[:-512]), "arrived"),
    "longer": (broken(lambda data: data + b"x"), "arrived"),
    "hash": (broken(lambda data: data.replace(b"x", b"y")), "its sha512 is"),
    "checksum": (
        lambda api: api.add(rootfs(), os_hash_algo=None, checksum="0" * 32),
        "its md5 is",
    ),
    "unknown algorithm": (
        lambda api: api.add(rootfs(), os_hash_algo="blur9", checksum="0" * 32),
        "its md5 is",
    ),
    "vmdk": (lambda api: api.add(b"KDMV", disk_format="vmdk"), "disk_format vmdk"),
    "no qcow2": (
        lambda api: api.add(rootfs(), disk_format="qcow2"),
        "Glance says that its format is qcow2, but its content is raw",
    ),
    "no ploop": (lambda api: api.add(b"p", disk_format="ploop"), "no ploop image"),
    "docker": (
        lambda api: api.add(rootfs(), container_format="docker"),
        "container_format docker",
    ),
    "no tar": (lambda api: api.add(b"\x7fELF" * 1000), "no tar archive"),
    "empty": (lambda api: api.add(b""), "no tar archive"),
    "no init": (lambda api: api.add(rootfs(init="fs/sbin/init")), "no init"),
    "leads out": (lambda api: api.add(rootfs(init="../init")), "not inside"),
}


@both_families
@pytest.mark.parametrize("case", REFUSED)
def test_a_damaged_or_unsuitable_image_is_refused_and_leaves_nothing(
    case: str, family: vzctl.Family, api: FakeGlance, directory: pathlib.Path
) -> None:
    add, words = REFUSED[case]
    add(api)
    with pytest.raises(nova_exception.ImageUnacceptable) as caught:
        prepare(cache_of(directory, family))
    assert IMAGE in str(caught.value)
    assert words in str(caught.value)
    assert left(directory) == []


def test_an_image_that_was_repaired_is_taken(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    api.data[IMAGE] = b"damaged on the way"
    cache = cache_of(directory)
    with pytest.raises(nova_exception.ImageUnacceptable):
        prepare(cache)
    api.add(rootfs())
    assert prepare(cache) == IMAGE


def test_without_any_hash_the_size_decides(
    api: FakeGlance, directory: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.add(rootfs(), checksum=None, os_hash_algo=None, os_hash_value=None)
    assert prepare(cache_of(directory)) == IMAGE
    assert "no hash" in caplog.text


def raising(number: int, text: str = "") -> Callable[[pathlib.Path], None]:
    def fail(path: pathlib.Path) -> None:
        raise OSError(number, text or os.strerror(number))

    return fail


def test_what_glanceclient_finds_corrupt_is_refused(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    api.after_download = raising(errno.EPIPE, "Corrupt image download. Hash was 1")
    with pytest.raises(nova_exception.ImageUnacceptable, match="Corrupt image"):
        prepare(cache_of(directory))
    assert left(directory) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_nothing_partial_stays(
    number: int, api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    api.after_download = raising(number)
    with pytest.raises(exception.DiskFull, match="no room"):
        prepare(cache_of(directory))
    assert left(directory) == []


def test_a_disk_that_fills_while_repacking_leaves_nothing(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    # The part is a link to a device that is always full.
    full = directory / ".incoming" / f"{IMAGE}.repack.part"
    api.after_download = lambda path: full.symlink_to("/dev/full")
    with pytest.raises(exception.DiskFull, match="no room"):
        prepare(cache_of(directory, vzctl.FAMILY_7))
    assert left(directory) == []
    assert not full.is_symlink()


def test_a_disk_that_fills_at_the_last_moment_leaves_nothing(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    full = directory / ".incoming" / f"{IMAGE}.json.part"
    cache = cache_of(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            imagecache, "_sync", lambda path: path != full or raising(28)(path)
        )
        with pytest.raises(exception.DiskFull):
            prepare(cache)
    assert left(directory) == []


def test_another_error_is_neither_the_image_s_nor_the_disk_s(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    api.after_download = raising(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        prepare(cache_of(directory))
    assert left(directory) == []


def test_nova_s_api_takes_the_calls() -> None:
    for name in ("get", "download"):
        real = inspect.signature(getattr(glance.API, name)).parameters
        used = inspect.signature(getattr(FakeGlance, name)).parameters
        # The image is given by its place; Nova calls it id_or_uri.
        assert list(used)[:3] == ["self", "context", "image_id"]
        assert list(real)[:3] == ["self", "context", "id_or_uri"]
        assert set(list(used)[3:]) <= set(real)


def test_what_nova_says_of_glance_passes_through(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    with pytest.raises(nova_exception.ImageNotFound):
        prepare(cache_of(directory))
    assert left(directory) == []


@pytest.mark.parametrize(
    ("image_ref", "image_id"), [("", None), ("", IMAGE), (IMAGE, None), ("", "")]
)
def test_boot_from_volume_is_refused(
    image_ref: str, image_id: str | None, api: FakeGlance, directory: pathlib.Path
) -> None:
    with pytest.raises(nova_exception.ImageUnacceptable, match="boot from volume"):
        cache_of(directory).prepare(None, server(image_ref=image_ref), meta(image_id))
    assert api.calls() == []


@pytest.mark.parametrize(
    "image_id", ["../x", "a/b", "-x", ".x", "x\n", "a b", "x" * 129]
)
def test_an_id_that_is_no_file_name_is_refused(
    image_id: str, api: FakeGlance, directory: pathlib.Path
) -> None:
    known = meta()
    # Nova's field warns of an id that is no UUID, and keeps it.
    with pytest.warns(FutureWarning, match="invalid UUID"):
        known.id = image_id
    with pytest.raises(nova_exception.ImageUnacceptable, match="its id"):
        cache_of(directory).prepare(None, server(), known)
    assert api.calls() == []


# -- the flavor's root disk -------------------------------------------------


@both_families
def test_an_image_larger_than_the_root_disk_is_refused(
    family: vzctl.Family,
    api: FakeGlance,
    directory: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api.add(gzip.compress(rootfs()))
    seen = []
    real = template.inspect

    def limited(path: str, limit: int | None) -> template.Template:
        seen.append(limit)
        return real(path, 1000)

    def limited_repack(*args: Any) -> None:
        seen.append(args[-1])
        raise exception.ImageTooLarge(5000, 1000)

    monkeypatch.setattr(template, "inspect", limited)
    monkeypatch.setattr(template, "repack", limited_repack)
    with pytest.raises(nova_exception.FlavorDiskSmallerThanImage):
        prepare(cache_of(directory, family), root_gb=3)
    assert seen == [3 * GIB]
    assert left(directory) == []


def test_a_cached_image_is_compared_with_each_flavor(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    cache = cache_of(directory)
    prepare(cache, root_gb=0)
    note = directory / f"{IMAGE}.json"
    entry = json.loads(note.read_text())
    note.write_text(json.dumps({**entry, "unpacked_size": 3 * GIB}))
    with pytest.raises(nova_exception.FlavorDiskSmallerThanImage) as caught:
        prepare(cache, root_gb=2)
    assert f"is {2 * GIB} bytes, image is {3 * GIB} bytes" in str(caught.value)
    assert prepare(cache, root_gb=3) == prepare(cache, root_gb=0) == IMAGE
    assert api.calls() == ["get", "download"]


def test_without_a_root_disk_an_option_limits_the_image(
    api: FakeGlance,
    directory: pathlib.Path,
    flags: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image, "GIB", 1 << 20)
    flags(group="openvz", image_unpacked_max_gb=3)
    api.add(gzip.compress(rootfs(payload=bytes(4 << 20))))
    for refused in (
        lambda cache: prepare(cache, root_gb=0),
        lambda cache: cache.cache(None, IMAGE),
    ):
        with pytest.raises(
            nova_exception.ImageUnacceptable, match="image_unpacked_max_gb"
        ):
            refused(cache_of(directory))
    assert left(directory) == []


# -- in advance, and what goes ----------------------------------------------


def test_an_image_cached_in_advance_is_there_for_the_server(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    cache = cache_of(directory)
    assert cache.cache(None, IMAGE) is True
    assert cache.cache(None, IMAGE) is False
    assert prepare(cache) == IMAGE
    assert api.calls() == ["get", "download"]


def test_what_cannot_be_cached_in_advance_is_told(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    cache = cache_of(directory)
    with pytest.raises(nova_exception.ImageNotFound):
        cache.cache(None, IMAGE)
    with pytest.raises(nova_exception.ImageUnacceptable, match="its id"):
        cache.cache(None, "../x")
    api.add(rootfs(init="etc/x"))
    with pytest.raises(nova_exception.ImageUnacceptable, match="no init"):
        cache.cache(None, IMAGE)
    assert left(directory) == []


def age(directory: pathlib.Path, seconds: float) -> None:
    for path in directory.glob("[!.]*"):
        os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize(
    ("image_ref", "options", "stays"),
    [
        (IMAGE, {}, True),
        (OTHER, {}, False),
        ("", {}, False),
        (OTHER, {"remove_unused_base_images": False}, True),
        (OTHER, {"remove_unused_original_minimum_age_seconds": 200_000}, True),
        (OTHER, {"remove_unused_original_minimum_age_seconds": 0}, False),
    ],
)
def test_nova_s_options_say_when_an_image_goes(
    image_ref: str,
    options: dict[str, Any],
    stays: bool,
    api: FakeGlance,
    directory: pathlib.Path,
    flags: Callable[..., None],
) -> None:
    flags(group="image_cache", **options)
    api.add(rootfs())
    cache = cache_of(directory)
    prepare(cache)
    age(directory, 100_000)
    cache.manage([objects.Instance(image_ref=image_ref)])
    assert bool(left(directory)) is stays


def test_a_server_that_is_just_made_keeps_its_image_from_all_options(
    api: FakeGlance, directory: pathlib.Path, flags: Callable[..., None]
) -> None:
    flags(group="image_cache", remove_unused_original_minimum_age_seconds=0)
    flags(group="openvz", image_cache_max_mb=1)
    api.add(rootfs(payload=os.urandom(2 << 20)))
    cache = cache_of(directory)
    prepare(cache)
    age(directory, 100_000)
    prepare(cache)
    cache.manage([])
    assert left(directory) != []
    # vzctl create has been ended by then, and whatever it waited for.
    age(directory, vzctl.TimeLimits().create + 400)
    cache.manage([])
    assert left(directory) == []


def test_the_cache_is_bounded_while_it_grows(
    api: FakeGlance, directory: pathlib.Path, flags: Callable[..., None]
) -> None:
    flags(group="openvz", image_cache_max_mb=3)
    cache = cache_of(directory)
    for image_id in (IMAGE, OTHER):
        api.add(rootfs(payload=os.urandom(2 << 20)), image_id)
        cache.prepare(None, server(), meta(image_id))
        age(directory, 100_000)
    assert left(directory) == [f"{OTHER}.json", f"{OTHER}.tar"]


# -- what has to be converted -----------------------------------------------


@pytest.fixture
def programs(directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The only directory that programs are looked for in."""
    programs = directory.parent / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def unpacker(programs: pathlib.Path, name: str, data: bytes) -> None:
    """A program that writes some bytes, whatever it is given."""
    (programs / "data").write_bytes(data)
    (programs / name).write_text(f"#!/bin/sh\n/bin/cat {programs}/data\n")
    (programs / name).chmod(0o755)


ZSTD = b"\x28\xb5\x2f\xfd"


@both_families
@pytest.mark.parametrize(
    ("program", "data", "disk_format"),
    [
        ("zstd", ZSTD, "raw"),
        ("lz4", b"\x04\x22\x4d\x18", "raw"),
        ("guestfish", bytes(0x438) + b"\x53\xef" + bytes(1 << 17), "raw"),
        ("guestfish", b"WithouFreSpacExt", "ploop"),
    ],
)
def test_what_vzctl_cannot_unpack_is_converted_once(
    program: str,
    data: bytes,
    disk_format: str,
    family: vzctl.Family,
    api: FakeGlance,
    directory: pathlib.Path,
    programs: pathlib.Path,
) -> None:
    unpacker(programs, program, rootfs())
    api.add(data, disk_format=disk_format)
    first = prepare(cache_of(directory, family))
    (programs / program).unlink()
    assert prepare(cache_of(directory, family)) == first
    assert api.calls() == ["get", "download"]
    assert left(directory) == [f"{IMAGE}.json", f"{IMAGE}.tar.gz"]
    with tarfile.open(directory / f"{IMAGE}.tar.gz", "r:gz") as archive:
        assert archive.getnames()[-1] == (
            "fs/etc/payload" if family.template_paths else "etc/payload"
        )


@both_families
def test_what_was_converted_is_checked_like_any_other(
    family: vzctl.Family,
    api: FakeGlance,
    directory: pathlib.Path,
    programs: pathlib.Path,
) -> None:
    unpacker(programs, "zstd", rootfs(init="../init"))
    api.add(ZSTD)
    with pytest.raises(nova_exception.ImageUnacceptable, match="not inside"):
        prepare(cache_of(directory, family))
    assert left(directory) == []


@both_families
def test_a_conversion_has_the_flavor_s_limit(
    family: vzctl.Family,
    api: FakeGlance,
    directory: pathlib.Path,
    programs: pathlib.Path,
) -> None:
    (programs / "zstd").write_text("#!/bin/sh\nexec /bin/cat /dev/zero\n")
    (programs / "zstd").chmod(0o755)
    api.add(ZSTD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "GIB", 1 << 20)
        with pytest.raises(nova_exception.FlavorDiskSmallerThanImage):
            prepare(cache_of(directory, family))
    assert left(directory) == []


def test_a_conversion_has_a_time_limit(
    api: FakeGlance,
    directory: pathlib.Path,
    programs: pathlib.Path,
    flags: Callable[..., None],
) -> None:
    flags(group="openvz", image_conversion_timeout=1)
    (programs / "zstd").write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    (programs / "zstd").chmod(0o755)
    api.add(ZSTD)
    with pytest.raises(nova_exception.ImageUnacceptable, match="within 1 s"):
        prepare(cache_of(directory))
    assert left(directory) == []


def test_disk_images_are_offered_where_guestfish_is(
    directory: pathlib.Path, programs: pathlib.Path
) -> None:
    executor = utils.Executor(program_dirs=[])
    node: Any = SimpleNamespace(executor=executor)
    kinds = ("supports_image_type_qcow2", "supports_image_type_ploop")
    assert image.capabilities(node) == dict.fromkeys(kinds, False)
    unpacker(programs, "guestfish", b"")
    assert image.capabilities(node) == dict.fromkeys(kinds, True)


def test_properties_for_virtual_machines_are_ignored(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    wanted = meta(
        properties={
            "hw_disk_bus": "virtio",
            "hw_firmware_type": "uefi",
            "hw_machine_type": "q35",
            "hw_qemu_guest_agent": "yes",
            "hw_video_model": "virtio",
        }
    )
    assert cache_of(directory).prepare(None, server(), wanted) == IMAGE


# -- crashes ----------------------------------------------------------------


def test_the_part_of_a_crashed_download_is_replaced(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    incoming = directory / ".incoming"
    incoming.mkdir()
    for step in ("download", "convert", "repack", "json"):
        (incoming / f"{IMAGE}.{step}.part").write_bytes(b"z" * 50_000)
    prepare(cache_of(directory, vzctl.FAMILY_7))
    assert left(directory) == [f"{IMAGE}.json", f"{IMAGE}.tar.gz"]


def test_parts_of_other_images_go_when_they_are_old(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(rootfs())
    incoming = directory / ".incoming"
    incoming.mkdir()
    for name in ("old", "young"):
        (incoming / f"{name}.download.part").touch()
    os.utime(incoming / "old.download.part", (0, 0))
    prepare(cache_of(directory))
    assert left(directory) == [
        ".incoming/young.download.part",
        f"{IMAGE}.json",
        f"{IMAGE}.tar",
    ]


def test_a_crash_between_archive_and_note_leaves_nothing_that_counts(
    api: FakeGlance, directory: pathlib.Path
) -> None:
    api.add(gzip.compress(rootfs()))
    (directory / f"{IMAGE}.tar").write_bytes(b"of an unknown state")
    prepare(cache_of(directory))
    # vzctl 4 would take the .tar first.
    assert left(directory) == [f"{IMAGE}.json", f"{IMAGE}.tar.gz"]


def test_an_operator_s_templates_stay(api: FakeGlance, directory: pathlib.Path) -> None:
    (directory / "debian-12-x86_64.tar.gz").write_bytes(b"theirs")
    api.add(rootfs())
    prepare(cache_of(directory))
    assert (directory / "debian-12-x86_64.tar.gz").read_bytes() == b"theirs"


# -- many at once -----------------------------------------------------------


@pytest.fixture
def crowd(
    api: FakeGlance, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, Any], None]:
    """Let no download end before all of a number stand in line for the image."""

    def gather(number: int, arrived: Any) -> None:
        lock = imagecache.Store.lock

        def coming(self: imagecache.Store, image_id: str, blocking: bool = True) -> Any:
            arrived.release()
            return lock(self, image_id, blocking)

        def wait(path: pathlib.Path) -> None:
            for _ in range(number):
                assert arrived.acquire(timeout=60)

        monkeypatch.setattr(imagecache.Store, "lock", coming)
        api.after_download = wait

    return gather


@both_families
def test_threads_that_want_one_image_download_it_once(
    family: vzctl.Family,
    api: FakeGlance,
    directory: pathlib.Path,
    crowd: Callable[[int, Any], None],
) -> None:
    api.add(rootfs())
    crowd(6, threading.Semaphore(0))
    results: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(prepare(cache_of(directory, family)))
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6
    assert len(set(results)) == 1
    assert api.calls() == ["get", "download"]


def test_processes_that_want_one_image_download_it_once(
    api: FakeGlance, directory: pathlib.Path, crowd: Callable[[int, Any], None]
) -> None:
    api.add(rootfs())
    context = multiprocessing.get_context("fork")
    crowd(3, context.Semaphore(0))
    processes = [
        context.Process(target=prepare, args=(cache_of(directory),)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert api.calls() == ["get", "download"]


def test_the_next_in_line_tries_itself_when_the_first_fails(
    api: FakeGlance, directory: pathlib.Path, crowd: Callable[[int, Any], None]
) -> None:
    api.add(rootfs())
    crowd(2, threading.Semaphore(0))
    others_wait = api.after_download
    failures = iter([raising(errno.ENOSPC), lambda path: None])

    def fail_once(path: pathlib.Path) -> None:
        if len(api.calls()) == 2:
            others_wait(path)
        next(failures)(path)

    api.after_download = fail_once
    outcomes: list[Any] = []

    def spawn() -> None:
        try:
            outcomes.append(prepare(cache_of(directory)))
        except exception.DiskFull as error:
            outcomes.append(error)

    threads = [threading.Thread(target=spawn) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DiskFull", "str"]


# -- the distribution -------------------------------------------------------


def hint(
    os_distro: str | None, default: str = "", version: str | None = None
) -> str | None:
    properties = {} if os_distro is None else {"os_distro": os_distro}
    metadata = {} if version is None else {"image_os_version": version}
    instance = objects.Instance(system_metadata=metadata)
    return image.os_hint(instance, meta(properties=properties), default)


def test_the_image_s_distribution_comes_before_the_default() -> None:
    assert hint("ubuntu", "debian-12-x86_64") == "ubuntu"
    assert hint(None, "debian-12-x86_64") == "debian-12-x86_64"
    assert hint(None) is None
    assert hint("", "") is None


def test_a_version_makes_the_hint_more_precise() -> None:
    assert hint("debian", version="12") == "debian-12"
    assert hint("debian", version="12 (bookworm)") == "debian"
    assert hint(None, "fedora", version="12") == "fedora"


@pytest.mark.parametrize("value", ["-x", "a b", "a\n", "../dists", "$(id)", "x" * 129])
def test_a_distribution_that_vzctl_cannot_take_is_left_out(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert hint(value, "debian") == "debian"
    assert "os_distro" in caplog.text
    assert hint(None, value) is None


@given(st.text())
def test_vzctl_permits_every_hint(value: str) -> None:
    chosen = hint(value)
    if chosen is not None:
        vzctl.check_arguments(["set", "101", "--distribution", chosen, "--save"])
