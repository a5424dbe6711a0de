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

"""The command lines of vzctl, and what its exit codes mean."""

import dataclasses

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import metadata, vzctl
from tests import support

CTID = "101"
SETTINGS = vzctl.Settings
FAMILIES = [vzctl.FAMILY_4, vzctl.FAMILY_7]
VETHS = support.VETHS
END = "FE:FF:FF:FF:FF:FF"


by_name = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


# -- families ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("vzctl version 4.9.4\n", (4, 9, 4)),
        ("vzctl v.9.0.1\n", (9, 0, 1)),
        ("vzctl version 7.0.194-1.vz7\n", (7, 0, 194)),
        ("vzctl version 4.8\n", (4, 8, 0)),
        ("Directory /proc/vz not found\nvzctl version 4.9.4\n", (4, 9, 4)),
    ],
)
def test_a_version_is_read(answer, version):
    assert vzctl.parse_version(answer) == version


@pytest.mark.parametrize("answer", ["", "vzctl", "vzctl version x\n", "v.9.0.1", "4.9"])
def test_an_answer_without_a_version_is_an_error(answer):
    with pytest.raises(exception.ConfigurationError, match="install vzctl"):
        vzctl.parse_version(answer)


@pytest.mark.parametrize(
    ("version", "family"),
    [
        ((4, 0, 0), vzctl.FAMILY_4),
        ((4, 11, 1), vzctl.FAMILY_4),
        ((7, 0, 0), vzctl.FAMILY_7),
        ((9, 0, 1), vzctl.FAMILY_7),
        ((10, 0, 0), vzctl.FAMILY_7),
    ],
)
def test_a_version_belongs_to_a_family(version, family):
    assert vzctl.family_of(version) is family


@pytest.mark.parametrize("version", [(3, 3, 0), (5, 0, 0), (6, 9, 9)])
def test_an_unknown_family_is_refused(version):
    with pytest.raises(exception.ConfigurationError, match="not supported"):
        vzctl.family_of(version)


# -- settings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SETTINGS(), []),
        (SETTINGS(name=support.UUID), ["--name", support.UUID]),
        (SETTINGS(onboot=False, cpus=2), ["--onboot", "no", "--cpus", "2"]),
        (SETTINGS(onboot=True), ["--onboot", "yes"]),
        (SETTINGS(kmemsize=(9, 10)), ["--kmemsize", "9:10"]),
        (SETTINGS(diskspace_kb=(10, 11)), ["--diskspace", "10:11"]),
        (SETTINGS(numfile=1, numflock=2), ["--numflock", "2", "--numfile", "1"]),
        (SETTINGS(netif_del=("eth0",)), ["--netif_del", "eth0"]),
        (
            SETTINGS(nameservers=("10.0.0.1", "fd00::1")),
            ["--nameserver", "10.0.0.1", "--nameserver", "fd00::1"],
        ),
    ],
)
@by_name
def test_settings_become_options(family, settings, expected):
    assert settings.arguments(family) == expected


def test_the_distribution_has_another_option_where_templates_are_paths():
    hint = SETTINGS(os_hint="debian-12")

    assert hint.arguments(vzctl.FAMILY_4) == ["--ostemplate", "debian-12"]
    assert hint.arguments(vzctl.FAMILY_7) == ["--distribution", "debian-12"]


@pytest.mark.parametrize(
    "settings",
    [SETTINGS(ram_mb=512), SETTINGS(swap_mb=0), SETTINGS(ram_mb=1, swap_mb=1)],
)
def test_force_comes_before_ram_and_swap_where_there_are_beancounters(settings):
    assert settings.arguments(vzctl.FAMILY_4)[0] == "--force"
    assert "--force" not in settings.arguments(vzctl.FAMILY_7)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS(hostname="a\nCPUUNITS=1"),
        SETTINGS(hostname="-a"),
        SETTINGS(hostname="a" * 64),
        SETTINGS(hostname=".".join(["a" * 60] * 5)),
        SETTINGS(hostname=""),
        SETTINGS(nameservers=("8.8.8.8\n",)),
        SETTINGS(nameservers=("inherit",)),
        SETTINGS(cpulimit=-1),
        SETTINGS(kmemsize=(11, 10)),
        SETTINGS(diskspace_kb=(-1, 10)),
        SETTINGS(description='{"a": 1}'),
        SETTINGS(description="a\nCPUUNITS=1"),
        SETTINGS(name="101"),
        SETTINGS(name="a b"),
        SETTINGS(name="--save"),
        SETTINGS(os_hint="../x"),
        SETTINGS(ioprio=8),
        SETTINGS(netif_del=("tap0",)),
    ],
)
@by_name
def test_values_that_vzctl_does_not_validate_are_validated(family, settings):
    with pytest.raises(exception.InvalidValue):
        settings.arguments(family)


