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

"""How each verb of the privileged side is called, and what it uses of a node."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import hostends, privileged
from tests.unit.openvz import hostile
from tests.unit.openvz.pipes import Pipe

CTID, OTHER, SPARE, NEIGHBOUR = hostile.CTID, "102", "103", "105"
KEY = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"
PROOF = ".ovz-proof-" + "0" * 32
#: The root tree in a private area of vzctl 7, and what is beneath it.
IN_TREE = ("etc/target", "target")
AREAS = ("private", "root", "conf", "dump", "lock", "names", "cgroup", "netns")

END = hostends.HostEnd(
    host_ifname="tap0",
    name="eth0",
    mac="fa:16:3e:00:00:01",
    bridge="qbr0",
    outbound=hostends.Rate(1_000_000),
    addresses=("192.0.2.5",),
)


class Node(hostile.Node):
    """A node's directories, with all that any verb looks for.

    :ivar sub: where a root tree is in a private area
    """

    def __init__(self, top: Path, sub: str) -> None:
        top.mkdir()
        super().__init__(top)
        self.top = top
        self.sub = sub
        for area in AREAS:
            (top / area).mkdir(exist_ok=True)
        for ctid in (CTID, OTHER, NEIGHBOUR):
            root = top / "private" / ctid / sub
            (root / "etc").mkdir(parents=True)
            (root / "etc/target").write_text("the guest's own")
            (root / "target").write_text("the guest's own")
        # What belongs to somebody else.
        (top / "private" / NEIGHBOUR / sub / "etc/target").write_bytes(hostile.SECRET)
        (top / "conf" / f"{NEIGHBOUR}.conf").write_bytes(hostile.SECRET)
        conf = top / "conf"
        (conf / f"{CTID}.conf").write_text("RAM=1\n")
        (conf / f"{CTID}.nics").write_text(hostends.encode([END]))
        (top / "dump" / f"Dump.{CTID}").write_text("")
        (top / "lock" / f"{CTID}.lck").write_text("4194305\n")  # above pid_max
        (top / "names/server").symlink_to(conf / f"{CTID}.conf")
        (top / "cgroup" / f"vz-{CTID}").mkdir()
        (top / "private" / PROOF).touch()
        (top / "netns" / CTID).touch()
        self.pipes: list[Pipe] = []
        self.answers: list[bytes] = []

    def dir(self, area: str) -> str:
        return str(self.top / area)

    def dirs(self, *areas: str) -> dict[str, str]:
        return {area: self.dir(area) for area in areas}

    @property
    def tree(self) -> dict[str, str]:
        return {"base": self.dir("private"), "ctid": CTID, "sub": self.sub}

    def state(self) -> dict[str, Any]:
        """What no verb may change."""
        found: dict[str, Any] = dict(self.outside_state())
        for path in (self._others()[0] / self.sub / "etc/target", self._others()[1]):
            info = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path)] = (info.st_mode, info.st_uid, info.st_mtime_ns, content)
        return found

    def _others(self) -> tuple[Path, Path]:
        """What is another container's."""
        return (
            self.top / "private" / NEIGHBOUR,
            self.top / "conf" / f"{NEIGHBOUR}.conf",
        )

    def links(self) -> set[str]:
        """The links above the trees, where the host goes by names."""
        areas = [f"private/{ctid}" for ctid in (CTID, OTHER, SPARE)] if self.sub else []
        return {
            entry.path
            for area in (*AREAS, *areas)
            if (self.top / area).is_dir() and not (self.top / area).is_symlink()
            for entry in os.scandir(self.top / area)
            if entry.is_symlink()
        }

    def written(self) -> Iterator[bytes]:
        """What is in the files of the container's own, where a verb may have put it."""
        others = {self.outside, *self._others()}
        pending = [self.top]
        while pending:
            for entry in os.scandir(pending.pop()):
                path = Path(entry.path)
                if path in others:
                    continue
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    pending.append(path)
                small = info.st_size < 1 << 20 and info.st_nlink == 1
                if stat.S_ISREG(info.st_mode) and small:
                    yield path.read_bytes()

    def plant(self, plant: str, place: str) -> None:
        path = self.top / place
        with contextlib.suppress(OSError):
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)
        for above in reversed(path.parents):
            if above.is_file():
                above.unlink()
            above.mkdir(exist_ok=True)
        hostile.PLANTS[plant](path, self.outside)

    def call(self, verb: str, **kwargs: Any) -> Any:
        """What the privileged side replies, by way of the messages to it."""
        sent = privileged.decode(privileged.encode(kwargs))
        reply = privileged.serve(verb, sent, direct=True)
        self.answers.append(repr(privileged.decode(reply)).encode())
        return privileged.result(reply)


