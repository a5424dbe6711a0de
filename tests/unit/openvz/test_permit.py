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

"""Paths are judged in a tree whose owners are told, as tests need not be root."""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Callable, Iterator

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import permit
from tests import support

UUID = "6e8a9c5e-0d6f-4c3e-9a53-0d3f5f0a7b11"


class Owners:
    """Who owns what, by path; root and 0755 unless told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._told: dict[str, tuple[int, int]] = {}
        self._lstat = os.lstat
        monkeypatch.setattr(os, "lstat", self._look)

    def tell(self, path: pathlib.Path, uid: int, mode: int) -> None:
        self._told[str(path)] = (uid, mode)

    def _look(self, path: str) -> os.stat_result:
        real = self._lstat(path)
        uid, mode = self._told.get(str(path), (0, 0o755))
        if stat.S_ISLNK(real.st_mode):
            mode = 0o777
        fields = list(real)
        fields[stat.ST_MODE] = stat.S_IFMT(real.st_mode) | mode
        fields[stat.ST_UID] = uid
        return os.stat_result(fields)


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> Owners:
    return Owners(monkeypatch)


@pytest.fixture
def vz(tmp_path: pathlib.Path) -> pathlib.Path:
    directory = tmp_path.resolve() / "vz"
    directory.mkdir()
    return directory


def test_a_path_of_roots_own_is_trusted(owners: Owners, vz: pathlib.Path) -> None:
    assert permit.check_trusted_path(f"{vz}/../vz/.") == str(vz)


@pytest.mark.parametrize(
    ("uid", "mode"), [(1000, 0o755), (0, 0o775), (0, 0o757), (0, 0o1777)]
)
def test_a_path_that_others_can_change_is_refused(
    owners: Owners, vz: pathlib.Path, uid: int, mode: int
) -> None:
    for changeable in (vz, vz.parent, vz.parent.parent):
        owners.tell(changeable, uid, mode)
        with pytest.raises(exception.CommandRefused, match="could be changed by"):
            permit.check_trusted_path(str(vz))
        owners.tell(changeable, 0, 0o755)
    permit.check_trusted_path(str(vz))


@pytest.mark.parametrize("path", ["", "vz", "./vz", "/vz\0"])
def test_only_absolute_paths_are_trusted(path: str) -> None:
    with pytest.raises(exception.CommandRefused, match="absolute"):
        permit.check_trusted_path(path)


def test_a_link_is_followed_and_every_step_is_judged(
    owners: Owners, vz: pathlib.Path
) -> None:
    (vz / "real").mkdir()
    (vz / "shared").mkdir()
    (vz / "shared" / "second").symlink_to("../real")
    (vz / "first").symlink_to(vz / "shared" / "second")
    assert permit.check_trusted_path(f"{vz}/first") == f"{vz}/real"
    owners.tell(vz / "shared", 1000, 0o755)
    with pytest.raises(exception.CommandRefused, match="shared"):
        permit.check_trusted_path(f"{vz}/first")


def test_a_link_of_somebody_else_is_refused(owners: Owners, vz: pathlib.Path) -> None:
    (vz / "link").symlink_to("/")
    owners.tell(vz / "link", 1000, 0o777)
    with pytest.raises(exception.CommandRefused, match="link"):
        permit.check_trusted_path(f"{vz}/link")


def test_links_in_a_circle_are_refused(owners: Owners, vz: pathlib.Path) -> None:
    (vz / "circle").symlink_to("circle")
    with pytest.raises(exception.CommandRefused, match="too many links"):
        permit.check_trusted_path(f"{vz}/circle")


def test_a_file_is_no_directory(owners: Owners, vz: pathlib.Path) -> None:
    (vz / "file").touch()
    with pytest.raises(exception.CommandRefused, match="Not a directory"):
        permit.check_trusted_path(f"{vz}/file/below")


def test_what_is_missing_is_permitted_only_where_asked(
    owners: Owners, vz: pathlib.Path
) -> None:
    with pytest.raises(exception.CommandRefused, match="not there"):
        permit.check_trusted_path(f"{vz}/dump/x")
    assert permit.check_trusted_path(f"{vz}/dump/x", missing=True) == f"{vz}/dump/x"
    owners.tell(vz, 1000, 0o755)
    with pytest.raises(exception.CommandRefused, match="could be changed"):
        permit.check_trusted_path(f"{vz}/dump/x", missing=True)


@pytest.mark.parametrize(
    "base",
    ["/proc", "/proc/1/root", "/sys", "/sys/fs/cgroup", "/dev/shm", "/none/../proc"],
)
def test_no_container_lives_in_the_kernels_file_systems(
    owners: Owners, base: str
) -> None:
    with pytest.raises(exception.CommandRefused):
        permit.check_file_verb({"base": base, "ctid": "101"}, direct=False)


def test_only_left_over_cgroups_are_looked_for_among_the_cgroups(
    owners: Owners,
) -> None:
    cgroups = "/sys/fs/cgroup"
    permit.check_file_verb({"dirs": {"cgroup": cgroups}, "ctid": "101"}, direct=False)
    for dirs in ({"private": cgroups}, {"cgroup": "/sys"}, {"cgroup": "/sys/fs"}):
        with pytest.raises(exception.CommandRefused):
            permit.check_file_verb({"dirs": dirs, "ctid": "101"}, direct=False)


def test_a_base_under_a_link_to_proc_is_refused(
    owners: Owners, vz: pathlib.Path
) -> None:
    (vz / "private").symlink_to("/proc")
    with pytest.raises(exception.CommandRefused, match="leads through /proc"):
        permit.check_file_verb({"base": f"{vz}/private"}, direct=False)


@pytest.mark.parametrize("ctid", ["101", "2147483644", UUID])
@pytest.mark.parametrize("direct", [True, False])
def test_a_verb_may_work_on_a_container(
    owners: Owners, vz: pathlib.Path, ctid: str, direct: bool
) -> None:
    permit.check_file_verb({"base": str(vz), "ctid": ctid}, direct=direct)


@pytest.mark.parametrize(
    "ctid", ["", "..", "1", "100", "2147483645", "101/..", "101\n", "0101", 101, None]
)
@pytest.mark.parametrize("direct", [True, False])
def test_nothing_but_a_ctid_is_a_ctid(
    owners: Owners, vz: pathlib.Path, ctid: object, direct: bool
) -> None:
    with pytest.raises(exception.CommandRefused, match="not a CTID"):
        permit.check_file_verb({"base": str(vz), "ctid": ctid}, direct=direct)


@pytest.mark.parametrize("base", [None, 1, [], {}])
def test_a_base_is_a_text(base: object) -> None:
    with pytest.raises(exception.CommandRefused):
        permit.check_file_verb({"base": base, "ctid": "101"}, direct=False)


def test_a_base_is_not_judged_where_the_caller_is_root_itself() -> None:
    permit.check_file_verb({"base": "/nowhere", "ctid": "101"}, direct=True)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["/bin/sh", "-c", "id"],
        ["/usr/sbin/vzctl"],
        ["/usr/sbin/vzctl", "exec", "101", "id"],
        ["/usr/sbin/vzctl", "--version", "--version"],
        ["/usr/sbin/vzlist", "-S"],
        ["/usr/sbin/vzmigrate", "host", "101"],
        ["vzctl-not", "--version"],
    ],
)
@pytest.mark.parametrize("direct", [True, False])
def test_only_known_command_lines_run_as_root(argv: list[str], direct: bool) -> None:
    with pytest.raises(exception.CommandRefused):
        permit.check_program(argv, 1.0, direct=direct)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("inf"), float("nan"), 1e9])
def test_every_command_has_a_time_limit(timeout: float) -> None:
    with pytest.raises(exception.CommandRefused, match="time limit"):
        permit.check_program(["/usr/sbin/vzctl", "--version"], timeout, direct=True)


def test_a_program_must_be_roots_own(owners: Owners, vz: pathlib.Path) -> None:
    program = vz / "vzctl"
    program.touch()
    argv = [str(program), "--version"]
    permit.check_program(argv, 1.0, direct=False)
    owners.tell(vz, 1000, 0o755)
    permit.check_program(argv, 1.0, direct=True)
    with pytest.raises(exception.CommandRefused, match="could be changed"):
        permit.check_program(argv, 1.0, direct=False)


IN_TREES = [
    "private/101/usr/sbin",
    "private/5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01/fs/usr/sbin",
    "private/.incoming-5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01/tree/sbin",
    "private/.handed-101/tree/usr/sbin",
    "root/101/sbin",
    # What vzctl removes, as long as that takes.
    "vztmp/vzctl-rm-me.Vq3ab7/usr/sbin",
]


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("place", IN_TREES)
def test_a_guests_program_never_runs_on_the_host(
    owners: Owners, vz: pathlib.Path, place: str, linked: bool
) -> None:
    # All of it is root's own, as a guest's root is on OpenVZ's kernels.
    directory = vz / place
    directory.mkdir(parents=True)
    if linked:
        (vz / "link").symlink_to(directory)
    for name in ("vzctl", "ip"):
        (directory / name).touch()
    where = vz / "link" if linked else directory
    with pytest.raises(exception.CommandRefused, match="container's tree"):
        permit.check_program([f"{where}/vzctl", "--version"], 1.0, direct=False)
    with pytest.raises(exception.CommandRefused, match="container's tree"):
        permit.check_tools({"ip": f"{where}/ip"}, direct=False)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("place", IN_TREES)
@pytest.mark.parametrize("missing", [False, True])
def test_no_verb_works_in_a_directory_of_a_guest(
    owners: Owners, vz: pathlib.Path, place: str, linked: bool, missing: bool
) -> None:
    # A guest could make a link of it, or of what is in it, in between.
    directory = vz / place
    (directory.parent if missing else directory).mkdir(parents=True)
    if linked:
        (vz / "link").symlink_to(directory)
    where = str(vz / "link" if linked else directory)
    for kwargs in ({"base": where}, {"dirs": {"private": where}}):
        with pytest.raises(exception.CommandRefused, match="container's tree"):
            permit.check_file_verb(kwargs, direct=False)
        permit.check_file_verb(kwargs, direct=True)


@pytest.fixture
def installed(
    owners: Owners, vz: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Install a vzctl of a version."""
    monkeypatch.setattr(permit, "TOOL_DIRS", (str(vz),))
    permit._family.cache_clear()
    yield lambda version: support.script(vz / "vzctl", f"echo vzctl version {version}")
    permit._family.cache_clear()


