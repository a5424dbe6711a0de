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

"""Targets: what is in an image or a guest's tree, and in the files beside it."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ovznovadriver import exception
from ovznovadriver.compute import guest, shadow
from ovznovadriver.openvz import (
    attributes,
    convert,
    rootfs,
    survey,
    swap,
    tarball,
    template,
    unpack,
)
from tests.fuzz.target import Source, Target, broken, scratch
from tests.unit.openvz import hostile

_LIMIT = 1 << 20


def _template(data: bytes) -> None:
    with scratch() as directory:
        path = directory / "image"
        path.write_bytes(data)
        try:
            found = template.inspect(str(path), _LIMIT)
        except exception.ImageUnsuitable:
            return
        assert found.size <= _LIMIT
        packed = directory / "packed"
        with open(packed, "wb") as file:
            try:
                template.repack(str(path), file, "fs", 2 * _LIMIT)
            except exception.ImageUnsuitable:
                return
        with tarfile.open(packed, errors="surrogateescape") as archive:
            for member in archive:
                assert member.name == "fs" or member.name.startswith("fs/")
                assert ".." not in member.name.split("/")
                if member.islnk():
                    assert member.linkname.startswith("fs/")


def _pax(data: bytes) -> None:
    source = Source(data)
    kinds = [tarball.REGULAR, tarball.SYMLINK, tarball.DIRECTORY, tarball.FIFO]
    made = []
    archive = b""
    for _ in range(source.number(3)):
        kind = source.choice(kinds)
        # tarfile cuts what tar programs would: slashes and empty names.
        name = source.data().strip(b"/") or b"x"
        member = tarball.Member(
            name,
            kind,
            source.number(0o7777),
            source.number(2**32),
            source.number(2**32),
            source.number(2**40) * 10**6 - 10**15,
            target=source.data() if kind == tarball.SYMLINK else b"",
        )
        value = source.data()
        archive += tarball.header(member, [(b"SCHILY.xattr.user.x", value)])
        made.append((member, value))
    archive += tarball.END
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as read:
        found = list(read)
    assert len(found) == len(made)
    for info, (member, _value) in zip(found, made, strict=True):
        assert os.fsencode(info.name) == member.name
        assert os.fsencode(info.linkname) == member.target
        assert (info.mode, info.uid, info.gid) == (member.mode, member.uid, member.gid)
        assert info.mtime == member.mtime_ns / 10**9


def _image(data: bytes) -> None:
    with scratch() as directory:
        path = directory / "image"
        path.write_bytes(data)
        for claimed in sorted(convert.DISK_FORMATS):
            try:
                way = convert.way_of(str(path), claimed)
            except exception.ImageUnsuitable:
                continue
            if claimed == "qcow2":
                assert data.startswith(b"QFI\xfb")
                assert way is not None


@functools.cache
def _node() -> hostile.Node:
    """A container whose tree is full of plants."""
    node = hostile.Node(Path(tempfile.mkdtemp(prefix="ovz-fuzz-")))
    for name, plant in hostile.PLANTS.items():
        if name != "hard_link":
            plant(node.root / name, node.outside)
    return node


def _path(data: bytes) -> None:
    node, path = _node(), data.decode(errors="surrogateescape")
    try:
        content = rootfs.read_file(**node.place, path=path, limit=100)
    except exception.OvzError:
        content = None
    found = rootfs.inspect_tree(**node.place, kinds=[path], contents=[path], limit=100)
    assert found["contents"][path] == content
    assert content is None or hostile.SECRET not in content


def _list(data: bytes) -> None:
    with scratch() as directory:
        root = directory / "101"
        stage = root / ".ovz-snapshot"
        stage.mkdir(parents=True)
        (root / "file").touch()
        (root / "link").symlink_to(directory)
        (stage / "attributes.0").write_bytes(data)
        before = directory.stat()
        try:
            unpack.restore_attributes(
                base=str(directory), ctid="101", sub="", uid=0, gid=0, seconds=5
            )
        except exception.OvzError:
            assert stage.exists()
        after = directory.stat()
        assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)


def _attributes(data: bytes) -> None:
    source = Source(data)
    name = source.choice([attributes.ACCESS_ACL, attributes.CAPABILITY, "user.x"])
    uid, gid = source.number(2**20), source.number(2**20)
    value = b"\0".join(source.data() for _ in range(40)).rstrip(b"\0")
    for padded in (value, value.ljust(20, b"\0"), value.ljust(24, b"\0")):
        try:
            there = attributes.to_host({name: padded}, uid, gid)
            if not there:
                continue
            back = attributes.to_guest(there, uid, gid)
        except ValueError:
            continue
        # Nobody, on the one side, is nobody's number on the other.
        nobody = attributes.OVERFLOW_ID.to_bytes(4, "little")
        if nobody not in there[name] + back.get(name, nobody):
            assert attributes.to_host(back, uid, gid) == there
        attributes.records(back)


def _note(data: bytes) -> None:
    with scratch() as directory:
        for name in ("private/101", "private/102", "conf", "x"):
            (directory / name).mkdir(parents=True)
        note = directory / "conf/101.rescue"
        for mark, name in ((b"@own", "private/101"), (b"@x", "x")):
            number = str((directory / name).stat().st_ino).encode()
            data = data.replace(mark, number)
        note.write_bytes(data)
        place: dict[str, Any] = {
            "dirs": {n: str(directory / n) for n in ("private", "conf")},
            "ctid": "101",
            "sub": "",
        }
        for verb in (swap.state, swap.settle_swap):
            try:
                verb(**place)
            except exception.OvzError:
                continue
        assert (directory / "private/101").is_dir()
        assert (directory / "x").is_dir()


def _survey(data: bytes) -> None:
    source = Source(data)
    with scratch() as directory:
        dirs = {}
        for name in ("private", "root", "conf", "names", "lock", "dump"):
            (directory / name).mkdir()
            dirs[name] = str(directory / name)
        (directory / "lock/101.lck").write_bytes(source.data())
        (directory / "conf/101.rescue").write_bytes(source.data())
        (directory / "private" / (".ovz-proof-" + "0" * 32)).write_bytes(source.data())
        text = b"\0".join(os.fsencode(part) for part in source.rest())
        (directory / "conf/101.conf").write_bytes(text)
        found = survey.survey(dirs=dirs, sub="")
    json.dumps(found)
    assert set(found["places"]) == {"101"}


def _guest_files(data: bytes) -> None:
    text = data
    after = shadow.set_password(text, "root", "$6$new")
    kept = [ln for ln in text.splitlines() if not ln.startswith(b"root:")]
    others = [ln for ln in after.splitlines() if not ln.startswith(b"root:")]
    assert [ln for ln in others if ln] == [ln for ln in kept if ln]
    mine = [ln for ln in after.splitlines() if ln.startswith(b"root:")]
    assert mine
    assert all(line.startswith(b"root:$6$new") for line in mine)
    assert shadow.set_password(after, "root", "$6$new") == after
    keys = guest.add_keys(text, ["ssh-ed25519 AAAA me"])
    assert keys.startswith(text)
    assert guest.add_keys(keys, ["ssh-ed25519 AAAA me"]) == keys
    assert guest.add_host(text, "name.example").startswith(text)


def _inside_anything(_original: Any) -> Any:
    return lambda path: "/".join(p for p in path.split("/") if p not in ("", "."))


def _follow(original: Any) -> Any:
    def read(opened: Any, path: str, limit: int) -> bytes | None:
        place = os.readlink(f"/proc/self/fd/{opened.descriptor}")
        full = os.path.join(place, path.strip("/").replace("\0", ""))
        if os.path.isfile(full) and stat.S_ISREG(os.stat(full).st_mode):
            with open(full, "rb") as file:
                return file.read(limit)
        return original(opened, path, limit)

    return read


def clean_up() -> None:
    """Remove what targets keep from one input to the next."""
    if _node.cache_info().currsize:
        shutil.rmtree(_node().outside.parent, ignore_errors=True)
        _node.cache_clear()


TARGETS = {
    "template": Target(
        _template,
        ("openvz.template",),
        {
            "a path that leads out": broken(template, "_inside", _inside_anything),
            "what tarfile raises": broken(template, "_MALFORMED", lambda _: ()),
        },
    ),
    "pax": Target(
        _pax,
        ("openvz.tarball",),
        {
            "names without a record": broken(tarball, "_NAME", lambda _: 99999),
            "times without a sign": broken(
                tarball, "_time", lambda real: lambda ns: real(abs(ns))
            ),
        },
    ),
    "image": Target(
        _image,
        ("openvz.convert",),
        {
            "whatever is claimed": broken(
                convert, "_inspected", lambda _: lambda path: "qcow2"
            )
        },
    ),
    "path": Target(
        _path,
        ("openvz.rootfs", "openvz.tree"),
        {"links as the kernel has them": broken(rootfs, "_read", _follow)},
    ),
    "attribute-list": Target(
        _list,
        ("openvz.unpack",),
        {
            "any exception": broken(
                unpack,
                "_checked",
                lambda real: lambda line: real(json.dumps(json.loads(line)).encode()),
            )
        },
    ),
    "attributes": Target(
        _attributes,
        ("openvz.attributes",),
        {
            "one way only": broken(
                attributes,
                "_moved_capability",
                lambda real: lambda value, uid: real(value, abs(uid)),
            ),
            "lists of any length": broken(
                attributes,
                "_entries",
                lambda _: lambda acl: attributes._ACL_ENTRY.iter_unpack(acl[4:]),
            ),
        },
    ),
    "swap-note": Target(
        _note,
        ("openvz.swap",),
        {
            "any CTID": broken(
                swap.tree, "checked_ctid", lambda _: lambda ctid: str(ctid)
            )
        },
    ),
    "survey": Target(
        _survey,
        ("openvz.survey",),
        {
            "a lock that holds a number": broken(
                survey, "_holder", lambda _: lambda path: int(survey._read(path, 64))
            )
        },
    ),
    "guest-files": Target(
        _guest_files,
        ("compute.shadow",),
        {
            "a line without an end": broken(
                shadow,
                "set_password",
                lambda _: lambda text, user, hashed: text + b"root:$6$new:::::::\n",
            )
        },
    ),
}
