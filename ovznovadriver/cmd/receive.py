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

"""``ovz-receive``: what a host answers to another one that moves a server here.

ssh starts it, as the user that nova-compute runs as; see doc/source/migration.rst. It
gets its words from its command line, or, where authorized_keys names it as the one
permitted command, from ``SSH_ORIGINAL_COMMAND``::

    ovz-receive --protocol=1 hello
    ovz-receive --protocol=1 look NAME
    ovz-receive --protocol=1 claims KEY HOST
    ovz-receive --protocol=1 discard KEY
    ovz-receive --protocol=1 receive [--list] KEY

The answer is one line of JSON. ``receive`` is rsync's: as root it is started by
``ovz-privileged``, by way of nova's root helper.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg

from ovznovadriver import conf, exception
from ovznovadriver.openvz import outgoing, processes, reception, vzconf

#: The exit code when the other host speaks another version.
OTHER_PROTOCOL = 3

_CONFIG_FLAGS = ("--config-file", "--config-dir")


# What Nova has under these names, with its defaults.
_ROOTWRAP = [cfg.StrOpt("rootwrap_config", default="/etc/nova/rootwrap.conf")]
_WORKAROUNDS = [cfg.BoolOpt("disable_rootwrap", default=False)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.exit(2, f"ovz-receive: {message}\n")


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What the other host asks, and the words of its rsync."""
    parser = _Parser(prog="ovz-receive", allow_abbrev=False)
    parser.add_argument("--protocol", type=int, required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("hello", help="what this host is", allow_abbrev=False)
    look = commands.add_parser("look", help="whether a file is seen here")
    look.add_argument("name")
    claims = commands.add_parser("claims", help="what a host claimed for a server")
    claims.add_argument("key")
    claims.add_argument("host")
    discard = commands.add_parser("discard", help="remove what has come of a tree")
    discard.add_argument("key")
    receive = commands.add_parser("receive", help="take in a tree", allow_abbrev=False)
    receive.add_argument("--list", action="store_true")
    receive.add_argument("key")
    # rsync appends its own words, beginning with this one.
    words = list(words)
    cut = words.index("--server") if "--server" in words else len(words)
    return parser.parse_args(words[:cut]), words[cut:]


def _split(args: Sequence[str], asked: str | None) -> tuple[list[str], list[str]]:
    """Where the configuration is, as flags, and the other host's words.

    :param asked: SSH_ORIGINAL_COMMAND. Where it is there, the other host may not
        choose the configuration.
    :raises CommandRefused: the other host's words have no end
    """
    flags = []
    args = list(args)
    while args and args[0].partition("=")[0] in _CONFIG_FLAGS:
        count = 1 if "=" in args[0] else 2
        flags += args[:count]
        del args[:count]
    if asked is not None:
        try:
            args = shlex.split(asked)[1:]
        except ValueError as error:
            raise exception.CommandRefused(
                f"{asked[:100]!a} is no command line: {error}"
            ) from error
    return flags, args


def _read_options(flags: Sequence[str]) -> cfg.ConfigOpts:
    found = cfg.ConfigOpts()
    conf.register_opts(found)
    conf.register_nova_opts(found)
    found.register_opts(_ROOTWRAP)
    found.register_opts(_WORKAROUNDS, group="workarounds")
    found(list(flags), project="nova", prog="ovz-receive", **conf.places())
    return found


def _root_helper(found: cfg.ConfigOpts) -> str:
    """As nova.utils.get_root_helper says it; Nova takes seconds to import."""
    if found.workarounds.disable_rootwrap:
        return "sudo"
    return f"sudo nova-rootwrap {found.rootwrap_config}"


def _private_dir(found: cfg.ConfigOpts) -> str:
    return vzconf.private_dir(vzconf.read_settings(found.openvz.vz_conf))


def _hello(flags: Sequence[str]) -> dict[str, Any]:
    # These take seconds to import, which nothing else here must.
    from nova import config as nova_config
    from ovznovadriver.compute import host
    from ovznovadriver.openvz import node, transfer

    nova_config.parse_args(
        ["ovz-receive", *flags], configure_db=False, init_rpc=False, prog="nova-compute"
    )
    options = dataclasses.replace(host.node_options(), privilege=_privilege())
    return transfer.local_facts(node.Node.open(host.CONF.host, options)).as_dict()


def _privilege() -> str:
    """The way to root: a daemon of privsep's would be started for a call or two."""
    from ovznovadriver.openvz import utils

    return utils.ROOTWRAP


def _call(found: cfg.ConfigOpts, verb: str, **kwargs: Any) -> Any:
    from ovznovadriver.openvz import utils

    executor = utils.Executor(_privilege(), _root_helper(found))
    limit = float(found.openvz.migration_timeout)
    dirs = {"private": _private_dir(found)}
    return executor.call(verb, time_limit=limit, dirs=dirs, **kwargs)


def _claims(found: cfg.ConfigOpts, uuid: str, host: str) -> list[str]:
    from ovznovadriver.openvz import ctid

    return ctid.Claims(found.openvz.lock_dir, host).find(uuid)


def _receive(
    found: cfg.ConfigOpts, key: str, listed: bool, direct: bool, words: list[str]
) -> int:
    base, limit = _private_dir(found), float(found.openvz.migration_timeout)
    if direct:
        return reception.receive(
            base=base, key=key, listed=listed, timeout=limit, direct=True, words=words
        )
    command = [*shlex.split(_root_helper(found)), "ovz-privileged", "receive"]
    command += [f"--base={base}", f"--timeout={limit:g}"]
    command += ["--list"] if listed else []
    env = {**os.environ, "LC_ALL": "C"}
    # The root side keeps the limit; this is for a root helper that hangs.
    return processes.hand_over([*command, key], timeout=limit + 60, env=env)


def _answer(
    asked: argparse.Namespace, flags: Sequence[str], direct: bool, words: list[str]
) -> int:
    if asked.protocol != outgoing.PROTOCOL:
        print(
            f"ovz-receive: it speaks version {outgoing.PROTOCOL} of the transfer's"
            f" protocol, and this host version {asked.protocol}: install the same"
            " driver on both",
            file=sys.stderr,
        )
        return OTHER_PROTOCOL
    answer: Mapping[str, Any] = {"done": True}
    if asked.command == "hello":
        # Whatever Nova's libraries may print, the answer is the answer.
        with contextlib.redirect_stdout(sys.stderr):
            answer = _hello(flags)
    else:
        found = _read_options(flags)
        if asked.command == "receive":
            return _receive(found, asked.key, asked.list, direct, words)
        if asked.command == "look":
            answer = {"found": _call(found, "find_proof", name=asked.name)}
        elif asked.command == "claims":
            answer = {"claims": _claims(found, asked.key, asked.host)}
        else:
            _call(found, "drop_incoming", key=asked.key)
    print(json.dumps(answer))
    return 0


def main(args: Sequence[str] | None = None, *, direct: bool | None = None) -> int:
    """Answer one question.

    :param direct: whether this process does by itself what is to be done as root;
        None: when it is root
    :returns: the exit code: 1 for what went wrong, with a sentence on standard error
    """
    asked_for = os.environ.get("SSH_ORIGINAL_COMMAND")
    try:
        flags, words = _split(sys.argv[1:] if args is None else args, asked_for)
        asked, others = _parse(words)
        return _answer(
            asked, flags, os.geteuid() == 0 if direct is None else direct, others
        )
    except (exception.OvzError, OSError, cfg.Error) as error:
        print(f"ovz-receive: {error}", file=sys.stderr)
        return 1