@pytest.mark.parametrize(
    ("version", "sub"), [("4.9.4", "fs"), ("7.0.222", ""), ("9.0.1", "")]
)
def test_a_verb_works_in_the_tree_alone_and_not_beside_it(
    installed: Callable[[str], None], vz: pathlib.Path, version: str, sub: str
) -> None:
    """With vzctl 7 a container's configuration is beside it."""
    installed(version)
    verb = {"base": str(vz), "ctid": UUID}
    with pytest.raises(exception.CommandRefused, match="no place"):
        permit.check_file_verb({**verb, "sub": sub}, direct=False)
    other = {"": "fs", "fs": ""}[sub]
    permit.check_file_verb({**verb, "sub": other}, direct=False)


def test_where_the_tree_is_does_not_matter_without_a_vzctl(
    owners: Owners, vz: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permit, "TOOL_DIRS", (str(vz),))
    permit._family.cache_clear()
    for sub in ("", "fs"):
        permit.check_file_verb({"base": str(vz), "sub": sub}, direct=False)
    permit._family.cache_clear()


def test_ip_and_tc_may_be_where_only_root_can_put_them(
    owners: Owners, vz: pathlib.Path
) -> None:
    for name in permit.TOOLS:
        (vz / name).touch()
        permit.check_tools({name: str(vz / name)}, direct=False)


