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

"""Containers change hands on a disk that two hosts have, whatever is interrupted."""

import contextlib
import os
import pathlib
from types import SimpleNamespace

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import handover

CTID = "101"
CONF = 'NAME="x"\nVE_ROOT="/a/$VEID"\nVE_PRIVATE="/b/$VEID"\nRAM="1:2"\n'
MEMORY = b"memory" * 1000
#: What changes files, each of which may be the last before a crash.
CALLS = ("mkdir", "symlink", "open", "unlink", "rename", "fsync", "rmdir")


class Killed(BaseException):
    """The process ends."""


def _places(top, private, host):
    found = {"private": str(private)}
    for kind in ("root", "conf", "names", "dump"):
        (top / host / kind).mkdir(parents=True)
        found[kind] = str(top / host / kind)
    return found


@pytest.fixture
def hosts(tmp_path):
    """Two hosts, and a suspended container of the first one."""
    private = tmp_path / "private"
    (private / CTID / "etc").mkdir(parents=True)
    (private / CTID / "etc/mine").write_text("mine")
    first, second = (_places(tmp_path, private, host) for host in ("host1", "host2"))
    conf = pathlib.Path(first["conf"], f"{CTID}.conf")
    conf.write_text(CONF)
    pathlib.Path(first["conf"], f"{CTID}.nics").touch()
    pathlib.Path(first["names"], "x").symlink_to(conf)
    pathlib.Path(first["root"], CTID).mkdir()
    pathlib.Path(first["dump"], f"Dump.{CTID}").write_bytes(MEMORY)
    return SimpleNamespace(first=first, second=second, private=private)


def give(hosts):
    dirs = hosts.first
    return handover.hand_over(dirs=dirs, ctid=CTID, host="host1")


def take(hosts, number=2):
    dirs = {**(hosts.first if number == 1 else hosts.second)}
    del dirs["names"]
    return handover.take_over(dirs=dirs, ctid=CTID, host=f"host{number}")


def assert_at(hosts, dirs):
    """A host has all of the container, and nothing else of it is anywhere."""
    assert [path.name for path in hosts.private.iterdir()] == [CTID]
    assert (hosts.private / CTID / "etc/mine").read_text() == "mine"
    assert pathlib.Path(dirs["dump"], f"Dump.{CTID}").read_bytes() == MEMORY
    conf = pathlib.Path(dirs["conf"], f"{CTID}.conf").read_text()
    assert [line for line in conf.splitlines() if "VE_" not in line] == [
        line for line in CONF.splitlines() if "VE_" not in line
    ]


def _left(dirs):
    return [
        os.path.join(kind, name)
        for kind in ("root", "conf", "names", "dump")
        for name in os.listdir(dirs[kind])
    ]


def test_a_container_goes_with_its_memory_and_without_a_copy_of_its_files(hosts):
    number = (hosts.private / CTID).stat().st_ino

    assert give(hosts) == []

    assert _left(hosts.first) == []
    assert [path.name for path in hosts.private.iterdir()] == [f".handed-{CTID}"]
    assert (hosts.private / f".handed-{CTID}").stat().st_mode & 0o777 == 0o700
    assert take(hosts) is True
    assert_at(hosts, hosts.second)
    assert (hosts.private / CTID).stat().st_ino == number
    conf = pathlib.Path(hosts.second["conf"], f"{CTID}.conf").read_text()
    assert f'VE_PRIVATE="{hosts.private}/$VEID"\n' in conf
    assert f'VE_ROOT="{hosts.second["root"]}/$VEID"\n' in conf
    # Who asks once more has it; the other one has not.
    assert take(hosts) is True
    assert take(hosts, 1) is False


def test_a_dump_of_several_files_and_with_holes_goes_as_it_is(hosts):
    dump = pathlib.Path(hosts.first["dump"], f"Dump.{CTID}")
    dump.unlink()
    dump.mkdir()
    (dump / "core-1.img").write_bytes(MEMORY)
    with (dump / "pages-1.img").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"page")

    give(hosts)
    take(hosts)

    there = pathlib.Path(hosts.second["dump"], f"Dump.{CTID}")
    assert (there / "core-1.img").read_bytes() == MEMORY
    pages = (there / "pages-1.img").stat()
    assert pages.st_size == 1 << 30
    assert pages.st_blocks * 512 < 1 << 20
    with (there / "pages-1.img").open("rb") as file:
        file.seek(1 << 29)
        assert file.read(5) == b"page\0"


def test_the_dump_of_a_former_container_is_replaced(hosts):
    pathlib.Path(hosts.second["dump"], f"Dump.{CTID}").write_text("another's memory")
    give(hosts)

    take(hosts)

    assert_at(hosts, hosts.second)


