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
"""A simulated OpenVZ node for tests: its tools, its state, faults on order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.simulator.archive import BASE_DIRECTORIES, BASE_TREE, write_archive
from tests.simulator.orders import Orders

SIMULATOR = Path(__file__).resolve().parent
if str(SIMULATOR) not in sys.path:
    sys.path.insert(0, str(SIMULATOR))

from ovzsim import area, cli, guest, links, netif, state  # noqa: E402 - needs the path above
from ovzsim.base import Streams, write_text  # noqa: E402
from ovzsim.conffile import ConfFile  # noqa: E402
from ovzsim.host import SWITCHES, Host  # noqa: E402

Family = Literal["4", "9"]

_WRAPPER = """#!{python} -ES
import sys
sys.path.insert(0, {simulator!r})
from ovzsim.cli import run
run({program!r}, {env!r})
"""


@dataclass(frozen=True)
class Command:
    """One call of a tool, as the log has it.

    :ivar argv: program and arguments.
    :ivar rc: exit code; None for a call that was killed or still runs.
    :ivar start: time of day when it began, in seconds.
    :ivar seconds: how long it took; None as for rc.
    """

    argv: tuple[str, ...]
    rc: int | None
    start: float
    seconds: float | None
    pid: int
    ppid: int

    @property
    def program(self) -> str:
        """vzctl, vzlist, vzmigrate, ip or tc; or what watch() was given."""
        return self.argv[0]

    @property
    def subcommand(self) -> str:
        """The first argument that is not an option of vzctl itself."""
        rest = [a for a in self.argv[1:] if not a.startswith("--")]
        return rest[0] if rest and self.program == "vzctl" else ""


@dataclass(frozen=True)
class Result:
    """What a command run in this process answered."""

    rc: int
    stdout: str
    stderr: str


@dataclass
class SimNode(Orders):
    """A node with its tools; everything it knows lies below its directory.

    :param root: the node's directory; made when it is not there.
    :param family: "4" (vzctl 4.9.4) or "9" (vzctl 9.0.1).
    :param ploop: layout ploop works (family 4).
    :param uid_offset: LOCAL_UID and LOCAL_GID in vz.conf; None leaves them out, as
        shifting owners needs root.
    :param vefstype: VEFSTYPE in vz.conf (family 9).
    :param criu: checkpoints work (family 4).
    :param check_init: start looks for an init in the tree (exit 47 without).
    :param openvz_kernel: vswap, disk quota and I/O limits are there (family 4).
    :param peers: nodes that vzmigrate reaches, by host name.
    :param netns: NICs are real veth pairs, into real network namespaces that bear the
        CTID; needs root. Nothing is undone at the end but by reboot().
    """

    root: Path
    family: Family
    ploop: bool = False
    uid_offset: int | None = None
    vefstype: str = "simfs"
    criu: bool = True
    check_init: bool = False
    openvz_kernel: bool = False
    netns: bool = False
    peers: dict[str, SimNode] = field(default_factory=dict, repr=False)
    host: Host = field(init=False, repr=False)

    PROGRAMS = cli.PROGRAMS

    def __post_init__(self) -> None:
        self.root = Path(self.root).resolve()
        self.host = Host(str(self.root), self.family)
        self.host.ensure()
        for name in ("ploop", "criu", "check_init", "openvz_kernel", "netns"):
            if getattr(self, name) != SWITCHES[name]:
                self.switch(name, getattr(self, name))
        if self.netns and not self.net_dir.is_symlink():
            shutil.rmtree(self.net_dir)
            self.net_dir.symlink_to("/sys/class/net")
        if self.uid_offset is not None:
            self.set_vz_conf(
                LOCAL_UID=str(self.uid_offset), LOCAL_GID=str(self.uid_offset)
            )
        if self.family == "9" and self.vefstype != "simfs":
            self.set_vz_conf(VEFSTYPE=self.vefstype)
        self.add_peers(self.peers)

    def add_peers(self, peers: Mapping[str, SimNode]) -> None:
        """Makes other nodes reachable for vzmigrate, by host name."""
        self.peers = {**self.peers, **peers}
        if self.peers:
            roots = {name: str(node.root) for name, node in self.peers.items()}
            (self.root / "sim/peers.json").write_text(json.dumps(roots))
        self._write_wrappers()

    def watch(self, *programs: str) -> None:
        """Puts programs of the machine beside the node's own, to note their calls.

        Faults of no certain program strike them, too.
        """
        self._write_wrappers(programs)

    def _write_wrappers(self, programs: Iterable[str] = cli.PROGRAMS) -> None:
        self.bin_dir.mkdir(parents=True, exist_ok=True)
        for program in programs:
            path = self.bin_dir / program
            text = _WRAPPER.format(
                python=sys.executable,
                simulator=str(SIMULATOR),
                program=program,
                env=self.env,
            )
            if not path.exists() or path.read_text() != text:
                # Another process may be running the old one.
                temporary = path.with_name(f"{program}.{os.getpid()}")
                temporary.write_text(text)
                temporary.chmod(0o755)
                temporary.replace(path)

    # -- places ------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """What the executables in tests/simulator/bin need in their environment."""
        env = {"OVZ_SIM_ROOT": str(self.root), "OVZ_SIM_FAMILY": self.family}
        if self.peers:
            env["OVZ_SIM_PEERS"] = str(self.root / "sim/peers.json")
        return env

    @property
    def bin_dir(self) -> Path:
        """A directory with vzctl, vzlist, vzmigrate, ip and tc of this node.

        They carry the node with them and need nothing in their environment.
        """
        return self.root / "bin"

    @property
    def conf_dir(self) -> Path:
        """Configuration files of containers."""
        return self.root / "etc/vz/conf"

    @property
    def names_dir(self) -> Path:
        """Links that the names of containers are."""
        return self.root / "etc/vz/names"

    @property
    def private_dir(self) -> Path:
        """Private areas."""
        return self.root / "vz/private"

    @property
    def root_dir(self) -> Path:
        """Root mount points."""
        return self.root / "vz/root"

    @property
    def lock_dir(self) -> Path:
        """Lock files of vzctl."""
        return self.root / "vz/lock"

    @property
    def dump_dir(self) -> Path:
        """Checkpoints of family 4."""
        return self.root / "vz/dump"

    @property
    def template_dir(self) -> Path:
        """Where archives of templates lie."""
        return self.root / "vz/template/cache"

    @property
    def net_dir(self) -> Path:
        """Network interfaces of the host, one directory each.

        With real ones, the machine's own directory of them.
        """
        return self.root / "sys/class/net"

    # -- settings ------------------------------------------------------------------

    def switch(self, name: str, value: bool) -> None:
        """Changes what the node can do; the names are those of host.SWITCHES."""
        if name not in SWITCHES:
            raise KeyError(name)
        path = self.root / "sim/switches.json"
        chosen = json.loads(path.read_text()) if path.exists() else {}
        # Commands may be reading it: it changes at once.
        write_text(str(path), json.dumps({**chosen, name: value}))

    @property
    def blind_vzlist(self) -> bool:
        """vzlist of family 4 sees no containers and says so on stderr, rc 0."""
        return self.host.switch("blind_vzlist")

    @blind_vzlist.setter
    def blind_vzlist(self, value: bool) -> None:
        self.switch("blind_vzlist", value)

    def set_vz_conf(self, **settings: str) -> None:
        """Changes vz.conf."""
        conf = ConfFile.load(str(self.root / "etc/vz/vz.conf"))
        conf.update(dict(settings), ())
        conf.save()
        self.host = Host(str(self.root), self.family)

    # -- containers ------------------------------------------------------------------

    def containers(self) -> list[str]:
        """CTIDs that have a configuration file, sorted as text."""
        found = (p.name.removesuffix(".conf") for p in self.conf_dir.glob("*.conf"))
        return sorted(ctid for ctid in found if ctid != "0" or self.family == "9")

    def conf(self, ctid: str | int) -> dict[str, str]:
        """The parameters of a container. :raises FileNotFoundError: no such one."""
        file = ConfFile.load(self.host.conf_path(str(ctid)))
        return file.parse(strict=self.family == "4")[0]

    def conf_text(self, ctid: str | int) -> str:
        """The configuration file of a container as it is."""
        return Path(self.host.conf_path(str(ctid))).read_text()

    def tree(self, ctid: str | int) -> Path:
        """Where a container's files are now."""
        return Path(area.Area(self.host, str(ctid), self.conf(ctid)).tree)

    def image_kb(self, ctid: str | int) -> int:
        """The size of the file system in a container's ploop image."""
        return area.Area(self.host, str(ctid), self.conf(ctid)).image_kb

    def state(self, ctid: str | int) -> str:
        """ "running", "paused", "mounted", "suspended" or "stopped"."""
        live = state.State(self.host, str(ctid))
        if live.running:
            return "paused" if live.paused else "running"
        if live.mounted:
            return "mounted"
        dumps = (
            self.dump_dir / f"Dump.{ctid}",
            self.private_dir / str(ctid) / "dump/Dump",
        )
        return "suspended" if any(d.exists() for d in dumps) else "stopped"

    def halt(self, ctid: str | int) -> None:
        """The container halts from inside: no process left, still mounted."""
        state.State(self.host, str(ctid)).stopped()

    def restart_inside(self, ctid: str | int) -> Result:
        """The container reboots from inside.

        Its processes and NICs are gone at once. Then the node, which watches for
        that, unmounts and starts it, with the hooks and without anybody else.

        :returns: what the start answered.
        """
        self.halt(ctid)
        for action in ("umount", "start"):
            argv = [self.bin_dir / "vzctl", action, str(ctid)]
            done = subprocess.run(argv, capture_output=True, text=True)
        return Result(done.returncode, done.stdout, done.stderr)

    def reboot(self) -> None:
        """The node goes down hard and comes up: nothing runs, nothing is mounted.

        Lock files stay; their pids mean nothing any more. Host ends that are
        configured are gone, whoever made them.
        """
        network = links.of(self.host)
        for ctid in self.containers():
            live = state.State(self.host, ctid)
            live.stopped()
            conf = self.conf(ctid)
            for nic in netif.parse(conf.get("NETIF", "")):
                network.remove(nic["host_ifname"])
            if live.mounted:
                area.Area(self.host, ctid, conf).umount()
                live.mounted = False
                live.save()
        shutil.rmtree(self.root / "sys/fs/cgroup", ignore_errors=True)
        (self.root / "sys/fs/cgroup").mkdir()

    def nics(self) -> list[str]:
        """Names of the host's network interfaces, without lo."""
        return links.of(self.host).names()

    def add_nic(self, name: str, mac: str = "02:00:00:00:00:01") -> None:
        """Makes a network interface of the host (a bridge, or a name that is taken)."""
        if not links.of(self.host).add(name, mac):
            raise FileExistsError(name)

    def remove_nic(self, name: str) -> None:
        """Takes a network interface of the host away."""
        links.of(self.host).remove(name)

    def link(self, name: str) -> dict[str, Any]:
        """What ip and tc have set on an interface, where none is real.

        kind, peer, up; tbf (what follows that word), ingress, redirects (ifb devices).
        """
        return links.Plain(self.host).record(name)

    def note_link(self, name: str, **changes: object) -> None:
        """Changes what link() gives; foreign_root is somebody else's root qdisc."""
        links.Plain(self.host).note(name, **changes)

    def add_device(self, name: str) -> Path:
        """Makes a device node below the node's /dev."""
        path = self.root / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def set_usage(
        self,
        ctid: str | int,
        physpages: int = 0,
        diskspace: int = 0,
        numproc: int = 1,
    ) -> None:
        """What vzlist reports as used.

        :param physpages: memory in pages of 4 KiB.
        :param diskspace: disk in KiB.
        """
        path = self.root / f"sim/usage/{ctid}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps(
                {"physpages": physpages, "diskspace": diskspace, "numproc": numproc}
            )
        )

    def password_matches(self, ctid: str | int, user: str, password: str) -> bool:
        """Whether the simulated chpasswd has set that password."""
        shadow = (self.tree(ctid) / "etc/shadow").read_text()
        for line in shadow.splitlines():
            name, hashed, *_ = [*line.split(":"), ""]
            if name == user:
                return guest.password_matches(hashed, password)
        return False

    def leftovers(self, ctid: str | int) -> list[Path]:
        """Everything of a container that a complete destroy leaves nothing of."""
        places = [
            self.conf_dir / f"{ctid}.conf",
            self.private_dir / str(ctid),
            self.root_dir / str(ctid),
            self.lock_dir / f"{ctid}.lck",
            self.dump_dir / f"Dump.{ctid}",
            self.root / f"sim/state/{ctid}.json",
        ]
        places += [
            link
            for link in self.names_dir.iterdir()
            if os.readlink(link).endswith(f"/{ctid}.conf")
        ]
        return [place for place in places if os.path.lexists(place)]

    # -- templates ---------------------------------------------------------------------

    def add_template(
        self,
        name: str,
        files: Mapping[str, str | bytes] | None = None,
        base: bool = True,
    ) -> Path:
        """Puts a template archive into the cache.

        :param name: a name without suffix (packed as tar.gz), or a whole file name
            with the suffix that says how to pack it.
        :param files: content by path; a path with a slash at its end is a directory.
        :param base: with an init, passwd, shadow and the password programs beneath.
        :returns: the archive. Of family 9, members begin with ``fs/``.
        """
        wanted: dict[str, str | bytes] = {**BASE_TREE} if base else {}
        if base:
            wanted |= {f"{directory}/": "" for directory in BASE_DIRECTORIES}
        wanted |= dict(files or {})
        suffix = next(
            (s for s in (".tar.gz", ".tar.bz2", ".tar.xz", ".tar") if name.endswith(s)),
            "",
        )
        path = self.template_dir / (name if suffix else f"{name}.tar.gz")
        write_archive(path, wanted, prefix="fs/" if self.family == "9" else "")
        return path

    # -- commands --------------------------------------------------------------------

    def run(self, *argv: str, stdin: bytes = b"") -> Result:
        """Runs a tool in this process: what the executables run, without starting one.

        Not for hanging, slow-stop and lose-caller faults, which need a process.
        """
        streams = Streams(capture=True)
        rc = cli.main(argv[0], list(argv[1:]), self.env, streams, stdin)
        return Result(rc, *streams.captured())

    def commands(self, program: str = "", subcommand: str = "") -> list[Command]:
        """Every call so far, in the order in which they began."""
        calls: dict[str, dict[str, Any]] = {}
        for record in self._log():
            calls.setdefault(record["id"], {}).update(record)
        found = [
            Command(
                argv=tuple(c["argv"]),
                rc=c.get("rc"),
                start=c["start"],
                seconds=c.get("seconds"),
                pid=c["pid"],
                ppid=c["ppid"],
            )
            for c in calls.values()
            if "argv" in c
        ]
        return [
            c
            for c in found
            if program in ("", c.program) and subcommand in ("", c.subcommand)
        ]

    def _log(self) -> list[dict[str, Any]]:
        path = self.root / "sim/log.jsonl"
        if not path.exists():
            return []
        # Of a line that is just being written, the first part may be there.
        whole, _, _ = path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def clear_commands(self) -> None:
        """Forgets the calls so far."""
        (self.root / "sim/log.jsonl").unlink(missing_ok=True)

    def stdin_given(self) -> list[bytes]:
        """Everything that commands in containers were given on standard input."""
        return [path.read_bytes() for path in (self.root / "sim/stdin").iterdir()]

    def script_exec(
        self, pattern: str, rc: int = 0, stdout: str = "", stderr: str = ""
    ) -> None:
        """Answers commands in containers that match a regular expression."""
        entry = {"pattern": pattern, "rc": rc, "stdout": stdout, "stderr": stderr}
        with (self.root / "sim/exec.jsonl").open("a") as handle:
            handle.write(json.dumps(entry) + "\n")

    def console_write(self, ctid: str | int, data: bytes) -> None:
        """Has a container say something on its system console."""
        path = self.root / f"sim/console/{ctid}.1.says"
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as handle:
            handle.write(data)
