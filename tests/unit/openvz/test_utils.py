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

"""The executor, over stand-ins for vzctl and for nova's root helper."""

from __future__ import annotations

import itertools
import logging
import os
import pathlib
import shlex
import sys
import time
import types
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import privileged, privsep, processes, utils

PROJECT = pathlib.Path(__file__).parents[3]
SECRET = "s3cret-word"


@pytest.fixture(autouse=True)
def _own_privileged_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privsep.context, "client_mode", False)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time passes only where somebody sleeps, and this notes for how long."""
    slept: list[float] = []
    clock = types.SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept))
    monkeypatch.setattr(utils, "time", clock)
    return slept


def _program(directory: pathlib.Path, text: str, name: str = "vzctl") -> None:
    program = directory / name
    program.write_text(f"#!/bin/sh\ncd {directory}\n{text}\n")
    program.chmod(0o755)


def _executor(directory: pathlib.Path, **options: object) -> utils.Executor:
    settings = {"program_dirs": [str(directory)], "lock_wait": 0, **options}
    return utils.Executor(**settings)


@pytest.mark.parametrize("code", [1, 3, 14, 31, 255])
def test_run_gives_an_exit_code_as_an_answer(tmp_path: pathlib.Path, code: int) -> None:
    _program(tmp_path, f"echo run >> runs; echo out; echo err >&2; exit {code}")
    done = _executor(tmp_path, lock_wait=60).run("vzctl", "start", "101")
    assert (done.returncode, done.stdout, done.stderr) == (code, "out\n", "err\n")
    assert (tmp_path / "runs").read_text() == "run\n"


def test_execute_gives_the_output(tmp_path: pathlib.Path) -> None:
    _program(tmp_path, 'echo "$@"')
    executor = _executor(tmp_path)
    assert executor.execute("vzctl", "status", "101", run_as_root=True) == (
        "status 101\n"
    )


def test_execute_raises_what_the_command_said(tmp_path: pathlib.Path) -> None:
    _program(tmp_path, "echo out; echo err >&2; exit 31")
    with pytest.raises(exception.CommandFailed) as caught:
        _executor(tmp_path).execute("vzctl", "stop", "101", run_as_root=True)
    error = caught.value
    assert error.command == "vzctl stop 101"
    assert (error.exit_code, error.stdout, error.stderr) == (31, "out\n", "err\n")


def test_execute_ignores_the_code_where_asked(tmp_path: pathlib.Path) -> None:
    _program(tmp_path, "echo out; exit 31")
    executor = _executor(tmp_path)
    assert executor.execute("vzctl", raise_on_error=False) == "out\n"


def test_a_command_speaks_the_c_locale(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    _program(tmp_path, "echo $LC_ALL")
    for as_root in (True, False):
        done = _executor(tmp_path).run("vzctl", "--version", run_as_root=as_root)
        assert done.stdout == "C\n"


def test_standard_input_may_be_text_or_bytes(tmp_path: pathlib.Path) -> None:
    _program(tmp_path, "cat")
    executor = _executor(tmp_path)
    for stdin in ("caf\u00e9", "caf\u00e9".encode()):
        assert executor.run("vzctl", "--version", stdin=stdin).stdout == "caf\u00e9"


def test_a_program_is_found_in_the_given_directories_only(
    tmp_path: pathlib.Path,
) -> None:
    with pytest.raises(exception.ConfigurationError, match="program_dirs"):
        _executor(tmp_path).run("vzctl", "--version")


def test_without_root_the_path_is_searched_too(tmp_path: pathlib.Path) -> None:
    assert _executor(tmp_path).execute("echo", "hello") == "hello\n"
    assert utils.execute("echo", "hello") == "hello\n"


def test_a_program_that_cannot_run_is_an_error_of_ours(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with pytest.raises(exception.OvzError, match="cannot run"):
        _executor(tmp_path).run(str(program), run_as_root=False)


def test_only_known_programs_run_as_root(tmp_path: pathlib.Path) -> None:
    _program(tmp_path, "touch ran", "sh")
    with pytest.raises(exception.CommandRefused):
        _executor(tmp_path).run("sh", "-c", "id")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def said(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command does when it has said something: no time is over before."""
    wait = processes._wait

    def after_its_word(*args: Any) -> bool:
        while not (tmp_path / "said").exists():
            time.sleep(0.01)
        return wait(*args)

    monkeypatch.setattr(processes, "_wait", after_its_word)
    return "touch said"


