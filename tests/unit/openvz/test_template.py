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

"""Archives of every kind that an image may be, made by tarfile and by GNU tar."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pathlib
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import template

TAR = shutil.which("tar") or "tar"

Entry = tuple[tarfile.TarInfo, bytes]


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: Any
) -> Entry:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def directory(name: str, **fields: Any) -> Entry:
    return member(name, kind=tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
    return member(name, kind=kind, linkname=target)


INIT = member("./sbin/init", b"#!/bin/sh\n", mode=0o755)


def tar(entries: Iterable[Entry], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tar_format, encoding="utf-8"
    ) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def written(tmp_path: pathlib.Path) -> Callable[[bytes], str]:
    def write(data: bytes) -> str:
        path = tmp_path / "image"
        path.write_bytes(data)
        return str(path)

    return write


def reason(path: str, limit: int | None = None) -> str:
    with pytest.raises(exception.ImageUnsuitable) as caught:
        template.inspect(path, limit)
    return str(caught.value)


def repacked(path: str, prefix: str = "fs") -> bytes:
    target = io.BytesIO()
    template.repack(path, target, prefix)
    return target.getvalue()


def members_of(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz", encoding="utf-8") as read:
        return {info.name: info for info in read}


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}
packed = pytest.mark.parametrize("suffix", PACKERS)


# -- what an archive is -----------------------------------------------------


@packed
def test_suffix_and_size_follow_from_the_content(
    suffix: str, written: Callable[[bytes], str]
) -> None:
    data = tar([INIT])
    found = template.inspect(written(PACKERS[suffix](data)))
    assert found == template.Template(suffix, len(data), 1)


@packed
def test_streams_that_were_packed_one_after_the_other_are_one_archive(
    suffix: str, written: Callable[[bytes], str]
) -> None:
    data = tar([INIT, member("./etc/passwd", b"x" * 5000)])
    parts = [PACKERS[suffix](data[:700]), PACKERS[suffix](data[700:])]
    assert template.inspect(written(b"".join(parts))).members == 2


def test_zeros_between_and_after_xz_streams_are_padding(
    written: Callable[[bytes], str],
) -> None:
    data = tar([INIT])
    parts = [lzma.compress(data[:600]), bytes(8), lzma.compress(data[600:]), bytes(4)]
    assert template.inspect(written(b"".join(parts))).size == len(data)


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_every_format_of_tar_is_read(
    tar_format: int, written: Callable[[bytes], str]
) -> None:
    assert template.inspect(written(tar([INIT], tar_format))).members == 1


@pytest.mark.parametrize(
    "entries",
    [
        [INIT],
        [link("sbin", "usr/sbin"), link("usr/sbin/init", "../lib/systemd/systemd")],
        [member("busybox", b"b"), link("bin/init", "./busybox", tarfile.LNKTYPE)],
    ],
)
def test_an_init_makes_a_root_file_system(
    entries: list[Entry], written: Callable[[bytes], str]
) -> None:
    assert template.inspect(written(tar(entries))).members == len(entries)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [member("bin/sh"), member("etc/passwd")],
        # A template for vzctl 7, and an archive with a directory around it.
        [member("fs/sbin/init")],
        [directory("sbin/init")],
        [member("sbin/init", kind=tarfile.FIFOTYPE)],
    ],
)
def test_without_an_init_it_is_refused(
    entries: list[Entry], written: Callable[[bytes], str]
) -> None:
    assert "no init" in reason(written(tar(entries)))


@pytest.mark.parametrize(
    "data", [b"", b"QFI\xfb" + bytes(2000), b"\x7fELF" * 500, b"BZh", b"\x1f\x8b"]
)
def test_what_is_no_archive_is_refused(
    data: bytes, written: Callable[[bytes], str]
) -> None:
    assert "damaged" in reason(written(data))


def test_an_xz_that_needs_much_memory_is_refused(
    written: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "_XZ_MEMORY", 1 << 20)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 4 << 20}]
    data = lzma.compress(tar([INIT]), filters=filters)
    assert "emory" in reason(written(data))


def test_an_error_of_the_disk_is_not_blamed_on_the_image(
    tmp_path: pathlib.Path,
) -> None:
    with pytest.raises(FileNotFoundError):
        template.inspect(str(tmp_path / "absent"))


# -- damage -----------------------------------------------------------------

ROOT = [
    directory("."),
    directory("./sbin"),
    INIT,
    member("./etc/long" + "x" * 150, os.urandom(3000)),
    link("./bin/sh", "busybox"),
]


@packed
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None)
def test_no_truncated_archive_passes(
    suffix: str, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Plain: what is filled up after the end of the archive may be missing.
    data = PACKERS[suffix](tar(ROOT).rstrip(b"\0") + bytes(512))
    path = tmp_path_factory.mktemp("cut") / "image"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(exception.ImageUnsuitable):
        template.inspect(str(path))


@given(
    data=st.data(), tar_format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_in_a_header_there_is_an_answer(
    data: st.DataObject, tar_format: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = bytearray(tar(ROOT, tar_format))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(plain) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=12))
        plain[at : at + len(piece)] = piece
    # With right checksums, or hardly anything would come through.
    for at in range(0, len(plain) - 511, 512):
        if any(plain[at : at + 512]) and data.draw(st.booleans()):
            plain[at + 148 : at + 156] = b" " * 8
            total = sum(plain[at : at + 512])
            plain[at + 148 : at + 156] = b"%06o\0 " % total
    path = tmp_path_factory.mktemp("fuzz") / "image"
    path.write_bytes(plain)
    try:
        result = io.BytesIO()
        template.repack(str(path), result, "fs")
    except exception.ImageUnsuitable:
        return
    names = members_of(result.getvalue())
    assert all(name == "fs" or name.startswith("fs/") for name in names)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_packed_archive_is_read_to_its_checksum(
    suffix: str, written: Callable[[bytes], str]
) -> None:
    data = bytearray(PACKERS[suffix](tar(ROOT)))
    data[-6] ^= 0xFF
    assert "damaged" in reason(written(bytes(data)))


def test_garbage_between_members_is_not_taken_for_the_end(
    written: Callable[[bytes], str],
) -> None:
    data = tar([INIT])[:1024] + b"garbage!" * 64 + tar([member("etc/passwd")])
    assert "ends too early" in reason(written(data))


def test_a_lot_after_the_end_is_refused(
    written: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "MAX_TRAILER", 20 << 10)
    template.inspect(written(tar([INIT]) + bytes(10 << 10)))
    assert "follows" in reason(written(tar([INIT]) + bytes(30 << 10)))


def test_too_many_members_are_refused(
    written: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "MAX_MEMBERS", 2)
    assert template.inspect(written(tar([INIT, directory("etc")]))).members == 2
    assert "more than 2" in reason(
        written(tar([INIT, directory("etc"), directory("var")]))
    )


def test_a_huge_header_is_refused_before_it_is_read(
    written: Callable[[bytes], str],
) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 7 << 30
    data = header.tobuf(tarfile.USTAR_FORMAT) + bytes(10 << 10)
    assert "headers are larger" in reason(written(data))


def test_many_global_headers_are_refused(written: Callable[[bytes], str]) -> None:
    parts = []
    for number in range(5):
        records = {f"{number}.{key}": "v" for key in range(3000)}
        parts.append(
            tarfile.TarInfo.create_pax_global_header(records)
            + tar([member(f"etc/{number}")])[:512]
        )
    assert "global headers" in reason(written(b"".join(parts) + tar([INIT])))


def test_a_chain_of_headers_without_end_is_refused(
    written: Callable[[bytes], str],
) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type = tarfile.GNUTYPE_LONGNAME
    data = header.tobuf(tarfile.GNU_FORMAT) * 5000
    assert "damaged" in reason(written(data + tar([INIT])))


def test_a_sparse_header_that_ends_too_early_is_refused(
    written: Callable[[bytes], str],
) -> None:
    info, _ = member("holes", kind=tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0" % 0 + b"%011o\0" % 512
    header[482], header[483:495] = 1, b"%011o\0" % 512
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert "damaged" in reason(written(tar([INIT])[:1024] + header))


def test_members_are_not_gathered_in_memory(written: Callable[[bytes], str]) -> None:
    path = written(tar([INIT, *(directory(f"d{n}") for n in range(10_000))]))
    tracemalloc.start()
    try:
        template.inspect(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A tarfile.TarInfo takes about a KiB.
    assert peak < 4 << 20


# -- how large it is --------------------------------------------------------


@packed
def test_an_archive_larger_than_the_limit_is_too_large(
    suffix: str, written: Callable[[bytes], str]
) -> None:
    data = tar([INIT, member("var/zeros", bytes(5 << 20))])
    path = written(PACKERS[suffix](data))
    assert template.inspect(path, len(data)).size == len(data)
    with pytest.raises(exception.ImageTooLarge) as caught:
        template.inspect(path, 2 << 20)
    assert caught.value.limit == 2 << 20
    assert 2 << 20 < caught.value.size <= 4 << 20


def test_repack_has_the_same_limit(written: Callable[[bytes], str]) -> None:
    path = written(gzip.compress(tar([INIT, member("zeros", bytes(5 << 20))])))
    with pytest.raises(exception.ImageTooLarge):
        template.repack(path, io.BytesIO(), "fs", 2 << 20)


# -- what leads out ---------------------------------------------------------


@pytest.mark.parametrize(
    "entries",
    [
        [member("/etc/passwd")],
        [member("../passwd")],
        [member("etc/../../passwd")],
        [directory("..")],
        [link("etc/shadow", "/etc/shadow", tarfile.LNKTYPE)],
        [link("etc/shadow", "../../etc/shadow", tarfile.LNKTYPE)],
        [link("a", "/etc"), member("a/passwd")],
        [link("./a", "/etc"), member("a/./b/passwd")],
        [link("a", "../.."), directory("a/b")],
        [link("a", "/etc"), directory("a")],
        [link("a", "/etc"), link("b", "a/shadow", tarfile.LNKTYPE)],
        [link("a", "b"), link("a/c", "/etc"), member("b/c/passwd")],
        [link(".", "/etc")],
    ],
)
def test_what_leads_out_of_the_tree_is_refused(
    entries: list[Entry], written: Callable[[bytes], str]
) -> None:
    message = reason(written(tar([INIT, *entries])))
    assert any(
        words in message
        for words in ("not inside", "symbolic link", "is no directory", "not there")
    )


SEGMENTS = st.sampled_from(["a", "b", ".", "..", "", "etc", "c\u00e9", "x\udcff"])


@given(
    entries=st.lists(
        st.tuples(
            st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join),
            st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]),
            st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join),
        ),
        max_size=5,
    )
)
@settings(max_examples=150, deadline=None)
def test_an_accepted_archive_stays_inside_for_the_simplest_of_unpackers(
    entries: list[tuple[str, bytes, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Unpacking by hand, following every link, never touches the neighbour."""
    base = tmp_path_factory.mktemp("unpack")
    data = tar(
        [INIT, *(member(n, kind=kind, linkname=target) for n, kind, target in entries)]
    )
    (base / "image").write_bytes(data)
    try:
        template.inspect(str(base / "image"))
    except exception.ImageUnsuitable:
        return
    tree = base / "one/two/three/tree"
    tree.mkdir(parents=True)
    with tarfile.open(base / "image", encoding="utf-8") as archive:
        for info in archive:
            _unpack_naively(tree, info)
    outside = [
        path
        for path in base.rglob("*")
        if tree not in path.parents and path not in tree.parents
    ]
    assert sorted(outside) == sorted([base / "image", tree])


