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

"""openvz/hostends.py: the file, what the verbs do to a host, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import stat
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import command, hostends, shaping
from ovznovadriver.openvz.hostends import HostEnd, Rate
from tests.unit.openvz import netns

CTID = "101"
TAP, IFB, BRIDGE = "tap6e8a9c5e-0d", "ifb6e8a9c5e-0d", "qbr6e8a9c5e-0d"
MAC = "fa:16:3e:01:02:03"
END = HostEnd(TAP, "eth0", MAC)
WHOLE = HostEnd(
    TAP,
    "eth0",
    MAC,
    bridge=BRIDGE,
    mtu=1450,
    inbound=Rate(1_000_000, 2_000_000, 300_000),
    outbound=Rate(500_000),
    addresses=("10.0.0.5", "2001:db8::5"),
)
PROGRAMS = {"ip": "/sbin/ip", "tc": "/sbin/tc"}

_words = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEF0123456789_-", min_size=1, max_size=12
)
_rates = st.none() | st.builds(
    Rate,
    st.integers(shaping.MIN_RATE, shaping.MAX_RATE // 2),
    st.none() | st.integers(shaping.MAX_RATE // 2, shaping.MAX_RATE),
    st.none() | st.integers(1, shaping.MAX_BURST),
)
_addresses = st.ip_addresses().filter(
    lambda address: not address.is_multicast and not address.is_unspecified
)
_ends = st.builds(
    HostEnd,
    host_ifname=_words.map(lambda word: f"tap{word}"),
    name=st.integers(0, 99).map(lambda number: f"eth{number}"),
    mac=st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":")),
    bridge=st.none() | _words.map(lambda word: f"qbr{word}"),
    mtu=st.none() | st.integers(68, 65535),
    inbound=_rates,
    outbound=_rates,
    addresses=st.lists(_addresses.map(str), max_size=3).map(tuple),
)


# --- The file ---


@given(st.lists(_ends, max_size=5, unique_by=lambda end: end.host_ifname).map(tuple))
def test_what_is_written_is_read(ends: tuple[HostEnd, ...]) -> None:
    assert hostends.decode(hostends.encode(ends)) == ends


def test_the_format_is_that_of_the_first_release() -> None:
    assert json.loads(hostends.encode([WHOLE])) == {
        "version": 1,
        "nics": [
            {
                "host_ifname": TAP,
                "name": "eth0",
                "mac": MAC,
                "bridge": BRIDGE,
                "mtu": 1450,
                "inbound": {"average": 1000000, "peak": 2000000, "burst": 300000},
                "outbound": {"average": 500000, "peak": None, "burst": None},
                "addresses": ["10.0.0.5", "2001:db8::5"],
            }
        ],
    }


@given(st.text() | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(exception.InvalidValue):
        hostends.decode(text)


def test_nothing_deeper_than_it_must_be_is_read() -> None:
    with pytest.raises(exception.InvalidValue):
        hostends.decode("[" * 10**6)


BAD_VALUES = [
    *(("host_ifname", name) for name in ("eth0", "br-int", "lo", "tap", "tap/../x")),
    *(("host_ifname", name) for name in ("tap\n", "tap x", "tap1234567890123", "TAP1")),
    *(("host_ifname", name) for name in (None, 5, "", "xtap1", "tap1\nlink del dev x")),
    *(("name", name) for name in ("", "lo", "eth", "eth100", "eth0 x", None)),
    *(("mac", mac) for mac in ("", "fa:16:3e:01:02", "fa-16-3e-01-02-03", f"{MAC}x")),
    *(("bridge", name) for name in ("br-int", "eth0", "qbr", "qbr/x", "", 5, "qbr\n")),
    *(("mtu", mtu) for mtu in (0, 67, 65536, "1500", True, 1500.0)),
    *(("inbound", rate) for rate in (5, "5", {}, {"average": 1}, {"peak": 5000})),
    ("outbound", {"average": 5000, "peak": None, "burst": None, "more": 1}),
    *(("addresses", [address]) for address in ("", "x", "10.0.0.1/8", 5, None)),
    *(("addresses", [address]) for address in ("224.0.0.1", "ff02::1", "::")),
    ("addresses", ["fe80::1%eth0"]),
    ("addresses", "10.0.0.1"),
    ("addresses", None),
]


@pytest.mark.parametrize(("field", "value"), BAD_VALUES)
def test_one_bad_value_is_enough(field: str, value: Any) -> None:
    data = json.loads(hostends.encode([WHOLE]))
    data["nics"][0][field] = value
    with pytest.raises(exception.InvalidValue):
        hostends.decode(json.dumps(data))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": "1"},
        {"version": True},
        {"more": 1},
        {"nics": {}},
        {"nics": [5]},
        {"nics": [{}]},
    ],
)
def test_a_file_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    data = json.loads(hostends.encode([WHOLE])) | change
    with pytest.raises(exception.InvalidValue):
        hostends.decode(json.dumps(data))


def test_an_interface_more_or_twice_or_too_many_are_refused() -> None:
    data = json.loads(hostends.encode([END]))
    (nic,) = data["nics"]
    for nics in ([nic | {"more": 1}], [nic, nic]):
        with pytest.raises(exception.InvalidValue):
            hostends.decode(json.dumps({"version": 1, "nics": nics}))
    many = [nic | {"host_ifname": f"tap{number}"} for number in range(65)]
    with pytest.raises(exception.InvalidValue):
        hostends.decode(json.dumps({"version": 1, "nics": many}))


# --- Where it is kept ---


@pytest.fixture
def base(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / f"{CTID}.conf").touch()
    return tmp_path


def write(base: pathlib.Path, *ends: HostEnd, ctid: str = CTID) -> None:
    hostends.write_host_ends(base=str(base), ctid=ctid, text=hostends.encode(ends))


def test_a_file_is_for_all_to_read_and_replaced_as_a_whole(base: pathlib.Path) -> None:
    write(base, END)
    file = base / f"{CTID}.nics"
    before = file.stat()
    assert stat.S_IMODE(before.st_mode) == 0o644
    write(base, WHOLE)
    assert file.stat().st_ino != before.st_ino
    assert hostends.read(str(base), CTID) == (WHOLE,)
    assert sorted(os.listdir(base)) == [f"{CTID}.conf", f"{CTID}.nics"]


def test_what_is_written_is_not_the_callers_text(base: pathlib.Path) -> None:
    text = f" {hostends.encode([END])}\n\n* * * * * root id\n".split("\n\n")[0] + "\n  "
    hostends.write_host_ends(base=str(base), ctid=CTID, text=text)
    assert (base / f"{CTID}.nics").read_text() == hostends.encode([END])


def test_without_interfaces_there_is_no_file(base: pathlib.Path) -> None:
    write(base)
    write(base, END)
    write(base)
    assert os.listdir(base) == [f"{CTID}.conf"]
    assert hostends.read(str(base), CTID) == ()
    assert hostends.read(str(base / "none"), CTID) == ()


def test_what_is_no_description_is_not_written(base: pathlib.Path) -> None:
    write(base, END)
    with pytest.raises(exception.InvalidValue):
        hostends.write_host_ends(base=str(base), ctid=CTID, text='{"version": 1}')
    assert hostends.read(str(base), CTID) == (END,)


def test_a_container_that_is_gone_gets_no_file(base: pathlib.Path) -> None:
    with pytest.raises(exception.OvzError, match=r"102\.nics"):
        write(base, END, ctid="102")
    assert os.listdir(base) == [f"{CTID}.conf"]


@pytest.mark.parametrize("ctid", ["../101", "1", "", "101/x", "all"])
def test_a_file_is_a_containers(base: pathlib.Path, ctid: str) -> None:
    with pytest.raises(exception.UnsafePath):
        write(base, END, ctid=ctid)
    with pytest.raises(exception.UnsafePath):
        hostends.read(str(base), ctid)


def test_a_failed_write_leaves_nothing(
    base: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(exception.OvzError, match="No space left"):
        write(base, END)
    assert os.listdir(base) == [f"{CTID}.conf"]


def test_a_link_is_not_followed(base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    target = tmp_path / "target"
    target.write_text(hostends.encode([END]))
    (base / f"{CTID}.nics").symlink_to(target)
    with pytest.raises(exception.UnsafePath):
        hostends.read(str(base), CTID)
    write(base, WHOLE)
    assert target.read_text() == hostends.encode([END])
    assert hostends.read(str(base), CTID) == (WHOLE,)


def test_an_endless_file_is_refused(base: pathlib.Path) -> None:
    with (base / f"{CTID}.nics").open("wb") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(exception.UnsafePath, match="larger"):
        hostends.read(str(base), CTID)


# --- What the verbs do ---


class Host:
    """ip and tc, which say what they are told to and keep what they are asked.

    :ivar links: by name, as `ip -j` tells of them
    :ivar qdiscs: as `tc -j qdisc show` lists them
    :ivar batches: what was to be done, by program
    :ivar failing: what a batch says on standard error
    """

    def __init__(self) -> None:
        self.links: dict[str, dict[str, Any]] = {}
        self.qdiscs: list[dict[str, Any]] = []
        self.filters = ""
        self.batches: list[tuple[str, list[str]]] = []
        self.failing: dict[str, str] = {}

    def link(
        self, name: str, kind: str | None, *, up: bool = False, **more: Any
    ) -> None:
        info = {"linkinfo": {"info_kind": kind}} if kind else {}
        flags = ["BROADCAST", "UP"] if up else ["BROADCAST"]
        self.links[name] = {"ifname": name, "flags": flags, "mtu": 1500, **info, **more}

    def qdisc(self, dev: str, kind: str, handle: str = "0:") -> None:
        root = {} if kind == "ingress" else {"root": True}
        self.qdiscs.append({"dev": dev, "kind": kind, "handle": handle, **root})

    def run(self, argv: Sequence[str], stdin: bytes | None = None) -> command.Completed:
        program = os.path.basename(argv[0])
        assert argv[0] == PROGRAMS[program]
        args = list(argv[1:])
        if args == ["-force", "-batch", "-"]:
            assert stdin is not None
            assert stdin.endswith(b"\n")
            self.batches.append((program, stdin.decode().splitlines()))
            said = self.failing.get(program, "")
            return command.Completed(1 if said else 0, "", said)
        assert stdin is None
        answers = {
            "ip -j -d link show": json.dumps(list(self.links.values())),
            "tc -j qdisc show": json.dumps(self.qdiscs),
            f"tc filter show dev {TAP} parent ffff:": self.filters,
        }
        return command.Completed(0, answers[" ".join([program, *args])], "")


@pytest.fixture
def host() -> Host:
    return Host()


def apply(base: pathlib.Path, host: Host, **kwargs: Any) -> list[str]:
    place = {"base": str(base), "ctid": CTID}
    return hostends.apply_host_ends(**place, programs=PROGRAMS, run=host.run, **kwargs)


def test_a_host_end_becomes_what_it_is_to_be(base: pathlib.Path, host: Host) -> None:
    write(base, WHOLE)
    host.link(TAP, "veth")
    host.link(BRIDGE, "bridge")
    assert apply(base, host) == []
    (ip, ip_lines), (tc, tc_lines) = host.batches
    assert (ip, tc) == ("ip", "tc")
    assert ip_lines == [
        f"link set dev {TAP} mtu 1450",
        f"link set dev {TAP} master {BRIDGE}",
        f"link set dev {TAP} up",
        f"link add name {IFB} type ifb",
        f"link set dev {IFB} up",
    ]
    assert [line.split()[:4] for line in tc_lines] == [
        ["qdisc", "replace", "dev", TAP],
        ["qdisc", "replace", "dev", IFB],
        ["qdisc", "add", "dev", TAP],
        ["filter", "add", "dev", TAP],
    ]


def test_what_is_right_already_is_left_alone(base: pathlib.Path, host: Host) -> None:
    write(base, dataclasses.replace(WHOLE, inbound=None, outbound=None))
    host.link(TAP, "veth", up=True, mtu=1450, master=BRIDGE)
    host.link(BRIDGE, "bridge", up=True)
    assert apply(base, host) == []
    assert host.batches == []


def test_an_ingress_is_looked_into(base: pathlib.Path, host: Host) -> None:
    write(base, dataclasses.replace(END, outbound=Rate(5000)))
    host.link(TAP, "veth", up=True)
    host.link(IFB, "ifb", up=True)
    host.qdisc(TAP, "ingress", "ffff:")
    host.filters = f"action order 1: mirred (Egress Redirect to device {IFB}) stolen"
    assert apply(base, host) == []
    ((_tc, tc_lines),) = host.batches
    assert len(tc_lines) == 1
    host.filters = "action order 1: police 0x1 rate 10Kbit"
    assert apply(base, host) == []
    assert host.batches[1:] == [("ip", [f"link del dev {IFB}"])]


@pytest.mark.parametrize(
    "kind", [None, "bridge", "tun", "dummy", "vlan", "openvswitch"]
)
def test_only_a_veth_is_touched(
    base: pathlib.Path, host: Host, kind: str | None
) -> None:
    write(base, WHOLE)
    host.link(TAP, kind)
    host.link(BRIDGE, "bridge")
    assert apply(base, host) == [f"{TAP} is no veth device"]
    assert host.batches == []


def test_an_ifb_of_another_kind_is_not_touched(base: pathlib.Path, host: Host) -> None:
    write(base, END)
    host.link(TAP, "veth")
    host.link(IFB, "dummy")
    assert apply(base, host) == [f"{IFB} is no ifb device"]
    assert host.batches == []


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("veth", f"{BRIDGE} is no bridge device"),
        (None, f"{BRIDGE} is no bridge device"),
        ("absent", f"the bridge {BRIDGE} of {TAP} is not there"),
    ],
)
def test_without_its_bridge_a_host_end_gets_all_the_rest(
    base: pathlib.Path, host: Host, kind: str | None, problem: str
) -> None:
    write(base, WHOLE)
    host.link(TAP, "veth", up=True)
    if kind != "absent":
        host.link(BRIDGE, kind)
    assert apply(base, host) == [problem]
    assert host.batches[0][1][0] == f"link set dev {TAP} mtu 1450"
    assert not [line for _, lines in host.batches for line in lines if BRIDGE in line]
    assert host.batches[1][0] == "tc"


def test_a_host_end_that_is_not_there_matters_where_it_must_be(
    base: pathlib.Path, host: Host
) -> None:
    write(base, END)
    assert apply(base, host) == []
    assert apply(base, host, names=[TAP]) == [f"the host has no interface {TAP}"]
    assert host.batches == []


def test_only_the_named_ones_are_touched(base: pathlib.Path, host: Host) -> None:
    write(base, END, HostEnd("tapother", "eth1", MAC))
    host.link(TAP, "veth")
    host.link("tapother", "veth")
    assert apply(base, host, names=["tapother"]) == []
    assert host.batches == [("ip", ["link set dev tapother up"])]


@pytest.mark.parametrize("name", ["eth0", "br-int", "tapforeign", "lo", f"{TAP}\n", 5])
def test_no_interface_is_touched_that_is_not_in_the_file(
    base: pathlib.Path, host: Host, name: Any
) -> None:
    write(base, END)
    for link in (TAP, str(name)):
        host.link(link, "veth")
    with pytest.raises(exception.InvalidValue, match="no interface of container 101"):
        apply(base, host, names=[TAP, name])
    assert host.batches == []


def test_the_file_is_judged_anew_when_it_is_read(
    base: pathlib.Path, host: Host
) -> None:
    text = hostends.encode([END]).replace(TAP, "eth0")
    (base / f"{CTID}.nics").write_text(text)
    host.link("eth0", "veth")
    with pytest.raises(exception.InvalidValue):
        apply(base, host)
    assert host.batches == []


def test_without_a_file_the_host_is_not_looked_at(base: pathlib.Path) -> None:
    def run(argv: Sequence[str], stdin: bytes | None = None) -> command.Completed:
        raise AssertionError(argv)

    place = {"base": str(base), "ctid": CTID}
    assert hostends.apply_host_ends(**place, programs=PROGRAMS, run=run) == []


def test_every_line_that_failed_is_told(base: pathlib.Path, host: Host) -> None:
    write(base, WHOLE)
    host.link(TAP, "veth")
    host.link(BRIDGE, "bridge")
    # As iproute2 6.1 says it.
    host.failing = {
        "ip": "Error: mtu greater than device maximum.\nCommand failed -:1\n"
        "RTNETLINK answers: File exists\nmore\nCommand failed -:4\n",
        "tc": "Unknown filter\n",
    }
    assert apply(base, host) == [
        f"'ip link set dev {TAP} mtu 1450' failed: Error: mtu greater than device"
        " maximum.",
        f"'ip link add name {IFB} type ifb' failed: RTNETLINK answers: File exists;"
        " more",
        "tc failed with exit code 1: Unknown filter",
    ]


def test_an_ip_that_tells_nothing_is_an_error(base: pathlib.Path) -> None:
    write(base, END)
    for answer in (
        command.Completed(1, "", "Cannot open netlink socket\n"),
        command.Completed(0, "1: lo: <LOOPBACK>\n", ""),
        command.Completed(0, '[{"flags": []}]', ""),
    ):
        with pytest.raises(exception.OvzError, match="link show"):
            hostends.apply_host_ends(
                base=str(base),
                ctid=CTID,
                programs=PROGRAMS,
                run=lambda argv, stdin=None, answer=answer: answer,
            )


# --- Checking, and what is left over ---


def check(base: pathlib.Path, host: Host, *ctids: str) -> list[str]:
    return hostends.check_host_ends(
        base=str(base), ctids=ctids, programs=PROGRAMS, run=host.run
    )


def test_containers_that_lack_a_limit_are_found(base: pathlib.Path, host: Host) -> None:
    for number, end in enumerate(
        [
            dataclasses.replace(END, inbound=Rate(5000)),
            HostEnd("tapfine", "eth0", MAC, inbound=Rate(5000)),
            HostEnd("tapfree", "eth0", MAC),
        ],
        101,
    ):
        (base / f"{number}.conf").touch()
        write(base, end, ctid=str(number))
    (base / "104.nics").write_text("broken")
    host.qdisc(TAP, "noqueue")
    host.qdisc("tapfine", "tbf", "1f0:")
    host.qdisc("tapfree", "noqueue")
    assert check(base, host, "101", "102", "103", "104", "105") == ["101", "104"]


def drop(host: Host, *names: Any) -> None:
    hostends.drop_host_ends(names=names, programs=PROGRAMS, run=host.run)


def test_the_ifb_of_a_host_end_that_is_gone_is_removed(host: Host) -> None:
    for name in (TAP, "tapstays", "tapother"):
        host.link(shaping.ifb_name(name), "ifb")
    host.link("tapstays", "veth")
    drop(host, TAP, "tapstays", "tapnone")
    assert host.batches == [("ip", [f"link del dev {IFB}"])]


def test_nothing_but_an_ifb_is_removed(host: Host) -> None:
    host.link(IFB, "dummy")
    drop(host, TAP)
    drop(host)
    assert host.batches == []


@pytest.mark.parametrize("name", ["eth0", "ifb0", "tap", "tapx\nlink del dev eth0", 5])
def test_only_what_host_ends_leave_is_removed(host: Host, name: Any) -> None:
    with pytest.raises(exception.InvalidValue):
        drop(host, TAP, name)
    assert host.batches == []


def test_an_ifb_that_stays_is_an_error(host: Host) -> None:
    host.link(IFB, "ifb")
    host.failing = {"ip": "RTNETLINK answers: Busy\nCommand failed -:1\n"}
    with pytest.raises(exception.CleanupFailed, match=f"{IFB}' failed: .*Busy"):
        drop(host, TAP)


# --- With the kernel's own ---


@pytest.fixture
def space() -> Iterator[netns.Namespace]:
    with netns.namespace() as made:
        netns.need_shaping(made)
        made.do(f"ip link add name {TAP} type veth peer name eth0")
        made.do(f"ip link add name {BRIDGE} type bridge")
        yield made


@pytest.fixture
def programs() -> dict[str, str]:
    return {name: shutil.which(name) or name for name in PROGRAMS}


def show(space: netns.Namespace) -> dict[str, Any]:
    """What can be seen of the host end: its link, and the qdiscs by device."""
    (link,) = json.loads(space.do(f"ip -j link show dev {TAP}"))
    qdiscs = shaping.parse_qdiscs(space.do("tc -j qdisc show"))
    return {
        "mtu": link["mtu"],
        "master": link.get("master"),
        "up": "UP" in link["flags"],
        "tap": qdiscs.get(TAP),
        "ifb": qdiscs.get(IFB),
    }


def test_the_kernel_takes_it_all_and_gives_it_back(
    base: pathlib.Path, space: netns.Namespace, programs: dict[str, str]
) -> None:
    place = {"base": str(base), "ctid": CTID, "programs": programs, "run": space.run}
    asked = {**place, "ctids": [CTID]}
    del asked["ctid"]
    ours = ("tbf", "1f0:")
    limited = {
        "mtu": 1450,
        "master": BRIDGE,
        "up": True,
        "tap": shaping.Qdiscs(ours, "ingress"),
        "ifb": shaping.Qdiscs(ours),
    }
    write(base, WHOLE)
    for _ in range(2):  # again, it changes nothing
        assert hostends.apply_host_ends(**place, names=[TAP]) == []
        assert show(space) == limited
        assert hostends.check_host_ends(**asked) == []
    redirect = f"Egress Redirect to device {IFB}"
    filters = f"tc filter show dev {TAP} parent ffff:"
    assert space.do(filters).count(redirect) == 1

    space.do(f"tc qdisc del dev {TAP} ingress")  # as Open vSwitch does
    assert hostends.check_host_ends(**asked) == [CTID]
    assert hostends.apply_host_ends(**place) == []
    assert show(space) == limited
    assert redirect in space.do(filters)

    write(base, END)
    assert hostends.apply_host_ends(**place) == []
    seen = show(space)
    assert seen["tap"] == shaping.Qdiscs(("noqueue", "0:"))
    assert seen["ifb"] is None


def test_the_kernel_keeps_what_somebody_else_has_set(
    base: pathlib.Path, space: netns.Namespace, programs: dict[str, str]
) -> None:
    place = {"base": str(base), "ctid": CTID, "programs": programs, "run": space.run}
    space.do(
        f"tc qdisc replace dev {TAP} root handle 1: tbf rate 9kbps burst 9k limit 9k"
    )
    space.do(f"tc qdisc add dev {TAP} handle ffff: ingress")
    space.do(
        f"tc filter add dev {TAP} parent ffff: protocol all prio 49 u32 match u32 0 0"
        f" action mirred egress redirect dev {BRIDGE}"
    )
    write(base, WHOLE)
    before = space.do("tc qdisc show"), space.do(f"tc filter show dev {TAP} ingress")
    assert hostends.apply_host_ends(**place) == []
    after = space.do("tc qdisc show"), space.do(f"tc filter show dev {TAP} ingress")
    mine = [line for line in after[0].splitlines() if f"dev {TAP} " in line]
    assert mine == [line for line in before[0].splitlines() if f"dev {TAP} " in line]
    assert after[1] == before[1]
    assert IFB not in after[0]


def test_the_kernels_errors_are_told_by_line(
    base: pathlib.Path, space: netns.Namespace, programs: dict[str, str]
) -> None:
    tools = hostends.Tools(space.run, programs)
    problems = tools.batch(
        "ip",
        [
            f"link set dev {TAP} mtu 1",
            f"link set dev {TAP} up",
            "link set dev tapnone up",
        ],
    )
    assert len(problems) == 2
    assert problems[0].startswith(f"'ip link set dev {TAP} mtu 1' failed: ")
    assert problems[1].startswith("'ip link set dev tapnone up' failed: Cannot find")
    assert show(space)["up"]


def test_the_ifb_outlives_the_host_end_until_it_is_dropped(
    base: pathlib.Path, space: netns.Namespace, programs: dict[str, str]
) -> None:
    place = {"base": str(base), "ctid": CTID, "programs": programs, "run": space.run}
    write(base, WHOLE)
    assert hostends.apply_host_ends(**place) == []
    dropped = {"names": [TAP], "programs": programs, "run": space.run}
    hostends.drop_host_ends(**dropped)
    assert IFB in space.do("ip link show")
    space.do(f"ip link del dev {TAP}")
    hostends.drop_host_ends(**dropped)
    assert IFB not in space.do("ip link show")
