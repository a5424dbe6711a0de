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

"""Resize on the same host, step by step."""

import os

import pytest
from nova.compute import task_states

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import drive, guest, resize, undo
from tests import support
from tests.unit.compute import diskimage, ports


@pytest.fixture
def resizes(node, life, net):
    """The resizes of a node."""
    return resize.Resizes(node, life, net)


@pytest.fixture
def flavor():
    """A flavor of 1024 MB, or another one."""

    def make(**changes):
        usual = {
            "memory_mb": 1024,
            "vcpus": 1,
            "root_gb": 2,
            "ephemeral_gb": 0,
            "swap": 0,
            "extra_specs": {},
        }
        return objects.Flavor(**{**usual, **changes})

    return make


@pytest.fixture
def take(resizes, instance):
    """Resize the server, as Nova does it."""

    def resized(flavor, power_on=True):
        resizes.prepare(instance, flavor, ports.network_info(), 0)
        instance.old_flavor, instance.flavor = instance.flavor, flavor
        resizes.finish(instance, ports.network_info(), power_on)

    return resized


def test_a_resized_server_has_the_limits_of_its_flavor(sim, boot, take, flavor):
    ctid = boot()

    take(flavor())

    assert sim.conf(ctid)["DISKSPACE"].startswith(f"{2 << 20}:")
    assert sim.state(ctid) == "running"


def test_it_takes_one_command_but_for_stop_and_start(
    boot, take, flavor, quiet, journal
):
    boot()
    quiet()

    take(flavor())

    assert journal() == ["stop", "unplug", "set", "plug", "start"]


def test_a_stopped_server_is_not_started(sim, boot, take, flavor):
    ctid = boot(power_on=False)

    take(flavor(), power_on=False)

    assert sim.state(ctid) == "stopped"
    assert support.subcommands(sim).count("start") == 0


def test_a_limit_that_the_new_flavor_has_not_is_lifted(
    sim, boot, take, flavor, instance
):
    instance.flavor.extra_specs = {
        "quota:disk_total_bytes_sec": "1048576",
        "quota:disk_total_iops_sec": "100",
    }
    ctid = boot()
    assert int(sim.conf(ctid)["IOPSLIMIT"]) == 100

    take(flavor())

    assert int(sim.conf(ctid)["IOPSLIMIT"]) == 0
    assert int(sim.conf(ctid)["IOLIMIT"]) == 0


def test_a_revert_gives_the_very_file_back(sim, boot, take, flavor, resizes, instance):
    ctid = boot()
    before = sim.conf_text(ctid)
    take(flavor())

    instance.flavor = instance.old_flavor
    resizes.revert(instance, ports.network_info(), True)

    assert sim.conf_text(ctid) == before
    assert sim.state(ctid) == "running"
    assert not list(sim.conf_dir.glob("*.resize"))


def test_the_guest_is_told_of_each_flavor(
    sim, boot, take, flavor, resizes, instance, node, monkeypatch
):
    monkeypatch.setattr(
        drive,
        "config_drive",
        lambda one, *_, **__: [("openstack/root", b"%d" % one.flavor.root_gb)],
    )
    seed = f"{boot()}/{node.family.tree_dir}/{drive.SEED}/openstack/root"
    take(flavor())
    assert (sim.private_dir / seed).read_text() == "2"

    instance.flavor = instance.old_flavor
    resizes.revert(instance, ports.network_info(), False)

    assert (sim.private_dir / seed).read_text() == "1"


def test_a_guest_that_cannot_be_told_is_reverted_all_the_same(
    sim, boot, take, flavor, resizes, instance, monkeypatch, caplog
):
    ctid = boot()
    take(flavor())
    instance.flavor = instance.old_flavor

    def full(*_args, **_kwargs):
        raise exception.DiskFull("no room")

    monkeypatch.setattr(guest, "refresh", full)
    resizes.revert(instance, ports.network_info(), True)

    assert sim.state(ctid) == "running"
    assert "still told of the other flavor" in caplog.text


