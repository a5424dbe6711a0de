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

"""Tell a network where a container's addresses are now.

After a move, switches and neighbours still look for it at its old place until it says
something. So it is said for it, from inside its network namespace: a gratuitous ARP
for each IPv4 address (RFC 5227, section 2.3: an ARP announcement), an unsolicited
neighbour advertisement for each IPv6 address (RFC 4861, section 7.2.6).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import logging
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ovznovadriver.openvz import hostends, tree

LOG = logging.getLogger(__name__)

#: Where both families of vzctl (and `ip netns`) have network namespaces by name.
NAMESPACES = "/run/netns"

_CLONE_NEWNET = 0x40000000  # sched.h
_SIOCGIFHWADDR = 0x8927  # linux/sockios.h
_OWN = "/proc/thread-self/ns/net"

_BROADCAST = b"\xff" * 6
_ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
_ALL_NODES_MAC = bytes.fromhex("333300000001")  # RFC 2464, section 7
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ETHERNET, _REQUEST = 1, 1
_ICMPV6 = 58
_ADVERTISEMENT = 136
_OVERRIDE = 0x20000000
_TARGET_LINK_LAYER = 2
_HOP_LIMIT = 255  # RFC 4861, section 7.1.2: any other is dropped


def frame(mac: str, address: str) -> bytes:
    """The Ethernet frame that announces an address.

    :param mac: whose address it is
    :param address: IPv4 or IPv6, without a prefix length
    :raises ValueError: one of them is none
    """
    sender = bytes.fromhex(mac.replace(":", ""))
    found = ipaddress.ip_address(address)
    if found.version == 4:
        return _gratuitous_arp(sender, found.packed)
    return _advertisement(sender, found.packed)


def _gratuitous_arp(mac: bytes, address: bytes) -> bytes:
    head = struct.pack("!6s6sH", _BROADCAST, mac, _ARP)
    arp = struct.pack("!HHBBH", _ETHERNET, _IPV4, 6, 4, _REQUEST)
    return head + arp + mac + address + b"\0" * 6 + address


def _advertisement(mac: bytes, address: bytes) -> bytes:
    option = struct.pack("!BB6s", _TARGET_LINK_LAYER, 1, mac)
    rest = struct.pack("!I", _OVERRIDE) + address + option
    size = 4 + len(rest)
    pseudo = address + _ALL_NODES + struct.pack("!II", size, _ICMPV6)
    bare = struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + rest
    message = struct.pack("!BBH", _ADVERTISEMENT, 0, _checksum(pseudo + bare)) + rest
    head = struct.pack("!6s6sH", _ALL_NODES_MAC, mac, _IPV6)
    ipv6 = struct.pack("!IHBB", 6 << 28, size, _ICMPV6, _HOP_LIMIT)
    return head + ipv6 + address + _ALL_NODES + message


def _checksum(data: bytes) -> int:
    """That of the Internet (RFC 1071); the data has an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def announce(*, base: str, ctid: str, names: Collection[str] | None = None) -> bool:
    """Announce a running container's addresses on its interfaces.

    :param base: the directory of the containers' configurations
    :param names: the host ends of the interfaces; None for all
    :returns: whether all were announced; False also when the container has no
        network namespace, or an interface is not there, is down or has another MAC
        address
    :raises InvalidValue: what is kept of its interfaces is broken
    :raises OvzError: the namespace cannot be entered
    """
    ends = [
        end
        for end in hostends.read(base, ctid)
        if end.addresses and (names is None or end.host_ifname in names)
    ]
    if not ends:
        return True
    path = f"{NAMESPACES}/{tree.checked_ctid(ctid)}"
    with tree.named_errors("use", path):
        channel = _packet_socket(path)
        if channel is None:
            return False
        with channel:
            silent = [end for end in ends if not _send(channel, end)]
    return not silent


def _send(channel: socket.socket, end: hostends.HostEnd) -> bool:
    request = struct.pack("16s24x", end.name.encode())
    try:
        answer = fcntl.ioctl(channel, _SIOCGIFHWADDR, request)
        # Whatever namespace this is, it is not the one that was meant.
        if answer[18:24].hex(":") != end.mac.lower():
            return False
        for address in end.addresses:
            channel.sendto(frame(end.mac, address), (end.name, 0))
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO, errno.ENETDOWN):
            return False
        raise
    return True


def _packet_socket(path: str) -> socket.socket | None:
    """A socket for whole frames in a network namespace; None without it.

    A socket stays in the namespace that it was made in, so only its making has to
    happen there.
    """
    try:
        theirs = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.path.sameopenfile(own, theirs):
                return None  # a name that outlived its container
            with _inside(own, theirs):
                return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        finally:
            os.close(own)
    finally:
        os.close(theirs)


@contextlib.contextmanager
def _inside(own: int, theirs: int) -> Iterator[None]:
    """Have this thread in another network namespace, and no other thread.

    Nothing in the block may wait: with eventlet other greenlets are this thread, too.
    """
    _setns(theirs)
    try:
        yield
    finally:
        try:
            _setns(own)
        except OSError:
            # This thread would go on working in a guest's network, as root.
            LOG.critical("The way back out of a network namespace failed")
            os.abort()


def _setns(descriptor: int) -> None:
    # os.setns is of Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


#: The verb of the privileged side, by name.
VERBS: Mapping[str, Callable[..., Any]] = {"announce": announce}
