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

"""openvz/resources.py: the formulas of 2014, and what may never come out."""

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import resources
from ovznovadriver.openvz.resources import Diskspace, Flavor, HostFacts, SizingOptions
from ovznovadriver.openvz.shaping import Rate

HOST = HostFacts(memory_mb=8192, cpus=2)
UBC = SizingOptions(use_ubc=True)

flavors = st.builds(
    Flavor,
    memory_mb=st.integers(1, 2**22),
    vcpus=st.integers(1, 512),
    root_gb=st.integers(0, 2**16),
    swap_mb=st.integers(0, 2**20),
)
hosts = st.builds(HostFacts, memory_mb=st.integers(1, 2**24), cpus=st.integers(1, 1024))
options = st.builds(
    SizingOptions,
    use_ubc=st.booleans(),
    cpulimit_overcommit_multiplier=st.floats(0.01, 100),
    memory_unit_size=st.integers(1, 2**16),
    file_descriptors_per_unit=st.integers(1, 2**16),
    kmemsize_percent_of_memory=st.integers(1, 100),
    kmemsize_barrier_differential=st.integers(0, 99),
    disk_space_oversub_percent=st.floats(1.0, 10.0),
    tc_mbit_per_unit=st.integers(0, 1000),
    tc_max_line_speed=st.integers(1, 1000000),
)


def limits(
    memory_mb: int = 2048,
    vcpus: int = 2,
    root_gb: int = 10,
    host: HostFacts = HOST,
    opts: SizingOptions | None = None,
    swap_mb: int = 0,
    **specs: str,
) -> resources.Limits:
    """Extra specs are given with ``__`` for the colon."""
    extra = {key.replace("__", ":"): value for key, value in specs.items()}
    flavor = Flavor(memory_mb, vcpus, root_gb, swap_mb, extra)
    return resources.limits(flavor, host, opts)


def mbits(found: resources.Limits) -> tuple[float, float]:
    """The bandwidth in both directions; there is one."""
    assert found.inbound is not None
    assert found.outbound is not None
    return found.inbound.average / 125000, found.outbound.average / 125000


# --- The figures of 2014 ---


def test_a_flavor_of_2_gb_on_a_small_host():
    assert limits(swap_mb=512) == resources.Limits(
        config="basic",
        vswap=resources.Vswap(ram_mb=2048, swap_mb=512),
        ubc=None,
        numfile=16384,
        numflock=16384,
        numtcpsock=2000,
        cpuunits=125000,
        cpulimit=50,
        cpus=2,
        ioprio=2,
        diskspace=Diskspace(soft_kb=10 * 2**20, hard_kb=11 * 2**20),
        inbound=Rate(10_000_000),
        outbound=Rate(10_000_000),
    )


def test_2048_mb_are_524288_pages_and_kernel_memory_is_counted_in_bytes():
    found = limits(opts=UBC)
    assert found.vswap is None
    assert found.ubc == resources.Ubc(
        privvmpages=524288,
        vmguarpages=524288,
        kmemsize_barrier=386547056,
        kmemsize_limit=429496729,
    )


def test_pages_are_the_hosts():
    host = dataclasses.replace(HOST, page_size=65536)
    ubc = limits(host=host, opts=UBC).ubc
    assert ubc is not None
    assert ubc.privvmpages == 32768


def test_a_flavor_as_large_as_the_host_gets_all_of_its_2_cpus():
    assert limits(memory_mb=8192).cpulimit == 200


def test_a_flavor_larger_than_the_host_gets_no_more_than_there_is():
    found = limits(memory_mb=65536, vcpus=16)
    assert (found.cpulimit, found.cpus, found.cpuunits) == (200, 2, 500000)


