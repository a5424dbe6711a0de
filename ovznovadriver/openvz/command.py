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

"""What the modules that know a tool's language have in common.

``vzctl`` and ``vzlist`` are given a :class:`Runner`; they never start a
process themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

#: vzctl 4 takes no number above this one.
MAX_CTID = 2147483644

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")


def is_ctid(text: str) -> bool:
    """Whether a text is a container's identity and nothing else to the tools.

    That is a number from 1 to :data:`MAX_CTID` or a UUID. The tools also take
    names, and a text that begins with ``-`` for an option: neither is a CTID.
    The case of a UUID matters: the tools make paths of it as it stands.
    """
    if _NUMBER.fullmatch(text):
        return int(text) <= MAX_CTID
    return _UUID.fullmatch(text) is not None


@dataclass(frozen=True)
class Completed:
    """A command that has ended by itself.

    :ivar returncode: its exit code
    :ivar stdout: its standard output; bytes that are not UTF-8 come as
        lone surrogates (``errors="surrogateescape"``), none is dropped
    :ivar stderr: its standard error, likewise
    """

    returncode: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """The way to a command."""

    def run(
        self,
        *cmd: str,
        run_as_root: bool = True,
        stdin: str | bytes | None = None,
        timeout: float | None = None,
        secrets: Collection[str] = (),
    ) -> Completed:
        """Run a command to its end. An exit code is an answer, not an error.

        :param cmd: the program and its arguments
        :param stdin: what the command reads; None is an empty input
        :param timeout: seconds; None takes the runner's own limit
        :param secrets: texts that never reach a log or an exception
        :raises CommandTimedOut: it was ended at its time limit
        :raises CommandRefused: the privileged side does not run this
        :raises PrivilegeError: there is no way to root
        """
        ...
