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

"""openvz/announce.py: the frames, byte by byte, and their way into a namespace."""

from __future__ import annotations

import os
import pathlib
import socket
import threading
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import announce, hostends
from ovznovadriver.openvz.hostends import HostEnd
from tests.unit.openvz import netns

MAC = "fa:16:3e:01:02:03"
ETH_P_ALL = 3


# --- Frames ---


def test_an_ipv4_address_is_announced_by_a_gratuitous_arp() -> None:
    assert announce.frame(MAC, "10.0.0.5").hex(" ") == " ".join(
        (
            "ff ff ff ff ff ff",  # to all
            "fa 16 3e 01 02 03",
            "08 06",  # ARP
            "00 01 08 00 06 04",  # Ethernet, IPv4
            "00 01",  # a request
            "fa 16 3e 01 02 03 0a 00 00 05",  # the sender
            "00 00 00 00 00 00 0a 00 00 05",  # the target: the same address
        )
    )


def test_an_ipv6_address_is_announced_by_an_advertisement() -> None:
    assert announce.frame(MAC, "2001:db8::5").hex(" ") == " ".join(
        (
            "33 33 00 00 00 01",  # to all nodes
            "fa 16 3e 01 02 03",
            "86 dd",  # IPv6
            "60 00 00 00 00 20 3a ff",  # 32 bytes of ICMPv6, hop limit 255
            "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 05",
            "ff 02 00 00 00 00 00 00 00 00 00 00 00 00 00 01",
            "88 00 c1 08",  # an advertisement, and its checksum
            "20 00 00 00",  # override
            "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 05",
            "02 01 fa 16 3e 01 02 03",  # the target's link-layer address
        )
    )


@given(st.binary(min_size=6, max_size=6), st.ip_addresses(v=6))
def test_the_checksum_of_every_advertisement_is_right(
    mac: bytes, address: object
) -> None:
    frame = announce.frame(mac.hex(":"), str(address))
    pseudo = frame[22:54] + bytes([0, 0, 0, 32, 0, 0, 0, 58])
    message = pseudo + frame[54:]
    # RFC 1071: with the checksum in it, the sum is all ones.
    total = sum(
        int.from_bytes(message[at : at + 2]) for at in range(0, len(message), 2)
    )
    assert total > 0
    assert total % 0xFFFF == 0


