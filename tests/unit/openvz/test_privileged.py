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

"""Processes, their end, and the verbs; with real processes throughout."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, strategies
from oslo_privsep import comm, daemon

from ovznovadriver import exception
from ovznovadriver.openvz import permit, privileged, rootfs

ENV = {"PATH": "/usr/bin:/bin"}
PROJECT = pathlib.Path(__file__).parents[3]
LONG = 100.0


def _shell(script: str, *args: str, **kwargs: object) -> privileged.Completed:
    options = {"timeout": LONG, "env": ENV, **kwargs}
    return privileged.run_process(["/bin/sh", "-c", script, "sh", *args], **options)


def _lives(pid: int) -> bool:
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


class Pids:
    """Where scripts leave their process ids."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory

    def wait_for(self, count: int) -> list[int]:
        for _ in range(6000):
            found = self.known()
            if len(found) >= count:
                return found
            time.sleep(0.01)
        raise AssertionError(f"only {found} of {count} processes have started")

    def known(self) -> list[int]:
        return [int(path.name) for path in self.directory.glob("[0-9]*")]


@pytest.fixture
def pids(tmp_path: pathlib.Path) -> Iterator[Pids]:
    directory = tmp_path / "pids"
    directory.mkdir()
    pids = Pids(directory)
    yield pids
    for pid in pids.known():
        if _lives(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[], object]], None]:
    """Let a command's time be over as soon as something has happened."""

    def after(happened: Callable[[], object]) -> None:
        def wait(*_args: object) -> bool:
            happened()
            return False

        monkeypatch.setattr(privileged, "_wait", wait)

    return after


def test_output_and_exit_code_are_told_apart() -> None:
    done = _shell("echo out; echo err >&2; exit 7")
    assert done == privileged.Completed(7, "out\n", "err\n", False)


def test_a_signal_gives_its_negative_number() -> None:
    assert _shell("kill -TERM $$").returncode == -signal.SIGTERM


def test_standard_input_reaches_the_command_whole() -> None:
    data = bytes(range(32, 127)) * 20000
    assert _shell("cat", stdin=data).stdout == data.decode()


def test_without_input_the_command_reads_nothing() -> None:
    assert _shell("cat; echo end").stdout == "end\n"
    assert _shell("cat; echo end", stdin=b"").stdout == "end\n"


def test_a_command_need_not_read_its_input() -> None:
    assert _shell("exec <&-; echo end", stdin=b"x" * 10**6).stdout == "end\n"


def test_bytes_that_are_no_text_are_kept() -> None:
    stdout = _shell(r"printf 'a\377b'").stdout
    assert stdout.encode(errors="surrogateescape") == b"a\xffb"


def test_the_environment_is_the_given_one_and_the_mark() -> None:
    names = {line.split("=")[0] for line in _shell("env").stdout.splitlines()}
    assert names - {"PWD", "_", "SHLVL"} == {"PATH", "OVZ_RUN_ID"}


def test_a_command_has_its_own_session_and_a_safe_umask() -> None:
    before = os.umask(0)
    try:
        done = _shell("cut -d' ' -f6 /proc/$$/stat; echo $$; umask; pwd")
    finally:
        os.umask(before)
    session, pid, umask, directory = done.stdout.split()
    assert session == pid
    assert umask == "0022"
    assert directory == "/"


def test_a_program_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        privileged.run_process(["/no/such/program"], timeout=LONG, env=ENV)


def test_of_an_endless_output_both_ends_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(privileged, "OUTPUT_KEPT", 1000)
    done = _shell("echo first; yes | head -c 1000000; echo; echo last")
    assert done.stdout.startswith("first\ny\n")
    assert done.stdout.endswith("\nlast\n")
    assert "bytes left out" in done.stdout
    assert len(done.stdout) < 2100


@given(
    chunks=strategies.lists(strategies.binary(max_size=40), max_size=20),
    kept=strategies.integers(1, 50),
)
def test_an_output_that_fits_is_kept_unchanged(chunks: list[bytes], kept: int) -> None:
    whole = b"".join(chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privileged, "OUTPUT_KEPT", kept)
        output = privileged._Output()
        for chunk in chunks:
            output.add(chunk)
        text = output.text().encode(errors="surrogateescape")
    if len(whole) <= 2 * kept:
        assert text == whole
    else:
        assert text.startswith(whole[:kept])
        assert text.endswith(whole[-kept:])
        assert b"[... %d bytes left out ...]" % (len(whole) - 2 * kept) in text