def _unpack_naively(tree: pathlib.Path, info: tarfile.TarInfo) -> None:
    place = tree / info.name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if info.isdir():
            place.mkdir(exist_ok=True)
            return
        # As tar does: what is there is replaced, not written to.
        if place.is_symlink() or place.is_file():
            place.unlink()
        if info.issym():
            place.symlink_to(info.linkname)
        else:
            place.touch()
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        return


def test_links_that_only_point_out_are_what_a_distribution_has(
    written: Callable[[bytes], str],
) -> None:
    entries = [
        INIT,
        link("etc/mtab", "../proc/self/mounts"),
        link("etc/localtime", "/usr/share/zoneinfo/UTC"),
        member("usr/bin/perl", b"p"),
        link("usr/bin/perl5", "./usr/bin/perl", tarfile.LNKTYPE),
        member("dev/console", kind=tarfile.CHRTYPE, devmajor=5, devminor=1),
        member("dev/sda", kind=tarfile.BLKTYPE, devmajor=8),
        member("run/initctl", kind=tarfile.FIFOTYPE),
    ]
    assert template.inspect(written(tar(entries))).members == len(entries)


def test_a_member_may_replace_a_link(written: Callable[[bytes], str]) -> None:
    entries = [INIT, link("etc/resolv.conf", "/run/resolv.conf")]
    entries += [member("etc/resolv.conf", b"nameserver ::1\n")]
    assert template.inspect(written(tar(entries))).members == 3


