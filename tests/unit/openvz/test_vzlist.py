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

"""openvz/vzlist.py: never an empty or shorter list in place of an error.

The outputs follow recordings of vzlist 4.9.4 and 9.0.1.
"""

from collections.abc import Collection

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import command, vzlist
from ovznovadriver.openvz.vzlist import ContainerInfo, State

UUID = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"
ALL = ("vzlist", "-a", "-H", "-o", ",".join(vzlist.FIELDS))

STOPPED_4 = "       101 stopped            -          -          -               - -\n"
RUNNING_4 = (
    "       111 running            1         82       1204"
    " 003d04h:05m:06s while  running\n"
)
STOPPED_9 = (
    f"{UUID} stopped            -          -      65536               - nova1-eyJ9\n"
)
NO_PROC = (
    "Unable to open /proc/vz/veinfo: No such file or directory\n"
    "Unable to open /proc/user_beancounters: No such file or directory\n"
)


class Recorded:
    """A runner that gives the answers it was made with, in order."""

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, ...]] = []

    def run(
        self,
        *cmd: str,
        run_as_root: bool = True,
        stdin: str | bytes | None = None,
        timeout: float | None = None,
        secrets: Collection[str] = (),
    ) -> command.Completed:
        assert run_as_root
        assert (stdin, timeout, secrets) == (None, None, ())
        self.calls.append(cmd)
        return command.Completed(*self.answers.pop(0))


def asked(*answers: tuple[int, str, str]) -> vzlist.Vzlist:
    return vzlist.Vzlist(Recorded(*answers))


def test_one_process_tells_about_all_containers():
    runner = Recorded((0, STOPPED_4 + RUNNING_4 + STOPPED_9, ""))
    assert vzlist.Vzlist(runner).list() == (
        ContainerInfo("101", State.STOPPED),
        ContainerInfo(
            "111",
            State.RUNNING,
            "while  running",
            numproc=1,
            physpages=82,
            diskspace_kb=1204,
            uptime=((3 * 24 + 4) * 60 + 5) * 60 + 6,
        ),
        ContainerInfo(UUID, State.STOPPED, "nova1-eyJ9", diskspace_kb=65536),
    )
    assert runner.calls == [ALL]


def test_the_program_can_be_given_by_path():
    runner = Recorded((0, "", ""))
    vzlist.Vzlist(runner, "/usr/sbin/vzlist").list()
    assert runner.calls == [("/usr/sbin/vzlist", *ALL[1:])]


@pytest.mark.parametrize("stderr", ["", "Container(s) not found\n"])
def test_an_empty_node_is_an_empty_list(stderr):
    assert asked((0, "", stderr)).list() == ()


@pytest.mark.parametrize(
    "stderr",
    [
        "Warning: can't parse /etc/vz/conf/111.conf:41 (unmatched quotes), skipping\n",
        "stat(/vz/root/101): No such file or directory\n",
        "Unable to open /etc/vz/conf/102.conf: No such file or directory\n",
        "Failure to communicate with kernel device-mapper driver.\n",
    ],
)
def test_warnings_do_not_spoil_the_answer(stderr):
    assert [i.ctid for i in asked((0, STOPPED_4, stderr)).list()] == ["101"]


@pytest.mark.parametrize(
    "answer",
    [
        (0, "", NO_PROC),
        (0, STOPPED_4, NO_PROC.splitlines(keepends=True)[0]),
        (1, "", NO_PROC),
        (1, "", NO_PROC + "Container(s) not found\n"),
    ],
)
def test_a_kernel_on_which_vzlist_is_blind_is_no_empty_node(answer):
    with pytest.raises(exception.MalformedOutput, match="cannot see the containers"):
        asked(answer).list()
    with pytest.raises(exception.MalformedOutput, match="cannot see the containers"):
        asked(answer).find("101")


def test_usage_with_exit_code_0_is_no_empty_node():
    usage = "vzlist: invalid option -- 'H'\nUsage: vzlist\t[-a|-S] [-n]\n"
    with pytest.raises(exception.MalformedOutput, match="does not know our options"):
        asked((0, "", usage)).list()


