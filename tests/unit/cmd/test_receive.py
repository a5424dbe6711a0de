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

"""What ovz-receive lets another host ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nova.conf import base, paths, workarounds
from oslo_config import cfg

from ovznovadriver import exception
from ovznovadriver.cmd import receive
from ovznovadriver.openvz import ctid, incoming, processes, reception
from tests.simulator.node import SimNode

KEY = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"


@pytest.fixture
def conf(sim4: SimNode, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.delenv("SSH_ORIGINAL_COMMAND", raising=False)
    path = sim4.root / "nova.conf"
    path.write_text(f"[openvz]\nvz_conf = {sim4.root}/etc/vz/vz.conf\n")
    return ["--config-file", str(path)]


def refused(args: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        receive.main(args, direct=True)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--protocol=1"],
        ["hello"],
        ["--protocol=1", "sh"],
        ["--protocol=one", "hello"],
        ["--protocol=1", "discard"],
        ["--protocol=1", "discard", KEY, KEY],
        ["--protocol=1", "receive", "--l", KEY],
        ["--protocol=1", "--config-file", "/tmp/own", "hello"],
        ["--protocol=1", "discard", "--config-file=/tmp/own", KEY],
    ],
)
def test_what_is_no_question_is_refused(
    conf: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused([*conf, *words])
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", " ".join(["ovz-receive", *words]))
    refused(conf)


def test_where_ssh_permits_one_command_the_configuration_is_not_the_others_to_choose(
    conf: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "SSH_ORIGINAL_COMMAND", "ovz-receive --config-file /tmp/own --protocol=1 hello"
    )
    refused(conf)


def test_without_options_it_has_novas_defaults(conf: list[str]) -> None:
    theirs = cfg.ConfigOpts()
    for module in (base, paths, workarounds):
        module.register_opts(theirs)
    theirs([])
    ours = receive._read_options(conf)
    for name in ("pybasedir", "state_path", "rootwrap_config"):
        assert ours[name] == theirs[name], name
    assert ours.workarounds.disable_rootwrap == theirs.workarounds.disable_rootwrap


@pytest.mark.parametrize("form", ["--config-dir DIR", "--config-dir=DIR", "=FILE", ""])
def test_it_is_told_where_the_configuration_is_as_nova_compute_is(
    conf: list[str],
    sim4: SimNode,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = sim4.root / ".nova"
    place.mkdir()
    # By itself it finds the one that is nova-compute's alone, too.
    Path(conf[1]).rename(place / "nova-compute.conf")
    monkeypatch.setenv("HOME", str(sim4.root) if not form else "/nowhere")
    form = form.replace("DIR", str(place))
    form = form.replace("=FILE", f"--config-file={place}/nova-compute.conf")
    with incoming.held(str(sim4.private_dir), KEY):
        pass
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", f"x --protocol=1 discard {KEY}")
    assert receive.main(form.split(), direct=True) == 0, capsys.readouterr().err
    assert not (sim4.private_dir / f".incoming-{KEY}").exists()


@pytest.mark.parametrize("forced", [False, True])
def test_what_came_is_dropped(
    conf: list[str],
    sim4: SimNode,
    forced: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with incoming.held(str(sim4.private_dir), KEY):
        pass
    words = ["--protocol=1", "discard", KEY]
    if forced:
        monkeypatch.setenv("SSH_ORIGINAL_COMMAND", " ".join(["/any/thing", *words]))
        words = []
    assert receive.main([*conf, *words], direct=True) == 0
    assert json.loads(capsys.readouterr().out) == {"done": True}
    assert not (sim4.private_dir / f".incoming-{KEY}").exists()


def test_a_proof_is_looked_for(
    conf: list[str], sim4: SimNode, capsys: pytest.CaptureFixture[str]
) -> None:
    name = incoming.plant_proof(dirs={"private": str(sim4.private_dir)})
    for found in (True, False):
        assert receive.main([*conf, "--protocol=1", "look", name], direct=True) == 0
        assert json.loads(capsys.readouterr().out) == {"found": found}
        (sim4.private_dir / name).unlink(missing_ok=True)


def test_what_a_host_has_claimed_for_a_server_is_told(
    conf: list[str], sim4: SimNode, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = sim4.root / "claims"
    with Path(conf[1]).open("a") as file:
        file.write(f"lock_dir = {claims}\n")
    ctid.Claims(str(claims), "host1").claim(KEY, tuple)
    for host, told in (("host1", ["101"]), ("other", [])):
        words = [*conf, "--protocol=1", "claims", KEY, host]
        assert receive.main(words, direct=True) == 0
        assert json.loads(capsys.readouterr().out) == {"claims": told}


def test_another_version_is_refused_before_anything_is_done(
    conf: list[str], sim4: SimNode, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--protocol=2", "receive", KEY]
    assert receive.main([*conf, *words], direct=True) == receive.OTHER_PROTOCOL
    assert "version 1" in capsys.readouterr().err
    assert not (sim4.private_dir / f".incoming-{KEY}").exists()


@pytest.mark.parametrize("words", [["discard", "../101"], ["look", "101"]])
def test_what_goes_wrong_is_one_sentence(
    conf: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert receive.main([*conf, "--protocol=1", *words], direct=True) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("ovz-receive: ")
    assert said.err.count("\n") == 1


def test_who_is_not_root_hands_over_to_the_root_helper(
    conf: list[str], sim4: SimNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def hand_over(argv: list[str], *, timeout: float, env: dict[str, str]) -> int:
        ran.append(argv)
        assert timeout > 7200
        return 7

    monkeypatch.setattr(processes, "hand_over", hand_over)
    words = ["--protocol=1", "receive", "--list", KEY, "--server", "--daemon", "."]
    assert receive.main([*conf, *words], direct=False) == 7
    helper = ["sudo", "nova-rootwrap", "/etc/nova/rootwrap.conf", "ovz-privileged"]
    # Nothing of what the other end's rsync says goes on to root.
    base = f"--base={sim4.private_dir}"
    assert ran == [[*helper, "receive", base, "--timeout=7200", "--list", KEY]]


def test_without_rootwrap_sudo_is_the_root_helper(
    conf: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(conf[1])
    path.write_text(path.read_text() + "[workarounds]\ndisable_rootwrap = True\n")
    ran: list[str] = []
    monkeypatch.setattr(processes, "hand_over", lambda argv, **_: ran.extend(argv) or 0)
    receive.main([*conf, "--protocol=1", "receive", KEY], direct=False)
    assert ran[:2] == ["sudo", "ovz-privileged"]


def test_the_words_of_rsync_reach_it_where_nothing_is_guarded(
    conf: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(reception, "receive", lambda **given: seen.update(given) or 0)
    words = ["--protocol=1", "receive", KEY, "--server", "-logD", ".", "tree/"]
    assert receive.main([*conf, *words], direct=True) == 0
    assert seen["words"] == ["--server", "-logD", ".", "tree/"]
    assert (seen["listed"], seen["key"], seen["direct"]) == (False, KEY, True)


def test_a_missing_vz_conf_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nova.conf"
    path.write_text("[openvz]\nvz_conf = /nowhere/vz.conf\n")
    args = ["--config-file", str(path), "--protocol=1", "discard", KEY]
    assert receive.main(args, direct=True) == 1
    assert "/nowhere/vz.conf cannot be read" in capsys.readouterr().err
    assert issubclass(exception.ConfigurationError, exception.OvzError)
