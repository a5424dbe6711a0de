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

"""What the demo prints: aligned columns, colours only where they help."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import TextIO

#: Colours by meaning, as ANSI codes.
STYLES = {
    "title": "1",
    "heading": "1;36",
    "dim": "2",
    "nova": "35",
    "neutron": "34",
    "ovs": "34",
    "node": "33",
    "good": "32",
    "changed": "36",
    "gone": "2",
    "bad": "1;31",
}

#: How each state of a server looks.
STATE_STYLES = {"ACTIVE": "good", "ERROR": "bad", "DELETED": "gone"}


#: Words of commands are cut beyond this; a UUID is not.
LONGEST_WORD = 64


def wants_colour(stream: TextIO, forbidden: bool) -> bool:
    """Whether to colour: on a terminal, unless the user does not want it."""
    if forbidden or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def duration(seconds: float) -> str:
    """A time as people read it: milliseconds below a second."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s"


def command_lines(argv: Sequence[str], width: int) -> list[str]:
    """A command line, broken before options; what continues is indented."""
    words = [cut(_quoted(word), LONGEST_WORD) for word in argv]
    groups = [words[0]]
    for word in words[1:]:
        if word.startswith("-"):
            groups.append(word)
        else:
            groups[-1] += f" {word}"
    lines = [groups[0]]
    for group in groups[1:]:
        if len(lines[-1]) + 1 + len(group) <= width:
            lines[-1] += f" {group}"
        else:
            lines.append(f"    {group}")
    return [cut(line, width) for line in lines]


def _quoted(word: str) -> str:
    plain = word and not set(word) & set(" \t\n\"'$&;|<>()*?[]{}\\`")
    return word if plain else "'" + word.replace("'", "'\\''") + "'"


def cut(text: str, width: int) -> str:
    """A text that fits; what was cut off is marked."""
    return text if len(text) <= width else text[: width - 1] + "…"


class Screen:
    """Where the demo writes.

    :param colour: whether to write colours
    """

    #: The widest line, however wide the terminal is.
    WIDEST = 116
    #: The width in a pipe.
    PLAIN_WIDTH = 100

    def __init__(self, stream: TextIO, colour: bool) -> None:
        self._stream = stream
        self._colour = colour
        terminal = shutil.get_terminal_size((self.PLAIN_WIDTH, 24)).columns
        self.width = max(72, min(terminal, self.WIDEST))

    def style(self, name: str, text: str) -> str:
        """A text in a style's colour."""
        if not self._colour or not text:
            return text
        return f"\x1b[{STYLES[name]}m{text}\x1b[0m"

    def line(self, text: str = "", end: str = "\n") -> None:
        """One line, at once."""
        self._stream.write(text.rstrip(" ") + end if end == "\n" else text + end)
        self._stream.flush()

    def title(self, text: str) -> None:
        """The head of the whole."""
        self.line(self.style("title", text))

    def heading(self, text: str, note: str = "") -> None:
        """The head of a part."""
        self.line()
        rest = cut(note, self.width - len(text) - 3)
        self.line(f"{self.style('heading', text)}   {self.style('dim', rest)}")
        self.line(self.style("dim", "─" * self.width))

    def entry(self, who: str, lines: Sequence[str], right: str) -> None:
        """Something that happened: by whom, what, and how long or how it ended."""
        first, *more = lines
        room = self.width - 9 - len(right) - 2
        self.line(
            f"{self.style(who, who.ljust(8))} {cut(first, room).ljust(room)}"
            f"  {self.style('dim', right)}"
        )
        for line in more:
            self.line(f"{'':8} {line}")

    def room(self) -> int:
        """How wide the text of an entry may be."""
        return self.width - 9 - 10

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Names and values in two columns."""
        pairs = list(pairs)
        names = max(len(name) for name, _ in pairs)
        for name, value in pairs:
            text = cut(value, self.width - names - 4)
            self.line(f"  {self.style('dim', name.ljust(names))}  {text}")

    def state(self, state: str) -> str:
        """A server's state in its colour."""
        return self.style(STATE_STYLES.get(state, "changed"), state)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; a row's further lines are cells separated by newlines."""
        cells = [[*map(str.splitlines, row)] for row in rows]
        widths = [
            max(
                len(title),
                *(len(line) for row in cells for line in row[column] or [""]),
            )
            for column, title in enumerate(head)
        ]
        self.line(
            "  ".join(
                self.style("title", title.ljust(width))
                for title, width in zip(head, widths, strict=True)
            )
        )
        self.line(self.style("dim", "  ".join("─" * width for width in widths)))
        for row in cells:
            for line in itertools.zip_longest(*row, fillvalue=""):
                self.line(self._row(line, widths))

    def _row(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        first, *others = padded
        return "  ".join([self.style("dim", first), *map(self._stated, others)])

    def _stated(self, cell: str) -> str:
        word, blank, rest = cell.partition(" ")
        if word.isupper() and word.isalpha():
            return f"{self.state(word)}{blank}{rest}"
        return cell
