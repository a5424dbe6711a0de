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

"""``ovz-net-hook``: see to host ends when vzctl makes them, also without Nova.

vzctl runs it as root, also when a guest restarts by itself::

    ovz-net-hook init veth HOST_IFNAME      (vzctl 4, as vznetcfg; VEID is set)
    ovz-net-hook mount | umount             (vzctl 7 and later; VEID is set)

and the operator runs it to have vzctl do so::

    ovz-net-hook install | check | remove

Containers that are not this driver's get what vznetcfg gives them, and no more. What
cannot be done for one of its own is told on standard error and does not keep it from
starting: nova-compute looks after it again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from ovznovadriver import exception
from ovznovadriver.openvz import hostends, nethook, privileged, tree, vzctl

_VZ_DIR = "/etc/vz"
# vzctl may set a PATH without the programs of root, or none.
_PROGRAM_DIRS = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin"


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=nethook.PROGRAM, allow_abbrev=False)
    parser.add_argument(
        "--conf-dir",
        help="where the containers' configurations are; otherwise the directory of"
        f" $VE_CONFFILE, or {_VZ_DIR}/conf",
    )
    subcommands = parser.add_subparsers(dest="action", required=True)
    init = subcommands.add_parser("init", help="run by vzctl 4 for a host end")
    init.add_argument("kind", choices=["veth"])
    init.add_argument("host_ifname")
    subcommands.add_parser("mount", help="run by vzctl 7 before a container starts")
    subcommands.add_parser("umount", help="run by vzctl 7 after it has stopped")
    for action, text in (
        ("install", "have vzctl run this program"),
        ("check", "say whether it does"),
        ("remove", "undo what install did"),
    ):
        command = subcommands.add_parser(action, help=text)
        command.add_argument(
            "--family", type=int, choices=[4, 7], help="vzctl's; otherwise it is asked"
        )
        command.add_argument("--vz-dir", default=_VZ_DIR, help="where vz.conf is")
    return parser.parse_args(args)


def _find(program: str) -> str:
    # An empty or relative part of it would be the place where vzctl was started.
    path = f"{os.environ.get('PATH', '')}:{_PROGRAM_DIRS}".split(":")
    found = shutil.which(program, path=":".join(filter(os.path.isabs, path)))
    if found is None:
        raise exception.OvzError(f"{program} is not there")
    return found


def _run() -> hostends.Run:
    return privileged.tool_runner({**os.environ, "LC_ALL": "C"})


def _place(conf_dir: str | None) -> tuple[str, str] | None:
    """The directory of the configurations, and the CTID; None if it is not ours."""
    ctid = os.environ.get("VEID", "")
    if not tree.is_ctid(ctid):
        return None
    places = [conf_dir] if conf_dir else [f"{_VZ_DIR}/conf"]
    if not conf_dir and os.environ.get("VE_CONFFILE"):
        places.insert(0, os.path.dirname(os.environ["VE_CONFFILE"]))
    for place in places:
        if os.path.lexists(os.path.join(place, f"{ctid}.nics")):
            return place, ctid
    return None


# -- run by vzctl -------------------------------------------------------------------


def _init(asked: argparse.Namespace) -> list[str]:
    programs = {"ip": _find("ip")}
    hostends.Tools(_run(), programs).up(asked.host_ifname)
    try:
        return _apply(asked, programs)
    except exception.OvzError as error:
        return [str(error)]


def _apply(asked: argparse.Namespace, programs: dict[str, str]) -> list[str]:
    place = _place(asked.conf_dir)
    if place is None:
        return []
    base, ctid = place
    if asked.host_ifname not in [end.host_ifname for end in hostends.read(base, ctid)]:
        return []
    return hostends.apply_host_ends(
        base=base,
        ctid=ctid,
        names=[asked.host_ifname],
        programs={**programs, "tc": _find("tc")},
        run=_run(),
    )


def _mount(asked: argparse.Namespace) -> list[str]:
    place = _place(asked.conf_dir)
    if place is None:
        return []
    base, ctid = place
    programs = {"ip": _find("ip"), "tc": _find("tc")}
    tools = hostends.Tools(_run(), programs)
    problems = nethook.make_pairs(hostends.read(base, ctid), tools)
    return problems + hostends.apply_host_ends(
        base=base, ctid=ctid, programs=programs, run=_run()
    )


def _umount(asked: argparse.Namespace) -> list[str]:
    place = _place(asked.conf_dir)
    if place is None:
        return []
    ends = hostends.read(*place)
    programs = {"ip": _find("ip")}
    problems = nethook.remove_pairs(ends, hostends.Tools(_run(), programs))
    names = [end.host_ifname for end in ends]
    hostends.drop_host_ends(names=names, programs=programs, run=_run())
    return problems


# -- run by the operator ------------------------------------------------------------


def _major(asked: argparse.Namespace) -> int:
    if asked.family:
        return int(asked.family)
    done = _run()([_find("vzctl"), "--version"])
    return vzctl.parse_version(done.stdout)[0]


def _install(asked: argparse.Namespace) -> str:
    program = _find(sys.argv[0])
    return nethook.install(asked.vz_dir, _major(asked), os.path.abspath(program))


def _check(asked: argparse.Namespace) -> str:
    problem = nethook.hook_missing(asked.vz_dir, _major(asked))
    if problem:
        raise exception.OvzError(problem)
    return f"vzctl runs {nethook.PROGRAM}."


def _remove(asked: argparse.Namespace) -> str:
    return nethook.remove(asked.vz_dir, _major(asked))


_BY_VZCTL = {"init": _init, "mount": _mount, "umount": _umount}
_BY_OPERATOR = {"install": _install, "check": _check, "remove": _remove}


def main(args: Sequence[str] | None = None) -> int:
    """Do what vzctl or the operator asks for.

    :returns: the exit code: 1 when it could not be done. For vzctl that is when an
        interface cannot be brought up, which ends the start of the container
    """
    asked = _parse(args)
    try:
        if asked.action in _BY_OPERATOR:
            print(_BY_OPERATOR[asked.action](asked))
            return 0
        problems = _BY_VZCTL[asked.action](asked)
    except (exception.OvzError, OSError) as error:
        print(f"{nethook.PROGRAM}: {error}", file=sys.stderr)
        return 0 if asked.action in ("mount", "umount") else 1
    for problem in problems:
        print(f"{nethook.PROGRAM}: {problem}", file=sys.stderr)
    return 0