@pytest.mark.parametrize("target", ["", "a\0b"])
def test_a_link_that_cannot_be_made_is_refused(
    target: str, written: Callable[[bytes], str]
) -> None:
    info, _ = link("etc/x", "y")
    info.pax_headers = {"linkpath": target}
    assert "cannot be a link" in reason(written(tar([INIT, (info, b"")])))


def test_a_name_with_a_nul_is_refused(written: Callable[[bytes], str]) -> None:
    info, _ = member("etc/x", pax_headers={"path": "etc/x\0y"})
    assert "not inside" in reason(written(tar([INIT, (info, b"")])))


def test_a_kind_that_is_no_file_is_refused(written: Callable[[bytes], str]) -> None:
    assert "no file" in reason(written(tar([INIT, member("label", kind=b"V")])))


def test_content_where_tar_programs_differ_is_refused(
    written: Callable[[bytes], str],
) -> None:
    smuggled = tar([member("etc/hidden")])[:512]
    info, _ = link("etc/x", "sbin/init", tarfile.LNKTYPE)
    info.size = len(smuggled)
    data = tar([INIT])[:1024] + info.tobuf(tarfile.USTAR_FORMAT) + smuggled
    assert "cannot have a content" in reason(written(data + bytes(1024)))


@pytest.mark.parametrize("time", ["nan", "inf"])
def test_a_time_that_is_none_is_refused(
    time: str, written: Callable[[bytes], str]
) -> None:
    info, _ = member("etc/x", pax_headers={"mtime": time})
    assert "time" in reason(written(tar([INIT, (info, b"")])))


