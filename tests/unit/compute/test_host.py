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

"""What Nova and placement are told of a node."""

import json
import os
import re
from types import SimpleNamespace

import os_traits
import psutil
import pytest
from nova.compute import provider_tree
from nova.objects import fields
from oslo_config import fixture as config_fixture

from ovznovadriver.compute import host
from ovznovadriver.openvz import metadata
from tests import support

GB = 2**30


@pytest.fixture
def flags(tmp_path):
    with config_fixture.Config(host.CONF) as config:
        config.config(state_path=str(tmp_path), my_ip="192.0.2.7")
        yield config.config


@pytest.fixture
def machine(monkeypatch):
    """A machine of 16 GB and 4 CPUs whose disk of 100 GB is filled by 30 GB."""
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GB)
    )
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    usage = SimpleNamespace(total=100 * GB, used=30 * GB, free=70 * GB)
    seen = []
    monkeypatch.setattr(
        host.shutil, "disk_usage", lambda path: seen.append(path) or usage
    )
    monkeypatch.setattr(fields.Architecture, "from_host", lambda: "x86_64")
    return SimpleNamespace(looked_at=seen, usage=usage)


# -- options ------------------------------------------------------------------------


def test_options_become_those_of_a_node(flags):
    flags(
        group="openvz",
        layout="ploop",
        program_dirs=["/opt/bin"],
        lock_wait=7,
        start_timeout=8,
        default_os_hint="debian-12",
        numtcpsock_map={"512": "9"},
        use_ubc=True,
    )

    options = host.node_options()

    assert (options.layout, options.program_dirs) == ("ploop", ("/opt/bin",))
    assert (options.lock_wait, options.limits.start) == (7, 8)
    assert options.default_os_hint == "debian-12"
    assert options.sizing.numtcpsock_map == {512: 9}
    assert options.sizing.use_ubc
    assert options.lock_dir == f"{host.CONF.state_path}/openvz/claims"


@pytest.mark.parametrize(
    ("place", "names"),
    [
        (
            lambda options: options,
            "vz_conf ve_private_dir ve_root_dir ve_conf_dir names_dir lock_dir"
            " image_template_dir sysfs_dir privilege default_config",
        ),
        (
            lambda options: options.sizing,
            "default_config use_cpuunit use_cpulimit use_cpus use_ioprio"
            " use_disk_quotas cpulimit_overcommit_multiplier memory_unit_size"
            " file_descriptors_per_unit kmemsize_percent_of_memory"
            " kmemsize_barrier_differential numtcpsock_default"
            " disk_space_oversub_percent",
        ),
    ],
    ids=["node", "sizing"],
)
def test_every_option_arrives_where_it_belongs(flags, place, names):
    other = {str: "privsep", bool: False, int: 3, float: 1.5, type(None): "/other"}
    for name in names.split():
        value = other[type(host.CONF.openvz[name])]
        flags(group="openvz", **{name: value})
        assert getattr(place(host.node_options()), name) == value, name


def test_time_limits_arrive_where_they_belong(flags):
    for number, name in enumerate(("command", "create", "start", "stop"), start=1):
        flags(group="openvz", **{f"{name}_timeout": number})

    limits = host.node_options().limits

    assert (limits.command, limits.create, limits.start, limits.stop) == (1, 2, 3, 4)


def test_a_nodes_options_do_not_change_with_novas(flags):
    options = host.node_options()
    flags(group="openvz", layout="ploop")

    assert options.layout == "simfs"


# -- facts --------------------------------------------------------------------------


def test_facts_are_the_machines(machine):
    facts = host.facts()

    assert (facts.memory_mb, facts.cpus) == (16384, 4)
    assert facts.page_size == os.sysconf("SC_PAGE_SIZE")


def test_a_machine_has_at_least_one_cpu(machine, monkeypatch):
    monkeypatch.setattr(psutil, "cpu_count", lambda: None)

    assert host.facts().cpus == 1


def test_uptime_is_told_in_words(monkeypatch):
    monkeypatch.setattr(psutil, "boot_time", lambda: 1000.0)
    monkeypatch.setattr(host.time, "time", lambda: 1000.0 + 3 * 86400 + 2 * 3600 + 305)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 1.25, 2.0))

    assert host.uptime() == "up 3 days, 2:05, load average: 0.50, 1.25, 2.00"


def test_there_is_no_initiator_as_there_are_no_volumes(flags):
    assert host.volume_connector() == {
        "ip": "192.0.2.7",
        "host": host.CONF.host,
        "initiator": None,
        "multipath": False,
    }


