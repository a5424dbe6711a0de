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

"""The root side of rootwrap's way, called as a function."""

from __future__ import annotations

import configparser
import io
import json
import os
import pathlib
import sys

import pytest

from ovznovadriver import exception
from ovznovadriver.cmd import privileged as cmd
from ovznovadriver.openvz import permit, privileged

FILTERS = pathlib.Path(__file__).parents[3] / "etc/nova/rootwrap.d/openvz.filters"


class _Stream:
    def __init__(self, data: bytes = b"") -> None:
        self.buffer = io.BytesIO(data)


def _main(monkeypatch: pytest.MonkeyPatch, stdin: bytes, *args: str) -> bytes:
    stdout = _Stream()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", _Stream(stdin))
        patch.setattr(sys, "stdout", stdout)
        assert cmd.main(args) == 0
    return stdout.buffer.getvalue()


def test_run_passes_input_and_tells_all_apart(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permit, "check_trusted_path", lambda path: path)
    program = tmp_path / "vzctl"
    program.write_text('#!/bin/sh\ncat; echo "$@" >&2; exit 9\n')
    program.chmod(0o755)
    command = [str(program), "stop", "101", "--fast"]
    reply = _main(monkeypatch, b"given", "run", "--timeout", "60", "--", *command)
    assert privileged.result(reply) == {
        "returncode": 9,
        "stdout": "given",
        "stderr": "stop 101 --fast\n",
        "timed_out": False,
    }


def test_run_refuses_a_program_that_others_could_have_made(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    program = tmp_path / "vzctl"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    command = [str(program), "--version"]
    reply = _main(monkeypatch, b"", "run", "--timeout", "60", "--", *command)
    with pytest.raises(exception.CommandRefused, match="could be changed by others"):
        privileged.result(reply)
    assert not (tmp_path / "ran").exists()


def test_call_takes_arguments_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    assert privileged.result(_main(monkeypatch, b"{}", "call", "ping")) == os.geteuid()
    kwargs = json.dumps({"base": "/vz/root", "ctid": "0"}).encode()
    reply = _main(monkeypatch, kwargs, "call", "ensure_root_dir")
    with pytest.raises(exception.CommandRefused):
        privileged.result(reply)


@pytest.mark.parametrize("stdin", [b"", b"[]", b"{", b"\xff"])
def test_call_refuses_what_is_no_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stdin: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", _Stream(stdin))
    assert cmd.main(["call", "ping"]) == 2
    captured = capsys.readouterr()
    assert "no JSON object" in captured.err
    assert captured.out == ""


def test_an_endless_input_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(privileged, "MESSAGE_LIMIT", 10)
    monkeypatch.setattr(sys, "stdin", _Stream(b"{" * 11))
    assert cmd.main(["call", "ping"]) == 2
    assert "too long" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["run"],
        ["run", "--timeout", "60"],
        ["run", "/usr/sbin/vzctl", "--version"],
        ["call"],
        ["call", "run"],
        ["call", "system"],
    ],
)
def test_other_command_lines_are_refused(args: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cmd.main(args)
    assert caught.value.code == 2


def test_the_filters_permit_this_program_alone() -> None:
    parser = configparser.RawConfigParser()
    parser.read(FILTERS)
    assert dict(parser.items("Filters")) == {
        "ovz-privileged": "CommandFilter, ovz-privileged, root"
    }