@pytest.mark.parametrize(
    ("memory_mb", "files", "mbit", "ioprio"),
    [
        (1, 4096, 20, 0),
        (511, 4096, 20, 0),
        (512, 4096, 20, 0),
        (1024, 8192, 40, 1),
        (1535, 8192, 40, 1),
        (1536, 12288, 60, 2),
        (4096, 32768, 160, 3),
        (25600, 204800, 1000, 6),
        (26112, 208896, 1000, 6),
        (262144, 2097152, 1000, 7),
    ],
)
def test_limits_that_grow_with_units_of_memory(memory_mb, files, mbit, ioprio):
    found = limits(memory_mb=memory_mb)
    assert (found.numfile, found.numflock) == (files, files)
    assert (mbits(found), found.ioprio) == ((mbit, mbit), ioprio)


@pytest.mark.parametrize(
    ("memory_mb", "sockets"),
    [
        (256, 2000),
        (512, 2000),
        (4096, 2000),
        (8192, 3000),
        (16384, 4000),
        (16385, 2000),
    ],
)
def test_tcp_sockets_go_by_the_map(memory_mb, sockets):
    assert limits(memory_mb=memory_mb).numtcpsock == sockets


@pytest.mark.parametrize(
    ("root_gb", "hard_gb"), [(1, 1), (9, 9), (10, 11), (20, 22), (100, 110)]
)
def test_the_hard_limit_of_the_disk_is_whole_gigabytes(root_gb, hard_gb):
    disk = limits(root_gb=root_gb).diskspace
    assert disk == Diskspace(soft_kb=root_gb * 2**20, hard_kb=hard_gb * 2**20)


def test_a_flavor_without_a_disk_size_has_no_quota():
    assert limits(root_gb=0).diskspace is None


def test_a_tiny_flavor_still_has_a_weight_and_a_cpu_limit():
    found = limits(memory_mb=1, host=HostFacts(memory_mb=2**20, cpus=1))
    assert (found.cpuunits, found.cpulimit) == (8, 1)


def test_the_overcommit_factor_does_not_lift_the_cap():
    opts = SizingOptions(cpulimit_overcommit_multiplier=3.0)
    assert limits(opts=opts).cpulimit == 150
    assert limits(memory_mb=8192, opts=opts).cpulimit == 200


def test_the_options_change_the_figures():
    found = limits(
        opts=SizingOptions(
            default_config="",
            use_ubc=True,
            memory_unit_size=1024,
            file_descriptors_per_unit=10,
            kmemsize_percent_of_memory=50,
            kmemsize_barrier_differential=0,
            numtcpsock_default=7,
            numtcpsock_map={},
            disk_space_oversub_percent=2.0,
            tc_mbit_per_unit=3,
            tc_max_line_speed=7,
        )
    )
    assert found.config is None
    assert found.ubc is not None
    assert found.ubc.kmemsize_limit == found.ubc.kmemsize_barrier == 2**30
    assert (found.numfile, found.numtcpsock, mbits(found)) == (20, 7, (6, 6))
    assert found.diskspace == Diskspace(10 * 2**20, 20 * 2**20)


@pytest.mark.parametrize(
    ("switch", "field"),
    [
        ("use_cpuunit", "cpuunits"),
        ("use_cpulimit", "cpulimit"),
        ("use_cpus", "cpus"),
        ("use_ioprio", "ioprio"),
        ("use_disk_quotas", "diskspace"),
    ],
)
def test_a_switch_turns_off_its_own_limit_only(switch, field):
    off = limits(opts=SizingOptions(**{switch: False}))
    assert off == dataclasses.replace(limits(), **{field: None})


# --- Extra specs ---


def test_the_flavor_names_the_sample_configuration():
    assert limits(vz_config_file="vswap-1g").config == "vswap-1g"
    assert limits(vz_config_file="").config is None


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", ".x", "-x", "a b", "a\n"]
)
def test_a_sample_configuration_is_no_path(name):
    with pytest.raises(exception.InvalidValue, match="vz_config_file"):
        limits(vz_config_file=name)
    with pytest.raises(exception.InvalidValue, match="default_config"):
        limits(opts=SizingOptions(default_config=name))


def test_vz_cpulimit_comes_first_and_is_capped():
    assert limits(vz_cpulimit="75", quota__cpu_quota="10000").cpulimit == 75
    assert limits(vz_cpulimit="100000").cpulimit == 200


