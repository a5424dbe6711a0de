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

"""What a client types must not be taken for a command to vzctl itself.

At the beginning of a line, `vzctl console` takes ``Esc .`` for "detach", and
``Esc !`` (vzctl 4) or ``Esc ,`` (vzctl 7) likewise: the first ends the console for
all readers, the second kills what runs on it. (src/enter.c of both.)
"""

from __future__ import annotations

_ESCAPE = 0x1B
_RETURN = 0x0D
_COMMANDS = b".!,"


class Filter:
    """Leaves vzctl's own sequences out of a stream, wherever it is cut."""

    def __init__(self) -> None:
        # vzctl 4 begins as if at the beginning of a line.
        self._line_begins = True
        self._held = False

    def feed(self, data: bytes) -> bytes:
        """The next piece of the stream, without them.

        An Esc at the beginning of a line is held back until the next byte comes;
        vzctl does so, too.
        """
        if not data:
            return data
        if not self._held and _ESCAPE not in data:
            self._line_begins = data[-1] == _RETURN
            return data
        passed = bytearray()
        for byte in data:
            if self._held:
                self._held = False
                if byte in _COMMANDS:
                    continue
                passed.append(_ESCAPE)
            elif byte == _ESCAPE and self._line_begins:
                self._held = True
                continue
            passed.append(byte)
            self._line_begins = byte == _RETURN
        return bytes(passed)
