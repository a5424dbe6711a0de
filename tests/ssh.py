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

"""An OpenSSH server of the tests' own, on loopback, that simulated nodes answer by."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from ovznovadriver.openvz import transfer
from tests.simulator.node import SimNode

PROJECT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
NEEDED = ("sshd", "ssh", "ssh-keygen", "rsync")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_CONFIG = """\
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
StrictModes no
UsePAM no
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
"""

# What sshd starts, with no other environment than it gives.
_RECEIVER = """#!{python} -S
import os, sys
sys.path[:] = {path!r}
if os.geteuid() != 0:
    from ovznovadriver.openvz import privsep
    privsep.context.set_client_mode(False)
from ovznovadriver.cmd import receive
sys.exit(receive.main(["--config-file", {conf!r}], direct=True))
"""

_NOVA_CONF = """\
[DEFAULT]
host = {host}
state_path = {sim.root}/state
[oslo_concurrency]
lock_path = {sim.root}/locks
[openvz]
vz_conf = {sim.root}/etc/vz/vz.conf
ve_conf_dir = {sim.conf_dir}
names_dir = {sim.names_dir}
lock_dir = {sim.root}/claims
sysfs_dir = {sim.root}/sys
program_dirs = {sim.bin_dir}
layout = {layout}
"""


def reason_not_to() -> str | None:
    """Why this cannot be tried here; None where it can."""
    missing = [name for name in NEEDED if shutil.which(name, path=_PATH) is None]
    if missing:
        return (
            f"{', '.join(missing)} missing: install openssh-server, openssh-client and"
            " rsync"
        )
    return None


class Sshd:
    """It lets this very user in, by a key for each node.

    :ivar known_hosts: the file with its host key
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._listener = socket.create_server((HOST, 0))
        self._running: list[subprocess.Popen[bytes]] = []
        self.port = self._listener.getsockname()[1]
        self.known_hosts = directory / "known_hosts"
        self._make_key("host_key")
        (directory / "authorized_keys").touch()
        (directory / "config").write_text(_CONFIG.format(directory=directory))
        public = (directory / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[{HOST}]:{self.port} {public}")
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _make_key(self, name: str) -> Path:
        path = self._directory / name
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        return path

    def _accept(self) -> None:
        program = shutil.which("sshd", path=_PATH) or ""
        config = str(self._directory / "config")
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed: this is the end
                return
            with connection, open(self._directory / "log", "ab") as log:
                self._running.append(
                    subprocess.Popen(
                        [program, "-i", "-e", "-f", config],
                        stdin=connection,
                        stdout=connection,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    def peer_of(
        self, sim: SimNode, host: str = "host2", **changes: object
    ) -> transfer.Peer:
        """How a simulated node is reached.

        :param host: the Nova host that it is
        :param changes: other values than the usual ones, by name
        """
        conf, layout = sim.root / "nova.conf", "ploop" if sim.ploop else "simfs"
        conf.write_text(_NOVA_CONF.format(sim=sim, host=host, layout=layout))
        receiver = sim.root / "receive"
        path = [str(PROJECT), *filter(None, sys.path)]
        receiver.write_text(
            _RECEIVER.format(python=sys.executable, path=path, conf=str(conf))
        )
        receiver.chmod(0o755)
        key = self.let_in(f'restrict,command="{receiver}" ')
        usual = {
            "host": HOST,
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "ssh_key": str(key),
            "known_hosts": str(self.known_hosts),
            "port": self.port,
            "timeout": 60.0,
        }
        return transfer.Peer(**{**usual, **changes})

    def let_in(self, restrictions: str = "") -> Path:
        """Let this user in by a new key; the key's file."""
        key = self._make_key(f"key_{len(list(self._directory.glob('key_*.pub')))}")
        public = key.with_suffix(".pub").read_text()
        with open(self._directory / "authorized_keys", "a") as file:
            file.write(f"{restrictions}{public}")
        return key

    def change_host_key(self) -> None:
        """Show another one than known_hosts has."""
        for name in ("host_key", "host_key.pub"):
            (self._directory / name).unlink()
        self._make_key("host_key")

    def break_off(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to what serves the connections; how many there were."""
        living = [process for process in self._running if process.poll() is None]
        for process in living:
            os.killpg(process.pid, number)
        return len(living)

    def log(self) -> str:
        """What it has said."""
        return (self._directory / "log").read_text(errors="replace")

    def close(self) -> None:
        """End it, and all that it serves."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.break_off()
        for process in self._running:
            process.wait()


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Sshd]:
    """An SSH server, while the block runs."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        # sshd confines itself to it, and the distribution makes it with the service.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = Sshd(directory)
    try:
        yield server
    finally:
        server.close()
