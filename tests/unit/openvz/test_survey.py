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

"""One look at all that a node's directories say."""

import fcntl
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import survey

KEY = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"
OTHER_KEY = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a02"
TEMPORARY = ".ovz-0123456789abcdef"
AREAS = ("private", "root", "conf", "names", "lock", "dump")


@pytest.fixture
def dirs(tmp_path):
    """A node with nothing on it."""
    for name in AREAS:
        (tmp_path / name).mkdir()
    return {name: str(tmp_path / name) for name in AREAS}


def look(dirs, sub=""):
    found = survey.survey(dirs=dirs, sub=sub)
    # As it comes from the root side.
    assert json.loads(json.dumps(found)) == found
    return found


def test_an_empty_node_has_nothing(dirs):
    assert not any(look(dirs).values())


def test_a_container_is_known_by_each_of_its_places(dirs, tmp_path):
    (tmp_path / "private/101").mkdir()
    (tmp_path / "conf/101.conf").write_text('NAME="n"\nDESCRIPTION="d"\n')
    (tmp_path / "conf/101.nics").touch()
    (tmp_path / "conf/101.mount").touch()
    (tmp_path / "dump/Dump.102").touch()
    (tmp_path / "names/n").symlink_to("../conf/101.conf")
    (tmp_path / "private/lost+found").mkdir()

    found = look(dirs)

    assert found["places"] == {"101": ["private", "conf", "names"], "102": ["dump"]}
    assert found["files"] == {"101": ["nics"]}
    assert found["confs"] == {
        "101": {"name": "n", "description": "d", "interfaces": []}
    }


def test_a_container_whose_memory_goes_to_another_host_is_known(dirs, tmp_path):
    for name in ("tmp-dump.101", "tmp-dump.7", "tmp-dump.102.x", "tmp-dump.", "x"):
        (tmp_path / "dump" / name).touch()

    assert look(dirs)["sent"] == ["101"]


def test_interfaces_are_those_that_vzctl_has(dirs, tmp_path):
    (tmp_path / "conf/101.conf").write_text(
        'NETIF="old"\nNETIF="ifname=eth0,mac=FA:16:3E:00:00:01,host_ifname=tap0;'
        'ifname=eth1,host_ifname=tap1"\n'
    )

    (conf,) = look(dirs)["confs"].values()

    assert [nic["host_ifname"] for nic in conf["interfaces"]] == ["tap0", "tap1"]
    assert conf["interfaces"][0]["ifname"] == "eth0"


@given(content=st.binary(max_size=300))
def test_a_configuration_may_hold_anything(content, tmp_path_factory):
    place = tmp_path_factory.mktemp("node")
    (place / "101.conf").write_bytes(b'NETIF="' + content)

    found = survey._conf({"conf": str(place), "private": str(place)}, "101")

    assert found.keys() == {"name", "description", "interfaces"}


def test_a_configuration_that_leads_elsewhere_is_not_read(dirs, tmp_path):
    (tmp_path / "secret.conf").write_text('NAME="secret"\n')
    (tmp_path / "conf/101.conf").symlink_to(tmp_path / "secret.conf")
    area = tmp_path / "private/102"
    area.mkdir()
    (area / "ve.conf").write_text('NAME="n"\n')
    (tmp_path / "conf/102.conf").symlink_to(area / "ve.conf")
    os.mkfifo(tmp_path / "conf/103.conf")

    found = look(dirs)["confs"]

    assert "101" not in found
    assert found["102"]["name"] == "n"
    assert found["103"]["name"] == ""


def test_a_lock_says_whether_its_owner_lives(dirs, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    # Nobody has asked about this one yet.
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    for ctid, text in (
        ("101", f"{os.getpid()}\nstarting\n"),
        ("102", f"{dead.pid}\n"),
        ("103", ""),
        ("104", f"{ended.pid}\n"),
        ("105", "\0\0"),
    ):
        (tmp_path / f"lock/{ctid}.lck").write_text(text)
    os.utime(tmp_path / "lock/105.lck", (1e9, 1e9))

    locks = look(dirs)["locks"]

    assert locks["101"] == os.getpid()
    ended.wait()
    assert locks["102"] == locks["104"] == 0
    # One that says nothing yet is about to; after a power cut it never will.
    assert locks["103"]
    assert locks["105"] == 0


def test_a_swap_that_cannot_be_read_is_told(dirs, tmp_path):
    (tmp_path / "conf/101.rescue").write_text("{")

    assert "cannot be read" in look(dirs)["swaps"]["101"]


def test_trees_that_come_are_known_and_whether_somebody_works_on_them(dirs, tmp_path):
    places = [tmp_path / f"private/.incoming-{key}" for key in (KEY, OTHER_KEY)]
    for place in places:
        place.mkdir()
    (tmp_path / f"private/.incoming-{KEY}.adopted").touch()
    holder = os.open(places[0], os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)

    try:
        found = look(dirs)
    finally:
        os.close(holder)

    assert found["incoming"] == {KEY: True, OTHER_KEY: False}
    assert found["marks"] == []
    places[0].rmdir()
    assert look(dirs)["marks"] == [KEY]


def test_a_directory_that_cannot_be_listed_is_no_empty_node(dirs, tmp_path):
    for name in ("private", "conf"):
        with pytest.raises(exception.OvzError):
            survey.survey(dirs={**dirs, name: str(tmp_path / "none")}, sub="")


def plant(tmp_path):
    """Files that are being written, and others that look like them."""
    area = tmp_path / "private/101"
    area.mkdir()
    (area / "ve.conf").touch()
    (tmp_path / "conf/101.conf").symlink_to(area / "ve.conf")
    ours = [tmp_path / f"conf/101.nics{TEMPORARY}", area / f"ve.conf{TEMPORARY}"]
    others = [
        tmp_path / "conf/101.nics",
        tmp_path / f"conf/x.nics{TEMPORARY}",
        tmp_path / f"conf/101.nics{TEMPORARY}0",
        area / f"other{TEMPORARY}",
        tmp_path / f"dump/101.nics{TEMPORARY}",
    ]
    for path in (*ours, *others):
        path.touch()
    return ours, others


def test_files_that_are_being_written_are_known(dirs, tmp_path):
    ours, _ = plant(tmp_path)

    assert look(dirs)["temporary"] == sorted(map(str, ours))


def test_nothing_else_is_removed_as_one(dirs, tmp_path):
    ours, others = plant(tmp_path)
    for path in others:
        with pytest.raises(exception.UnsafePath):
            survey.remove_temporary(dirs=dirs, paths=[str(path)])
    for path in ("/etc/passwd", f"{dirs['conf']}/../conf/{ours[0].name}"):
        with pytest.raises(exception.UnsafePath):
            survey.remove_temporary(dirs=dirs, paths=[path])

    for _ in range(2):
        survey.remove_temporary(dirs=dirs, paths=list(map(str, ours)))

    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)
