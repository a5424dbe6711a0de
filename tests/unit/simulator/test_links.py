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

"""Interfaces that are none, hooks, and the stand-ins for ip and tc."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import support
from tests.simulator.node import Family, Result, SimNode

HOST_MAC = "fe:ff:ff:ff:ff:ff"
NIC = f"eth0,fa:16:3e:00:00:01,tap0,{HOST_MAC}"
OTHER_NIC = f"eth1,fa:16:3e:00:00:02,tap1,{HOST_MAC}"
TBF = "rate 625000bps burst 131072b limit 196608b"
REDIRECT = (
    "filter add dev tap0 parent ffff: protocol all prio 1 u32 match u32 0 0"
    " action mirred egress redirect dev ifb0"
)


def make(root: Path, family: Family) -> SimNode:
    node = SimNode(root, family)
    archive = node.add_template("debian")
    template = "debian" if family == "4" else str(archive)
    done(node.run("vzctl", "create", "101", "--ostemplate", template))
    plug(node, NIC)
    return node


def plug(node: SimNode, nic: str) -> Result:
    name = ("--ifname", nic.partition(",")[0]) if node.family == "9" else ()
    return node.run("vzctl", "set", "101", "--netif_add", nic, *name, "--save")


def done(result: Result) -> Result:
    assert result.rc == 0, result
    return result


@pytest.fixture(params=["4", "9"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> SimNode:
    return make(tmp_path / "node", request.param)


@pytest.fixture
def node4(tmp_path: Path) -> SimNode:
    return make(tmp_path / "node", "4")


@pytest.fixture
def node9(tmp_path: Path) -> SimNode:
    return make(tmp_path / "node", "9")


def batch(node: SimNode, program: str, *lines: str) -> Result:
    return node.run(program, "-force", "-batch", "-", stdin="\n".join(lines).encode())


def links(node: SimNode) -> dict[str, dict[str, Any]]:
    shown = json.loads(done(node.run("ip", "-j", "-d", "link", "show")).stdout)
    return {link["ifname"]: link for link in shown}


def qdiscs(node: SimNode) -> list[tuple[str, str, str, bool]]:
    shown = json.loads(done(node.run("tc", "-j", "qdisc", "show")).stdout)
    return [(q["dev"], q["kind"], q["handle"], q.get("root", False)) for q in shown]


# -- host ends ------------------------------------------------------------------------


def test_a_taken_name_is_dressed_all_the_same(node4: SimNode) -> None:
    node4.add_nic("tap0", "02:00:00:00:00:01")
    assert (
        'Cannot find device "eth0"' in done(node4.run("vzctl", "start", "101")).stderr
    )
    assert links(node4)["tap0"]["address"] == HOST_MAC


def test_family_9_adopts_a_pair(node9: SimNode) -> None:
    pair = "link add name tap0 mtu 1400 type veth peer name ovp0 mtu 1400"
    done(batch(node9, "ip", pair))
    assert node9.nics() == ["ovp0", "tap0"]
    started = done(node9.run("vzctl", "start", "101"))
    assert "Only host part" not in started.stdout
    assert node9.nics() == ["tap0"]
    link = links(node9)["tap0"]
    assert (link["mtu"], link["address"]) == (1400, HOST_MAC)
    assert "UP" in link["flags"]
    done(node9.run("vzctl", "stop", "101"))
    assert node9.nics() == []


def test_family_9_replaces_a_host_end_without_the_other_one(node9: SimNode) -> None:
    node9.add_nic("tap0")
    said = done(node9.run("vzctl", "start", "101")).stdout
    assert "Only host part tap0 of veth pair exists" in said
    assert links(node9)["tap0"]["linkinfo"] == {"info_kind": "veth"}


def test_a_container_restarts_by_itself(node: SimNode) -> None:
    done(node.run("vzctl", "start", "101"))
    done(batch(node, "tc", f"qdisc replace dev tap0 root handle 1f0: tbf {TBF}"))
    done(node.restart_inside(101))
    assert node.state(101) == "running"
    assert node.nics() == ["tap0"]
    assert qdiscs(node) == [("tap0", "noqueue", "0:", True)]


def test_pairs_do_not_outlive_a_crash_of_the_node(node9: SimNode) -> None:
    done(batch(node9, "ip", "link add name tap0 type veth peer name ovp0"))
    node9.reboot()
    assert node9.nics() == []


# -- hooks ----------------------------------------------------------------------------


def test_the_external_script_of_vznetcfg_gets_its_words(node4: SimNode) -> None:
    support.external_script(
        node4, f'echo "$VEID $* $(command -v tc)" >> {node4.root}/ran'
    )
    done(node4.run("vzctl", "start", "101"))
    done(plug(node4, OTHER_NIC))
    tc = node4.bin_dir / "tc"
    assert (node4.root / "ran").read_text().splitlines() == [
        f"101 init veth tap0 {tc}",
        f"101 init veth tap1 {tc}",
    ]


def test_an_external_script_that_fails_fails_the_start(node4: SimNode) -> None:
    support.external_script(node4, "echo broken >&2", "exit 7")
    started = node4.run("vzctl", "start", "101")
    assert started.rc == 130
    assert "broken\n/usr/sbin/vznetcfg exited with error\n" in started.stderr
    assert (node4.state(101), node4.nics()) == ("stopped", [])


def test_an_external_script_that_fails_undoes_the_hot_plug(node4: SimNode) -> None:
    done(node4.run("vzctl", "start", "101"))
    support.external_script(node4, "exit 7")
    assert plug(node4, OTHER_NIC).rc == 130
    assert node4.nics() == ["tap0"]
    assert "eth1" not in node4.conf(101)["NETIF"]
    assert node4.state(101) == "running"


def test_an_external_script_that_cannot_be_run_is_passed_over(node4: SimNode) -> None:
    support.external_script(node4, "exit 7")
    (node4.root / "hook").chmod(0o644)
    done(node4.run("vzctl", "start", "101"))


def test_mount_scripts_of_family_9_are_run_around_a_run(node9: SimNode) -> None:
    for name in ("vps.mount", "vps.umount"):
        line = f'echo "$0 $# $VEID $VE_CONFFILE" >> {node9.root}/ran'
        support.script(node9.conf_dir / name, line)
    done(node9.run("vzctl", "start", "101"))
    done(node9.run("vzctl", "stop", "101"))
    end = f"0 101 {node9.conf_dir}/101.conf"
    assert (node9.root / "ran").read_text().splitlines() == [
        f"{node9.conf_dir}/vps.mount {end}",
        f"{node9.conf_dir}/vps.umount {end}",
    ]


def test_a_mounted_container_of_family_9_is_mounted_anew(node9: SimNode) -> None:
    support.script(node9.conf_dir / "vps.mount", f"echo mount >> {node9.root}/ran")
    support.script(node9.conf_dir / "vps.umount", f"echo umount >> {node9.root}/ran")
    done(node9.run("vzctl", "mount", "101"))
    done(node9.run("vzctl", "start", "101"))
    assert (node9.root / "ran").read_text() == "mount\numount\nmount\n"


def test_a_mount_script_that_fails_fails_the_start(node9: SimNode) -> None:
    support.script(node9.conf_dir / "vps.mount", "exit 1")
    started = node9.run("vzctl", "start", "101")
    assert started.rc == 79
    assert "Error on executing the mount script" in started.stderr
    assert (node9.state(101), node9.nics()) == ("stopped", [])


def test_an_umount_script_that_fails_leaves_it_mounted(node9: SimNode) -> None:
    done(node9.run("vzctl", "start", "101"))
    support.script(node9.conf_dir / "vps.umount", "exit 1")
    assert node9.run("vzctl", "stop", "101").rc == 79
    assert node9.state(101) == "mounted"


@pytest.mark.parametrize("name", ["101.mount", "vps.premount"])
def test_other_action_scripts_are_refused(node9: SimNode, name: str) -> None:
    support.script(node9.conf_dir / name, "exit 0")
    assert node9.run("vzctl", "start", "101").rc == 250


# -- ip -------------------------------------------------------------------------------


def test_ip_goes_on_after_a_line_that_fails(node: SimNode) -> None:
    done(node.run("vzctl", "start", "101"))
    result = batch(node, "ip", "link set dev tap9 up", "link set dev tap0 mtu 1400")
    assert result.rc == 1
    assert result.stderr == 'Cannot find device "tap9"\nCommand failed -:1\n'
    assert links(node)["tap0"]["mtu"] == 1400
    assert (node.net_dir / "tap0/mtu").read_text() == "1400\n"


def test_ip_gives_up_at_a_bridge_that_is_not_there(node: SimNode) -> None:
    # iproute2 leaves its batch there, -force or not.
    done(node.run("vzctl", "start", "101"))
    result = batch(
        node, "ip", "link set dev tap0 master qbr0", "link set dev tap0 mtu 1400"
    )
    assert result.rc == 255
    assert "Command failed" not in result.stderr
    assert links(node)["tap0"]["mtu"] == 1500


def test_ip_makes_ports_of_bridges_only(node: SimNode) -> None:
    done(node.run("vzctl", "start", "101"))
    done(batch(node, "ip", "link add name ifb0 type ifb"))
    assert batch(node, "ip", "link set dev tap0 master ifb0").rc == 1
    node.add_nic("qbr0")
    done(batch(node, "ip", "link set dev tap0 master qbr0"))
    assert links(node)["tap0"]["master"] == "qbr0"


@pytest.mark.parametrize("mtu", ["67", "65536"])
def test_ip_refuses_an_mtu(node: SimNode, mtu: str) -> None:
    done(node.run("vzctl", "start", "101"))
    assert batch(node, "ip", f"link set dev tap0 mtu {mtu}").rc == 1
    pair = f"link add name tap5 mtu {mtu} type veth peer name ovp5"
    assert batch(node, "ip", pair).rc == 1
    assert node.nics() == ["tap0"]


def test_ip_makes_and_removes_pairs_and_ifb_devices(node: SimNode) -> None:
    add = "link add name tap5 type veth peer name ovp5"
    done(batch(node, "ip", add, "link add name ifb5 type ifb"))
    found = links(node)
    assert (found["tap5"]["link"], found["ovp5"]["link"]) == ("ovp5", "tap5")
    assert found["tap5"]["linkinfo"] == {"info_kind": "veth"}
    assert "UP" not in found["ifb5"]["flags"]
    assert batch(node, "ip", add).stderr.startswith("RTNETLINK answers: File exists")
    done(node.run("ip", "link", "set", "dev", "ifb5", "up"))
    assert "UP" in links(node)["ifb5"]["flags"]
    done(batch(node, "ip", "link del dev ovp5", "link del dev ifb5"))
    assert node.nics() == []
    assert node.run("ip", "link", "set", "dev", "ifb5", "up").rc == 1


# -- tc -------------------------------------------------------------------------------


def test_tc_limits_both_ways(node: SimNode) -> None:
    done(node.run("vzctl", "start", "101"))
    done(batch(node, "ip", "link add name ifb0 type ifb"))
    replace = f"root handle 1f0: tbf {TBF}"
    done(
        batch(
            node,
            "tc",
            f"qdisc replace dev tap0 {replace}",
            f"qdisc replace dev ifb0 {replace} peakrate 1250000bps mtu 69632b",
            "qdisc add dev tap0 handle ffff: ingress",
            REDIRECT,
        )
    )
    assert qdiscs(node) == [
        ("ifb0", "tbf", "1f0:", True),
        ("tap0", "tbf", "1f0:", True),
        ("tap0", "ingress", "ffff:", False),
    ]
    shown = done(node.run("tc", "filter", "show", "dev", "tap0", "parent", "ffff:"))
    assert "(Egress Redirect to device ifb0) stolen" in shown.stdout
    assert node.link("tap0")["tbf"] == TBF
    gone = batch(node, "tc", "qdisc del dev tap0 root", "qdisc del dev tap0 ingress")
    done(gone)
    assert qdiscs(node)[1:] == [("tap0", "noqueue", "0:", True)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"qdisc replace dev tap9 root handle 1f0: tbf {TBF}", "Cannot find device"),
        ("qdisc add dev tap9 handle ffff: ingress", "Cannot find device"),
        ("qdisc del dev tap0 root", "Cannot delete qdisc with handle of zero"),
        ("qdisc del dev tap0 ingress", "Cannot find specified qdisc"),
        (REDIRECT, 'Cannot find device "ifb0"'),
        (REDIRECT.replace("ifb0", "tap0"), "Parent Qdisc doesn't exists"),
    ],
)
def test_tc_says_what_fails(node: SimNode, line: str, reason: str) -> None:
    done(node.run("vzctl", "start", "101"))
    failed = batch(node, "tc", line)
    assert failed.rc == 1
    assert reason in failed.stderr
    assert failed.stderr.endswith("Command failed -:1\n")


def test_tc_shows_what_somebody_else_has_set(node: SimNode) -> None:
    done(node.run("vzctl", "start", "101"))
    node.note_link("tap0", foreign_root={"kind": "htb", "handle": "1:"}, ingress=True)
    assert qdiscs(node) == [
        ("tap0", "htb", "1:", True),
        ("tap0", "ingress", "ffff:", False),
    ]
    again = batch(node, "tc", "qdisc add dev tap0 handle ffff: ingress")
    assert "Exclusivity flag on" in again.stderr
    done(batch(node, "tc", f"qdisc replace dev tap0 root handle 1f0: tbf {TBF}"))
    assert qdiscs(node)[0] == ("tap0", "tbf", "1f0:", True)


def test_limits_go_with_their_interface(node: SimNode) -> None:
    done(node.run("vzctl", "start", "101"))
    done(batch(node, "tc", f"qdisc replace dev tap0 root handle 1f0: tbf {TBF}"))
    done(node.run("vzctl", "stop", "101"))
    done(node.run("vzctl", "start", "101"))
    assert qdiscs(node) == [("tap0", "noqueue", "0:", True)]


# -- both -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ("ip", "link", "show"),
        ("ip", "link", "del", "dev", "tap0", "type", "veth"),
        ("tc", "qdisc", "show"),
        ("tc", "qdisc", "add", "dev", "tap0", "root", "htb"),
    ],
)
def test_other_words_are_refused(node: SimNode, argv: tuple[str, ...]) -> None:
    assert node.run(*argv).rc == 250
    assert batch(node, argv[0], " ".join(argv[1:])).rc == 250


def test_the_programs_are_logged_and_fail_on_order(node: SimNode) -> None:
    node.fail("tc", rc=2, stderr="no memory\n")
    assert node.run("tc", "-j", "qdisc", "show").rc == 2
    done(node.run("tc", "-j", "qdisc", "show"))
    assert [call.rc for call in node.commands("tc")] == [2, 0]


def test_the_programs_read_a_batch_as_processes(node: SimNode) -> None:
    answer = subprocess.run(
        [node.bin_dir / "ip", "-force", "-batch", "-"],
        input=b"link add name ifb0 type ifb\nlink set dev ifb1 up\n",
        capture_output=True,
        env={},
    )
    assert answer.returncode == 1
    assert node.nics() == ["ifb0"]
