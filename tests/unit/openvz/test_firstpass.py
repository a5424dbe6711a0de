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

"""The first pass of a live migration is ended, and nothing else is.

vzmigrate and its rsync are processes here, and not the simulator's: what matters is how
they look to the root side.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import firstpass

CTID = "101"
AREAS = ("/vz/private/101/", "root@h:/vz/private/101/")
FIRST = ("rsync", "-aHAX", "--sparse", *AREAS)
SECOND = ("rsync", "-aHAX", *AREAS)
SUSPEND = ("vzctl", "--skiplock", "chkpnt", CTID, "--suspend")
UNDUMP = ("ssh", "root@h", "vzctl", "restore", CTID, "--undump")
QUOTA = ("ssh", "root@h", "vzctl quotainit 101")
MOVE = ("-r", "no", "--online", "h", CTID)

# Each line that it reads is a child to start, or says to wait for the first.
VZMIGRATE = """
import json, subprocess, sys
children = []
for line in sys.stdin:
    if words := json.loads(line):
        # Whatever it is called, it says that it has begun, and waits.
        argv = [words[0], "-c", "echo; read line", *words[1:]]
        pipe = subprocess.PIPE
        children.append(subprocess.Popen(argv, executable="/bin/sh", stdin=pipe))
    else:
        print(children[0].wait(), flush=True)
"""


class Vzmigrate:
    """A process that looks like vzmigrate."""

    def __init__(self, path, words):
        path.write_text(VZMIGRATE)
        self.process = subprocess.Popen(
            [sys.executable, str(path), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def ask(self, *words):
        """Have it start a process, which need not live until it says anything."""
        self.process.stdin.write(f"{json.dumps(words)}\n")

    def begin(self, *words):
        """Let it start a process; without words, what its first one ended with."""
        self.ask(*words)
        return self.process.stdout.readline().strip()

    def end(self):
        """End it, with what it has started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def lock(tmp_path):
    return tmp_path / f"{CTID}.lck"


@pytest.fixture
def start(tmp_path, lock):
    """Start a vzmigrate that has begun these commands, and has the lock."""
    started = []

    def begin(*children, words=MOVE, name="vzmigrate"):
        mover = Vzmigrate(tmp_path / name, words)
        started.append(mover)
        for child in children:
            mover.begin(*child)
        temporary = lock.with_suffix(".new")
        temporary.write_text(f"{mover.process.pid}\n")
        temporary.rename(lock)
        return mover

    yield begin
    for mover in started:
        mover.end()


@pytest.fixture
def end(lock):
    """Ask for the end of the first pass."""
    dirs = {"lock": str(lock.parent)}
    return functools.partial(firstpass.end_first_pass, dirs=dirs, ctid=CTID, wait=0)


@pytest.fixture
def in_between(end):
    """Have something done while the end of the first pass is waited for."""

    def run(step):
        answers = []
        thread = threading.Thread(target=lambda: answers.append(end(wait=30)))
        thread.start()
        step()
        thread.join()
        return answers[0]

    return run


def assert_that_it_goes_on(mover):
    """See that the child of a vzmigrate waits for its input, and is not stopped."""
    (child,) = firstpass._children(firstpass._look(mover.process.pid))
    deadline = time.monotonic() + 10
    while (now := firstpass._look(child.pid)).state != "S":
        assert now == child
        assert time.monotonic() < deadline


def test_vzmigrate_sees_its_rsync_fail_and_goes_on_itself(start, end):
    mover = start(FIRST)

    assert end() == firstpass.ENDED

    assert mover.begin() == str(-signal.SIGKILL)
    assert mover.process.poll() is None


def test_the_first_pass_is_waited_for(start, in_between):
    mover = start(QUOTA)

    assert in_between(lambda: mover.ask(*FIRST)) == firstpass.ENDED


def test_a_vzmigrate_that_is_only_starting_is_waited_for(
    start, in_between, monkeypatch
):
    monkeypatch.setattr(firstpass, "_START", 30)

    assert in_between(lambda: start(FIRST)) == firstpass.ENDED


