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

"""Trees go from one simulated node to another, by a real ssh and a real rsync."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import attributes, outgoing, transfer
from ovznovadriver.openvz import node as ovz_node
from tests import ssh, support
from tests.simulator.node import SimNode

KEY = support.UUID
REASON = ssh.reason_not_to()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


class Two:
    """Two nodes, and a container on the first.

    :ivar tree: its root tree
    :ivar incoming: where it goes on the second
    """

    def __init__(self, top: Path, family: str, server: ssh.Sshd) -> None:
        self.server = server
        self.sims = [support.simulated(top / name, family) for name in ("a", "b")]
        self.here = support.open_node(self.sims[0])
        self.there = support.open_node(self.sims[1], "host2")
        image = support.add_image(self.sims[0])
        self.container = support.create(self.here, image)
        self.ctid = self.container.ovz_id
        self.tree = self.tree_of(self.sims[0], self.ctid)
        self.incoming = self.sims[1].private_dir / f".incoming-{KEY}" / "tree"
        self.peer = server.peer_of(self.sims[1])
        self.transfer = self.to()

    def tree_of(self, sim: SimNode, ctid: str) -> Path:
        return sim.private_dir / ctid / self.here.family.tree_dir

    def to(self, **changes: object) -> transfer.Transfer:
        """What sends there; it was told already what is there."""
        made = transfer.Transfer(self.here, dataclasses.replace(self.peer, **changes))
        made._facts = transfer.local_facts(self.there)
        return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssh.Sshd]:
    with ssh.serving(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def two(tmp_path: Path, server: ssh.Sshd, own_privileged_side: None) -> Two:
    return Two(tmp_path, "9", server)


@pytest.fixture
def two4(tmp_path: Path, server: ssh.Sshd, own_privileged_side: None) -> Two:
    return Two(tmp_path, "4", server)


def everything(top: Path) -> dict[str, tuple[object, ...]]:
    """All that there is to know of a tree."""
    names: dict[int, str] = {}
    found = {}
    for path in sorted([top, *top.rglob("*")]):
        info = path.lstat()
        name = str(path.relative_to(top))
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        kept = {} if path.is_symlink() else attributes.read(str(path))
        found[name] = (
            *(oct(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns),
            *(info.st_rdev, info.st_nlink if not path.is_dir() else 0),
            *(names.setdefault(info.st_ino, name), kept, content),
        )
    return found


def plant(tree: Path) -> None:
    """What is easily lost on the way."""
    (tree / "plain").write_bytes(os.urandom(5000))
    (tree / "empty").touch()
    os.link(tree / "plain", tree / "hard")
    (tree / "absolute").symlink_to("/etc/passwd")
    (tree / "relative").symlink_to("../../../x")
    (tree / "dangling").symlink_to("nowhere")
    Path(os.fsdecode(os.fsencode(tree) + b"/odd \n\\#012 \xff\xfe'\"$x")).write_text(
        "odd"
    )
    (tree / "-n").write_text("an option")
    os.mkfifo(tree / "fifo", 0o640)
    (tree / "setuid").touch()
    (tree / "setuid").chmod(0o6755)
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1777)
    (tree / "closed").touch(mode=0o000)
    with open(tree / "sparse", "wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    os.setxattr(tree / "plain", "user.x", b"\0\xff")
    os.utime(tree / "empty", ns=(1, 123_456_789_012_345_678))
    acl = b"\2\0\0\0" + b"".join(
        attributes._ACL_ENTRY.pack(*entry)
        for entry in (
            *((1, 6, 0xFFFFFFFF), (2, 4, os.geteuid() + 5), (4, 4, 0xFFFFFFFF)),
            *((16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)),
        )
    )
    (tree / "acl").touch()
    os.setxattr(tree / "acl", attributes.ACCESS_ACL, acl)
    os.setxattr(tree / "sticky", attributes.DEFAULT_ACL, acl)
    if os.geteuid() == 0:
        os.chown(tree / "plain", 100033, 100034)
        os.chown(tree / "dangling", 100001, 100002, follow_symlinks=False)
        os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
        os.mknod(tree / "disk", 0o60600, os.makedev(7, 99))
        capability = b"\1\0\0\2" + b"\0\4\0\0" + bytes(12)
        os.setxattr(tree / "setuid", attributes.CAPABILITY, capability)


def send_both(two: Two, change: Callable[[], object] = lambda: None) -> None:
    two.transfer.send(two.ctid, KEY)
    change()
    two.transfer.send(two.ctid, KEY, final=True)
    two.transfer.verify(two.ctid, KEY)


# -- what arrives -------------------------------------------------------------------


def test_a_tree_arrives_as_it_is_and_becomes_that_of_a_container(two: Two) -> None:
    plant(two.tree)
    before = everything(two.tree)

    def change() -> None:
        (two.tree / "later").write_text("later")
        (two.tree / "-n").unlink()

    send_both(two, change)
    after = everything(two.tree)
    assert before.keys() ^ after.keys() == {"later", "-n"}
    assert everything(two.incoming) == after
    blocks = (two.incoming / "sparse").stat().st_blocks
    assert blocks <= (two.tree / "sparse").stat().st_blocks + 64

    new = support.create(two.there, support.add_image(two.sims[1]))
    transfer.adopt(two.there, new.ovz_id, KEY)
    assert everything(two.tree_of(two.sims[1], new.ovz_id)) == after
    assert transfer.incoming(two.there) == []
    assert everything(two.tree) == after


@pytest.mark.slow
def test_a_tree_of_family_4_arrives_too(two4: Two) -> None:
    plant(two4.tree)
    send_both(two4)
    new = support.create(two4.there, support.add_image(two4.sims[1]))
    transfer.adopt(two4.there, new.ovz_id, KEY)
    there = two4.tree_of(two4.sims[1], new.ovz_id)
    assert everything(there) == everything(two4.tree)


def _same_second(path: Path) -> None:
    info = path.stat()
    path.write_text("CONTENT")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns + 1))


def _same_time(path: Path) -> None:
    info = path.stat()
    while path.stat().st_ctime_ns == info.st_ctime_ns:
        path.write_text("CONTENT")
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


ODD = ("file", "etc/odd \\#012\n ü")


@pytest.mark.parametrize("change", [_same_second, _same_time])
def test_a_change_that_size_and_time_do_not_tell_arrives(
    two: Two, change: Callable[[Path], None]
) -> None:
    for name in ODD:
        (two.tree / name).write_text("content")

    def both() -> None:
        for name in ODD:
            change(two.tree / name)

    send_both(two, both)
    assert (two.incoming / "file").read_text() == "CONTENT"
    assert everything(two.incoming) == everything(two.tree)


@pytest.mark.slow
def test_what_changed_visibly_costs_no_second_connection(two: Two) -> None:
    (two.tree / "file").write_text("content")
    os.link(two.tree / "file", two.tree / "second")
    two.transfer.send(two.ctid, KEY)
    (two.tree / "file").write_text("other content")
    before = len(two.server._running)
    two.transfer.send(two.ctid, KEY, final=True)
    assert len(two.server._running) == before + 1


@pytest.mark.slow
def test_a_first_pass_may_be_the_last(two: Two) -> None:
    plant(two.tree)
    two.transfer.send(two.ctid, KEY, final=True)
    two.transfer.verify(two.ctid, KEY)
    assert everything(two.incoming) == everything(two.tree)


def test_the_last_pass_is_connected_before_it_begins(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the path of a socket may be.
    scratch = tmp_path / ("x" * 150)
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (two.tree / "file").write_text("content")
    two.transfer.send(two.ctid, KEY)
    before = len(two.server._running)
    with two.transfer.connected(two.ctid, KEY) as finish:
        assert len(two.server._running) == before + 1
        # As a container does while it stops.
        (two.tree / "file").write_text("other content")
        finish()
    assert len(two.server._running) == before + 1
    two.transfer.verify(two.ctid, KEY)
    assert everything(two.incoming) == everything(two.tree)


def test_a_pass_that_is_given_up_sends_nothing(two: Two) -> None:
    (two.tree / "file").write_text("content")
    two.transfer.send(two.ctid, KEY)
    (two.tree / "file").write_text("other content")
    with (
        pytest.raises(KeyError),
        two.transfer.connected(two.ctid, KEY),
    ):
        raise KeyError
    assert (two.incoming / "file").read_text() == "content"
    with pytest.raises(exception.TransferError, match="not compared"):
        two.transfer.verify(two.ctid, KEY)
    # The other end is free for the next one.
    two.transfer.discard(KEY)


def test_who_cannot_be_reached_is_said_before_the_container_stops(two: Two) -> None:
    closed = two.to(port=1)
    closed._passes[KEY] = transfer._Pass()
    with (
        pytest.raises(exception.TransferError, match="nothing listens on port 1"),
        closed.connected(two.ctid, KEY),
    ):
        pytest.fail("it is not connected")


@pytest.mark.slow
def test_what_an_older_attempt_left_does_not_count(two: Two) -> None:
    (two.tree / "file").write_text("content")
    two.transfer.send(two.ctid, KEY)
    info = (two.tree / "file").stat()
    (two.incoming / "file").write_text("CONTENT")
    os.utime(two.incoming / "file", ns=(0, info.st_mtime_ns))
    again = two.to()
    again.send(two.ctid, KEY, final=True)
    assert everything(two.incoming) == everything(two.tree)


@pytest.mark.slow
def test_progress_rises_to_the_whole(two: Two) -> None:
    for number in range(8):
        (two.tree / str(number)).write_bytes(os.urandom(1 << 20))
    seen: list[float] = []
    threads = set()

    def note(fraction: float) -> None:
        seen.append(fraction)
        threads.add(threading.current_thread())

    two.to(bandwidth_kbps=8192).send(two.ctid, KEY, progress=note)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert any(0 < fraction < 1 for fraction in seen)
    assert threads == {threading.current_thread()}


def test_what_it_works_in_says_which_process_it_belongs_to(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    call = two.here.executor.call
    seen: list[str] = []

    def noting(verb: str, **options: object) -> object:
        seen.extend(os.listdir(place))
        return call(verb, **options)

    monkeypatch.setattr(two.here.executor, "call", noting)

    two.transfer.send(two.ctid, KEY, progress=lambda _: None)

    assert seen
    assert all(name.startswith(f"ovz-{os.getpid()}-") for name in seen)
    assert os.listdir(place) == []


# -- what is known before -----------------------------------------------------------


def test_a_host_says_what_it_is(two: Two) -> None:
    found = transfer.Transfer(two.here, two.peer).hello()
    expected = transfer.local_facts(two.there)
    assert dataclasses.replace(found, free_kb=0) == dataclasses.replace(
        expected, free_kb=0
    )
    assert found.host == "host2"
    assert transfer.refusal(transfer.local_facts(two.here), found) is None


def test_a_shared_disk_is_proven_and_an_own_one_too(two: Two) -> None:
    assert not two.transfer.is_shared(KEY)
    own = two.server.peer_of(two.sims[0])
    assert transfer.Transfer(two.here, own).is_shared(KEY)
    for sim in two.sims:
        assert [n for n in os.listdir(sim.private_dir) if n.startswith(".")] == []


def test_whether_claims_are_shared_is_seen_by_one(two: Two) -> None:
    uuid = KEY
    number = two.here.claims.claim(uuid, tuple)
    assert not two.transfer.sees_claim(number, uuid)
    own = transfer.Transfer(two.here, two.server.peer_of(two.sims[0]))
    assert own.sees_claim(number, uuid)
    assert not own.sees_claim("999", uuid)


@pytest.mark.slow
def test_discarding_is_done_once_or_twice(two: Two) -> None:
    two.transfer.send(two.ctid, KEY)
    assert transfer.incoming(two.there) == [KEY]
    for _ in range(2):
        two.transfer.discard(KEY)
        assert transfer.incoming(two.there) == []
    with pytest.raises(exception.TransferError, match="not compared"):
        two.transfer.verify(two.ctid, KEY)


def test_what_came_can_be_dropped_where_it_came(two: Two) -> None:
    two.transfer.send(two.ctid, KEY)
    transfer.drop(two.there, KEY)
    assert transfer.incoming(two.there) == []


# -- what goes wrong ----------------------------------------------------------------


def fails(two: Two, sentence: str, **changes: object) -> exception.TransferError:
    with pytest.raises(exception.TransferError, match=sentence) as caught:
        two.to(**changes).send(two.ctid, KEY)
    assert "127.0.0.1" in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_host_key_that_is_not_known_gets_nothing(two: Two, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    fails(two, "its host key is not in .*/empty", known_hosts=str(tmp_path / "empty"))
    assert transfer.incoming(two.there) == []


def test_a_host_key_that_changed_gets_nothing(two: Two, tmp_path: Path) -> None:
    with ssh.serving(tmp_path / "other") as other:
        peer = other.peer_of(two.sims[1])
        other.change_host_key()
        sender = transfer.Transfer(two.here, peer)
        with pytest.raises(exception.TransferError, match="another host key than"):
            sender.hello()


def test_a_key_that_is_not_let_in_is_named(two: Two) -> None:
    known = two.server.known_hosts.parent / "host_key"
    fails(two, "does not let .* in with .*host_key", ssh_key=str(known))


def test_a_port_that_nobody_listens_on_is_named(two: Two) -> None:
    # What ssh cannot look up in known_hosts, it does not reach in the first place.
    fails(two, "nothing listens on port 1 ", port=1)


def test_a_program_that_is_no_receiver_is_named(two: Two) -> None:
    receiver = two.sims[1].root / "receive"
    receiver.write_text("#!/bin/sh\necho Welcome\n")
    fails(two, "does not answer what it should")
    receiver.unlink()
    fails(two, "has no ovz-receive")


def test_another_version_is_refused_by_both(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "PROTOCOL", 2)
    fails(two, "version 1 of the transfer's protocol, and this host version 2")
    assert transfer.incoming(two.there) == []


def broken(two: Two, work: Callable[[], object], number: signal.Signals) -> None:
    """Do something to the server in the middle of a pass."""

    def break_off() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not list(two.incoming.glob(".big.*")):
            time.sleep(0.01)
        assert two.server.break_off(number)

    thread = threading.Thread(target=break_off)
    thread.start()
    try:
        work()
    finally:
        thread.join()


@pytest.mark.slow
def test_a_connection_that_breaks_off_is_said_and_the_pass_can_be_repeated(
    two: Two,
) -> None:
    (two.tree / "big").write_bytes(os.urandom(8 << 20))
    slow = two.to(bandwidth_kbps=1024)
    sentences = []

    def send() -> None:
        with pytest.raises(exception.TransferError) as caught:
            slow.send(two.ctid, KEY)
        sentences.append(str(caught.value))

    broken(two, send, signal.SIGKILL)
    assert "the connection broke off" in sentences[0]
    assert (two.tree / "big").exists()
    # As a service does that was started again; the other rsync has ended meanwhile.
    again = two.to()
    again.send(two.ctid, KEY, final=True)
    again.verify(two.ctid, KEY)
    assert everything(two.incoming) == everything(two.tree)


@pytest.mark.slow
def test_a_host_that_hangs_is_not_waited_for_for_ever(two: Two) -> None:
    (two.tree / "big").write_bytes(os.urandom(8 << 20))
    slow = two.to(bandwidth_kbps=1024, timeout=4.0)

    def send() -> None:
        with pytest.raises(exception.TransferError, match="did not end within 4 s"):
            slow.send(two.ctid, KEY)

    try:
        broken(two, send, signal.SIGSTOP)
    finally:
        two.server.break_off()


@AS_ROOT
def test_a_disk_that_fills_up_there_is_said(two: Two) -> None:
    (two.tree / "big").write_bytes(os.urandom(8 << 20))
    private = two.sims[1].private_dir
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "none", str(private)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(exception.PeerFull, match="has no room"):
            two.transfer.send(two.ctid, KEY)
        two.transfer.discard(KEY)
        assert transfer.incoming(two.there) == []
    finally:
        subprocess.run(["/bin/umount", "-l", str(private)], check=True)


def test_a_copy_that_differs_is_not_taken_for_one(two: Two) -> None:
    two.transfer.send(two.ctid, KEY)
    real = outgoing._Sender.send

    def spoil(self: object, listed: bool, gate: object, _began: object) -> object:
        done = real(self, listed, gate, None)
        (two.tree / "after").mkdir()
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outgoing._Sender, "send", spoil)
        with pytest.raises(exception.TransferError, match="not what the container is"):
            two.transfer.send(two.ctid, KEY, final=True)
    with pytest.raises(exception.TransferError, match="not compared"):
        two.transfer.verify(two.ctid, KEY)


# -- without any connection ---------------------------------------------------------


@pytest.fixture
def facts(node9: ovz_node.Node) -> transfer.Facts:
    return transfer.local_facts(node9)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"family": "vzctl 4"}, "vzctl is vzctl 7 here, and vzctl 4 on host"),
        ({"layout": "ploop"}, "layout is simfs here, and ploop"),
        ({"architecture": "aarch64"}, "architecture is .* and aarch64"),
        ({"guest_ids": (7, 7)}, r"root of a container .* and \(7, 7\)"),
        ({"free_kb": 99}, "takes 100 KiB, and host .* has 99"),
    ],
)
def test_hosts_that_differ_are_refused_with_the_reason(
    facts: transfer.Facts, changes: dict[str, object], sentence: str
) -> None:
    assert transfer.refusal(facts, facts, needed_kb=100) is None
    theirs = dataclasses.replace(facts, **changes)
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(transfer.refusal(facts, theirs, needed_kb=100))


def test_facts_can_be_carried(facts: transfer.Facts) -> None:
    carried = {**facts.as_dict(), "something": "new"}
    assert transfer.Facts.from_dict(carried) == facts


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"protocol": 2, "host": "h"}, "host h speaks version 2"),
        ({}, "makes no sense"),
        ({"protocol": 1}, "makes no sense"),
        ({"protocol": 1, "guest_ids": 5}, "makes no sense"),
    ],
)
def test_facts_that_are_none_are_refused(
    found: dict[str, object], sentence: str
) -> None:
    with pytest.raises(exception.TransferError, match=sentence):
        transfer.Facts.from_dict(found)


def test_after_the_clock_was_set_back_all_is_compared_by_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int | None] = []

    def call(_verb: str, **kwargs: Any) -> dict[str, Any]:
        asked.append(kwargs["since"])
        return {"code": 0, "stderr": "", "timed_out": False, "since": 10**18}

    now = [10**9 + 0.5]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "monotonic", lambda: now[0] - 1000)
    way = transfer.Transfer(
        SimpleNamespace(
            executor=SimpleNamespace(call=call),
            family=SimpleNamespace(tree_dir=""),
            paths=SimpleNamespace(private="/vz/private"),
        ),
        transfer.Peer("192.0.2.1", "nova", "/key", "/known"),
    )
    monkeypatch.setattr(way, "_ask", lambda *words, **_: {})
    way._facts = SimpleNamespace(confined=True)

    way.send("101", KEY)
    now[0] += 3600
    way.send("101", KEY)
    monkeypatch.setattr(time, "monotonic", lambda: now[0] - 1000 + 0.5)
    way.send("101", KEY)

    assert asked == [None, 10**18, 0]
