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

"""What the way to root can be asked; with real processes throughout."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable

import pytest
from hypothesis import given, strategies

from ovznovadriver import exception
from ovznovadriver.openvz import (
    firstpass,
    handover,
    incoming,
    permit,
    privileged,
    processes,
    rootfs,
    survey,
)

ENV = {"PATH": "/usr/bin:/bin"}
PROJECT = pathlib.Path(__file__).parents[3]
LONG = 100.0


# --- messages ----------------------------------------------------------------

_VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.binary()
    | strategies.text(),
    lambda inner: (
        strategies.lists(inner)
        | strategies.dictionaries(
            strategies.text().filter(lambda key: key != "$bytes"), inner
        )
    ),
)


@given(_VALUES)
def test_a_message_arrives_as_it_was_sent(value: object) -> None:
    assert privileged.decode(privileged.encode(value)) == value


def test_a_text_with_any_bytes_arrives_as_it_was_sent() -> None:
    text = b"caf\xe9".decode(errors="surrogateescape")
    assert privileged.decode(privileged.encode(text)) == text


def test_a_message_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileged, "MESSAGE_LIMIT", 100)
    with pytest.raises(exception.InvalidValue):
        privileged.encode(b"x" * 100)


@pytest.mark.parametrize("reply", [b"", b"[]", b"{}", b"sudo: no", b'"value"'])
def test_what_is_no_reply_is_not_taken_for_one(reply: bytes) -> None:
    with pytest.raises(ValueError, match=r"no reply|Expecting value"):
        privileged.result(reply)


# --- verbs -------------------------------------------------------------------


def _served(verb: str, *, direct: bool = False, **kwargs: object) -> object:
    return privileged.result(privileged.serve(verb, kwargs, direct=direct))


def test_ping_says_who_serves() -> None:
    assert _served("ping") == os.geteuid()


def test_an_unknown_verb_is_refused() -> None:
    with pytest.raises(exception.CommandRefused):
        _served("system", command="id")


def test_every_verb_is_known_here() -> None:
    assert set(privileged.VERBS) == {
        *("ping", "run", *rootfs.VERBS),
        *("pack_contents", "pack_tree", "restore_attributes"),
        *("write_host_ends", "announce", *TOOL_VERBS),
        *("send_tree", *incoming.VERBS, *survey.VERBS, *firstpass.VERBS),
        *handover.VERBS,
    }


#: Those that run ip and tc.
TOOL_VERBS = ("apply_host_ends", "check_host_ends", "drop_host_ends", "drop_pairs")


@pytest.mark.parametrize("verb", ["write_host_ends", "announce", *TOOL_VERBS])
def test_what_is_kept_of_interfaces_is_in_a_place_for_containers(verb: str) -> None:
    programs = {"programs": {"ip": "/sbin/ip"}} if verb in TOOL_VERBS else {}
    with pytest.raises(exception.CommandRefused, match="/proc"):
        _served(verb, ctid="101", base="/proc", **programs)
    with pytest.raises(exception.CommandRefused, match="not a CTID"):
        _served(verb, ctid="1", base="/vz", **programs)


@pytest.mark.parametrize("verb", TOOL_VERBS)
@pytest.mark.parametrize("programs", [{"ip": "/vz/private/101/ip"}, {"sh": "/bin/sh"}])
def test_a_verb_for_interfaces_runs_no_other_program(
    monkeypatch: pytest.MonkeyPatch, verb: str, programs: dict[str, str]
) -> None:
    monkeypatch.setattr(permit, "check_trusted_path", lambda path, **_kwargs: path)
    with pytest.raises(exception.CommandRefused):
        _served(verb, names=["tap0"], programs=programs)


@pytest.mark.parametrize("verb", TOOL_VERBS)
def test_how_a_program_runs_is_not_the_callers_to_say(verb: str) -> None:
    with pytest.raises(exception.OvzError, match="TypeError"):
        _served(verb, names=[], programs={}, run="x")


def test_no_interface_is_touched_by_any_other_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a service that has been taken over might send."""
    monkeypatch.setattr(permit, "check_file_verb", lambda kwargs, direct: None)
    monkeypatch.setattr(permit, "check_tools", lambda programs, direct: None)
    ran = tmp_path / "ran"
    for name in ("ip", "tc"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (tmp_path / name).chmod(0o755)
    programs = {name: str(tmp_path / name) for name in ("ip", "tc")}
    place = {"base": str(tmp_path), "ctid": "101"}
    (tmp_path / "101.conf").touch()
    nic = {"name": "eth0", "mac": "fa:16:3e:01:02:03"}
    for changes in (
        {"host_ifname": "eth0"},
        {"host_ifname": "tap0\nlink del dev eth0"},
        {"host_ifname": "tap0", "bridge": "br-int"},
        {"host_ifname": "tap0", "mtu": "1500\nlink del dev eth0"},
        {"host_ifname": "tap0", "inbound": {"average": "5000bps\nqdisc del dev eth0"}},
    ):
        blank = {"bridge": None, "mtu": None, "inbound": None, "outbound": None}
        whole = {**blank, "addresses": [], **nic, **changes}
        text = json.dumps({"version": 1, "nics": [whole]})
        with pytest.raises(exception.InvalidValue):
            _served("write_host_ends", **place, text=text)
        (tmp_path / "101.nics").write_text(text)
        with pytest.raises(exception.InvalidValue):
            _served("apply_host_ends", **place, programs=programs)
        (tmp_path / "101.nics").unlink()
    with pytest.raises(exception.InvalidValue):
        _served("apply_host_ends", **place, programs=programs, names=["eth0"])
    with pytest.raises(exception.InvalidValue):
        _served("drop_host_ends", programs=programs, names=["eth0"])
    assert not ran.exists()


@pytest.mark.parametrize("direct", [True, False])
def test_ip_runs_with_a_clean_environment_for_others(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    monkeypatch.setattr(permit, "check_tools", lambda programs, direct: None)
    monkeypatch.setenv("OVZ_TEST", "of the caller")
    program = tmp_path / "ip"
    program.write_text(
        f'#!/bin/sh\necho "$OVZ_TEST$LC_ALL" >{tmp_path}/env; echo "[]"\n'
    )
    program.chmod(0o755)
    programs = {"ip": str(program)}
    _served("drop_host_ends", direct=direct, names=["tap0"], programs=programs)
    told = "of the callerC\n" if direct else "C\n"
    assert (tmp_path / "env").read_text() == told


def test_an_ip_that_hangs_is_ended(
    tmp_path: pathlib.Path,
    time_is_over: Callable[[Callable[[], object]], None],
) -> None:
    program = tmp_path / "ip"
    program.write_text("#!/bin/sh\nexec sleep 100\n")
    program.chmod(0o755)
    time_is_over(lambda: None)
    with pytest.raises(exception.CommandTimedOut, match="did not end within 30 s"):
        privileged.tool_runner(ENV)([str(program), "link"])


@pytest.mark.parametrize("verb", sorted(rootfs.VERBS))
@pytest.mark.parametrize("place", [{"base": "/proc"}, {"dirs": {"private": "/proc"}}])
def test_no_file_verb_works_in_a_place_that_is_not_for_containers(
    verb: str, place: dict[str, object]
) -> None:
    with pytest.raises(exception.CommandRefused):
        _served(verb, ctid="101", **place)


def test_a_program_runs_with_a_clean_environment(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permit, "check_trusted_path", lambda path: path)
    monkeypatch.setenv("OVZ_TEST", "of the caller")
    program = tmp_path / "vzctl"
    program.write_text("#!/bin/sh\nenv; cat\n")
    program.chmod(0o755)
    argv = [str(program), "status", "101"]

    def served(direct: bool) -> str:
        done = _served("run", direct=direct, argv=argv, stdin=b"given", timeout=LONG)
        return processes.Completed(**done).stdout

    assert "LC_ALL=C\n" in served(True)
    assert "OVZ_TEST=of the caller\n" in served(True)
    assert "LC_ALL=C\n" in served(False)
    assert "OVZ_TEST" not in served(False)
    assert served(False).endswith("given")


def test_an_error_of_the_system_arrives_as_one_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(**_kwargs: object) -> None:
        raise OSError(28, "No space left on device", "/vz/private/101")

    monkeypatch.setitem(privileged.VERBS, "full", full)
    with pytest.raises(exception.OvzError, match=r"full: .*No space left"):
        _served("full")


def test_an_unexpected_error_does_not_show_what_it_was_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(**_kwargs: object) -> None:
        raise KeyError("s3cret-content")

    monkeypatch.setitem(privileged.VERBS, "broken", broken)
    with pytest.raises(exception.OvzError) as caught:
        _served("broken")
    assert "KeyError in broken:" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(KeyError):
        _served("broken", direct=True)


def test_errors_that_need_more_than_a_message_arrive_as_their_root() -> None:
    reply = privileged.encode({"error": "CommandFailed", "message": "it failed"})
    with pytest.raises(exception.OvzError, match="it failed"):
        privileged.result(reply)
