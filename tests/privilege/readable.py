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

"""Python and the checkout for a user who may not go where they lie.

A checkout, or Python, below /root, for example. All of this is in a mount namespace,
and gone with its last process.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import stat
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence

_APART = "OVZ_PRIVILEGE_APART"
#: Covered as well, to keep hold of what is to be shown.
_HOLD = pathlib.Path("/mnt")


def have_namespace(argv: Sequence[str]) -> None:
    """Replace this process by another one with a mount namespace, where it has none."""
    if _APART not in os.environ:
        env = {**os.environ, _APART: "1"}
        program = ["unshare", "--mount", "--", *argv]
        os.execvpe(program[0], program, env)  # noqa: S606 - it is what it is for


def _closed(path: pathlib.Path) -> pathlib.Path | None:
    """The first directory on the way to another that others may not go through."""
    above = reversed(path.parents)
    return next((d for d in above if not d.stat().st_mode & stat.S_IXOTH), None)


def _mount(*words: object) -> None:
    command = ["mount", *map(str, words)]
    subprocess.run(command, check=True)


def show(paths: Iterable[pathlib.Path]) -> None:
    """Have directories reached by everybody, whatever they lie below.

    What else is there is not seen any more.
    """
    covered = defaultdict(list)
    for path in paths:
        closed = _closed(path)
        if closed is not None:
            covered[closed].append(path)
    if not covered:
        return
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", _HOLD)
    held = {}
    for number, path in enumerate(itertools.chain.from_iterable(covered.values())):
        held[path] = _HOLD / str(number)
        held[path].mkdir()
        _mount("--bind", path, held[path])
    for closed in covered:
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", closed)
    for path, place in held.items():
        path.mkdir(parents=True, exist_ok=True)
        _mount("--bind", place, path)