@pytest.mark.parametrize(
    "veth",
    [
        dataclasses.replace(VETHS[0], name="lo"),
        dataclasses.replace(VETHS[0], mac="fa:16:3e:00:00"),
        dataclasses.replace(VETHS[0], host_ifname="tap,0"),
        dataclasses.replace(VETHS[0], host_ifname=""),
    ],
)
def test_an_interface_that_would_be_misread_is_refused(veth):
    with pytest.raises(exception.InvalidValue):
        SETTINGS(netif_add=(veth,)).arguments(vzctl.FAMILY_4)


def test_a_host_end_has_at_most_15_characters():
    longest = dataclasses.replace(VETHS[0], host_ifname="t" * 15)
    assert SETTINGS(netif_add=(longest,)).arguments(vzctl.FAMILY_4)

    longer = dataclasses.replace(VETHS[0], host_ifname="t" * 16)
    with pytest.raises(exception.InvalidValue):
        SETTINGS(netif_add=(longer,)).arguments(vzctl.FAMILY_4)


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0K"), (1, "1K"), (1024, "1K"), (10 * 2**20, "10240K")]
)
@by_name
def test_an_io_limit_has_a_suffix_that_means_the_same_in_both(family, count, expected):
    assert SETTINGS(iolimit=count).arguments(family) == ["--iolimit", expected]


def test_vzctl_7_wants_the_last_interface_named_once_more():
    both = SETTINGS(netif_add=VETHS)
    expected = [
        *("--netif_add", f"eth0,FA:16:3E:00:00:01,tap0,{END}"),
        *("--netif_add", f"eth1,FA:16:3E:00:00:02,tap1,{END}"),
    ]

    assert both.arguments(vzctl.FAMILY_4) == expected
    assert both.arguments(vzctl.FAMILY_7) == [*expected, "--ifname", "eth1"]


@by_name
def test_a_sample_is_applied_alone(family):
    assert SETTINGS(applyconfig="basic").arguments(family) == ["--applyconfig", "basic"]

    for other in (SETTINGS(ram_mb=256), SETTINGS(cpuunits=777), SETTINGS(name="a")):
        with pytest.raises(exception.InvalidValue, match="alone"):
            dataclasses.replace(other, applyconfig="basic").arguments(family)


def test_the_longest_tag_is_a_description_that_vzctl_is_given():
    text = "x" * metadata.MAX_LENGTH

    assert SETTINGS(description=text).arguments(vzctl.FAMILY_4) == [
        "--description",
        text,
    ]


def test_later_settings_go_over_earlier_ones_and_interfaces_add_up():
    earlier = SETTINGS(cpus=1, cpuunits=5, onboot=True, nameservers=("10.0.0.1",))
    earlier = dataclasses.replace(earlier, netif_add=VETHS[:1], netif_del=("eth7",))
    later = SETTINGS(cpus=2, onboot=False, netif_add=VETHS[1:], netif_del=("eth8",))

    assert earlier.merged(later) == SETTINGS(
        cpus=2,
        cpuunits=5,
        onboot=False,
        nameservers=("10.0.0.1",),
        netif_add=VETHS,
        netif_del=("eth7", "eth8"),
    )


def test_a_zero_goes_over_an_earlier_value_too():
    assert SETTINGS(swap_mb=512).merged(SETTINGS(swap_mb=0)).swap_mb == 0


# -- commands ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, exception.CommandFailed),
        (14, exception.ContainerConfigMissing),
        (31, exception.ContainerNotRunning),
        (32, exception.ContainerRunning),
        (40, exception.ContainerNotMounted),
        (41, exception.ContainerMounted),
        (43, exception.PrivateAreaMissing),
        (44, exception.PrivateAreaExists),
        (82, exception.SampleUnusable),
        (96, exception.CommandFailed),
        (131, exception.NameInUse),
        (137, exception.NameInUse),
        (154, exception.DiskImageNotResized),
        (255, exception.CommandFailed),
    ],
)
def test_every_exit_code_but_0_is_an_error(code, error):
    tool = vzctl.Vzctl(support.Runner(code), vzctl.FAMILY_4)

    with pytest.raises(error) as caught:
        tool.start(CTID)

    assert type(caught.value) is error
    assert (caught.value.command, caught.value.exit_code) == ("vzctl start 101", code)
    assert (caught.value.stdout, caught.value.stderr) == ("out", "err")