def test_who_takes_it_first_has_it(hosts, monkeypatch):
    give(hosts)
    with monkeypatch.context() as patch:
        patch.setattr(handover, "_unpack", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            take(hosts)

    with pytest.raises(exception.ContainerTaken, match="host host2 takes over"):
        take(hosts, 1)

    assert take(hosts) is True
    assert_at(hosts, hosts.second)


def test_the_host_that_gave_it_can_have_it_again(hosts):
    give(hosts)

    assert take(hosts, 1) is True

    assert_at(hosts, hosts.first)
    assert _left(hosts.second) == []


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("no dump", "No such file"),
        ("a link for a dump", "Too many levels of symbolic links"),
        ("a device for a dump", "is not a plain file"),
        ("no configuration", "No such file"),
        ("no files", "has no files here"),
        ("a link for files", "is not a directory"),
    ],
)
def test_what_is_not_a_suspended_container_is_not_handed_over(hosts, wrong, reason):
    dump = pathlib.Path(hosts.first["dump"], f"Dump.{CTID}")
    conf = pathlib.Path(hosts.first["conf"], f"{CTID}.conf")
    area = hosts.private / CTID
    if "dump" in wrong:
        dump.unlink()
    if "link for a dump" in wrong:
        dump.symlink_to("/etc/passwd")
    elif "device" in wrong:
        os.mkfifo(dump)
    elif wrong == "no configuration":
        conf.rename(f"{conf}.elsewhere")
    elif "files" in wrong:
        area.rename(area.parent / "elsewhere")
    if wrong == "a link for files":
        area.symlink_to("elsewhere")
    before = sorted(_left(hosts.first))

    with pytest.raises(exception.OvzError, match=reason):
        give(hosts)

    assert sorted(_left(hosts.first)) == before
    if "files" not in wrong:
        assert (area / "etc/mine").exists()


def test_files_that_are_in_the_way_are_left_alone(hosts):
    give(hosts)
    (hosts.private / CTID).mkdir()

    with pytest.raises(exception.TransferError, match="is in the way of the files in"):
        take(hosts)

    (hosts.private / CTID).rmdir()
    assert take(hosts) is True


def test_files_that_are_nowhere_are_an_error(hosts):
    give(hosts)
    (hosts.private / f".handed-{CTID}/tree").rename(hosts.private / "elsewhere")
    (hosts.private / f".handed-{CTID}/taker").symlink_to("host2")

    with pytest.raises(exception.TransferError, match="nor in their own place"):
        take(hosts)


def test_what_somebody_else_has_made_is_not_believed(hosts, monkeypatch):
    give(hosts)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)

    with pytest.raises(exception.UnsafePath, match="somebody else's"):
        take(hosts)


def test_only_who_gives_a_container_has_it_before_it_is_handed_over(hosts, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(handover, "_copy", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            give(hosts)

    with pytest.raises(exception.TransferError, match="host1 has not handed over"):
        take(hosts)

    assert take(hosts, 1) is True
    assert_at(hosts, hosts.first)


@pytest.mark.parametrize("host", ["", "x" * 256, "a\0b", None])
def test_a_host_without_a_name_takes_and_gives_nothing(hosts, host):
    with pytest.raises(exception.InvalidValue, match="not the name of a host"):
        handover.hand_over(dirs=hosts.first, ctid=CTID, host=host)
    assert (hosts.private / CTID / "etc/mine").exists()


# -- whatever is interrupted --------------------------------------------------------


def _dying(patch, nth, error):
    """Have the nth call that changes files, and all after it, not come about."""
    count = 0

    def wrap(real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count >= nth:
                raise error
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        patch.setattr(os, name, wrap(getattr(os, name)))
    return lambda: count


def _steps(hosts, work, undo):
    """How many calls there are in some work, which is undone."""
    # The first time there is a name to be removed.
    work(hosts)
    undo(hosts)
    with pytest.MonkeyPatch.context() as patch:
        count = _dying(patch, 10**6, Killed())
        work(hosts)
    undo(hosts)
    return count()


@pytest.mark.parametrize("taker", [1, 2])
def test_a_host_that_is_killed_as_it_gives_leaves_a_whole_container(hosts, taker):
    steps = _steps(hosts, give, lambda hosts: take(hosts, 1))
    handed = 0
    assert steps > 10
    for nth in range(1, steps + 1):
        with pytest.MonkeyPatch.context() as patch:
            _dying(patch, nth, Killed())
            with pytest.raises(Killed):
                give(hosts)
        if taker == 2 and (hosts.private / f".handed-{CTID}/tree").exists():
            handed += 1
            assert take(hosts, 2) is True
            assert_at(hosts, hosts.second)
            # As it was, for the next one.
            handover.hand_over(dirs=hosts.second, ctid=CTID, host="host2")

        assert take(hosts, 1) is True, nth

        assert_at(hosts, hosts.first)
    assert taker == 1 or handed > 2


def test_a_host_that_is_killed_as_it_takes_can_take_it_again(hosts):
    give(hosts)

    def back(hosts):
        handover.hand_over(dirs=hosts.second, ctid=CTID, host="host1")

    steps = _steps(hosts, take, back)
    assert steps > 10
    for nth in range(1, steps + 1):
        with pytest.MonkeyPatch.context() as patch:
            _dying(patch, nth, Killed())
            with pytest.raises(Killed):
                take(hosts)

        assert take(hosts) is True, nth

        assert_at(hosts, hosts.second)
        back(hosts)


def test_a_full_disk_leaves_the_container_with_who_gives_it(hosts):
    full = OSError(28, "No space left on device")
    steps = _steps(hosts, give, lambda hosts: take(hosts, 1))
    for nth in range(1, steps + 1):
        with pytest.MonkeyPatch.context() as patch:
            _dying(patch, nth, full)
            with contextlib.suppress(exception.OvzError):
                assert "No space left" in str(give(hosts))
        assert take(hosts, 1) is True
        assert_at(hosts, hosts.first)
