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

"""The tag that says which instance, of which host, a container is.

It is kept in the container's description, which vzctl stores unescaped in a
file that shell scripts source and that vzlist puts into its JSON as it stands.
So it is written in characters that mean nothing to any of them::

    nova1-<base64url without padding of compact JSON>

No checksum: a description that is not, to the byte, what :func:`encode` writes
is not a tag, so a tag that was cut or altered decodes to None, or in the worst
case to other names that no instance has.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, dataclass, fields

from ovznovadriver import exception

#: What every tag begins with; the digit is the version of the format.
PREFIX = "nova1-"

#: The longest tag, in characters. vzlist 4 cuts its lines at 4095, and the
#: columns before the description need less than 200. Nova's longest host and
#: instance names (255 characters each, 4 bytes a character) fit.
MAX_LENGTH = 3072


@dataclass(frozen=True)
class Tag:
    """Who a container belongs to.

    :ivar host: the Nova host; containers of other hosts are not ours
    :ivar name: Nova's name of the instance
    :ivar nova_id: Nova's number of the instance
    :ivar uuid: the instance's UUID
    """

    host: str
    name: str
    nova_id: str
    uuid: str


_KEYS = tuple(field.name for field in fields(Tag))


def encode(tag: Tag) -> str:
    """A tag as a description: ``[A-Za-z0-9_-]`` only.

    :raises InvalidValue: it would be longer than :data:`MAX_LENGTH`, or a
        value is no Unicode text
    """
    text = json.dumps(asdict(tag), ensure_ascii=False, separators=(",", ":"))
    try:
        packed = base64.urlsafe_b64encode(text.encode())
    except UnicodeEncodeError as error:
        raise exception.InvalidValue(
            f"a container cannot be tagged with {tag!a}: {error.reason}"
        ) from error
    description = PREFIX + packed.rstrip(b"=").decode()
    if len(description) > MAX_LENGTH:
        raise exception.InvalidValue(
            f"the tag of instance {tag.uuid[:36]!a} would have {len(description)}"
            f" characters; a description holds {MAX_LENGTH}"
        )
    return description


def decode(description: str) -> Tag | None:
    """The tag in a description; None for anything that :func:`encode` did not
    write, whatever it is.
    """
    if not description.startswith(PREFIX) or len(description) > MAX_LENGTH:
        return None
    packed = description.removeprefix(PREFIX)
    try:
        text = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()
        tag = _from_json(text)
        # A tag has one spelling; base64 and JSON have many.
        return tag if tag and encode(tag) == description else None
    except ValueError:  # of base64, UTF-8, JSON or encode()
        return None


def legacy(description: str) -> Tag | None:
    """The tag that the driver of 2014 wrote, None for anything else.

    It wrote JSON as it was. vzctl 4 drops backslashes, so a quote in the name
    is bare afterwards, and a character outside ASCII reads like ``u00e9``:
    trust host and UUID to find an instance, not the name. A description that
    can be read in two ways, as a name can bring about, is not a tag.
    """
    try:
        return _from_json(description)
    except ValueError:
        return _from_damaged_json(description)


def _from_json(text: str) -> Tag | None:
    """:raises ValueError: it is no JSON"""
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    # An object has become a list of (key, value) tuples; an array holds none.
    if not isinstance(pairs, list) or not all(isinstance(p, tuple) for p in pairs):
        return None
    return _tag(pairs)


# Of the values, only the name is free text.
_PLAIN = "|".join(key for key in _KEYS if key != "name")
_PAIR = rf'"(?:({_PLAIN})": "([^"]*)|(name)": "(.*))"'
_DAMAGED = re.compile(r"\{" + ", ".join([_PAIR] * len(_KEYS)) + r"\}", re.DOTALL)


def _from_damaged_json(text: str) -> Tag | None:
    match = _DAMAGED.fullmatch(text)
    if match is None or any(text.count(f'"{key}": "') != 1 for key in _KEYS):
        return None
    parts = [part for part in match.groups() if part is not None]
    return _tag(list(zip(parts[::2], parts[1::2], strict=True)))


def _tag(pairs: list[tuple[str, object]]) -> Tag | None:
    if sorted(key for key, _ in pairs) != sorted(_KEYS):
        return None
    values = {key: value for key, value in pairs if isinstance(value, str)}
    return Tag(**values) if len(values) == len(_KEYS) else None
