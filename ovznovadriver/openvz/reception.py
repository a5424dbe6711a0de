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

"""The other end of a transfer, as root: rsync, which takes a tree in.

What the other host says is not believed, as it may have been taken over. So rsync
serves one module, that is one directory, as its own daemon does: it changes its root to
that directory first, and refuses every option that the driver does not use. No link
that comes leads out, and no device that comes is opened.

Where this side is not root, which is so for a simulated node only, there is nothing to
guard: rsync serves whatever the command line of its other end asks for.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence

from ovznovadriver import exception
from ovznovadriver.openvz import incoming, outgoing, permit, privileged, processes

_SETTINGS = "rsyncd.conf"
_PATH = re.compile(r"/[A-Za-z0-9_./:@+-]*")

# rsync's names of what outgoing.py uses, each with "!": the rest is refused.
_PERMITTED = (
    *("recursive", "links", "perms", "times", "group", "owner", "D", "devices"),
    *("specials", "hard-links", "acls", "xattrs", "sparse", "one-file-system"),
    *("numeric-ids", "delete", "delete-during", "modify-window", "checksum", "timeout"),
    *("relative", "dirs", "implied-dirs", "bwlimit"),
)

_CONFIGURATION = """\
use chroot = yes
uid = 0
gid = 0
numeric ids = yes
munge symlinks = no
reverse lookup = no
list = no
log file = /dev/null
timeout = {silence}
refuse options = * {permitted}
[tree]
path = {path}
read only = no
write only = yes
"""


def _configuration(path: str) -> str:
    return _CONFIGURATION.format(
        silence=outgoing.SILENCE,
        permitted=" ".join(f"!{option}" for option in _PERMITTED),
        path=path,
    )


def is_confined() -> bool:
    """Whether rsync will be a daemon that changes its root."""
    return os.geteuid() == 0


def receive(
    *,
    base: str,
    key: str,
    listed: bool,
    timeout: float,
    direct: bool,
    words: Sequence[str] = (),
) -> int:
    """Let rsync speak to its other end over standard input and output.

    :param base: the directory of the private areas
    :param listed: say on standard error what has come, when it has
    :param timeout: seconds
    :param direct: the caller is this very process
    :param words: what the other end gave to rsync; only looked at by who is not root
    :returns: rsync's exit code
    :raises TransferError: another one takes in the same tree
    :raises CommandRefused: this is not permitted
    """
    permit.check_file_verb({"dirs": {"private": base}}, direct=direct)
    permit.check_timeout(timeout)
    program = permit.tool("rsync", direct=direct)
    place = os.path.join(base, incoming.checked_key(key))
    if not _PATH.fullmatch(place):
        raise exception.CommandRefused(f"{place!r} cannot stand in rsync's settings")
    env: Mapping[str, str] = privileged.CLEAN_ENVIRONMENT
    if direct:
        env = {**os.environ, "LC_ALL": "C"}
    with incoming.held(base, key) as (_parent, holder):
        argv = [program, *words]
        if is_confined():
            _write(holder, _configuration(f"{place}/{incoming.TREE}"))
            settings = f"--config={place}/{_SETTINGS}"
            argv = [program, "--server", "--daemon", settings, "."]
        code = processes.hand_over(
            argv, timeout=timeout, env=env, cwd=place, keep=(holder,)
        )
        if code == 0 and listed:
            found = incoming.list_received(holder)
            said = f"{outgoing.LISTING_MARK} {found.digest} {found.entries}"
            print(said, file=sys.stderr, flush=True)
    return code


def _write(holder: int, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(_SETTINGS, flags, 0o600, dir_fd=holder)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
