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

"""``ovz-net-hook``, as vzctl runs it, with what it has ip and tc do."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.cmd import net_hook
from ovznovadriver.openvz import hostends, privileged
from ovznovadriver.openvz.hostends import HostEnd, Rate
from tests.unit.openvz import netns

CTID = "101"
TAP, PEER, IFB = "tap6e8a9c5e-0d", "ovp6e8a9c5e-0d", "ifb6e8a9c5e-0d"
MAC = "fa:16:3e:01:02:03"
END = HostEnd(TAP, "eth0", MAC, mtu=1450, inbound=Rate(500_000), outbound=Rate(500_000))

_TOOL = """#!/bin/sh
cd "$(dirname "$0")"
echo "$(basename "$0") $*" >>log
case "$*" in
*-batch*) cat >>log; [ ! -e fail ] || { cat fail >&2; exit 1; };;
"-j -d link show") cat links;;
"-j qdisc show") echo "[]";;
"link set dev foreign up") [ ! -e fail ] || { cat fail >&2; exit 1; };;
esac
"""


class Place:
    """A directory of configurations, and stand-ins for ip and tc.

    :ivar conf: the directory
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.bin = path / "bin"
        self.conf = path / "conf"
        for directory in (self.bin, self.conf):
            directory.mkdir()
        for name in ("ip", "tc"):
            (self.bin / name).write_text(_TOOL)
            (self.bin / name).chmod(0o755)
        (self.conf / f"{CTID}.conf").touch()
        self.links()

    def write(self, *ends: HostEnd) -> None:
        text = hostends.encode(ends)
        hostends.write_host_ends(base=str(self.conf), ctid=CTID, text=text)

    def links(self, **links: str) -> None:
        """What there is: by name, its kind and the name of its peer, if any."""
        entries = []
        for name, told in links.items():
            kind, _, peer = told.partition(" ")
            more = {"link": peer} if peer else {}
            info = {"linkinfo": {"info_kind": kind}}
            entries.append({"ifname": name, "flags": [], "mtu": 1500, **info, **more})
        (self.bin / "links").write_text(json.dumps(entries))

    def fail(self, said: str) -> None:
        (self.bin / "fail").write_text(said)

    def ran(self) -> list[str]:
        """What ip and tc were asked, and the lines of their batches."""
        log = self.bin / "log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("VEID", CTID)
    monkeypatch.setenv("VE_CONFFILE", str(made.conf / f"{CTID}.conf"))
    return made


# --- vzctl 4 ---


