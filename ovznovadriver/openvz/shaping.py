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

"""Limits on a container's traffic, as commands of tc on the host's end of its veth.

What goes to the guest leaves the host by the host's end, so a token bucket (tbf) as
its root qdisc limits it. What comes from the guest comes in there, where nothing can
be queued: it is redirected to an ifb device, whose root qdisc is the other bucket.

What somebody else has put there is left alone: Neutron's agent has Open vSwitch
limit a port that has a QoS policy, with qdiscs of its own. It does not touch a root
qdisc with our handle: it asks the kernel for the handle 1: only. But it removes the
ingress qdisc when it sees an interface for the first time; :func:`missing` finds that.

Pure functions; hostends.py looks and acts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ovznovadriver import exception

#: The handle of the root qdiscs that are ours.
HANDLE = "1f0:"
#: Bytes a second; less is not worth a name, and makes tc's 32 bits overflow.
MIN_RATE = 1000
MAX_RATE = 2**40
#: Bytes; tc takes no larger size.
MAX_BURST = 2**31 - 1

_INGRESS_HANDLE = "ffff:"
# The handle of what the kernel has put there by itself.
_KERNELS_OWN = "0:"

# How deep a bucket has to be. The stack hands over up to 64 KiB at once (GSO). Such a
# packet must fit into the bucket, and several into the queue before it: a queue of
# 64 KiB took none, and TCP came down to a tenth. Above that, by time: the bucket must
# last until the kernel looks again, also on a busy host, and the queue for a round
# trip. One TCP stream over a veth pair then is at (Linux 6.18, two CPUs with a load of
# 6; Mbit/s of payload, of which headers take 4 %):
#
#   limit               5     20    100    500   1000
#   to the guest      4.9   19.4   95.4    473    960
#   from the guest    4.9   19.4   95.3    480    957
_MIN_BURST = 128 * 1024
_MIN_QUEUE = 192 * 1024
_BURST_PER_SECOND = 100  # 10 ms
_QUEUE_PER_SECOND = 20  # 50 ms
# tbf takes a bucket's size as a time of at most 2**32 times 64 ns: 274 s.
_MAX_BURST_SECONDS = 250
# The bucket for the peak holds one packet; a larger one than 64 KiB does not come.
_PEAK_BURST = 68 * 1024


@dataclass(frozen=True)
class Rate:
    """A limit on one direction of an interface's traffic.

    :ivar average: bytes a second
    :ivar peak: bytes a second, at most, while a burst lasts; None for no bound
    :ivar burst: bytes that may go faster than average; None for as few as it works
        with
    :raises InvalidValue: it cannot be set
    """

    average: int
    peak: int | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        _require("average", self.average, MIN_RATE, MAX_RATE)
        if self.peak is not None:
            _require("peak", self.peak, self.average, MAX_RATE)
        if self.burst is not None:
            _require("burst", self.burst, 1, MAX_BURST)


def _require(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise exception.InvalidValue(
            f"{name} of a rate is {value!r}, and not from {least} to {most}"
        )


def ifb_name(host_ifname: str) -> str:
    """The ifb device that belongs to a host end; as long, and as unique, as its."""
    return f"ifb{host_ifname[3:]}"


def bucket(rate: Rate) -> str:
    """A rate in the language of `tc qdisc … tbf`."""
    burst = max(rate.burst or 0, _MIN_BURST, rate.average // _BURST_PER_SECOND)
    burst = min(burst, rate.average * _MAX_BURST_SECONDS, MAX_BURST)
    queue = min(max(_MIN_QUEUE, rate.average // _QUEUE_PER_SECOND), MAX_BURST)
    text = f"tbf rate {rate.average}bps burst {burst}b limit {queue}b"
    if rate.peak is not None and rate.peak > rate.average:  # tbf takes no equal one
        # A bucket of a fixed size would hold down high peaks.
        deep = max(_PEAK_BURST, rate.peak // _BURST_PER_SECOND)
        text += f" peakrate {rate.peak}bps mtu {min(deep, MAX_BURST)}b"
    return text


@dataclass(frozen=True)
class Qdiscs:
    """What shapes the traffic of one device.

    :ivar root: (kind, handle) of its root qdisc; None where there is none to be seen
    :ivar ingress: the kind of what is at its ingress, if anything
    """

    root: tuple[str, str] | None = None
    ingress: str | None = None

    @property
    def ours(self) -> bool:
        """Whether the root qdisc is a bucket that this driver has put there."""
        return self.root == ("tbf", HANDLE)

    @property
    def free(self) -> bool:
        """Whether the root qdisc is nobody's."""
        return self.root is None or self.root[1] == _KERNELS_OWN