# -- repacking --------------------------------------------------------------


def test_all_members_lie_beneath_the_prefix(written: Callable[[bytes], str]) -> None:
    path = written(lzma.compress(tar([*ROOT, member("fs/x"), member("top")])))
    names = set(members_of(repacked(path)))
    assert names == {
        "fs",
        "fs/sbin",
        "fs/sbin/init",
        "fs/etc/long" + "x" * 150,
        "fs/bin/sh",
        "fs/fs/x",
        "fs/top",
    }


def test_the_root_is_open_to_the_container_s_users(
    written: Callable[[bytes], str],
) -> None:
    for entries in ([INIT], [directory(".", mode=0o700), INIT]):
        with tarfile.open(
            fileobj=io.BytesIO(repacked(written(tar(entries)))), mode="r:gz"
        ) as archive:
            roots = [info for info in archive if info.name == "fs"]
        assert roots
        assert {(root.mode, root.type) for root in roots} == {(0o755, tarfile.DIRTYPE)}


def test_hard_links_follow_and_symbolic_links_stay(
    written: Callable[[bytes], str],
) -> None:
    found = members_of(
        repacked(
            written(
                tar(
                    [
                        INIT,
                        link("./bin/init", "./sbin/init", tarfile.LNKTYPE),
                        link("etc/mtab", "../proc/mounts"),
                        link("etc/fs", "/sbin/init"),
                    ]
                )
            )
        )
    )
    assert found["fs/bin/init"].linkname == "fs/sbin/init"
    assert found["fs/etc/mtab"].linkname == "../proc/mounts"
    assert found["fs/etc/fs"].linkname == "/sbin/init"