def test_vz_bandwidth_replaces_the_formula_and_its_cap():
    assert mbits(limits(vz_bandwidth="7")) == (7, 7)
    assert mbits(limits(vz_bandwidth="40000")) == (40000, 40000)


def test_without_a_default_only_what_is_asked_for_is_limited():
    none = SizingOptions(tc_mbit_per_unit=0)
    found = limits(opts=none)
    assert (found.inbound, found.outbound) == (None, None)
    assert mbits(limits(opts=none, vz_bandwidth="7")) == (7, 7)
    assert resources.bandwidth({}) == (None, None)


def test_novas_quotas_come_first_in_their_own_direction():
    found = limits(
        vz_bandwidth="8",
        quota__vif_inbound_average="2000",
        quota__vif_inbound_peak="3000",
        quota__vif_inbound_burst="256",
    )
    assert found.inbound == Rate(2_000_000, 3_000_000, 256 * 1024)
    assert found.outbound == Rate(1_000_000)
    found = limits(quota__vif_outbound_average="1")
    assert (found.inbound, found.outbound) == (Rate(10_000_000), Rate(1000))


def test_an_average_of_0_is_no_limit():
    found = limits(
        vz_bandwidth="8",
        quota__vif_outbound_average="0",
        quota__vif_outbound_peak="9",
    )
    assert (found.inbound, found.outbound) == (Rate(1_000_000), None)


def test_a_peak_or_burst_of_0_is_none():
    zeros = {"quota__vif_inbound_peak": "0", "quota__vif_inbound_burst": "0"}
    assert limits(quota__vif_inbound_average="5", **zeros).inbound == Rate(5000)


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
@pytest.mark.parametrize("name", ["peak", "burst"])
def test_a_burst_needs_an_average(direction, name):
    key = f"quota:vif_{direction}_{name}"
    with pytest.raises(exception.InvalidValue, match=f"{key} = '9' .*_average"):
        resources.bandwidth({key: "9", "vz_bandwidth": "1"})


def test_no_peak_is_lower_than_the_average():
    specs = {"quota:vif_inbound_average": "10", "quota:vif_inbound_peak": "9"}
    with pytest.raises(exception.InvalidValue, match="_peak = '9' is less than"):
        resources.bandwidth(specs)


@pytest.mark.parametrize(
    ("shares", "units"), [("0", 8), ("2", 8), ("1024", 1024), ("9999999", 500000)]
)
def test_cpu_shares_are_the_weight_within_what_vzctl_takes(shares, units):
    assert limits(quota__cpu_shares=shares).cpuunits == units


@pytest.mark.parametrize(
    ("vcpus", "quota", "period", "percent"),
    [
        (1, "50000", None, 50),
        (1, "50000", "0", 50),
        (1, "50000", "200000", 25),
        # Nova's quota is what each VCPU may use.
        (2, "50000", "100000", 100),
        (4, "100000", "100000", 200),
        (1, "1000", "1000000", 1),
        (1, str(2**64), None, 200),
        (1, "-1", None, 200),
        # No quota: the share of the memory.
        (1, "0", None, 50),
        (1, None, "100000", 50),
    ],
)
def test_novas_cpu_quota(vcpus, quota, period, percent):
    specs = {"quota__cpu_quota": quota, "quota__cpu_period": period}
    given_specs = {key: value for key, value in specs.items() if value is not None}
    assert limits(vcpus=vcpus, **given_specs).cpulimit == percent


def test_novas_limits_on_disk_io():
    found = limits(
        quota__disk_total_bytes_sec="10485760", quota__disk_total_iops_sec="500"
    )
    assert (found.iolimit, found.iopslimit) == (10485760, 500)
    none = limits(quota__disk_total_bytes_sec="0", quota__disk_total_iops_sec="0")
    assert none == limits()


