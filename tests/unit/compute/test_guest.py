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

import os
import stat

import pytest
from oslo_utils import secretutils

from ovznovadriver import exception
from ovznovadriver.compute import drive, guest, netfiles, spec
from ovznovadriver.openvz import rootfs
from tests.unit.compute.test_netfiles import BOTH
from tests.unit.openvz import hostile

KEY = "ssh-ed25519 AAAA me"


class Direct:
    """The verbs without a privileged side between; remembers what was called."""

    def __init__(self):
        self.called = []

    def call(self, verb, **kwargs):
        self.called.append(verb)
        return rootfs.VERBS[verb](**kwargs)


@pytest.fixture
def node(tmp_path):
    return hostile.Node(tmp_path)


@pytest.fixture
def executor():
    return Direct()


def place(node):
    return guest.Place(str(node.base), hostile.CTID, uid=os.getuid(), gid=os.getgid())


def put(node, path, content=b""):
    target = node.root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def read(node, path):
    return (node.root / path.lstrip("/")).read_bytes()


def debian(node):
    put(node, "/sbin/ifup")
    put(node, "/etc/network/interfaces", b"auto eth0\niface eth0 inet dhcp\n")


SPEC = spec.GuestSpec(
    hostname="web-1",
    admin_password="s3cret",
    ssh_keys=(KEY,),
    files=(spec.InjectedFile("/etc/motd", b"hello"),),
    drive=(
        ("openstack/latest/meta_data.json", b"{}"),
        ("openstack/latest/user_data", b"#!/bin/sh"),
    ),
)


def prepare(executor, node, given=SPEC, nics=BOTH):
    return guest.prepare(executor, place(node), given, nics)


def test_one_look_and_one_verb_that_writes(node, executor):
    prepare(executor, node)

    assert executor.called == ["inspect_tree", "write_files"]


def test_the_drive_is_where_cloud_init_looks_and_only_root_reads_it(node, executor):
    prepare(executor, node)

    seed = node.root / "var/lib/cloud/seed/config_drive"
    assert (seed / "openstack/latest/meta_data.json").read_bytes() == b"{}"
    assert stat.S_IMODE(seed.stat().st_mode) == 0o700
    user_data = seed / "openstack/latest/user_data"
    assert stat.S_IMODE(user_data.stat().st_mode) == 0o600
    assert stat.S_IMODE(seed.parent.stat().st_mode) == 0o755


def test_a_seed_that_the_image_brings_along_is_removed_first(node, executor):
    old = put(node, f"{drive.SEED}/openstack/2018-08-27/user_data", b"another's")

    prepare(executor, node)

    assert not old.exists()


def test_without_cloud_init_the_distributions_files_are_written(node, executor):
    debian(node)

    assert prepare(executor, node) == "ifupdown"

    assert b"address 10.0.0.5" in read(node, "/etc/network/interfaces")
    assert b"nameserver 10.0.0.2" in read(node, "/etc/resolv.conf")
    assert not (node.root / "etc/cloud").exists()


def test_with_cloud_init_the_network_is_left_to_it(node, executor):
    debian(node)
    put(node, "/usr/bin/cloud-init")
    before = read(node, "/etc/network/interfaces")

    assert prepare(executor, node) == "cloud-init"

    assert read(node, "/etc/network/interfaces") == before
    assert not (node.root / "etc/resolv.conf").exists()
    forced = read(node, "/etc/cloud/cloud.cfg.d/99-nova.cfg")
    assert forced == b"datasource_list: [ ConfigDrive, None ]\n"


def test_a_cloud_init_that_is_switched_off_does_not_count(node, executor):
    debian(node)
    put(node, "/usr/bin/cloud-init")
    put(node, "/etc/cloud/cloud-init.disabled")

    assert prepare(executor, node) == "ifupdown"


def test_a_tree_with_no_known_network_is_reported(node, executor, caplog):
    assert prepare(executor, node) is None

    assert "no network configuration" in caplog.text
    assert drive.SEED in caplog.text


def test_a_server_without_ports_needs_no_report(node, executor, caplog):
    assert prepare(executor, node, nics=()) is None
    assert caplog.text == ""


def test_resolv_conf_that_is_a_link_becomes_a_file(node, executor):
    debian(node)
    (node.root / "etc/resolv.conf").symlink_to(node.outside / "target")
    before = node.outside_state()

    prepare(executor, node)

    assert not (node.root / "etc/resolv.conf").is_symlink()
    assert node.outside_state() == before