@pytest.mark.parametrize("code", [1, 3, 127, -11])
def test_a_failing_vzlist_is_no_empty_node(code):
    with pytest.raises(exception.CommandFailed) as caught:
        asked((code, STOPPED_4, "Unknown field: x\n")).list()
    assert caught.value.exit_code == code
    assert caught.value.command == " ".join(ALL)
    assert caught.value.stderr == "Unknown field: x\n"
    with pytest.raises(exception.CommandFailed, match="allocate") as caught:
        asked((code, "", "Error: unable to allocate 8 bytes\n")).find("101")
    assert caught.value.command == " ".join((*ALL, "101"))


def test_not_found_is_an_answer_to_a_question_about_one_container_only():
    with pytest.raises(exception.CommandFailed):
        asked((1, "", "Container(s) not found\n")).list()


def test_find_asks_for_one_container():
    runner = Recorded((0, RUNNING_4, ""))
    found = vzlist.Vzlist(runner).find("111")
    assert found is not None
    assert found.state is State.RUNNING
    assert runner.calls == [(*ALL, "111")]


@pytest.mark.parametrize(
    "answer",
    [
        (1, "", "Container(s) not found\n"),
        (1, "", "Container is not found\n"),
        # vzlist 4 hides a container without private directory.
        (0, "", ""),
    ],
)
def test_find_of_an_unknown_container_is_none(answer):
    assert asked(answer).find("9999") is None


@pytest.mark.parametrize(
    "text", ["Container ID {} is invalid.\n", "CT ID {} is invalid.\n"]
)
def test_find_looks_again_where_vzlist_may_be_misled_by_its_names(text):
    # vzlist 9 says so of a container that is there when a link of that name
    # is stale.
    said = (1, "", text.format(UUID))
    runner = Recorded(said, (0, STOPPED_4 + STOPPED_9, ""))
    found = vzlist.Vzlist(runner).find(UUID)
    assert found is not None
    assert found.ctid == UUID
    assert runner.calls == [(*ALL, UUID), ALL]
    assert asked(said, (0, STOPPED_4, "")).find(UUID) is None
    with pytest.raises(exception.CommandFailed):
        asked(said, (1, "", "")).find(UUID)


def test_a_container_that_has_our_ctid_for_a_name_is_not_taken_for_ours():
    misled = (0, STOPPED_4, "")
    assert asked(misled, misled).find(UUID) is None
    both = (0, STOPPED_4 + STOPPED_9, "")
    assert asked(misled, both).find(UUID) == vzlist.parse(STOPPED_9)[0]


@pytest.mark.parametrize("ctid", ["", "0", "web", "-a", "1 2", "101\n", "2147483645"])
def test_find_takes_ctids_only(ctid):
    runner = Recorded()
    with pytest.raises(exception.InvalidValue):
        vzlist.Vzlist(runner).find(ctid)
    assert runner.calls == []


@pytest.mark.parametrize("state", State)
def test_every_state_is_known(state):
    (info,) = vzlist.parse(STOPPED_4.replace("stopped", state.value))
    assert info.state is state


def test_the_case_of_a_uuid_is_kept_and_tells_containers_apart():
    infos = vzlist.parse(STOPPED_9 + STOPPED_9.replace(UUID, UUID.upper()))
    assert [info.ctid for info in infos] == [UUID, UUID.upper()]


def test_ctid_0_of_vzlist_9_does_not_break_the_list():
    line = STOPPED_9.replace(UUID, "0".rjust(36))
    assert vzlist.parse(line)[0].ctid == "0"


@pytest.mark.parametrize(
    ("printed", "seconds"),
    [
        ("000d00h:00m:00s", 0),
        ("1500d00h:00m:07s", 1500 * 86400 + 7),
        # vzlist's rounding can make the seconds negative.
        ("000d00h:01m:-01s", 59),
        ("000d00h:00m:-01s", 0),
    ],
)
def test_uptime_is_in_seconds(printed, seconds):
    line = RUNNING_4.replace("003d04h:05m:06s", printed)
    assert vzlist.parse(line)[0].uptime == seconds


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "columns are missing"),
        ("       101 stopped", "columns are missing"),
        ("       101 stopped - - -", "columns are missing"),
        ("CTID STATUS NPROC PHYSP DSPACE UPTIME DESCRIPTION", "no CTID"),
        ("       web stopped - - - - x", "no CTID"),
        ("       -1 stopped - - - - x", "no CTID"),
        ("       102 dead - - - - x", "not a valid State"),
        ("       102 running many - - - x", "no number"),
        ("       102 running 1 -1 - - x", "no number"),
        ("       102 running 1 \u0663 - - x", "no number"),
        ("       102 running 1 1 1.5 - x", "no number"),
        ("       102 running 1 1 1 yesterday x", "no uptime"),
        ("       102 running 1 1 1 \u0663d00h:00m:00s x", "no uptime"),
        ("       101 stopped - - - - again", "101 comes twice"),
    ],
)
def test_a_line_that_cannot_be_read_is_an_error_with_its_number(line, why):
    with pytest.raises(exception.MalformedOutput, match=f"^line 2 of .*{why}"):
        vzlist.parse(f"{STOPPED_4}{line}\n{RUNNING_4}")


