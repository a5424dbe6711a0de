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

"""ovz-console: its options, and why it does not begin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nova.conf
import pytest

from ovznovadriver import exception
from ovznovadriver.cmd import console
from tests.simulator.node import SimNode


def _config(directory: Path, *lines: str) -> list[str]:
    path = directory / "nova.conf"
    path.write_text("\n".join(lines))
    return ["--config-file", str(path)]


def test_it_reads_novas_own_options(tmp_path: Path) -> None:
    args = _config(
        tmp_path,
        "[DEFAULT]\nhost = node7\ncompute_driver = openvz.OvzDriver",
        "[serial_console]\nenabled = true\nport_range = 5:9",
        "proxyclient_address = 192.0.2.7",
        "[openvz]\nconsole_log_max_kb = 7\nconsole_group = me\nconsole_interval = 3",
        "console_socket = /x/s\nconsole_log_dir = /x/l",
    )
    options = console.service_options(console.read_options(args))
    assert (options.host, options.socket, options.group) == ("node7", "/x/s", "me")
    assert options.interval == 3
    settings = options.settings
    assert (settings.log_dir, settings.log_limit) == ("/x/l", 7 * 1024)
    assert (settings.address, settings.ports) == ("192.0.2.7", (5, 9))


def test_what_begins_with_an_option_of_novas_is_read(tmp_path: Path) -> None:
    args = _config(
        tmp_path,
        "[DEFAULT]\nstate_path = /x\nmy_ip = 192.0.2.7",
        "[serial_console]\nenabled = true\nproxyclient_address = $my_ip",
        "[openvz]\nconsole_socket = $state_path/s",
    )
    options = console.service_options(console.read_options(args))
    assert (options.socket, options.settings.address) == ("/x/s", "192.0.2.7")


def test_without_options_it_has_novas_defaults(tmp_path: Path) -> None:
    found = console.read_options(_config(tmp_path))
    for name in ("host", "my_ip", "state_path"):
        assert found[name] == nova.conf.CONF[name], name
    for name in ("enabled", "port_range", "proxyclient_address"):
        ours, theirs = found.serial_console[name], nova.conf.CONF.serial_console[name]
        assert ours == theirs, name
    assert console.service_options(found).settings.address is None


def test_it_finds_what_is_nova_computes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".nova").mkdir()
    (tmp_path / ".nova/nova-compute.conf").write_text("[DEFAULT]\nhost = node7\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert console.read_options([]).host == "node7"


@pytest.mark.parametrize("text", ["1", "9:5", "5:5", "0:9", "1:99999", "a:b", "-1:5"])
def test_a_port_range_that_is_none_is_said(tmp_path: Path, text: str) -> None:
    args = _config(tmp_path, f"[serial_console]\nport_range = {text}")
    with pytest.raises(exception.ConfigurationError, match="port_range"):
        console.service_options(console.read_options(args))


def test_without_vzctl_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = _config(tmp_path, f"[openvz]\nprogram_dirs = {tmp_path}")
    assert console.main(args) == 1
    assert "install it, or set [openvz]program_dirs" in capsys.readouterr().err


def test_with_an_unknown_vzctl_it_says_what_to_do(
    tmp_path: Path, sim4: SimNode, capsys: pytest.CaptureFixture[str]
) -> None:
    sim4.fail("vzctl", rc=0)
    vzctl = sim4.bin_dir / "vzctl"
    vzctl.unlink()
    vzctl.write_text("#!/bin/sh\necho vzctl version 5.0\n")
    vzctl.chmod(0o755)
    args = _config(tmp_path, f"[openvz]\nprogram_dirs = {sim4.bin_dir}")
    assert console.main(args) == 1
    assert "not supported" in capsys.readouterr().err


def test_a_socket_that_cannot_be_made_is_said(
    tmp_path: Path, sim4: SimNode, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    args = _config(
        tmp_path,
        f"[openvz]\nprogram_dirs = {sim4.bin_dir}\nconsole_group =",
        f"console_log_dir = {tmp_path / 'logs'}",
        f"console_socket = {tmp_path / 'file' / 's'}",
    )
    assert console.main(args) == 1
    assert "ovz-console: " in capsys.readouterr().err


def test_nova_is_not_imported() -> None:
    program = (
        "import sys, ovznovadriver.cmd.console;"
        "sys.exit('nova.conf' in sys.modules or 'nova.virt' in sys.modules)"
    )
    project = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=project, check=False)
    assert done.returncode == 0
