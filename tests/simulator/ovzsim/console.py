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
"""``vzctl console``: the system console of a container, and a shell behind it.

What the container writes while nobody is attached is there for the next one: its
first words, which it says once for each boot, and what SimNode.console_write() had it
say. Its shell echoes what is typed and runs it line by line, as exec would; of its
own it knows ``flood BYTES``.

As the sources of both families have it: there is one reader at a time; what begins
with Esc at the beginning of a line is for vzctl itself; and when the container stops,
vzctl stays and has nothing more to say.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import termios
import tty

from ovzsim import area, base, guest
from ovzsim.base import Exit, Streams
from ovzsim.call import Call
from ovzsim.state import State

_ESCAPE, _RETURN = b"\x1b", b"\r"
_LOOK = 0.02


def attach4(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl console CTID [TTY]; it counts from 0"""
    from ovzsim.container4 import Container

    if len(args) > 1:
        raise Exit(20, "Invalid syntax: too many parameters!\n")
    tree = Container(call, ctid).area
    with call.work():
        if args and not args[0].isdigit():
            raise Exit(21, f"Invalid parameter: {args[0]}\n")
        console = _Console(call, ctid, tree, int(args[0]) + 1 if args else 1)
        if not console.own():
            busy = os.strerror(errno.EBUSY)
            raise Exit(3, f"Error in VE_CONFIGURE_OPEN_TTY: {busy}\n")
        call.streams.warn(f"Attached to CT {ctid} (ESC . to detach)")
        return console.serve(b".!", line_begins=True)


def attach9(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl console CTID [TTY]; it counts from 1, and takes 2 if none is given"""
    from ovzsim.container9 import Container

    if args and not args[0].isdigit():
        raise Exit(21, f"Incorrect tty number '{args[0]}' is specified")
    tree = Container(call, ctid).area
    with call.work():
        number = int(args[0]) if args else 2
        console = _Console(call, ctid, tree, number)
        call.streams.warn(f"Attached to CT {ctid} tty{number} (type ESC . to detach)")
        if not console.own():
            # It goes on all the same, until something is typed.
            busy = os.strerror(errno.EBUSY)
            call.streams.warn(f"Error opening CT tty: {busy}")
            _read_input(None)
            return 3
        return console.serve(b".,", line_begins=False)


def _read_input(seconds: float | None) -> bytes | None:
    """What is typed; None for nothing, b"" for the end."""
    if not select.select([0], [], [], seconds)[0]:
        return None
    try:
        return os.read(0, 4096)
    except OSError:
        return b""


class _Console:
    def __init__(self, call: Call, ctid: str, place: area.Area, number: int) -> None:
        self._host = call.host
        self._ctid = ctid
        self._tree = place.tree
        self._streams = call.streams
        self._hostname = call.load(ctid).parse(strict=False)[0].get("HOSTNAME", "")
        directory = call.host.sim("console")
        os.makedirs(directory, exist_ok=True)
        self._path = os.path.join(directory, f"{ctid}.{number}")
        self._line = bytearray()
        self._main = number == 1

    def own(self) -> bool:
        """Be the one reader; False when there is one."""
        fd = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def serve(self, commands: bytes, *, line_begins: bool) -> int:
        """Go between the terminal and the container. :returns: the exit code."""
        saved = None
        with contextlib.suppress(termios.error):  # the tool only warns of it
            saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSADRAIN)
        try:
            return self._serve(commands, line_begins)
        finally:
            if saved is not None:
                with contextlib.suppress(termios.error):
                    termios.tcsetattr(0, termios.TCSANOW, saved)
            self._streams.warn(f"\nDetached from CT {self._ctid}")

    def _serve(self, commands: bytes, line_begins: bool) -> int:
        hung = held = False
        boot = 0.0
        while os.path.isdir(self._host.root):
            live = State(self._host, self._ctid)
            boot = boot or live.running * live.since
            # Of the next boot it hears nothing: its terminal is the former one's.
            hung = hung or (boot > 0 and (not live.running or live.since != boot))
            if not hung:
                if live.running and not live.paused:
                    self._boot(live.since)
                self._tell()
            data = _read_input(_LOOK)
            if data is None:
                continue
            if hung or not data:
                self._streams.warn(
                    "vzctl: tty write error" if data else "stdin read error"
                )
                return 3
            for byte in (data[i : i + 1] for i in range(len(data))):
                if held:
                    held = False
                    if byte in (commands[i : i + 1] for i in range(len(commands))):
                        if byte == b"!":
                            continue
                        return 0
                    self._typed(_ESCAPE, live)
                elif byte == _ESCAPE and line_begins:
                    held = True
                    continue
                self._typed(byte, live)
                line_begins = byte == _RETURN
        return 3

    def _boot(self, since: float) -> None:
        path = f"{self._path}.boot"
        with contextlib.suppress(FileNotFoundError):
            if base.read_text(path) == str(since):
                return
        base.write_text(path, str(since))
        if self._main:
            self._say(f"INIT: {self._ctid} booting\r\n".encode())
        self._say(b"# ")

    def _tell(self) -> None:
        """Hand on what the container was made to say since the last reader."""
        told = 0
        with contextlib.suppress(FileNotFoundError):
            told = int(base.read_text(f"{self._path}.told"))
        with contextlib.suppress(FileNotFoundError):
            with open(f"{self._path}.says", "rb") as handle:
                handle.seek(told)
                data = handle.read(65536)
            if data:
                base.write_text(f"{self._path}.told", str(told + len(data)))
                self._say(data)

    def _say(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(1, data) :]
            except OSError:  # the terminal is gone; reading tells it
                return

    def _typed(self, byte: bytes, live: State) -> None:
        if not live.running:
            return
        if byte != _RETURN:
            self._line += byte
            self._say(byte)
            return
        line = self._line.decode("utf-8", "surrogateescape")
        self._line.clear()
        self._say(b"\r\n" + self._answer(line).replace(b"\n", b"\r\n") + b"# ")

    def _answer(self, line: str) -> bytes:
        word, _, rest = line.partition(" ")
        if not word:
            return b""
        if word == "flood":
            return b"x" * int(rest) + b"\n"
        if guest.halts(line):
            State(self._host, self._ctid).stopped()
            return b"halted\n"
        streams = Streams(capture=True)
        command = guest.Command(line, b"", self._hostname)
        guest.run(self._host, self._ctid, self._tree, command, streams)
        return "".join(streams.captured()).encode("utf-8", "surrogateescape")