@pytest.mark.parametrize(
    ("mac", "address"), [("x", "10.0.0.5"), (MAC, "10.0.0.5/24"), (MAC, "")]
)
def test_nonsense_is_not_announced(mac: str, address: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        announce.frame(mac, address)


# --- Without a namespace ---


@pytest.fixture
def ctid() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def base(tmp_path: pathlib.Path, ctid: str) -> pathlib.Path:
    (tmp_path / f"{ctid}.conf").touch()
    return tmp_path


def write(base: pathlib.Path, ctid: str, *ends: HostEnd) -> None:
    text = hostends.encode(ends)
    hostends.write_host_ends(base=str(base), ctid=ctid, text=text)


def test_a_container_without_addresses_has_nothing_to_announce(
    base: pathlib.Path, ctid: str
) -> None:
    assert announce.announce(base=str(base), ctid=ctid) is True
    write(base, ctid, HostEnd("tap0", "eth0", MAC))
    assert announce.announce(base=str(base), ctid=ctid) is True


def test_a_container_without_a_namespace_is_not_announced(
    base: pathlib.Path, ctid: str
) -> None:
    write(base, ctid, HostEnd("tap0", "eth0", MAC, addresses=("10.0.0.5",)))
    assert announce.announce(base=str(base), ctid=ctid) is False
    assert announce.announce(base=str(base), ctid=ctid, names=["tap1"]) is True


def test_what_is_no_container_is_refused(base: pathlib.Path) -> None:
    with pytest.raises(exception.UnsafePath):
        announce.announce(base=str(base), ctid="../../proc/1/ns/net")


def test_the_hosts_own_network_is_never_used(
    base: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ctid: str
) -> None:
    def fail(descriptor: int) -> None:
        raise AssertionError(descriptor)

    monkeypatch.setattr(announce, "NAMESPACES", str(base))
    monkeypatch.setattr(announce, "_setns", fail)
    (base / ctid).symlink_to("/proc/self/ns/net")
    write(base, ctid, HostEnd("tap0", "eth0", MAC, addresses=("10.0.0.5",)))
    assert announce.announce(base=str(base), ctid=ctid) is False


def test_a_thread_that_cannot_come_back_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Aborted(BaseException):
        pass

    def abort() -> None:
        raise Aborted

    def setns(descriptor: int) -> None:
        if descriptor == 1:
            raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(announce, "_setns", setns)
    monkeypatch.setattr(os, "abort", abort)
    with pytest.raises(Aborted), announce._inside(1, 2):
        pass


# --- With real ones ---


@pytest.fixture
def spaces(ctid: str) -> Iterator[tuple[netns.Namespace, netns.Namespace]]:
    """The host's, and the container's; with a pair between them."""
    with netns.namespace() as host, netns.namespace(ctid) as guest:
        host.do(
            f"ip link add name tap0 type veth peer name eth0 address {MAC}"
            f" netns {guest.name}"
        )
        host.do("ip link set dev tap0 up")
        guest.do("ip link set dev eth0 up")
        yield host, guest


@pytest.fixture
def heard(
    spaces: tuple[netns.Namespace, netns.Namespace],
) -> Iterator[socket.socket]:
    """What comes out at the host's end."""
    found = announce._packet_socket(f"{announce.NAMESPACES}/{spaces[0].name}")
    assert found is not None
    with found:
        found.settimeout(30)
        found.bind(("tap0", ETH_P_ALL))
        yield found


def own_namespace() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_all_addresses_are_heard_at_the_hosts_end(
    base: pathlib.Path, ctid: str, heard: socket.socket
) -> None:
    addresses = ("10.0.0.5", "2001:db8::5", "10.0.0.6")
    write(base, ctid, HostEnd("tap0", "eth0", MAC.upper(), addresses=addresses))
    before = own_namespace()
    assert announce.announce(base=str(base), ctid=ctid) is True
    assert own_namespace() == before
    wanted = [announce.frame(MAC, address) for address in addresses]
    while wanted:  # the guest's kernel says something, too
        frame = heard.recv(2048)
        if frame in wanted:
            assert frame == wanted.pop(0)


def test_it_works_in_any_thread_and_moves_none(
    base: pathlib.Path, ctid: str, heard: socket.socket
) -> None:
    write(base, ctid, HostEnd("tap0", "eth0", MAC, addresses=("10.0.0.5",)))
    before = own_namespace()
    found = []

    def work() -> None:
        found.append(announce.announce(base=str(base), ctid=ctid))
        found.append(own_namespace())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True, before]
    assert own_namespace() == before


@pytest.mark.parametrize(
    "end",
    [
        HostEnd("tap0", "eth1", MAC, addresses=("10.0.0.5",)),
        HostEnd("tap0", "eth0", "fa:16:3e:00:00:00", addresses=("10.0.0.5",)),
    ],
)
def test_an_interface_that_is_not_the_one_is_left_in_peace(
    base: pathlib.Path, ctid: str, heard: socket.socket, end: HostEnd
) -> None:
    write(base, ctid, end)
    assert announce.announce(base=str(base), ctid=ctid) is False


def test_an_interface_that_is_down_does_not_hide_the_others(
    base: pathlib.Path,
    ctid: str,
    spaces: tuple[netns.Namespace, netns.Namespace],
    heard: socket.socket,
) -> None:
    guest = spaces[1]
    guest.do("ip link add name eth1 address fa:16:3e:00:00:01 type veth peer name x")
    write(
        base,
        ctid,
        HostEnd("tap1", "eth1", "fa:16:3e:00:00:01", addresses=("10.0.0.6",)),
        HostEnd("tap0", "eth0", MAC, addresses=("10.0.0.5",)),
    )
    assert announce.announce(base=str(base), ctid=ctid) is False
    while heard.recv(2048) != announce.frame(MAC, "10.0.0.5"):
        pass
    assert announce.announce(base=str(base), ctid=ctid, names=["tap0"]) is True
