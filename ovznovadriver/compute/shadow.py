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

"""Passwords in a guest's /etc/shadow (shadow(5))."""

from __future__ import annotations

import threading

from oslo_utils import secretutils

from ovznovadriver import exception

# crypt(3) answers in one buffer of the whole process: without the lock, two
# spawns at once could give one server the other's password.
_CRYPT_LOCK = threading.Lock()


def hash_password(password: str) -> str:
    """The password's SHA-512 crypt hash with a new random salt.

    :raises OvzError: when this host's libcrypt cannot make one
    """
    salt = secretutils.crypt_mksalt("SHA-512")
    try:
        with _CRYPT_LOCK:
            hashed: str = secretutils.crypt_password(password, salt)
    except (AttributeError, RuntimeError) as error:
        # libcrypt is not there, or answered NULL.
        raise exception.OvzError("libcrypt cannot hash a password") from error
    if not hashed.startswith(salt):
        raise exception.OvzError("libcrypt does not know SHA-512, or refuses this")
    return hashed


def set_password(text: bytes, user: str, hashed: str) -> bytes:
    """The shadow file with a user's password replaced.

    All else stays as it is, byte by byte. A user who has no line gets one.

    :param text: the content of the file; empty for one that is not there
    """
    lines = text.splitlines(keepends=True)
    start = user.encode() + b":"
    value = hashed.encode()
    found = False
    for number, line in enumerate(lines):
        if line.startswith(start):
            _old, separator, rest = line.removeprefix(start).partition(b":")
            ending = b"" if separator else b"\n"
            lines[number] = start + value + separator + rest + ending
            found = True
    if not found:
        if lines and not lines[-1].endswith(b"\n"):
            lines.append(b"\n")
        lines.append(start + value + b":::::::\n")
    return b"".join(lines)
