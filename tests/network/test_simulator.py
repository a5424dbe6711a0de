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

"""What the simulated tools do with real interfaces."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import support
from tests.network.guest import Guest
from tests.simulator.node import Family, Result, SimNode

MAC, OTHER_MAC = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
HOST_MAC = "fe:ff:ff:ff:ff:ff"
NIC = f"eth0,{MAC},tap0,{HOST_MAC}"
OTHER_NIC = f"eth1,{OTHER_MAC},tap1,{HOST_MAC}"
HOST = Guest()
GUEST = Guest("101")


def make(root: Path, family: Family) -> SimNode:
    node = SimNode(root, family, netns=True)
    archive = node.add_template("debian")
    template = "debian" if family == "4" else str(archive)
    done(node.run("vzctl", "create", "101", "--ostemplate", template))
    plug(node, NIC)
    return node


def plug(node: SimNode, nic: str) -> Result:
    name = ("--ifname", nic.partition(",")[0]) if node.family == "9" else ()
    return done(node.run("vzctl", "set", "101", "--netif_add", nic, *name, "--save"))


def done(result: Result) -> Result:
    assert result.rc == 0, result
    return result


@pytest.fixture(params=["4", "9"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SimNode]:
    node = make(tmp_path / "node", request.param)
    yield node
    node.reboot()


@pytest.fixture
def node4(tmp_path: Path) -> Iterator[SimNode]:
    node = make(tmp_path / "node", "4")
    yield node
    node.reboot()


@pytest.fixture
def node9(tmp_path: Path) -> Iterator[SimNode]:
    node = make(tmp_path / "node", "9")
    yield node
    node.reboot()


def taps(node: SimNode) -> list[str]:
    """The interfaces that tests make; Open vSwitch may be there too."""
    return [name for name in node.nics() if name.startswith(("tap", "ovp"))]


def start(node: SimNode) -> Result:
    return done(node.run("vzctl", "start", "101"))


def namespaces() -> list[str]:
    return [namespace["name"] for namespace in HOST.ip("-json", "netns") or []]


def connected(node: SimNode) -> bool:
    """The container has its NIC, and frames get through it."""
    HOST.address("192.0.2.1/24", "tap0")
    GUEST.address("192.0.2.2/24")
    return HOST.reaches("192.0.2.2")


# -- start and stop -------------------------------------------------------------------


def test_a_started_container_has_its_nic_in_its_own_namespace(node: SimNode) -> None:
    start(node)
    assert namespaces() == ["101"]
    assert taps(node) == ["tap0"]
    assert HOST.links()["tap0"]["address"] == HOST_MAC
    assert list(GUEST.links()) == ["eth0"]
    assert GUEST.links()["eth0"]["address"] == MAC
    assert ("UP" in GUEST.links()["eth0"]["flags"]) is (node.family == "9")
    assert (node.net_dir / "tap0/statistics/rx_bytes").exists()
    assert connected(node)


@pytest.mark.parametrize(
    "stop", [("stop",), ("stop", "--fast"), ("suspend",), ("exec", "poweroff")]
)
def test_nothing_is_left_of_a_container_that_ended(
    node: SimNode, stop: tuple[str, ...]
) -> None:
    start(node)
    done(node.run("vzctl", stop[0], "101", *stop[1:]))
    assert (namespaces(), taps(node)) == ([], [])


def test_nothing_is_left_after_a_halt_or_a_crash_of_the_node(node: SimNode) -> None:
    start(node)
    node.halt(101)
    assert (namespaces(), taps(node)) == ([], [])
    start(node)
    node.reboot()
    assert (namespaces(), taps(node), node.state(101)) == ([], [], "stopped")


def test_a_suspended_container_comes_back_with_its_nic(node: SimNode) -> None:
    start(node)
    done(node.run("vzctl", "suspend", "101"))
    done(node.run("vzctl", "resume", "101"))
    assert connected(node)


def test_a_namespace_of_somebody_else_is_left_alone(node: SimNode) -> None:
    HOST.ip("netns", "add", "101")
    started = node.run("vzctl", "start", "101")
    assert started.rc == 250
    assert "the network namespace 101 exists already" in started.stderr
    assert namespaces() == ["101"]
    HOST.ip("netns", "del", "101")


def test_tools_of_the_node_are_the_real_ones(node: SimNode) -> None:
    start(node)
    answer = node.run("ip", "-o", "link", "show", "tap0")
    assert HOST_MAC in done(answer).stdout
    assert node.run("tc", "qdisc", "show", "dev", "nothing").rc != 0
    assert [call.rc for call in node.commands("ip")] == [0]


# -- names that are taken, bridges ----------------------------------------------------


def test_family_4_leaves_a_nic_out_whose_name_is_taken(node4: SimNode) -> None:
    node4.add_nic("tap0", "02:00:00:00:00:01")
    started = start(node4)
    assert started.stderr == 'Cannot find device "eth0"\n'
    assert GUEST.links() == {}
    # It is dressed all the same.
    assert HOST.links()["tap0"]["address"] == HOST_MAC
    done(node4.run("vzctl", "stop", "101"))
    assert taps(node4) == ["tap0"]
    node4.remove_nic("tap0")


def test_family_9_adopts_a_pair_that_was_made_beforehand(node9: SimNode) -> None:
    pair = ("tap0", "mtu", "1400", "type", "veth", "peer", "name", "ovp0")
    HOST.ip("link", "add", *pair)
    start(node9)
    assert taps(node9) == ["tap0"]
    assert HOST.links()["tap0"]["mtu"] == 1400
    assert HOST.links()["tap0"]["address"] == HOST_MAC
    assert GUEST.links()["eth0"]["address"] == MAC
    assert connected(node9)
    done(node9.run("vzctl", "stop", "101"))
    assert taps(node9) == []


def test_family_9_replaces_a_host_end_without_the_other_one(node9: SimNode) -> None:
    node9.add_nic("tap0")
    assert "Only host part tap0 of veth pair exists" in start(node9).stdout
    assert connected(node9)


def test_a_bridge_is_joined_if_it_is_there(node4: SimNode) -> None:
    for number, bridge in enumerate(("br-there", "br-gone"), 1):
        nic = f"eth{number},,tap{number},{HOST_MAC},{bridge}"
        plug(node4, nic)
    node4.add_nic("br-there")
    started = start(node4)
    assert started.stderr == ""
    assert HOST.links()["tap1"]["master"] == "br-there"
    assert "master" not in HOST.links()["tap2"]
    node4.remove_nic("br-there")


# -- hot-plug -------------------------------------------------------------------------


def test_a_nic_comes_and_goes_while_the_container_runs(node: SimNode) -> None:
    start(node)
    plug(node, OTHER_NIC)
    assert GUEST.links()["eth1"]["address"] == OTHER_MAC
    assert taps(node) == ["tap0", "tap1"]
    done(node.run("vzctl", "set", "101", "--netif_del", "eth0", "--save"))
    assert list(GUEST.links()) == ["eth1"]
    assert taps(node) == ["tap1"]


# -- restarts by itself, hooks --------------------------------------------------------


def test_a_container_restarts_by_itself(node: SimNode) -> None:
    start(node)
    HOST.ip("link", "set", "tap0", "mtu", "1400")
    done(node.restart_inside(101))
    assert HOST.links()["tap0"]["mtu"] == 1500
    assert connected(node)


def test_vznetcfgs_external_script_is_run_for_each_nic(node4: SimNode) -> None:
    plug(node4, OTHER_NIC)
    support.external_script(node4, f"echo $VEID $* $(ip -o link) >> {node4.root}/ran")
    start(node4)
    first, second = (node4.root / "ran").read_text().splitlines()
    assert first.startswith("101 init veth tap0 ")
    assert "tap0@" in first
    assert second.startswith("101 init veth tap1 ")
    (node4.root / "ran").unlink()
    done(node4.restart_inside(101))
    assert len((node4.root / "ran").read_text().splitlines()) == 2


def test_an_external_script_that_fails_fails_the_start(node4: SimNode) -> None:
    support.external_script(node4, "exit 7")
    started = node4.run("vzctl", "start", "101")
    assert started.rc == 130
    assert "vznetcfg exited with error" in started.stderr
    assert (namespaces(), taps(node4), node4.state(101)) == ([], [], "stopped")


def test_the_mount_script_of_family_9_can_make_the_pair(node9: SimNode) -> None:
    support.script(
        node9.conf_dir / "vps.mount",
        "ip link add tap0 mtu 1400 type veth peer name ovp0",
        f"echo $VEID $VE_CONFFILE $0 >> {node9.root}/ran",
    )
    start(node9)
    assert HOST.links()["tap0"]["mtu"] == 1400
    done(node9.restart_inside(101))
    assert HOST.links()["tap0"]["mtu"] == 1400
    assert taps(node9) == ["tap0"]
    conf = node9.conf_dir / "101.conf"
    line = f"101 {conf} {node9.conf_dir}/vps.mount\n"
    assert (node9.root / "ran").read_text() == line * 2


def test_a_node_goes_without_its_directory_of_interfaces(tmp_path: Path) -> None:
    node = SimNode(tmp_path / "node", "4", netns=True)
    SimNode(tmp_path / "node", "4", netns=True)  # a second look at the same node
    shutil.rmtree(node.root)
    assert Path("/sys/class/net/lo").exists()
