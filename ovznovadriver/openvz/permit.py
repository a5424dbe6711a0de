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

"""What the root side permits: programs, their arguments, and places.

The caller is the unprivileged service, or whoever has taken it over: nothing
that it says is believed.
"""

from __future__ import annotations

import functools
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import processes, rootfs, vzctl, vzlist, vzmigrate

#: The programs that may run as root, and the judges of their arguments.
PROGRAMS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "vzctl": vzctl.check_arguments,
    "vzlist": vzlist.check_arguments,
    "vzmigrate": vzmigrate.check_arguments,
}

#: What the verbs for network interfaces run.
TOOLS = ("ip", "tc")

#: Where this side looks for what it chooses itself.
TOOL_DIRS = (
    *("/usr/sbin", "/usr/bin", "/sbin", "/bin"),
    *("/usr/local/sbin", "/usr/local/bin"),
)

#: What a tree is sent to another host by; found in the same directories alone.
SENDERS = ("rsync", "ssh", "setpriv")

#: Seconds that a command may ask for at most.
TIMEOUT_LIMIT = 7 * 86400.0
#: Seconds for vzctl to tell its version.
_LOOK_LIMIT = 60.0

# Entries of these may be named as a CTID and are none: /run/user/1000 is a user's.
_NEVER_A_BASE = ("/sys", "/dev", "/run/user")
_CGROUPS = "/sys/fs/cgroup"
_MAX_LINKS = 40  # the kernel's own limit (path_resolution(7))


def check_trusted_path(path: str, *, missing: bool = False) -> str:
    """Refuse a path that somebody else than root could have made or changed.

    Every directory on the way, every symbolic link and the last component are
    root's, and (links apart) writable by root alone.

    :param missing: whether it may be missing, which is only root's doing, too
    :returns: the path without symbolic links
    :raises CommandRefused: it is not such a path
    """
    if not path.startswith("/") or "\0" in path:
        raise exception.CommandRefused(f"{path!r} is not an absolute path")
    current = "/"
    _check_root_alone(current, os.lstat(current))
    rest = path.split("/")[::-1]
    links = 0
    while rest:
        part = rest.pop()
        if part == "..":
            current = os.path.dirname(current)
        if part in ("", ".", ".."):
            continue
        step = os.path.join(current, part)
        if _is_beneath(step, "/proc"):
            # Its links lead elsewhere than they say: into a guest, for one.
            raise exception.CommandRefused(f"{path!r} leads through /proc")
        try:
            found = os.lstat(step)
        except FileNotFoundError:
            if missing and ".." not in rest:
                return os.path.normpath(os.path.join(step, *rest[::-1]))
            raise exception.CommandRefused(f"{path!r} is not there") from None
        except OSError as error:
            raise exception.CommandRefused(f"{path!r}: {error.strerror}") from error
        _check_root_alone(step, found)
        if not stat.S_ISLNK(found.st_mode):
            current = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise exception.CommandRefused(f"{path!r} has too many links")
        target = os.readlink(step)
        current = "/" if target.startswith("/") else current
        rest += target.split("/")[::-1]
    return current


def check_trusted_program(path: str) -> None:
    """Refuse a program that somebody else than the host's root could have put there.

    What root owns may also be a guest's, whose tree is on the host: beneath a
    directory that is called by its CTID, as vz.conf demands, or by vzctl's name for
    what it removes.

    :raises CommandRefused:
    """
    _refuse_guests(path, check_trusted_path(path))


def guests_part(path: str) -> str | None:
    """The part of a path that may be a container's tree; None without."""
    found = (part for part in path.split("/") if _is_guests(part))
    return next(found, None)


def _is_guests(part: str) -> bool:
    # vzctl moves a tree that it removes: destroydir() of src/lib/destroy.c (vzctl
    # 4.9.4), lib/destroy.c of libvzctl.
    return part.startswith("vzctl-rm-me.") or rootfs.is_ctid(
        part.removeprefix(".incoming-").removeprefix(".handed-")
    )


def _refuse_guests(path: str, real: str) -> None:
    part = guests_part(f"{path}/{real}")
    if part is not None:
        raise exception.CommandRefused(
            f"{path!r} leads through {part!r}, which may be a container's tree"
        )


def _check_root_alone(path: str, found: os.stat_result) -> None:
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if found.st_uid != 0 or (shared and not stat.S_ISLNK(found.st_mode)):
        raise exception.CommandRefused(
            f"{path!r} could be changed by others than root: chown it to root and"
            " chmod go-w it"
        )


def _is_beneath(path: str, directory: str) -> bool:
    return f"{path}/".startswith(f"{directory}/")


