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
"""The executables as processes of their own: faults, locks, several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulator.node import SIMULATOR, Family, SimNode
from tests.simulator.orders import When
from tests.unit.openvz.processes import lives

PATIENCE = 60.0


@pytest.fixture
def node(tmp_path: Path) -> SimNode:
    node = SimNode(tmp_path / "node", "4")
    node.add_template("debian")
    return node


@pytest.fixture
def running(node: SimNode) -> SimNode:
    assert node.run("vzctl", "create", "101", "--ostemplate", "debian").rc == 0
    assert node.run("vzctl", "start", "101").rc == 0
    return node


def start(node: SimNode, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [node.bin_dir / argv[0], *argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={},
    )


def call(node: SimNode, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [node.bin_dir / argv[0], *argv[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={},
        timeout=PATIENCE,
        check=False,
    )


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.005)


def lock_owner(node: SimNode, ctid: str) -> int:
    path = node.lock_dir / f"{ctid}.lck"
    try:
        return int(path.read_text() or 0)
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("family", ["4", "9"])
def test_two_variables_are_all_that_the_executables_need(
    tmp_path: Path, family: Family
) -> None:
    answer = subprocess.run(
        [SIMULATOR / "bin/vzctl", "--version"],
        env={
            "OVZ_SIM_ROOT": str(tmp_path / "node"),
            "OVZ_SIM_FAMILY": family,
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
        check=True,
    )
    expected = {"4": "vzctl version 4.9.4\n", "9": "vzctl v.9.0.1\n"}
    assert answer.stdout == expected[family]
    assert (tmp_path / "node/etc/vz/vz.conf").exists()


@pytest.mark.parametrize("missing", ["OVZ_SIM_ROOT", "OVZ_SIM_FAMILY"])
def test_a_missing_variable_is_refused_loudly(tmp_path: Path, missing: str) -> None:
    env = {
        "OVZ_SIM_ROOT": str(tmp_path / "node"),
        "OVZ_SIM_FAMILY": "4",
        "PATH": os.environ["PATH"],
    }
    del env[missing]
    answer = subprocess.run(
        [SIMULATOR / "bin/vzlist"], env=env, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 250
    assert answer.stderr == f"ovzsim: {missing} is not set\n"


def test_many_processes_lay_out_one_node(tmp_path: Path) -> None:
    env = {
        "OVZ_SIM_ROOT": str(tmp_path / "node"),
        "OVZ_SIM_FAMILY": "4",
        "PATH": os.environ["PATH"],
    }
    processes = [
        subprocess.Popen([SIMULATOR / "bin/vzlist", "-a"], env=env) for _ in range(8)
    ]
    assert [p.wait(PATIENCE) for p in processes] == [0] * 8


def test_of_many_processes_one_gets_the_container(node: SimNode) -> None:
    processes = [
        start(node, "vzctl", "create", "230", "--ostemplate", "debian")
        for _ in range(8)
    ]
    codes = Counter(p.wait(PATIENCE) for p in processes)
    for process in processes:
        process.communicate()
    assert codes[0] == 1
    assert set(codes) <= {0, 9, 44}
    assert node.containers() == ["230"]


def test_of_many_processes_one_gets_the_name(node: SimNode) -> None:
    for ctid in range(200, 206):
        node.run("vzctl", "create", str(ctid), "--ostemplate", "debian")
    processes = [
        start(node, "vzctl", "set", str(ctid), "--name", "same", "--save")
        for ctid in range(200, 206)
    ]
    codes = Counter(p.wait(PATIENCE) for p in processes)
    for process in processes:
        process.communicate()
    assert codes == {0: 1, 131: 5}
    named = [c for c in node.containers() if node.conf(c).get("NAME") == "same"]
    assert len(named) == 1
    assert node.run("vzctl", "status", "same").stdout.startswith(f"CTID {named[0]} ")


def test_different_containers_are_made_at_once(node: SimNode) -> None:
    processes = [
        start(node, "vzctl", "create", str(ctid), "--ostemplate", "debian")
        for ctid in range(200, 208)
    ]
    assert [p.wait(PATIENCE) for p in processes] == [0] * 8
    for process in processes:
        process.communicate()
    assert len(node.containers()) == 8
    assert len(node.commands("vzctl", "create")) == 8
    assert not any(node.lock_dir.iterdir())


def test_a_fault_strikes_exactly_once_among_many_processes(node: SimNode) -> None:
    node.fail("vzlist", nth=4, rc=77, stderr="struck\n")
    processes = [start(node, "vzlist", "-a") for _ in range(8)]
    answers = [(p.communicate(timeout=PATIENCE)[1], p.returncode) for p in processes]
    assert sorted(code for _, code in answers) == [0] * 7 + [77]
    assert [text for text, code in answers if code] == ["struck\n"]


def test_a_hanging_command_holds_the_lock_until_it_is_killed(running: SimNode) -> None:
    running.hang("vzctl", "set")
    hanging = start(running, "vzctl", "set", "101", "--onboot", "yes", "--save")
    wait_for(lambda: lock_owner(running, "101") == hanging.pid)
    other = call(running, "vzctl", "set", "101", "--onboot", "yes", "--save")
    assert other.returncode == 9
    assert other.stderr.startswith(f"Locked by: pid {hanging.pid}, cmdline ")
    hanging.kill()
    hanging.communicate()
    after = call(running, "vzctl", "set", "101", "--onboot", "yes", "--save")
    assert after.returncode == 0
    assert "Removing stale lock file" in after.stdout
    assert [c.rc for c in running.commands("vzctl", "set")] == [None, 9, 0]


def test_a_detached_child_hangs_on_with_the_lock(running: SimNode) -> None:
    running.hang("vzctl", "set", detached=True)
    hanging = start(running, "vzctl", "set", "101", "--onboot", "yes", "--save")
    wait_for(lambda: lock_owner(running, "101") not in (0, hanging.pid))
    child = lock_owner(running, "101")
    hanging.kill()
    hanging.wait(PATIENCE)
    assert os.getsid(child) == child
    refused = call(running, "vzctl", "set", "101", "--onboot", "yes", "--save")
    assert refused.returncode == 9
    os.kill(child, signal.SIGKILL)


def test_a_killed_stop_leaves_a_child_that_ends_the_container(
    running: SimNode,
) -> None:
    running.slow_stop(3600)
    stop = start(running, "vzctl", "stop", "101")
    wait_for(lambda: lock_owner(running, "101") not in (0, stop.pid))
    stop.kill()
    stop.wait(PATIENCE)
    assert call(running, "vzctl", "stop", "101", "--fast").returncode == 9
    running.go_on()
    wait_for(lambda: lock_owner(running, "101") == 0)
    assert running.state("101") == "mounted"
    refused = call(running, "vzctl", "destroy", "101")
    assert refused.returncode == 41
    assert "mounted" in refused.stdout
    assert call(running, "vzctl", "umount", "101").returncode == 0
    assert call(running, "vzctl", "destroy", "101").returncode == 0


@pytest.mark.parametrize("family", ["4", "9"])
def test_a_clean_stop_gives_up_after_its_time(tmp_path: Path, family: Family) -> None:
    node = SimNode(tmp_path / "node", family)
    archive = node.add_template("debian")
    template = "debian" if family == "4" else str(archive)
    node.run("vzctl", "create", "101", "--ostemplate", template)
    node.run("vzctl", "start", "101")
    node.set_vz_conf(STOP_TIMEOUT="0")
    node.slow_stop(3600)
    answer = call(node, "vzctl", "stop", "101")
    assert answer.returncode == 0
    assert "Killing" in answer.stdout
    assert node.state("101") == "stopped"


def test_the_caller_can_be_lost_after_the_work(running: SimNode) -> None:
    running.lose_caller("vzctl", "stop", when="after")
    caller = subprocess.Popen(
        ["/bin/sh", "-c", f"{running.bin_dir}/vzctl stop 101; echo survived"],
        stdout=subprocess.PIPE,
        text=True,
    )
    output = caller.communicate(timeout=PATIENCE)[0]
    assert caller.returncode == -signal.SIGKILL
    assert "survived" not in output
    assert running.state("101") == "stopped"


def _service(node: SimNode, *commands: str) -> subprocess.Popen[str]:
    """A process that runs commands of the node's, one after the other."""
    script = "; ".join(f"{node.bin_dir}/{command}" for command in commands)
    return subprocess.Popen(
        ["/bin/sh", "-c", f"read go; {script}; echo survived"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("when", "state", "locked"),
    [("before", "running", True), ("after", "stopped", False)],
)
def test_a_service_can_crash_with_any_of_its_commands(
    running: SimNode, when: When, state: str, locked: bool
) -> None:
    service = _service(running, "vzctl --version", "vzlist", "vzctl stop 101")
    running.clear_commands()
    running.crash(service.pid, nth=3, when=when)

    output = service.communicate("go\n", timeout=PATIENCE)[0]

    assert service.returncode == -signal.SIGKILL
    assert "survived" not in output
    last = running.commands()[-1]
    wait_for(lambda: not lives(last.pid))
    assert last.subcommand == "stop"
    assert running.state("101") == state
    assert (running.lock_dir / "101.lck").exists() == locked


def test_a_command_can_outlive_its_service_and_have_the_lock(
    running: SimNode,
) -> None:
    service = _service(running, "vzctl stop 101")
    running.clear_commands()
    running.crash(service.pid, outlives=True)
    assert service.stdin is not None
    service.stdin.write("go\n")
    service.stdin.flush()

    # It has the service's output, and so is not waited for by reading that.
    assert service.wait(timeout=PATIENCE) == -signal.SIGKILL
    assert call(running, "vzctl", "start", "101").returncode == 9
    assert running.state("101") == "running"
    running.go_on()
    pid = running.commands()[0].pid
    wait_for(lambda: not lives(pid))
    assert running.state("101") == "stopped"
    assert not (running.lock_dir / "101.lck").exists()
    service.communicate()


@pytest.mark.parametrize("command", ["vzctl --version", "vzctl stop 999", "true"])
def test_a_service_crashes_also_with_a_command_that_does_nothing(
    running: SimNode, command: str
) -> None:
    running.watch("true")
    for when in ("before", "after"):
        service = _service(running, command)
        running.crash(service.pid, when=when)

        service.communicate("go\n", timeout=PATIENCE)

        assert service.returncode == -signal.SIGKILL, when


def test_programs_of_the_machine_can_be_watched(node: SimNode) -> None:
    node.watch("cat")

    done = subprocess.run(
        [node.bin_dir / "cat", "-"], input=b"as it is", capture_output=True, check=True
    )

    assert done.stdout == b"as it is"
    assert [(call.argv, call.rc) for call in node.commands()] == [(("cat", "-"), 0)]


def test_standard_input_reaches_a_command_and_is_kept(running: SimNode) -> None:
    answer = subprocess.run(
        [running.bin_dir / "vzctl", "exec2", "101", "cat"],
        input=b"said on stdin",
        capture_output=True,
        check=True,
    )
    assert answer.stdout.endswith(b"said on stdin")
    assert running.stdin_given() == [b"said on stdin"]


def test_an_open_standard_input_keeps_no_command_waiting(running: SimNode) -> None:
    reading, writing = os.pipe()
    try:
        answer = subprocess.run(
            [running.bin_dir / "vzctl", "exec2", "101", "true"],
            stdin=reading,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert answer.returncode == 0


def test_vzlist_of_family_4_dies_of_a_very_long_description(node: SimNode) -> None:
    node.run("vzctl", "create", "101", "--ostemplate", "debian")
    node.run("vzctl", "set", "101", "--description", "x" * 20000, "--save")
    answer = call(node, "vzlist", "-a", "-o", "description")
    assert answer.returncode == -signal.SIGSEGV
