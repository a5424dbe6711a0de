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
"""Configuration files as vzctl reads and writes them: NAME="value" lines.

A changed parameter is rewritten on its own line, a new one is appended, comments and
lines that cannot be read stay. Values are written raw: nothing is escaped.
"""

from __future__ import annotations

import os

from ovzsim import base


class ConfFile:
    """One configuration file in memory."""

    def __init__(self, path: str, text: str = "") -> None:
        self.path = path
        self.lines = text.removesuffix("\n").split("\n") if text else []

    @classmethod
    def load(cls, path: str) -> ConfFile:
        """Reads the file; :raises FileNotFoundError: if there is none."""
        return cls(path, base.read_text(path))

    def parse(self, strict: bool) -> tuple[dict[str, str], list[str]]:
        """Values by name, and the warnings vzctl prints about the rest.

        :param strict: as family 4 does it: unmatched quotes make a line void,
            backslashes vanish, the first of two lines wins with a warning.
        """
        values: dict[str, str] = {}
        warnings: list[str] = []
        for number, raw in enumerate(self.lines, start=1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            name, equals, value = line.partition("=")
            problem = ""
            if not equals:
                problem = "'=' not found"
            elif value.startswith('"'):
                if len(value) > 1 and value.endswith('"'):
                    value = value[1:-1]
                elif strict:
                    problem = "unmatched quotes"
                else:
                    value = value[1:]
            if problem:
                warnings.append(
                    f"Warning: can't parse {self.path}:{number} ({problem}), skipping"
                )
                continue
            if strict:
                value = value.replace("\\", "")
            if name in values:
                warnings.append(
                    f"Warning at {self.path}:{number}: "
                    f'duplicate for {name} ("{value}"), ignored'
                )
                continue
            values[name] = value
        return values, warnings

    def update(self, changes: dict[str, str | None], order: tuple[str, ...]) -> None:
        """Rewrites parameters in place, removes those that are None, appends the new.

        :param order: the order in which the tool appends new parameters.
        """
        known = {name: place for place, name in enumerate(order)}
        for name in sorted(changes, key=lambda name: known.get(name, len(known))):
            value = changes[name]
            places = [
                place
                for place, line in enumerate(self.lines)
                if line.strip().startswith(name + "=")
            ]
            if value is None:
                for place in reversed(places):
                    del self.lines[place]
                continue
            written = f'{name}="{value}"'.split("\n")
            if places:
                place = places[0]
                if written[-1] == '"' and place + 1 < len(self.lines):
                    # Behind a newline at the value's end, none follows the quote.
                    written[-1] += self.lines.pop(place + 1)
                self.lines[place : place + 1] = written
            else:
                self.lines.extend(written)

    def save(self) -> None:
        """Writes the file, through a symbolic link if it is one."""
        base.write_text(os.path.realpath(self.path), "\n".join(self.lines) + "\n")
