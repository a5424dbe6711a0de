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
"""Numbers of vzctl options: suffixes, barrier:limit, addresses."""

from __future__ import annotations

import os

from ovzsim.base import UNLIMITED

PAGE = 4096
_FACTORS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# What one unit of a parameter without a suffix is worth, in bytes.
COUNT, BYTES, PAGES, KILOBYTES = 0, 1, PAGE, 1024


class BadValue(ValueError):
    """A value that vzctl does not take; may carry a message of its own."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


def quantity(text: str, unit: int) -> int:
    """One number of a barrier:limit pair, in units of the parameter.

    :param unit: COUNT, BYTES, PAGES or KILOBYTES.
    """
    if text == "":
        return 0
    if text in ("unlimited", "unlim"):
        return UNLIMITED
    number, factor = text, 0
    if unit != COUNT and text[-1].upper() in (*_FACTORS, "P"):
        number, suffix = text[:-1], text[-1].upper()
        factor = PAGE if suffix == "P" else _FACTORS[suffix]
    whole, _, fraction = number.partition(".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()):
        raise BadValue
    value = float(number) if fraction else int(whole)
    if factor:
        value = value * factor / unit if fraction else value * factor // unit
    return min(int(value), UNLIMITED)


def pair(text: str, unit: int) -> tuple[int, int]:
    """``barrier[:limit]``; a missing limit is the barrier."""
    parts = text.split(":")
    if len(parts) > 2:
        raise BadValue
    barrier = quantity(parts[0], unit)
    return barrier, quantity(parts[1], unit) if len(parts) == 2 else barrier


def limit_text(value: int) -> str:
    """A number as the configuration file has it."""
    return "unlimited" if value >= UNLIMITED else str(value)


def whole_number(text: str, low: int = 0, high: int = 2**31 - 1) -> int:
    """A plain decimal number between two bounds."""
    if not text.isdigit() or not low <= int(text) <= high:
        raise BadValue
    return int(text)


def choice(text: str, allowed: tuple[str, ...]) -> str:
    """One of some words."""
    if text not in allowed:
        raise BadValue
    return text


def mask(text: str, words: tuple[str, ...]) -> str:
    """A CPU or node list such as ``0-1,3``, or one of some words."""
    if text in words:
        return text
    for part in text.split(","):
        ends = part.split("-")
        if len(ends) > 2 or not all(end.isdigit() for end in ends):
            raise BadValue
    return text


def highest_of_mask(text: str) -> int:
    """The highest number in a list such as ``0-1,3``; -1 for a word."""
    if not text or not text[0].isdigit():
        return -1
    return max(int(end) for part in text.split(",") for end in part.split("-"))


def host_cpus() -> int:
    """How many CPUs a mask may name."""
    return os.cpu_count() or 1


def _ipv4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(p.isdigit() and int(p) < 256 for p in parts)


def _is_address(text: str) -> bool:
    if _ipv4(text):
        return True
    if ":" not in text:
        return False
    import socket

    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


def address(text: str) -> str:
    """An IP address with an optional mask, as given."""
    plain, slash, bits = text.partition("/")
    if not _is_address(plain):
        raise BadValue
    if slash and not (bits.isdigit() and int(bits) <= 128) and not _ipv4(bits):
        raise BadValue
    return text


def address_dotted(text: str) -> str:
    """The same, with the mask of an IPv4 address written as dotted quad (family 9)."""
    plain, slash, bits = address(text).partition("/")
    if not slash or ":" in plain or not bits.isdigit():
        return text
    number = (2**32 - 1) << (32 - int(bits)) & (2**32 - 1)
    quad = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
    return f"{plain}/{quad}"


def mac_address(text: str) -> str:
    """A MAC address, in capitals."""
    octets = text.split(":")
    if len(octets) != 6:
        raise BadValue
    for octet in octets:
        if len(octet) != 2 or any(c not in "0123456789abcdefABCDEF" for c in octet):
            raise BadValue
    return text.upper()


def random_mac(prefix: str) -> str:
    """A MAC address as vzctl invents it, behind the three octets given."""
    return prefix + "".join(f":{byte:02X}" for byte in os.urandom(3))
