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

"""The way to root: what it can be asked, and by what it is judged.

Root is reached in one of three ways, and all three serve the same requests:

* directly, when this process is root already (or is its own privileged side,
  after ``privsep.context.set_client_mode(False)``);
* by privsep (:mod:`ovznovadriver.openvz.privsep`);
* by rootwrap: the program ``ovz-privileged`` (``ovznovadriver.cmd``).

A request names a verb of :data:`VERBS` and its arguments. The arguments are
judged on the root side, whatever the caller has judged before.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import (
    announce,
    command,
    firstpass,
    handover,
    hostends,
    incoming,
    nethook,
    outgoing,
    pack,
    permit,
    processes,
    rootfs,
    survey,
    unpack,
)

#: The environment of every command on the root side.
CLEAN_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C",
}
#: Bytes that a request or a reply may have (privsep breaks at 100 MiB).
MESSAGE_LIMIT = 64 * 2**20


def _ping(*, direct: bool) -> int:  # noqa: ARG001 - as all verbs
    """The user that the privileged side is."""
    return os.geteuid()


def _run(
    *, direct: bool, argv: list[str], stdin: bytes | None, timeout: float
) -> dict[str, Any]:
    """Run one of the programs."""
    permit.check_program(argv, timeout, direct=direct)
    env = {**os.environ, "LC_ALL": "C"} if direct else CLEAN_ENVIRONMENT
    return asdict(processes.run_process(argv, stdin=stdin, timeout=timeout, env=env))


def _file_verb(verb: Callable[..., Any]) -> Callable[..., Any]:
    def judged(*, direct: bool, **kwargs: Any) -> Any:
        permit.check_file_verb(kwargs, direct=direct)
        return verb(**kwargs)

    return judged


def _pack_verb(verb: Callable[..., Any]) -> Callable[..., Any]:
    def judged(*, direct: bool, owner: int, **kwargs: Any) -> Any:
        permit.check_file_verb(kwargs, direct=direct)
        permit.check_owner(owner, direct=direct)
        return verb(owner=owner, **kwargs)

    return judged


def _tool_verb(verb: Callable[..., Any]) -> Callable[..., Any]:
    def judged(*, direct: bool, programs: dict[str, str], **kwargs: Any) -> Any:
        permit.check_file_verb(kwargs, direct=direct)
        permit.check_tools(programs, direct=direct)
        env = {**os.environ, "LC_ALL": "C"} if direct else CLEAN_ENVIRONMENT
        return verb(**kwargs, programs=programs, run=tool_runner(env))

    return judged


def _send_tree(*, direct: bool, owner: int, **kwargs: Any) -> dict[str, Any]:
    permit.check_file_verb(kwargs, direct=direct)
    permit.check_owner(owner, direct=direct)
    permit.check_timeout(kwargs["peer"]["timeout"])
    programs = {name: permit.tool(name, direct=direct) for name in permit.SENDERS}
    env = {**os.environ, "LC_ALL": "C"} if direct else CLEAN_ENVIRONMENT

    def run(
        argv: Sequence[str],
        *,
        stdin: bytes | None,
        timeout: float,
        output: Callable[[bytes], object],
    ) -> tuple[int, str, bool]:
        done = processes.run_process(
            argv, stdin=stdin, timeout=timeout, env=env, output=output
        )
        return done.returncode, done.stderr, done.timed_out

    return outgoing.send_tree(owner=owner, programs=programs, run=run, **kwargs)


def tool_runner(env: Mapping[str, str]) -> hostends.Run:
    """The way to ip and tc, for hostends.

    :param env: their whole environment
    """

    def run(argv: Sequence[str], stdin: bytes | None = None) -> command.Completed:
        limit = hostends.TIME_LIMIT
        done = processes.run_process(argv, stdin=stdin, timeout=limit, env=env)
        if done.timed_out:
            shown = shlex.join(argv)
            raise exception.CommandTimedOut(shown, limit, done.stdout, done.stderr)
        return command.Completed(done.returncode, done.stdout, done.stderr)

    return run


#: What the privileged side can do. ``direct`` says that the caller is this very
#: process: the owners of paths don't matter, and the environment is its own.
VERBS: Mapping[str, Callable[..., Any]] = {
    "ping": _ping,
    "run": _run,
    **{
        name: _file_verb(verb)
        for verbs in (
            rootfs.VERBS,
            hostends.FILE_VERBS,
            announce.VERBS,
            incoming.VERBS,
            handover.VERBS,
            survey.VERBS,
            firstpass.VERBS,
        )
        for name, verb in verbs.items()
    },
    **{
        name: _tool_verb(verb)
        for verbs in (hostends.VERBS, nethook.VERBS)
        for name, verb in verbs.items()
    },
    **{name: _pack_verb(verb) for name, verb in pack.VERBS.items()},
    **{name: _file_verb(verb) for name, verb in unpack.VERBS.items()},
    "send_tree": _send_tree,
}


def _to_plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value


def _from_plain(value: dict[str, Any]) -> Any:
    if value.keys() == {"$bytes"}:
        return base64.b64decode(value["$bytes"], validate=True)
    return value


def encode(value: Any) -> bytes:
    """A request or reply as JSON; bytes in it become ``{"$bytes": base64}``.

    :raises InvalidValue: it is larger than :data:`MESSAGE_LIMIT`
    """
    data = json.dumps(_to_plain(value)).encode()
    if len(data) > MESSAGE_LIMIT:
        raise exception.InvalidValue(
            f"{len(data)} bytes are more than the {MESSAGE_LIMIT} that may go to or"
            " come from the privileged side at once"
        )
    return data


def decode(data: bytes) -> Any:
    """The opposite of :func:`encode`.

    :raises ValueError: it is nothing that was encoded so
    """
    try:
        return json.loads(data, object_hook=_from_plain)
    except (TypeError, RecursionError) as error:
        raise ValueError("this is no message") from error


def serve(verb: str, kwargs: Mapping[str, Any], *, direct: bool = False) -> bytes:
    """Do what a request asks, on the root side.

    :returns: ``{"value": …}``, or ``{"error": name, "message": …}``, encoded
    """
    try:
        known = VERBS.get(verb)
        if known is None:
            raise exception.CommandRefused(f"there is no verb {verb!r}")
        return encode({"value": known(**kwargs, direct=direct)})
    except exception.OvzError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    except OSError as error:
        reply = {"error": "OvzError", "message": f"{verb}: {error}"}
    except Exception as error:
        if direct:
            raise
        # Where, but not what: the text of such an error may hold the contents
        # of a file, and privsep logs what is raised here.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else "?"
        message = f"{verb}: {type(error).__name__} in {where}"
        reply = {"error": "OvzError", "message": message}
    return encode(reply)


def result(reply: bytes) -> Any:
    """The value in a reply, or the exception that it tells of.

    :raises OvzError: what the root side raised, of the same class
    :raises ValueError: it is no reply
    """
    answer = decode(reply)
    if isinstance(answer, dict) and "value" in answer:
        return answer["value"]
    error = answer if isinstance(answer, dict) else {}
    name, message = error.get("error"), error.get("message")
    if not isinstance(name, str) or not isinstance(message, str):
        raise ValueError("this is no reply")
    raise _ERRORS.get(name, exception.OvzError)(message)


# Those that are made of a message alone.
_ERRORS: Mapping[str, type[exception.OvzError]] = {
    name: kind
    for name, kind in vars(exception).items()
    if isinstance(kind, type)
    and issubclass(kind, exception.OvzError)
    and not issubclass(kind, (exception.CommandFailed, exception.CleanupFailed))
}
