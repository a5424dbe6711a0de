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
"""What the simulated tools do beyond what the recordings hold them against."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Literal

import pytest

from tests.simulator.node import Family, Result, SimNode, write_archive

UUID = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"
NIC_4 = "eth0,FA:16:3E:00:00:01,tap0,FE:FF:FF:FF:FF:FF"
NIC_9 = ("--netif_add", NIC_4, "--ifname", "eth0")


@pytest.fixture
def node4(tmp_path: Path) -> SimNode:
    node = SimNode(tmp_path / "node4", "4")
    node.add_template("debian", {"root/note": "hello\n"})
    done(node.run("vzctl", "create", "101", "--ostemplate", "debian"))
    return node


@pytest.fixture
def node9(tmp_path: Path) -> SimNode:
    node = SimNode(tmp_path / "node9", "9")
    archive = node.add_template("debian", {"root/note": "hello\n"})
    done(node.run("vzctl", "create", UUID, "--ostemplate", str(archive)))
    return node


def done(result: Result) -> Result:
    assert result.rc == 0, result
    return result


# -- create -------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_family_4_unpacks_every_packing_by_content(tmp_path: Path, suffix: str) -> None:
    node = SimNode(tmp_path / "node", "4")
    archive = node.add_template(f"image{suffix}", {"etc/marker": suffix})
    archive.rename(node.template_dir / "other.tar.gz")
    done(node.run("vzctl", "create", "101", "--ostemplate", "other"))
    assert (node.tree(101) / "etc/marker").read_text() == suffix


@pytest.mark.parametrize(
    ("name", "prefix", "there"),
    [("a.tar.gz", "fs/", True), ("a.tar.gz", "", False), ("a.tar.xz", "fs/", False)],
)
def test_family_9_unpacks_only_prefixed_gzip(
    tmp_path: Path, name: str, prefix: str, there: bool
) -> None:
    node = SimNode(tmp_path / "node", "9")
    archive = node.template_dir / name
    write_archive(archive, {"etc/marker": "x"}, prefix=prefix)
    done(node.run("vzctl", "create", UUID, "--ostemplate", str(archive)))
    assert (node.tree(UUID) / "etc/marker").exists() is there


def test_a_damaged_template_leaves_nothing(node4: SimNode) -> None:
    good = (node4.template_dir / "debian.tar.gz").read_bytes()
    (node4.template_dir / "bad.tar.gz").write_bytes(good[: len(good) // 2])
    result = node4.run("vzctl", "create", "102", "--ostemplate", "bad", "--name", "x")
    assert result.rc == 46
    assert node4.leftovers(102) == []


def test_a_template_cannot_lead_out_of_the_tree(tmp_path: Path) -> None:
    node = SimNode(tmp_path / "node", "4")
    outside = tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(node.template_dir / "evil.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("./way")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        for name in ("way/one", "../two", f"{outside}/three", "etc/good"):
            tar.addfile(tarfile.TarInfo(name))
    done(node.run("vzctl", "create", "101", "--ostemplate", "evil"))
    assert list(outside.iterdir()) == []
    assert sorted(p.name for p in node.tree(101).iterdir()) == ["etc", "way"]


@pytest.mark.skipif(os.geteuid() != 0, reason="owners change hands as root only")
def test_create_shifts_owners_of_family_4(tmp_path: Path) -> None:
    node = SimNode(tmp_path / "node", "4", uid_offset=100000)
    node.add_template("debian")
    done(node.run("vzctl", "create", "101", "--ostemplate", "debian"))
    shadow = (node.tree(101) / "etc/shadow").stat()
    assert (shadow.st_uid, shadow.st_gid) == (100000, 100000)
    os.chown(node.tree(101), 0, 0)
    assert node.run("vzctl", "start", "101").rc == 47


@pytest.fixture
def ploop(tmp_path: Path) -> SimNode:
    """A node with a container on a ploop image of the sample's size, 2.2 GiB."""
    node = SimNode(tmp_path / "node", "4", ploop=True)
    node.add_template("debian", {"root/note": "hello"})
    layout = ("--layout", "ploop")
    done(node.run("vzctl", "create", "101", "--ostemplate", "debian", *layout))
    return node


