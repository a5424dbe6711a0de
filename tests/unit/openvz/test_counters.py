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

"""The kernel's counters, from files as it has them."""

import pytest

from ovznovadriver.openvz import counters


def count(sim, name, **numbers):
    """Let an interface have counted something."""
    place = sim.net_dir / name / "statistics"
    place.mkdir(parents=True, exist_ok=True)
    for way in ("rx", "tx"):
        for kind in ("bytes", "packets", "errors", "dropped"):
            number = numbers.get(f"{way}_{kind}", 0)
            (place / f"{way}_{kind}").write_text(f"{number}\n")


def test_the_guest_received_what_its_host_end_sent(sim, node):
    count(sim, "tap1", tx_bytes=9, tx_packets=8, tx_errors=7, tx_dropped=6, rx_bytes=5)

    found = counters.of_interface(node, "tap1")

    assert found.received == counters.Traffic(9, 8, 7, 6)
    assert found.sent == counters.Traffic(5, 0, 0, 0)


def test_an_interface_that_is_not_there_has_counted_nothing(node):
    assert counters.of_interface(node, "tap1") is None


@pytest.mark.parametrize("group", ["machine.slice/101", "vz-101"])
def test_cpu_time_is_found_where_the_kernel_has_it(sim, node, group):
    place = sim.root / "sys/fs/cgroup/cpuacct" / group
    place.mkdir(parents=True)
    (place / "cpuacct.usage").write_text("1234567890123\n")

    assert counters.cpu_time(node, "101") == 1234567890123
    assert counters.cpu_time(node, "102") is None
