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
"""What every command of the simulator shares: output, exit codes, the refusal."""

from __future__ import annotations

import os

# Exit code of the simulator's own refusals. No OpenVZ tool uses it.
UNMODELLED = 250

# Where the machine's own programs are.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Largest value of a limit ("unlimited") in configuration files and listings.
UNLIMITED = 2**63 - 1


class Exit(Exception):
    """Ends the command with an exit code, after writing what the tool would say."""

    def __init__(self, rc: int, err: str = "", out: str = "") -> None:
        super().__init__(rc, err, out)
        self.rc = rc
        self.err = err
        self.out = out


class Unmodelled(Exit):
    """The real tool would do something here; the simulator refuses to guess what."""

    def __init__(self, what: str) -> None:
        super().__init__(UNMODELLED, f"ovzsim: not modelled: {what}\n")


class Streams:
    """Standard output and error of one call, either the process's own or captured."""

    def __init__(self, capture: bool = False) -> None:
        self._captured: dict[int, list[str]] | None = (
            {1: [], 2: []} if capture else None
        )
        self.quiet = False

    def _write(self, fd: int, text: str) -> None:
        if self._captured is not None:
            self._captured[fd].append(text)
            return
        data = text.encode("utf-8", "surrogateescape")
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BrokenPipeError:  # the reader went away: as with the real tools
                return

    def out(self, text: str) -> None:
        """Writes to standard output, as it is."""
        self._write(1, text)

    def err(self, text: str) -> None:
        """Writes to standard error, as it is."""
        self._write(2, text)

    def say(self, line: str) -> None:
        """A progress message of vzctl: standard output, unless --quiet."""
        if not self.quiet:
            self._write(1, line + "\n")

    def warn(self, line: str) -> None:
        """A message of vzctl on standard error."""
        self._write(2, line + "\n")

    @property
    def captures(self) -> bool:
        """Whether output is kept here instead of being written."""
        return self._captured is not None

    def captured(self) -> tuple[str, str]:
        """What was written so far, if this object captures."""
        held = self._captured or {1: [], 2: []}
        return "".join(held[1]), "".join(held[2])


def read_text(path: str) -> str:
    """A file's text; bytes that are not UTF-8 survive the way back."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
        return handle.read()


def write_text(path: str, text: str) -> None:
    """Puts a whole file in place at once, so that no reader sees half of it."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(
        temporary, "w", encoding="utf-8", errors="surrogateescape", newline=""
    ) as handle:
        handle.write(text)
    os.replace(temporary, path)


def system_program(name: str) -> str:
    """Where a program of the machine is; its bare name when it is nowhere."""
    places = [os.path.join(place, name) for place in SYSTEM_PATH.split(":")]
    return next(filter(os.path.exists, places), name)


def remove_tree(path: str) -> None:
    """Removes a directory and what is in it, if it is there."""
    if not os.path.isdir(path):
        return
    import shutil  # slow to import

    shutil.rmtree(path)