def test_a_ploop_tree_is_seen_only_while_mounted(ploop: SimNode) -> None:
    node = ploop
    assert (node.private_dir / "101/root.hdd").is_dir()
    assert list((node.root_dir / "101").iterdir()) == []
    done(node.run("vzctl", "mount", "101"))
    assert (node.root_dir / "101/root/note").read_text() == "hello"
    done(node.run("vzctl", "umount", "101"))
    assert list((node.root_dir / "101").iterdir()) == []
    done(node.run("vzctl", "start", "101"))
    assert (node.root_dir / "101/root/note").exists()
    done(node.run("vzctl", "stop", "101"))
    done(node.run("vzctl", "destroy", "101"))
    assert node.leftovers(101) == []


def _disk_kb(node: SimNode) -> tuple[int, int]:
    """Used and size, as vzlist says."""
    listed = done(node.run("vzlist", "-aHo", "diskspace,diskspace.h", "101")).stdout
    used, size = map(int, listed.split())
    return used, size


@pytest.mark.parametrize("state", ["start", "mount", "umount"])
def test_a_ploop_image_is_resized_in_each_state(ploop: SimNode, state: str) -> None:
    ploop.run("vzctl", state, "101")
    blob = ploop.tree(101) / "blob"
    blob.write_bytes(bytes(8 << 20))
    used, size = _disk_kb(ploop)
    assert (used >> 10, size) == (8, int(2.2 * 2**20) - 4096)

    done(ploop.run("vzctl", "set", "101", "--diskspace", "1G:3G", "--save"))
    assert _disk_kb(ploop) == (used, (3 << 20) - 4096)
    assert ploop.conf(101)["DISKSPACE"] == f"{1 << 20}:{3 << 20}"
    done(ploop.run("vzctl", "set", "101", "--diskspace", "16M", "--save"))

    refused = ploop.run("vzctl", "set", "101", "--diskspace", "11M", "--save")
    assert refused.rc == 154
    assert "minimal size is" in refused.stderr
    assert "not saving configuration file" in refused.stderr
    assert _disk_kb(ploop) == (used, 12 << 10)
    assert ploop.conf(101)["DISKSPACE"] == f"{16 << 10}:{16 << 10}"


def test_a_sample_resizes_a_ploop_image(ploop: SimNode) -> None:
    done(ploop.run("vzctl", "set", "101", "--diskspace", "3G", "--save"))
    done(ploop.run("vzctl", "set", "101", "--applyconfig", "basic", "--save"))
    assert _disk_kb(ploop)[1] == int(2.2 * 2**20) - 4096


def test_a_ploop_image_is_not_resized_without_saving(ploop: SimNode) -> None:
    refused = ploop.run("vzctl", "set", "101", "--diskspace", "3G")
    assert refused.rc == 20
    assert _disk_kb(ploop)[1] == int(2.2 * 2**20) - 4096


def test_a_ploop_image_needs_a_size(tmp_path: Path) -> None:
    node = SimNode(tmp_path / "node", "4", ploop=True)
    node.add_template("debian")
    (node.conf_dir / "ve-bare.conf-sample").write_text('CPUUNITS="1000"\n')
    layout = ("--layout", "ploop", "--config", "bare")
    made = node.run("vzctl", "create", "101", "--ostemplate", "debian", *layout)
    assert made.rc == 63
    assert node.leftovers(101) == []


def test_destroy_leaves_nothing_but_cgroups_and_checkpoints(node4: SimNode) -> None:
    done(node4.run("vzctl", "start", "101"))
    done(node4.run("vzctl", "stop", "101"))
    (node4.dump_dir / "Dump.101").write_text("stale")
    done(node4.run("vzctl", "destroy", "101"))
    assert node4.leftovers(101) == [node4.dump_dir / "Dump.101"]
    assert (node4.root / "sys/fs/cgroup/cpu/vz-101").is_dir()


# -- start --------------------------------------------------------------------


def test_start_of_family_4_goes_without_a_nic_whose_name_is_taken(
    node4: SimNode,
) -> None:
    node4.add_nic("tap0", mac="02:00:00:00:00:99")
    done(node4.run("vzctl", "set", "101", "--netif_add", NIC_4, "--save"))
    started = done(node4.run("vzctl", "start", "101"))
    assert 'Cannot find device "eth0"' in started.stderr
    done(node4.run("vzctl", "stop", "101"))
    assert node4.nics() == ["tap0"]


