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
"""Programs of the administrator that the tools run while they work."""

from __future__ import annotations

import os

from ovzsim.base import Exit
from ovzsim.call import Call

_SYSTEM_PATH = "/sbin:/usr/sbin:/bin:/usr/bin"
_VETH_ERROR = 130
_ACTION_SCRIPT_FAILED = 79

# What vznetcfg does: the file of its settings is shell text, and may name a program
# that takes over, with the same arguments.
_VZNETCFG = """
if [ -f "$0" ]; then . "$0"; fi
if [ -n "$EXTERNAL_SCRIPT" ] && [ -x "$EXTERNAL_SCRIPT" ]; then
    export VEID
    exec "$EXTERNAL_SCRIPT" "$@"
fi
"""


def vznetcfg(call: Call, ctid: str, host_ifname: str) -> None:
    """Runs ``vznetcfg init veth HOST_IFNAME`` (family 4).

    The link itself is up already: all that is left is the external script, if
    vznet.conf names one.

    :raises Exit: 130, it failed
    """
    settings = call.host.path("etc/vz/vznet.conf")
    if not os.path.exists(settings):
        return
    argv = ["/bin/sh", "-c", _VZNETCFG, settings, "init", "veth", host_ifname]
    if _run(call, argv, {"VEID": ctid}):
        raise Exit(_VETH_ERROR, "/usr/sbin/vznetcfg exited with error\n")


def action_script(call: Call, ctid: str, action: str) -> None:
    """Runs vps.mount or vps.umount, if it is there (family 9).

    :raises Exit: 79, it failed
    """
    script = call.host.path("etc/vz/conf", f"vps.{action}")
    if not os.path.exists(script):
        return
    env = {"VEID": ctid, "VE_CONFFILE": call.host.conf_path(ctid)}
    if _run(call, [script], env):
        raise Exit(
            _ACTION_SCRIPT_FAILED, f"Error on executing the mount script {script}\n"
        )


def _run(call: Call, argv: list[str], env: dict[str, str]) -> int:
    """The exit code. A program finds the node's own programs before the machine's."""
    import subprocess  # slow to import

    captured = call.streams.captures
    # As the tools do it: standard input is there, and cannot be read.
    with open("/dev/null", "wb") as stdin:
        try:
            done = subprocess.run(
                argv,
                env={
                    "HOME": "/",
                    "TERM": "linux",
                    "PATH": f"{call.host.path('bin')}:{_SYSTEM_PATH}",
                    **env,
                },
                stdin=stdin,
                stdout=subprocess.PIPE if captured else None,
                stderr=subprocess.PIPE if captured else None,
            )
        except OSError as error:
            call.streams.warn(f"Error exec {argv[0]}: {error.strerror}")
            return 1
    if captured:
        call.streams.out(done.stdout.decode("utf-8", "surrogateescape"))
        call.streams.err(done.stderr.decode("utf-8", "surrogateescape"))
    return done.returncode
