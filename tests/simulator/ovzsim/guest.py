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
"""What happens inside a container: commands that vzctl runs there, passwords.

A command runs for real where that can do no harm: in a chroot when the tree has a
shell of its own and the caller is root, else by the machine's /bin/sh with the tree as
working directory, as an unprivileged user, finding no programs but the tree's own and
a few harmless ones.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

from ovzsim import base
from ovzsim.base import Streams, Unmodelled
from ovzsim.host import Host

_PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
_HARMLESS = (
    "basename cat cut dirname grep head id ls sed seq sleep sort stat tail touch tr "
    "uname wc"
).split()
_HALTS = ("poweroff", "halt", "shutdown")
_NOBODY = 65534


class Command:
    """A command for a container, and what it may read.

    :ivar hostname: what ``hostname`` answers inside.
    """

    def __init__(self, line: str, stdin: bytes | None, hostname: str = "") -> None:
        self.line = line
        self.hostname = hostname.partition(".")[0] or "localhost"
        # None: the process's own standard input.
        self.stdin = stdin

    def read_all(self) -> bytes:
        """The whole standard input."""
        if self.stdin is not None:
            return self.stdin
        if os.isatty(0):
            return b""
        chunks = []
        while chunk := os.read(0, 65536):
            chunks.append(chunk)
        self.stdin = b"".join(chunks)
        return self.stdin


def keep_stdin(host: Host, ctid: str, data: bytes) -> None:
    """Files what a command was given on its standard input, for tests to look at."""
    if data:
        name = f"{ctid}-{os.getpid()}-{os.urandom(4).hex()}"
        with open(host.sim("stdin", name), "wb") as handle:
            handle.write(data)


def run(host: Host, ctid: str, tree: str, command: Command, streams: Streams) -> int:
    """Runs a command in a container.

    :returns: its exit code; the negative signal number when a signal ended it.
    """
    scripted = _scripted(host, command.line)
    if scripted is not None:
        keep_stdin(host, ctid, command.read_all())
        streams.out(str(scripted.get("stdout", "")))
        streams.err(str(scripted.get("stderr", "")))
        return int(str(scripted.get("rc", 0)))
    program, *arguments = command.line.split() or [""]
    program = os.path.basename(program)
    if program == "chpasswd" and has_program(tree, program):
        data = command.read_all()
        keep_stdin(host, ctid, data)
        return _chpasswd(tree, data, arguments, streams)
    if program == "reboot":
        raise Unmodelled("reboot from inside a container")
    return _shell(host, ctid, tree, command, streams)


def halts(line: str) -> bool:
    """The command shuts the container down."""
    return os.path.basename((line.split() or [""])[0]) in _HALTS


def has_program(tree: str, name: str) -> bool:
    """The tree has a program of that name."""
    return any(os.path.lexists(os.path.join(tree, d, name)) for d in _PATH)


def has_init(tree: str) -> bool:
    """The tree has what the kernel would start."""
    return any(
        os.path.lexists(os.path.join(tree, place))
        for place in ("sbin/init", "etc/init", "bin/init", "usr/sbin/init")
    )


def _scripted(host: Host, line: str) -> dict[str, object] | None:
    try:
        text = base.read_text(host.sim("exec.jsonl"))
    except FileNotFoundError:
        return None
    for entry in map(json.loads, text.splitlines()):
        if re.search(entry["pattern"], line):
            return dict(entry)
    return None


# -- passwords ----------------------------------------------------------------


def password_hash(password: str) -> str:
    """A hash in the form of the shadow file; only password_matches() reads it."""
    salt = os.urandom(6).hex()
    return f"$sim${salt}${_digest(salt, password)}"


def password_matches(hashed: str, password: str) -> bool:
    """Whether password_hash() made the hash of that password."""
    _, kind, salt, digest = [*hashed.split("$"), "", "", "", ""][:4]
    return kind == "sim" and digest == _digest(salt, password)


def _digest(salt: str, password: str) -> str:
    import hashlib  # slow to import

    return hashlib.sha256((salt + password).encode()).hexdigest()


def set_password(tree: str, user: str, hashed: str) -> bool:
    """Puts a hash into the tree's shadow file; False when there is no such user."""
    path = os.path.join(tree, "etc/shadow")
    try:
        lines = base.read_text(path).splitlines()
    except FileNotFoundError:
        lines = []
    for place, line in enumerate(lines):
        fields = line.split(":")
        if fields[0] == user and len(fields) > 1:
            fields[1] = hashed
            lines[place] = ":".join(fields)
            break
    else:
        if not _in_passwd(tree, user):
            return False
        lines.append(f"{user}:{hashed}:19000:0:99999:7:::")
    with open(path, "w", encoding="utf-8") as handle:
        handle.write("\n".join(lines) + "\n")
    return True