def test_start_of_family_9_adopts_a_nic_that_is_there(node9: SimNode) -> None:
    node9.add_nic("tap0")
    done(node9.run("vzctl", "set", UUID, *NIC_9, "--save"))
    assert done(node9.run("vzctl", "start", UUID)).stderr == ""
    done(node9.run("vzctl", "stop", UUID))
    assert node9.nics() == []


def test_nics_come_and_go_with_the_container(node4: SimNode) -> None:
    done(node4.run("vzctl", "set", "101", "--netif_add", NIC_4, "--save"))
    assert node4.nics() == []
    done(node4.run("vzctl", "start", "101"))
    address = (node4.net_dir / "tap0/address").read_text()
    assert address == "fe:ff:ff:ff:ff:ff\n"
    assert (node4.net_dir / "tap0/statistics/rx_bytes").read_text() == "0\n"
    done(node4.run("vzctl", "stop", "101", "--fast"))
    assert node4.nics() == []


def test_start_restores_a_stale_checkpoint(node4: SimNode) -> None:
    (node4.dump_dir / "Dump.101").write_text("of a former container")
    assert "suspended" in node4.run("vzctl", "status", "101").stdout
    started = done(node4.run("vzctl", "start", "101"))
    assert "Restoring" in started.stdout
    assert not (node4.dump_dir / "Dump.101").exists()
    assert node4.state(101) == "running"


def test_start_looks_for_an_init_when_told_to(tmp_path: Path) -> None:
    node = SimNode(tmp_path / "node", "4", check_init=True)
    node.add_template("debian", {"etc/passwd": ""}, base=False)
    done(node.run("vzctl", "create", "101", "--ostemplate", "debian"))
    assert node.run("vzctl", "start", "101").rc == 47
    assert node.state(101) == "stopped"


@pytest.mark.parametrize("family", ["4", "9"])
def test_start_of_a_disabled_container(tmp_path: Path, family: Family) -> None:
    node = SimNode(tmp_path / "node", family)
    archive = node.add_template("debian")
    template = "debian" if family == "4" else str(archive)
    done(node.run("vzctl", "create", "101", "--ostemplate", template))
    done(node.run("vzctl", "set", "101", "--disabled", "yes", "--save"))
    assert node.run("vzctl", "start", "101").rc == 105
    done(node.run("vzctl", "start", "101", "--force"))


def test_action_scripts_are_refused(node4: SimNode) -> None:
    (node4.conf_dir / "vps.mount").write_text("#!/bin/sh\n")
    result = node4.run("vzctl", "start", "101")
    assert result.rc == 250
    assert result.stderr.startswith("ovzsim: not modelled: action script")


def test_without_vz_conf_there_is_no_vzctl(node4: SimNode) -> None:
    (node4.root / "etc/vz/vz.conf").unlink()
    assert node4.run("vzctl", "start", "101").rc == 10


# -- suspend and pause --------------------------------------------------------


def test_family_4_checkpoints_into_the_dump_directory(node4: SimNode) -> None:
    done(node4.run("vzctl", "start", "101"))
    done(node4.run("vzctl", "suspend", "101"))
    assert node4.state(101) == "suspended"
    listed = done(node4.run("vzlist", "-a", "-H", "-o", "status")).stdout
    assert listed == "suspended\n"
    done(node4.run("vzctl", "resume", "101"))
    assert node4.state(101) == "running"


def test_family_4_pauses_in_memory(node4: SimNode) -> None:
    done(node4.run("vzctl", "start", "101"))
    done(node4.run("vzctl", "chkpnt", "101", "--suspend"))
    assert node4.state(101) == "paused"
    assert "running" in done(node4.run("vzlist", "-H", "-o", "status")).stdout
    assert node4.run("vzctl", "chkpnt", "101", "--suspend").rc == 16
    done(node4.run("vzctl", "chkpnt", "101", "--resume"))
    assert node4.state(101) == "running"


