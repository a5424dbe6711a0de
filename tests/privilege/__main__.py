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

"""``python -m tests.privilege [pytest's options]``: try both ways to root for real.

Needs root to set itself up, and the distribution's sudo. It makes a throw-away
user with the line in sudoers that README.rst documents, a rootwrap.conf with the
filters that are shipped, and a simulated node of each family that belongs to root;
then runs tests/privilege and tests/contract as that user, by privsep and by
rootwrap, both at once. At last it looks whether every verb, and every command that
went by privsep, went by rootwrap too. All of it is removed at the end, however it ends.

What the tests find in their environment:

* ``OVZ_PRIVILEGE``: privsep or rootwrap
* ``OVZ_PRIVILEGE_HELPER``: the root helper, in nova's form
* ``OVZ_PRIVILEGE_DIR``: holds, for each of pytest's workers, ``node4`` and ``node9``,
  the simulated nodes, whose ``bin`` directories hold vzctl and vzlist; both have the
  template ``tiny``. ``service4`` and ``service9`` are for whole services. And
  ``neighbour4.json`` and ``neighbour9.json`` say how trees go to other nodes, where
  OpenSSH's server and rsync are installed
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from ovznovadriver.openvz import privileged
from tests import ssh
from tests.privilege import neighbours, readable
from tests.simulator.node import Family, SimNode

PROJECT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = pathlib.Path(sys.executable).parent
WAYS = ("privsep", "rootwrap")
WORKERS = int(os.environ.get("OVZ_TEST_WORKERS", "2"))
FAMILIES: tuple[Family, ...] = ("4", "9")
NEEDED = ("sudo", "visudo", "useradd", "userdel", "setpriv", "unshare")
#: pytest's exit code where it has found none.
NO_TESTS = 5
SUDO_LOG = "sudo.log"
ROOTWRAP = "rootwrap.conf"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# A vzctl that is slow in two ways, for what the simulator's one cannot show to a
# user who may not write to its node.
_SLOW_VZCTL = """#!/bin/sh
cd {directory}
case $1 in
status)  # ends when twenty of them have begun
    touch begun.$2
    until [ $(ls | grep -c begun) -ge 20 ]; do sleep 0.1; done
    ;;
stop)  # does not end, nor does its child, in a session of its own
    (setsid sh -c 'touch child.$$; exec sleep 1000' &)
    touch parent.$$
    exec sleep 1000
    ;;
