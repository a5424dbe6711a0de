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

"""Images of all kinds, by programs that are there and by ones that stand in."""

from __future__ import annotations

import gzip
import io
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import convert, template, utils
from tests.unit.openvz.processes import lives

LIMIT = 1 << 30


def archive(files: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (files or {"sbin/init": b"#!/bin/sh\n"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def qcow2(
    *, version: int = 3, backing: int = 0, features: int = 0, size: int = 1 << 30
) -> bytes:
    """The header of an image of QEMU's own format."""
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 8, 16, size)
    head += bytes(0x48 - len(head)) + struct.pack(">QQQII", features, 0, 0, 4, 104)
    return head + bytes(1 << 16)


def mbr(*, flag: int = 0x80, rest: bytes = b"") -> bytes:
    """A disk with one partition."""
    entry = struct.pack("<B3BB3BII", flag, 0, 2, 0, 0x83, 0, 0, 0, 2048, 4096)
    sector = bytes(446) + entry + bytes(48) + b"\x55\xaa"
    return sector + rest + bytes(1 << 17)


def vmdk() -> bytes:
    """The header of an image whose descriptor may name other files."""
    head = struct.pack("<4sIIQQQQIQQQ", b"KDMV", 1, 3, 1, 1, 1, 1, 1, 0, 0, 0)
    return head + bytes(1 << 16)


def at(offset: int, magic: bytes) -> bytes:
    return bytes(offset) + magic + bytes(1 << 17)


@pytest.fixture
def written(tmp_path: pathlib.Path) -> Callable[[bytes], str]:
    def write(data: bytes) -> str:
        path = tmp_path / "image"
        path.write_bytes(data)
        return str(path)

    return write


# -- what an image is -------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "claimed", "program"),
    [
        (archive(), "raw", None),
        (gzip.compress(archive()), "raw", None),
        (b"BZh91AY", "raw", None),
        (b"\xfd7zXZ\x00", "raw", None),
        # Before 1988; and whatever else template.py has to refuse.
        (b"etc/passwd".ljust(512, b"\0"), "raw", None),
        (b"", "raw", None),
        (b"\x28\xb5\x2f\xfd", "raw", "zstd"),
        (b"\x04\x22\x4d\x18", "raw", "lz4"),
        (b"\x02\x21\x4c\x18", "raw", "lz4"),
        (mbr(), "raw", "--format=raw"),
        (at(0x438, b"\x53\xef"), "raw", "--format=raw"),
        (at(0, b"XFSB"), "raw", "--format=raw"),
        (at(0x10040, b"_BHRfS_M"), "raw", "--format=raw"),
        (qcow2(), "qcow2", "--format=qcow2"),
        (qcow2(version=2), "qcow2", "--format=qcow2"),
        (b"WithoutFreeSpace" + bytes(100), "ploop", "--format=parallels"),
        (b"WithouFreSpacExt" + bytes(100), "ploop", "--format=parallels"),
    ],
)
def test_the_content_says_which_program_reads_an_image(
    data: bytes, claimed: str, program: str | None, written: Callable[[bytes], str]
) -> None:
    way = convert.way_of(written(data), claimed)
    if program is None:
        assert way is None
    else:
        assert way is not None
        assert program in way.arguments


@pytest.mark.parametrize(
    ("data", "claimed", "words"),
    [
        (qcow2(backing=1024), "qcow2", "backing file"),
        (qcow2(features=4), "qcow2", "data_file"),
        (qcow2(features=1 << 40), "qcow2", "features"),
        (qcow2(version=1), "qcow2", "version"),
        (mbr(flag=0x42), "raw", "boot flag"),
        (qcow2(), "raw", "format is raw, but its content is qcow2"),
        (mbr(), "qcow2", "format is qcow2, but its content is gpt"),
        (archive(), "qcow2", "format is qcow2, but its content is raw"),
        (gzip.compress(qcow2()), "qcow2", "its content is raw"),
        (vmdk(), "raw", "its content is vmdk"),
        (b"QED\0" + bytes(600), "raw", "its content is qed"),
        (qcow2(), "ploop", "no ploop image"),
        (archive(), "ploop", "no ploop image"),
        (qcow2()[:510] + b"\x55\xaa", "qcow2", "more than one meaning"),
    ],
)
def test_what_is_something_else_or_refers_to_other_files_is_refused(
    data: bytes, claimed: str, words: str, written: Callable[[bytes], str]
) -> None:
    with pytest.raises(exception.ImageUnsuitable, match=words):
        convert.way_of(written(data), claimed)


def test_an_archive_that_is_also_a_disk_is_an_archive(
    written: Callable[[bytes], str],
) -> None:
    """No program opens it, and template.py takes it for nothing else."""
    polyglot = bytearray(archive())
    polyglot[510:512] = b"\x55\xaa"
    assert convert.way_of(written(bytes(polyglot)), "raw") is None


# -- running a program ------------------------------------------------------


@pytest.fixture
def programs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The only directory that programs are looked for in."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def stand_in(programs: pathlib.Path, name: str, code: str) -> None:
    path = programs / name
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{code}\n")
    path.chmod(0o755)


def converted(
    path: str, claimed: str, limit: int = LIMIT, timeout: float = 60
) -> tuple[bytes, str]:
    """What comes out, unpacked; and where it is."""
    way = convert.way_of(path, claimed)
    assert way is not None
    target = pathlib.Path(path).with_name("result")
    executor = utils.Executor(program_dirs=())
    with target.open("wb") as file:
        convert.convert(executor, way, path, file, limit=limit, timeout=timeout)
    return gzip.decompress(target.read_bytes()), str(target)


def test_guestfish_is_asked_for_all_that_a_tree_has(
    programs: pathlib.Path, written: Callable[[bytes], str]
) -> None:
    stand_in(programs, "guestfish", "print(sys.argv[1:])")
    path = written(qcow2())
    said, _ = converted(path, "qcow2")
    assert eval(said) == [  # noqa: S307 - our own stand-in's
        *("--ro", "--format=qcow2", "-a", path, "-i", "tar-out", "/", "-"),
        *("numericowner:true", "xattrs:true", "acls:true"),
    ]


def test_guestfish_starts_its_machine_itself_and_leaves_nothing(
    programs: pathlib.Path,
    written: Callable[[bytes], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(
        programs,
        "guestfish",
        'open(os.environ["TMPDIR"] + "/overlay", "w")\n'
        'open(os.environ["XDG_RUNTIME_DIR"] + "/socket", "w")\n'
        'for name in ("BACKEND", "CACHEDIR"): print(os.environ["LIBGUESTFS_" + name])\n'
        'print(os.environ["TMPDIR"])',
    )
    chosen = {
        "LIBGUESTFS_BACKEND": "libvirt:qemu:///session",
        "LIBGUESTFS_CACHEDIR": "/var/cache/guestfs",
    }
    for name in chosen:
        monkeypatch.delenv(name, raising=False)
    backend, cache, scratch = converted(written(mbr()), "raw")[0].decode().split()
    assert (backend, cache) == ("direct", "/var/tmp")
    assert not os.path.exists(scratch)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    said = converted(written(mbr()), "raw")[0].decode().split()
    assert said[:2] == list(chosen.values())


@pytest.mark.parametrize(
    ("data", "claimed", "package"),
    [
        (b"\x28\xb5\x2f\xfd", "raw", "install zstd"),
        (b"\x04\x22\x4d\x18", "raw", "install lz4"),
        (qcow2(), "qcow2", "install libguestfs-tools"),
    ],
)
def test_a_missing_program_is_told_with_its_package(
    data: bytes,
    claimed: str,
    package: str,
    programs: pathlib.Path,
    written: Callable[[bytes], str],
) -> None:
    with pytest.raises(exception.ImageUnsuitable, match=package):
        converted(written(data), claimed)


def test_more_than_the_limit_ends_the_program(
    programs: pathlib.Path, written: Callable[[bytes], str]
) -> None:
    pid = programs / "pid"
    stand_in(
        programs,
        "zstd",
        f'open({str(pid)!r}, "w").write(str(os.getpid()))\n'
        "while True: sys.stdout.buffer.write(bytes(1 << 16))",
    )
    path = written(b"\x28\xb5\x2f\xfd")
    with pytest.raises(exception.ImageTooLarge) as caught:
        converted(path, "raw", limit=5 << 20)
    assert caught.value.limit == 5 << 20
    assert caught.value.size <= (5 << 20) + (1 << 16)
    assert not lives(int(pid.read_text()))


def test_as_much_as_the_limit_passes(
    programs: pathlib.Path, written: Callable[[bytes], str]
) -> None:
    stand_in(programs, "zstd", "sys.stdout.buffer.write(bytes(5 << 20))")
    said, _ = converted(written(b"\x28\xb5\x2f\xfd"), "raw", limit=5 << 20)
    assert said == bytes(5 << 20)


def test_the_time_limit_ends_the_program_and_what_it_started(
    programs: pathlib.Path,
    written: Callable[[bytes], str],
    time_is_over: Callable[[Callable[[], object]], None],
) -> None:
    pid = programs / "pid"

    def started() -> None:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.01)

    time_is_over(started)
    stand_in(
        programs,
        "guestfish",
        f"child = os.fork()\nif child: open({str(pid)!r}, 'w').write(str(child))\n"
        "else: os.setsid()\ntime.sleep(600)",
    )
    with pytest.raises(exception.ImageUnsuitable, match="image_conversion_timeout"):
        converted(written(mbr()), "raw")
    assert not lives(int(pid.read_text()))


def fail(text: str) -> str:
    return f"print({text!r}, file=sys.stderr)\nsys.exit(1)"


def test_the_first_line_says_why_an_image_cannot_be_read(
    programs: pathlib.Path, written: Callable[[bytes], str]
) -> None:
    stand_in(programs, "guestfish", fail("guestfish: no system was found\n\nUse x"))
    with pytest.raises(exception.ImageUnsuitable) as caught:
        converted(written(mbr()), "raw")
    assert str(caught.value) == "guestfish cannot read it: no system was found"


def test_a_program_that_says_nothing_fails_all_the_same(
    programs: pathlib.Path, written: Callable[[bytes], str]
) -> None:
    stand_in(programs, "lz4", "os.kill(os.getpid(), 9)")
    with pytest.raises(exception.ImageUnsuitable, match="no reason given"):
        converted(written(b"\x04\x22\x4d\x18"), "raw")


@pytest.mark.parametrize(
    "text",
    [
        "libguestfs: error: qemu was killed\nlibguestfs: error: guestfs_launch failed.",
        "supermin: error: no supermin appliances found",
    ],
)
def test_a_machine_that_does_not_start_is_not_called_the_image_s_fault(
    text: str, programs: pathlib.Path, written: Callable[[bytes], str]
) -> None:
    stand_in(programs, "guestfish", fail(text))
    with pytest.raises(exception.CommandFailed, match="guestfish"):
        converted(written(mbr()), "raw")


def test_a_full_disk_passes_and_ends_the_program(
    programs: pathlib.Path, written: Callable[[bytes], str]
) -> None:
    stand_in(
        programs, "zstd", "while True: sys.stdout.buffer.write(os.urandom(1 << 16))"
    )
    path = written(b"\x28\xb5\x2f\xfd")
    way = convert.way_of(path, "raw")
    assert way is not None
    with (
        open("/dev/full", "wb", buffering=0) as full,
        pytest.raises(OSError, match="No space left") as caught,
    ):
        convert.convert(
            utils.Executor(program_dirs=()), way, path, full, limit=LIMIT, timeout=60
        )
    assert caught.value.errno == 28


# -- the real ones ----------------------------------------------------------


def real(program: str) -> Any:
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"{program} is not installed"
    )


def packed_by(command: list[str], data: bytes) -> bytes:
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["zstd", "-q", "-c"], marks=real("zstd")),
        pytest.param(["zstd", "-q", "--ultra", "-22", "-c"], marks=real("zstd")),
        pytest.param(["lz4", "-q", "-c"], marks=real("lz4")),
        pytest.param(["lz4", "-q", "-l", "-c"], marks=real("lz4")),
    ],
    ids=" ".join,
)
def test_an_archive_comes_out_as_it_went_in(
    command: list[str], written: Callable[[bytes], str]
) -> None:
    data = archive({"sbin/init": b"", "etc/x": os.urandom(3 << 20)})
    said, path = converted(written(packed_by(command, data)), "raw")
    assert said == data
    found = template.inspect(path)
    assert (found.suffix, found.size) == (".tar.gz", len(data))


@pytest.mark.parametrize(
    "program", [pytest.param(name, marks=real(name)) for name in ("zstd", "lz4")]
)
def test_a_damaged_archive_is_refused(
    program: str, written: Callable[[bytes], str]
) -> None:
    packed = packed_by([program, "-q", "-c"], archive({"x": os.urandom(1 << 20)}))
    with pytest.raises(exception.ImageUnsuitable, match=f"{program} cannot read it"):
        converted(written(packed[: len(packed) // 2]), "raw")


@real("zstd")
def test_a_bomb_is_bounded_in_size(written: Callable[[bytes], str]) -> None:
    packed = packed_by(["zstd", "-q", "-c"], bytes(64 << 20))
    assert len(packed) < 64 << 10
    with pytest.raises(exception.ImageTooLarge):
        converted(written(packed), "raw", limit=1 << 20)


@real("zstd")
def test_a_bomb_is_bounded_in_memory(written: Callable[[bytes], str]) -> None:
    # A window of 2 GiB, which would be allocated before the first byte comes out.
    header = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(31 - 10) << 3])
    with pytest.raises(exception.ImageUnsuitable, match="zstd cannot read it"):
        converted(written(header + b"\x01\x00\x00"), "raw")