def test_a_revert_of_what_did_not_begin_leaves_a_server_running(
    sim, boot, resizes, instance, quiet, journal
):
    ctid = boot()
    quiet()

    resizes.revert(instance, ports.network_info(), True)

    assert journal() == []
    assert sim.state(ctid) == "running"


def test_a_confirm_only_forgets(sim, boot, take, flavor, resizes, instance, quiet):
    ctid = boot()
    take(flavor())
    after = sim.conf_text(ctid)
    quiet()

    resizes.confirm(instance)

    assert support.subcommands(sim) == []
    assert sim.conf_text(ctid) == after
    assert not list(sim.conf_dir.glob("*.resize"))


def test_the_server_that_a_revert_removes_is_the_one_that_stays(
    sim, boot, take, flavor, life, instance
):
    ctid = boot()
    tree = sim.tree(ctid)
    take(flavor())

    instance.task_state = task_states.RESIZE_REVERTING
    life.destroy(instance, ports.network_info())

    assert sim.containers() == [ctid]
    assert (tree / "sbin/init").exists()
    assert sim.state(ctid) == "stopped"

    instance.task_state = task_states.DELETING
    life.destroy(instance, ports.network_info())

    assert sim.containers() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"ephemeral_gb": 1},
        {"extra_specs": {"vz_cpulimit": "much"}},
        {"extra_specs": {"vz_config_file": "missing"}},
    ],
)
def test_a_flavor_that_cannot_be_is_refused_before_anything_changes(
    boot, resizes, flavor, instance, quiet, journal, changes
):
    boot()
    quiet()

    with pytest.raises(nova_exception.InstanceFaultRollback):
        resizes.prepare(instance, flavor(**changes), ports.network_info(), 0)

    assert journal() == []


