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
"""What stands for vzmigrate's ssh in a pass that hangs when a part has gone.

Called as ssh, after the file that lets it go on. It ends at once with the rsync that it
works for, and so does the one that it started.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time

#: Bytes that go before it hangs.
PART = 1 << 20
_LONGEST_HANG = 900.0


def _carry(target: int, size: int) -> None:
    with os.fdopen(target, "wb", buffering=0, closefd=False) as there:
        while size > 0 and (data := os.read(0, min(size, 1 << 16))):
            there.write(data)
            size -= len(data)


def main(go_on: str, *call: str) -> int:
    """Runs what would run on the other host: the words after -l, a user and a host."""
    reader, writer = os.pipe()
    server = subprocess.Popen(call[3:], stdin=reader, start_new_session=True)
    os.close(reader)
    _carry(writer, PART)
    hangs_up = select.poll()
    hangs_up.register(0, 0)
    until = time.monotonic() + _LONGEST_HANG
    while not os.path.exists(go_on):
        if hangs_up.poll(20) or time.monotonic() > until:
            os.killpg(server.pid, signal.SIGKILL)
            return 255
    # rsync keeps its end open until this process ends.
    threading.Thread(target=_carry, args=[writer, sys.maxsize], daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