def test_a_daemon_that_holds_the_output_is_not_waited_for(pids: Pids) -> None:
    done = _shell('sleep 1000 & touch "$1/$!"; echo started', str(pids.directory))
    assert done == privileged.Completed(0, "started\n", "", False)
    assert _lives(pids.wait_for(1)[0])


def test_a_daemon_that_goes_on_writing_is_not_waited_for(pids: Pids) -> None:
    done = _shell('yes & touch "$1/$!"; echo started >&2', str(pids.directory))
    assert done.returncode == 0
    assert done.stderr == "started\n"


def test_a_command_beyond_its_time_is_ended() -> None:
    done = _shell("echo before; sleep 1000", timeout=0.3)
    assert done.timed_out
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "before\n"


# Each child notes its pid and stays. "lost" has a session of its own and no
# parent; "changed" has another environment; "deep" is both, but not at once.
_TREE = """
cd "$1"
stay='touch $$; exec sleep 1000'
sh -c "$stay" &
setsid sh -c "$stay" &
(setsid sh -c "$stay" &)
env -i PATH=/usr/bin:/bin setsid sh -c "$stay" &
(setsid sh -c "env -i PATH=/usr/bin:/bin sh -c '$stay' & $stay" &)
trap '' TERM
eval "$stay"
"""


def test_the_end_takes_all_descendants_with_it(
    pids: Pids, time_is_over: Callable[[Callable[[], object]], None]
) -> None:
    time_is_over(lambda: pids.wait_for(7))
    assert _shell(_TREE, str(pids.directory)).timed_out
    assert [pid for pid in pids.known() if _lives(pid)] == []