NONE = Qdiscs()


def parse_qdiscs(text: str) -> dict[str, Qdiscs]:
    """The answer of `tc -j qdisc show`, by device.

    :raises MalformedOutput: it is not that
    """
    found: dict[str, Qdiscs] = {}
    try:
        for entry in json.loads(text or "[]"):
            device, kind = entry["dev"], entry["kind"]
            seen = found.get(device, NONE)
            if kind in ("ingress", "clsact"):
                found[device] = Qdiscs(seen.root, kind)
            elif entry.get("root"):
                found[device] = Qdiscs((kind, entry["handle"]), seen.ingress)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise exception.MalformedOutput(
            f"'tc -j qdisc show' answers {text[:100]!r}"
        ) from error
    return found


def missing(
    host_ifname: str,
    inbound: Rate | None,
    outbound: Rate | None,
    qdiscs: Mapping[str, Qdiscs],
) -> bool:
    """Whether a limit of a host end is not in force, and nobody else's is instead.

    A host end that has no qdisc at all is taken for one that is not there.
    """
    here = qdiscs.get(host_ifname)
    if here is None:
        return False
    if inbound is not None and here.free:
        return True
    if outbound is None or here.ingress == "clsact":
        return False
    ifb = qdiscs.get(ifb_name(host_ifname))
    return here.ingress is None or (ifb is not None and ifb.free)


@dataclass(frozen=True)
class Seen:
    """What there is of a host end and its ifb device.

    :ivar qdiscs: of the host end
    :ivar filters: what `tc filter show` says of its ingress
    :ivar ifb: whether there is an ifb device for it
    :ivar ifb_up: whether it is up
    """

    qdiscs: Qdiscs = NONE
    filters: str = ""
    ifb: bool = False
    ifb_up: bool = False


@dataclass(frozen=True)
class Lines:
    """Lines of a batch for ip, and of one for tc that follows it."""

    ip: Sequence[str] = field(default_factory=tuple)
    tc: Sequence[str] = field(default_factory=tuple)

    def __add__(self, other: Lines) -> Lines:
        return Lines((*self.ip, *other.ip), (*self.tc, *other.tc))


def lines(
    host_ifname: str, inbound: Rate | None, outbound: Rate | None, seen: Seen
) -> Lines:
    """What makes the limits of a host end what they are to be."""
    return _inbound(host_ifname, inbound, seen) + _outbound(host_ifname, outbound, seen)


def _inbound(device: str, rate: Rate | None, seen: Seen) -> Lines:
    if rate is not None and (seen.qdiscs.ours or seen.qdiscs.free):
        return Lines(tc=[_root(device, rate)])
    if rate is None and seen.qdiscs.ours:
        return Lines(tc=[f"qdisc del dev {device} root"])
    return Lines()


def _root(device: str, rate: Rate) -> str:
    return f"qdisc replace dev {device} root handle {HANDLE} {bucket(rate)}"


def _outbound(device: str, rate: Rate | None, seen: Seen) -> Lines:
    ifb = ifb_name(device)
    redirected = f"to device {ifb})" in seen.filters
    # An ingress qdisc without a filter, and our device: we came so far and no farther.
    half = seen.ifb and not seen.filters.strip()
    ours = seen.qdiscs.ingress == "ingress" and (redirected or half)
    if rate is not None and (ours or seen.qdiscs.ingress is None):
        return _redirect(device, rate, seen, redirected=ours and redirected)
    return Lines(
        [f"link del dev {ifb}"] if seen.ifb else [],
        [f"qdisc del dev {device} ingress"] if ours else [],
    )


def _redirect(device: str, rate: Rate, seen: Seen, *, redirected: bool) -> Lines:
    ifb = ifb_name(device)
    ip = [] if seen.ifb else [f"link add name {ifb} type ifb"]
    if not seen.ifb_up:
        ip.append(f"link set dev {ifb} up")
    # The bucket first: what is redirected must not pass without it.
    tc = [_root(ifb, rate)]
    if seen.qdiscs.ingress is None:
        tc.append(f"qdisc add dev {device} handle {_INGRESS_HANDLE} ingress")
    if not redirected:
        tc.append(
            f"filter add dev {device} parent {_INGRESS_HANDLE} protocol all prio 1"
            f" u32 match u32 0 0 action mirred egress redirect dev {ifb}"
        )
    return Lines(ip, tc)
