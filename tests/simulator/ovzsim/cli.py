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
"""The entry point of the executables, and the same for a call inside a process."""

from __future__ import annotations

import os
import sys

from ovzsim.base import UNMODELLED, Exit, Streams
from ovzsim.call import Call
from ovzsim.calls import CallLog
from ovzsim.host import Host

PROGRAMS = ("vzctl", "vzlist", "vzmigrate", "ip", "tc")


def _dispatch(call: Call, args: list[str]) -> int:
    if call.program == "vzlist":
        from ovzsim import vzlist

        return vzlist.main(call, args)
    if call.program == "vzmigrate":
        from ovzsim import vzmigrate

        return vzmigrate.main(call, args)
    if call.program in ("ip", "tc"):
        from ovzsim import iproute

        return iproute.main(call, args)
    if call.program not in PROGRAMS:
        from ovzsim import real

        return real.main(call, args)
    if call.host.family == "4":
        from ovzsim import vzctl4

        return vzctl4.main(call, args)
    from ovzsim import vzctl9

    return vzctl9.main(call, args)


def main(
    program: str,
    args: list[str],
    env: dict[str, str],
    streams: Streams,
    stdin: bytes | None = None,
) -> int:
    """Runs one command.

    :param env: OVZ_SIM_ROOT and OVZ_SIM_FAMILY.
    :param stdin: standard input; None for the process's own.
    :returns: the exit code; negative for a tool that dies of that signal.
    """
    log = call = None
    try:
        host = Host.from_environment(env)
        log = CallLog(host, [program, *args])
        call = Call(program, host, streams, stdin, env)
        rc = _dispatch(call, args)
    except Exit as ended:
        if ended.out and not streams.quiet:
            streams.out(ended.out)
        streams.err(ended.err)
        rc = ended.rc
    except Exception as error:
        import traceback

        streams.err(f"ovzsim: a fault of the simulator: {error!r}\n")
        streams.err(traceback.format_exc())
        rc = UNMODELLED
    if call is not None:
        call.end()
    if log is not None:
        log.end(rc)
    return rc


def run(program: str, env: dict[str, str]) -> None:
    """Runs the command that this process was started as, and ends the process."""
    args = [os.fsencode(arg).decode("utf-8", "surrogateescape") for arg in sys.argv[1:]]
    rc = main(program, args, env, Streams())
    if rc < 0:
        import signal  # slow to import

        signal.signal(-rc, signal.SIG_DFL)
        os.kill(os.getpid(), -rc)
    # Nothing is buffered; leaving at once saves the interpreter's clearing up.
    os._exit(rc)
