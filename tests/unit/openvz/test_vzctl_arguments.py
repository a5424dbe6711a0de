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

"""Which command lines of vzctl may run as root."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import command, vzctl
from tests import support

CTID = "101"
SETTINGS = vzctl.Settings
FAMILIES = [vzctl.FAMILY_4, vzctl.FAMILY_7]
VETHS = support.VETHS


numbers = st.integers(0, 2**63)
words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,40}", fullmatch=True)
labels = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?", fullmatch=True)
addresses = st.ip_addresses().map(str).filter(lambda text: "%" not in text)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
veths = st.builds(
    vzctl.Veth,
    name=st.integers(0, 99).map("eth{}".format),
    mac=macs,
    host_ifname=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", fullmatch=True),
)
optional = {
    "name": words.filter(lambda text: not text.isdecimal()),
    "description": st.from_regex(r"[A-Za-z0-9_-]{0,60}", fullmatch=True),
    "os_hint": words,
    "hostname": st.lists(labels, min_size=1, max_size=4).map(".".join),
    "onboot": st.booleans(),
    "ioprio": st.integers(0, 7),
    "kmemsize": st.tuples(numbers, numbers).map(lambda pair: tuple(sorted(pair))),
    "diskspace_kb": st.tuples(numbers, numbers),
    **dict.fromkeys(
        (
            *("numflock", "numfile", "numtcpsock", "vmguarpages", "privvmpages"),
            *("cpuunits", "cpulimit", "cpus", "iolimit", "iopslimit"),
            *("ram_mb", "swap_mb"),
        ),
        numbers,
    ),
}
all_settings = st.one_of(
    st.builds(SETTINGS, applyconfig=words),
    st.builds(
        SETTINGS,
        **{name: st.none() | values for name, values in optional.items()},
        nameservers=st.lists(addresses, max_size=3).map(tuple),
        netif_add=st.lists(veths, max_size=3).map(tuple),
        netif_del=st.lists(st.integers(0, 99).map("eth{}".format), max_size=2).map(
            tuple
        ),
    ),
)
families = st.sampled_from(FAMILIES)
ctids = st.integers(1, command.MAX_CTID).map(str) | st.uuids().map(str)


@given(settings=all_settings, family=families, ctid=ctids)
def test_whatever_settings_build_is_permitted(settings, family, ctid):
    runner = support.Runner()

    vzctl.Vzctl(runner, family).set(ctid, settings)

    for program, *args in runner.commands:
        assert program == "vzctl"
        vzctl.check_arguments(args)
    assert len(runner.commands) == (settings.arguments(family) != [])


def all_commands(family):
    tool = vzctl.Vzctl(runner := support.Runner(), family)
    template = "/var/cache/image.tar.gz" if family.template_paths else "image"
    tool.create(CTID, template)
    tool.create(CTID, template, config="vswap-1g", layout="simfs", diskspace_kb=(1, 2))
    tool.set(CTID, SETTINGS(name="web", netif_add=VETHS, nameservers=("::1", "::2")))
    for method in (
        *(tool.start, tool.stop, tool.destroy, tool.mount, tool.umount),
        *(tool.pause, tool.unpause, tool.suspend, tool.resume),
    ):
        method(CTID)
    tool.stop(CTID, fast=True)
    tool.set_password(CTID, "root", "secret")
    return [list(cmd[1:]) for cmd in runner.commands]


ALL_COMMANDS = [args for family in FAMILIES for args in all_commands(family)]


@pytest.mark.parametrize("args", [["--version"], *ALL_COMMANDS], ids=" ".join)
def test_every_command_is_permitted(args):
    vzctl.check_arguments(args)
    vzctl.check_arguments(tuple(args))


@pytest.mark.parametrize("args", ALL_COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "more",
    [
        *(["--save"], ["--mount"], ["--use"], ["--wait"], ["x"], [""]),
        *(["--userpasswd", "root:x"], ["--mount_opts", "x"], ["--", "sh"], ["-x"]),
    ],
    ids=" ".join,
)
def test_no_command_is_permitted_with_more_arguments(args, more):
    for position in {1, 2, len(args)}:
        with pytest.raises(exception.CommandRefused):
            vzctl.check_arguments([*args[:position], *more, *args[position:]])


@pytest.mark.parametrize(
    "args",
    [
        *([], ["set"], ["start"], ["start", ""], ["start", "name"], ["start", "0"]),
        *(["start", "-1"], ["start", "2147483645"], ["start", "101\n"]),
        *(["start", "../101"], ["start", "--help"], ["--version", "101"]),
        *(["start", "101", "--force"], ["set", "101", "--cpus", "1", "--force"]),
        *(["exec", "101", "id"], ["exec2", "101", "id"], ["exec2", "101"]),
        *(["exec2", "101", "chpasswd", "-c"], ["enter", "101"], ["runscript", "101"]),
        *(["set", "101"], ["set", "101", "--hostname", "a"], ["set", "101", "--force"]),
        *(["set", "101", "--save", "--hostname", "a"], ["chkpnt", "101"]),
        *(["set", "101", "--hostname", "--save"], ["create", "101", "--ostemplate"]),
        *(["create", "101", "--ostemplate", "/../x"], ["create", "101", "image"]),
        *(["create", "101", "--private", "/etc"], ["restore", "101", "--dumpfile"]),
        *(["set", "101", "--hostname=a", "--save"], ["stop", "101", "--skip-umount"]),
    ],
    ids=" ".join,
)
def test_nothing_else_is_permitted(args):
    with pytest.raises(exception.CommandRefused):
        vzctl.check_arguments(args)


def options_of(args):
    """(position, option) of each option that has a value."""
    at = 1 if args[0] == "--force" else 0
    return [(n, args[n]) for n in range(at, len(args), 2)]


@given(
    settings=all_settings.filter(lambda s: s.arguments(vzctl.FAMILY_7)),
    family=families,
    data=st.data(),
)
def test_an_altered_set_is_refused(settings, family, data):
    args = settings.arguments(family)
    position, option = data.draw(st.sampled_from(options_of(args)))
    value = args[position + 1]
    known = set(vzctl._SET_VALUES)
    shorter = data.draw(st.integers(3, len(option) - 1).map(lambda n: option[:n]))
    altered = [
        # Without its value, with a value of two lines, and under no name of its own.
        [*args[: position + 1], *args[position + 2 :]],
        [*args[: position + 1], f"{value}\n", *args[position + 2 :]],
        [*args[: position + 1], f"{value}\nX=1", *args[position + 2 :]],
        [*args[:position], f"{option}={value}", *args[position + 1 :]],
        [*args[:position], f"{option}x", *args[position + 1 :]],
    ]
    if shorter not in known:
        # getopt takes prefixes: --mount for --mount_opts.
        altered.append([*args[:position], shorter, *args[position + 1 :]])
    for other in altered:
        with pytest.raises(exception.CommandRefused):
            vzctl.check_arguments(["set", CTID, *other, "--save"])


@given(settings=all_settings, family=families)
def test_an_option_may_be_repeated_where_its_values_add_up_only(settings, family):
    args = settings.arguments(family)
    for position, option in options_of(args) if args else []:
        twice = ["set", CTID, *args, option, args[position + 1], "--save"]
        if option in ("--nameserver", "--netif_add", "--netif_del"):
            vzctl.check_arguments(twice)
        else:
            with pytest.raises(exception.CommandRefused, match="repeated"):
                vzctl.check_arguments(twice)
