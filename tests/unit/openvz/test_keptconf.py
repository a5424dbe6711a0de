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

"""The configuration that is kept while a container is resized."""

import os

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import keptconf

CTID = "101"
BEFORE, AFTER = 'RAM="512"\nNAME="\xe4"\n', 'RAM="1024"\n'


@pytest.fixture(autouse=True)
def _no_power_cuts(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["beside the others", "in the private area"])
def place(request, tmp_path):
    """A container's configuration: the file, and the directories that are known."""
    conf, area = tmp_path / "conf", tmp_path / "private" / CTID
    conf.mkdir()
    area.mkdir(parents=True)
    dirs = {"conf": str(conf)}
    if request.param == "beside the others":
        file = conf / f"{CTID}.conf"
    else:
        dirs["private"] = str(tmp_path / "private")
        file = area / "ve.conf"
        (conf / f"{CTID}.conf").symlink_to(file)
    file.write_text(BEFORE)
    file.chmod(0o640)
    return file, dirs


def test_what_was_kept_comes_back_as_it_was(place):
    file, dirs = place
    names = sorted(os.listdir(dirs["conf"]))

    keptconf.keep_conf(dirs=dirs, ctid=CTID)
    file.write_text(AFTER)
    file.chmod(0o644)

    assert keptconf.restore_conf(dirs=dirs, ctid=CTID)
    assert file.read_text() == BEFORE
    assert file.stat().st_mode & 0o777 == 0o640
    assert not file.is_symlink()
    assert sorted(os.listdir(dirs["conf"])) == names
    assert not keptconf.restore_conf(dirs=dirs, ctid=CTID)


def test_the_last_one_kept_is_the_one_that_counts(place):
    file, dirs = place
    keptconf.keep_conf(dirs=dirs, ctid=CTID)
    file.write_text(AFTER)

    keptconf.keep_conf(dirs=dirs, ctid=CTID)
    file.write_text("")
    keptconf.restore_conf(dirs=dirs, ctid=CTID)

    assert file.read_text() == AFTER


def test_what_was_kept_can_be_forgotten(place):
    file, dirs = place
    keptconf.keep_conf(dirs=dirs, ctid=CTID)
    file.write_text(AFTER)

    assert keptconf.drop_conf(dirs=dirs, ctid=CTID)

    assert not keptconf.drop_conf(dirs=dirs, ctid=CTID)
    assert not keptconf.restore_conf(dirs=dirs, ctid=CTID)
    assert file.read_text() == AFTER


def test_a_container_that_is_gone_does_not_come_back(place):
    file, dirs = place
    keptconf.keep_conf(dirs=dirs, ctid=CTID)
    file.unlink()

    with pytest.raises(exception.OvzError):
        keptconf.restore_conf(dirs=dirs, ctid=CTID)
    with pytest.raises(exception.OvzError):
        keptconf.keep_conf(dirs=dirs, ctid=CTID)

    assert not file.exists()


def test_a_write_that_fails_leaves_all_as_it_was(place, monkeypatch):
    file, dirs = place
    keptconf.keep_conf(dirs=dirs, ctid=CTID)
    file.write_text(AFTER)
    names = sorted(os.listdir(dirs["conf"]))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(exception.OvzError, match="No space"):
        keptconf.restore_conf(dirs=dirs, ctid=CTID)

    assert file.read_text() == AFTER
    assert sorted(os.listdir(dirs["conf"])) == names
    assert os.listdir(file.parent) in (["ve.conf"], names, names[::-1])


@pytest.mark.parametrize("target", ["/etc/passwd", "../private/102/ve.conf"])
def test_a_link_that_leads_elsewhere_is_not_written_through(tmp_path, target):
    (tmp_path / "private" / "102").mkdir(parents=True)
    (tmp_path / "private" / "102" / "ve.conf").write_text(AFTER)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / f"{CTID}.conf").symlink_to(target)
    (tmp_path / "conf" / f"{CTID}.resize").write_text(BEFORE)
    dirs = {name: str(tmp_path / name) for name in ("conf", "private")}

    with pytest.raises(exception.UnsafePath):
        keptconf.restore_conf(dirs=dirs, ctid=CTID)
    with pytest.raises(exception.UnsafePath):
        keptconf.keep_conf(dirs=dirs, ctid=CTID)
    # Where the guest's tree is the private area, no link is expected at all.
    with pytest.raises(exception.UnsafePath):
        keptconf.keep_conf(dirs={"conf": dirs["conf"]}, ctid=CTID)

    assert (tmp_path / "private" / "102" / "ve.conf").read_text() == AFTER


@pytest.mark.parametrize("ctid", ["../101", "1", "", "101.conf"])
def test_only_a_ctid_names_a_file(place, ctid):
    _, dirs = place
    for verb in (keptconf.keep_conf, keptconf.restore_conf, keptconf.drop_conf):
        with pytest.raises(exception.UnsafePath):
            verb(dirs=dirs, ctid=ctid)