def test_family_9_pauses_suspends_and_start_goes_on(node9: SimNode) -> None:
    for command, state in (
        ("start", "running"),
        ("pause", "paused"),
        ("start", "running"),
        ("pause", "paused"),
        ("resume", "running"),
        ("suspend", "suspended"),
        ("resume", "running"),
        ("suspend", "suspended"),
        ("start", "running"),
    ):
        done(node9.run("vzctl", command, UUID))
        assert node9.state(UUID) == state
        listed = done(node9.run("vzlist", "-a", "-H", "-o", "status")).stdout
        assert listed == f"{state}\n"


# -- inside -------------------------------------------------------------------


@pytest.fixture
def running(node4: SimNode) -> SimNode:
    done(node4.run("vzctl", "start", "101"))
    return node4


def test_chpasswd_takes_the_password_from_standard_input(running: SimNode) -> None:
    done(running.run("vzctl", "exec2", "101", "chpasswd", stdin=b"root:s3cret\n"))
    assert running.password_matches(101, "root", "s3cret")
    assert not running.password_matches(101, "root", "other")
    assert running.stdin_given() == [b"root:s3cret\n"]
    assert all("s3cret" not in " ".join(c.argv) for c in running.commands())


def test_chpasswd_of_an_unknown_user_fails(running: SimNode) -> None:
    assert running.run("vzctl", "exec2", "101", "chpasswd", stdin=b"bob:x\n").rc == 1


def test_chpasswd_must_be_in_the_tree(running: SimNode) -> None:
    (running.tree(101) / "usr/sbin/chpasswd").unlink()
    assert running.run("vzctl", "exec2", "101", "chpasswd", stdin=b"root:x").rc == 127


def test_userpasswd_starts_and_stops_a_stopped_container(node9: SimNode) -> None:
    done(node9.run("vzctl", "set", UUID, "--userpasswd", "root:s3cret", "--save"))
    assert node9.password_matches(UUID, "root", "s3cret")
    assert node9.state(UUID) == "stopped"


def test_a_command_sees_the_tree(running: SimNode) -> None:
    assert "hello" in running.run("vzctl", "exec2", "101", "cat root/note").stdout


@pytest.mark.parametrize("command", ["cat /etc/hosts", "echo x > /tmp/y", "/bin/ls"])
def test_the_machine_is_not_taken_for_the_container(
    running: SimNode, command: str
) -> None:
    result = running.run("vzctl", "exec2", "101", command)
    assert result.rc == 250
    assert "not modelled" in result.stderr


def test_answers_of_commands_can_be_scripted(running: SimNode) -> None:
    running.script_exec("^ip addr", rc=2, stdout="eth0\n", stderr="no\n")
    result = running.run("vzctl", "--quiet", "exec2", "101", "ip addr show")
    assert result == Result(2, "eth0\n", "no\n")


def test_a_halted_container_stays_mounted(running: SimNode) -> None:
    done(running.run("vzctl", "exec", "101", "poweroff"))
    assert running.state(101) == "mounted"


# -- set ----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["4", "9"])
def test_set_of_an_unknown_number_leaves_a_stray_file(
    tmp_path: Path, family: Family
) -> None:
    node = SimNode(tmp_path / "node", family)
    done(node.run("vzctl", "set", "777", "--cpuunits", "1000", "--save"))
    assert node.conf(777) == {"CPUUNITS": "1000"}
    assert "777" not in node.run("vzlist", "-a").stdout


def test_an_ambiguous_option_is_refused(node4: SimNode) -> None:
    result = node4.run("vzctl", "set", "101", "--cpu", "1", "--save")
    assert result.rc == 21
    assert "is ambiguous" in result.stderr


def test_options_before_a_failing_one_are_live(running: SimNode) -> None:
    argv = ("--cpuunits", "3333", "--iolimit", "10", "--save")
    assert running.run("vzctl", "set", "101", *argv).rc == 148
    shares = running.root / "sys/fs/cgroup/cpu/vz-101/cpu.shares"
    assert shares.read_text() == "3333\n"
    assert running.conf(101)["CPUUNITS"] == "1000"


@pytest.mark.parametrize(
    ("pages", "enforced"),
    [("0:65536", 2**63 - 4096), ("65536:65536", 2**28)],
)
def test_the_barrier_is_what_family_4_enforces(
    running: SimNode, pages: str, enforced: int
) -> None:
    done(running.run("vzctl", "set", "101", "--physpages", pages, "--save"))
    limit = running.root / "sys/fs/cgroup/memory/vz-101/memory.limit_in_bytes"
    assert limit.read_text() == f"{enforced}\n"