def test_a_time_limit_ends_the_command(tmp_path: pathlib.Path, said: str) -> None:
    _program(tmp_path, f"echo {SECRET} >&2; {said}; exec sleep 1000")
    with pytest.raises(exception.CommandTimedOut) as caught:
        _executor(tmp_path).run("vzctl", "stop", "101", timeout=0.3, secrets=[SECRET])
    assert caught.value.seconds == 0.3
    assert caught.value.stderr == "***\n"


def test_the_executors_own_limit_holds_where_none_is_given(
    tmp_path: pathlib.Path,
) -> None:
    _program(tmp_path, "exec sleep 1000")
    with pytest.raises(exception.CommandTimedOut):
        _executor(tmp_path, timeout=0.2).run("vzctl", "stop", "101")


# --- locks -------------------------------------------------------------------


def test_a_lock_is_waited_for(tmp_path: pathlib.Path, sleeps: list[float]) -> None:
    _program(tmp_path, "echo run >> runs; [ $(wc -l < runs) = 4 ] || exit 9")
    done = _executor(tmp_path, lock_wait=60).run("vzctl", "start", "101")
    assert done.returncode == 0
    assert sleeps == [0.1, 0.2, 0.4]


def test_a_lock_is_waited_for_up_to_the_limit(
    tmp_path: pathlib.Path, sleeps: list[float]
) -> None:
    _program(tmp_path, "echo 'already locked' >&2; exit 9")
    with pytest.raises(exception.ContainerLocked, match="already locked") as caught:
        _executor(tmp_path, lock_wait=60).run("vzctl", "start", "101")
    assert caught.value.exit_code == 9
    assert sum(sleeps) == pytest.approx(60)
    assert max(sleeps) <= 5
    # It grows until it is as long as it may be; only the last is what was left.
    assert all(a <= b for a, b in itertools.pairwise(sleeps[:-1]))


def test_without_a_limit_a_lock_is_not_waited_for(
    tmp_path: pathlib.Path, sleeps: list[float]
) -> None:
    _program(tmp_path, "exit 9")
    with pytest.raises(exception.ContainerLocked):
        _executor(tmp_path, lock_wait=0).run("vzctl", "start", "101")
    assert sleeps == []


def test_the_code_of_a_command_inside_is_no_lock(
    tmp_path: pathlib.Path, sleeps: list[float]
) -> None:
    _program(tmp_path, "exit 9")
    done = _executor(tmp_path, lock_wait=60).run("vzctl", "exec2", "101", "chpasswd")
    assert done.returncode == 9
    assert sleeps == []


def test_the_code_of_another_program_is_no_lock(
    tmp_path: pathlib.Path, sleeps: list[float]
) -> None:
    _program(tmp_path, "exit 9", "other")
    executor = _executor(tmp_path, lock_wait=60)
    assert executor.run("other", run_as_root=False).returncode == 9
    assert sleeps == []


# --- secrets -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "arg"),
    [
        (SECRET, SECRET),
        (SECRET, f"root:{SECRET}"),
        (SECRET, f"--x{SECRET}y"),
        ("pw", "pw"),
        ("pw", "root:pw"),
        ("pw", "--password=pw"),
    ],
)
def test_a_secret_is_refused_as_an_argument(
    tmp_path: pathlib.Path, secret: str, arg: str
) -> None:
    _program(tmp_path, "touch ran")
    with pytest.raises(exception.InvalidValue) as caught:
        _executor(tmp_path).run("vzctl", arg, run_as_root=False, secrets=[secret])
    assert secret not in str(caught.value).split()
    assert not (tmp_path / "ran").exists()