def test_all_descendants_are_stopped_before_one_is_ended(
    pids: Pids,
    time_is_over: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[signal.Signals] = []
    send = privileged._signal

    def noted(pid: int, number: signal.Signals) -> bool:
        sent.append(number)
        return send(pid, number)

    monkeypatch.setattr(privileged, "_signal", noted)
    time_is_over(lambda: pids.wait_for(7))
    _shell(_TREE, str(pids.directory))
    first_end = sent.index(signal.SIGKILL)
    assert set(sent[:first_end]) == {signal.SIGSTOP}
    assert first_end >= 7


def test_descendants_that_multiply_are_ended_too(
    pids: Pids, time_is_over: Callable[[Callable[[], object]], None]
) -> None:
    script = """
    cd "$1"
    breed='touch $$; while :; do (setsid sh -c "touch \\$\\$; sleep 1000" &); sleep 0.01
    done'
    (setsid sh -c "$breed" &)
    eval "$breed"
    """
    time_is_over(lambda: pids.wait_for(10))
    assert _shell(script, str(pids.directory)).timed_out
    assert [pid for pid in pids.known() if _lives(pid)] == []


def test_the_processes_of_other_commands_are_left_alone(
    pids: Pids, time_is_over: Callable[[Callable[[], object]], None]
) -> None:
    _shell('setsid sleep 1000 & touch "$1/$!"', str(pids.directory))
    time_is_over(lambda: None)
    assert _shell("sleep 1000").timed_out
    assert _lives(pids.wait_for(1)[0])


def test_a_caller_that_is_interrupted_leaves_nothing_behind(
    pids: Pids, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: object) -> bool:
        pids.wait_for(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(privileged, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _shell('touch "$1/$$"; exec sleep 1000', str(pids.directory))
    assert [pid for pid in pids.known() if _lives(pid)] == []


def test_what_cannot_be_ended_is_given_up(
    pids: Pids,
    monkeypatch: pytest.MonkeyPatch,
    time_is_over: Callable[[Callable[[], object]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(privileged, "KILL_LIMIT", 0.2)
    monkeypatch.setattr(privileged, "_signal", lambda pid, number: True)
    time_is_over(lambda: pids.wait_for(1))
    done = _shell('touch "$1/$$"; exec sleep 1000', str(pids.directory))
    assert done.timed_out
    assert "cannot be ended" in caplog.text


def test_another_users_process_is_not_waited_for(
    pids: Pids,
    monkeypatch: pytest.MonkeyPatch,
    time_is_over: Callable[[Callable[[], object]], None],
) -> None:
    def denied(_pid: int, _number: int) -> None:
        raise PermissionError

    time_is_over(lambda: pids.wait_for(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", denied)
        assert _shell('touch "$1/$$"; exec sleep 1000', str(pids.directory)).timed_out


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


def test_all_verbs_of_rootfs_are_there() -> None:
    assert set(privileged.VERBS) == {"ping", "run", *rootfs.VERBS}


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
        return privileged.Completed(**done).stdout

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


# --- the daemon: each test in a process of its own ---------------------------

_PREAMBLE = """
import logging, os, pathlib, sys, threading
from oslo_config import cfg
from oslo_privsep import priv_context
from ovznovadriver import exception
from ovznovadriver.openvz import permit, privileged, utils

directory = pathlib.Path(sys.argv[1])
cfg.CONF([])
# The stand-ins lie in a directory of the tests, and the tests may be root.
permit.check_trusted_path = lambda path, missing=False: path
utils.Executor.direct = property(lambda self: False)
if os.geteuid() != 0:
    cfg.CONF.set_override("capabilities", [], group=privileged.CONFIG_SECTION)

def fork_daemon():
    privileged.context.start(priv_context.Method.FORK)

executor = utils.Executor(program_dirs=[str(directory)], timeout=60, lock_wait=0)
"""


def _script(directory: pathlib.Path, text: str, *options: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            *options,
            "-c",
            _PREAMBLE + textwrap.dedent(text),
            str(directory),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _stand_in(directory: pathlib.Path, text: str, name: str = "vzctl") -> None:
    program = directory / name
    program.write_text(f"#!/bin/sh\ncd {directory}\n{text}")
    program.chmod(0o755)


def test_twenty_slow_commands_run_at_once_in_the_daemon(tmp_path: pathlib.Path) -> None:
    # None of them ends before all twenty have started.
    _stand_in(
        tmp_path,
        "touch started.$2\n"
        "until [ $(ls | grep -c started) = 20 ]; do sleep 0.05; done\n",
    )
    output = _script(
        tmp_path,
        """
        fork_daemon()
        codes = []
        threads = [
            threading.Thread(
                target=lambda n=n: codes.append(executor.run("vzctl", "status", str(n)))
            )
            for n in range(101, 121)
        ]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print("codes", [done.returncode for done in codes])
        """,
    )
    assert f"codes {[0] * 20}" in output


def test_secrets_reach_no_log_of_the_daemon(tmp_path: pathlib.Path) -> None:
    _stand_in(tmp_path, 'read line; echo "got $line"; echo "on $line" >&2; exit 3\n')
    output = _script(
        tmp_path,
        """
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
        private = directory / "private" / "101"
        private.mkdir(parents=True)
        fork_daemon()
        cmd = ["vzctl", "exec2", "101", "chpasswd"]
        done = executor.run(*cmd, stdin="s3cret-in", secrets=["s3cret-in"])
        print("masked", done.returncode, done.stdout.strip(), done.stderr.strip())
        place = {"base": str(private.parent), "ctid": "101", "sub": ""}
        owner = {"uid": os.getuid(), "gid": os.getgid()}
        shadow = {"path": "shadow", "content": b"s3cret-file", "mode": 0o600, **owner}
        executor.call("write_files", **place, files=[shadow])
        content = executor.call("read_file", **place, path="shadow", limit=99)
        print("same", content == b"s3cret-file")
        """,
    )
    assert "masked 3 got *** on ***" in output
    assert "same True" in output
    assert "privsep: reply" in output  # the log that is meant does exist
    assert "s3cret" not in output
    assert "czNjcmV0" not in output  # the same in base64


def test_the_daemon_ends_a_command_with_all_descendants(
    tmp_path: pathlib.Path, pids: Pids
) -> None:
    _stand_in(
        tmp_path,
        "cd pids\n(setsid sh -c 'touch $$; exec sleep 1000' &)\ntouch $$\nsleep 1000\n",
    )
    output = _script(
        tmp_path,
        """
        import time
        def wait(*args):
            while len(os.listdir(directory / "pids")) < 2:
                time.sleep(0.01)
            return False
        privileged._wait = wait
        fork_daemon()
        try:
            executor.run("vzctl", "stop", "101")
        except exception.CommandTimedOut as error:
            print(error)
        """,
    )
    assert "was ended with all processes it had started" in output
    assert len(pids.known()) == 2
    assert [pid for pid in pids.known() if _lives(pid)] == []


def test_a_command_is_not_run_again_when_the_daemon_dies(
    tmp_path: pathlib.Path,
) -> None:
    _stand_in(tmp_path, "echo run >> runs\nkill -KILL $PPID\nsleep 1\n")
    output = _script(
        tmp_path,
        """
        fork_daemon()
        try:
            executor.run("vzctl", "start", "101")
        except exception.PrivilegeError as error:
            print("error:", error)
        """,
    )
    assert "error: the privsep daemon has ended" in output
    assert (tmp_path / "runs").read_text() == "run\n"


def test_the_daemon_is_started_again_for_the_next_command(
    tmp_path: pathlib.Path,
) -> None:
    _stand_in(tmp_path, "echo by $PPID\n")
    output = _script(
        tmp_path,
        """
        start = privileged.context.start
        privileged.context.start = lambda: start(priv_context.Method.FORK)
        first = executor.run("vzctl", "status", "101").stdout
        privileged.context.channel.close()
        second = executor.run("vzctl", "status", "101").stdout
        print("two daemons", first != second)
        """,
    )
    assert "two daemons True" in output


def test_a_daemon_that_cannot_start_is_told_with_its_command(
    tmp_path: pathlib.Path,
) -> None:
    output = _script(
        tmp_path,
        """
        priv_context.init(["/bin/false"])
        try:
            executor.check()
        except exception.PrivilegeError as error:
            print("error:", error)
        """,
    )
    assert "error: the privsep daemon cannot be started" in output
    assert "'/bin/false privsep-helper" in output
    assert "sudoers" in output


def test_a_root_helper_that_hangs_is_not_waited_for_for_ever(
    tmp_path: pathlib.Path, pids: Pids
) -> None:
    _stand_in(tmp_path, "touch pids/$$; exec sleep 1000 >/dev/null 2>&1\n", "sudo")
    output = _script(
        tmp_path,
        """
        privileged.START_LIMIT = 0.5
        priv_context.init([str(directory / "sudo")])
        for _ in range(2):
            try:
                executor.check()
            except exception.PrivilegeError as error:
                print("error:", error, flush=True)
        os._exit(0)
        """,
    )
    assert output.count("error: the privsep daemon did not start within 0.5 s") == 2
    assert len(pids.wait_for(1)) == 1


class _Channel:
    running = True


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to the context, which has no daemon yet."""
    done: list[str] = []

    def start() -> None:
        done.append("start")
        privileged.context.channel = _Channel()

    monkeypatch.setattr(privileged, "_STARTER", privileged._Starter())
    monkeypatch.setattr(privileged.context, "channel", None)
    monkeypatch.setattr(privileged.context, "start", start)
    monkeypatch.setattr(privileged.context, "stop", lambda: done.append("stop"))
    return done


def _answered(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> object:
    def request(sent: bytes, *, _wrap_timeout: float) -> bytes:
        if error:
            raise error
        assert _wrap_timeout == 5
        asked = privileged.decode(sent)
        return privileged.serve(asked["verb"], asked["kwargs"])

    monkeypatch.setattr(privileged, "privsep_request", request)
    return privileged.result(privileged.ask_daemon("ping", {}, timeout=5))


def test_the_daemon_is_started_once(
    monkeypatch: pytest.MonkeyPatch, starts: list[str]
) -> None:
    assert _answered(monkeypatch, None) == os.geteuid()
    assert _answered(monkeypatch, None) == os.geteuid()
    assert starts == ["start"]


def test_a_dead_daemon_is_cleared_away_first(
    monkeypatch: pytest.MonkeyPatch, starts: list[str]
) -> None:
    _answered(monkeypatch, None)
    monkeypatch.setattr(privileged.context.channel, "running", False)
    _answered(monkeypatch, None)
    assert starts == ["start", "stop", "start"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (comm.PrivsepTimeout(), "did not answer within 5 s"),
        (OSError("premature eof"), "has ended: premature eof"),
        (daemon.FailedToDropPrivileges("no"), "has ended: no"),
    ],
)
def test_a_daemon_that_does_not_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, starts: list[str], error: Exception, told: str
) -> None:
    with pytest.raises(exception.PrivilegeError, match=told):
        _answered(monkeypatch, error)


def test_a_failed_start_is_tried_again_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch, starts: list[str]
) -> None:
    def failing() -> None:
        raise daemon.FailedToDropPrivileges("exited non-zero (1)")

    with monkeypatch.context() as patch:
        patch.setattr(privileged.context, "start", failing)
        with pytest.raises(exception.PrivilegeError, match="non-zero") as caught:
            _answered(monkeypatch, None)
        assert "privsep-helper" in str(caught.value)
    assert _answered(monkeypatch, None) == os.geteuid()


def test_a_start_that_hangs_is_not_doubled(
    monkeypatch: pytest.MonkeyPatch, starts: list[str]
) -> None:
    end = threading.Event()
    begun = []

    def hanging() -> None:
        begun.append(1)
        end.wait(LONG)

    monkeypatch.setattr(privileged, "START_LIMIT", 0.05)
    monkeypatch.setattr(privileged.context, "start", hanging)
    try:
        for _ in range(3):
            with pytest.raises(exception.PrivilegeError, match="did not start"):
                _answered(monkeypatch, None)
    finally:
        end.set()
    assert begun == [1]


def test_a_reply_does_not_show_in_a_log() -> None:
    umask = os.umask(0o022)
    try:
        reply = privileged.privsep_request.args[0](
            privileged.encode({"verb": "ping", "kwargs": {}})
        )
    finally:
        os.umask(umask)
    assert privileged.result(reply) == os.geteuid()
    assert repr((4, reply)) == f"(4, <{len(reply)} bytes>)"


def test_the_daemon_has_threads_for_many_commands() -> None:
    # In a process of its own: fixtures of other tests reset options to their
    # first defaults.
    code = (
        "from ovznovadriver.openvz import privileged;"
        "print(privileged.context.conf.thread_pool_size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 64


def test_the_daemon_finds_its_entry_point() -> None:
    assert privileged.context.is_entrypoint(privileged.privsep_request)
    assert privileged.context.pypath == "ovznovadriver.openvz.privileged.context"


_EVENTLET = """
import eventlet
eventlet.monkey_patch()
import os, pathlib, sys, time
from ovznovadriver.openvz import privileged

directory = pathlib.Path(sys.argv[1])
ENV = {"PATH": "/usr/bin:/bin"}

def run(script, **kwargs):
    argv = ["/bin/sh", "-c", script, "sh", str(directory)]
    return privileged.run_process(argv, env=ENV, **{"timeout": 60, **kwargs})

# Three that wait for each other: they run at once, or not at all.
meet = 'cd "$1"; touch at.$$; until [ $(ls | grep -c at.) = 3 ]; do sleep 0.05; done'
threads = [eventlet.spawn(run, meet) for _ in range(3)]
print("codes", [thread.wait().returncode for thread in threads])
print("input", len(run("cat", stdin=b"x" * 10**6).stdout))
print("daemon", run('sleep 1000 & touch "$1/pids/$!"; echo on').stdout)
def over(*args):
    while len(os.listdir(directory / "pids")) < 2:
        time.sleep(0.01)
    return False
privileged._wait = over
print("late", run('touch "$1/pids/$$"; exec sleep 1000').timed_out)
"""


# Not asked of the import system: nova lets nobody look for eventlet there.
@pytest.mark.skipif(
    not any(importlib.metadata.distributions(name="eventlet")),
    reason="eventlet is not installed",
)
def test_commands_run_under_eventlet(tmp_path: pathlib.Path, pids: Pids) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _EVENTLET, str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert "codes [0, 0, 0]" in done.stdout, done.stderr
    assert "input 1000000" in done.stdout
    assert "daemon on" in done.stdout
    assert "late True" in done.stdout
    assert sum(map(_lives, pids.wait_for(2))) == 1