def test_limits_of_reads_and_of_writes_are_one_of_both():
    found = limits(
        quota__disk_read_bytes_sec="1000000",
        quota__disk_write_bytes_sec="500000",
        quota__disk_write_iops_sec="70",
        quota__disk_read_iops_sec="0",
    )
    assert (found.iolimit, found.iopslimit) == (1500000, 70)


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_limit_of_both_and_one_of_a_part_exclude_each_other(way):
    specs = {f"quota__disk_{way}_iops_sec": "1", "quota__disk_total_iops_sec": "2"}
    with pytest.raises(exception.InvalidValue, match="disk_total_iops_sec"):
        limits(**specs)


def test_the_quotas_of_other_drivers_are_left_alone():
    assert limits(quota__vif_limit="x", quota__cpu_limit="x") == limits()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vz_cpulimit", "0"),
        ("vz_cpulimit", "-1"),
        ("vz_cpulimit", ""),
        ("vz_cpulimit", "50%"),
        ("vz_cpulimit", "1.5"),
        ("vz_cpulimit", "1_0"),
        ("vz_cpulimit", " 1"),
        ("vz_cpulimit", "\u0661"),
        ("vz_cpulimit", "9" * 5000),
        ("vz_bandwidth", "0"),
        ("vz_bandwidth", "fast"),
        ("vz_bandwidth", "8796094"),
        ("quota:vif_inbound_average", "-1"),
        ("quota:vif_outbound_average", "1.5"),
        ("quota:vif_inbound_average", "1099511628"),
        ("quota:cpu_shares", "-1"),
        ("quota:cpu_quota", "all"),
        ("quota:cpu_quota", "999"),
        ("quota:cpu_period", "999"),
        ("quota:cpu_period", "1000001"),
        ("quota:cpu_period", "-1"),
        ("quota:disk_total_bytes_sec", "-1"),
        ("quota:disk_total_iops_sec", "many"),
        ("quota:disk_read_bytes_sec", "-1"),
        ("quota:disk_write_iops_sec", "few"),
    ],
)
def test_a_bad_extra_spec_is_named_with_its_value(key, value):
    with pytest.raises(exception.InvalidValue) as caught:
        resources.limits(Flavor(2048, 1, 10, extra_specs={key: value}), HOST)
    assert key in str(caught.value)
    assert ascii(value)[1:100] in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("memory_mb", 0), ("vcpus", 0), ("root_gb", -1), ("swap_mb", -1)],
)
def test_a_flavor_that_makes_no_sense_is_refused(field, value):
    flavor = dataclasses.replace(Flavor(512, 1, 1), **{field: value})
    with pytest.raises(exception.InvalidValue, match=str(value)):
        resources.limits(flavor, HOST)


# --- For any flavor, host and options ---


@given(flavors, hosts, options)
def test_no_limit_is_unlimited_by_being_0_or_above_its_cap(flavor, host, opts):
    found = resources.limits(flavor, host, opts)
    for value in (
        found.numfile,
        found.numflock,
        found.numtcpsock,
    ):
        assert value is not None
        assert value >= 1
    assert (found.inbound is None) == (opts.tc_mbit_per_unit == 0)
    if found.inbound:
        assert max(mbits(found)) <= opts.tc_max_line_speed
    assert 8 <= found.cpuunits <= 500000
    assert 1 <= found.cpulimit <= host.cpus * 100
    assert 1 <= found.cpus <= min(host.cpus, flavor.vcpus)
    assert 0 <= found.ioprio <= 7
    assert (found.vswap is None) == opts.use_ubc == (found.ubc is not None)
    if found.ubc:
        assert 1 <= found.ubc.kmemsize_barrier <= found.ubc.kmemsize_limit
        assert found.ubc.kmemsize_limit <= flavor.memory_mb * 2**20
        assert 1 <= found.ubc.privvmpages == found.ubc.vmguarpages
    else:
        assert found.vswap == resources.Vswap(flavor.memory_mb, flavor.swap_mb)
    assert (found.diskspace is None) == (flavor.root_gb == 0)
    if found.diskspace:
        assert 1 <= found.diskspace.soft_kb <= found.diskspace.hard_kb