@pytest.mark.parametrize("writer", netfiles.WRITERS, ids=lambda writer: writer.name)
def test_every_known_network_is_found_and_written(node, executor, writer):
    for path in writer.needs:
        target = node.root / path.lstrip("/")
        if path.startswith("/etc") and "." not in target.name and "-" not in path:
            target.mkdir(parents=True)
        else:
            put(node, path)

    assert prepare(executor, node) == writer.name

    for file in writer.write(BOTH):
        assert read(node, file.path).decode() == file.content
        mode = (node.root / file.path.lstrip("/")).stat().st_mode
        assert stat.S_IMODE(mode) == file.mode


def test_the_password_is_a_hash_in_shadow_and_nowhere_in_clear(node, executor):
    shadow = put(node, "/etc/shadow", b"root:*:19000:0:99999:7:::\nbin:*:1::::::\n")
    shadow.chmod(0o640)

    prepare(executor, node)

    root, other = shadow.read_text().splitlines()
    name, hashed, rest = root.split(":", 2)
    assert (name, rest) == ("root", "19000:0:99999:7:::")
    assert secretutils.crypt_password("s3cret", hashed) == hashed
    assert other == "bin:*:1::::::"
    assert stat.S_IMODE(shadow.stat().st_mode) == 0o640
    for file in node.root.rglob("*"):
        assert file.is_dir() or b"s3cret" not in file.read_bytes()


def test_an_image_without_a_shadow_file_gets_one_for_root_only(node, executor):
    prepare(executor, node)

    shadow = node.root / "etc/shadow"
    assert stat.S_IMODE(shadow.stat().st_mode) == 0o600
    assert shadow.read_bytes().startswith(b"root:$6$")


def test_without_a_password_shadow_is_left_alone(node, executor):
    put(node, "/etc/shadow", b"root:*:::::::\n")

    prepare(executor, node, spec.GuestSpec("web-1"))

    assert read(node, "/etc/shadow") == b"root:*:::::::\n"


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/hosts"])
@pytest.mark.parametrize("plant", ["fifo", "loop", "directory", "large"])
def test_a_file_that_cannot_be_read_is_not_replaced_by_half(
    node, executor, path, plant
):
    target = put(node, path)
    if plant == "large":
        os.truncate(target, guest.READ_LIMIT + 1)
    else:
        target.unlink()
        hostile.PLANTS[plant](target, node.outside)

    with pytest.raises(exception.ImageUnsuitable, match=path):
        prepare(executor, node)

    assert executor.called == ["inspect_tree"]


def test_the_key_is_appended_once(node, executor):
    put(node, "/root/.ssh/authorized_keys", b"ssh-rsa OLD you")

    for _ in range(2):
        prepare(executor, node)

    keys = node.root / "root/.ssh/authorized_keys"
    assert keys.read_text() == f"ssh-rsa OLD you\n{KEY}\n"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600


def test_the_directory_of_keys_is_for_root_only(node, executor):
    prepare(executor, node)

    assert stat.S_IMODE((node.root / "root/.ssh").stat().st_mode) == 0o700


def test_without_a_key_nothing_is_made_for_it(node, executor):
    prepare(executor, node, spec.GuestSpec("web-1"))

    assert not (node.root / "root").exists()


def test_the_host_knows_its_own_name(node, executor):
    prepare(executor, node, spec.GuestSpec("web-1.example.com"))

    assert read(node, "/etc/hostname") == b"web-1.example.com\n"
    hosts = read(node, "/etc/hosts").decode().splitlines()
    assert hosts[0] == "127.0.0.1 localhost"
    assert hosts[-1] == "127.0.1.1 web-1.example.com web-1"


def test_hosts_keeps_its_lines_and_gets_the_name_once(node, executor):
    put(node, "/etc/hosts", b"127.0.0.1 localhost # web-1")

    for _ in range(2):
        prepare(executor, node)

    expected = b"127.0.0.1 localhost # web-1\n127.0.1.1 web-1\n"
    assert read(node, "/etc/hosts") == expected


def test_personality_files_win_over_ours(node, executor):
    debian(node)
    mine = spec.InjectedFile("etc/network/interfaces", b"# mine")

    prepare(executor, node, spec.GuestSpec("web-1", files=(mine,)))

    assert read(node, "/etc/network/interfaces") == b"# mine"


