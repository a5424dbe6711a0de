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

"""Targets: what vzctl, vzlist, ip and tc answer, and the files beside them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import (
    command,
    hostends,
    metadata,
    nethook,
    permit,
    shaping,
    vzconf,
    vzctl,
    vzlist,
    vzmigrate,
)
from tests.fuzz.target import Runner, Source, Target, as_text, broken, scratch

_WORDS = re.compile(r"[A-Za-z0-9_.,:/+=-]*")
_OPTION = re.compile(r"--?[A-Za-z_-]+")


def _vzlist(data: bytes) -> None:
    text = as_text(data)
    try:
        infos = vzlist.parse(text)
    except exception.MalformedOutput:
        return
    lines = text.split("\n")[:-1]
    assert len(infos) == len(lines)
    for info, line in zip(infos, lines, strict=True):
        words = line.split(" ")
        shown = [word for word in words if word]
        assert shown[:2] == [info.ctid, info.state.value]
        for word, number in zip(
            shown[2:5],
            (info.numproc, info.physpages, info.diskspace_kb),
            strict=True,
        ):
            assert re.fullmatch("[0-9]+", word) if number is not None else word == "-"
        assert line.endswith(info.description)


def _find(data: bytes) -> None:
    source = Source(data)
    code, stdout, stderr = source.number(3), source.text(), source.text()
    try:
        info = vzlist.Vzlist(Runner(code, stdout, stderr)).find("101")
    except (exception.MalformedOutput, exception.CommandFailed) as error:
        str(error)
        return
    if info is None:
        # vzlist 4 hides a container without its private area, with exit code 0.
        assert code == 0 or (code == 1 and "found" in stderr)
    else:
        assert info.ctid == "101"
        assert "101" in stdout


def _version(data: bytes) -> None:
    text = as_text(data)
    try:
        version = vzctl.parse_version(text)
        vzctl.family_of(version)
    except exception.ConfigurationError:
        return
    major, minor, _patch = version
    assert re.search(rf"^vzctl .*{major}\.0*{minor}", text, re.MULTILINE)


def _failure(data: bytes) -> None:
    source = Source(data)
    done = Runner(source.number(255), source.text(), source.text())
    tool = vzctl.Vzctl(done, vzctl.FAMILY_4)
    said = []
    for call in (tool.start, tool.destroy, tool.umount, tool.pause):
        try:
            call("101")
        except exception.CommandFailed as error:
            said.append(str(error))
    for text in said:
        assert "\n" not in text
        text.encode()


_JUDGES = {
    "vzctl": vzctl.check_arguments,
    "vzlist": vzlist.check_arguments,
    "vzmigrate": vzmigrate.check_arguments,
}


def _arguments(data: bytes) -> None:
    assert _JUDGES == permit.PROGRAMS
    args = Source(data).rest()
    for name, judge in _JUDGES.items():
        try:
            judge(args)
        except exception.CommandRefused:
            continue
        for argument in args:
            assert _WORDS.fullmatch(argument), (name, argument)
            assert ".." not in argument.split("/")
            if argument.startswith("-"):
                assert _OPTION.fullmatch(argument)


def _settings(data: bytes) -> None:
    with scratch() as directory:
        path = directory / "vz.conf"
        path.write_bytes(data)
        found = vzconf.read_settings(str(path))
        for name, value in found.items():
            assert re.fullmatch("[A-Z_0-9]+", name)
            assert "\n" not in value
        try:
            private = vzconf.private_dir(found)
        except exception.ConfigurationError:
            return
        assert "$VEID" not in os.path.basename(private) or "VE_PRIVATE" in found


def _hook(data: bytes) -> None:
    with scratch() as directory:
        program = directory / nethook.PROGRAM
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        place, path = str(directory), directory / "vznet.conf"
        path.write_bytes(data)
        nethook.hook_missing(place, 4)
        try:
            nethook.install(place, 4, str(program))
        except exception.OvzError:
            assert path.read_bytes() == data
            return
        assert nethook.hook_missing(place, 4) is None
        nethook.remove(place, 4)
        after = path.read_bytes() if path.exists() else b""
        assert (
            b"EXTERNAL_SCRIPT=" in data
            or as_text(after).strip() == as_text(data).strip()
        )


# -- tags ---------------------------------------------------------------------------


def _tag(data: bytes) -> None:
    text = as_text(data)
    tag = metadata.decode(text)
    assert tag is None or metadata.encode(tag) == text
    source = Source(data)
    made = metadata.Tag(source.text(), source.text(), source.text(), source.text())
    try:
        encoded = metadata.encode(made)
    except exception.InvalidValue:
        return
    assert re.fullmatch("[A-Za-z0-9_-]*", encoded)
    assert metadata.decode(encoded) == made


def _legacy(data: bytes) -> None:
    tag = metadata.legacy(as_text(data))
    assert tag is None or all(isinstance(v, str) for v in vars(tag).values())


# -- ip and tc ----------------------------------------------------------------------


def _qdiscs(data: bytes) -> None:
    text = as_text(data)
    try:
        found = shaping.parse_qdiscs(text)
    except exception.MalformedOutput:
        return
    rate = shaping.Rate(1_000_000)
    for qdiscs in (*found.values(), shaping.NONE):
        seen = shaping.Seen(qdiscs, filters=text)
        made = shaping.lines("tap0", rate, rate, seen)
        assert not any("\n" in line for line in (*made.ip, *made.tc))
    shaping.missing("tap0", rate, rate, found)


_END = hostends.HostEnd("tap0", "eth0", "fa:16:3e:00:00:01", bridge="qbr0", mtu=1400)
_PROGRAMS = {"ip": "/sbin/ip", "tc": "/sbin/tc"}


class _Ip:
    """ip, which answers the same whatever it is asked."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self._done = command.Completed(code, stdout, stderr)
        self.said: list[str] = []

    def __call__(
        self, argv: Sequence[str], stdin: bytes | None = None
    ) -> command.Completed:
        if stdin is not None:
            self.said += stdin.decode().splitlines()
        return self._done


