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

"""The way to a command, for everything above the privileged side."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import command, privileged, privsep, processes

LOG = logging.getLogger(__name__)

PRIVSEP = "privsep"
ROOTWRAP = "rootwrap"
#: The exit code of a vzctl that finds the container locked by another one.
LOCKED = 9
MASK = "***"

#: What the root side may take beyond a command's own time limit, in seconds:
#: sudo, the start of Python (many at once), and the end of a tree of processes.
_GRACE = 60.0
#: Seconds for a file verb: a large tree takes long to remove.
_VERB_LIMIT = 1800.0
# Short texts also occur where nobody has put them: they are searched for as
# words, not as parts of words.
_SHORT_SECRET = 6
_BETWEEN_WORDS = re.compile(r"[\s=:,;/]+")
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0

_ROOTWRAP_ADVICE = {
    96: "add the directory of ovz-privileged to exec_dirs in rootwrap.conf",
    97: "correct rootwrap.conf",
    99: "copy etc/nova/rootwrap.d/openvz.filters to the directory that filters_path"
    " in rootwrap.conf names",
}


def _mask(text: str, secrets: Collection[str]) -> str:
    # The longest first: one may be a part of another.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _refuse_secrets(args: Sequence[str], secrets: Collection[str]) -> None:
    for secret in filter(None, secrets):
        for arg in args:
            words = [arg, *_BETWEEN_WORDS.split(arg)]
            if secret in (arg if len(secret) >= _SHORT_SECRET else words):
                raise exception.InvalidValue(
                    "a secret occurs in the arguments of a command, where every user"
                    " of the host could read it: it has to go by standard input"
                )


class Executor:
    """Runs commands, as this user or as root, and the file verbs as root.

    As root means: directly when this process is root, or is its own privileged
    side (``privsep.context.set_client_mode(False)``); otherwise as
    ``privilege`` says. No command is ever run again by itself, with one
    exception: a vzctl that found the container locked has done nothing, and is
    tried again until ``lock_wait`` is over.

    :param privilege: "privsep" or "rootwrap"
    :param root_helper: what rootwrap is called by (nova's own setting)
    :param program_dirs: where programs are looked for, in this order
    :param timeout: seconds that a command may run if it has no limit of its own
    :param lock_wait: seconds to wait for the lock of a container
    :raises ConfigurationError: there is no such ``privilege``
    """

    def __init__(
        self,
        privilege: str = PRIVSEP,
        root_helper: str = "sudo nova-rootwrap /etc/nova/rootwrap.conf",
        program_dirs: Sequence[str] = ("/usr/sbin", "/usr/bin", "/sbin", "/bin"),
        timeout: float = 120.0,
        lock_wait: float = 60.0,
    ) -> None:
        if privilege not in (PRIVSEP, ROOTWRAP):
            raise exception.ConfigurationError(
                f"[openvz]privilege is {privilege}: set it to {PRIVSEP} or {ROOTWRAP}."
            )
        self._privilege = privilege
        self._root_helper = root_helper
        self._program_dirs = tuple(program_dirs)
        self._timeout = timeout
        self._lock_wait = lock_wait

    @property
    def direct(self) -> bool:
        """Whether commands for root are run by this very process."""
        return os.geteuid() == 0 or not privsep.context.client_mode

    def run(
        self,
        *cmd: str,
        run_as_root: bool = True,
        stdin: str | bytes | None = None,
        timeout: float | None = None,
        secrets: Collection[str] = (),
    ) -> command.Completed:
        """Run a command to its end. An exit code is an answer, not an error.

        :param cmd: the program (a name, or its absolute path) and its arguments
        :param stdin: what the command reads; None is an empty input
        :param timeout: seconds; None takes the executor's own limit
        :param secrets: texts that never reach a log or an exception: what comes
            back has them masked
        :raises CommandTimedOut: it was ended at its time limit; what it had done
            by then is not known
        :raises ContainerLocked: the container stayed locked for ``lock_wait``
        :raises CommandRefused: the privileged side does not run this
        :raises InvalidValue: a secret is among the arguments
        :raises PrivilegeError: the way to root does not work; if it broke in
            between, what the command did is not known
        :raises ConfigurationError: the program is nowhere in ``program_dirs``
        """
        _refuse_secrets(cmd[1:], secrets)
        shown = shlex.join(cmd)
        argv = [self.find(cmd[0], run_as_root), *cmd[1:]]
        data = stdin.encode() if isinstance(stdin, str) else stdin
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + self._lock_wait
        pause = _FIRST_PAUSE
        while True:
            done = self._run_once(argv, run_as_root, data, limit, secrets, shown)
            if not _says_locked(argv, done.returncode):
                return done
            left = deadline - time.monotonic()
            if left <= 0:
                raise exception.ContainerLocked(
                    shown, done.returncode, done.stdout, done.stderr
                )
            LOG.debug("'%s' found the container locked and is tried again", shown)
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def execute(
        self,
        *cmd: str,
        run_as_root: bool = False,
        raise_on_error: bool = True,
        stdin: str | bytes | None = None,
        timeout: float | None = None,
        secrets: Collection[str] = (),
    ) -> str:
        """Run a command and return its standard output.

        Parameters and exceptions are those of :meth:`run`.

        :raises CommandFailed: its exit code is not zero, and ``raise_on_error``
        """
        done = self.run(
            *cmd,
            run_as_root=run_as_root,
            stdin=stdin,
            timeout=timeout,
            secrets=secrets,
        )
        if raise_on_error and done.returncode != 0:
            raise exception.CommandFailed(
                shlex.join(cmd), done.returncode, done.stdout, done.stderr
            )
        return done.stdout

    def stream(
        self,
        *cmd: str,
        output: Callable[[bytes], object],
        timeout: float,
        env: Mapping[str, str] | None = None,
    ) -> command.Completed:
        """Run a command as this user, and hand over its output as it comes.

        :param output: gets the standard output; what it raises ends the command, with
            everything it has started, and passes
        :param timeout: seconds
        :param env: variables besides those of this process
        :raises CommandTimedOut: it was ended at its time limit
        :raises ConfigurationError: there is no such program
        :raises OSError: it cannot be started
        """
        shown = shlex.join(cmd)
        LOG.debug("Running '%s'", shown)
        done = processes.run_process(
            [self.find(cmd[0], run_as_root=False), *cmd[1:]],
            timeout=timeout,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            output=output,
        )
        if done.timed_out:
            raise exception.CommandTimedOut(shown, timeout, stderr=done.stderr)
        return command.Completed(done.returncode, "", done.stderr)

    def call(self, verb: str, *, time_limit: float = _VERB_LIMIT, **kwargs: Any) -> Any:
        """Have a verb of :data:`privileged.VERBS` done as root.

        :param time_limit: seconds after which it is not waited for any more
        :param kwargs: str, bytes, int, float, bool, None, lists and dicts
        :raises OvzError: whatever the verb raises
        :raises CommandRefused: the privileged side does not do this
        :raises PrivilegeError: the way to root does not work
        """
        return self._ask(verb, kwargs, timeout=time_limit)

    def check(self) -> None:
        """Try the way to root.

        :raises PrivilegeError: one sentence that says what to do
        """
        user = self._ask("ping", {}, timeout=0)
        if user != 0 and not self.direct:
            raise exception.PrivilegeError(
                f"the privileged side runs as user {user} instead of root: remove"
                f" 'user' from [{privsep.CONFIG_SECTION}], and have the root"
                " helper run as root"
            )

    def find(self, program: str, run_as_root: bool = True) -> str:
        """The absolute path of a program.

        :raises ConfigurationError: it is nowhere in ``program_dirs``
        """
        if os.path.isabs(program):
            return program
        dirs = list(self._program_dirs)
        if not run_as_root:
            dirs += os.get_exec_path()
        found = shutil.which(program, path=os.pathsep.join(dirs))
        if found is None:
            raise exception.ConfigurationError(
                f"{program} is not in {', '.join(dirs)}: install it, or set"
                " [openvz]program_dirs."
            )
        return os.path.abspath(found)

    def _run_once(
        self,
        argv: Sequence[str],
        run_as_root: bool,
        stdin: bytes | None,
        timeout: float,
        secrets: Collection[str],
        shown: str,
    ) -> command.Completed:
        LOG.debug("Running '%s'%s", shown, " as root" if run_as_root else "")
        started = time.monotonic()
        if run_as_root:
            done = self._run_as_root(argv, stdin, timeout)
        else:
            env = {**os.environ, "LC_ALL": "C"}
            try:
                done = processes.run_process(
                    argv, stdin=stdin, timeout=timeout, env=env
                )
            except OSError as error:
                raise exception.OvzError(f"'{shown}' cannot run: {error}") from error
        stdout, stderr = _mask(done.stdout, secrets), _mask(done.stderr, secrets)
        seconds = time.monotonic() - started
        LOG.debug("'%s' gave %d after %.2f s", shown, done.returncode, seconds)
        if done.timed_out:
            raise exception.CommandTimedOut(shown, timeout, stdout, stderr)
        return command.Completed(done.returncode, stdout, stderr)

    def _run_as_root(
        self, argv: Sequence[str], stdin: bytes | None, timeout: float
    ) -> processes.Completed:
        if self._privilege == ROOTWRAP and not self.direct:
            # The command line is an argument list here as well, so that sudo's
            # log says what was run.
            ours = ["run", "--timeout", f"{timeout:g}", "--", *argv]
            reply = self._rootwrap(ours, stdin or b"", timeout)
        else:
            kwargs = {"argv": list(argv), "stdin": stdin, "timeout": timeout}
            reply = self._ask("run", kwargs, timeout=timeout)
        return processes.Completed(**reply)

    def _ask(self, verb: str, kwargs: dict[str, Any], *, timeout: float) -> Any:
        if self.direct:
            # Also here as a message, so that all three ways take and give the same.
            sent = privileged.decode(privileged.encode(kwargs))
            return privileged.result(privileged.serve(verb, sent, direct=True))
        if self._privilege == ROOTWRAP:
            return self._rootwrap(["call", verb], privileged.encode(kwargs), timeout)
        limit = timeout + _GRACE
        return privileged.result(privsep.ask_daemon(verb, kwargs, timeout=limit))

    def _rootwrap(self, args: Sequence[str], stdin: bytes, timeout: float) -> Any:
        """Run ovz-privileged by the root helper; what it replies."""
        helper = [*shlex.split(self._root_helper), "ovz-privileged"]
        try:
            # In a session of its own and without a terminal, so that sudo cannot
            # ask for a password: it fails instead.
            done = processes.run_process(
                [*helper, *args],
                stdin=stdin,
                timeout=timeout + _GRACE,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise exception.PrivilegeError(
                f"'{self._root_helper}' cannot be run ({error.strerror}): correct"
                " nova's root helper"
            ) from error
        if done.timed_out:
            trial = shlex.join([*helper, "call", "ping"])
            raise exception.PrivilegeError(
                f"'{self._root_helper}' did not end within {timeout + _GRACE:g} s: try"
                f" '{trial}' as the user of this service"
            )
        try:
            return privileged.result(done.stdout.encode())
        except ValueError as error:
            raise self._helper_failed(helper, done) from error

    def _helper_failed(
        self, helper: Sequence[str], done: processes.Completed
    ) -> exception.PrivilegeError:
        said = done.stderr.strip().splitlines()
        advice = _ROOTWRAP_ADVICE.get(
            done.returncode, f"permit '{shlex.join(helper[:-1])} *' in sudoers"
        )
        return exception.PrivilegeError(
            f"'{shlex.join(helper)}' failed with exit code {done.returncode}"
            f" ({said[-1] if said else 'no output'}): {advice}"
        )


def _says_locked(argv: Sequence[str], returncode: int) -> bool:
    """Whether a vzctl has done nothing, as another one holds the container.

    The code of exec2 is that of the command it ran, and it needs no lock.
    """
    return (
        returncode == LOCKED
        and os.path.basename(argv[0]) == "vzctl"
        and argv[1:2] != ["exec2"]
    )


def execute(
    *cmd: str,
    run_as_root: bool = False,
    raise_on_error: bool = True,
    stdin: str | bytes | None = None,
    timeout: float | None = None,
    secrets: Collection[str] = (),
) -> str:
    """Run a command as an :class:`Executor` with the default settings does."""
    return Executor().execute(
        *cmd,
        run_as_root=run_as_root,
        raise_on_error=raise_on_error,
        stdin=stdin,
        timeout=timeout,
        secrets=secrets,
    )
