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

"""``ovz-privileged``: the root side of ``[openvz]privilege = rootwrap``.

Started as root by nova's root helper, for one request::

    ovz-privileged run --timeout SECONDS -- /usr/sbin/vzctl ARGUMENTS…
    ovz-privileged call VERB
    ovz-privileged receive --base DIRECTORY --timeout SECONDS [--list] KEY

``run`` gives its standard input to the command. ``call`` reads the arguments of a
verb as JSON from there. The reply is JSON on standard output (see
``privileged.serve``), with exit code 0: a command's own exit code, its two
outputs and whether it timed out are kept apart in it. ``receive`` is no such request:
its standard input and output are rsync's, which another host speaks to.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import privileged, reception


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ovz-privileged", allow_abbrev=False)
    subcommands = parser.add_subparsers(dest="subcommand", required=True)
    run = subcommands.add_parser("run", help="run a program as root")
    run.add_argument("--timeout", type=float, required=True, help="seconds")
    run.add_argument("argv", nargs="+", help="the program's path and its arguments")
    call = subcommands.add_parser("call", help="have a verb done as root")
    call.add_argument("verb", choices=sorted(set(privileged.VERBS) - {"run"}))
    receive = subcommands.add_parser("receive", help="take in a container's tree")
    receive.add_argument("--base", required=True, help="where the private areas are")
    receive.add_argument("--timeout", type=float, required=True, help="seconds")
    receive.add_argument("--list", action="store_true", help="say what has come")
    receive.add_argument("key", help="the instance's UUID")
    return parser.parse_args(args)


def _kwargs(asked: argparse.Namespace, stdin: bytes) -> dict[str, Any]:
    if asked.subcommand == "run":
        return {"argv": asked.argv, "stdin": stdin, "timeout": asked.timeout}
    kwargs = privileged.decode(stdin)
    if not isinstance(kwargs, dict):
        raise ValueError
    return kwargs


def _receive(asked: argparse.Namespace) -> int:
    os.umask(0o022)
    try:
        return reception.receive(
            base=asked.base,
            key=asked.key,
            listed=asked.list,
            timeout=asked.timeout,
            direct=False,
        )
    except (exception.OvzError, OSError) as error:
        print(f"ovz-privileged: {error}", file=sys.stderr)
        return 1


def main(args: Sequence[str] | None = None) -> int:
    """Serve one request.

    :returns: the exit code: 0 when there is a reply, 2 when it was no request; rsync's
        for ``receive``
    """
    asked = _parse(sys.argv[1:] if args is None else args)
    if asked.subcommand == "receive":
        return _receive(asked)
    stdin = sys.stdin.buffer.read(privileged.MESSAGE_LIMIT + 1)
    if len(stdin) > privileged.MESSAGE_LIMIT:
        print("ovz-privileged: the input is too long", file=sys.stderr)
        return 2
    try:
        kwargs = _kwargs(asked, stdin)
    except ValueError:
        print("ovz-privileged: the input is no JSON object", file=sys.stderr)
        return 2
    os.umask(0o022)
    verb = "run" if asked.subcommand == "run" else asked.verb
    sys.stdout.buffer.write(privileged.serve(verb, kwargs))
    return 0