def test_a_tool_must_be_roots_own(owners: Owners) -> None:
    program = pathlib.Path("/usr/bin")
    owners.tell(program, 1000, 0o755)
    with pytest.raises(exception.CommandRefused, match="could be changed"):
        permit.check_tools({"ip": f"{program}/ip"}, direct=False)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/root/sbin/ip",
        "/sbin/tc",
        "/sbin/ip\0",
        "/bin/sh",
        "/no/such/place/ip",
    ],
)
def test_a_tool_is_nothing_else(owners: Owners, path: str) -> None:
    with pytest.raises(exception.CommandRefused):
        permit.check_tools({"ip": path}, direct=False)


@pytest.mark.parametrize(
    "programs",
    [
        {"sh": "/bin/sh"},
        {"ip": "/sbin/ip", "vzctl": "/usr/sbin/vzctl"},
        {"": "/sbin/ip"},
        {"ip": "ip"},
        {"ip": "sbin/ip"},
        {"ip": None},
        {"ip": ["/sbin/ip"]},
        None,
        "ip",
        ["ip"],
    ],
)
@pytest.mark.parametrize("direct", [True, False])
def test_nothing_but_ip_and_tc_is_a_tool(programs: object, direct: bool) -> None:
    with pytest.raises(exception.CommandRefused, match="not one of ip, tc"):
        permit.check_tools(programs, direct=direct)


def test_where_a_tool_is_does_not_matter_where_the_caller_is_root_itself() -> None:
    permit.check_tools({"ip": "/nowhere/bin/ip", "tc": "/x/y"}, direct=True)


@pytest.mark.parametrize(
    ("owner", "caller", "permitted"),
    [
        (1000, "1000", True),
        (1001, "1000", False),
        (0, "1000", False),
        (1001, None, True),
        (0, None, False),
        (1001, "0", True),
        ("1000", "1000", False),
        (-1, None, False),
    ],
)
def test_an_archive_goes_to_the_callers_own_pipe(monkeypatch, owner, caller, permitted):
    monkeypatch.delenv("SUDO_UID", raising=False)
    if caller is not None:
        monkeypatch.setenv("SUDO_UID", caller)
    if permitted:
        permit.check_owner(owner, direct=False)
        return
    with pytest.raises(exception.CommandRefused):
        permit.check_owner(owner, direct=False)


def test_root_itself_writes_to_its_own_pipes_alone():
    permit.check_owner(os.geteuid(), direct=True)
    with pytest.raises(exception.CommandRefused):
        permit.check_owner(os.geteuid() + 1, direct=True)
