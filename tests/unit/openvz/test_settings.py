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

"""What is set of a container, over simulated nodes of both families."""

from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import vzconf, vzctl
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.unit.openvz.diskimage import disk_image

# -- one by one, and together -------------------------------------------------------


def test_nothing_is_set_where_there_is_no_container(sim, node, image):
    container = support.create(node, image)
    container.delete()

    with pytest.raises(exception.ContainerNotFound):
        container.set_cpus(1)

    assert sim.containers() == []
    assert support.subcommands(sim).count("set") == 1


def test_each_setter_outside_of_a_block_is_a_command(sim4, node4, image4):
    container = support.create(node4, image4)
    setters = {
        container.set_numflock: ((8,), "NUMFLOCK"),
        container.set_numfiles: ((9,), "NUMFILE"),
        container.set_numtcpsock: ((10,), "NUMTCPSOCK"),
        container.set_vmguarpages: ((11,), "VMGUARPAGES"),
        container.set_privvmpages: ((12,), "PRIVVMPAGES"),
        container.set_kmemsize: ((4096, 8192), "KMEMSIZE"),
        container.set_cpuunits: ((777,), "CPUUNITS"),
        container.set_cpulimit: ((50,), "CPULIMIT"),
        container.set_cpus: ((1,), "CPUS"),
        container.set_ioprio: ((3,), "IOPRIO"),
        container.set_diskspace: ((1000, 2000), "DISKSPACE"),
        container.set_iolimits: ((2**20, 100), "IOLIMIT"),
        container.set_vswap: ((512, 256), "PHYSPAGES"),
        container.set_hostname: (("web-1",), "HOSTNAME"),
        container.set_nameservers: ((("10.0.0.1",),), "NAMESERVER"),
        container.set_onboot: ((True,), "ONBOOT"),
        container.set_vz_os_hint: (("debian-12",), "OSTEMPLATE"),
        container.add_interfaces: ((support.VETHS,), "NETIF"),
    }
    for setter, (values, parameter) in setters.items():
        before = sim4.conf("101").get(parameter)
        setter(*values)
        assert sim4.conf("101")[parameter] != before, parameter
    assert support.subcommands(sim4).count("set") == 1 + len(setters)


def test_setters_within_a_block_are_one_command(sim, node, image):
    container = support.create(node, image)
    sim.clear_commands()

    with container.changes():
        container.set_hostname("web-1")
        with container.changes():
            container.set_cpuunits(777)
        container.add_interfaces(support.VETHS[:1])
        container.add_interfaces(support.VETHS[1:])
        assert sim.commands() == []

    assert support.subcommands(sim) == ["set"]
    kept = sim.conf(container.ovz_id)
    assert (kept["HOSTNAME"], kept["CPUUNITS"]) == ("web-1", "777")
    assert kept["NETIF"].count("ifname=eth") == 2


def test_all_interfaces_of_a_container_keep_name_and_addresses(sim, node, image):
    container = support.create(node, image, configure=support.with_interfaces)

    netif = sim.conf(container.ovz_id)["NETIF"].split(";")

    assert [sorted(part.split(",")) for part in netif] == [
        sorted(
            [
                f"ifname={veth.name}",
                f"mac={veth.mac.upper()}",
                f"host_ifname={veth.host_ifname}",
                f"host_mac={vzctl.HOST_MAC}",
            ]
        )
        for veth in support.VETHS
    ]


def test_a_block_that_fails_changes_nothing(sim, node, image):
    container = support.create(node, image)
    sim.clear_commands()

    def change_and_fail():
        with container.changes():
            container.set_hostname("web-1")
            raise KeyError

    with pytest.raises(KeyError):
        change_and_fail()
    assert sim.commands() == []
    container.set_hostname("web-2")
    assert sim.conf(container.ovz_id)["HOSTNAME"] == "web-2"


def test_a_sample_is_applied_alone_also_within_a_block(sim4, node4, image4):
    container = support.create(node4, image4)
    sim4.clear_commands()

    with container.changes():
        container.set_cpuunits(777)
        container.apply_config("vswap-2g")

    applied, chosen = sim4.commands("vzctl", "set")
    assert applied.argv == (
        "vzctl",
        "set",
        "101",
        "--applyconfig",
        "vswap-2g",
        "--save",
    )
    assert "--applyconfig" not in chosen.argv
    assert sim4.conf("101")["CPUUNITS"] == "777"


def test_a_password_is_changed_in_a_running_container_only(sim, node, image):
    container = support.create(node, image)
    with pytest.raises(exception.ContainerNotRunning):
        container.set_password("root", "secret-word")

    container.start()
    container.set_password("root", "secret-word")

    assert sim.password_matches(container.ovz_id, "root", "secret-word")


# -- layout -------------------------------------------------------------------------