# -- how the verbs are called -------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Use:
    """How a verb is called, and where.

    :ivar call: calls it
    :ivar places: the paths that it uses, from the directory of the node; "{sub}" is
        where a root tree is in a private area
    :ivar prepare: makes what it needs besides
    :ivar hard_links: what may change by a hard link, and why: where a path begins so
    """

    call: Callable[[Node], object]
    places: tuple[str, ...]
    prepare: Callable[[Node], object] = lambda node: None
    hard_links: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def components(self, sub: str) -> list[str]:
        """All places of plants; the first component is the operator's own."""
        found = {}
        for place in self.places:
            parts = [part for part in place.format(sub=sub).split("/") if part]
            for number in range(2, len(parts) + 1):
                found["/".join(parts[:number])] = None
        return list(found)


TREE = f"private/{CTID}/{{sub}}"
IN_ROOT = tuple(f"{TREE}/{path}" for path in IN_TREE)


def _read_file(node: Node) -> None:
    for path in (*IN_TREE, "/etc/../etc/target", "etc", "etc/target/target"):
        with contextlib.suppress(exception.OvzError):
            node.call("read_file", **node.tree, path=path, limit=1000)


def _write_files(node: Node) -> None:
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    for path in (*IN_TREE, "/etc/../etc/target", "etc", "etc/target/target"):
        changes: list[dict[str, Any]] = [
            {"files": [hostile.entry(path)]},
            {"files": [hostile.entry(f"{path}/below", keep=True)]},
            {"files": [], "directories": [{"path": path, "mode": 0o700, **owner}]},
            {"files": [], "remove": [f"{path}/below"]},
            {"files": [], "remove": [path]},
        ]
        for change in changes:
            with contextlib.suppress(exception.OvzError):
                node.call("write_files", **node.tree, **change)


def _inspect(node: Node) -> None:
    paths = [*IN_TREE, "etc", "etc/target/target"]
    node.call("inspect_tree", **node.tree, kinds=paths, contents=paths, limit=1000)


def _archive(node: Node) -> dict[str, Any]:
    if not node.pipes:
        node.pipes.append(Pipe(node.top / "pipe"))
        node.pipes[0].start()
    to = {"pipe": str(node.top / "pipe"), "owner": os.geteuid()}
    return {**node.tree, **to, "uid": 0, "gid": 0, "limit": 1 << 40, "seconds": 30}


def _pack_contents(node: Node) -> None:
    packed = node.call("pack_contents", **_archive(node))
    node.call("pack_tree", **_archive(node), packed=packed)


def _pack_tree(node: Node) -> None:
    spool = node.top / "caller/spool"
    spool.parent.mkdir(exist_ok=True)
    if not os.path.lexists(spool):
        spool.touch()
    more = {"spool": str(spool), "spool_limit": 1000}
    node.call("pack_tree", **_archive(node), **more)


def _list_attributes(node: Node) -> None:
    stage = node.top / "private" / CTID / node.sub / ".ovz-snapshot"
    stage.mkdir()
    paths = ("etc", *IN_TREE, "etc/target/target", "x/../target", "")
    note = {
        "mode": 0o4777,
        "owner": [os.getuid(), os.getgid()],
        "mtime_ns": 0,
        "attributes": {"user.x": "eA=="},
    }
    for number, path in enumerate(paths):
        line = json.dumps({**note, "path": path})
        (stage / f"attributes.{number}").write_text(f"{line}\n")


def _swap(node: Node) -> dict[str, Any]:
    return {"dirs": node.dirs("private", "conf"), "ctid": CTID, "sub": node.sub}


def _swapped(node: Node) -> None:
    node.call("swap_in", **_swap(node), other=OTHER)