esac
"""


def reason_not_to() -> str | None:
    """Why this cannot be tried here; None where it can."""
    if os.geteuid() != 0:
        return "only root can make the user and the line in sudoers that it needs"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing: install the distribution's sudo"
    scripts = ("nova-rootwrap", "privsep-helper", "ovz-privileged")
    missing = [name for name in scripts if not (SCRIPTS / name).exists()]
    if missing:
        return f"{', '.join(missing)} not in {SCRIPTS}: run 'tox -e privilege'"
    return None


def _call(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def _processes_of(user: str) -> set[int]:
    """What the throw-away user runs, what sudo has run for it, and their children."""
    uid = pwd.getpwnam(user).pw_uid
    mark = f"SUDO_USER={user}".encode()
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            stat = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            if stat[0] in (b"Z", b"X"):
                continue
            pid = int(entry.name)
            parents[pid] = int(stat[1])
            mine = entry.stat().st_uid == uid
            if mine or mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _end_processes(user: str) -> None:
    """End them, and wait until they are gone: they write where we clean up."""
    deadline = time.monotonic() + 30
    while (left := _processes_of(user)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _make_nodes(directory: pathlib.Path) -> None:
    for way, worker in itertools.product(WAYS, range(WORKERS)):
        place = directory / way / f"gw{worker}"
        for family in FAMILIES:
            SimNode(place / f"node{family}", family).add_template("tiny")
            SimNode(place / f"service{family}", family, uid_offset=neighbours.OFFSET)
        slow = place / "slow"
        slow.mkdir()
        (slow / "vzctl").write_text(_SLOW_VZCTL.format(directory=slow))
        (slow / "vzctl").chmod(0o755)


def _make_rootwrap(directory: pathlib.Path) -> None:
    filters = directory / "rootwrap.d"
    filters.mkdir()
    shutil.copy(PROJECT / "etc/nova/rootwrap.d/openvz.filters", filters)
    conf = directory / ROOTWRAP
    conf.write_text(
        f"[DEFAULT]\nfilters_path={filters}\nexec_dirs={SCRIPTS},/usr/sbin,/usr/bin\n"
        "use_syslog=False\n"
    )


def _make_sudoers(
    user: str,
    directory: pathlib.Path,
    into: pathlib.Path,
    receivers: list[pathlib.Path],
) -> None:
    conf = directory / ROOTWRAP
    # The line is the documented one; secure_path is for a virtual environment, and the
    # log for what is looked up in it at last.
    text = (
        f"Defaults:{user} secure_path={SCRIPTS}:{SYSTEM_PATH}\n"
        f"Defaults:{user} logfile={directory / SUDO_LOG}, loglinelen=0\n"
        f"{user} ALL=(root) NOPASSWD: {SCRIPTS}/nova-rootwrap {conf} *\n"
    )
    if receivers:
        # How the user gets to read a checkout of root's when it comes by ssh.
        programs = ", ".join(map(str, receivers))
        text += f"Defaults!{programs} env_keep += SSH_ORIGINAL_COMMAND\n"
        text += f"{user} ALL=(root) NOPASSWD: {programs}\n"
    with tempfile.NamedTemporaryFile("w", prefix="sudoers-") as draft:
        draft.write(text)
        draft.flush()
        _call("visudo", "-qcf", draft.name)
    into.touch(mode=0o440)
    into.write_text(text)


def _make_neighbours(
    server: ssh.Sshd, user: str, directory: pathlib.Path
) -> list[pathlib.Path]:
    """What root has to run so that the user's ssh can read our files; seldom any."""
    # The keys in it are root's alone, and the user has to find what lets it in.
    (directory / "ssh").chmod(0o711)
    become = [] if _is_readable_by(user) else _become(user)
    receivers = []
    for way, worker, family in itertools.product(WAYS, range(WORKERS), FAMILIES):
        home = directory / "home"
        service = neighbours.Service(user, home, way, directory / ROOTWRAP, become)
        place = directory / way / f"gw{worker}"
        receivers.append(neighbours.add(server, service, place, family))
    return receivers if become else []


@contextlib.contextmanager
def scene() -> Iterator[tuple[str, pathlib.Path]]:
    """The user's name and the directory, with everything that the tests need."""
    user = f"ovz-test-{os.getpid()}"
    sudoers = pathlib.Path("/etc/sudoers.d") / user
    with contextlib.ExitStack() as undo:
        # Not under /tmp: what runs as root must lie where root alone may write.
        directory = pathlib.Path(tempfile.mkdtemp(prefix="ovz-test-", dir="/var/lib"))
        undo.callback(shutil.rmtree, directory)
        directory.chmod(0o755)
        # sshd lets nobody in whose account is locked, as it is without any password.
        account = ["--system", "--user-group", "--no-create-home", "--password=*"]
        _call("useradd", *account, "--shell=/bin/sh", user)
        undo.callback(_call, "userdel", user)
        undo.callback(_end_processes, user)
        undo.callback(sudoers.unlink, missing_ok=True)
        _make_nodes(directory)
        home = directory / "home"
        home.mkdir(mode=0o700)
        shutil.chown(home, user, user)
        _make_rootwrap(directory)
        receivers = []
        if ssh.reason_not_to() is None:
            server = undo.enter_context(ssh.serving(directory / "ssh"))
            receivers = _make_neighbours(server, user, directory)
        for cache in directory.glob("*/*/*/vz/template/cache"):
            shutil.chown(cache, user, user)  # the service keeps its images there
        _make_sudoers(user, directory, sudoers, receivers)
        yield user, directory


def _is_readable_by(user: str) -> bool:
    owner = pwd.getpwnam(user)
    trial = [sys.executable, "-c", "import nova, tests.privilege"]
    # Python itself, or the way to it, may not be readable either.
    with contextlib.suppress(PermissionError):
        done = subprocess.run(
            trial,
            cwd=PROJECT,
            user=owner.pw_uid,
            group=owner.pw_gid,
            extra_groups=[],
            capture_output=True,
        )
        return done.returncode == 0
    return False