def test_a_kernel_with_vswap_needs_no_force(tmp_path: Path) -> None:
    node = SimNode(tmp_path / "node", "4", openvz_kernel=True)
    node.add_template("debian")
    done(node.run("vzctl", "create", "101", "--ostemplate", "debian"))
    done(node.run("vzctl", "set", "101", "--ram", "512M", "--save"))
    assert node.conf(101)["PHYSPAGES"] == "0:131072"


def test_family_9_saves_what_it_can_beside_a_failure(node9: SimNode) -> None:
    argv = ("--ifname", "eth7", "--gw", "10.0.0.1", "--cpus", "2", "--save")
    assert node9.run("vzctl", "set", UUID, *argv).rc == 21
    assert node9.conf(UUID)["CPUS"] == "2"


def test_several_nics_of_family_9_in_one_command(node9: SimNode) -> None:
    first = "eth0,FA:16:3E:00:00:01,tap0,FE:16:3E:00:00:01"
    second = "eth1,FA:16:3E:00:00:02,tap1,FE:16:3E:00:00:02"
    nics = ("--netif_add", first, "--netif_add", second)
    assert node9.run("vzctl", "set", UUID, *nics, "--save").rc == 21
    twice = ("--ifname", "eth0", "--ifname", "eth1")
    assert node9.run("vzctl", "set", UUID, *nics, *twice, "--save").rc == 21
    last = ("--ifname", "eth1", "--mac_filter", "off")
    done(node9.run("vzctl", "set", UUID, *nics, *last, "--save"))
    one, two = node9.conf(UUID)["NETIF"].split(";")
    assert "tap0" in one
    assert "mac_filter" not in one
    assert two.endswith("host_ifname=tap1,mac_filter=off")


@pytest.mark.parametrize("family", ["4", "9"])
def test_nics_are_plugged_into_a_running_container(
    tmp_path: Path, family: Family
) -> None:
    node = SimNode(tmp_path / "node", family)
    archive = node.add_template("debian")
    template = "debian" if family == "4" else str(archive)
    done(node.run("vzctl", "create", "101", "--ostemplate", template))
    done(node.run("vzctl", "start", "101"))
    nic = ("--netif_add", NIC_4) if family == "4" else NIC_9
    done(node.run("vzctl", "set", "101", *nic, "--save"))
    assert node.nics() == ["tap0"]
    done(node.run("vzctl", "set", "101", "--netif_del", "eth0", "--save"))
    assert node.nics() == []


# -- lists and moves ----------------------------------------------------------


def test_vzlist_shows_what_was_set_as_used(running: SimNode) -> None:
    running.set_usage(101, physpages=1234, diskspace=5678)
    fields = "physpages,diskspace"
    listed = running.run("vzlist", "-j", "-o", fields).stdout
    (row,) = json.loads(listed)
    assert row["physpages"]["held"] == 1234
    assert row["diskspace"]["usage"] == 5678


def test_a_blind_vzlist_shows_nothing_and_succeeds(running: SimNode) -> None:
    running.blind_vzlist = True
    result = running.run("vzlist", "-a", "-j")
    assert (result.rc, result.stdout) == (0, "")
    assert "Unable to open" in result.stderr


def test_vzmigrate_moves_a_running_container(tmp_path: Path) -> None:
    there = SimNode(tmp_path / "there", "4", openvz_kernel=True)
    here = SimNode(tmp_path / "here", "4", peers={"there": there}, openvz_kernel=True)
    here.add_template("debian", {"root/note": "hello"})
    done(here.run("vzctl", "create", "101", "--ostemplate", "debian", "--name", "x"))
    done(here.run("vzctl", "start", "101"))
    done(here.run("vzmigrate", "--online", "--check-only", "there", "101"))
    assert here.state(101) == "running"
    done(here.run("vzmigrate", "--online", "-r", "yes", "there", "101"))
    assert here.leftovers(101) == []
    assert there.state(101) == "running"
    assert (there.tree(101) / "root/note").read_text() == "hello"
    assert done(there.run("vzctl", "status", "x")).stdout.endswith("running\n")


