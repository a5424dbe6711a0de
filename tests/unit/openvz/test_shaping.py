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

"""openvz/shaping.py: what tc is told, and what is left to others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import shaping
from ovznovadriver.openvz.shaping import Lines, Qdiscs, Rate, Seen

TAP, IFB = "tap6e8a9c5e-0d", "ifb6e8a9c5e-0d"
IN, OUT = Rate(625000), Rate(2_000_000)
BUCKET_IN = "tbf rate 625000bps burst 131072b limit 196608b"
BUCKET_OUT = "tbf rate 2000000bps burst 131072b limit 196608b"
ROOT = f"qdisc replace dev {TAP} root handle 1f0: {BUCKET_IN}"
IFB_ROOT = f"qdisc replace dev {IFB} root handle 1f0: {BUCKET_OUT}"
INGRESS = f"qdisc add dev {TAP} handle ffff: ingress"
REDIRECT = (
    f"filter add dev {TAP} parent ffff: protocol all prio 1 u32 match u32 0 0"
    f" action mirred egress redirect dev {IFB}"
)

OURS = ("tbf", "1f0:")
FILTERS = f"""filter protocol all pref 1 u32 chain 0 fh 800::800
\taction order 1: mirred (Egress Redirect to device {IFB}) stolen
"""
POLICED = "filter protocol all pref 49 basic chain 0 handle 0x1\n\taction police\n"

rates = st.builds(
    lambda average, more, burst: Rate(
        average, None if more is None else min(average + more, shaping.MAX_RATE), burst
    ),
    st.integers(shaping.MIN_RATE, shaping.MAX_RATE),
    st.none() | st.integers(0, shaping.MAX_RATE),
    st.none() | st.integers(1, shaping.MAX_BURST),
)


# --- Rates ---


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (Rate(1000), "tbf rate 1000bps burst 131072b limit 196608b"),
        # 1 Gbit/s: 10 ms and 50 ms of it
        (Rate(125_000_000), "tbf rate 125000000bps burst 1250000b limit 6250000b"),
        (Rate(1_000_000, burst=1), "tbf rate 1000000bps burst 131072b limit 196608b"),
        (
            Rate(1_000_000, burst=500_000),
            "tbf rate 1000000bps burst 500000b limit 196608b",
        ),
        (
            Rate(1_000_000, peak=1_000_000),
            "tbf rate 1000000bps burst 131072b limit 196608b",
        ),
        (
            Rate(1_000_000, peak=2_000_000),
            "tbf rate 1000000bps burst 131072b limit 196608b"
            " peakrate 2000000bps mtu 69632b",
        ),
        (
            Rate(1_000_000, peak=125_000_000, burst=10**7),
            "tbf rate 1000000bps burst 10000000b limit 196608b"
            " peakrate 125000000bps mtu 1250000b",
        ),
    ],
)
def test_a_bucket_is_deep_enough(rate: Rate, text: str) -> None:
    assert shaping.bucket(rate) == text


@given(rates)
def test_a_bucket_is_always_one_that_tc_takes(rate: Rate) -> None:
    words = shaping.bucket(rate).split()[1:]
    found = {
        name: int(value.removesuffix("bps").removesuffix("b"))
        for name, value in zip(words[::2], words[1::2], strict=True)
    }
    assert found["rate"] == rate.average
    assert found["peakrate"] > rate.average if "peakrate" in found else True
    for size in ("burst", "limit", "mtu"):
        # More than one packet of 64 KiB, and no more than 32 bits.
        assert 2**16 < found.get(size, 2**17) < 2**31
    # As the kernel has it: nanoseconds in units of 64.
    assert found["burst"] / rate.average * 1e9 / 64 < 2**32


@pytest.mark.parametrize(
    ("average", "peak", "burst"),
    [
        (999, None, None),
        (2**40 + 1, None, None),
        (0, None, None),
        (True, None, None),
        (5000.0, None, None),
        ("5000", None, None),
        (5000, 4999, None),
        (5000, 2**40 + 1, None),
        (5000, "6000", None),
        (5000, None, 0),
        (5000, None, 2**31),
        (5000, None, True),
    ],
)
def test_a_rate_that_cannot_be_is_refused(average: Any, peak: Any, burst: Any) -> None:
    with pytest.raises(exception.InvalidValue):
        Rate(average, peak, burst)


# --- What there is ---


def test_the_answer_of_tc_is_read() -> None:
    # As tc of iproute2 6.1 answers, on Linux 6.18.
    text = json.dumps(
        [
            {"kind": "noqueue", "handle": "0:", "dev": "lo", "root": True},
            {
                "kind": "tbf",
                "handle": "1f0:",
                "dev": TAP,
                "root": True,
                "options": {"rate": 12500000, "burst": 131062, "lat": 50000},
            },
            {"kind": "pfifo", "handle": "8001:", "dev": TAP, "parent": "1f0:1"},
            {"kind": "ingress", "handle": "ffff:", "dev": TAP, "parent": "ffff:fff1"},
            {"kind": "clsact", "handle": "ffff:", "dev": "e", "parent": "ffff:fff1"},
        ]
    )
    assert shaping.parse_qdiscs(text) == {
        "lo": Qdiscs(("noqueue", "0:"), None),
        TAP: Qdiscs(OURS, "ingress"),
        "e": Qdiscs(None, "clsact"),
    }
    assert shaping.parse_qdiscs("") == {}


@pytest.mark.parametrize(
    "text", ["qdisc noqueue 0: dev lo root", "{}x", "[1]", "[{}]", "5", '[{"dev":1}]']
)
def test_an_answer_in_another_language_is_refused(text: str) -> None:
    with pytest.raises(exception.MalformedOutput):
        shaping.parse_qdiscs(text)


# --- What is to be done ---


def lines(
    inbound: Rate | None = None, outbound: Rate | None = None, **seen: Any
) -> Lines:
    return shaping.lines(TAP, inbound, outbound, Seen(**seen))


def test_on_a_fresh_host_end_both_limits_are_made_the_bucket_before_the_traffic() -> (
    None
):
    assert lines(IN, OUT, qdiscs=Qdiscs(("noqueue", "0:"))) == Lines(
        (f"link add name {IFB} type ifb", f"link set dev {IFB} up"),
        (ROOT, IFB_ROOT, INGRESS, REDIRECT),
    )


def test_what_is_there_is_only_brought_up_to_date() -> None:
    seen = {"qdiscs": Qdiscs(OURS, "ingress"), "filters": FILTERS, "ifb": True}
    assert lines(IN, OUT, ifb_up=True, **seen) == Lines((), (ROOT, IFB_ROOT))
    assert lines(None, OUT, ifb_up=False, **seen).ip == (f"link set dev {IFB} up",)


def test_limits_that_are_no_longer_wanted_are_removed() -> None:
    seen = {"qdiscs": Qdiscs(OURS, "ingress"), "filters": FILTERS, "ifb": True}
    assert lines(**seen) == Lines(
        (f"link del dev {IFB}",),
        (f"qdisc del dev {TAP} root", f"qdisc del dev {TAP} ingress"),
    )


def test_without_limits_nothing_is_done() -> None:
    assert lines() == Lines((), ())
    assert lines(qdiscs=Qdiscs(("fq_codel", "0:"))) == Lines((), ())


@pytest.mark.parametrize("root", [("htb", "1:"), ("tbf", "8001:"), ("htb", "1f0:")])
@pytest.mark.parametrize("rate", [IN, None])
def test_the_root_qdisc_of_somebody_else_stays(
    root: tuple[str, str], rate: Rate | None
) -> None:
    assert lines(rate, qdiscs=Qdiscs(root)) == Lines((), ())


@pytest.mark.parametrize(
    ("kind", "filters"),
    [
        ("ingress", POLICED),
        ("clsact", ""),
        # That of a device whose name begins with ours.
        ("ingress", FILTERS.replace(IFB, f"{IFB}x")),
        ("ingress", ""),
    ],
)
@pytest.mark.parametrize("rate", [OUT, None])
def test_the_ingress_of_somebody_else_stays(
    kind: str, filters: str, rate: Rate | None
) -> None:
    seen = {"qdiscs": Qdiscs(None, kind), "filters": filters}
    assert lines(None, rate, **seen) == Lines((), ())


@pytest.mark.parametrize(("kind", "filters"), [("ingress", POLICED), ("clsact", "")])
def test_our_ifb_is_of_no_use_beside_the_ingress_of_somebody_else(
    kind: str, filters: str
) -> None:
    seen = {"qdiscs": Qdiscs(None, kind), "filters": filters, "ifb": True}
    assert lines(None, OUT, **seen) == Lines((f"link del dev {IFB}",), ())


def test_what_was_half_done_is_completed() -> None:
    seen = {"qdiscs": Qdiscs(None, "ingress"), "ifb": True, "ifb_up": True}
    assert lines(None, OUT, **seen) == Lines((), (IFB_ROOT, REDIRECT))
    assert lines(None, None, **seen).tc == (f"qdisc del dev {TAP} ingress",)


def test_an_ingress_that_ovs_has_wiped_is_made_again() -> None:
    seen = {"qdiscs": Qdiscs(OURS), "ifb": True, "ifb_up": True}
    assert lines(None, OUT, **seen).tc[1:] == (IFB_ROOT, INGRESS, REDIRECT)


# --- What is missing ---

FREE = Qdiscs(("noqueue", "0:"))
BUCKET = Qdiscs(OURS)
BOTH = Qdiscs(OURS, "ingress")


@pytest.mark.parametrize(
    ("inbound", "outbound", "qdiscs", "missing"),
    [
        (IN, OUT, {}, False),  # it is not there
        (None, None, {TAP: FREE}, False),
        (IN, None, {TAP: FREE}, True),
        (IN, None, {TAP: Qdiscs()}, True),
        (IN, None, {TAP: BUCKET}, False),
        (IN, None, {TAP: Qdiscs(("htb", "1:"))}, False),
        (None, OUT, {TAP: FREE}, True),
        (IN, OUT, {TAP: BUCKET, IFB: BUCKET}, True),  # as OVS leaves it
        (IN, OUT, {TAP: BOTH, IFB: BUCKET}, False),
        (IN, OUT, {TAP: BOTH, IFB: FREE}, True),
        (IN, OUT, {TAP: BOTH}, False),  # somebody else's
        (IN, OUT, {TAP: Qdiscs(OURS, "clsact")}, False),
        (IN, OUT, {TAP: Qdiscs(("noqueue", "0:"), "ingress"), IFB: BUCKET}, True),
    ],
)
def test_a_limit_that_nobody_enforces_is_missing(
    inbound: Rate | None,
    outbound: Rate | None,
    qdiscs: dict[str, Qdiscs],
    missing: bool,
) -> None:
    assert shaping.missing(TAP, inbound, outbound, qdiscs) is missing
