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
"""The simulator against recordings of the real tools.

Every recorded call is run on a simulated node, in order. Exit code, configuration file,
listings and messages must be the recorded ones. What is left out is in NOT_HELD, with
the reason; what had happened unrecorded between two calls is in BEFORE.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.recordings import replay
from tests.contract.recordings.replay import Recorded
from tests.simulator.node import Family, SimNode, write_archive

# A pid that no process can have.
DEAD_PID = 2**22 + 1

# Regular expression of recording ids -> why the simulator is not held against them.
NOT_HELD: dict[str, dict[str, str]] = {
    "4": {
        r"enter-exec|deb2-enter": "enter into a running container needs a terminal",
        r"runscript.*": "runscript is not modelled",
        r"ploop-snapshot-delete|ploop-convert": "snapshots and convert: not modelled",
        r"restart-wait": "a minimal init that never reaches its runlevel",
        r"desc-len20000-j": "buffers of the tool for lines longer than 4096",
        r"set-desc-final": "a line longer than 4096 is rewritten in pieces",
        r"run-observe|hooks-ct-ip|deb-obs|deb2-(net|big|memhog|kill9)|H-in.*|H-ping-out"
        r"|same-host-ct2|preexist-tap-ct": "programs and files of the recorded image",
        r"hookfail-(111\.(stop|umount|postumount)|st-.*|vps\.create)": "action scripts "
        "are refused, not run",
        r"start-sigterm": "a signal in the middle of an action script",
        r"badconf-(status|start|set|vzlist)": "a value by hand that no option takes",
        r"nonroot-.*": "needs to be run by another user",
        r"vzlist-o-cpu": "numbers of the emulated /proc of the recording",
        r"vzlist-o-paths": "columns cut at 32: the node's paths are longer",
        r"par-create-same-(0[1-9]|1.)|par-set-same-.*": "which of twenty processes "
        "wins is chance; see tests of several processes in tests/unit/simulator",
    },
    "9": {
        r"0121": "--mount_opts is not modelled",
        r"0138": "--verbose prints descriptors of the tool",
        r"0170": "every recorded command had a mount namespace of its own",
        r"018[0-689]|019[03]|029[2-58-9]|030[01]": "snapshots, compact, console, "
        "convert, reinstall, monitor: not modelled",
        r"0195|0194": "monitor is not modelled",
        r"0187": "runscript is not modelled",
        r"0204": "the recorded tool crashed in its sandbox",
        r"0226": "--netif_mac_renew is not modelled",
        r"022[89]|023[0-9]|0261": "register and unregister are not modelled",
        r"0265": "mounted in a namespace of its own, see 0170",
        r"0284|0288|0291|0302|0303|0305|0307|0308|0315|0317|0375": "ploop images "
        "without a device mapper",
    },
}

# Calls whose exit code and configuration are held, but not what they print.
OTHER_WORDS: dict[str, dict[str, str]] = {
    "4": {
        r"restart": "the recorded init had to be killed",
        r"exec2-nocmd": "busybox and dash complain in different words",
        r"vzlist-(badopt|help)": "the usage text is shortened",
        r"corrupt-create": "an arithmetic error of the recorded shell script",
        r"userpasswd-stopped-nosave": "a broken pipe in the recorded script",
        r"set-name-len500": "a buffer cuts the long name in the second message",
        r"badconf-destroy": "see badconf-status",
    },
    "9": {
        r"000[12]|0004|0010|0011": "the usage text is shortened",
        r"0037": "columns are padded to the node's longer paths",
        r"03(00|0[59]|3[5-9]|4[0-9])": "vzpkg was not installed",
    },
}

STDIN = {"exec-stdin": b"hello\n", "exec-dash": b"echo from-stdin\n"}


# -- what had happened in between --------------------------------------------------


def _lock(node: SimNode, ctid: str, content: object) -> None:
    (node.lock_dir / f"{ctid}.lck").write_text(f"{content}\n")


def _unlock(node: SimNode, ctid: str) -> None:
    (node.lock_dir / f"{ctid}.lck").unlink()


def _destroy(node: SimNode, *ctids: str) -> None:
    for ctid in ctids:
        node.run("vzctl", "stop", ctid, "--fast")
        assert node.run("vzctl", "destroy", ctid).rc == 0


def _stale_lock_and_running(node: SimNode) -> None:
    node.run("vzctl", "start", "101")
    _lock(node, "101", DEAD_PID)


def _starting(node: SimNode) -> None:
    node.run("vzctl", "mount", "111")
    _lock(node, "111", os.getpid())


def _started(node: SimNode) -> None:
    _unlock(node, "111")
    node.run("vzctl", "start", "111")


def _patch_conf(node: SimNode, ctid: str, **values: str) -> None:
    path = node.conf_dir / f"{ctid}.conf"
    text = path.read_text()
    for name, value in values.items():
        text = re.sub(rf"(?m)^{name}=.*$", f'{name}="{value}"', text)
    path.write_text(text)


def _describe(node: SimNode, text: str) -> None:
    node.run("vzctl", "set", "111", "--description", text, "--save")


def _write_conf(node: SimNode, ctid: str, *lines: str) -> None:
    text = "\n".join(lines).replace('="/vz/', f'="{node.root}/vz/')
    (node.conf_dir / f"{ctid}.conf").write_text(text + "\n")


def _stale_name(node: SimNode) -> None:
    (node.names_dir / "staleg").symlink_to(node.conf_dir / "131.conf")


def _remove_private(node: SimNode, ctid: str) -> None:
    (node.private_dir / ctid).rename(node.private_dir / f"{ctid}.gone")


def _badconf(node: SimNode) -> None:
    (node.private_dir / "115").mkdir()
    _write_conf(
        node,
        "115",
        'VE_PRIVATE="/vz/private/115"',
        'VE_ROOT="/vz/root/115"',
        "CPUUNITS=1000",
    )


def _preconf(node: SimNode) -> None:
    _write_conf(
        node,
        "133",
        'CPUUNITS="1234"',
        'HOSTNAME="pre.conf"',
        'VE_ROOT="/vz/root/$VEID"',
        'VE_PRIVATE="/vz/private/$VEID"',
    )


def _running(node: SimNode, ctid: str, running: bool) -> None:
    """Runs without being mounted: how the recording faked it."""
    from ovzsim.state import State

    live = State(node.host, ctid)
    live.running, live.mounted = running, False
    live.save()


def _checkpoint(node: SimNode, ctid: str) -> None:
    (node.private_dir / ctid / "dump/Dump").write_text("")


def _vefstype(node: SimNode, kind: str) -> None:
    node.set_vz_conf(VEFSTYPE=kind)


U_9 = "8d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0b01"

Step = Callable[[SimNode], object]

BEFORE: dict[str, dict[str, Step]] = {
    "4": {
        "stop": lambda n: _lock(n, "101", DEAD_PID),
        "stop-fast": _stale_lock_and_running,
        "desc-len20000-o": lambda n: _describe(n, "x" * 20000),
        "set-name-len31": lambda n: _describe(n, "final desc"),
        "D-create": lambda n: _destroy(n, "111"),
        "vzlist-raw": lambda n: n.switch("blind_vzlist", True),
        "vzlist-none-args": lambda n: n.switch("blind_vzlist", False),
        "vzlist-j-all": lambda n: _patch_conf(n, "111", CPULIMIT="0", CPUUNITS="1000"),
        "E-create": lambda n: _destroy(n, "111", "112"),
        "lock-status": _starting,
        "E-stop1": _started,
        "lock-stale": lambda n: _lock(n, "111", DEAD_PID),
        "lock-garbage": lambda n: _lock(n, "111", "garbage"),
        "lock-live-other": lambda n: _lock(n, "111", 1),
        "after-sigterm": lambda n: _unlock(n, "111"),
        "E-sp-111.umount": lambda n: n.halt("111"),
        "E-sp-111.postumount": lambda n: n.run("vzctl", "stop", "111", "--fast"),
        "hookfail-st-111.postumount": lambda n: None,
        "noprivate-status": lambda n: _remove_private(n, "114"),
        "badconf-destroy": _badconf,
        "fail-create-name-reuse": _stale_name,
        "create-preconf": _preconf,
        "host-del-status": lambda n: n.remove_nic("tapmiss"),
        "preexist-tap1": lambda n: n.add_nic("tappre"),
    },
    "9": {
        "0206": lambda n: _lock(n, "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01", DEAD_PID),
        "0241": lambda n: _lock(n, U_9, os.getpid()),
        "0255": lambda n: _lock(n, U_9, DEAD_PID),
        "0256": lambda n: _running(n, U_9, True),
        "0266": lambda n: _running(n, U_9, True),
        "0268": lambda n: _running(n, U_9, False),
        "0272": lambda n: _checkpoint(n, U_9),
        "0278": lambda n: n.run("vzctl", "umount", "instance-00000001"),
        "0349": lambda n: _destroy(n, "ed35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0e02"),
        "0335": lambda n: _vefstype(n, "simfs"),
        "0353": lambda n: _vefstype(n, "xfs"),
    },
}

# Calls before which the configuration had been changed unrecorded: it is put in place
# as it is recorded after the call, which itself must not change it any more.
CHANGED_BEFORE: dict[str, tuple[str, ...]] = {"4": (), "9": ("0107", "0241")}


def matching(table: dict[str, str], record: Recorded) -> str:
    """The reason of the entry whose pattern is the recording's id; empty for none."""
    for pattern, reason in table.items():
        if re.fullmatch(pattern, record.id):
            return reason
    return ""