def _half_swapped(node: Node) -> None:
    """As it is when the swap back is interrupted between its two renames."""
    _swapped(node)
    area = node.top / "private"
    if node.sub:
        (area / SPARE).mkdir()
    os.rename(area / CTID / node.sub, area / SPARE / node.sub)
    note = node.top / "conf" / f"{CTID}.rescue"
    found = json.loads(note.read_text())
    note.write_text(json.dumps({**found, "tree": SPARE}))


def _arrived(node: Node) -> None:
    tree = node.top / "private" / f".incoming-{KEY}" / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/target").write_text("what has come")


def _tools(node: Node, *names: str) -> dict[str, str]:
    program = node.top / "answers-nothing"
    program.write_text("#!/bin/sh\necho '[]'\n")
    program.chmod(0o755)
    return dict.fromkeys(names, str(program))


def _apply(node: Node) -> None:
    more = {"base": node.dir("conf"), "ctid": CTID}
    node.call("apply_host_ends", **more, programs=_tools(node, "ip", "tc"))


def _drop_pairs(node: Node) -> None:
    more = {"base": node.dir("conf"), "ctid": CTID}
    node.call("drop_pairs", **more, programs=_tools(node, "ip"))


def _check(node: Node) -> None:
    more = {"base": node.dir("conf"), "ctids": [CTID, NEIGHBOUR]}
    node.call("check_host_ends", **more, programs=_tools(node, "tc"))


def _send(node: Node) -> None:
    """Send to this very host, where a script takes the place of ssh."""
    target = node.top / "sent"
    target.mkdir(exist_ok=True)
    programs = node.top / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("ssh", "setpriv"):
        (programs / name).write_text(
            '#!/bin/sh\nwhile [ "$1" != --server ]; do shift; done\n'
            f'cd {target} && exec rsync "$@"\n'
        )
        (programs / name).chmod(0o755)
    with contextlib.suppress(FileExistsError):
        (programs / "rsync").symlink_to(shutil.which("rsync") or "/bin/false")
    progress = node.top / "caller/progress"
    progress.parent.mkdir(exist_ok=True)
    peer = {"host": "peer", "user": "nova", "ssh_key": None, "known_hosts": None}
    # rsync reads a hole byte by byte: what bounds that is the limit alone.
    more = {"port": 22, "bandwidth_kbps": 0, "timeout": 1.0, "confined": False}
    node.call(
        "send_tree",
        **node.tree,
        key=KEY,
        peer={**peer, **more, "receiver": "ovz-receive"},
        owner=os.geteuid(),
        final=True,
        gate=None,
        holes=True,
        since=0,
        progress=str(progress) if os.path.lexists(progress) else None,
    )


_TEMPORARY = f"conf/{CTID}.nics.ovz-{'0' * 16}"


def _surveyed(node: Node) -> dict[str, str]:
    return node.dirs("private", "root", "conf", "names", "lock", "dump")


def _remove_temporary(node: Node) -> None:
    paths = [_TEMPORARY, f"private/{CTID}/ve.conf.ovz-{'0' * 16}", "outside/target"]
    for path in paths:
        with contextlib.suppress(exception.OvzError):
            given = [str(node.top / path)]
            dirs = node.dirs("private", "conf")
            node.call("remove_temporary", dirs=dirs, paths=given)


_CONFS = tuple(f"conf/{CTID}.{kind}" for kind in ("conf", "resize"))


def _return_tree(n: Node) -> None:
    # Only where they are trees are private areas moved.
    ctid, other = (SPARE, CTID) if n.sub else (CTID, SPARE)
    n.call("return_tree", dirs=n.dirs("private"), ctid=ctid, other=other)


def _handover(n: Node) -> dict[str, Any]:
    dirs = n.dirs("private", "root", "conf", "dump", "names", "cgroup")
    return {"dirs": dirs, "ctid": CTID}