def _become(user: str, *, sees_all: bool = False) -> list[str]:
    """The command that runs another one as the user.

    :param sees_all: it may read what is root's, and still change nothing of it
    """
    owner = pwd.getpwnam(user)
    become = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}"]
    become.append("--clear-groups")
    if not sees_all and not _is_readable_by(user):
        # Its own mode is in the way, and not that of a directory above it.
        print("The checkout or Python is root's alone: the user gets to read it.")
        sees_all = True
    if sees_all:
        become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return [*become, "--"]


def _try(user: str, directory: pathlib.Path, way: str, options: list[str]) -> int:
    """Run the tests as the user, with what they say going to a file; an exit code."""
    home = directory / "home"
    env = {
        "PATH": f"{SCRIPTS}:{SYSTEM_PATH}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OS_NOVA_DISABLE_EVENTLET_PATCHING": "true",
        "OVZ_PRIVILEGE": way,
        "OVZ_PRIVILEGE_HELPER": f"sudo nova-rootwrap {directory / ROOTWRAP}",
        "OVZ_PRIVILEGE_DIR": str(directory / way),
        "OVZ_THOROUGH": os.environ.get("OVZ_THOROUGH", ""),
    }
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    pytest += ["--basetemp", f"{home}/{way}", "-n", str(WORKERS)]
    pytest += ["--dist", "worksteal", *options]
    # What the tools did to a node, the contract tests see for themselves. Those with
    # recordings are left out: no command goes by way of root.
    contract = ["tests/contract", "--ignore=tests/contract/test_recordings.py"]
    commands = (
        [*_become(user), *pytest, "tests/privilege"],
        [*_become(user, sees_all=True), *pytest, *contract],
    )
    codes = []
    with (directory / way / "output").open("wb") as output:
        for argv in commands:
            done = subprocess.run(
                argv, cwd=PROJECT, env=env, stdout=output, stderr=output
            )
            codes.append(done.returncode)
    # The options may choose none of a part.
    return next((code for code in codes if code not in (0, NO_TESTS)), 0)


def run(user: str, directory: pathlib.Path, options: list[str]) -> list[int]:
    """Run the tests as the user by both ways at once; pytest's exit codes."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        tries = {w: pool.submit(_try, user, directory, w, options) for w in WAYS}
    for way in tries:
        print(f"== as {user}, by {way}", flush=True)
        print((directory / way / "output").read_text(errors="replace"), flush=True)
    return [tried.result() for tried in tries.values()]


def _commands(directory: pathlib.Path, way: str) -> set[tuple[str, str, str]]:
    """What the nodes of a way were asked: family, program and subcommand."""
    return {
        (family, command.program, command.subcommand)
        for family in FAMILIES
        for place in (directory / way).glob(f"gw*/node{family}")
        for command in SimNode(place, family).commands()
    }


def not_by_rootwrap(directory: pathlib.Path) -> list[str]:
    """Verbs, and commands that went by privsep, that did not go by rootwrap."""
    log = (directory / SUDO_LOG).read_text(errors="replace")
    called = set(re.findall(r"ovz-privileged call (\w+)", log)) | {"run"}
    commands = _commands(directory, "privsep") - _commands(directory, "rootwrap")
    verbs = set(privileged.VERBS) - called
    return sorted([*verbs, *(" ".join(command) for command in commands)])


def _leave(number: int, _frame: object) -> None:
    # The first one cleans up, and a second one does not disturb that.
    for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def main(options: list[str]) -> int:
    """The command; its exit code is that of the first way that failed."""
    reason = reason_not_to()
    if reason:
        print(f"The ways to root cannot be tried here: {reason}.", file=sys.stderr)
        return 1
    readable.have_namespace([sys.executable, "-m", "tests.privilege", *options])
    # A signal must not leave a user and a line in sudoers behind.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _leave)
    os.umask(0o022)
    readable.show({PROJECT, *map(pathlib.Path, (sys.prefix, sys.base_prefix))})
    os.chdir(PROJECT)
    with scene() as (user, directory):
        codes = run(user, directory, options)
        # A part of the tests need not go everywhere.
        missing = [] if options or any(codes) else not_by_rootwrap(directory)
    if missing:
        print(f"No test goes by rootwrap to: {', '.join(missing)}", file=sys.stderr)
        return 1
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