def test_a_host_end_is_brought_up_and_limited(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write(END)
    place.links(**{TAP: "veth"})
    assert net_hook.main(["init", "veth", TAP]) == 0
    ran = place.ran()
    assert ran[0] == f"ip link set dev {TAP} up"
    assert f"link set dev {TAP} mtu 1450" in ran
    assert [line for line in ran if line.startswith(f"qdisc replace dev {TAP} root")]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("veid", ["102", "0", "", "../101", "all", None])
def test_the_interface_of_another_container_is_brought_up_and_no_more(
    place: Place, monkeypatch: pytest.MonkeyPatch, veid: str | None
) -> None:
    place.write(END)
    if veid is None:
        monkeypatch.delenv("VEID")
    else:
        monkeypatch.setenv("VEID", veid)
    assert net_hook.main(["init", "veth", "foreign"]) == 0
    assert place.ran() == ["ip link set dev foreign up"]


def test_an_interface_that_was_added_by_hand_is_brought_up(place: Place) -> None:
    place.write(END)
    assert net_hook.main(["init", "veth", "veth101.1"]) == 0
    assert place.ran() == ["ip link set dev veth101.1 up"]


def test_an_interface_that_stays_down_ends_the_start(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.fail("RTNETLINK answers: No buffer space available\n")
    assert net_hook.main(["init", "veth", "foreign"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ovz-net-hook: 'ip link set dev foreign up' failed")
    assert "No buffer space" in said


def test_a_limit_that_fails_is_told_and_does_not_end_the_start(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write(END)
    place.links(**{TAP: "veth"})
    place.fail("Error: Unknown device type.\nCommand failed -:3\n")
    assert net_hook.main(["init", "veth", TAP]) == 0
    assert f"'ip link add name {IFB} type ifb' failed" in capsys.readouterr().err


def test_a_broken_file_does_not_end_the_start(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.conf / f"{CTID}.nics").write_text("broken")
    assert net_hook.main(["init", "veth", TAP]) == 0
    assert place.ran() == [f"ip link set dev {TAP} up"]
    assert "does not describe interfaces" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args", [[], ["init"], ["init", "venet", "x"], ["init", "veth"], ["other"]]
)
def test_other_command_lines_are_refused(place: Place, args: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        net_hook.main(args)
    assert caught.value.code == 2
    assert place.ran() == []


# --- vzctl 7 ---


def test_pairs_are_made_before_the_start(place: Place) -> None:
    place.write(END, HostEnd("tapother", "eth1", MAC), HostEnd("tapthere", "eth2", MAC))
    place.links(tapthere="veth ovpthere")
    assert net_hook.main(["mount"]) == 0
    ran = place.ran()
    added = [line for line in ran if line.startswith("link add")]
    assert added == [
        f"link add name {TAP} mtu 1450 type veth peer name {PEER} mtu 1450",
        "link add name tapother type veth peer name ovpother",
    ]


def test_pairs_that_nobody_took_are_removed(place: Place) -> None:
    place.write(END, HostEnd("taptaken", "eth1", MAC), HostEnd("tapnone", "eth2", MAC))
    place.links(
        **{TAP: f"veth {PEER}", "taptaken": "veth", IFB: "ifb", "ifbnone": "ifb"}
    )
    assert net_hook.main(["umount"]) == 0
    deleted = [line for line in place.ran() if line.startswith("link del")]
    assert deleted == [f"link del dev {TAP}", "link del dev ifbnone"]


@pytest.mark.parametrize("kind", [f"dummy {PEER}", "veth eth0", "veth"])
def test_nothing_else_is_removed(place: Place, kind: str) -> None:
    place.write(END)
    place.links(**{TAP: kind})
    assert net_hook.main(["umount"]) == 0
    assert not [line for line in place.ran() if "del" in line]


@pytest.mark.parametrize("action", ["mount", "umount"])
def test_a_foreign_container_is_left_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    place.write(END)
    monkeypatch.setenv("VEID", "102")
    assert net_hook.main([action]) == 0
    assert place.ran() == []


@pytest.mark.parametrize("action", ["mount", "umount"])
def test_a_container_starts_and_stops_whatever_is_wrong(
    place: Place, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    place.write(END)
    (place.bin / "links").write_text("no JSON")
    assert net_hook.main([action]) == 0
    assert "iproute2" in capsys.readouterr().err


def test_the_directory_is_the_given_one_or_that_of_the_configuration(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    place.write(END)
    monkeypatch.setenv("VE_CONFFILE", str(tmp_path / "private/101/ve.conf"))
    assert net_hook.main(["umount"]) == 0
    assert place.ran() == []
    assert net_hook.main(["--conf-dir", str(place.conf), "umount"]) == 0
    assert place.ran() != []


def test_the_usual_directory_is_the_last_to_be_looked_in(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    place.write(END)
    monkeypatch.setattr(net_hook, "_VZ_DIR", str(tmp_path))
    monkeypatch.setenv("VE_CONFFILE", "/nowhere/ve.conf")
    assert net_hook.main(["umount"]) == 0
    assert place.ran() != []


# --- The operator ---


@pytest.fixture
def installed(place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the program itself is."""
    path = place.bin / "ovz-net-hook"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(path), "install"])
    return str(path)


@pytest.fixture
def operate(
    place: Place, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run a command line; its exit code and all that it says."""

    def run(*args: str) -> tuple[int, str]:
        code = net_hook.main([*args, "--vz-dir", str(tmp_path)])
        return code, "".join(capsys.readouterr())

    return run


@pytest.mark.parametrize("family", ["4", "7"])
def test_the_operator_installs_checks_and_removes(
    installed: str, operate: Callable[..., tuple[int, str]], family: str
) -> None:
    code, said = operate("check", "--family", family)
    assert code == 1
    assert "run 'ovz-net-hook install'" in said
    assert operate("install", "--family", family)[0] == 0
    assert operate("check", "--family", family) == (0, "vzctl runs ovz-net-hook.\n")
    assert operate("remove", "--family", family)[0] == 0
    assert operate("check", "--family", family)[0] == 1


@pytest.mark.parametrize(
    ("version", "file"),
    [("vzctl version 4.9.4", "vznet.conf"), ("vzctl version 9.0.1", "conf/vps.mount")],
)
def test_the_family_is_what_vzctl_says(
    place: Place,
    installed: str,
    operate: Callable[..., tuple[int, str]],
    tmp_path: pathlib.Path,
    version: str,
    file: str,
) -> None:
    (place.bin / "vzctl").write_text(f"#!/bin/sh\necho {version}\n")
    (place.bin / "vzctl").chmod(0o755)
    assert operate("install")[0] == 0
    assert installed in (tmp_path / file).read_text()


def test_what_cannot_be_installed_is_told(
    installed: str, operate: Callable[..., tuple[int, str]], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "vznet.conf").write_text("EXTERNAL_SCRIPT=/bin/true\n")
    code, said = operate("install", "--family", "4")
    assert code == 1
    assert said.startswith("ovz-net-hook: ")
    assert "EXTERNAL_SCRIPT=/bin/true" in said


def test_a_program_that_is_missing_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net_hook, "_PROGRAM_DIRS", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    assert net_hook.main(["init", "veth", "x"]) == 1
    with pytest.raises(exception.OvzError, match="tc is not there"):
        net_hook._find("tc")


def test_the_programs_of_root_are_found_without_a_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PATH")
    assert net_hook._find("sh").endswith("/sh")


@pytest.mark.parametrize("path", ["", ".", ":."])
def test_no_program_is_looked_for_where_vzctl_was_started(
    path: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sh").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path)
    assert net_hook._find("sh") != str(tmp_path / "sh")
    assert os.path.isabs(net_hook._find("sh"))


# --- With the kernel's own ---


@pytest.fixture
def space(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with netns.namespace() as made:
        netns.need_shaping(made)
        monkeypatch.setattr(privileged, "tool_runner", lambda env: made.run)
        yield made


def test_a_guest_of_vzctl_7_starts_and_stops_with_its_limits(
    space: netns.Namespace, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{CTID}.conf").touch()
    text = hostends.encode([END])
    place = {"base": str(tmp_path), "ctid": CTID}
    hostends.write_host_ends(**place, text=text)
    monkeypatch.setenv("VEID", CTID)
    monkeypatch.setenv("VE_CONFFILE", str(tmp_path / f"{CTID}.conf"))

    def names() -> set[str]:
        links = json.loads(space.do("ip -j link show"))
        return {link["ifname"] for link in links} - {"lo"}

    assert net_hook.main(["mount"]) == 0
    assert names() == {TAP, PEER, IFB}
    programs = {"ip": shutil.which("ip"), "tc": shutil.which("tc")}
    check = {"base": str(tmp_path), "ctids": [CTID], "run": space.run}
    assert hostends.check_host_ends(**check, programs=programs) == []
    (peer,) = json.loads(space.do(f"ip -j link show dev {PEER}"))
    assert peer["mtu"] == 1450
    # Mounted only, then the other way round: vzctl takes it and gives it back.
    assert net_hook.main(["umount"]) == 0
    assert names() == set()
    assert net_hook.main(["mount"]) == 0
    with netns.namespace() as guest:
        space.do(f"ip link set dev {PEER} netns {guest.name} name eth0")
        assert names() == {TAP, IFB}
        assert net_hook.main(["mount"]) == 0
        assert net_hook.main(["umount"]) == 0
        assert names() == {TAP, IFB}
        space.do(f"ip link del dev {TAP}")
    assert net_hook.main(["umount"]) == 0
    assert names() == set()