def _in_passwd(tree: str, user: str) -> bool:
    try:
        text = base.read_text(os.path.join(tree, "etc/passwd"))
    except FileNotFoundError:
        return False
    return any(line.split(":")[0] == user for line in text.splitlines())


def _chpasswd(tree: str, data: bytes, arguments: list[str], streams: Streams) -> int:
    encrypted = "-e" in arguments or "--encrypted" in arguments
    rc = 0
    for number, line in enumerate(data.decode().splitlines(), start=1):
        user, colon, password = line.partition(":")
        hashed = password if encrypted else password_hash(password)
        if not colon or not set_password(tree, user, hashed):
            streams.warn(f"chpasswd: (line {number}, user {user}) password not changed")
            rc = 1
    return rc


def change_password(
    tree: str, userpasswd: str, crypted: bool, streams: Streams
) -> bool:
    """What ``set --userpasswd`` does inside; False when a program is missing."""
    user, _, password = userpasswd.partition(":")
    known = _in_passwd(tree, user)
    for program in ("chpasswd",) if known else ("useradd", "chpasswd"):
        if not has_program(tree, program):
            streams.say(f"/bin/sh: {program}: not found")
            streams.say("Password change failed")
            return False
    if not known:
        with open(os.path.join(tree, "etc/passwd"), "a", encoding="utf-8") as handle:
            handle.write(f"{user}:x:1000:1000::/home/{user}:/bin/sh\n")
    return set_password(tree, user, password if crypted else password_hash(password))


# -- real processes -----------------------------------------------------------


def _is_program(path: str) -> bool:
    """An ELF file: what a chroot can start without anything else being there."""
    try:
        with open(os.path.realpath(path), "rb") as handle:
            return handle.read(4) == b"\x7fELF"
    except OSError:
        return False


# A path from the root, other than /dev/null, outside of a chroot: the machine's own.
_ABSOLUTE = re.compile(r"(?<![\w.)}])/(?!dev/null\b)\w")


def _prelude(hostname: str) -> str:
    """Shell functions for the few programs of the machine that a command may use.

    Functions, not a directory in PATH: the unprivileged user of the command may not
    be able to reach any directory of the node.
    """
    found = [f"hostname() {{ echo {hostname}; }}"]
    for name in _HARMLESS:
        for directory in ("/usr/bin", "/bin"):
            program = os.path.join(directory, name)
            if os.path.exists(program):
                found.append(f'{name}() {{ {program} "$@"; }}')
                break
    return "; ".join(found)


def _shell(host: Host, ctid: str, tree: str, command: Command, streams: Streams) -> int:
    import subprocess  # slow to import, and only exec needs it

    root = os.geteuid() == 0
    own_shell = root and _is_program(os.path.join(tree, "bin/sh"))
    # Beneath the working directory, or of the chroot.
    places = [f"/{d}" if own_shell else d for d in _PATH]
    line = command.line
    if line == "-":  # the script is on standard input
        line = command.read_all().decode("utf-8", "surrogateescape")
        command = Command(line, b"", command.hostname)
    if own_shell:
        argv = ["/bin/sh", "-c", line]
    elif _ABSOLUTE.search(line):
        raise Unmodelled("an absolute path in exec, where no chroot is possible")
    else:
        argv = [
            "/bin/sh",
            "-c",
            f'{_prelude(command.hostname)}; eval "$1"',
            "/bin/sh",
            line,
        ]

    def enter() -> None:
        if own_shell:
            os.chroot(tree)
            os.chdir("/")
        elif root:
            os.chdir(tree)
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        else:
            os.chdir(tree)

    captured = streams.captures
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if captured else None,
        stderr=subprocess.PIPE if captured else None,
        env={"HOME": "/", "TERM": "linux", "PATH": ":".join(places)},
        preexec_fn=enter,  # the child does nothing else before exec
    ) as child:
        if captured or command.stdin is not None:
            out, err = child.communicate(command.read_all())
            keep_stdin(host, ctid, command.stdin or b"")
            if captured:
                streams.out(out.decode("utf-8", "surrogateescape"))
                streams.err(err.decode("utf-8", "surrogateescape"))
            return child.returncode
        assert child.stdin is not None
        _pump(host, ctid, child.stdin.fileno(), lambda: child.poll() is not None)
        child.stdin.close()
        return child.wait()


def _pump(host: Host, ctid: str, pipe: int, ended: Callable[[], bool]) -> None:
    """Hands our standard input on to a pipe until it or the reader ends."""
    import select

    kept = b""
    more = not os.isatty(0)
    while more and not ended():
        if not select.select([0], [], [], 0.02)[0]:
            continue
        data = os.read(0, 65536)
        kept += data
        more = bool(data)
        try:
            os.write(pipe, data)
        except BrokenPipeError:
            break
    keep_stdin(host, ctid, kept)