@given(flavors, st.integers(0, 2**22), hosts, options)
def test_more_memory_never_gives_less_of_anything(flavor, more, host, opts):
    larger = dataclasses.replace(flavor, memory_mb=flavor.memory_mb + more)
    low = dataclasses.asdict(resources.limits(flavor, host, opts))
    high = dataclasses.asdict(resources.limits(larger, host, opts))
    for part in ("vswap", "ubc", "inbound", "outbound"):
        low.update(low.pop(part) or {})
        high.update(high.pop(part) or {})
    # The map of TCP sockets is the operator's own.
    for key in low.keys() - {"config", "diskspace", "numtcpsock"}:
        assert (low[key] or 0) <= (high[key] or 0), key


@given(
    flavors,
    hosts,
    st.dictionaries(
        st.sampled_from(
            [
                "vz_config_file",
                "vz_cpulimit",
                "vz_bandwidth",
                "quota:cpu_shares",
                "quota:cpu_quota",
                "quota:cpu_period",
                "quota:disk_total_bytes_sec",
                "quota:disk_total_iops_sec",
                "quota:disk_read_iops_sec",
                "quota:disk_write_iops_sec",
                "quota:vif_inbound_average",
                "quota:vif_inbound_peak",
                "quota:vif_outbound_average",
                "quota:vif_outbound_burst",
            ]
        ),
        st.integers(-10, 2**70).map(str) | st.text(),
    ),
)
def test_any_extra_specs_are_used_or_refused(flavor, host, specs):
    try:
        found = resources.limits(dataclasses.replace(flavor, extra_specs=specs), host)
    except exception.InvalidValue:
        assert specs
        return
    assert 1 <= found.cpulimit <= host.cpus * 100
    assert 8 <= found.cpuunits <= 500000
    for rate, key in (
        (found.inbound, "quota:vif_inbound_average"),
        (found.outbound, "quota:vif_outbound_average"),
    ):
        assert (rate is None) == (int(specs.get(key, "1")) == 0)
    assert found.iolimit != 0
    assert found.iopslimit != 0


# --- The rest ---


def test_numtcpsock_map_as_options_give_it():
    assert resources.parse_numtcpsock_map({"512": "2000", "8192": 3000}) == {
        512: 2000,
        8192: 3000,
    }


@pytest.mark.parametrize(
    "entries", [{"x": 1}, {"512": "x"}, {"512": 0}, {"0": 1}, {"512": "1.5"}]
)
def test_a_bad_numtcpsock_map_is_refused(entries):
    with pytest.raises(exception.InvalidValue, match="numtcpsock_map"):
        resources.parse_numtcpsock_map(entries)


def test_memory_used_is_what_is_held_rounded_up():
    assert resources.memory_mb_used([]) == 0
    assert resources.memory_mb_used([None, None]) == 0
    assert resources.memory_mb_used([256, None, 512]) == 3
    assert resources.memory_mb_used([1]) == 1
    assert resources.memory_mb_used([16], page_size=65536) == 1


@given(st.lists(st.none() | st.integers(0, 2**40)))
def test_memory_used_is_never_too_little(pages):
    assume(pages)
    used = resources.memory_mb_used(pages)
    held = sum(p or 0 for p in pages) * 4096
    assert held <= used * 2**20 < held + 2**20


@pytest.mark.parametrize(
    ("text", "vswap"),
    [
        ('PHYSPAGES="0:256M"\nSWAPPAGES="0:512M"\n', True),
        ('ONBOOT="yes"\n\nPHYSPAGES="65536:65536"\n', True),
        ("PHYSPAGES=65536\n", True),
        ('PRIVVMPAGES="65536:69632"\nPHYSPAGES="0:unlimited"\n', False),
        ('PHYSPAGES="0:9223372036854775807"\n', False),
        ('PHYSPAGES="0:2147483647"\n', False),
        ('# PHYSPAGES="0:256M"\n', False),
        ('KMEMSIZE="14372700:14790164"\n', False),
        ("", False),
    ],
)
def test_a_sample_is_vswap_when_physpages_has_a_limit(text, vswap):
    assert resources.is_vswap_sample(text) is vswap
