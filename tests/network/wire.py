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

"""A program for inside a network namespace: ``python wire.py WHAT ARGUMENTS``.

What it says is one line of JSON on standard output. It needs nothing but Python, as
neither ping nor a traffic generator has to be on a machine.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time

ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
PROTOCOL = {socket.AF_INET: 1, socket.AF_INET6: 58}
ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 0x0003, 0x0800, 0x0806
CHUNK = bytes(65536)


def main(what: str, *words: str) -> None:
    """Run one of the programs below."""
    programs = {p.__name__: p for p in (ping, receive, send, listen, frames)}
    print(json.dumps(programs[what](*words)), flush=True)


def checksum(data: bytes) -> int:
    """The Internet's checksum."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo(family: int, marker: bytes) -> bytes:
    """An ICMP echo request. The kernel fills in ICMPv6's checksum."""
    head = struct.pack("!BBHHH", ECHO[family][0], 0, 0, os.getpid() & 0xFFFF, 1)
    total = checksum(head + marker) if family == socket.AF_INET else 0
    return head[:2] + struct.pack("!H", total) + head[4:] + marker


def ping(address: str, seconds: str) -> bool:
    """Whether an address answers within some time; asked again and again."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    marker = os.urandom(16)
    until = time.monotonic() + float(seconds)
    with socket.socket(family, socket.SOCK_RAW, PROTOCOL[family]) as raw:
        raw.settimeout(0.1)
        while time.monotonic() < until:
            try:
                raw.sendto(echo(family, marker), (address, 0))
                while time.monotonic() < until:
                    data = raw.recv(65536)
                    if family == socket.AF_INET:
                        data = data[(data[0] & 15) * 4 :]
                    if data[0] == ECHO[family][1] and data.endswith(marker):
                        return True
            except TimeoutError:
                continue
            except OSError:  # no route yet, or an address that is still tentative
                time.sleep(0.02)
    return False


def receive(port: str, seconds: str) -> float:
    """Bytes a second that a TCP sender gets through, once it has found its pace."""
    with socket.create_server(("", int(port))) as server:
        print("ready", flush=True)
        server.settimeout(60)
        peer, _ = server.accept()
    with peer:
        peer.settimeout(20)
        buffer = bytearray(1 << 20)
        settled = time.monotonic() + 0.5
        while time.monotonic() < settled:
            peer.recv_into(buffer)
        began, total = time.monotonic(), 0
        while time.monotonic() < began + float(seconds):
            total += peer.recv_into(buffer)
        return total / (time.monotonic() - began)


def send(address: str, port: str) -> bool:
    """Send over TCP until the receiver has enough."""
    until = time.monotonic() + 20
    with socket.create_connection((address, int(port)), timeout=20) as peer:
        try:
            while time.monotonic() < until:
                peer.send(CHUNK)
        except OSError:
            return True
    return False


def listen(device: str, last: str, seconds: str) -> list[str]:
    """The frames that come in, as hex, until one has the last one's payload."""
    seen: list[str] = []
    until = time.monotonic() + float(seconds)
    kind = socket.ntohs(ETH_P_ALL)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind) as raw:
        raw.bind((device, 0))
        raw.settimeout(0.1)
        print("ready", flush=True)
        while time.monotonic() < until:
            try:
                frame, sender = raw.recvfrom(65536)
            except TimeoutError:
                continue
            if sender[2] == socket.PACKET_OUTGOING:
                continue
            seen.append(frame.hex())
            if last in seen[-1]:
                break
    return seen


def frames(device: str, *texts: str) -> bool:
    """Send frames that are given as hex, in that order."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((device, 0))
        for text in texts:
            raw.send(bytes.fromhex(text))
    return True


# -- frames, for who imports this ---------------------------------------------------


def mac(text: str) -> bytes:
    """A hardware address as it is on the wire."""
    return bytes.fromhex(text.replace(":", ""))


def echo_frame(
    source_mac: str, source: str, target_mac: str, target: str, marker: bytes
) -> bytes:
    """An Ethernet frame with an ICMP echo request over IPv4."""
    content = echo(socket.AF_INET, marker)
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 1, 0, 64, 1, 0)
    total = struct.pack("!H", checksum(head + ends))
    packet = head[:10] + total + ends + content
    return mac(target_mac) + mac(source_mac) + struct.pack("!H", ETH_P_IP) + packet


def arp_frame(source_mac: str, source: str, target: str) -> bytes:
    """An Ethernet frame with an ARP reply to everybody: source is at source_mac."""
    body = struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, 2)
    body += mac(source_mac) + socket.inet_aton(source)
    body += b"\xff" * 6 + socket.inet_aton(target)
    head = b"\xff" * 6 + mac(source_mac) + struct.pack("!H", ETH_P_ARP)
    return head + body


if __name__ == "__main__":
    main(*sys.argv[1:])
