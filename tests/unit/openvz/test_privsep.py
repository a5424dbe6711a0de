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

"""Root by privsep: each daemon of a test lives in a process of its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap
import threading

import pytest
from oslo_privsep import comm, daemon

from ovznovadriver import exception
from ovznovadriver.openvz import privileged, privsep
from tests.unit.openvz.processes import Pids, lives

PROJECT = pathlib.Path(__file__).parents[3]
LONG = 100.0

_PREAMBLE = """
import logging, os, pathlib, sys, threading
from oslo_config import cfg
from oslo_privsep import priv_context
from ovznovadriver import exception
from ovznovadriver.openvz import permit, privileged, privsep, processes, utils

directory = pathlib.Path(sys.argv[1])
cfg.CONF([])
# The stand-ins lie in a directory of the tests, and the tests may be root.
permit.check_trusted_path = lambda path, missing=False: path
utils.Executor.direct = property(lambda self: False)
if os.geteuid() != 0:
    cfg.CONF.set_override("capabilities", [], group=privsep.CONFIG_SECTION)

def fork_daemon():
    privsep.context.start(priv_context.Method.FORK)

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
        processes._wait = wait
        fork_daemon()
        try:
            executor.run("vzctl", "stop", "101")
        except exception.CommandTimedOut as error:
            print(error)
        """,
    )
    assert "was ended with all processes it had started" in output
    assert len(pids.known()) == 2
    assert [pid for pid in pids.known() if lives(pid)] == []


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
        start = privsep.context.start
        privsep.context.start = lambda: start(priv_context.Method.FORK)
        first = executor.run("vzctl", "status", "101").stdout
        privsep.context.channel.close()
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
        import time
        privsep.START_LIMIT = 0.5
        priv_context.init([str(directory / "sudo")])
        for _ in range(2):
            try:
                executor.check()
            except exception.PrivilegeError as error:
                print("error:", error, flush=True)
        while not os.listdir(directory / "pids"):
            time.sleep(0.01)
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
        privsep.context.channel = _Channel()

    monkeypatch.setattr(privsep, "_STARTER", privsep._Starter())
    monkeypatch.setattr(privsep.context, "channel", None)
    monkeypatch.setattr(privsep.context, "start", start)
    monkeypatch.setattr(privsep.context, "stop", lambda: done.append("stop"))
    return done


def _answered(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> object:
    def request(sent: bytes, *, _wrap_timeout: float) -> bytes:
        if error:
            raise error
        assert _wrap_timeout == 5
        asked = privileged.decode(sent)
        return privileged.serve(asked["verb"], asked["kwargs"])

    monkeypatch.setattr(privsep, "privsep_request", request)
    return privileged.result(privsep.ask_daemon("ping", {}, timeout=5))


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
    monkeypatch.setattr(privsep.context.channel, "running", False)
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
        patch.setattr(privsep.context, "start", failing)
        with pytest.raises(exception.PrivilegeError, match="non-zero") as caught:
            _answered(monkeypatch, None)
        assert "privsep-helper" in str(caught.value)
    assert _answered(monkeypatch, None) == os.geteuid()


def test_a_start_that_hangs_is_not_doubled(
    monkeypatch: pytest.MonkeyPatch, starts: list[str]
) -> None:
    end, first = threading.Event(), threading.Event()
    begun = []

    def hanging() -> None:
        begun.append(1)
        first.set()
        end.wait(LONG)

    monkeypatch.setattr(privsep, "START_LIMIT", 0.05)
    monkeypatch.setattr(privsep.context, "start", hanging)
    try:
        for _ in range(3):
            with pytest.raises(exception.PrivilegeError, match="did not start"):
                _answered(monkeypatch, None)
        assert first.wait(LONG)
    finally:
        end.set()
    assert begun == [1]


def test_a_reply_does_not_show_in_a_log() -> None:
    umask = os.umask(0o022)
    try:
        reply = privsep.privsep_request.args[0](
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
        "from ovznovadriver.openvz import privsep;"
        "print(privsep.context.conf.thread_pool_size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 64


def test_the_daemon_finds_its_entry_point() -> None:
    assert privsep.context.is_entrypoint(privsep.privsep_request)
    assert privsep.context.pypath == "ovznovadriver.openvz.privsep.context"
