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

"""``ovz-manage``: what an operator asks of a node's containers.

::

    ovz-manage [--config-file FILE]… [--config-dir DIR]… [--json] list [--all]
    ovz-manage … orphans
    ovz-manage … repair [--yes] [--kind KIND]…
    ovz-manage … adopt --host HOST (--all | CTID…) [--name NAME [--id ID]]
    ovz-manage … drain

It is run with nova-compute's nova.conf, as root or as the user of nova-compute. As root
it becomes that user first, and goes to root by the same way as the service: so nothing
of what it makes is another user's. doc/source/ovz-manage.rst says the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pwd
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from oslo_config import cfg

from ovznovadriver import exception

# What takes seconds to import, Nova, is imported when the arguments are known to be
# right.

#: Nothing is left to be done, or was.
DONE = 0
#: It could not be done; a sentence says why.
FAILED = 1
#: Something was found that is still to be done, or still runs.
FOUND = 3

Records = list[dict[str, Any]]


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ovz-manage", allow_abbrev=False)
    parser.add_argument(
        "--config-file",
        action="append",
        default=[],
        help="nova.conf; otherwise where nova-compute looks for it",
    )
    parser.add_argument(
        "--config-dir", action="append", default=[], help="a directory of such files"
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="containers, and what their tags say")
    listing.add_argument(
        "--all", action="store_true", help="also those that are not this host's"
    )
    commands.add_parser("orphans", help="what nobody seems to own")
    repair = commands.add_parser(
        "repair", help="complete or undo what was interrupted; shows it without --yes"
    )
    repair.add_argument("--yes", action="store_true", help="do it")
    repair.add_argument(
        "--kind", action="append", default=[], help="only this kind; can be repeated"
    )
    adopt = commands.add_parser("adopt", help="make containers this driver's")
    adopt.add_argument(
        "--host", required=True, help="the Nova host that they were made for"
    )
    which = adopt.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="all that were made for it")
    which.add_argument("ctid", nargs="*", default=[])
    adopt.add_argument("--name", help="Nova's name of a server that lost its tag")
    adopt.add_argument("--id", default="0", help="Nova's number of it")
    commands.add_parser("drain", help="what runs, and what holds up maintenance")
    asked = parser.parse_args(args)
    if asked.command == "adopt" and asked.name and len(asked.ctid) != 1:
        parser.error("--name is for one CTID")
    return asked


def _flags(asked: argparse.Namespace) -> list[str]:
    return [
        *(f"--config-file={file}" for file in asked.config_file),
        *(f"--config-dir={directory}" for directory in asked.config_dir),
    ]


def _open(flags: Sequence[str]) -> Any:
    """The node that nova.conf describes.

    :param flags: where it is, as nova-compute is told
    :raises OvzError: it cannot be opened; says why
    """
    from oslo_privsep import priv_context

    from nova import config as nova_config
    from nova import utils as nova_utils
    from ovznovadriver.compute import host
    from ovznovadriver.openvz import node

    nova_config.parse_args(
        ["ovz-manage", *flags], configure_db=False, init_rpc=False, prog="nova-compute"
    )
    options = host.node_options()
    _become_owner(options.lock_dir)
    priv_context.init(root_helper=shlex.split(nova_utils.get_root_helper()))
    return node.Node.open(host.CONF.host, options)


def _become_owner(directory: str) -> None:
    """As root, become the user whose the directory is: the one of nova-compute.

    :raises OvzError: nova-compute has never run here, or nobody is that user
    """
    try:
        owner = os.stat(directory).st_uid
    except OSError as error:
        raise exception.OvzError(
            f"[openvz]lock_dir {directory}: {error.strerror}. Has nova-compute ever run"
            " on this node, with this nova.conf?"
        ) from error
    if os.geteuid() != 0 or owner == 0:
        return
    try:
        user = pwd.getpwuid(owner)
    except KeyError:
        raise exception.OvzError(
            f"[openvz]lock_dir {directory} belongs to user {owner}, whom this node does"
            " not know: chown it to the user of nova-compute"
        ) from None
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(owner)
    os.environ["HOME"] = user.pw_dir


class _Tool:
    """The commands, on a node.

    Each gives its records, and an exit code.
    """

    def __init__(self, node: Any) -> None:
        from ovznovadriver.compute import inventory, recovery, scene

        self._inventory = inventory
        self._recovery = recovery
        self._node = node
        self._scene = scene.Scene(node)

    def list(self, asked: argparse.Namespace) -> tuple[Records, int]:
        """Containers against what their tags say."""
        rows = [
            row
            for row in self._inventory.rows(self._scene)
            if asked.all
            or row.owner == self._node.host
            or row.owner == self._inventory.LEGACY
            or row.problems
        ]
        return [dataclasses.asdict(row) for row in rows], DONE

    def orphans(self, _asked: argparse.Namespace) -> tuple[Records, int]:
        """What all rules find."""
        found = [
            {"kind": f.kind, "subject": f.subject, "what": f.what}
            for f in self._recovery.findings(self._scene)
        ]
        return found, FOUND if found else DONE

    def repair(self, asked: argparse.Namespace) -> tuple[Records, int]:
        """Apply the rules, or show what that would do."""
        recovery = self._recovery
        kinds = [rule.kind for rule in recovery.RULES]
        unknown = set(asked.kind) - set(kinds)
        if unknown:
            raise exception.OvzError(
                f"there is no kind {', '.join(sorted(unknown))}; there are"
                f" {', '.join(kinds)}"
            )
        served = self._node.claims.served_by()
        if asked.yes and served is not None:
            raise exception.OvzError(
                f"nova-compute (process {served}) runs, and has things of its own under"
                " way: stop it first, or restart it, as it repairs when it starts"
            )
        records = [
            self._repaired(finding, asked.yes)
            for finding in recovery.findings(self._scene)
            if not asked.kind or finding.kind in asked.kind
        ]
        results = {record["result"] for record in records}
        if "failed" in results:
            return records, FAILED
        return records, FOUND if results - {"done"} else DONE

    def _repaired(self, finding: Any, do: bool) -> dict[str, Any]:
        record = {
            "kind": finding.kind,
            "subject": finding.subject,
            "what": finding.what,
            "result": "yours to do" if finding.act is None else "would be done",
        }
        if do and finding.act is not None:
            problem = self._recovery.apply(finding)
            record["result"] = "failed" if problem else "done"
            if problem:
                record["what"] = f"{finding.what}; {problem}"
        return record

    def adopt(self, asked: argparse.Namespace) -> tuple[Records, int]:
        """Make containers this host's."""
        inventory = self._inventory
        identity = inventory.Identity(asked.name, asked.id) if asked.name else None
        ctids = asked.ctid or inventory.adoptable(self._scene, asked.host)
        records: Records = []
        for ctid in ctids:
            record = {"ctid": ctid, "result": "adopted", "what": ""}
            try:
                adopted = inventory.adopt(
                    self._scene, ctid, asked.host, identity, chosen=bool(asked.ctid)
                )
                record["what"] = f"it is server {adopted.uuid} of {self._node.host}"
            except exception.OvzError as error:
                record |= {"result": "failed", "what": str(error)}
            records.append(record)
        failed = any(record["result"] == "failed" for record in records)
        return records, FAILED if failed else DONE

    def drain(self, _asked: argparse.Namespace) -> tuple[Records, int]:
        """What runs, and what is under way."""
        found = self._inventory.obstacles(self._scene)
        records = [dataclasses.asdict(obstacle) for obstacle in found]
        return records, FOUND if records else DONE