@by_name
def test_umount_of_what_is_not_mounted_is_no_error(family):
    vzctl.Vzctl(support.Runner(40), family).umount(CTID)

    with pytest.raises(exception.CommandFailed):
        vzctl.Vzctl(support.Runner(41), family).umount(CTID)


def test_whether_it_worked_or_not_a_command_may_have_changed_a_container():
    changes = []
    for code in (0, 1):
        tool = vzctl.Vzctl(
            support.Runner(code),
            vzctl.FAMILY_4,
            changed=lambda: changes.append("change"),
        )
        if code:
            with pytest.raises(exception.CommandFailed):
                tool.start(CTID)
        else:
            tool.start(CTID)
    assert len(changes) == 2


def test_nothing_runs_where_there_is_nothing_to_set():
    runner = support.Runner()

    vzctl.Vzctl(runner, vzctl.FAMILY_4).set(CTID, SETTINGS())

    assert runner.commands == []


def test_a_disk_image_has_time_to_shrink():
    tool = vzctl.Vzctl(runner := support.Runner(), vzctl.FAMILY_4)
    times = []
    for settings in (SETTINGS(cpus=1), SETTINGS(diskspace_kb=(1, 1))):
        tool.set(CTID, settings)
        times.append(runner.options["timeout"])

    assert times == [tool.limits.command, tool.limits.create]


def test_the_layout_is_given_where_create_takes_one():
    for family, expected in ((vzctl.FAMILY_4, True), (vzctl.FAMILY_7, False)):
        runner = support.Runner()
        vzctl.Vzctl(runner, family).create(CTID, "image", layout="ploop")
        assert ("--layout" in runner.commands[0]) is expected


@pytest.mark.parametrize(
    ("asked", "given_limit"), [(None, 300), (5, 5), (300, 300), (3600, 300)]
)
def test_a_stop_never_takes_longer_than_the_operator_says(asked, given_limit):
    runner = support.Runner()

    vzctl.Vzctl(runner, vzctl.FAMILY_4).stop(CTID, timeout=asked)

    assert runner.options["timeout"] == given_limit


def test_each_kind_of_command_has_its_own_time_limit():
    limits = vzctl.TimeLimits(command=1, create=2, start=3, stop=4)
    tool = vzctl.Vzctl(runner := support.Runner(), vzctl.FAMILY_4, limits)
    taken = {}
    for name, call in {
        "create": lambda: tool.create(CTID, "image"),
        "set": lambda: tool.set(CTID, SETTINGS(cpus=1)),
        "start": lambda: tool.start(CTID),
        "stop": lambda: tool.stop(CTID),
        "destroy": lambda: tool.destroy(CTID),
        "suspend": lambda: tool.suspend(CTID),
        "password": lambda: tool.set_password(CTID, "root", "secret"),
    }.items():
        call()
        taken[name] = runner.options["timeout"]

    assert taken == {
        "create": 2,
        "destroy": 2,
        "set": 1,
        "password": 1,
        "start": 3,
        "suspend": 3,
        "stop": 4,
    }


def test_pausing_has_another_name_in_each_family():
    for family, expected in (
        (vzctl.FAMILY_4, [("chkpnt", CTID, "--suspend"), ("chkpnt", CTID, "--resume")]),
        (vzctl.FAMILY_7, [("pause", CTID), ("resume", CTID)]),
    ):
        tool = vzctl.Vzctl(runner := support.Runner(), family)
        tool.pause(CTID)
        tool.unpause(CTID)
        assert [cmd[1:] for cmd in runner.commands] == expected


def test_a_password_travels_on_standard_input_and_is_a_secret():
    tool = vzctl.Vzctl(runner := support.Runner(), vzctl.FAMILY_4)

    tool.set_password(CTID, "root", "s3cret word")

    assert runner.commands == [("vzctl", "exec2", CTID, "chpasswd")]
    assert runner.options["stdin"] == "root:s3cret word\n"
    assert runner.options["secrets"] == ("s3cret word",)


@pytest.mark.parametrize("password", ["", "a\nroot2:b", "a\r", "a\0b"])
def test_a_password_of_two_lines_would_set_another_one_too(password):
    with pytest.raises(exception.InvalidValue):
        vzctl.Vzctl(support.Runner(), vzctl.FAMILY_4).set_password(
            CTID, "root", password
        )