def test_the_excerpt_in_the_error_is_short_and_ascii():
    with pytest.raises(exception.MalformedOutput) as caught:
        vzlist.parse("\x1b\udcff" + "x" * 5000 + "\n")
    assert str(caught.value).isascii()
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@given(st.integers(min_value=1, max_value=len(STOPPED_4 + RUNNING_4) - 1))
def test_output_that_was_cut_is_never_a_shorter_list(length):
    assume(length != len(STOPPED_4))  # what is left is whole
    with pytest.raises(exception.MalformedOutput, match="cut"):
        vzlist.parse((STOPPED_4 + RUNNING_4)[:length])


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("", ""),
        ("-", ""),
        ("5", "5"),
        ("[1]", "[1]"),
        ('{"a": "b"}', '{"a": "b"}'),
        ("  lead", "  lead"),
        ("a\tb\rc\x0bd\x85e\u2028f", "a\tb\rc\x0bd\x85e\u2028f"),
        ("\udcff\udcfe", "\udcff\udcfe"),
        ("x" * 4000, "x" * 4000),
    ],
)
def test_no_description_disturbs_the_listing(stored, read):
    line = RUNNING_4.replace("while  running", stored).rstrip(" \n") + "\n"
    infos = vzlist.parse(STOPPED_4 + line + STOPPED_9)
    assert [info.ctid for info in infos] == ["101", "111", UUID]
    assert infos[1].description == read


counts = st.none() | st.integers(min_value=0, max_value=2**63 - 1)


@given(
    st.lists(
        st.builds(
            ContainerInfo,
            ctid=st.uuids().map(str) | st.integers(1, command.MAX_CTID).map(str),
            state=st.sampled_from(State),
            description=st.text(st.characters(exclude_characters="\n")).map(str.rstrip),
            numproc=counts,
            physpages=counts,
            diskspace_kb=counts,
        ),
        unique_by=lambda info: info.ctid,
    )
)
def test_what_vzlist_prints_is_what_is_read(infos):
    def column(value: int | None) -> str:
        return f"{'-' if value is None else value:>10}"

    lines = [
        f"{i.ctid:>10} {i.state.value:<9} {column(i.numproc)} {column(i.physpages)}"
        f" {column(i.diskspace_kb)} {'-':>15} {i.description or '-'}\n"
        for i in infos
        if i.description != "-"
    ]
    assert vzlist.parse("".join(lines)) == tuple(
        i for i in infos if i.description != "-"
    )


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        infos = vzlist.parse(text)
    except exception.MalformedOutput:
        return
    assert len(infos) == text.count("\n")


@pytest.mark.parametrize("ctid", [(), ("101",), (UUID,)])
def test_the_arguments_of_this_module_are_permitted(ctid):
    runner = Recorded((0, "", ""))
    lister = vzlist.Vzlist(runner)
    assert (lister.find(*ctid) if ctid else lister.list()) in (None, ())
    vzlist.check_arguments(runner.calls[0][1:])


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("-a",),
        ("-L",),
        ALL[1:-1],
        ALL,
        (*ALL[1:], "101", "102"),
        (*ALL[1:], "web"),
        (*ALL[1:], "0"),
        (*ALL[1:], "--help"),
        (*ALL[1:], ""),
        (*ALL[1:-1], "ctid,hostname"),
        ("101", *ALL[1:]),
    ],
)
def test_other_arguments_are_refused(args):
    with pytest.raises(exception.CommandRefused):
        vzlist.check_arguments(args)
