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

"""Every vzmigrate command: its argument list, and the meaning of its exit codes.

They are those of the vzmigrate of vzctl 4 (vzmigrate(8)), a shell script. The one of
vzctl 7 and above is another program, with other options and codes; it moves no running
container of layout simfs (doCtMigration() of bin/migsrcremote.cpp, vzmigrate 7.0.152).

It works as root at both ends, by ssh. What it does when it fails by itself, it undoes:
the container runs on here, and what was made there is removed as far as ssh still
works. Nothing is undone when it is ended by a signal: it has no trap for one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence

from ovznovadriver import exception
from ovznovadriver.openvz import command

#: Checks alone, of a container that runs.
_CHECK = ("--check-only", "--online")
#: With its processes as they are. The private area stays, until it is known that the
#: container arrived; ``<ctid>.conf`` becomes ``<ctid>.conf.migrated``.
_MOVE = ("-r", "no", "--online")

#: What it says on standard output right before it freezes the container.
FREEZING = "Live migrating container..."

#: What its rsync has in the pass while the container runs, and not in the one after
#: that (RSYNC1_OPTIONS in bin/vzmigrate.in, vzctl 4.9.4).
_SPARSE = "--sparse"
#: What its vzctl is told, here and by ssh on the other host, from the freezing on.
_FROZEN = ("chkpnt", "restore")

#: It puts the name into commands of a shell, and into ``root@name:path``: an IPv6
#: address would be misread there.
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

_ERRORS: Mapping[int, type[exception.MoveFailed]] = {
    4: exception.PeerUnreachable,
    9: exception.ContainerThere,
    14: exception.PeerUnsuitable,
    16: exception.PeerUnsuitable,
    17: exception.PeerUnsuitable,
    18: exception.PeerUnsuitable,
    20: exception.MoveLocked,
}


def check_arguments(args: Sequence[str]) -> None:
    """Refuse every argument list of vzmigrate that this module does not build.

    The privileged side asks this before it starts vzmigrate as root.

    :raises CommandRefused: with the reason
    """
    if len(args) < 2 or tuple(args[:-2]) not in (_CHECK, _MOVE):
        raise exception.CommandRefused(
            "vzmigrate is permitted with the options that this driver uses only"
        )
    host, ctid = args[-2:]
    if not is_host(host):
        raise exception.CommandRefused(f"vzmigrate cannot go to {host!r}")
    if not command.is_ctid(ctid) or "-" in ctid:
        raise exception.CommandRefused(f"{ctid!r} is not a CTID of vzctl 4")


def is_host(text: str) -> bool:
    """Whether a text is a host name or an IPv4 address, and nothing else to ssh."""
    return _HOST.fullmatch(text) is not None


def is_move(argv: Sequence[str], ctid: str) -> bool:
    """Whether a process, by all its arguments, is a vzmigrate that moves a container.

    Before those of the driver is the path of the script, and its shell's own.
    """
    *_, program = argv[: -len(_MOVE) - 2] or [""]
    if os.path.basename(program) != "vzmigrate":
        return False
    try:
        check_arguments(argv[-len(_MOVE) - 2 :])
    except exception.CommandRefused:
        return False
    return argv[-1] == ctid


def is_first_pass(argv: Sequence[str]) -> bool:
    """Whether a process that vzmigrate has started sends the tree the first time."""
    return _is_rsync(argv) and _SPARSE in argv


def is_later(argv: Sequence[str]) -> bool:
    """Whether a process that vzmigrate has started comes after the first pass."""
    return (_is_rsync(argv) and _SPARSE not in argv) or any(
        word in argv for word in _FROZEN
    )


def _is_rsync(argv: Sequence[str]) -> bool:
    return os.path.basename([*argv, ""][0]) == "rsync"


class Vzmigrate:
    """The commands of vzmigrate.

    :param changed: called after each command that may have changed a container
    """

    def __init__(
        self, runner: command.Runner, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._runner = runner
        self._changed = changed

    def check(self, ctid: str, host: str, timeout: float) -> None:
        """See whether a running container could go to another host, as it runs.

        :param timeout: seconds
        :raises MoveFailed: it could not; the type says why
        """
        self._run(*_CHECK, host, ctid, timeout=timeout)

    def move(self, ctid: str, host: str, timeout: float) -> None:
        """Move a running container to another host, as it runs.

        Its private area, and what else is not in its configuration, stay here.

        :param timeout: seconds
        :raises MoveFailed: it could not, and has undone what it had done
        :raises CommandTimedOut: it was ended in the middle, and nothing is undone
        """
        try:
            self._run(*_MOVE, host, ctid, timeout=timeout)
        finally:
            self._changed()

    def _run(self, *args: str, timeout: float) -> None:
        cmd = ("vzmigrate", *args)
        done = self._runner.run(*cmd, timeout=timeout)
        if done.returncode != 0:
            error = _ERRORS.get(done.returncode, exception.MoveFailed)
            raise error(" ".join(cmd), done.returncode, done.stdout, done.stderr)