def test_owners_are_numbers_without_names(written: Callable[[bytes], str]) -> None:
    info, content = member(
        "etc/x", b"x", uid=5_000_000, gid=33, uname="root", gname="wheel", mode=0o6751
    )
    info.pax_headers = {"uname": "root", "gname": "wheel"}
    found = members_of(repacked(written(tar([INIT, (info, content)]))))["fs/etc/x"]
    assert (found.uid, found.gid, found.mode) == (5_000_000, 33, 0o6751)
    assert (found.uname, found.gname) == ("", "")


def test_devices_times_and_attributes_stay(written: Callable[[bytes], str]) -> None:
    records = {
        "mtime": "1700000000.123456789",
        "SCHILY.xattr.security.capability": "\x01\0\0\x02\udcff\0",
        "SCHILY.acl.access": "user::rwx,user:1000:r-x",
        "SCHILY.xattr.user.na\u00efve": "\u00fc",
    }
    ping, content = member("bin/ping", b"ping", pax_headers=records)
    null, _ = member(
        "dev/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666
    )
    found = members_of(repacked(written(tar([INIT, (ping, content), (null, b"")]))))
    kept = dict(found["fs/bin/ping"].pax_headers)
    # What is not UTF-8 makes it necessary, and tarfile adds it.
    kept.pop("hdrcharset", None)
    assert kept == records
    assert (found["fs/dev/null"].devmajor, found["fs/dev/null"].devminor) == (1, 3)
    assert found["fs/dev/null"].mode == 0o666


@given(
    name=st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1
    ).filter(lambda name: name not in (".", ".."))
    | st.sampled_from(["\udcff", "\udce9t\udce9", "n" * 200, "\n", " "]),
    tar_format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