# -- over the simulated tools -------------------------------------------------------


EVERYTHING = SETTINGS(
    name="web-1",
    description="nova1-abc",
    os_hint="debian-12",
    hostname="web-1.example.org",
    onboot=False,
    cpuunits=1000,
    cpulimit=50,
    cpus=1,
    ioprio=3,
    diskspace_kb=(2**20, 2**21),
    iolimit=10 * 2**20,
    iopslimit=100,
    ram_mb=512,
    swap_mb=256,
    nameservers=("10.0.0.1", "10.0.0.2"),
    netif_add=VETHS,
)


def test_vzctl_takes_all_settings_in_one_command(sim, node, image):
    container = support.create(node, image)

    node.vzctl.set(container.ovz_id, EVERYTHING)

    kept = sim.conf(container.ovz_id)
    assert kept["HOSTNAME"] == "web-1.example.org"
    assert kept["NAMESERVER"] == "10.0.0.1 10.0.0.2"
    assert kept["ONBOOT"] == "no"
    assert kept["IOLIMIT"] == str(10 * 2**20)
    assert [part.split(",")[0] for part in kept["NETIF"].split(";")] == [
        "ifname=eth0",
        "ifname=eth1",
    ]
    assert "host_ifname=tap1" in kept["NETIF"]


def test_vzctl_4_takes_all_beancounters(sim4, node4, image4):
    container = support.create(node4, image4)

    node4.vzctl.set(
        container.ovz_id,
        SETTINGS(
            numflock=8,
            numfile=9,
            numtcpsock=10,
            vmguarpages=11,
            privvmpages=12,
            kmemsize=(4096, 8192),
        ),
    )

    kept = sim4.conf(container.ovz_id)
    assert kept["NUMFLOCK"].split(":")[0] == "8"
    assert kept["NUMFILE"].split(":")[0] == "9"
    assert kept["KMEMSIZE"] == "4096:8192"


def test_vzctl_9_saves_what_failed_and_only_the_exit_code_tells(sim9, node9, image9):
    container = support.create(node9, image9)
    sim9.fail("vzctl", "set", rc=96, stdout="Saved parameters\n", when="after")

    with pytest.raises(exception.CommandFailed):
        node9.vzctl.set(container.ovz_id, SETTINGS(hostname="web-2"))

    assert sim9.conf(container.ovz_id)["HOSTNAME"] == "web-2"


def test_a_password_reaches_neither_arguments_nor_log(sim, node, image, caplog):
    caplog.set_level("DEBUG")
    container = support.create(node, image)
    container.start()

    node.vzctl.set_password(container.ovz_id, "root", "s3cret-word")

    assert sim.password_matches(container.ovz_id, "root", "s3cret-word")
    assert "s3cret-word" not in caplog.text
    assert not any("s3cret-word" in arg for c in sim.commands() for arg in c.argv)


# -- consoles and starts ------------------------------------------------------------


def test_the_system_console_is_what_each_family_calls_tty1():
    assert vzctl.console_arguments(vzctl.FAMILY_4, CTID) == ["console", CTID]
    assert vzctl.console_arguments(vzctl.FAMILY_7, CTID) == ["console", CTID, "1"]


def test_a_console_is_that_of_a_ctid():
    with pytest.raises(exception.InvalidValue):
        vzctl.console_arguments(vzctl.FAMILY_4, "--help")


@by_name
def test_no_console_is_permitted_to_the_service_that_is_not_root(family):
    with pytest.raises(exception.CommandRefused):
        vzctl.check_arguments(vzctl.console_arguments(family, CTID))


class Witness:
    def __init__(self, runner):
        self.runner = runner
        self.told = []

    def starting(self, ctid):
        assert not self.runner.commands
        self.told.append(ctid)

    def started(self, ctid, said):
        assert self.runner.commands
        self.told.append((ctid, said))


@pytest.mark.parametrize("code", [0, 47])
def test_a_witness_is_told_of_a_start_and_what_it_said(code):
    runner = support.Runner(code)
    made = vzctl.Vzctl(runner, vzctl.FAMILY_4)
    made.witness = witness = Witness(runner)
    if code:
        with pytest.raises(exception.CommandFailed):
            made.start(CTID)
    else:
        made.start(CTID)
    assert witness.told == [CTID, (CTID, "outerr")]
