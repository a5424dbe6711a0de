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

"""openvz/nethook.py: what is written for vzctl, and whose it is."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import nethook


@pytest.fixture
def program(tmp_path: pathlib.Path) -> str:
    """A hook that notes its arguments."""
    path = tmp_path / "bin/ovz-net-hook"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/ran\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def vz(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "vz/conf").mkdir(parents=True)
    return tmp_path / "vz"


def script(path: pathlib.Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def snapshot(vz: pathlib.Path) -> dict[str, str]:
    files = [path for path in vz.rglob("*") if path.is_file()]
    return {str(path.relative_to(vz)): path.read_text() for path in files}


@pytest.mark.parametrize("major", [4, 7, 9])
def test_it_is_missing_then_installed_then_removed(
    vz: pathlib.Path, program: str, major: int
) -> None:
    missing = nethook.hook_missing(str(vz), major)
    assert missing is not None
    assert "run 'ovz-net-hook install'" in missing
    nethook.install(str(vz), major, program)
    assert nethook.hook_missing(str(vz), major) is None
    once = snapshot(vz)
    nethook.install(str(vz), major, program)
    assert snapshot(vz) == once
    nethook.remove(str(vz), major)
    assert snapshot(vz) == {}
    nethook.remove(str(vz), major)


def test_the_other_settings_stay(vz: pathlib.Path, program: str) -> None:
    settings = vz / "vznet.conf"
    settings.write_text('# a comment\n#EXTERNAL_SCRIPT="/x"\nVMBR="br0"')
    nethook.install(str(vz), 4, program)
    ours = f'EXTERNAL_SCRIPT="{program}"\n'
    kept = '# a comment\n#EXTERNAL_SCRIPT="/x"\nVMBR="br0"\n'
    assert settings.read_text() == kept + ours
    assert stat.S_IMODE(settings.stat().st_mode) == 0o644
    nethook.remove(str(vz), 4)
    assert settings.read_text() == kept


def test_a_program_that_has_moved_is_named_anew(vz: pathlib.Path, program: str) -> None:
    nethook.install(str(vz), 4, "/gone/ovz-net-hook")
    missing = nethook.hook_missing(str(vz), 4)
    assert missing is not None
    assert "/gone/ovz-net-hook" in missing
    nethook.install(str(vz), 4, program)
    assert (vz / "vznet.conf").read_text() == f'EXTERNAL_SCRIPT="{program}"\n'


@pytest.mark.parametrize(
    "line",
    [
        "EXTERNAL_SCRIPT={}",
        'EXTERNAL_SCRIPT="{}"',
        "EXTERNAL_SCRIPT='{}' # ours",
        "  export EXTERNAL_SCRIPT={}",
        'EXTERNAL_SCRIPT=/other\nEXTERNAL_SCRIPT="{}"',
    ],
)
def test_a_setting_is_read_as_the_shell_does(
    vz: pathlib.Path, program: str, line: str
) -> None:
    settings = vz / "vznet.conf"
    settings.write_text(line.format(program) + "\n")
    shell = f'. {settings}; printf %s "$EXTERNAL_SCRIPT"'
    told = subprocess.run(
        ["/bin/sh", "-c", shell], capture_output=True, text=True, check=True
    )
    assert told.stdout == program
    assert nethook.hook_missing(str(vz), 4) is None


def test_the_setting_of_somebody_else_stays(
    vz: pathlib.Path, program: str, tmp_path: pathlib.Path
) -> None:
    other = tmp_path / "other"
    script(other, "ip link set $3 up")
    (vz / "vznet.conf").write_text(f"EXTERNAL_SCRIPT={other}\n")
    before = snapshot(vz)
    with pytest.raises(exception.OvzError, match=f"have that one run '{program} "):
        nethook.install(str(vz), 4, program)
    nethook.remove(str(vz), 4)
    assert snapshot(vz) == before
    missing = nethook.hook_missing(str(vz), 4)
    assert missing is not None
    assert "does not run it" in missing
    script(other, f'"{program}" "$@"')  # it does what was said
    assert nethook.hook_missing(str(vz), 4) is None


def test_the_action_scripts_run_the_program(
    vz: pathlib.Path, program: str, tmp_path: pathlib.Path
) -> None:
    nethook.install(str(vz), 7, program)
    for name in ("vps.mount", "vps.umount"):
        subprocess.run([str(vz / "conf" / name)], check=True)
    assert (tmp_path / "ran").read_text() == "mount\numount\n"


@pytest.mark.parametrize("name", ["vps.mount", "vps.umount"])
def test_the_action_script_of_somebody_else_stays(
    vz: pathlib.Path, program: str, name: str
) -> None:
    script(vz / "conf" / name, "# ovz-net-hook mount\nexit 0")
    before = snapshot(vz)
    action = name.removeprefix("vps.")
    with pytest.raises(exception.OvzError, match=f"'{program} {action}' to it"):
        nethook.install(str(vz), 7, program)
    assert snapshot(vz) == before
    assert nethook.hook_missing(str(vz), 7) is not None
    nethook.remove(str(vz), 7)
    assert snapshot(vz) == before


def test_an_action_script_may_do_more(vz: pathlib.Path, program: str) -> None:
    for action in ("mount", "umount"):
        script(vz / "conf" / f"vps.{action}", f"logger x\n{program} {action} || true")
    assert nethook.hook_missing(str(vz), 7) is None
    script(vz / "conf/vps.umount", f"{program} mount")
    assert nethook.hook_missing(str(vz), 7) is not None
    script(vz / "conf/vps.umount", f"{program} umount")
    (vz / "conf/vps.umount").chmod(0o644)
    assert nethook.hook_missing(str(vz), 7) is not None


def test_a_program_that_is_gone_is_missed(vz: pathlib.Path, program: str) -> None:
    nethook.install(str(vz), 7, program)
    os.unlink(program)
    missing = nethook.hook_missing(str(vz), 7)
    assert missing is not None
    assert "that is there" in missing


@pytest.mark.parametrize("program_is", ["gone", "broken"])
def test_every_container_of_the_node_starts_without_the_program(
    vz: pathlib.Path, program: str, program_is: str
) -> None:
    nethook.install(str(vz), 7, program)
    os.unlink(program)
    if program_is == "broken":
        script(pathlib.Path(program), "exit 1")
    for name in ("vps.mount", "vps.umount"):
        subprocess.run([str(vz / "conf" / name)], check=True)


@pytest.mark.parametrize("major", [4, 7])
def test_a_write_that_fails_leaves_nothing(
    vz: pathlib.Path, program: str, monkeypatch: pytest.MonkeyPatch, major: int
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        nethook.install(str(vz), major, program)
    assert snapshot(vz) == {}
