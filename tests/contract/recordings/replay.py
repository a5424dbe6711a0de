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
"""Replays recorded calls on a simulated node and says where the answers differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.simulator.node import SimNode

HERE = Path(__file__).resolve().parent

_RUN = re.compile(r"<<(.)\*(\d+)>>")
# Lines that stem from the machine of the recording, not from vzctl: no vzquota, no
# vzpkg, busybox awk, no cgroups or device mapper in the sandbox, missing kmod.
_ARTEFACTS = re.compile(
    r"^(File /usr/sbin/vzquota not found|awk: .*|libkmod: .*|.*list of modules.*"
    r"|Warning: can't load .*|executable /usr/sbin/vzpkg not found"
    r"|Unable to get (technologies|distribution) for .*|Failed to get osrelease for .*"
    r"|Unable to detect ostemplate: .*|Warning: distribution not specified.*"
    r"|Action script .*|/usr/libexec/.*|touch: .*|Unable to find mount point for .*"
    r"|/dev/mapper/control: .*|Failure to communicate with kernel device-mapper.*"
    r"|Check that device-mapper .*|Incompatible libdevmapper .*"
    r"|Preloading kernel module: .*)\n",
    re.MULTILINE,
)
# What is different in every run: invented MACs and UUIDs, pids, line numbers in files
# with comments of their own, uptimes, memory in use.
_VARYING = (
    (re.compile(r"(00:18:51|C4:37:72|FE:37:72)(:[0-9A-F]{2}){3}"), r"\1:*"),
    (re.compile(r"veth72[0-9a-f]{6}"), "veth72*"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"pid \d+, cmdline .*"), "pid *"),
    (re.compile(r"pid=\d+ cmdline=.*"), "pid=*"),
    (re.compile(r"(\.conf):\d+"), r"\1:*"),
    (re.compile(r'("uptime": )[\d.]+'), r"\1*"),
)


@dataclass(frozen=True)
class Recorded:
    """One recorded call; conf is None where the configuration did not change."""

    id: str
    argv: tuple[str, ...]
    rc: int | str
    out: str
    err: str
    conf: tuple[str, ...] | None

    @property
    def command(self) -> str:
        """``set``, ``create``, …; ``vzlist``."""
        if self.argv[0] != "vzctl":
            return self.argv[0]
        words = [word for word in self.argv[1:] if not word.startswith("--")]
        return words[0] if words else ""

    @property
    def ctid(self) -> str:
        """The container named, as it is spelled; empty for none."""
        words = [word for word in self.argv[1:] if not word.startswith("--")]
        return words[1] if self.argv[0] == "vzctl" and len(words) > 1 else ""


def _expanded(text: str) -> str:
    return _RUN.sub(lambda m: m.group(1) * int(m.group(2)), text)


def load(family: str) -> Iterator[Recorded]:
    """The recorded calls of a family, in order."""
    files: dict[str, list[str]] = {}
    for line in (HERE / f"family{family}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        record = Recorded(
            id=entry["id"],
            argv=tuple(_expanded(word) for word in entry["argv"]),
            rc=entry["rc"],
            out=_expanded(entry.get("out", "")),
            err=_expanded(entry.get("err", "")),
            conf=None,
        )
        if "conf" in entry:
            before = files.get(record.ctid, [])
            lines: list[str] = []
            for part in entry["conf"]:
                lines += before[slice(*part)] if isinstance(part, list) else [part]
            files[record.ctid] = lines
            record = Recorded(
                **{
                    **vars(record),
                    "conf": tuple(_expanded(text) for text in lines),
                }
            )
        yield record


def on_node(node: SimNode, word: str) -> str:
    """An argument with paths of the recording's node moved to the simulated one."""
    for place in ("/vz/", "/etc/vz/"):
        if word.startswith(place):
            return str(node.root) + word
    return word


def comparable(node: SimNode, text: str, given: tuple[str, ...] = ()) -> str:
    """An answer without what differs between runs and machines.

    :param given: arguments of the call; UUIDs among them are kept.
    """
    text = text.replace(str(node.root), "")
    text = _ARTEFACTS.sub("", text)
    arguments = " ".join(given)
    for pattern, replacement in _VARYING:
        if replacement == "UUID":
            text = pattern.sub(
                lambda m: m.group(0) if m.group(0) in arguments else "UUID", text
            )
        else:
            text = pattern.sub(replacement, text)
    return text


def conf_lines(node: SimNode, ctid: str) -> list[str] | None:
    """A configuration file's lines without comments; None when there is none."""
    path = node.conf_dir / f"{ctid}.conf"
    if not path.exists():
        return None
    lines = path.read_text().replace(str(node.root), "").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def install(node: SimNode, record: Recorded) -> None:
    """Puts the recorded configuration in place: something unrecorded had changed it."""
    if record.conf is None:
        return
    text = "\n".join(record.conf).replace('="/vz/', f'="{node.root}/vz/')
    path = node.conf_dir / f"{record.ctid}.conf"
    path.resolve().write_text(text + "\n")


def differences(
    node: SimNode, record: Recorded, stdin: bytes, *, messages: bool = True
) -> list[str]:
    """Runs the call and lists what is not as recorded.

    :param messages: compare what is printed, too.
    """
    result = node.run(*(on_node(node, word) for word in record.argv), stdin=stdin)
    found = []
    if result.rc != record.rc:
        found.append(f"exit code {result.rc}, recorded {record.rc}: {result.stderr}")
    if record.conf is not None:
        lines = conf_lines(node, record.ctid) or []
        ours = comparable(node, "\n".join(lines), record.argv)
        theirs = comparable(node, "\n".join(record.conf), record.argv)
        if ours != theirs:
            found.append(f"configuration\n{ours}\nrecorded\n{theirs}")
    if messages:
        for name, ours, theirs in (
            ("stdout", result.stdout, record.out),
            ("stderr", result.stderr, record.err),
        ):
            ours = comparable(node, ours, record.argv)
            theirs = comparable(node, theirs, record.argv)
            if ours != theirs:
                found.append(f"{name} {ours!r}\nrecorded {theirs!r}")
    return found
