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

"""Root by oslo.privsep: our context, its daemon, and the way to ask it.

Apart from :mod:`ovznovadriver.openvz.privileged`, which the daemon's requests end
in, because ``ovz-privileged`` needs that one for each command and not this one: to
import privsep takes 0.4 s.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg
from oslo_privsep import capabilities, comm, daemon, priv_context

from ovznovadriver import exception
from ovznovadriver.openvz import privileged

LOG = logging.getLogger(__name__)

CONFIG_SECTION = "ovznovadriver_privileged"

# These bind the daemon's own Python code: owners, modes and capabilities of files in
# the containers' trees, the signals that end a command, and the look into
# /proc/<pid>/environ that finds what it started; whole frames, sent from inside a
# container's network namespace. They do not bind vzctl: the daemon stays uid 0, and
# the kernel gives every capability back to a program that uid 0 executes. vzctl
# needs nearly all of them, so the boundary is the check of the arguments, not this
# list.
context = priv_context.PrivContext(
    "ovznovadriver",
    cfg_section=CONFIG_SECTION,
    pypath=f"{__name__}.context",
    capabilities=[
        capabilities.CAP_CHOWN,
        capabilities.CAP_DAC_OVERRIDE,
        capabilities.CAP_DAC_READ_SEARCH,
        capabilities.CAP_FOWNER,
        capabilities.CAP_FSETID,
        capabilities.CAP_KILL,
        capabilities.CAP_NET_RAW,
        capabilities.CAP_SETFCAP,
        capabilities.CAP_SYS_ADMIN,
        capabilities.CAP_SYS_PTRACE,
    ],
)
# privsep's own default is the number of CPUs, and a command holds its thread
# until it ends: two slow stops would block everything else. nova-compute has
# 64 RPC workers and a few small pools; a thread that is not used is not made.
cfg.CONF.set_default("thread_pool_size", 128, group=CONFIG_SECTION)
#: Seconds that the start of the privsep daemon may take, sudo included.
START_LIMIT = 60.0


class _Unlogged(bytes):
    """Bytes that don't show in a log: privsep logs every reply at DEBUG."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


# privsep has no type information.
@context.entrypoint  # type: ignore[untyped-decorator]
def privsep_request(request: bytes) -> bytes:
    """The one entry point of the privsep daemon."""
    os.umask(0o022)  # privsep sets 0
    asked = privileged.decode(request)
    return _Unlogged(privileged.serve(asked["verb"], asked["kwargs"]))


class _Start(threading.Thread):
    """One start of our privsep daemon; ``error`` says why it failed."""

    def __init__(self) -> None:
        super().__init__(name="ovz-privsep-start", daemon=True)
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            if context.channel is not None:
                LOG.warning("The privsep daemon has ended and is started again")
                context.stop()
            context.start()
        except Exception as error:
            self.error = error


class _Starter:
    """Starts our privsep daemon, without waiting for ever.

    privsep itself waits without a limit for sudo, which may ask for a password
    or for a directory service. So a start has a thread of its own; one that
    hangs is waited for again by the next call, not doubled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: _Start | None = None

    def ensure(self, limit: float) -> None:
        """Have the daemon running.

        :param limit: seconds
        :raises PrivilegeError:
        """
        with self._lock:
            if context.channel is not None and context.channel.running:
                return
            if self._last is None or not self._last.is_alive():
                self._last = _Start()
                self._last.start()
            start = self._last
        start.join(limit)
        if start.is_alive():
            problem = f"did not start within {limit:g} s"
        elif start.error is not None:
            problem = f"cannot be started ({start.error})"
        else:
            return
        trial = " ".join(context.helper_command("SOCKET"))
        raise exception.PrivilegeError(
            f"the privsep daemon {problem}: permit its command in sudoers and in"
            f" rootwrap's filters, and try it as the user of this service: '{trial}'"
        ) from start.error


_STARTER = _Starter()


def ask_daemon(verb: str, kwargs: Mapping[str, Any], *, timeout: float) -> bytes:
    """Have a request served by the privsep daemon, which is started when needed.

    :param timeout: seconds to wait for the reply
    :raises PrivilegeError: the daemon does not start, has ended, or does not
        answer in time; whether the request was served is not known
    """
    request = privileged.encode({"verb": verb, "kwargs": kwargs})
    _STARTER.ensure(START_LIMIT)
    try:
        # What context.entrypoint_with_timeout does, with a limit for each call.
        reply = privsep_request(request, _wrap_timeout=timeout)
    except comm.PrivsepTimeout as error:
        raise exception.PrivilegeError(
            f"the privsep daemon did not answer within {timeout:g} s"
        ) from error
    except (OSError, RuntimeError, daemon.FailedToDropPrivileges) as error:
        raise exception.PrivilegeError(
            f"the privsep daemon has ended: {error}"
        ) from error
    return bytes(reply)
