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

"""The first pass of a live migration is measured or ended, and nothing else is.

vzmigrate and its rsync are processes here, and not the simulator's: what matters is how
they look to the root side.
"""

import dataclasses
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
from ovznovadriver.openvz import firstpass, incoming

CTID = "101"
AREAS = ("/vz/private/101/", "root@h:/vz/private/101/")
FIRST = ("rsync", "-aHAX", "--sparse", *AREAS)
SECOND = ("rsync", "-aHAX", *AREAS)
SUSPEND = ("vzctl", "--skiplock", "chkpnt", CTID, "--suspend")
UNDUMP = ("ssh", "root@h", "vzctl", "restore", CTID, "--undump")
QUOTA = ("ssh", "root@h", "vzctl quotainit 101")
MOVE = ("-r", "no", "--online", "h", CTID)

# Each line that it reads is a child to start, by its words a shell, or by Popen's
# arguments whatever they say; or says to wait for the first.
VZMIGRATE = """
import json, subprocess, sys
children = []
for line in sys.stdin:
    words = json.loads(line)
    if isinstance(words, dict):
        children.append(subprocess.Popen(**words))
    elif words:
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

    def ask_really(self, argv, **options):
        """Have it start a program, as Popen does."""
        line = json.dumps({"args": argv, **options})
        self.process.stdin.write(f"{line}\n")

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
def end(lock, monkeypatch):
    """Ask for the end of the first pass; a process may take long to stop."""
    monkeypatch.setattr(firstpass, "_STOP", 60)
    dirs = {"lock": str(lock.parent)}
    return functools.partial(firstpass.end_first_pass, dirs=dirs, ctid=CTID, wait=0)


@pytest.fixture
def measure(lock):
    """Ask how far the first pass is."""
    dirs = {"lock": str(lock.parent)}
    return functools.partial(firstpass.measure_first_pass, dirs=dirs, ctid=CTID)


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
    deadline = time.monotonic() + 60
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
def test_nothing_is_ended_after_the_first_pass(start, end, measure, later):
    mover = start(later)

    assert end(wait=30) == measure() == firstpass.LATE

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
def test_another_command_is_left_alone(start, end, measure, other):
    start(FIRST, **other)

    assert end() == measure() == firstpass.ABSENT


def test_another_users_process_is_left_alone(start, end, measure, monkeypatch):
    start(FIRST)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)

    assert end() == measure() == firstpass.ABSENT


def test_the_rsync_of_somebody_else_is_left_alone(start, end, measure):
    mover = start(QUOTA)
    start(FIRST, words=("-r", "no", "--online", "h", "102"))
    # It is the other one's that has the first pass.
    lock_of(mover, end)

    assert end() == measure() == firstpass.EARLY


def lock_of(mover, end):
    """Let a vzmigrate have the lock."""
    place = end.keywords["dirs"]["lock"]
    with open(os.path.join(place, f"{CTID}.lck"), "w") as file:
        file.write(f"{mover.process.pid}\n")


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1", "4194305", "9" * 100])
def test_a_lock_that_says_nothing_says_of_no_vzmigrate(lock, end, measure, text):
    lock.write_text(text)

    assert end() == measure() == firstpass.ABSENT


def test_without_a_lock_there_is_no_vzmigrate(lock, end, measure):
    assert end() == measure() == firstpass.ABSENT
    os.mkfifo(lock)
    assert end() == measure() == firstpass.ABSENT


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


def test_only_a_container_is_asked_for(end, measure):
    for ask in (end, measure):
        with pytest.raises(exception.UnsafePath):
            ask(ctid="../x")


# -- how far it is --------------------------------------------------------------------

# As ssh, through which a part goes, and the rest when it may; and which then stays.
HELD_SSH = """
import os, subprocess, sys, threading
place, words = sys.argv[1], sys.argv[5:]
server = subprocess.Popen(words, stdin=subprocess.PIPE, bufsize=0)
def carry(size):
    while size > 0 and (data := os.read(0, min(size, 65536))):
        server.stdin.write(data)
        size -= len(data)
carry(2_000_000)
open(place + "/middle").read()
threading.Thread(target=carry, args=[10**9], daemon=True).start()
server.wait()
open(place + "/end").read()
"""


@pytest.fixture
def tree_to_send(tmp_path):
    """A tree with a file of several names, one with a hole, and small ones."""
    top = tmp_path / CTID
    top.mkdir()
    (top / "large").write_bytes(os.urandom(6 << 20))
    os.link(top / "large", top / "linked")
    with open(top / "sparse", "wb") as file:
        file.truncate(3 << 20)
    for number in range(100):
        (top / str(number)).write_bytes(b"x" * number)
    return top


@pytest.fixture
def held(tmp_path, tree_to_send, start):
    """Have a real rsync begin the first pass, which is held twice; where it is let on.

    To open one of them means to wait until that is reached.
    """
    for name in ("middle", "end"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "ssh").write_text(HELD_SSH)
    env = {**os.environ, "RSYNC_RSH": f"{sys.executable} {tmp_path}/ssh {tmp_path}"}
    ends = (f"{tree_to_send}/", f"root@h:{tmp_path}/there/")
    start().ask_really(["rsync", *FIRST[1:3], *ends], env=env)
    return tmp_path


def test_what_the_first_pass_has_read_is_told(held, tree_to_send, measure):
    base, ctid = os.path.split(tree_to_send)
    _, total = incoming.tree_size(base=base, ctid=ctid, sub="")
    assert 9 << 20 < total < 10 << 20

    with open(held / "middle", "w"):
        half = measure()
    with open(held / "end", "w"):
        whole = measure()

    assert 1_900_000 < half < total
    assert total <= whole < total + 200_000


def test_what_its_ssh_has_read_does_not_count(tmp_path, tree_to_send, start, measure):
    os.mkfifo(tmp_path / "stay")
    script = f"cat {tree_to_send}/large >/dev/null; read line <{tmp_path}/stay"
    argv = ["rsync", "-c", script, "--sparse"]
    start().ask_really(argv, executable="/bin/sh")

    with open(tmp_path / "stay", "w"):
        assert 0 < measure() < 1 << 20


def test_a_pass_that_has_just_ended_is_not_measured(start, end, measure, monkeypatch):
    mover = start(FIRST)
    (seen,) = firstpass._children(firstpass._look(mover.process.pid))
    assert measure() > 0

    # Its number is another's by now.
    with monkeypatch.context() as patch:
        patch.setattr(
            firstpass, "_look", lambda pid: dataclasses.replace(seen, start=0)
        )
        assert firstpass._has_read(seen) == firstpass.EARLY
    assert end() == firstpass.ENDED
    mover.begin()
    assert firstpass._has_read(seen) == firstpass.EARLY
    assert measure() == firstpass.EARLY