@settings(max_examples=100, deadline=None)
def test_every_name_arrives_as_it_was(
    name: str, tar_format: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("name") / "image"
    path.write_bytes(tar([INIT, member(f"etc/{name}", b"content")], tar_format))
    assert f"fs/etc/{name}" in members_of(repacked(str(path)))


def test_contents_arrive_as_they_were(written: Callable[[bytes], str]) -> None:
    contents = {f"var/{size}": os.urandom(size) for size in (0, 1, 511, 512, 513, 9999)}
    path = written(tar([INIT, *(member(n, c) for n, c in contents.items())]))
    with tarfile.open(fileobj=io.BytesIO(repacked(path)), mode="r:gz") as archive:
        for name, content in contents.items():
            file = archive.extractfile(f"fs/{name}")
            assert file is not None
            assert file.read() == content


def test_the_same_image_makes_the_same_bytes(written: Callable[[bytes], str]) -> None:
    path = written(tar(ROOT))
    assert repacked(path) == repacked(path)


def gnu_tar(*args: str) -> None:
    subprocess.run([TAR, *args], check=True, env={"LC_ALL": "C"}, capture_output=True)


def make_tree(root: pathlib.Path) -> None:
    (root / "sbin").mkdir(parents=True)
    (root / "sbin/init").write_bytes(b"#!/bin/sh\n")
    (root / "sbin/init").chmod(0o755)
    (root / "caf\u00e9").write_text("x")
    (root / os.fsdecode(b"latin\xe9")).write_text("y")
    (root / "sbin/init2").symlink_to("/sbin/init")
    os.link(root / "sbin/init", root / "init3")
    make_sparse(root / "holes", [(0, b"begin"), (8 << 20, b"middle")], 16 << 20)
    make_sparse(root / "only-a-hole", [], 4 << 20)
    make_sparse(root / "ends", [(1 << 20, os.urandom(100_000))], (1 << 20) + 100_000)
    make_sparse(root / "many", [(n << 16, b"%d" % n) for n in range(1, 120)], 120 << 16)


def make_sparse(path: pathlib.Path, parts: list[tuple[int, bytes]], size: int) -> None:
    with path.open("wb") as file:
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
        file.truncate(size)


@pytest.mark.parametrize(
    "options",
    [
        ("--format=gnu",),
        ("--format=gnu", "--sparse"),
        ("--format=posix",),
        ("--format=posix", "--sparse", "--sparse-version=0.0"),
        ("--format=posix", "--sparse", "--sparse-version=0.1"),
        ("--format=posix", "--sparse", "--sparse-version=1.0"),
    ],
)
def test_gnu_tar_unpacks_what_gnu_tar_packed(
    options: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    """The whole way, with the command that vzctl 7's script runs."""
    tree, area = tmp_path / "tree", tmp_path / "area"
    make_tree(tree)
    area.mkdir()
    gnu_tar(*options, "-cf", str(tmp_path / "image"), "-C", str(tree), ".")
    with (tmp_path / "image.tar.gz").open("wb") as file:
        found = template.repack(str(tmp_path / "image"), file, "fs")
    gnu_tar("--sparse", "-C", str(area), "-xzf", str(tmp_path / "image.tar.gz"))

    names = sorted(os.listdir(tree))
    assert sorted(os.listdir(area / "fs")) == names
    assert os.listdir(area) == ["fs"]
    for name in names:
        made, unpacked = tree / name, area / "fs" / name
        if made.is_file():
            assert unpacked.read_bytes() == made.read_bytes()
            assert unpacked.stat().st_mtime_ns // 10**9 == made.stat().st_mtime_ns // (
                10**9
            )
    assert (area / "fs/init3").samefile(area / "fs/sbin/init")
    assert os.readlink(area / "fs/sbin/init2") == "/sbin/init"
    if "--sparse" in options:
        assert found.size < 4 << 20
        assert (area / "fs/holes").stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize(
    "sparse",
    ["0,100,50,10", "0,9999999", "0,-5", "9000,10"],
    ids=["overlap", "beyond the archive", "negative", "beyond the file"],
)
def test_a_sparse_map_that_cannot_be_is_refused(
    sparse: str, written: Callable[[bytes], str]
) -> None:
    info, content = member("holes", b"x" * 200)
    info.pax_headers = {
        "GNU.sparse.map": sparse,
        "GNU.sparse.size": "5000",
        "GNU.sparse.numblocks": "2",
    }
    assert "damaged" in reason(written(tar([INIT, (info, content)])))


# -- padding ----------------------------------------------------------------


def test_a_plain_archive_is_filled_up_to_whole_kib(
    written: Callable[[bytes], str],
) -> None:
    data = tar([INIT]).rstrip(b"\0")
    data += bytes(-len(data) % 512 + 512)
    assert len(data) % 1024
    path = written(data)
    template.pad(path)
    assert os.path.getsize(path) == len(data) + 512
    template.pad(path)
    assert os.path.getsize(path) == len(data) + 512
    assert template.inspect(path).members == 1