#: Each verb that uses a path on the node.
USES: dict[str, Use] = {
    "read_file": Use(_read_file, IN_ROOT),
    "inspect_tree": Use(_inspect, IN_ROOT),
    "write_files": Use(_write_files, IN_ROOT),
    "tree_size": Use(lambda n: n.call("tree_size", **n.tree), IN_ROOT),
    "pack_contents": Use(_pack_contents, (*IN_ROOT, f"{TREE}/.ovz-snapshot")),
    "pack_tree": Use(
        _pack_tree,
        (*IN_ROOT, "caller/spool"),
        hard_links={"caller/": "it is judged by its owner, who is the caller"},
    ),
    "restore_attributes": Use(
        lambda n: n.call("restore_attributes", **n.tree, uid=0, gid=0, seconds=30),
        (*IN_ROOT, *(f"{TREE}/.ovz-snapshot/attributes.{i}" for i in (0, 6))),
        _list_attributes,
        hard_links={
            "private/": "no guest can link what is outside; inside, all names of a file"
            " are one file"
        },
    ),
    "send_tree": Use(_send, (*IN_ROOT, "caller/progress")),
    "remove_container": Use(
        lambda n: n.call(
            "remove_container",
            dirs=n.dirs(*(area for area in AREAS if area != "netns")),
            ctid=CTID,
        ),
        (
            *IN_ROOT,
            *_CONFS,
            f"root/{CTID}/target",
            f"dump/Dump.{CTID}/target",
            f"lock/{CTID}.lck",
            "names/server",
            f"cgroup/cpu/vz-{CTID}/inner",
        ),
    ),
    "remove_dump": Use(
        lambda n: n.call("remove_dump", dirs=n.dirs("dump", "private"), ctid=CTID),
        (f"private/{CTID}/dump/Dump/target", f"dump/Dump.{CTID}/target"),
    ),
    "list_artifacts": Use(
        lambda n: n.call(
            "list_artifacts",
            dirs=n.dirs("private", "root", "conf", "dump", "lock", "names"),
        ),
        (
            f"private/{CTID}",
            f"root/{CTID}",
            f"conf/{CTID}.conf",
            f"dump/Dump.{CTID}",
            f"lock/{CTID}.lck",
            "names/server",
        ),
    ),
    "survey": Use(
        lambda n: n.call("survey", dirs=_surveyed(n), sub=n.sub),
        (
            f"private/{CTID}/{{sub}}",
            f"private/{CTID}/ve.conf.ovz-{'0' * 16}",
            f"private/.incoming-{KEY}",
            f"private/{PROOF}",
            f"root/{CTID}",
            *_CONFS,
            f"conf/{CTID}.rescue",
            f"lock/{CTID}.lck",
            f"dump/Dump.{CTID}",
            "names/server",
        ),
    ),
    "remove_temporary": Use(
        _remove_temporary,
        (_TEMPORARY, f"private/{CTID}/ve.conf.ovz-{'0' * 16}", f"conf/{CTID}.conf"),
    ),
    "end_first_pass": Use(
        lambda n: n.call("end_first_pass", dirs=n.dirs("lock"), ctid=CTID, wait=0),
        (f"lock/{CTID}.lck",),
    ),
    "measure_first_pass": Use(
        lambda n: n.call("measure_first_pass", dirs=n.dirs("lock"), ctid=CTID),
        (f"lock/{CTID}.lck",),
    ),
    "check_dirs": Use(
        lambda n: n.call("check_dirs", dirs={"area": n.dir(f"private/{CTID}")}),
        (f"private/{CTID}",),
    ),
    "ensure_root_dir": Use(
        lambda n: n.call("ensure_root_dir", base=n.dir("root"), ctid=CTID),
        (f"root/{CTID}",),
    ),
    "swap_in": Use(
        lambda n: n.call("swap_in", **_swap(n), other=OTHER),
        (TREE, f"private/{OTHER}/{{sub}}/instance", f"conf/{CTID}.rescue"),
    ),
    "swap_out": Use(
        lambda n: n.call("swap_out", **_swap(n), other=SPARE),
        (f"{TREE}/instance", f"private/{SPARE}/{{sub}}", f"conf/{CTID}.rescue"),
        _swapped,
    ),
    "swap_out after an interruption": Use(
        lambda n: n.call("swap_out", **_swap(n), other=SPARE),
        (TREE, f"private/{SPARE}/{{sub}}/instance"),
        _half_swapped,
    ),
    "settle_swap": Use(
        lambda n: n.call("settle_swap", **_swap(n)),
        (TREE, f"private/{SPARE}/{{sub}}/instance", f"conf/{CTID}.rescue"),
        _half_swapped,
    ),
    "keep_conf": Use(
        lambda n: n.call("keep_conf", dirs=n.dirs("conf", "private"), ctid=CTID),
        _CONFS,
    ),
    "restore_conf": Use(
        lambda n: n.call("restore_conf", dirs=n.dirs("conf", "private"), ctid=CTID),
        _CONFS,
        lambda n: n.call("keep_conf", dirs=n.dirs("conf"), ctid=CTID),
    ),
    "drop_conf": Use(
        lambda n: n.call("drop_conf", dirs=n.dirs("conf"), ctid=CTID),
        _CONFS,
        lambda n: n.call("keep_conf", dirs=n.dirs("conf"), ctid=CTID),
    ),
    "adopt_incoming": Use(
        lambda n: n.call(
            "adopt_incoming",
            dirs=n.dirs("private"),
            ctid=CTID,
            sub=n.sub,
            key=KEY,
        ),
        (
            f"{TREE}/target",
            f"private/.incoming-{KEY}/tree/target",
            f"private/.incoming-{KEY}/replaced/target",
            f"private/.incoming-{KEY}.adopted",
        ),
        _arrived,
    ),
    "drop_incoming": Use(
        lambda n: n.call("drop_incoming", dirs=n.dirs("private"), key=KEY),
        (
            f"private/.incoming-{KEY}/tree/target",
            f"private/.incoming-{KEY}.adopted",
        ),
        _arrived,
    ),
    "list_incoming": Use(
        lambda n: n.call("list_incoming", dirs=n.dirs("private")),
        (f"private/.incoming-{KEY}/tree",),
    ),
    "take_tree": Use(
        lambda n: n.call("take_tree", dirs=n.dirs("private"), ctid=CTID, other=OTHER),
        (f"{TREE}/target",),
    ),
    "return_tree": Use(
        _return_tree,
        (f"{TREE}/target",),
    ),
    "hand_over": Use(
        lambda n: n.call("hand_over", **_handover(n), host="host1"),
        (
            f"private/{CTID}/target",
            f"private/.handed-{CTID}/dump",
            f"conf/{CTID}.conf",
            f"dump/Dump.{CTID}/target",
            "names/server",
        ),
    ),
    "take_over": Use(
        lambda n: n.call("take_over", **_handover(n), host="host2"),
        (
            f"private/{CTID}",
            f"private/.handed-{CTID}/tree/target",
            f"private/.handed-{CTID}/dump/target",
            f"private/.handed-{CTID}/conf",
            f"private/.handed-{CTID}/taker",
            f"conf/{CTID}.conf",
            f"dump/Dump.{CTID}/target",
        ),
        lambda n: n.call("hand_over", **_handover(n), host="host1"),
    ),
    "plant_proof": Use(
        lambda n: n.call("plant_proof", dirs=n.dirs("private")),
        (f"private/{PROOF}",),
    ),
    "find_proof": Use(
        lambda n: n.call("find_proof", dirs=n.dirs("private"), name=PROOF),
        (f"private/{PROOF}",),
    ),
    "remove_proof": Use(
        lambda n: n.call("remove_proof", dirs=n.dirs("private"), name=PROOF),
        (f"private/{PROOF}",),
    ),
    "write_host_ends": Use(
        lambda n: n.call(
            "write_host_ends",
            base=n.dir("conf"),
            ctid=CTID,
            text=hostends.encode([dataclasses.replace(END, mtu=1400)]),
        ),
        (f"conf/{CTID}.nics", f"conf/{CTID}.conf"),
    ),
    "apply_host_ends": Use(_apply, (f"conf/{CTID}.nics",)),
    "drop_pairs": Use(_drop_pairs, (f"conf/{CTID}.nics",)),
    "check_host_ends": Use(_check, (f"conf/{CTID}.nics",)),
    "announce": Use(
        lambda n: n.call("announce", base=n.dir("conf"), ctid=CTID),
        (f"conf/{CTID}.nics", f"netns/{CTID}"),
    ),
}

#: Those that do something else where a tree is the private area itself.
AT_TOP = (
    *("swap_in", "swap_out", "adopt_incoming", "write_files", "pack_tree"),
    *("take_tree", "return_tree", "hand_over", "take_over"),
)
#: Those that know no other place of a tree.
VZCTL4_ONLY = ("hand_over", "take_over")

#: Those that use none, and why.
NO_TREE = {
    "ping": "tells who it is",
    "run": "vzctl and vzlist alone use paths, and no path but a template's is passed",
    "drop_host_ends": "has ip remove devices by name",
}
