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

"""``python -m tests.network [pytest's options]``: tests on a real network.

They need root, and Debian's openvswitch-switch and iproute2. They run in a network
namespace, a mount namespace and a process namespace of their own: no interface, no
Open vSwitch and no /run of this machine is there to be touched, and nothing is left
when they end, however they do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "openvswitch-switch": (
        "ovsdb-tool ovsdb-server ovs-vswitchd ovs-vsctl ovs-ofctl ovs-appctl"
    ),
    "iproute2": "ip tc",
    "util-linux": "unshare mount",
}
#: What the tests find in their environment: a directory for Open vSwitch.
VARIABLE = "OVZ_NETWORK_DIR"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_APART = [
    *("unshare", "--net", "--mount", "--pid"),
    *("--fork", "--kill-child", "--mount-proc", "--"),
]
# /sys shows the interfaces of the namespace that it was mounted in. A shell stays, as
# the first process has to collect those whose parents have ended.
_SET_UP = """
set -e
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip link set lo up
"$@" || exit $?
"""


def reason_not_to() -> str | None:
    """Why this root cannot try it here; None where it can."""
    missing = [
        package
        for package, programs in PACKAGES.items()
        if not all(shutil.which(name, path=SYSTEM_PATH) for name in programs.split())
    ]
    if missing:
        return f"install {' '.join(missing)}"
    trial = subprocess.run([*_APART, "true"], capture_output=True, text=True)
    if trial.returncode:
        return f"namespaces cannot be made: {trial.stderr.strip()}"
    return None


def main(options: list[str]) -> int:
    """The command; its exit code is pytest's."""
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    pytest += ["tests/network", *options]
    if os.geteuid() != 0:
        # Every test is left out, and says why.
        return subprocess.run(pytest, cwd=PROJECT).returncode
    reason = reason_not_to()
    if reason:
        print(f"The network cannot be tried here: {reason}.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="ovz-network-") as directory:
        env = {
            **os.environ,
            # Both families: what is shown here is what differs between them.
            "OVZ_THOROUGH": "yes",
            "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}",
            "OS_NOVA_DISABLE_EVENTLET_PATCHING": "true",
            "TMPDIR": directory,
            VARIABLE: directory,
        }
        inside = [*_APART, "/bin/sh", "-c", _SET_UP, "sh", *pytest]
        return subprocess.run(inside, cwd=PROJECT, env=env).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
