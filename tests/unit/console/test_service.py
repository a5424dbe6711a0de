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

"""The whole service, over simulated nodes of both families."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.console import ask, record
from ovznovadriver.console import container as container_
from ovznovadriver.console import service as console_service
from ovznovadriver.openvz import metadata, privileged, processes, vzctl, vzlist
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer
from tests import support
from tests.simulator.node import SimNode
from tests.unit.console.running import PATIENCE, Client, Running, eventually
from tests.unit.openvz.processes import lives

PROJECT = Path(__file__).parents[3]

#: For what is the same for both families.
once = pytest.mark.parametrize("sim", ["4"], indirect=True, ids=["vzctl4"])


def _run(service: Running, subcommand: str, container: OvzContainer) -> None:
    done = service.sim.run("vzctl", subcommand, container.ovz_id)
    assert done.rc == 0, done


@pytest.fixture
def running(service: Running, container: OvzContainer) -> OvzContainer:
    """A container that runs and has said its first words."""
    _run(service, "start", container)
    service.wait_for(b"# ")
    return container


def _readers(sim: SimNode) -> list[int]:
    """Processes that read consoles now."""
    calls = [c for c in sim.commands("vzctl", "console") if c.rc is None]
    return [c.pid for c in calls if lives(c.pid)]


def test_a_typed_command_is_answered_and_the_log_has_both(
    service: Running, running: OvzContainer
) -> None:
    client = service.client()
    client.type(b"echo a$((40+2))b\r")
    client.wait_for(b"a42b")
    assert b"echo a$((40+2))b\r\na42b\r\n" in service.log()


@once
def test_two_readers_both_see_all_that_either_types(
    service: Running, running: OvzContainer
) -> None:
    one, two = service.client(), service.client()
    one.type(b"echo $((1+1))one\r")
    for client in (one, two):
        client.wait_for(b"2one")
    two.type(b"echo $((2+2))two\r")
    for client in (one, two):
        client.wait_for(b"4two\r\n# ")
    assert one.seen == two.seen
    assert len(_readers(service.sim)) == 1


def test_vzctl_obeys_no_client(service: Running, running: OvzContainer) -> None:
    client = service.client()
    client.type(b"\r\x1b.\r\x1b!\r\x1b,echo still$((1+1))\r")
    client.wait_for(b"still2")
    assert len(service.sim.commands("vzctl", "console")) == 1


def test_what_vzctl_itself_says_is_not_in_the_log(
    service: Running, running: OvzContainer
) -> None:
    assert b"Attached" not in service.log()
    assert service.log().startswith(f"INIT: {running.ovz_id} booting\r\n".encode())


@once
def test_a_container_that_ran_before_the_service_is_served(
    sim: SimNode, container: OvzContainer, short_path: Path
) -> None:
    assert sim.run("vzctl", "start", container.ovz_id).rc == 0
    service = Running(sim, short_path)
    try:
        service.wait_for(b"# ")
    finally:
        service.stop()


@once
def test_a_restart_of_the_service_keeps_log_and_port(
    service: Running, running: OvzContainer
) -> None:
    client = service.client()
    client.type(b"echo be$((1+1))fore\r")
    client.wait_for(b"be2fore\r\n# ")
    place = service.ask("port", uuid=support.UUID)
    service.stop()
    assert client.is_closed()
    assert _readers(service.sim) == []
    service.sim.console_write(running.ovz_id, b"meanwhile")
    service.start()
    service.wait_for(b"meanwhile")
    assert b"be2fore" in service.log()
    assert service.ask("port", uuid=support.UUID) == place
    client = Client(place["host"], place["port"])
    client.type(b"echo af$((1+1))ter\r")
    client.wait_for(b"af2ter")


def test_stop_and_start_make_a_new_log_for_the_same_clients(
    service: Running, running: OvzContainer
) -> None:
    client = service.client()
    client.type(b"echo fir$((1+1))st\r")
    client.wait_for(b"fir2st\r\n# ")
    _run(service, "stop", running)
    eventually(lambda: not _readers(service.sim), "the end of the reader")
    _run(service, "start", running)
    eventually(lambda: b"fir2st" not in service.log() and b"INIT" in service.log())
    assert b"fir2st" in service.log(part=".previous.log")
    client.wait_for(b"booting")
    client.type(b"echo sec$((1+1))ond\r")
    client.wait_for(b"sec2ond")


def test_a_reboot_from_inside_is_followed(
    service: Running, running: OvzContainer
) -> None:
    service.sim.halt(running.ovz_id)
    eventually(lambda: not _readers(service.sim), "the end of the reader")
    _run(service, "start", running)
    eventually(lambda: _readers(service.sim), "a new reader")
    client = service.client()
    client.type(b"echo a$((40+2))b\r")
    client.wait_for(b"a42b")


def test_nova_compute_announces_starts_and_keeps_what_they_say(
    service: Running, container: OvzContainer
) -> None:
    class Witness:
        def starting(self, ctid: str) -> None:
            service.ask("starting", ctid=ctid)
            # The reader is there before the container is.
            eventually(lambda: _readers(service.sim), "a reader")

        def started(self, ctid: str, said: str) -> None:
            service.ask("started", ctid=ctid, said=said)

    container.node.vzctl.witness = Witness()
    container.node.vzctl.start(container.ovz_id)
    service.wait_for(b"INIT")
    assert len(service.sim.commands("vzctl", "console")) == 1
    console = service.service._consoles[support.UUID]
    said = eventually(lambda: console._record.said, "the note")
    assert "start in progress" in said
    assert service.log().startswith(b"INIT")


def test_of_a_start_that_fails_the_output_tells_why(
    service: Running, container: OvzContainer
) -> None:
    class Witness:
        def starting(self, ctid: str) -> None:
            service.ask("starting", ctid=ctid)

        def started(self, ctid: str, said: str) -> None:
            service.ask("started", ctid=ctid, said=said)

    container.node.vzctl.witness = Witness()
    service.sim.fail("vzctl", "start", rc=47, stderr="Unable to start init\n")
    with pytest.raises(exception.CommandFailed):
        container.node.vzctl.start(container.ovz_id)

    def output() -> bytes:
        answer = service.ask("output", uuid=support.UUID, limit=1000)
        return base64.b64decode(answer["output"])

    eventually(lambda: output().endswith(b"Unable to start init\n"))
    eventually(lambda: not _readers(service.sim), "the end of the reader")


@once
def test_containers_of_others_are_left_alone(
    service: Running, node: ovz_node.Node, image: str
) -> None:
    foreign = (
        "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0aff" if service.sim.family == "9" else 999
    )
    # It claims to be ours, and would have its files elsewhere.
    evil = metadata.Tag(support.HOST, "web-1", "7", "../../evil")
    support.foreign(service.sim, image, str(foreign), metadata.encode(evil))
    other = ovz_node.Node.open(
        "host2", support.options(service.sim, lock_dir=node.options.lock_dir)
    )
    theirs = support.create(other, image, uuid=support.OTHER_UUID)
    for ctid in (str(foreign), theirs.ovz_id):
        assert service.sim.run("vzctl", "start", ctid).rc == 0
    with pytest.raises(exception.ConsoleUnknown):
        service.ask("output", uuid=support.OTHER_UUID, limit=10)
    with pytest.raises(exception.ConsoleUnknown):
        service.ask("port", uuid="../../etc/passwd")
    assert service.sim.commands("vzctl", "console") == []


@once
def test_a_container_that_is_gone_is_forgotten(
    service: Running, running: OvzContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_service, "FORGET_AFTER", 0.0)
    client = service.client()
    _run(service, "stop", running)
    _run(service, "destroy", running)
    eventually(lambda: not list(service.logs.glob("5d*")), "the end of its files")
    assert client.is_closed()
    with pytest.raises(exception.ConsoleUnknown):
        service.ask("port", uuid=support.UUID)


@once
def test_files_of_a_container_that_went_while_the_service_was_down_go(
    sim: SimNode, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_service, "FORGET_AFTER", 0.0)
    (short_path / "logs").mkdir()
    (short_path / "logs" / f"{support.UUID}.previous.log").write_bytes(b"x")
    service = Running(sim, short_path)
    try:
        eventually(lambda: not list(service.logs.glob("5d*")))
    finally:
        service.stop()


@once
def test_a_vzlist_that_fails_changes_nothing(
    service: Running,
    running: OvzContainer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(console_service, "FORGET_AFTER", 0.0)
    for _ in range(3):
        service.sim.fail("vzlist", rc=1, stderr="Unable to open /dev/vzctl\n")
    eventually(lambda: "cannot be seen" in caplog.text)
    client = service.client()
    client.type(b"echo a$((40+2))b\r")
    client.wait_for(b"a42b")


@once
def test_garbage_goes_through_as_it_is(service: Running, running: OvzContainer) -> None:
    client = service.client()
    garbage = bytes(range(256)) * 20 + b"\x1b]0;title\x07\x1b[2J\x9b6n" + b"the end"
    service.sim.console_write(running.ovz_id, garbage)
    client.wait_for(b"the end")
    assert garbage in client.seen
    assert garbage in service.log()


@once
def test_a_flood_takes_bounded_disk_and_the_service_answers(
    service: Running, running: OvzContainer
) -> None:
    client = service.client()
    client.type(b"flood 400000\r")
    eventually(lambda: service.log(part=".log.1"), "the rotation")
    assert service.ask("output", uuid=support.UUID, limit=10)["output"]
    client.wait_for(b"x\r\n# ")
    size = sum(path.stat().st_size for path in service.logs.glob("5d*.log*"))
    assert size <= 2 * 64 * 1024


def test_a_reader_that_stands_in_the_way_is_waited_for(
    sim: SimNode,
    container: OvzContainer,
    short_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody has typed `vzctl console` on the host."""
    assert sim.run("vzctl", "start", container.ovz_id).rc == 0
    arguments = vzctl.console_arguments(container.node.family, container.ovz_id)
    other = processes.start_on_terminal(
        [str(sim.bin_dir / "vzctl"), *arguments], env=privileged.CLEAN_ENVIRONMENT
    )
    eventually(lambda: (sim.root / "sim/console").exists() and _readers(sim))
    eventually(lambda: list((sim.root / "sim/console").glob("*.boot")))
    service = Running(sim, short_path)
    try:
        eventually(lambda: "Device or resource busy" in caplog.text)
        other.end()
        sim.console_write(container.ovz_id, b"at last")
        service.wait_for(b"at last")
    finally:
        other.end()
        service.stop()