def test_a_short_secret_may_be_a_part_of_a_word(tmp_path: pathlib.Path) -> None:
    _program(tmp_path, "true")
    executor = _executor(tmp_path)
    assert executor.run("vzctl", "status", "101", secrets=["a", ""]).returncode == 0


def test_a_secret_is_masked_wherever_it_comes_back(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _program(tmp_path, 'read line; echo "out $line"; echo "err $line" >&2; exit 5')
    secrets = ["s3cret", SECRET]
    executor = _executor(tmp_path)
    cmd = ("vzctl", "exec2", "101", "chpasswd")
    done = executor.run(*cmd, stdin=SECRET, secrets=secrets)
    assert (done.stdout, done.stderr) == ("out ***\n", "err ***\n")
    with pytest.raises(exception.CommandFailed) as caught:
        executor.execute(*cmd, stdin=SECRET, secrets=secrets)
    assert "s3cret" not in repr(vars(caught.value)) + str(caught.value)
    assert "vzctl exec2 101 chpasswd" in caplog.text
    assert "s3cret" not in caplog.text


# --- the three ways ----------------------------------------------------------


def test_there_are_two_ways_to_root() -> None:
    with pytest.raises(exception.ConfigurationError, match="privsep or rootwrap"):
        utils.Executor(privilege="sudo")


@pytest.mark.parametrize(
    ("uid", "client", "direct"),
    [(0, True, True), (0, False, True), (1000, False, True), (1000, True, False)],
)
def test_root_and_its_own_privileged_side_need_no_helper(
    monkeypatch: pytest.MonkeyPatch, uid: int, client: bool, direct: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(privsep.context, "client_mode", client)
    assert utils.Executor().direct is direct


def test_the_privileged_side_must_be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils.Executor, "direct", False)
    monkeypatch.setattr(
        privsep, "ask_daemon", lambda *_a, **_k: privileged.encode({"value": 1000})
    )
    with pytest.raises(exception.PrivilegeError, match="runs as user 1000"):
        utils.Executor().check()


def test_its_own_privileged_side_may_be_anybody() -> None:
    utils.Executor().check()


def test_file_verbs_are_called_by_name(tmp_path: pathlib.Path) -> None:
    place = {"base": str(tmp_path), "ctid": "101", "sub": ""}
    (tmp_path / "101").mkdir()
    (tmp_path / "101" / "file").write_bytes(b"\0\xff")
    executor = utils.Executor()
    assert executor.call("read_file", **place, path="file", limit=9) == b"\0\xff"
    with pytest.raises(exception.UnsafePath):
        executor.call("read_file", **place, path="file", limit=1)
    with pytest.raises(exception.CommandRefused):
        executor.call("no_such_verb")


@pytest.fixture
def by_rootwrap(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> utils.Executor:
    """An executor whose root helper is a stand-in that serves as this user."""
    monkeypatch.setattr(utils.Executor, "direct", False)
    # The program lies in a directory of the tests.
    served = (
        "import sys; from ovznovadriver.openvz import permit;"
        " permit.check_trusted_path = lambda path, missing=False: path;"
        " from ovznovadriver.cmd.privileged import main; sys.exit(main())"
    )
    _program(
        tmp_path,
        f"cd {shlex.quote(str(PROJECT))}\n"
        '[ "$1" = conf ] && [ "$2" = ovz-privileged ] || exit 99\n'
        f'shift 2; exec {shlex.quote(sys.executable)} -c "{served}" "$@"',
        "helper",
    )
    return _executor(
        tmp_path, privilege="rootwrap", root_helper=f"{tmp_path}/helper conf"
    )


def test_rootwrap_runs_commands(
    by_rootwrap: utils.Executor, tmp_path: pathlib.Path
) -> None:
    _program(tmp_path, 'cat; echo "$@"; echo err >&2; exit 14')
    done = by_rootwrap.run(
        "vzctl", "set", "101", "--hostname", "a", "--save", stdin="i"
    )
    assert (done.returncode, done.stderr) == (14, "err\n")
    assert done.stdout == "iset 101 --hostname a --save\n"


def test_rootwrap_ends_commands_on_the_root_side(
    by_rootwrap: utils.Executor, tmp_path: pathlib.Path
) -> None:
    # As `said` has it on this side.
    patch = (
        "import os, time; from ovznovadriver.openvz import processes;"
        f" said = lambda: os.path.exists({str(tmp_path / 'said')!r});"
        " wait = processes._wait; processes._wait = lambda *args:"
        " [time.sleep(0.01) for _ in iter(said, True)] is None or wait(*args);"
    )
    helper = tmp_path / "helper"
    helper.write_text(helper.read_text().replace("sys.exit", f"{patch} sys.exit"))
    _program(tmp_path, "echo before; touch said; exec sleep 1000")
    with pytest.raises(exception.CommandTimedOut) as caught:
        by_rootwrap.run("vzctl", "stop", "101", timeout=0.3)
    assert caught.value.stdout == "before\n"


def test_rootwrap_calls_verbs(
    by_rootwrap: utils.Executor, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "101").mkdir()
    place = {"base": str(tmp_path), "ctid": "101", "sub": ""}
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    file = {"path": "/etc/x", "content": b"\0\xff", "mode": 0o644, **owner}
    by_rootwrap.call("write_files", **place, files=[file])
    assert (tmp_path / "101" / "etc" / "x").read_bytes() == b"\0\xff"
    with pytest.raises(exception.UnsafePath):
        by_rootwrap.call("read_file", **place, path="/etc", limit=1)


def test_rootwrap_refuses_what_privsep_refuses(by_rootwrap: utils.Executor) -> None:
    with pytest.raises(exception.CommandRefused, match="not a CTID"):
        by_rootwrap.call("ensure_root_dir", base="/vz/root", ctid="../etc")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("echo 'sudo: a password is required' >&2; exit 1", "a password is required"),
        ("exit 1", "sudoers"),
        ("exit 96", "exec_dirs"),
        ("exit 97", "correct rootwrap.conf"),
        ("exit 99", "openvz.filters"),
        ("echo not JSON", "sudoers"),
    ],
)
def test_a_root_helper_that_fails_is_told_with_advice(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, text: str, advice: str
) -> None:
    monkeypatch.setattr(utils.Executor, "direct", False)
    _program(tmp_path, text, "helper")
    executor = utils.Executor("rootwrap", f"{tmp_path}/helper conf")
    with pytest.raises(exception.PrivilegeError, match=advice) as caught:
        executor.check()
    assert f"{tmp_path}/helper conf" in str(caught.value)


def test_a_root_helper_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(utils.Executor, "direct", False)
    with pytest.raises(exception.PrivilegeError, match="correct nova's root helper"):
        utils.Executor("rootwrap", "/no/such/sudo").check()


def test_a_root_helper_that_asks_a_question_is_not_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils.Executor, "direct", False)
    monkeypatch.setattr(utils, "_GRACE", 0.3)
    _program(tmp_path, "exec sleep 1000", "helper")
    started = time.monotonic()
    with pytest.raises(exception.PrivilegeError, match=r"did not end within 0\.3 s"):
        utils.Executor("rootwrap", f"{tmp_path}/helper").check()
    assert time.monotonic() - started < 60  # and not 1000


def test_a_root_helper_has_no_terminal_to_ask_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils.Executor, "direct", False)
    _program(tmp_path, "(: < /dev/tty) 2>/dev/null && touch terminal; exit 1", "helper")
    with pytest.raises(exception.PrivilegeError):
        utils.Executor("rootwrap", f"{tmp_path}/helper").check()
    assert not (tmp_path / "terminal").exists()