def _check_directory(path: object, *, cgroups: bool = False) -> None:
    """Refuse a directory that a file verb must not work in."""
    if not isinstance(path, str):
        raise exception.CommandRefused("a directory is a text")
    real = check_trusted_path(path, missing=True)
    # What a guest has made there could lead elsewhere the next moment.
    _refuse_guests(path, real)
    if cgroups and _is_beneath(real, _CGROUPS):
        return
    if any(_is_beneath(real, never) for never in _NEVER_A_BASE):
        raise exception.CommandRefused(f"{path!r} cannot hold containers")


def check_file_verb(kwargs: Mapping[str, Any], *, direct: bool) -> None:
    """Judge the places that a file verb is to work in (see rootfs).

    :param direct: the caller is root itself; whose paths could be distrusted?
    :raises CommandRefused:
    """
    if "ctid" in kwargs and not rootfs.is_ctid(kwargs["ctid"]):
        raise exception.CommandRefused(f"{kwargs['ctid']!r} is not a CTID")
    if direct:
        return
    if "sub" in kwargs:
        _check_sub(kwargs["sub"])
    if "base" in kwargs:
        _check_directory(kwargs["base"])
    for kind, path in dict(kwargs.get("dirs", {})).items():
        _check_directory(path, cgroups=kind == "cgroup")


def _check_sub(sub: object) -> None:
    """Refuse another place of a root tree than the installed vzctl's.

    With vzctl 7 a private area also holds the container's configuration, by which a
    guest could be given whatever the host has.
    """
    family = _family()
    if family is not None and sub != family.tree_dir:
        raise exception.CommandRefused(f"{sub!r} is no place of a container's tree")


@functools.cache
def _family() -> vzctl.Family | None:
    """What the installed vzctl can do; None where there is none."""
    try:
        program = tool("vzctl", direct=False)
    except exception.ConfigurationError:
        return None
    env = {"PATH": os.pathsep.join(TOOL_DIRS), "LC_ALL": "C"}
    done = processes.run_process([program, "--version"], timeout=_LOOK_LIMIT, env=env)
    return vzctl.family_of(vzctl.parse_version(done.stdout))


def check_tools(programs: object, *, direct: bool) -> None:
    """Judge the programs that a verb for network interfaces is to run.

    Their arguments are the verb's own.

    :param programs: the absolute paths of some of :data:`TOOLS`, by name
    :param direct: as for :func:`check_file_verb`
    :raises CommandRefused:
    """
    for name, path in programs.items() if isinstance(programs, Mapping) else [("", 0)]:
        if name not in TOOLS or not isinstance(path, str) or not os.path.isabs(path):
            raise exception.CommandRefused(f"{name!r} is not one of {', '.join(TOOLS)}")
        if direct:
            continue
        if os.path.basename(path) != name:
            raise exception.CommandRefused(f"{path!r} is not {name}")
        check_trusted_program(path)


def tool(name: str, *, direct: bool) -> str:
    """The path of a program that this side chooses itself.

    :param direct: as for :func:`check_file_verb`
    :raises ConfigurationError: it is not there
    :raises CommandRefused: others than root could have put it there
    """
    path = shutil.which(name, path=os.pathsep.join(TOOL_DIRS))
    if path is None:
        raise exception.ConfigurationError(
            f"{name} is not in {', '.join(TOOL_DIRS)}: install it."
        )
    if not direct:
        check_trusted_path(path)
    return path


def check_owner(owner: object, *, direct: bool) -> None:
    """Judge whose the pipe is that a container's archive goes into.

    sudo says who called it. Another way to root may not say; then it may be anybody
    but root, whose pipes lead to the host's own services.

    :param direct: as for :func:`check_file_verb`
    :raises CommandRefused:
    """
    caller = os.environ.get("SUDO_UID", "")
    if direct:
        permitted = owner == os.geteuid()
    elif caller.isdecimal() and caller != "0":
        permitted = owner == int(caller)
    else:
        permitted = isinstance(owner, int) and owner > 0
    if not permitted:
        raise exception.CommandRefused(f"user {owner!r} is not the caller")


def check_program(argv: Sequence[str], timeout: float, *, direct: bool) -> None:
    """Judge a command line that is to run as root, and its time limit in seconds.

    :param direct: as for :func:`check_file_verb`
    :raises CommandRefused:
    """
    check = PROGRAMS.get(os.path.basename(argv[0])) if argv else None
    if check is None:
        raise exception.CommandRefused(
            f"{' '.join(argv[:1])!r} is not one of {', '.join(PROGRAMS)}"
        )
    check(argv[1:])
    check_timeout(timeout)
    if not direct:
        check_trusted_program(argv[0])


def check_timeout(timeout: float) -> None:
    """Judge a time limit in seconds.

    :raises CommandRefused:
    """
    if not 0 < timeout <= TIMEOUT_LIMIT:
        raise exception.CommandRefused(f"a time limit of {timeout} s is not permitted")