def _links(data: bytes) -> None:
    source = Source(data)
    code, stderr, stdout = source.number(1), source.text(), source.text()
    ip = _Ip(code, stdout, stderr)
    tools = hostends.Tools(ip, _PROGRAMS)
    problems = tools.batch("ip", ["link set dev tap0 up", "link del dev ifb0"])
    assert bool(problems) == bool(code)
    assert not any("\n" in problem for problem in problems)
    try:
        nethook.make_pairs([_END], tools)
        nethook.remove_pairs([_END], tools)
        hostends.drop_host_ends(names=["tap0"], programs=_PROGRAMS, run=ip)
    except (
        exception.MalformedOutput,
        exception.CommandFailed,
        exception.CleanupFailed,
    ) as error:
        str(error).encode(errors="surrogateescape")
    for line in ip.said:
        assert _WORDS.fullmatch(line.replace(" ", ""))


def _host_ends(data: bytes) -> None:
    text = as_text(data)
    try:
        ends = hostends.decode(text)
    except exception.InvalidValue as error:
        str(error).encode()
        return
    assert hostends.decode(hostends.encode(ends)) == ends
    for end in ends:
        for name in (end.host_ifname, end.name, end.bridge or "", *end.addresses):
            assert _WORDS.fullmatch(name)
        assert len(end.host_ifname) <= 15


def _without_check(_original: Any) -> Any:
    def parse(text: str) -> Any:
        return {
            entry["dev"]: shaping.Qdiscs((entry["kind"], entry["handle"]))
            for entry in json.loads(text or "[]")
        }

    return parse


TARGETS = {
    "vzlist": Target(
        _vzlist,
        ("openvz.vzlist",),
        {
            "numbers of any spelling": broken(
                vzlist, "_count", lambda _: lambda t: None if t == "-" else int(t)
            ),
            "a state of any name": broken(
                vzlist, "_parse_line", lambda real: lambda line: real(line.lower())
            ),
            "half a line": broken(
                vzlist, "parse", lambda real: lambda text: real(f"{text}\n")
            ),
        },
    ),
    "vzlist-find": Target(
        _find,
        ("openvz.vzlist",),
        {
            "absent by the code alone": broken(
                vzlist, "_ABSENT", lambda _: re.compile("")
            )
        },
    ),
    "vzctl-version": Target(
        _version,
        ("openvz.vzctl",),
        {
            "anywhere in a line": broken(
                vzctl, "_VERSION", lambda _: re.compile(r"(\d+)\.(\d+)\.?(\d+)?")
            )
        },
    ),
    "vzctl-failure": Target(
        _failure,
        ("exception", "openvz.vzctl"),
        {
            "lines as they are": broken(
                exception.CommandFailed,
                "_message",
                lambda _: lambda error: f"it failed: {error.stderr}",
            )
        },
    ),
    "arguments": Target(
        _arguments,
        ("openvz.vzctl", "openvz.vzlist", "openvz.vzmigrate"),
        {
            "a value of any kind": broken(
                vzctl,
                "_SET_VALUES",
                lambda real: {**real, "--hostname": re.compile(".*", re.DOTALL)},
            ),
            "an option of any kind": broken(
                vzmigrate, "_HOST", lambda _: re.compile(".+", re.DOTALL)
            ),
        },
    ),
    "vz.conf": Target(
        _settings,
        ("openvz.vzconf",),
        {
            "values of many lines": broken(
                vzconf,
                "_SETTING",
                lambda _: re.compile(r"^\s*([A-Z_0-9]+)=(\"[^\"]*\"|\S*)", re.M),
            )
        },
    ),
    "vznet.conf": Target(
        _hook,
        ("openvz.nethook",),
        {
            "other lines go as well": broken(
                nethook, "_SETTING", lambda _: re.compile(r"^.*EXTERNAL_.*\n?", re.M)
            )
        },
    ),
    "tag": Target(
        _tag,
        ("openvz.metadata",),
        {
            "many spellings": broken(
                metadata, "decode", lambda real: lambda text: real(text.strip())
            )
        },
    ),
    "legacy-tag": Target(
        _legacy,
        ("openvz.metadata",),
        {
            "nested too deeply": broken(
                metadata, "_from_json", lambda _: lambda text: json.loads(text)
            )
        },
    ),
    "tc": Target(
        _qdiscs,
        ("openvz.shaping",),
        {"fields taken for granted": broken(shaping, "parse_qdiscs", _without_check)},
    ),
    "ip": Target(
        _links,
        ("openvz.hostends", "openvz.nethook"),
        {
            "flags taken for granted": broken(
                hostends.Tools,
                "links",
                lambda _: (
                    lambda tools: {
                        entry["ifname"]: hostends._link(entry)
                        for entry in json.loads(tools._ask("ip", "show"))
                    }
                ),
            )
        },
    ),
    "host-ends": Target(
        _host_ends,
        ("openvz.hostends",),
        {
            "any name of an interface": broken(
                hostends, "_HOST_IFNAME", lambda _: re.compile(".*", re.DOTALL)
            ),
            "without its MTU": broken(
                hostends,
                "encode",
                lambda real: (
                    lambda ends: real(
                        [dataclasses.replace(end, mtu=None) for end in ends]
                    )
                ),
            ),
        },
    ),
}
