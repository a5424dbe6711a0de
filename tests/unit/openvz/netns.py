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

"""Network namespaces of a test's own, with the real ip and tc."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from ovznovadriver.openvz import command


def _ip(*args: str, stdin: bytes = b"") -> command.Completed:
    program = shutil.which("ip") or "/usr/sbin/ip"
    done = subprocess.run(
        [program, *args], input=stdin, capture_output=True, timeout=60
    )
    return command.Completed(
        done.returncode, done.stdout.decode(), done.stderr.decode()
    )


class Namespace:
    """A network namespace that is gone after the test.

    :ivar name: in /run/netns
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, argv: Sequence[str], stdin: bytes | None = None) -> command.Completed:
        """Run a program in it, as hostends.Run does."""
        return _ip("netns", "exec", self.name, *argv, stdin=stdin or b"")

    def do(self, line: str) -> str:
        """Run a command line that works; its output."""
        done = self.run(line.split())
        assert done.returncode == 0, (line, done)
        return done.stdout


@contextlib.contextmanager
def namespace(name: str | None = None) -> Iterator[Namespace]:
    """One with the loopback interface only.

    The test is skipped where there can be none.
    """
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    name = name or f"ovz-test-{secrets.token_hex(4)}"
    made = _ip("netns", "add", name)
    if made.returncode != 0:
        pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
    try:
        yield Namespace(name)
    finally:
        assert _ip("netns", "del", name).returncode == 0


def need_shaping(space: Namespace) -> None:
    """Skip the test where the kernel cannot limit traffic as it must."""
    for line in (
        "ip link add name ifbtry type ifb",
        "tc qdisc add dev ifbtry root tbf rate 1000bps burst 9999b limit 9999b",
        "tc qdisc add dev ifbtry handle ffff: ingress",
        "tc filter add dev ifbtry parent ffff: protocol all prio 1 u32 match u32 0 0"
        " action mirred egress redirect dev lo",
        "ip link del dev ifbtry",
    ):
        done = space.run(line.split())
        if done.returncode != 0:
            pytest.skip(f"this kernel does not do '{line}': {done.stderr.strip()}")