_NOTHING: Mapping[str, str] = {
    "list": "There is no container of this host.",
    "orphans": "There is nothing.",
    "repair": "There is nothing to repair.",
    "adopt": "There is no container to adopt.",
    "drain": "Nothing of this host runs, and nothing is under way.",
}


def _lines(command: str, records: Records) -> Iterator[str]:
    if not records:
        yield _NOTHING[command]
        return
    if command == "list":
        yield from _table(records)
        return
    for record in records:
        about = record.get("subject") or f"container {record['ctid']}"
        result = f" [{record['result']}]" if "result" in record else ""
        kind = f"{record['kind']}: " if "kind" in record else ""
        yield f"{kind}{about}: {record['what']}{result}"
    if command == "drain":
        yield (
            "Keep new servers away with 'openstack compute service set --disable', and"
            " move or stop those that run."
        )


def _table(records: Records) -> Iterator[str]:
    names = ["ctid", "state", "owner", "uuid", "name"]
    rows = [{name: name.upper() for name in names}, *records]
    widths = [max(len(str(row[name])) for row in rows) for name in names]
    for row in rows:
        cells = zip(names, widths, strict=True)
        yield "  ".join(str(row[name]).ljust(width) for name, width in cells).rstrip()
        for problem in row.get("problems", ()):
            yield f"    {problem}"


def _printable(text: str) -> str:
    # A description may hold anything, also what a terminal obeys.
    return "".join(char if char.isprintable() else "?" for char in text)


def main(
    args: Sequence[str] | None = None,
    *,
    opened: Callable[[Sequence[str]], Any] = _open,
) -> int:
    """Do what the operator asks.

    :param opened: gives the node
    :returns: the exit code, one of those above
    """
    asked = _parse(args)
    try:
        # Whatever Nova's libraries may print, the answer is the answer.
        with contextlib.redirect_stdout(sys.stderr):
            tool = _Tool(opened(_flags(asked)))
            records, code = getattr(tool, asked.command)(asked)
    except (exception.OvzError, OSError, cfg.Error) as error:
        print(f"ovz-manage: {error}", file=sys.stderr)
        return FAILED
    if asked.json:
        print(json.dumps(records, indent=1))
    else:
        for line in _lines(asked.command, records):
            print(_printable(line))
    return int(code)
