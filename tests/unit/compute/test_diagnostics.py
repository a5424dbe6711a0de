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

"""What there is to say of a server."""

import pytest
from nova.compute import power_state

from nova import exception as nova_exception
from nova import objects
from ovznovadriver.compute import diagnostics
from tests import support
from tests.unit.compute import ports
from tests.unit.openvz.test_counters import count

TAP = ports.vif()["devname"]


@pytest.fixture
def health(node, net, instance):
    """Of a server with one port."""
    instance.config_drive = ""
    instance.image_ref = support.UUID
    instance.info_cache = objects.InstanceInfoCache(
        network_info=ports.network_info(ports.vif())
    )
    return diagnostics.Diagnostics(node, net)


def test_in_the_drivers_own_words_it_is_vzlists_numbers(
    sim, life, health, boot, instance
):
    ctid = boot()
    sim.set_usage(ctid, physpages=100, numproc=7)

    found = health.plain(instance)

    assert found["ctid"] == ctid
    assert (found["state"], found["processes"], found["memory_kb"]) == (
        "running",
        7,
        400,
    )
    life.power_off(instance)
    assert health.plain(instance)["memory_kb"] is None


def test_each_direction_is_the_guests(sim, health, boot, instance):
    boot(network_info=ports.network_info(ports.vif()))
    count(sim, TAP, tx_bytes=1000, tx_dropped=1, rx_bytes=2000, rx_packets=3)

    plain = health.plain(instance)
    (nic,) = health.standard(instance).nic_details

    assert plain[f"{TAP}_rx"] == nic.rx_octets == 1000
    assert plain[f"{TAP}_rx_drop"] == nic.rx_drop == 1
    assert plain[f"{TAP}_tx"] == nic.tx_octets == 2000
    assert plain[f"{TAP}_tx_packets"] == nic.tx_packets == 3
    assert nic.mac_address == ports.vif()["address"]


def test_in_novas_words_it_says_what_there_is(sim, health, boot, instance):
    ctid = boot(network_info=ports.network_info(ports.vif()))
    sim.set_usage(ctid, physpages=512)

    found = health.standard(instance)

    assert found.state == power_state.STATE_MAP[power_state.RUNNING]
    assert (found.hypervisor, found.hypervisor_os) == ("openvz", "linux")
    assert (found.memory_details.maximum, found.memory_details.used) == (512, 2)
    assert (found.num_cpus, found.num_nics, found.num_disks) == (1, 1, 1)
    assert found.driver == "libvirt"  # of those that Nova admits


def test_one_that_does_not_run_counts_nothing(life, health, boot, instance):
    boot()
    life.power_off(instance)

    found = health.standard(instance)

    assert found.memory_details.used is None
    (nic,) = found.nic_details
    assert nic.rx_octets is None
    assert f"{TAP}_rx" not in health.plain(instance)


def test_a_server_without_a_container_is_not_found(health, instance):
    with pytest.raises(nova_exception.InstanceNotFound):
        health.plain(instance)