def test_vzmigrate_refuses(tmp_path: Path) -> None:
    there = SimNode(tmp_path / "there", "4", openvz_kernel=True)
    here = SimNode(tmp_path / "here", "4", peers={"there": there}, openvz_kernel=True)
    for node in (here, there):
        node.add_template("debian")
        done(node.run("vzctl", "create", "101", "--ostemplate", "debian"))
    assert here.run("vzmigrate", "elsewhere", "101").rc == 4
    assert here.run("vzmigrate", "there", "101").rc == 9
    assert here.run("vzmigrate", "--online", "there", "101").rc == 2
    done(there.run("vzctl", "destroy", "101"))
    done(here.run("vzctl", "start", "101"))
    there.switch("other_cpu", True)
    assert here.run("vzmigrate", "--online", "there", "101").rc == 18
    there.switch("openvz_kernel", False)
    assert here.run("vzmigrate", "--online", "there", "101").rc == 14
    # Of a process that is gone, too.
    (here.lock_dir / "101.lck").write_text("4194305\n")
    assert here.run("vzmigrate", "there", "101").rc == 20
    assert here.run("vzmigrate", "there", "102").rc == 10


@pytest.mark.parametrize("step", "prepare copy freeze dump sync undump resume".split())
@pytest.mark.parametrize("when", ["before", "after"])
def test_vzmigrate_undoes_what_it_did(
    tmp_path: Path, step: str, when: Literal["before", "after"]
) -> None:
    there = SimNode(tmp_path / "there", "4", openvz_kernel=True)
    here = SimNode(tmp_path / "here", "4", peers={"there": there}, openvz_kernel=True)
    here.add_template("debian")
    done(here.run("vzctl", "create", "101", "--ostemplate", "debian", "--name", "x"))
    done(here.run("vzctl", "start", "101"))
    here.fail("vzmigrate", step, rc=77, when=when)
    assert here.run("vzmigrate", "--online", "-r", "no", "there", "101").rc == 77
    assert here.state(101) == "running"
    assert there.leftovers(101) == []


# -- the node itself ----------------------------------------------------------


def test_two_nodes_do_not_see_each_other(node4: SimNode, node9: SimNode) -> None:
    assert node4.containers() == ["101"]
    assert node9.containers() == [UUID]
    node9.clear_commands()
    node4.run("vzlist")
    assert node9.commands() == []


def test_a_node_keeps_its_family(node4: SimNode) -> None:
    env = {**node4.env, "OVZ_SIM_FAMILY": "9"}
    from ovzsim import cli
    from ovzsim.base import Streams

    streams = Streams(capture=True)
    assert cli.main("vzctl", ["--version"], env, streams) == 250
    assert "was made for family 4" in streams.captured()[1]


def test_faults_are_ordered_by_program_subcommand_and_container(
    node4: SimNode,
) -> None:
    node4.fail("vzctl", "start", ctid=102, rc=5)
    node4.fail("vzctl", "stop", rc=6, when="after", stderr="late\n")
    done(node4.run("vzctl", "start", "101"))
    late = node4.run("vzctl", "stop", "101")
    assert (late.rc, late.stderr) == (6, "late\n")
    assert node4.state(101) == "stopped"
    assert not any(node4.lock_dir.iterdir())
    node4.clear_faults()


def test_a_reboot_of_the_node_leaves_locks_and_nothing_running(
    running: SimNode,
) -> None:
    (running.lock_dir / "101.lck").write_text("1\n")
    running.reboot()
    assert running.state(101) == "stopped"
    assert (running.lock_dir / "101.lck").exists()


def test_a_log_tells_what_was_called(node4: SimNode) -> None:
    node4.clear_commands()
    node4.run("vzctl", "--quiet", "status", "101")
    (command,) = node4.commands("vzctl", "status")
    assert command.argv == ("vzctl", "--quiet", "status", "101")
    assert command.rc == 0
    assert command.seconds is not None


def test_what_is_not_modelled_is_refused(node4: SimNode) -> None:
    result = node4.run("vzctl", "convert", "101")
    assert result.rc == 250
    assert result.stderr == "ovzsim: not modelled: vzctl convert\n"