def test_a_vzmigrate_that_ends_is_not_waited_for(start, in_between, monkeypatch):
    met = threading.Event()
    find = firstpass._mover

    def mover_of(*args):
        found = find(*args)
        met.set()
        return found

    monkeypatch.setattr(firstpass, "_mover", mover_of)
    mover = start(QUOTA)

    def step():
        met.wait()
        mover.end()

    assert in_between(step) == firstpass.LATE


def test_a_first_pass_that_does_not_begin_is_not_waited_for_longer(start, end):
    start(QUOTA)

    assert end() == firstpass.EARLY
    assert end(wait=0.1) == firstpass.EARLY


@pytest.mark.parametrize("later", [SECOND, SUSPEND, UNDUMP])
def test_nothing_is_ended_after_the_first_pass(start, end, later):
    mover = start(later)

    assert end(wait=30) == firstpass.LATE

    assert_that_it_goes_on(mover)


@pytest.mark.parametrize(
    "other",
    [
        {"name": "vzmigrate2"},
        {"words": ("-r", "yes", "--online", "h", CTID)},
        {"words": ("--online", "h", CTID)},
        {"words": ("-r", "no", "--online", "h", "102")},
        {"words": ("-r", "no", "--online", "-h", CTID)},
        {"words": (*MOVE, "x")},
        {"words": ("x", "y", *MOVE)},
        {"words": ()},
    ],
)
def test_another_command_is_left_alone(start, end, other):
    start(FIRST, **other)

    assert end() == firstpass.ABSENT


def test_another_users_process_is_left_alone(start, end, monkeypatch):
    start(FIRST)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)

    assert end() == firstpass.ABSENT


def test_the_rsync_of_somebody_else_is_left_alone(start, end):
    mover = start(QUOTA)
    start(FIRST, words=("-r", "no", "--online", "h", "102"))
    # It is the other one's that has the first pass.
    lock_of(mover, end)

    assert end() == firstpass.EARLY


def lock_of(mover, end):
    """Let a vzmigrate have the lock."""
    place = end.keywords["dirs"]["lock"]
    with open(os.path.join(place, f"{CTID}.lck"), "w") as file:
        file.write(f"{mover.process.pid}\n")


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1", "4194305", "9" * 100])
def test_a_lock_that_says_nothing_says_of_no_vzmigrate(lock, end, text):
    lock.write_text(text)

    assert end() == firstpass.ABSENT


def test_without_a_lock_there_is_no_vzmigrate(lock, end):
    assert end() == firstpass.ABSENT
    os.mkfifo(lock)
    assert end() == firstpass.ABSENT


def test_one_that_has_just_ended_was_not_ended_by_us(monkeypatch):
    pipe = subprocess.PIPE
    argv = ["/bin/sh", "-c", "echo; read x"]
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as child:
        child.stdout.readline()
        seen = firstpass._look(child.pid)
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        # It is seen at once.
        monkeypatch.setattr(firstpass.time, "sleep", None)

        assert not firstpass._end(seen)
    assert child.returncode == 1
    assert not firstpass._end(seen)


def test_one_that_does_not_stop_goes_on(start, end, monkeypatch):
    monkeypatch.setattr(firstpass, "_STOP", 0)
    mover = start(FIRST)
    signals, kill = [], os.kill

    def weak_kill(pid, number):
        signals.append(number)
        if number != signal.SIGSTOP:
            kill(pid, number)

    monkeypatch.setattr(os, "kill", weak_kill)

    assert end() == firstpass.LATE

    assert signals == [signal.SIGSTOP, signal.SIGCONT]
    assert_that_it_goes_on(mover)


def test_nobody_has_the_root_side_wait_for_long(end):
    for wait in (-1, 61, float("nan"), float("inf")):
        with pytest.raises(exception.CommandRefused, match="not permitted"):
            end(wait=wait)


def test_only_a_container_is_asked_for(end):
    with pytest.raises(exception.UnsafePath):
        end(ctid="../x")
