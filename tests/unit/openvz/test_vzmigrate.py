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

"""vzmigrate's argument lists, and what its exit codes become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import vzmigrate
from tests import support

CHECK = ["--check-only", "--online"]
MOVE = ["-r", "no", "--online"]


@pytest.mark.parametrize(("method", "options"), [("check", CHECK), ("move", MOVE)])
def test_what_is_run_is_what_the_privileged_side_permits(method, options):
    runner = support.Runner()

    getattr(vzmigrate.Vzmigrate(runner), method)("101", "192.0.2.2", 5)

    (command,) = runner.commands
    assert command == ("vzmigrate", *options, "192.0.2.2", "101")
    assert runner.options["timeout"] == 5
    vzmigrate.check_arguments(command[1:])


@pytest.mark.parametrize("host", ["192.0.2.2", "host-2.example.org", "h"])
def test_hosts_are_addresses_and_names(host):
    assert vzmigrate.is_host(host)
    vzmigrate.check_arguments([*MOVE, host, "101"])


@pytest.mark.parametrize(
    "host",
    [
        "",
        "-oProxyCommand=id",
        "--ssh=-oProxyCommand=id",
        "root@192.0.2.2",
        "192.0.2.2:/etc",
        "192.0.2.2 id",
        "192.0.2.2\nid",
        "192.0.2.2\n",
        "$(id)",
        "`id`",
        "a;id",
        "a'b",
        "a/b",
        "host-",
        "2001:db8::2",
        "[2001:db8::2]",
        "\u0661.2.3.4",
        "a" * 254,
    ],
)
def test_nothing_else_is_a_host(host):
    assert not vzmigrate.is_host(host)
    for options in (CHECK, MOVE):
        with pytest.raises(exception.CommandRefused):
            vzmigrate.check_arguments([*options, host, "101"])


@pytest.mark.parametrize(
    "ctid", ["", "0", "-1", "web-1", "1 2", "2147483645", "101\n", support.UUID, "*"]
)
def test_only_a_number_is_a_container(ctid):
    with pytest.raises(exception.CommandRefused):
        vzmigrate.check_arguments([*MOVE, "host2", ctid])


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["101"],
        ["host2", "101"],
        ["--online", "host2", "101"],
        ["-r", "yes", "--online", "host2", "101"],
        ["-r", "no", "host2", "101"],
        [*MOVE, "host2", "101", "102"],
        [*MOVE, "--ssh=-oProxyCommand=id", "host2", "101"],
        [*MOVE, "--rsync=--rsh=id", "host2", "101"],
        [*MOVE, "--keep-dst", "host2", "101"],
        [*MOVE, "-f", "host2", "101"],
        [*MOVE, "host2", "--ssh=id"],
        [*MOVE, "host2"],
        [*CHECK, *MOVE, "host2", "101"],
        ["--online", "--check-only", "host2", "101"],
        ["--", *MOVE, "host2", "101"],
        ["-rno", "--online", "host2", "101"],
    ],
)
def test_no_other_argument_list_is_permitted(args):
    with pytest.raises(exception.CommandRefused):
        vzmigrate.check_arguments(args)


_WORDS = st.sampled_from(
    [*CHECK, *MOVE, "yes", "--ssh", "--ssh=x", "-f", "--", "host2", "101", "", "-v"]
)


@given(st.lists(_WORDS, max_size=7))
def test_whatever_is_permitted_is_one_of_two_forms(args):
    try:
        vzmigrate.check_arguments(args)
    except exception.CommandRefused:
        return
    *options, host, ctid = args
    assert options in (CHECK, MOVE)
    assert ctid == "101"
    assert host in ("host2", "yes", "no", "101")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, exception.MoveFailed),
        (4, exception.PeerUnreachable),
        (7, exception.MoveFailed),
        (9, exception.ContainerThere),
        (14, exception.PeerUnsuitable),
        (16, exception.PeerUnsuitable),
        (17, exception.PeerUnsuitable),
        (18, exception.PeerUnsuitable),
        (20, exception.MoveLocked),
        (255, exception.MoveFailed),
    ],
)
def test_an_exit_code_has_a_meaning(code, kind):
    mover = vzmigrate.Vzmigrate(support.Runner(code))

    with pytest.raises(exception.MoveFailed, match=f"exit code {code}: err") as caught:
        mover.check("101", "host2", 5)

    assert type(caught.value) is kind
    assert str(caught.value).endswith(kind.ADVICE)


def test_what_is_known_of_containers_is_forgotten_when_one_may_have_moved():
    told = []
    mover = vzmigrate.Vzmigrate(support.Runner(7), lambda: told.append(1))

    mover_check = vzmigrate.Vzmigrate(support.Runner(), lambda: told.append(2))
    mover_check.check("101", "host2", 5)
    with pytest.raises(exception.MoveFailed):
        mover.move("101", "host2", 5)

    assert told == [1]