# -- resources ----------------------------------------------------------------------


def test_resources_are_those_of_the_node(sim, node, image, machine):
    container = support.create(node, image)
    container.start()
    sim.set_usage(container.ovz_id, physpages=256 * 300)
    sim.clear_commands()

    found = host.Host(node).available_resource()

    assert found["vcpus"] == 4
    assert (found["memory_mb"], found["memory_mb_used"]) == (16384, 300)
    assert (found["local_gb"], found["local_gb_used"]) == (100, 30)
    assert found["disk_available_least"] == 70
    assert machine.looked_at == [node.paths.private]
    assert found["hypervisor_hostname"] == support.HOST
    assert found["hypervisor_type"] == "openvz"
    assert found["hypervisor_version"] == {"4": 4009004, "9": 9000001}[sim.family]
    assert found["supported_instances"] == [("x86_64", "openvz", "exe")]
    assert json.loads(found["cpu_info"])["topology"]["cores"] == 4
    assert re.match(r"up \d+ days", found["stats"]["uptime"])
    assert len(sim.commands()) == 1


def test_reports_share_a_look(sim, node, machine):
    teller = host.Host(node)
    sim.clear_commands()
    for _ in range(3):
        teller.available_resource()

    assert len(sim.commands()) <= 1


def inventory(node, name="host1"):
    tree = provider_tree.ProviderTree()
    tree.new_root(name, "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0b01")
    host.Host(node).update_provider_tree(tree, name)
    return tree


def test_placement_is_told_what_there_is(node, machine, flags):
    flags(
        reserved_host_cpus=1,
        reserved_host_memory_mb=512,
        reserved_host_disk_mb=2048,
        initial_cpu_allocation_ratio=4.0,
        initial_ram_allocation_ratio=1.0,
        initial_disk_allocation_ratio=1.5,
    )

    found = inventory(node).data(support.HOST).inventory

    assert {name: record["total"] for name, record in found.items()} == {
        "VCPU": 4,
        "MEMORY_MB": 16384,
        "DISK_GB": 100,
    }
    assert {name: record["reserved"] for name, record in found.items()} == {
        "VCPU": 1,
        "MEMORY_MB": 512,
        "DISK_GB": 2,
    }
    assert {name: record["allocation_ratio"] for name, record in found.items()} == {
        "VCPU": 4.0,
        "MEMORY_MB": 1.0,
        "DISK_GB": 1.5,
    }
    for record in found.values():
        assert (record["min_unit"], record["step_size"]) == (1, 1)
        assert record["max_unit"] == record["total"]


def test_placement_is_told_the_kind_of_hypervisor_and_machine(node, machine, flags):
    assert inventory(node).data(support.HOST).traits == {
        host.TRAIT,
        os_traits.HW_ARCH_X86_64,
    }


def test_an_architecture_without_a_trait_is_not_told(node, machine, flags, monkeypatch):
    monkeypatch.setattr(fields.Architecture, "from_host", lambda: "sparc")

    assert inventory(node).data(support.HOST).traits == {host.TRAIT}


def test_placement_is_not_told_of_a_disk_without_a_gigabyte(node, machine, flags):
    machine.usage.total = GB - 1

    assert set(inventory(node).data(support.HOST).inventory) == {"VCPU", "MEMORY_MB"}


def test_a_ratio_that_an_operator_set_in_placement_is_kept(node, machine, flags):
    tree = inventory(node)
    record = dict(tree.data(support.HOST).inventory)
    record["VCPU"] = {**record["VCPU"], "allocation_ratio": 9.0}
    tree.update_inventory(support.HOST, record)

    host.Host(node).update_provider_tree(tree, support.HOST)

    assert tree.data(support.HOST).inventory["VCPU"]["allocation_ratio"] == 9.0


# -- containers of 2014 ----------------------------------------------------------------


def test_containers_of_2014_are_told_once_and_left_alone(sim4, node4, image4, caplog):
    raw = (
        f'{{"host": "{support.HOST}", "name": "a", "nova_id": "1",'
        f' "uuid": "{support.UUID}"}}'
    )
    assert metadata.legacy(raw)
    support.foreign(sim4, image4, "101", raw)
    sim4.clear_commands()

    host.warn_of_legacy(node4)

    assert "1 containers were made by the driver of 2014" in caplog.text
    assert "101" in caplog.text
    assert support.subcommands(sim4) == []


def test_without_containers_of_2014_nothing_is_said(node, image, caplog):
    support.create(node, image)
    caplog.clear()

    host.warn_of_legacy(node)

    assert "2014" not in caplog.text
