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

"""vzctl: what its commands do, and what their exit codes mean."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import metadata, utils
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.vzctl import FAMILY_4, FAMILY_7, Settings, Veth, Vzctl
from tests.contract import rootfs
from tests.contract.conftest import Bench

VETHS = (
    Veth("eth0", "fa:16:3e:0c:00:01", "tapc0ffee00-01"),
    Veth("eth1", "fa:16:3e:0c:00:02", "tapc0ffee00-02"),
)


def _interfaces(bench: Bench, ctid: str) -> list[dict[str, str]]:
    entries = bench.conf(ctid)["NETIF"].split(";")
    return [dict(pair.split("=", 1) for pair in e.split(",")) for e in entries]


# -- the tool itself ---------------------------------------------------------------


def test_it_says_its_version_and_so_its_family(bench: Bench) -> None:
    assert bench.node.family is (FAMILY_4 if bench.node.version[0] == 4 else FAMILY_7)
    if bench.place.sim:
        assert str(bench.node.version[0]) == bench.place.sim.family


# -- create ------------------------------------------------------------------------


def test_create_unpacks_the_template_and_writes_a_configuration(bench: Bench) -> None:
    ctid = bench.create()
    assert bench.read(ctid, rootfs.MARK) == rootfs.MARK_CONTENT
    assert bench.conf(ctid)["VE_PRIVATE"] == f"{bench.node.paths.private}/$VEID"


def test_create_takes_the_sample_it_is_given(bench: Bench, sample: str) -> None:
    ctid = bench.create(sample)
    wanted = ovz_node.read_settings(bench.node.paths.sample(sample))
    assert bench.conf(ctid)["ORIGIN_SAMPLE"] == sample
    assert bench.conf(ctid)["PHYSPAGES"] == wanted["PHYSPAGES"]


def test_create_without_that_sample_fails_and_leaves_nothing(bench: Bench) -> None:
    ctid = bench.ctid()
    with pytest.raises(exception.CommandFailed) as caught:
        bench.vzctl.create(ctid, bench.template, config="contract-none")
    assert caught.value.exit_code == 82
    assert bench.remains(ctid) == []


def test_create_without_that_template_fails_and_leaves_nothing(bench: Bench) -> None:
    if bench.place.root is None and bench.node.family is FAMILY_4:
        pytest.skip("vzctl 4 would look for the template in the Internet")
    ctid = bench.ctid()
    with pytest.raises(exception.CommandFailed):
        bench.vzctl.create(ctid, bench.template.replace("contract-", "none-"))
    assert bench.remains(ctid) == []


def test_create_does_not_touch_a_container_that_is_there(bench: Bench) -> None:
    ctid = bench.create()
    before = bench.conf(ctid)
    with pytest.raises(exception.PrivateAreaExists):
        bench.vzctl.create(ctid, bench.template)
    assert bench.conf(ctid) == before
    assert bench.read(ctid, rootfs.MARK) == rootfs.MARK_CONTENT


# -- set ---------------------------------------------------------------------------


def test_one_command_sets_everything(bench: Bench) -> None:
    ctid = bench.create()
    bench.vzctl.set(
        ctid,
        Settings(
            description="nova1-abc_DEF-012",
            hostname="web.example.com",
            onboot=False,
            cpuunits=2000,
            cpulimit=150,
            cpus=2,
            ioprio=3,
            iolimit=10 * 2**20,
            iopslimit=300,
            ram_mb=512,
            swap_mb=256,
            nameservers=("192.0.2.53", "2001:db8::53"),
            netif_add=VETHS,
        ),
    )
    conf = bench.conf(ctid)
    # Memory in pages of 4 KiB; vzctl 4 writes a barrier of 0, as vswap wants it.
    ram, swap = conf.pop("PHYSPAGES"), conf.pop("SWAPPAGES")
    assert (ram.split(":")[1], swap.split(":")[1]) == ("131072", "65536")
    wanted = {
        "DESCRIPTION": "nova1-abc_DEF-012",
        "HOSTNAME": "web.example.com",
        "ONBOOT": "no",
        "CPUUNITS": "2000",
        "CPULIMIT": "150",
        "CPUS": "2",
        "IOPRIO": "3",
        "IOLIMIT": "10485760",
        "IOPSLIMIT": "300",
        "NAMESERVER": "192.0.2.53 2001:db8::53",
    }
    assert {name: conf.get(name) for name in wanted} == wanted
    assert [
        (nic["ifname"], nic["mac"].lower(), nic["host_ifname"])
        for nic in _interfaces(bench, ctid)
    ] == [(veth.name, veth.mac, veth.host_ifname) for veth in VETHS]


def test_one_command_sets_all_beancounters(bench: Bench) -> None:
    if not bench.node.family.has_ubc:
        pytest.skip(f"{bench.node.family.name} has no beancounters")
    ctid = bench.create()
    bench.vzctl.set(
        ctid,
        Settings(
            numflock=512,
            numfile=4096,
            numtcpsock=2000,
            vmguarpages=65536,
            privvmpages=65537,
            kmemsize=(1000000, 1100000),
        ),
    )
    wanted = {
        "NUMFLOCK": "512",
        "NUMFILE": "4096",
        "NUMTCPSOCK": "2000",
        "VMGUARPAGES": "65536",
        "PRIVVMPAGES": "65537",
        "KMEMSIZE": "1000000:1100000",
    }
    conf = bench.conf(ctid)
    assert {name: conf.get(name) for name in wanted} == wanted


def test_disk_space_is_set_in_kibibytes(bench: Bench) -> None:
    ctid = bench.create()
    try:
        bench.vzctl.set(ctid, Settings(diskspace_kb=(1048576, 1153433)))
    except exception.CommandFailed as error:
        bench.place.cannot(error)
    assert bench.conf(ctid)["DISKSPACE"] == "1048576:1153433"


def test_interfaces_can_be_added_and_removed(bench: Bench) -> None:
    ctid = bench.create()
    for veth in VETHS:
        bench.vzctl.set(ctid, Settings(netif_add=(veth,)))
    bench.vzctl.set(ctid, Settings(netif_del=("eth0",)))
    assert [nic["ifname"] for nic in _interfaces(bench, ctid)] == ["eth1"]


def test_memory_can_be_set_whatever_the_container_was_made_from(bench: Bench) -> None:
    ctid = bench.create("basic" if bench.node.options.default_config else None)
    bench.vzctl.set(ctid, Settings(ram_mb=256, swap_mb=0))
    assert bench.conf(ctid)["PHYSPAGES"].split(":")[1] == "65536"


def test_a_sample_can_be_applied_later(bench: Bench, sample: str) -> None:
    ctid = bench.create()
    bench.vzctl.set(ctid, Settings(ram_mb=100, hostname="kept.example.com"))
    bench.vzctl.set(ctid, Settings(applyconfig=sample))
    conf = bench.conf(ctid)
    assert conf["PHYSPAGES"].split(":")[1] == "131072"
    assert conf["HOSTNAME"] == "kept.example.com"


def test_a_tag_survives_as_description(bench: Bench, tag: metadata.Tag) -> None:
    ctid = bench.create()
    before = bench.conf(ctid)
    bench.vzctl.set(ctid, Settings(description=metadata.encode(tag)))
    after = bench.conf(ctid)
    assert metadata.decode(after.pop("DESCRIPTION")) == tag
    assert after == before


def test_a_failing_set_is_an_error(bench: Bench) -> None:
    ctid = bench.create()
    with pytest.raises(exception.CommandFailed) as caught:
        bench.vzctl.set(ctid, Settings(applyconfig="contract-none"))
    assert caught.value.exit_code not in (0, None)
    assert bench.conf_path(ctid).exists()


def test_set_makes_a_stray_configuration_for_an_unknown_number(bench: Bench) -> None:
    # This is why the model looks first.
    ctid = "1999999999"
    assert not bench.conf_path(ctid).exists()
    try:
        bench.vzctl.set(ctid, Settings(onboot=False))
        assert bench.conf_path(ctid).exists()
    finally:
        bench.node.executor.call(
            "remove_container", dirs=bench.node.artifact_dirs(), ctid=ctid
        )


# -- names -------------------------------------------------------------------------


def test_a_name_leads_to_its_container(bench: Bench) -> None:
    ctid, name = bench.create(), f"contract-{os.getpid()}"
    bench.vzctl.set(ctid, Settings(name=name))
    link = Path(bench.node.paths.names, name)
    assert bench.conf(ctid)["NAME"] == name
    assert link.resolve() == bench.conf_path(ctid).resolve()


def test_a_name_is_given_once(bench: Bench) -> None:
    first, second, name = bench.create(), bench.create(), f"contract-{os.getpid()}"
    bench.vzctl.set(first, Settings(name=name))
    with pytest.raises(exception.NameInUse):
        bench.vzctl.set(second, Settings(name=name))
    link = Path(bench.node.paths.names, name)
    assert link.resolve() == bench.conf_path(first).resolve()


def test_destroy_gives_the_name_back(bench: Bench) -> None:
    first, second, name = bench.create(), bench.create(), f"contract-{os.getpid()}"
    bench.vzctl.set(first, Settings(name=name))
    bench.vzctl.destroy(first)
    bench.vzctl.set(second, Settings(name=name))
    assert bench.conf(second)["NAME"] == name


# -- exit codes of containers that do not run --------------------------------------


def test_an_absent_container_has_no_configuration(bench: Bench) -> None:
    ctid = bench.ctid()
    with pytest.raises(exception.ContainerConfigMissing):
        bench.vzctl.start(ctid)
    with pytest.raises(exception.ContainerConfigMissing):
        bench.vzctl.destroy(ctid)
    assert bench.remains(ctid) == []


def test_destroy_is_not_possible_twice(bench: Bench) -> None:
    ctid = bench.create()
    bench.vzctl.destroy(ctid)
    with pytest.raises(exception.ContainerConfigMissing):
        bench.vzctl.destroy(ctid)


@pytest.mark.parametrize("fast", [False, True])
def test_to_stop_a_stopped_container_is_no_error(bench: Bench, fast: bool) -> None:
    bench.vzctl.stop(bench.create(), fast=fast)


def test_to_unmount_an_unmounted_container_is_no_error(bench: Bench) -> None:
    bench.vzctl.umount(bench.create())


def test_a_container_is_mounted_and_unmounted(bench: Bench) -> None:
    ctid = bench.create()
    bench.vzctl.mount(ctid)
    bench.vzctl.mount(ctid)
    if bench.node.family is FAMILY_4:
        with pytest.raises(exception.ContainerMounted):
            bench.vzctl.destroy(ctid)
    bench.vzctl.umount(ctid)
    bench.vzctl.destroy(ctid)


def test_nothing_is_executed_in_a_stopped_container(bench: Bench) -> None:
    with pytest.raises(exception.ContainerNotRunning):
        bench.vzctl.set_password(bench.create(), "root", "Pa55:word")


def test_a_container_without_its_private_area_does_not_start(bench: Bench) -> None:
    if bench.node.family is not FAMILY_4:
        pytest.skip("measured with vzctl 4 only")
    ctid = bench.create()
    dirs = {"private": bench.node.paths.private}
    assert bench.node.executor.call("remove_container", dirs=dirs, ctid=ctid) == []
    with pytest.raises(exception.PrivateAreaMissing):
        bench.vzctl.start(ctid)


# -- locks -------------------------------------------------------------------------


def _lock(bench: Bench, ctid: str, pid: int) -> Path:
    path = Path(bench.node.paths.locks, f"{ctid}.lck")
    if not os.access(path.parent, os.W_OK):
        pytest.skip("this user cannot hold the lock of a container")
    path.write_text(f"{pid}\n")
    return path


def test_another_vzctl_keeps_the_container_locked(bench: Bench) -> None:
    ctid = bench.create()
    before = bench.conf(ctid)
    vzctl = Vzctl(bench.place.executor(lock_wait=0), bench.node.family)
    lock = _lock(bench, ctid, os.getpid())
    try:
        for command in (vzctl.start, vzctl.destroy):
            with pytest.raises(exception.ContainerLocked) as caught:
                command(ctid)
            assert caught.value.exit_code == utils.LOCKED
        with pytest.raises(exception.ContainerLocked):
            vzctl.set(ctid, Settings(hostname="other.example.com"))
    finally:
        lock.unlink()
    assert bench.conf(ctid) == before
    vzctl.set(ctid, Settings(hostname="other.example.com"))


def test_the_lock_of_a_dead_process_is_no_obstacle(bench: Bench) -> None:
    ctid = bench.create()
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    _lock(bench, ctid, dead.pid)
    bench.vzctl.set(ctid, Settings(hostname="other.example.com"))
    assert bench.conf(ctid)["HOSTNAME"] == "other.example.com"
    assert bench.remains(ctid) == [str(bench.conf_path(ctid)), "an artifact"]


# -- running containers ------------------------------------------------------------


def test_a_running_container_is_told_from_others(starting: Bench) -> None:
    ctid = starting.create()
    starting.vzctl.start(ctid)
    for command in (
        starting.vzctl.start,
        starting.vzctl.destroy,
        starting.vzctl.umount,
    ):
        with pytest.raises(exception.ContainerRunning):
            command(ctid)
    with pytest.raises(exception.PrivateAreaExists):
        starting.vzctl.create(ctid, starting.template)
    starting.vzctl.stop(ctid, fast=True)
    starting.vzctl.start(ctid)


def test_a_clean_stop_ends_and_unmounts(starting: Bench) -> None:
    ctid = starting.create()
    starting.vzctl.start(ctid)
    starting.vzctl.stop(ctid)
    starting.vzctl.destroy(ctid)
    assert not starting.conf_path(ctid).exists()


def test_settings_of_a_running_container_can_be_changed(starting: Bench) -> None:
    ctid = starting.create()
    starting.vzctl.start(ctid)
    starting.vzctl.set(ctid, Settings(description="nova1-x", onboot=True))
    conf = starting.conf(ctid)
    assert (conf["DESCRIPTION"], conf["ONBOOT"]) == ("nova1-x", "yes")


def test_a_password_is_changed_by_standard_input(starting: Bench) -> None:
    _need_chpasswd(starting)
    ctid = starting.create()
    starting.vzctl.start(ctid)
    before = starting.read(ctid, rootfs.SHADOW)
    starting.vzctl.set_password(ctid, "root", "Sw0rd:fi$h")
    after = starting.read(ctid, rootfs.SHADOW)
    assert before
    assert after
    assert after != before
    assert b"Sw0rd" not in after
    if starting.place.sim:
        assert starting.place.sim.password_matches(ctid, "root", "Sw0rd:fi$h")
        assert not any("Sw0rd" in str(c.argv) for c in starting.place.sim.commands())


def test_a_password_that_cannot_be_set_is_not_told(starting: Bench) -> None:
    _need_chpasswd(starting)
    ctid = starting.create()
    starting.vzctl.start(ctid)
    with pytest.raises(exception.CommandFailed) as caught:
        starting.vzctl.set_password(ctid, "nobody-there", "Sw0rd:fi$h")
    assert "Sw0rd" not in str(caught.value)


def _need_chpasswd(bench: Bench) -> None:
    found = rootfs.busybox()
    if bench.place.root is None and "chpasswd" not in found[1]:
        pytest.skip("this machine's busybox has no chpasswd")


def test_an_interface_lives_as_long_as_the_container_runs(starting: Bench) -> None:
    ctid = starting.create()
    starting.vzctl.set(ctid, Settings(netif_add=VETHS))
    names = [veth.host_ifname for veth in VETHS]
    assert not any(map(starting.node.veth_exists, names))
    starting.vzctl.start(ctid)
    assert all(map(starting.node.veth_exists, names))
    starting.vzctl.stop(ctid, fast=True)
    assert not any(map(starting.node.veth_exists, names))