def test_a_personality_file_that_replaces_one_keeps_its_mode(node, executor):
    put(node, "/etc/motd").chmod(0o604)

    prepare(executor, node)

    motd = node.root / "etc/motd"
    assert motd.read_bytes() == b"hello"
    assert stat.S_IMODE(motd.stat().st_mode) == 0o604


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(
    ("top", "expected"),
    [
        pytest.param(100000, (100000, 100001), id="shifted"),
        # An image may give its own root directory to anybody.
        pytest.param(100033, (100000, 100001), id="shifted, of another user"),
        # OpenVZ's own kernel shifts nothing, whatever vz.conf says.
        pytest.param(0, (0, 0), id="not shifted"),
    ],
)
def test_all_that_is_written_belongs_to_the_containers_root(
    node, executor, top, expected
):
    where = guest.Place(str(node.base), hostile.CTID, uid=100000, gid=100001)
    for path in ("/sbin/ifup", "/etc/network/interfaces"):
        put(node, path)
    os.chown(node.root, top, top)
    before = set(node.root.rglob("*")) - {node.root / "etc/network/interfaces"}

    guest.prepare(executor, where, SPEC, BOTH)

    made = set(node.root.rglob("*")) - before
    assert made
    for path in made:
        info = path.lstat()
        assert (info.st_uid, info.st_gid) == expected, path


@pytest.mark.parametrize("where", ["etc", "root", "var", "etc/motd", "root/.ssh"])
@pytest.mark.parametrize("plant", hostile.PLANTS)
def test_no_planted_tree_leads_out(node, executor, where, plant):
    target = node.root / where
    target.parent.mkdir(exist_ok=True)
    hostile.PLANTS[plant](target, node.outside)
    before = node.outside_state()

    try:
        prepare(executor, node)
    except exception.OvzError:
        assert executor.called[0] == "inspect_tree"

    assert node.outside_state() == before


def test_the_tree_of_newer_vzctl_is_in_a_subdirectory(node, executor):
    (node.root / "fs").mkdir()
    where = guest.Place(
        str(node.base), hostile.CTID, "fs", uid=os.getuid(), gid=os.getgid()
    )

    guest.prepare(executor, where, SPEC, ())

    assert os.listdir(node.root) == ["fs"]
    assert (node.root / "fs/etc/hostname").exists()


# -- when interfaces come and go ----------------------------------------------------


def refresh(node, executor, nics, gone=(), **options):
    files = [("openstack/latest/network_data.json", b"new")]
    guest.refresh(executor, place(node), files, nics, gone, **options)


def test_the_drive_and_the_network_files_are_written_anew(node, executor):
    debian(node)
    guest.prepare(executor, place(node), SPEC, BOTH[:1])
    executor.called.clear()

    refresh(node, executor, BOTH)

    assert executor.called == ["inspect_tree", "write_files"]
    seed = f"{drive.SEED}/openstack/latest"
    assert read(node, f"{seed}/network_data.json") == b"new"
    # What the guest was told once stays.
    assert read(node, f"{seed}/user_data") == b"#!/bin/sh"
    assert b"iface eth1" in read(node, "/etc/network/interfaces")


def test_interfaces_that_stay_leave_the_guests_own_files_alone(node, executor):
    debian(node)
    guest.prepare(executor, place(node), SPEC, BOTH)
    put(node, "/etc/network/interfaces", b"# the guest's own")

    refresh(node, executor, BOTH, changed=False)

    assert read(node, "/etc/network/interfaces") == b"# the guest's own"
    assert read(node, f"{drive.SEED}/openstack/latest/network_data.json") == b"new"


def test_the_files_of_an_interface_that_went_go(node, executor):
    put(node, "/usr/sbin/NetworkManager")
    guest.prepare(executor, place(node), SPEC, BOTH)
    (writer,) = (w for w in netfiles.WRITERS if w.name == "NetworkManager")
    (first,), (second,) = (writer.write([nic]) for nic in BOTH)

    refresh(node, executor, BOTH[:1], BOTH[1:])

    assert read(node, first.path)
    assert not (node.root / second.path.lstrip("/")).exists()


def test_with_cloud_init_only_the_drive_is_written(node, executor):
    debian(node)
    put(node, "/usr/bin/cloud-init")

    refresh(node, executor, BOTH)

    assert b"inet dhcp" in read(node, "/etc/network/interfaces")
    assert read(node, f"{drive.SEED}/openstack/latest/network_data.json") == b"new"
