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

"""A flavor and the facts of a host become a container's limits.

Pure functions. The formulas and default figures are those of the driver that
ran in 2013 and 2014. A container's share of the host is the share of its
memory, p = min(1, memory / host's memory); other limits grow with its memory
in units of 512 MB. No limit is ever 0 where 0 means "unlimited" to vzctl.

Extra specs of a flavor:

``vz_config_file``
    the sample configuration to create the container from
``vz_cpulimit``
    hard CPU limit in percent of one CPU; comes before ``quota:cpu_quota``
``vz_bandwidth``
    bandwidth in Mbit/s of each direction that has no ``quota:vif_`` key of its own
``quota:cpu_shares``
    the container's weight (cpuunits) instead of its share of memory. Weights
    only compare: give it to all flavors of a host or to none
``quota:cpu_quota``, ``quota:cpu_period``
    microseconds of each period (100000 if not given) that *each VCPU* may run,
    as Nova has it, so the limit in percent is vcpus * 100 * quota / period. A
    negative quota is all of the host; 0 is the same as not given
``quota:disk_total_bytes_sec``, ``quota:disk_total_iops_sec``
    limits on disk I/O; 0 is none
``quota:disk_read_bytes_sec``, ``quota:disk_write_bytes_sec``, ``…_iops_sec``
    OpenVZ limits reads and writes together, so both together get the sum of what is
    given; not beside the total, as with libvirt
``quota:vif_inbound_average``, ``quota:vif_outbound_average``
    bandwidth to the guest and from it, in kilobytes (1000 bytes) a second, as
    libvirt's; 0 is no limit, not even the default
``quota:vif_inbound_peak``, ``quota:vif_outbound_peak``
    the most that a burst may reach, in the same unit; needs the average
``quota:vif_inbound_burst``, ``quota:vif_outbound_burst``
    how much may go faster than average, in KiB; needs the average

OpenVZ has no counterpart to the other ``quota:`` keys; they are left to the drivers
that they belong to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ovznovadriver import exception
from ovznovadriver.openvz.shaping import MAX_BURST, MAX_RATE, Rate

#: The range of cpuunits that both families of vzctl take.
MIN_CPUUNITS = 8
MAX_CPUUNITS = 500000
#: The highest I/O priority.
MAX_IOPRIO = 7

_MIB = 2**20
_KIB_PER_GIB = 2**20
_KIB = 2**10
_KILOBYTE = 1000
_BYTES_PER_MBIT = 125000
# Of the kernel's scheduler, and so libvirt's when only a quota is given.
_DEFAULT_PERIOD = 100000
# vzctl counts UBC values in a C long; physpages of a sample that sets no limit
# read "unlimited" or one of the largest numbers of 32 or 64 bits.
_UNLIMITED = ("unlimited", str(2**31 - 1), str(2**63 - 1))


@dataclass(frozen=True)
class Flavor:
    """What a server is sold as.

    :ivar root_gb: GiB of root disk; 0 is Nova's "as large as the image", which
        leaves a container without a limit of its own
    """

    memory_mb: int
    vcpus: int
    root_gb: int
    swap_mb: int = 0
    extra_specs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HostFacts:
    """What the node has.

    :ivar memory_mb: MemTotal, in MiB
    :ivar cpus: logical CPUs
    :ivar page_size: bytes in a page of memory
    """

    memory_mb: int
    cpus: int
    page_size: int = 4096


@dataclass(frozen=True)
class SizingOptions:
    """The options in ``[openvz]`` of the same names, with their defaults."""

    default_config: str = "basic"
    use_ubc: bool = False
    use_cpuunit: bool = True
    use_cpulimit: bool = True
    use_cpus: bool = True
    use_ioprio: bool = True
    use_disk_quotas: bool = True
    cpulimit_overcommit_multiplier: float = 1.0
    memory_unit_size: int = 512
    file_descriptors_per_unit: int = 4096
    kmemsize_percent_of_memory: int = 20
    kmemsize_barrier_differential: int = 10
    numtcpsock_default: int = 2000
    numtcpsock_map: Mapping[int, int] = field(
        default_factory=lambda: {
            512: 2000,
            1024: 2000,
            2048: 2000,
            4096: 2000,
            8192: 3000,
            16384: 4000,
        }
    )
    disk_space_oversub_percent: float = 1.10
    tc_mbit_per_unit: int = 20
    tc_max_line_speed: int = 1000


@dataclass(frozen=True)
class Vswap:
    """Memory under vswap, in MiB. How it is spelled is the kernel's matter:
    stock kernels enforce the barrier, OpenVZ's the limit.
    """

    ram_mb: int
    swap_mb: int


@dataclass(frozen=True)
class Ubc:
    """Memory under user beancounters: pages, and kmemsize in bytes."""

    privvmpages: int
    vmguarpages: int
    kmemsize_barrier: int
    kmemsize_limit: int


@dataclass(frozen=True)
class Diskspace:
    """A disk quota, in KiB."""

    soft_kb: int
    hard_kb: int


@dataclass(frozen=True)
class Limits:
    """What a container may use. None is a limit that is not set.

    :ivar config: the sample to create it from (see :func:`is_vswap_sample`)
    :ivar vswap: memory; None when ubc is given
    :ivar ubc: memory; None when vswap is given
    :ivar numfile: open files
    :ivar numflock: file locks
    :ivar numtcpsock: TCP sockets
    :ivar cpuunits: weight, from 8 to 500000
    :ivar cpulimit: hard limit in percent of one CPU
    :ivar cpus: CPUs that it sees
    :ivar ioprio: priority of its I/O, from 0 to 7
    :ivar diskspace: disk quota
    :ivar iolimit: bytes a second
    :ivar iopslimit: operations a second
    :ivar inbound: bandwidth of each interface, to the guest
    :ivar outbound: bandwidth of each interface, from the guest
    """

    config: str | None = None
    vswap: Vswap | None = None
    ubc: Ubc | None = None
    numfile: int | None = None
    numflock: int | None = None
    numtcpsock: int | None = None
    cpuunits: int | None = None
    cpulimit: int | None = None
    cpus: int | None = None
    ioprio: int | None = None
    diskspace: Diskspace | None = None
    iolimit: int | None = None
    iopslimit: int | None = None
    inbound: Rate | None = None
    outbound: Rate | None = None


def limits(
    flavor: Flavor, host: HostFacts, options: SizingOptions | None = None
) -> Limits:
    """The limits of a container of this flavor on this host.

    :raises InvalidValue: the flavor makes no sense; the message names the key
        and the value
    """
    _require("memory_mb", flavor.memory_mb, 1)
    _require("vcpus", flavor.vcpus, 1)
    _require("root_gb", flavor.root_gb, 0)
    _require("swap", flavor.swap_mb, 0)
    case = _Case(flavor, host, options or SizingOptions())
    found = Limits()
    for apply in _FILTERS:
        found = apply(found, case)
    return found


def bandwidth(
    extra_specs: Mapping[str, str], default_mbit: int | None = None
) -> tuple[Rate | None, Rate | None]:
    """The limits on traffic to the guest and from it; None is no limit.

    :param extra_specs: a flavor's
    :param default_mbit: Mbit/s where they say nothing
    :raises InvalidValue: a key has a value that makes no sense
    """
    mbit = default_mbit
    if "vz_bandwidth" in extra_specs:
        mbit = _integer("vz_bandwidth", extra_specs["vz_bandwidth"], 1)
        _at_most("vz_bandwidth", mbit, MAX_RATE // _BYTES_PER_MBIT)
    default = None if mbit is None else Rate(mbit * _BYTES_PER_MBIT)
    return (
        _vif_rate(extra_specs, "quota:vif_inbound", default),
        _vif_rate(extra_specs, "quota:vif_outbound", default),
    )


def _vif_rate(
    extra_specs: Mapping[str, str], prefix: str, default: Rate | None
) -> Rate | None:
    numbers: dict[str, int] = {}
    for name, unit, most in (
        ("average", _KILOBYTE, MAX_RATE),
        ("peak", _KILOBYTE, MAX_RATE),
        ("burst", _KIB, MAX_BURST),
    ):
        key = f"{prefix}_{name}"
        if key in extra_specs:
            value = _integer(key, extra_specs[key], 0)
            _at_most(key, value, most // unit)
            numbers[name] = value * unit
    if "average" not in numbers:
        for name in numbers:
            key = f"{prefix}_{name}"
            raise _invalid(key, extra_specs[key], f"of no use without {prefix}_average")
        return default
    if numbers["average"] == 0:
        return None
    peak = numbers.get("peak") or None
    if peak is not None and peak < numbers["average"]:
        key = f"{prefix}_peak"
        raise _invalid(key, extra_specs[key], f"less than {prefix}_average")
    return Rate(numbers["average"], peak, numbers.get("burst") or None)


def parse_numtcpsock_map(entries: Mapping[str, int | str]) -> dict[int, int]:
    """The option of that name: MB of memory → TCP sockets.

    :raises InvalidValue: a key or a value is no number above 0
    """
    return {
        _integer("numtcpsock_map", key, 1): _integer(f"numtcpsock_map[{key}]", value, 1)
        for key, value in entries.items()
    }


def memory_mb_used(physpages: Iterable[int | None], page_size: int = 4096) -> int:
    """The memory that containers use, in MiB, rounded up.

    :param physpages: pages in use per container; None uses none
    """
    return math.ceil(sum(pages or 0 for pages in physpages) * page_size / _MIB)


def is_vswap_sample(text: str) -> bool:
    """Whether a sample configuration (its text) limits memory by vswap.

    That is vzctl's own rule: PHYSPAGES has a limit. One that does not must not
    be applied under vswap: ``basic`` of vzctl 4 keeps 272 MB of PRIVVMPAGES in
    force beside any ``--ram``.
    """
    match = re.search(r'^\s*PHYSPAGES="?([^"\s]+)', text, re.MULTILINE)
    return match is not None and match[1].split(":")[-1] not in _UNLIMITED


# --- Filters: each turns one part of a flavor into limits ---


@dataclass(frozen=True)
class _Case:
    """What every filter looks at."""

    flavor: Flavor
    host: HostFacts
    options: SizingOptions

    @property
    def share(self) -> float:
        return min(1.0, self.flavor.memory_mb / self.host.memory_mb)

    @property
    def units(self) -> int:
        return self.flavor.memory_mb // self.options.memory_unit_size

    def spec(self, key: str, least: int | None = None) -> int | None:
        """A number of the flavor's extra specs; None when it is not there."""
        text = self.flavor.extra_specs.get(key)
        return None if text is None else _integer(key, text, least)


