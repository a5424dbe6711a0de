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

"""What the root side makes of a request to send a tree; no process is started."""

from __future__ import annotations

import os
import pwd
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import gate, listing, outgoing, permit, privileged
from ovznovadriver.openvz.tree import OPEN_DIR

KEY = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"
PROGRAMS = {name: f"/usr/bin/{name}" for name in permit.SENDERS}
PEER = {
    "host": "192.0.2.7",
    "user": "nova",
    "ssh_key": "/var/lib/nova/key",
    "known_hosts": "/etc/nova/known_hosts",
    "port": 2222,
    "bandwidth_kbps": 0,
    "timeout": 60.0,
    "receiver": "ovz-receive",
    "confined": True,
}


class Rsync:
    """Notes what would run, and answers as rsync does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[tuple[list[str], bytes | None]] = []
        self.said = b""
        self.code = 0
        self.stderr: str | None = None

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None,
        timeout: float,
        output: Callable[[bytes], object],
    ) -> tuple[int, str, bool]:
        self.calls.append((list(argv), stdin))
        for byte in self.said:
            output(bytes([byte]))
        stderr = self.stderr
        if stderr is None:
            top = os.open(self.root, OPEN_DIR)
            found = listing.list_tree(top)
            os.close(top)
            stderr = f"noise\novz-listing {found.digest} {found.entries}\n"
        return self.code, stderr, False


@pytest.fixture
def rsync(tmp_path: Path) -> Rsync:
    root = tmp_path / "private" / "101"
    root.mkdir(parents=True)
    (root / "file").write_text("x")
    return Rsync(root)


def send(rsync: Rsync, **changes: Any) -> dict[str, Any]:
    usual = {
        "base": str(rsync.root.parent),
        "ctid": "101",
        "sub": "",
        "key": KEY,
        "peer": PEER,
        "owner": os.geteuid(),
        "final": True,
        "since": None,
        "progress": None,
        "gate": None,
        "holes": True,
        "programs": PROGRAMS,
        "run": rsync,
    }
    return outgoing.send_tree(**{**usual, **changes})


def test_rsync_copies_everything_to_the_nanosecond(rsync: Rsync) -> None:
    reply = send(rsync)
    ((argv, stdin),) = rsync.calls
    assert argv[0] == "/usr/bin/rsync"
    assert {"-aHAXx", "--numeric-ids", "--delete", "--modify-window=-1"} <= set(argv)
    assert "--sparse" in argv
    assert argv[-2:] == [f"{rsync.root}/", "peer::tree/"]
    assert f"--rsync-path=ovz-receive --protocol=1 receive --list {KEY}" in argv
    assert stdin is None
    assert (reply["same"], reply["ours"], reply["theirs"]) == (True, 2, 2)


def test_ssh_asks_nothing_trusts_nobody_and_forwards_nothing(rsync: Rsync) -> None:
    send(rsync)
    (shell,) = [word for word in rsync.calls[0][0] if word.startswith("--rsh=")]
    words = shell.removeprefix("--rsh=").split(" ")
    assert words[0] == "/usr/bin/ssh"
    assert {
        *("-T", "-x", "-a", "-p2222", "-oBatchMode=yes", "-oHostName=192.0.2.7"),
        *("-oStrictHostKeyChecking=yes", "-oUserKnownHostsFile=/etc/nova/known_hosts"),
        *("-oGlobalKnownHostsFile=none", "-oIdentityFile=/var/lib/nova/key"),
        *("-oIdentitiesOnly=yes", "-oIdentityAgent=none", "-oUser=nova"),
        *("-oControlPath=none", "-oClearAllForwardings=yes"),
    } <= set(words)
    assert words[words.index("-F") + 1] == "none"


def test_ssh_runs_as_the_caller(rsync: Rsync, monkeypatch: pytest.MonkeyPatch) -> None:
    user = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: user.pw_uid + 1)
    send(rsync, owner=user.pw_uid)
    (shell,) = [word for word in rsync.calls[0][0] if word.startswith("--rsh=")]
    become = f"--reuid={user.pw_uid} --regid={user.pw_gid} --init-groups --"
    assert shell.startswith(f"--rsh=/usr/bin/setpriv {become} /usr/bin/ssh -F none")
    send(rsync, owner=user.pw_uid, gate="/tmp/x/gate")
    assert f"{become} {sys.executable} -I -S {gate.__file__}" in rsync.calls[1][0][-4]
    with pytest.raises(exception.CommandRefused, match="socket"):
        send(rsync, gate="/tmp/x y")
    with pytest.raises(exception.CommandRefused, match="no user"):
        send(rsync, owner=4_000_000_000)


@pytest.mark.parametrize("name", ["host", "user", "ssh_key", "known_hosts", "receiver"])
@pytest.mark.parametrize(
    "value",
    ["", "-oProxyCommand=x", "a b", "a\nb", "a'b", 'a"b', "a;b", "%h", "$x", "a=b", 5],
)
def test_a_word_that_could_be_taken_for_another_is_refused(
    rsync: Rsync, name: str, value: object
) -> None:
    with pytest.raises(exception.CommandRefused, match="of a host"):
        send(rsync, peer={**PEER, name: value})
    assert rsync.calls == []


@pytest.mark.parametrize("name", ["port", "bandwidth_kbps", "timeout"])
def test_a_number_is_a_number(rsync: Rsync, name: str) -> None:
    with pytest.raises(ValueError, match="1 -x"):
        send(rsync, peer={**PEER, name: "1 -x"})
    assert rsync.calls == []


def test_a_limit_of_the_network_is_rsyncs(rsync: Rsync) -> None:
    send(rsync, peer={**PEER, "bandwidth_kbps": 300, "confined": False})
    assert "--bwlimit=300" in rsync.calls[0][0]
    assert rsync.calls[0][0][-1] == "peer:tree/"


def test_no_hole_comes_into_being_where_none_may_be(rsync: Rsync) -> None:
    send(rsync, holes=False)
    assert not {"--sparse", "-S", "-aHAXSx"} & set(rsync.calls[0][0])


def test_a_pass_of_a_running_container_is_not_listed(
    rsync: Rsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "sync", lambda: synced.append(time.time_ns()))
    before = time.time_ns()
    reply = send(rsync, final=False)
    assert "--list" not in " ".join(rsync.calls[0][0])
    assert before - 10**9 < reply["since"] < synced[0] - 10**7
    assert send(rsync, final=False, since=5)["since"] == 5


def test_what_changed_without_a_trace_is_compared_with_what_is_above_it(
    rsync: Rsync,
) -> None:
    (rsync.root / "dir").mkdir()
    (rsync.root / "dir" / "seen").write_text("x")
    (rsync.root / "dir" / "un\n\\#012").write_text("x")
    rsync.said = b"  5  10%  1kB/s\rovz:<f+++ file\novz:<f..t. dir/seen\n"
    send(rsync, since=0)
    (_, none), (argv, stdin) = rsync.calls
    assert none is None
    assert "--checksum" in argv
    assert "--delete" not in argv
    assert (stdin or b"").split(b"\0") == [b".", b"dir", b"dir/un\n\\#012"]


def test_names_are_read_as_rsync_writes_them(rsync: Rsync) -> None:
    (rsync.root / "un\n\\#012").write_text("x")
    rsync.said = b"ovz:<f+++ file\novz:<f+++ un\\#012\\#134#012\n"
    send(rsync, since=0)
    assert len(rsync.calls) == 1


def test_what_differs_is_said(rsync: Rsync) -> None:
    rsync.stderr = f"ovz-listing {'0' * 64} 7\n"
    reply = send(rsync)
    assert (reply["same"], reply["theirs"], reply["ours"]) == (False, 7, 2)
    for silent in ("", "ovz-listing\n", "ovz-listing x y\n"):
        rsync.stderr = silent
        assert send(rsync)["same"] is None


def test_after_a_failure_nothing_is_compared(rsync: Rsync) -> None:
    rsync.code = 12
    reply = send(rsync, since=0)
    assert (reply["code"], reply["same"], len(rsync.calls)) == (12, None, 1)


def test_after_a_proof_nothing_older_is_in_doubt(rsync: Rsync) -> None:
    before = time.time_ns()
    proven = send(rsync, since=0)["since"]
    assert before - 10**9 < proven < time.time_ns()
    rsync.stderr = "ovz-listing 0 1\n"
    assert send(rsync, since=5)["since"] == 5


def test_only_the_pass_itself_waits_for_the_container(rsync: Rsync) -> None:
    send(rsync, gate="/tmp/x/gate", since=0)
    (first, _), (second, _) = rsync.calls
    assert f"{gate.__file__} /tmp/x/gate /usr/bin/ssh" in " ".join(first)
    # What is compared afterwards has nothing to wait for.
    assert gate.__file__ not in " ".join(second)


def test_progress_goes_into_a_fifo_of_the_caller_and_never_waits(
    rsync: Rsync, tmp_path: Path
) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    rsync.said = b"\r".join(b"  5  %d%%  1kB/s " % n for n in (1, 7, 7, 3, 99)) + b"\r"
    send(rsync, progress=str(path))
    assert os.read(pipe, 100) == b"1\n7\n99\n"
    os.write(pipe, bytes(65536))
    send(rsync, progress=str(path))
    os.close(pipe)
    with pytest.raises(exception.TransferError, match="nobody reads"):
        send(rsync, progress=str(path))


def test_progress_goes_nowhere_else(rsync: Rsync, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("fifo")
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", "link"):
        with pytest.raises(exception.UnsafePath):
            send(rsync, progress=str(tmp_path / name))
    with pytest.raises(exception.UnsafePath):
        send(rsync, progress=str(tmp_path / "fifo"), owner=os.geteuid() + 1)
    assert (tmp_path / "file").read_text() == "kept"
    assert rsync.calls == []


def test_a_request_is_judged_on_the_root_side(
    rsync: Rsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a service that has been taken over might send."""
    monkeypatch.setenv("SUDO_UID", "1000")
    usual = {"base": "/vz/private", "ctid": "101", "sub": "", "key": KEY}
    usual |= {"peer": PEER, "owner": 1000, "final": True, "since": None, "gate": None}
    usual["holes"] = True
    monkeypatch.setattr(permit, "check_trusted_path", lambda path, **_: path)
    for changes in (
        {"ctid": "1"},
        {"base": "/dev/shm"},
        {"owner": 0},
        {"owner": 1001},
        {"peer": {**PEER, "timeout": 1e9}},
        {"key": "../101"},
    ):
        with pytest.raises(exception.CommandRefused):
            privileged.result(
                privileged.serve(
                    "send_tree", {**usual, "progress": None, **changes}, direct=False
                )
            )
