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

"""What another host's rsync can do on this one, with a real rsync at each end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import incoming, permit, reception

KEY = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"
PROJECT = Path(__file__).resolve().parents[3]
AS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("rsync") is None,
    reason="only root can confine rsync, and rsync must be installed",
)

_SHELL = """#!{python} -S
import sys
sys.path[:] = {path!r}
from ovznovadriver.openvz import reception
sys.exit(reception.receive(base={base!r}, key={key!r}, listed=True, timeout=60,
                           direct=True, words=sys.argv[2:]))
"""


@pytest.fixture
def private(tmp_path: Path) -> Path:
    private = tmp_path / "private"
    private.mkdir()
    return private


def attack(private: Path, source: Path, *options: str, target: str = "peer::tree/"):
    """Send what somebody sends who has taken the other host over."""
    shell = private.parent / "shell"
    path = [str(PROJECT), *filter(None, sys.path)]
    shell.write_text(
        _SHELL.format(python=sys.executable, path=path, base=str(private), key=KEY)
    )
    shell.chmod(0o755)
    argv = ["rsync", f"--rsh={shell}", "--timeout=30", *options, f"{source}/", target]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@AS_ROOT
def test_a_tree_is_taken_in_and_listed(private: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to("/etc/passwd")
    done = attack(private, tmp_path / "source", "-a")
    assert done.returncode == 0, done.stderr
    place = private / f".incoming-{KEY}"
    assert os.readlink(place / "tree" / "link") == "/etc/passwd"
    with incoming.held(str(private), KEY) as (_parent, holder):
        found = incoming.list_received(holder)
    assert f"ovz-listing {found.digest} {found.entries}\n" in done.stderr


@AS_ROOT
@pytest.mark.parametrize(
    "option",
    [
        *("--inplace", "--append", "--write-devices", "--log-file=x", "--backup"),
        *("--partial-dir=x", "--temp-dir=x", "--link-dest=/", "--copy-dest=/"),
        *("--delay-updates", "--fake-super", "--keep-dirlinks", "--chmod=777"),
        *("--usermap=*:0", "--chown=0:0", "--mkpath"),
    ],
)
def test_an_option_that_the_driver_does_not_use_is_refused(
    private: Path, tmp_path: Path, option: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("x")
    # -M says it to the other end alone, whatever this one makes of it.
    done = attack(private, tmp_path / "source", "-a", f"-M{option}")
    assert done.returncode == 4, (done.returncode, done.stderr)
    assert "refuse" in done.stderr


@AS_ROOT
def test_no_link_leads_out(private: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (private / f".incoming-{KEY}" / "tree").mkdir(parents=True)
    (private / f".incoming-{KEY}" / "tree" / "dir").symlink_to(tmp_path / "outside")
    (tmp_path / "source" / "dir").mkdir(parents=True)
    (tmp_path / "source" / "dir" / "file").write_text("x")
    attack(private, tmp_path / "source", "-rR", "--no-implied-dirs")
    attack(private, tmp_path / "source", "-a", target="peer::tree/dir/")
    attack(private, tmp_path / "source", "-a", target="peer::tree/../../")
    attack(private, tmp_path / "source", "-a", target=f"peer::tree/{tmp_path}/outside/")
    assert list((tmp_path / "outside").iterdir()) == []
    assert sorted(os.listdir(private)) == [f".incoming-{KEY}"]


@AS_ROOT
@pytest.mark.parametrize("target", ["peer::other/", "peer::/", f"peer::{KEY}/"])
def test_there_is_no_other_module(private: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "source").mkdir()
    assert attack(private, tmp_path / "source", "-a", target=target).returncode != 0


@AS_ROOT
def test_nothing_can_be_fetched(private: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("x")
    assert attack(private, tmp_path / "source", "-a").returncode == 0
    shell = tmp_path / "shell"
    argv = ["rsync", f"--rsh={shell}", "-a", "peer::tree/", str(tmp_path / "got")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "write only" in done.stdout + done.stderr
    assert not (tmp_path / "got" / "file").exists()


@pytest.mark.parametrize("key", ["..", "x", f"{KEY}/tree"])
def test_a_key_that_is_none_is_refused(private: Path, key: str) -> None:
    with pytest.raises(exception.CommandRefused, match="not the UUID"):
        reception.receive(
            base=str(private), key=key, listed=False, timeout=1, direct=True
        )
    assert list(private.iterdir()) == []


def test_a_place_that_rsync_would_misread_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / "a\nuid = 1"
    odd.mkdir()
    with pytest.raises(exception.CommandRefused, match="cannot stand"):
        reception.receive(base=str(odd), key=KEY, listed=False, timeout=1, direct=True)


@pytest.mark.parametrize("timeout", [0, -1, permit.TIMEOUT_LIMIT + 1])
def test_a_time_limit_that_is_none_is_refused(private: Path, timeout: float) -> None:
    with pytest.raises(exception.CommandRefused, match="time limit"):
        reception.receive(
            base=str(private), key=KEY, listed=False, timeout=timeout, direct=True
        )


def test_a_place_that_others_can_change_is_refused(private: Path) -> None:
    private.chmod(0o777)
    with pytest.raises(exception.CommandRefused):
        reception.receive(
            base=str(private), key=KEY, listed=False, timeout=1, direct=False
        )
    assert list(private.iterdir()) == []


# -- how rsync is started; what it then does is tried above -------------------------


class Rsync:
    """Stands in for the program, whose other end there is not.

    :ivar argv: how it was started
    :ivar settings: what rsyncd.conf said then
    """

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.argv: list[str] = []
        self.settings = ""

    def __call__(
        self,
        argv: list[str],
        *,
        timeout: float,
        env: dict[str, str],
        cwd: str,
        keep: tuple[int, ...],
    ) -> int:
        self.argv = list(argv)
        settings = Path(cwd) / "rsyncd.conf"
        self.settings = settings.read_text() if settings.exists() else ""
        (Path(cwd) / incoming.TREE / "file").write_text("came")
        return self.code


def started(
    monkeypatch: pytest.MonkeyPatch, private: Path, *, confined: bool, code: int = 0
) -> Rsync:
    """Let rsync be started, as root or not."""
    rsync = Rsync(code)
    monkeypatch.setattr(reception.processes, "hand_over", rsync)
    monkeypatch.setattr(reception, "is_confined", lambda: confined)
    monkeypatch.setattr(permit, "tool", lambda name, direct: f"/usr/bin/{name}")
    found = reception.receive(
        base=str(private),
        key=KEY,
        listed=True,
        timeout=60,
        direct=True,
        words=["--server"],
    )
    assert found == code
    return rsync


def test_as_root_it_is_a_daemon_in_the_tree_alone(
    private: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rsync = started(monkeypatch, private, confined=True)

    place = private / f".incoming-{KEY}"
    settings = f"--config={place}/rsyncd.conf"
    assert rsync.argv == ["/usr/bin/rsync", "--server", "--daemon", settings, "."]
    lines = rsync.settings.splitlines()
    assert "use chroot = yes" in lines
    assert "write only = yes" in lines
    assert f"path = {place}/tree" in lines
    assert capsys.readouterr().err.startswith("ovz-listing ")


def test_without_root_it_is_what_the_other_end_asks_for(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rsync = started(monkeypatch, private, confined=False)

    assert rsync.argv == ["/usr/bin/rsync", "--server"]
    assert rsync.settings == ""


def test_what_came_badly_is_not_listed(
    private: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started(monkeypatch, private, confined=True, code=23)

    assert capsys.readouterr().err == ""