def _config(found: Limits, case: _Case) -> Limits:
    key, name = "default_config", case.options.default_config
    if "vz_config_file" in case.flavor.extra_specs:
        key, name = "vz_config_file", case.flavor.extra_specs["vz_config_file"]
    # It becomes a part of a path, ve-<name>.conf-sample.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|", name):
        raise _invalid(key, name, "no name of a sample configuration")
    return replace(found, config=name or None)


def _memory(found: Limits, case: _Case) -> Limits:
    if not case.options.use_ubc:
        return replace(found, vswap=Vswap(case.flavor.memory_mb, case.flavor.swap_mb))
    size = case.flavor.memory_mb * _MIB
    pages = size // case.host.page_size
    kmemsize = max(1, size * case.options.kmemsize_percent_of_memory // 100)
    barrier = kmemsize * (100 - case.options.kmemsize_barrier_differential) // 100
    return replace(
        found,
        ubc=Ubc(
            privvmpages=pages,
            vmguarpages=pages,
            kmemsize_barrier=max(1, barrier),
            kmemsize_limit=kmemsize,
        ),
    )


def _files(found: Limits, case: _Case) -> Limits:
    files = max(1, case.units) * case.options.file_descriptors_per_unit
    return replace(found, numfile=files, numflock=files)


def _sockets(found: Limits, case: _Case) -> Limits:
    sockets = case.options.numtcpsock_map.get(
        case.flavor.memory_mb, case.options.numtcpsock_default
    )
    return replace(found, numtcpsock=sockets)


def _weight(found: Limits, case: _Case) -> Limits:
    if not case.options.use_cpuunit:
        return found
    units = case.spec("quota:cpu_shares", 0)
    if units is None:
        units = round(MAX_CPUUNITS * case.share)
    return replace(found, cpuunits=_clamp(units, MIN_CPUUNITS, MAX_CPUUNITS))


def _cpu(found: Limits, case: _Case) -> Limits:
    if case.options.use_cpus:
        found = replace(found, cpus=min(case.flavor.vcpus, case.host.cpus))
    if not case.options.use_cpulimit:
        return found
    whole = case.host.cpus * 100
    percent = case.spec("vz_cpulimit", 1)
    if percent is None:
        percent = _cpu_quota(case)
    if percent is None:
        factor = case.options.cpulimit_overcommit_multiplier
        percent = round(whole * case.share * factor)
    return replace(found, cpulimit=_clamp(percent, 1, whole))


def _cpu_quota(case: _Case) -> int | None:
    """The limit in percent that Nova's own extra specs ask for."""
    key = "quota:cpu_quota"
    quota = case.spec(key)
    period = case.spec("quota:cpu_period", 0) or _DEFAULT_PERIOD
    if not 1000 <= period <= 1000000:
        raise _invalid("quota:cpu_period", period, "not from 1000 to 1000000")
    if not quota:
        return None
    if quota < 0:
        return case.host.cpus * 100
    if quota < 1000:
        raise _invalid(key, quota, "neither negative nor at least 1000")
    return round(case.flavor.vcpus * 100 * quota / period)


def _disk(found: Limits, case: _Case) -> Limits:
    if case.flavor.root_gb and case.options.use_disk_quotas:
        hard_gb = int(case.flavor.root_gb * case.options.disk_space_oversub_percent)
        quota = Diskspace(
            soft_kb=case.flavor.root_gb * _KIB_PER_GIB,
            hard_kb=hard_gb * _KIB_PER_GIB,
        )
        found = replace(found, diskspace=quota)
    return replace(
        found,
        iolimit=_io_limit(case, "bytes_sec"),
        iopslimit=_io_limit(case, "iops_sec"),
    )


def _io_limit(case: _Case, unit: str) -> int | None:
    """What a container may do of both reads and writes."""
    key = f"quota:disk_total_{unit}"
    total = case.spec(key, 0) or 0
    apart = sum(
        case.spec(f"quota:disk_{way}_{unit}", 0) or 0 for way in ("read", "write")
    )
    if total and apart:
        raise _invalid(key, str(total), "given beside limits of reads or writes")
    return total or apart or None


def _ioprio(found: Limits, case: _Case) -> Limits:
    if not case.options.use_ioprio:
        return found
    units = case.units
    priority = min(MAX_IOPRIO, round(math.log2(units))) if units else 0
    return replace(found, ioprio=priority)


def _bandwidth(found: Limits, case: _Case) -> Limits:
    default = max(1, case.units) * case.options.tc_mbit_per_unit
    # tc_mbit_per_unit = 0 says that there is none.
    default = min(default, case.options.tc_max_line_speed)
    inbound, outbound = bandwidth(case.flavor.extra_specs, default or None)
    return replace(found, inbound=inbound, outbound=outbound)


_FILTERS: tuple[Callable[[Limits, _Case], Limits], ...] = (
    _config,
    _memory,
    _files,
    _sockets,
    _weight,
    _cpu,
    _disk,
    _ioprio,
    _bandwidth,
)


# --- What they share ---


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _integer(key: str, value: int | str, least: int | None) -> int:
    text = str(value)
    # 2**64 is the most that Nova promises of any of them.
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise _invalid(key, value, "no whole number")
    if least is not None:
        _require(key, int(text), least)
    return int(text)


def _require(key: str, value: int, least: int) -> None:
    if value < least:
        raise _invalid(key, value, f"less than {least}")


def _at_most(key: str, value: int, most: int) -> None:
    if value > most:
        raise _invalid(key, value, f"more than {most}")


def _invalid(key: str, value: object, why: str) -> exception.InvalidValue:
    return exception.InvalidValue(f"{key} = {str(value)[:100]!a} is {why}")
