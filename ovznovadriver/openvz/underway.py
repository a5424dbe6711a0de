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


"""A pass under way: it is worked at in a thread, watched, and kept waiting at its gate.

What the privileged side tells meanwhile comes by a FIFO or a socket in a directory that
only the service's user can enter.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from ovznovadriver.openvz import gate

_POLL = 0.5


class Work:
    """A call that is made in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, name="ovz-transfer", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join()

    def result(self) -> Any:
        """What the call has returned, or raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._result


class Watch:
    """A FIFO for percentages, and who gets them; none where nobody wants them.

    :ivar pipe: the path of the FIFO
    """

    def __init__(self, progress: Callable[[float], object] | None) -> None:
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._descriptor = -1
        self.pipe: str | None = None

    def __enter__(self) -> Watch:
        if self._progress is None:
            return self
        with contextlib.ExitStack() as stack:
            self.pipe = _scratch_path(stack, "percent")
            os.mkfifo(self.pipe, 0o600)
            # For writing too, or it would end whenever nobody has it open.
            flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
            self._descriptor = os.open(self.pipe, flags)
            stack.callback(os.close, self._descriptor)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def tell(self, part: float) -> None:
        """Say how far it is."""
        if self._progress is not None:
            self._progress(part)

    def result_of(self, work: Work) -> Any:
        """Hand on percentages while the work is done, and then what it came to."""
        rest = b""
        while self.pipe is not None and not work.is_done:
            ready, _, _ = select.select([self._descriptor], [], [], _POLL)
            if not ready:
                continue
            *lines, rest = (rest + os.read(self._descriptor, 4096)).split(b"\n")
            if lines:
                self.tell(min(int(lines[-1]), 100) / 100)
        return work.result()


class Gate:
    """The service's end of what keeps the last pass waiting; see gate.py.

    :ivar path: of the socket
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self.path = _scratch_path(stack, "gate")
            self._listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            directory, name = os.path.split(self.path)
            opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, opened)
            # The whole path may be longer than a socket's can be.
            self._listener.bind(f"/proc/self/fd/{opened}/{name}")
            self._listener.listen(1)
            self._listener.settimeout(_POLL)
            self._stack = stack.pop_all()
        self._link: socket.socket | None = None

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def wait(self, work: Work) -> bool:
        """Wait until the other host has spoken; False when the work has ended."""
        while self._link is None:
            try:
                self._link, _ = self._listener.accept()
            except TimeoutError:
                if work.is_done:
                    return False
        self._stack.push(self._link)
        return True

    def open(self) -> None:
        """Let the pass begin."""
        if self._link is not None:
            # Where nobody is there any more, the work says why.
            with contextlib.suppress(OSError):
                self._link.sendall(gate.GO)

    def close(self) -> None:
        """Whoever waits need not any longer."""
        self._stack.close()


def _scratch_path(stack: contextlib.ExitStack, name: str) -> str:
    # Whose it is: the next service removes what is a dead one's.
    directory = tempfile.TemporaryDirectory(prefix=f"ovz-{os.getpid()}-")
    return os.path.join(stack.enter_context(directory), name)
