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

"""What vzctl has a program of ours do whenever it makes or drops an interface.

The program is ``ovz-net-hook`` (``ovznovadriver.cmd.net_hook``). vzctl 4 runs
vznetcfg for each host end that it has made, and that runs EXTERNAL_SCRIPT of its
``vznet.conf`` instead of its own work, if there is one. vzctl 7 and later makes the
pair only when it starts the container, and takes one that is there already; so pairs
are made beforehand by the global action script ``vps.mount``, and those that it did
not take are removed by ``vps.umount``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import hostends, tree

#: What the program is called.
PROGRAM = "ovz-net-hook"
#: The action scripts, by the program's subcommand.
SCRIPTS: Mapping[str, str] = {"mount": "vps.mount", "umount": "vps.umount"}

_MARK = f"# Written by '{PROGRAM} install'; '{PROGRAM} remove' takes it away."
_WHATEVER = (
    "# Whatever becomes of it: else no container of the node would start, when the\n"
    "# package or its Python is gone."
)
_SETTING = re.compile(
    r"^[ \t]*(?:export[ \t]+)?EXTERNAL_SCRIPT="
    r"(\"[^\"\n\0]*\"|'[^'\n\0]*'|[^\s#;\0]*).*\n?",
    re.MULTILINE,
)


# -- pairs --------------------------------------------------------------------------


def make_pairs(ends: Iterable[hostends.HostEnd], tools: hostends.Tools) -> list[str]:
    """Make the pairs that are missing, for vzctl's start to take them.

    :returns: a sentence for each that could not be made
    """
    links = tools.links()
    missing = [end for end in ends if end.host_ifname not in links]
    return tools.batch("ip", [_pair(end) for end in missing])


def _pair(end: hostends.HostEnd) -> str:
    mtu = "" if end.mtu is None else f" mtu {end.mtu}"
    return (
        f"link add name {end.host_ifname}{mtu} type veth"
        f" peer name {hostends.peer_name(end.host_ifname)}{mtu}"
    )


def remove_pairs(ends: Iterable[hostends.HostEnd], tools: hostends.Tools) -> list[str]:
    """Remove the pairs that vzctl did not take.

    :returns: a sentence for each that could not be removed
    """
    links = tools.links()
    left = []
    for end in ends:
        link = links.get(end.host_ifname)
        peer = hostends.peer_name(end.host_ifname)
        if link is not None and link.kind == "veth" and link.peer == peer:
            left.append(f"link del dev {end.host_ifname}")
    return tools.batch("ip", left)


def drop_pairs(
    *, base: str, ctid: str, programs: Mapping[str, str], run: hostends.Run
) -> list[str]:
    """Remove what a container that does not run has of interfaces on the host.

    That is pairs that vzctl did not take, and what outlives host ends.

    :param base: the directory of the containers' configurations
    :param programs: the path of "ip"
    :returns: a sentence for each thing that could not be removed
    :raises InvalidValue: what is kept of the container's interfaces is broken
    :raises OvzError: ip does not tell what there is
    """
    ends = hostends.read(base, ctid)
    problems = remove_pairs(ends, hostends.Tools(run, programs)) if ends else []
    names = [end.host_ifname for end in ends]
    hostends.drop_host_ends(names=names, programs=programs, run=run)
    return problems


#: The verbs of the privileged side, by name.
VERBS: Mapping[str, Callable[..., Any]] = {"drop_pairs": drop_pairs}


# -- installation -------------------------------------------------------------------


def hook_missing(vz_dir: str, major: int) -> str | None:
    """Why vzctl does not run the program; None when it does.

    Another script that runs the program in its turn is fine.

    :param vz_dir: the directory of vz.conf
    :param major: the first number of vzctl's version
    :returns: one sentence that says what to do
    """
    for problem in _problems(vz_dir, major):
        return f"{problem}: run '{PROGRAM} install'"
    return None


def _problems(vz_dir: str, major: int) -> Iterable[str]:
    if major == 4:
        path = _external_script(_read(_settings(vz_dir)))
        if not path:
            yield f"{_settings(vz_dir)} has no EXTERNAL_SCRIPT"
        elif not os.access(path, os.X_OK):
            yield f"{path}, EXTERNAL_SCRIPT of {_settings(vz_dir)}, cannot be run"
        elif os.path.basename(path) != PROGRAM and not _runs(_script_text(path), ""):
            yield f"{path}, EXTERNAL_SCRIPT of {_settings(vz_dir)}, does not run it"
        return
    for action in SCRIPTS:
        path = _script(vz_dir, action)
        if not os.access(path, os.X_OK):
            yield f"{path} is not there, or cannot be run"
        elif not _runs(_script_text(path), f" {action}"):
            yield f"{path} does not run a '{PROGRAM} {action}' that is there"


def _runs(script: str, arguments: str) -> bool:
    """Whether a shell script runs the program, and the program is there."""
    line = rf"^[^#\n]*?(/[^\s\0]*/)?{PROGRAM}[\"']?{arguments}(?![\w-])"
    found = re.search(line, script, re.MULTILINE)
    if found is None:
        return False
    return found[1] is None or os.access(found[1] + PROGRAM, os.X_OK)


def install(vz_dir: str, major: int, program: str) -> str:
    """Have vzctl run the program. Doing it again changes nothing.

    :param program: its absolute path
    :returns: a sentence that says what was done
    :raises OvzError: somebody else's script is in its place; says what to do
    """
    if major == 4:
        return _install_setting(_settings(vz_dir), program)
    for action in SCRIPTS:
        path = _script(vz_dir, action)
        if os.path.lexists(path) and not _is_ours(path):
            raise exception.OvzError(
                f"{path} is not ours and is left alone: add the line '{program}"
                f" {action}' to it"
            )
    for action in SCRIPTS:
        text = f"#!/bin/sh\n{_MARK}\n{_WHATEVER}\n{program} {action}\nexit 0\n"
        _write(_script(vz_dir, action), text, 0o755)
    return f"{' and '.join(_script(vz_dir, action) for action in SCRIPTS)} run it."


def _install_setting(path: str, program: str) -> str:
    text = _read(path)
    there = _external_script(text)
    if there and os.path.basename(there) != PROGRAM:
        raise exception.OvzError(
            f"{path} has EXTERNAL_SCRIPT={there}, which is left alone: have that one"
            f" run '{program} \"$@\"'"
        )
    rest = _SETTING.sub("", text)
    line = f'EXTERNAL_SCRIPT="{program}"\n'
    _write(path, rest + ("" if rest.endswith("\n") or not rest else "\n") + line)
    return f"{path} names it."


def remove(vz_dir: str, major: int) -> str:
    """Take away what :func:`install` made, and nothing else.

    :returns: a sentence that says what was done
    """
    if major == 4:
        path = _settings(vz_dir)
        text = _read(path)
        if os.path.basename(_external_script(text)) != PROGRAM:
            return f"{path} does not name it."
        rest = _SETTING.sub("", text)
        if rest.strip():
            _write(path, rest)
        else:
            os.unlink(path)
        return f"{path} does not name it any more."
    ours = [path for action in SCRIPTS if _is_ours(path := _script(vz_dir, action))]
    for path in ours:
        os.unlink(path)
    return f"{' and '.join(ours) or 'No script'} removed."


def _settings(vz_dir: str) -> str:
    return os.path.join(vz_dir, "vznet.conf")


def _script(vz_dir: str, action: str) -> str:
    return os.path.join(vz_dir, "conf", SCRIPTS[action])


def _external_script(settings: str) -> str:
    """What the shell takes: the last one."""
    found = _SETTING.findall(settings)
    return str(found[-1]).strip("\"'") if found else ""


def _is_ours(path: str) -> bool:
    return _MARK in _read(path)


def _script_text(path: str) -> str:
    """A script that somebody has named; nothing of what cannot be read."""
    try:
        return _read(path)
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _write(path: str, text: str, mode: int = 0o644) -> None:
    tree.replace_file(path, text.encode(errors="surrogateescape"), mode)
