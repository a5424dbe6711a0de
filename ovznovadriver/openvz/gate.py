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

"""A program between rsync and the ssh that it starts: the last pass waits in it.

To connect, and to start Python and rsync as root on the other host, takes longer than
a small pass itself. So all that is done while the container still runs: rsync reads
nothing of the tree before its other end has said a word, and this holds that word back
until the service says that the container has stopped.

It is started by its path, as the service's own user, and needs nothing but Python::

    python3 -I -S gate.py SOCKET ssh …
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess  # noqa: TID251 # not root's, and rsync's: outside the verbs
import sys
import threading
from collections.abc import Sequence

#: What it says when the other end has said its first word.
READY = b"ready\n"
#: What it waits for then; anything else ends the connection.
GO = b"go\n"

_CHUNK = 1 << 18


def _copy(source: int, target: int) -> None:
    while data := os.read(source, _CHUNK):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]


def _feed(source: int, target: int) -> None:
    # The other side may be the first to end.
    with contextlib.suppress(BrokenPipeError), open(target, "wb", buffering=0):
        _copy(source, target)


def _may_pass(place: str) -> bool:
    with socket.socket(socket.AF_UNIX) as link, link.makefile("rwb", 0) as lines:
        # The whole path may be longer than a socket's can be.
        os.chdir(os.path.dirname(place))
        link.connect(os.path.basename(place))
        try:
            lines.write(READY)
            # The service's end, too, ends the wait.
            return lines.readline() == GO
        except ConnectionError:
            return False


def main(args: Sequence[str], source: int = 0, target: int = 1) -> int:
    """Start ssh, wait, and be the pipe between rsync and it.

    :param args: the service's socket, and the command of ssh
    :param source: where what rsync says comes from
    :param target: where what it hears goes
    :returns: ssh's exit code
    :raises OSError: the service is gone
    """
    place, *command = args
    theirs, towards = os.pipe()
    back, ours = os.pipe()
    with subprocess.Popen(command, stdin=theirs, stdout=ours) as ssh:
        os.close(theirs)
        os.close(ours)
        try:
            word = os.read(back, _CHUNK)
            passes = not word or _may_pass(place)
        except OSError:
            ssh.kill()
            raise
        if not passes:
            ssh.kill()
            return 1
        pair = (source, towards)
        threading.Thread(target=_feed, args=pair, daemon=True).start()
        with contextlib.suppress(BrokenPipeError):
            os.write(target, word)
            _copy(back, target)
    return ssh.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