@pytest.mark.parametrize("subcommand", ["stop", "set"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_whatever_fails_before_the_start_is_undone(
    sim, boot, resizes, flavor, instance, subcommand, when
):
    ctid = boot()
    before = sim.conf_text(ctid)
    sim.fail("vzctl", subcommand, rc=96, when=when)

    with pytest.raises(nova_exception.InstanceFaultRollback):
        resizes.prepare(instance, flavor(), ports.network_info(), 30)

    assert sim.state(ctid) == "running"
    assert sim.conf_text(ctid) == before
    assert not list(sim.conf_dir.glob("*.resize"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_server_that_does_not_start_has_its_old_limits(sim, boot, take, flavor, when):
    ctid = boot()
    before = sim.conf_text(ctid)
    sim.fail("vzctl", "start", rc=96, when=when)

    with pytest.raises(exception.CommandFailed):
        take(flavor())

    assert sim.state(ctid) == "stopped"
    assert sim.conf_text(ctid) == before


def test_what_cannot_be_undone_is_not_called_undone(
    sim, boot, resizes, flavor, instance, monkeypatch
):
    boot()
    sim.fail("vzctl", "set", rc=96)
    sim.fail("vzctl", "start", rc=97)

    with pytest.raises(exception.CommandFailed, match="96"):
        resizes.prepare(instance, flavor(), ports.network_info(), 0)


def test_nova_is_told_which_error_it_was():
    steps = undo.Undo("a test")

    with pytest.raises(nova_exception.InstanceFaultRollback) as raised:
        resize.roll_back(steps, exception.OvzError("no room"))

    assert isinstance(raised.value.inner_exception, nova_exception.ResizeError)
    assert "no room" in str(raised.value.inner_exception)


# -- layout ploop -------------------------------------------------------------------


class TestDiskImage(diskimage.OnDiskImages):
    """A server whose root tree is in a disk image of 1 GiB."""

    @pytest.fixture
    def blob(self, sim, boot):
        """A server with a file of 8 MiB; its CTID."""
        ctid = boot()
        (sim.tree(ctid) / "blob").write_bytes(bytes(8 << 20))
        return ctid

    @staticmethod
    def content(sim, ctid):
        """What is in the file, wherever the image is."""
        return len((sim.tree(ctid) / "blob").read_bytes())

    def test_grows_and_is_reverted(
        self, sim, blob, take, flavor, resizes, instance, quiet, journal
    ):
        before, small = sim.conf_text(blob), sim.image_kb(blob)
        quiet()

        take(flavor())

        # The guest is told in its tree, for which the image is mounted.
        assert journal() == [
            *("stop", "unplug", "set", "mount", "umount", "plug", "start")
        ]
        assert sim.image_kb(blob) == (2 << 20) - 4096
        assert sim.state(blob) == "running"

        instance.flavor = instance.old_flavor
        resizes.revert(instance, ports.network_info(), True)

        assert sim.image_kb(blob) == small
        assert sim.conf_text(blob) == before
        assert sim.state(blob) == "running"
        assert self.content(sim, blob) == 8 << 20

    def test_shrinks_and_is_reverted(self, sim, blob, take, flavor, resizes, instance):
        take(flavor())
        resizes.confirm(instance)
        large = sim.image_kb(blob)

        take(flavor(root_gb=1))
        assert sim.image_kb(blob) < large

        instance.flavor = instance.old_flavor
        resizes.revert(instance, ports.network_info(), True)
        assert sim.image_kb(blob) == large
        assert self.content(sim, blob) == 8 << 20

    def test_does_not_shrink_beneath_its_files(
        self, sim, boot, take, flavor, resizes, instance, quiet, journal
    ):
        ctid = boot()
        take(flavor())
        resizes.confirm(instance)
        with (sim.tree(ctid) / "blob").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (1 << 30) + (1 << 20))
        quiet()

        with pytest.raises(nova_exception.ResizeError, match="remove some of them"):
            resizes.check(instance, flavor(root_gb=1))

        assert journal() == []

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_that_cannot_be_resized_is_as_before(
        self, sim, blob, resizes, flavor, instance, when
    ):
        before, size = sim.conf_text(blob), sim.image_kb(blob)
        sim.fail("vzctl", "set", rc=154, when=when, stderr="minimal size is")

        with pytest.raises(nova_exception.InstanceFaultRollback, match="minimal size"):
            resizes.prepare(instance, flavor(), ports.network_info(), 0)

        assert sim.state(blob) == "running"
        assert sim.image_kb(blob) == size
        assert sim.conf_text(blob) == before
        assert not list(sim.conf_dir.glob("*.resize"))

    def test_of_a_server_that_does_not_start_has_its_old_size(
        self, sim, blob, take, flavor
    ):
        size = sim.image_kb(blob)
        sim.fail("vzctl", "start", rc=96)

        with pytest.raises(exception.CommandFailed):
            take(flavor())

        assert sim.state(blob) == "stopped"
        assert sim.image_kb(blob) == size

    def test_keeps_its_size_where_only_memory_changes(
        self, sim, blob, take, flavor, instance
    ):
        # What vzctl would have to mount it for.
        sim.clear_commands()
        take(flavor(root_gb=1))

        (change,) = (c for c in sim.commands("vzctl") if c.subcommand == "set")
        assert "--ram" in change.argv
        assert "--diskspace" not in change.argv

    def test_is_not_resized_by_a_sample(self, sim, blob, resizes, flavor, instance):
        for name, text in (("big", 'DISKSPACE="9G:9G"\n'), ("other", "")):
            sample = 'PHYSPAGES="0:512M"\nSWAPPAGES="0:512M"\n' + text
            (sim.conf_dir / f"ve-{name}.conf-sample").write_text(sample)
        specs = {"vz_config_file": "big"}

        with pytest.raises(nova_exception.ResizeError, match="remove DISKSPACE"):
            resizes.check(instance, flavor(extra_specs=specs))
        assert resizes.check(instance, flavor(extra_specs={"vz_config_file": "other"}))