def prepared_node(place: Path, family: Family) -> SimNode:
    """A node as that of the recordings."""
    if family == "9":
        node = SimNode(place / "node", "9", vefstype="xfs")
        tree = {"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "sbin/": ""}
        for name in ("myrootfs.tar.gz", "myrootfs.tar.xz"):
            write_archive(node.template_dir / name, tree)
        (node.template_dir / "myrootfs.tar.gz").rename(node.template_dir / "x")
        write_archive(node.template_dir / "myrootfs.tar.gz", tree)
        (node.template_dir / "x").rename(node.template_dir / "myrootfs.bin")
        write_archive(node.template_dir / "fsprefixed.tar.gz", tree, prefix="fs/")
        return node
    node = SimNode(place / "node", "4", criu=False, check_init=True)
    node.add_template("debian-12-x86_64-minimal")
    busybox = {"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "sbin/init": ""}
    node.add_template("debian-12-busybox", busybox, base=False)
    node.add_template("busybox", busybox, base=False)
    node.add_template("noinit", {"etc/": ""}, base=False)
    (node.template_dir / "corrupt.tar.gz").write_bytes(b"\x1f\x8bnot an archive")
    return node


def replayed(
    node: SimNode, tally: Counter[str]
) -> Iterator[tuple[Recorded, list[str]]]:
    """Every recorded call with what differed."""
    family = node.family
    for record in replay.load(family):
        if record.id in BEFORE[family]:
            BEFORE[family][record.id](node)
        reason = matching(NOT_HELD[family], record)
        if reason:
            tally["left out"] += 1
            replay.install(node, record)
            continue
        if record.id in CHANGED_BEFORE[family]:
            replay.install(node, record)
        found = replay.differences(
            node,
            record,
            STDIN.get(record.id, b""),
            messages=not matching(OTHER_WORDS[family], record),
        )
        tally["held"] += 1
        yield record, found


# How many recorded calls are held; fewer is a loss, more is welcome.
HELD = {"4": 700, "9": 270}


@pytest.mark.parametrize("family", ["4", "9"])
def test_answers_are_the_recorded_ones(
    tmp_path: Path, family: Family, record_property: Callable[[str, object], None]
) -> None:
    node = prepared_node(tmp_path, family)
    tally: Counter[str] = Counter()
    wrong = [
        f"{record.id}: {' '.join(record.argv)[:200]}\n  " + "\n  ".join(found)
        for record, found in replayed(node, tally)
        if found
    ]
    record_property("held", tally["held"])
    print(f"family {family}: {tally['held']} calls held, {tally['left out']} left out")
    assert not wrong, f"{len(wrong)} calls differ:\n" + "\n".join(wrong[:20])
    assert tally["held"] >= HELD[family]


@pytest.mark.parametrize("family", ["4", "9"])
def test_tables_of_exceptions_name_recordings(family: str) -> None:
    ids = [record.id for record in replay.load(family)]
    patterns = [*NOT_HELD[family], *OTHER_WORDS[family]]
    unused = [p for p in patterns if not any(re.fullmatch(p, i) for i in ids)]
    unknown = [i for i in (*BEFORE[family], *CHANGED_BEFORE[family]) if i not in ids]
    assert not unused
    assert not unknown