def test_what_is_asked_during_a_look_is_answered_by_the_next_one(
    short_path: Path,
) -> None:
    tag = metadata.encode(metadata.Tag(support.HOST, "web-1", "7", support.UUID))
    made = vzlist.ContainerInfo("101", vzlist.State.STOPPED, tag)
    first, asked = threading.Event(), threading.Event()
    answers = iter([(), (made,)])

    def look() -> tuple[vzlist.ContainerInfo, ...]:
        first.set()
        assert asked.wait(PATIENCE)
        return next(answers)

    settings = container_.Settings(str(short_path / "logs"), 1000, None, (1, 2))
    path = str(short_path / "s")
    options = console_service.Options(support.HOST, path, "", 1000, settings)
    service = console_service.Service(options, look, _never)
    handle = service._server.handle

    def handled(*args: Any) -> None:
        handle(*args)
        asked.set()

    service._server.handle = handled
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        assert first.wait(PATIENCE)
        request = {"do": "output", "uuid": support.UUID, "limit": 1}
        assert ask.ask(path, request, PATIENCE) == {"output": ""}
    finally:
        service.stop()
        thread.join(PATIENCE)


def test_looks_that_take_long_are_no_boots(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = metadata.encode(metadata.Tag(support.HOST, "web-1", "7", support.UUID))
    now = [1000.0]
    monkeypatch.setattr(record, "clock", lambda: now[0])
    looks: list[float] = []
    readers: list[str] = []

    def look() -> tuple[vzlist.ContainerInfo, ...]:
        looks.append(now[0])
        uptime = int(now[0] - 950)
        now[0] += 10 * len(looks)
        running = vzlist.State.RUNNING
        return (vzlist.ContainerInfo("101", running, tag, uptime=uptime),)

    def start(ctid: str) -> processes.Terminal:
        readers.append(ctid)
        return processes.start_on_terminal(["/bin/cat"], env={})

    settings = container_.Settings(str(short_path / "logs"), 1000, None, (1, 2))
    path = str(short_path / "s")
    options = console_service.Options(support.HOST, path, "", 0.01, settings)
    service = console_service.Service(options, look, start)
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        eventually(lambda: len(looks) > 4, "the fifth look")
    finally:
        service.stop()
        thread.join(PATIENCE)
    assert readers == ["101"]


def _never(ctid: str) -> processes.Terminal:
    raise AssertionError(ctid)


@once
def test_a_host_has_one_service(service: Running) -> None:
    with pytest.raises(exception.ConfigurationError, match="Another console service"):
        service.start()


@once
def test_a_log_directory_that_cannot_be_made_is_said(
    sim: SimNode, short_path: Path
) -> None:
    (short_path / "file").touch()
    with pytest.raises(exception.ConfigurationError, match="console_log_dir"):
        Running(sim, short_path, console_log_dir=short_path / "file" / "logs")


@once
def test_a_log_directory_that_others_can_write_is_refused(
    sim: SimNode, short_path: Path
) -> None:
    (short_path / "logs").mkdir()
    (short_path / "logs").chmod(0o770)
    with pytest.raises(exception.ConfigurationError, match="written by others"):
        Running(sim, short_path)


def _is_served(path: Path) -> bool:
    """Whether a socket takes connections: its owner and mode are right by then."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


@once
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_members_of_the_group_may_ask_and_others_not(
    sim: SimNode, short_path: Path
) -> None:
    short_path.chmod(0o755)
    service = Running(
        sim, short_path, console_group="nogroup", console_socket=short_path / "run/s"
    )
    service.stop()
    program = "import sys; from ovznovadriver.cmd.console import main; sys.exit(main())"
    client = (
        "import socket, sys\n"
        "with socket.socket(socket.AF_UNIX) as s: s.connect(sys.argv[1])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "--config-file", str(service.config)],
        cwd=PROJECT,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            eventually(lambda: _is_served(short_path / "run/s"), "the socket")
            codes = [
                subprocess.run(
                    ["/usr/bin/python3", "-c", client, short_path / "run/s"],
                    user=65534,
                    group=group,
                    extra_groups=[],
                    stderr=subprocess.DEVNULL,
                    check=False,
                ).returncode
                for group in (65534, 12345)
            ]
        finally:
            process.terminate()
    assert codes == [0, 1]
    assert (short_path / "logs").stat().st_mode & 0o777 == 0o750


@once
def test_without_serial_consoles_no_port_is_served(
    sim: SimNode, container: OvzContainer, short_path: Path
) -> None:
    service = Running(sim, short_path)
    service.stop()
    text = service.config.read_text().replace("enabled = true", "enabled = false")
    service.config.write_text(text)
    service.start()
    try:
        with pytest.raises(exception.ConsoleError, match="enabled is off"):
            service.ask("port", uuid=support.UUID)
    finally:
        service.stop()


@once
@pytest.mark.parametrize(
    "request_",
    [
        {"do": "starting", "ctid": "--help"},
        {"do": "started", "ctid": "101"},
        {"do": "output", "uuid": support.UUID, "limit": "x"},
        {"do": "port"},
    ],
)
def test_a_malformed_request_is_refused(
    service: Running, request_: dict[str, object]
) -> None:
    with pytest.raises(exception.ConsoleError, match="bad request"):
        ask.ask(service.socket, request_, PATIENCE)


@contextlib.contextmanager
def program(
    sim: SimNode, short_path: Path
) -> Iterator[tuple[Running, subprocess.Popen[bytes]]]:
    """The service as a process of its own; killed at the end of the block."""
    service = Running(sim, short_path)
    service.stop()
    run = "import sys; from ovznovadriver.cmd.console import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", run, "--config-file", str(service.config)],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield service, process
        finally:
            process.kill()


@once
def test_the_program_serves_and_ends_by_a_signal(
    sim: SimNode, container: OvzContainer, short_path: Path
) -> None:
    assert sim.run("vzctl", "start", container.ovz_id).rc == 0
    with program(sim, short_path) as (service, process):
        service.wait_for(b"# ")
        client = service.client()
        client.type(b"echo a$((40+2))b\r")
        client.wait_for(b"a42b")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    eventually(lambda: not _readers(sim), "the end of the readers")
    assert b"a42b" in service.log()


@once
def test_a_service_that_is_killed_leaves_no_reader(
    sim: SimNode, container: OvzContainer, short_path: Path
) -> None:
    assert sim.run("vzctl", "start", container.ovz_id).rc == 0
    with program(sim, short_path) as (service, process):
        service.wait_for(b"# ")
        process.kill()
    eventually(lambda: not _readers(sim), "the end of the readers")