def test_a_container_keeps_its_layout_when_that_of_new_ones_changes(sim_ploop):
    ploop, simfs = (
        support.open_node(sim_ploop, layout=layout) for layout in ("ploop", "simfs")
    )
    image = disk_image(sim_ploop, ploop)
    plain = support.create(simfs, support.add_image(sim_ploop), support.OTHER_UUID)

    for made, node, layout in ((image, simfs, "ploop"), (plain, ploop, "simfs")):
        container = OvzContainer.find(node, uuid=made.uuid)
        assert container.layout == layout
        with container.tree() as place:
            assert (Path(*place) / "etc/passwd").is_file()


def test_the_layout_of_what_is_gone_is_that_of_new_ones(node, image):
    container = support.create(node, image)
    container.delete()

    assert container.layout == node.layout


# -- as a whole ---------------------------------------------------------------------


def test_a_disk_image_has_the_size_back_that_was_kept(sim_ploop, caplog):
    container = disk_image(sim_ploop, support.open_node(sim_ploop, layout="ploop"))
    for size, now in ((2 << 20, "larger"), (1 << 19, "smaller")):
        container.keep()
        container.set_diskspace(size, size)

        assert container.restore(), now

        assert sim_ploop.image_kb(container.ovz_id) == (1 << 20) - 4096
        assert sim_ploop.conf(container.ovz_id)["DISKSPACE"] == "1048576:1048576"
        assert not container.is_kept
    assert "stays larger" not in caplog.text


def test_a_disk_image_stays_larger_where_its_files_need_it(sim_ploop, caplog):
    container = disk_image(sim_ploop, support.open_node(sim_ploop, layout="ploop"))
    container.set_diskspace(16 << 10, 16 << 10)
    container.keep()
    container.set_diskspace(64 << 10, 64 << 10)
    with container.tree() as place:
        (Path(*place) / "blob").write_bytes(bytes(20 << 20))

    assert container.restore()

    assert sim_ploop.image_kb(container.ovz_id) == 60 << 10
    assert sim_ploop.conf(container.ovz_id)["DISKSPACE"] == "16384:16384"
    assert "stays larger than its limit of 16384 KiB" in caplog.text


def test_a_disk_image_that_is_too_small_is_not_restored(sim_ploop):
    container = disk_image(sim_ploop, support.open_node(sim_ploop, layout="ploop"))
    container.keep()
    container.set_diskspace(1 << 19, 1 << 19)
    sim_ploop.fail("vzctl", "set", rc=154, stderr="no")

    with pytest.raises(exception.DiskImageNotResized):
        container.restore()

    # It may be tried again.
    assert container.is_kept
    assert container.restore()


def test_a_disk_image_of_a_samples_size_keeps_it(sim_ploop):
    node = support.open_node(sim_ploop, layout="ploop")
    container = support.create(node, support.add_image(sim_ploop))
    container.keep()

    assert container.restore()

    assert sim_ploop.conf(container.ovz_id)["DISKSPACE"] == "2G:2.2G"


# -- interfaces that somebody else gave it --------------------------------------------


def veth(number, host_ifname):
    return vzctl.Veth(f"eth{number}", f"FA:16:3E:00:00:0{number}", host_ifname)


@pytest.mark.parametrize(
    ("there", "commands"),
    [
        ((veth(0, "tap0"), veth(1, "tap1")), 0),
        # By other names inside than are wanted now, they are the same ones.
        ((veth(2, "tap0"), veth(0, "tap1")), 0),
        ((veth(0, "veth150.0"), veth(1, "tap1")), 2),
        ((veth(0, "veth150.0"), veth(1, "veth150.1")), 2),
        ((veth(1, "tap1"),), 1),
        ((), 1),
    ],
)
def test_a_container_has_the_interfaces_that_it_is_to_have(
    sim4, node4, image4, there, commands
):
    container = support.create(node4, image4)
    container.add_interfaces(there)
    sim4.clear_commands()

    container.hang_interfaces((veth(0, "tap0"), veth(1, "tap1")))

    found = vzconf.interfaces(sim4.conf(container.ovz_id)["NETIF"])
    assert {nic["host_ifname"] for nic in found} == {"tap0", "tap1"}
    assert len(found) == 2
    assert support.subcommands(sim4) == ["set"] * commands


def test_an_interface_that_is_lost_comes_back(sim, node, image):
    container = support.create(node, image)

    assert container.hang_interfaces((veth(0, "tap0"),))
    assert not container.hang_interfaces((veth(0, "tap0"),))

    (nic,) = vzconf.interfaces(sim.conf(container.ovz_id)["NETIF"])
    assert nic["host_ifname"] == "tap0"


def test_what_interfaces_a_container_has_that_is_gone_nobody_knows(node, image):
    container = support.create(node, image)
    container.delete()

    with pytest.raises(exception.ContainerNotFound):
        container.hang_interfaces((veth(0, "tap0"),))
