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

"""What a node is found to be when a service starts on it."""

import os
import sys

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import privsep, resources, vzctl
from tests import support


def refused(sim, **options):
    """The one sentence with which a service refuses to start."""
    with pytest.raises(exception.ConfigurationError) as caught:
        support.open_node(sim, **options)
    return str(caught.value)


def set_vz_conf(sim, line):
    with open(sim.root / "etc/vz/vz.conf", "a") as file:
        file.write(f"{line}\n")


# -- a node that can be worked on ---------------------------------------------------


def test_each_family_is_recognised(sim, node):
    expected = {
        "4": (vzctl.FAMILY_4, (4, 9, 4)),
        "9": (vzctl.FAMILY_7, (9, 0, 1)),
    }
    assert (node.family, node.version) == expected[sim.family]


def test_the_paths_are_those_of_vz_conf(sim, node):
    assert node.paths == ovz_node.Paths(
        private=str(sim.private_dir),
        root=str(sim.root_dir),
        conf=str(sim.conf_dir),
        names=str(sim.names_dir),
        templates=str(sim.template_dir),
        locks=str(sim.lock_dir),
        dump=str(sim.dump_dir),
        net=str(sim.net_dir),
        cgroup=str(sim.root / "sys/fs/cgroup"),
    )


def test_a_node_is_opened_with_one_command_each_of_vzctl_and_vzlist(sim, node):
    assert [command.program for command in sim.commands()] == ["vzctl", "vzlist"]


def test_options_may_repeat_what_vz_conf_says(sim):
    (sim.root / "link").symlink_to(sim.private_dir)
    node = support.open_node(
        sim, ve_private_dir=f"{sim.root}/link/", ve_root_dir=str(sim.root_dir)
    )

    assert node.paths.private == str(sim.private_dir)


def test_images_may_be_kept_elsewhere(sim):
    (sim.root / "images").mkdir()
    node = support.open_node(sim, image_template_dir=str(sim.root / "images"))

    assert node.paths.templates == str(sim.root / "images")


def test_the_claims_directory_is_made_and_not_for_everyone_to_write(sim):
    place = sim.root / "a/b/claims"
    support.open_node(sim, lock_dir=str(place))

    assert place.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("spelling", ["$VEID", "${VEID}", "$VEID/"])
def test_vz_conf_may_spell_the_containers_number_in_many_ways(sim4, spelling):
    set_vz_conf(sim4, f"VE_PRIVATE='{sim4.private_dir}/{spelling}'")

    assert support.open_node(sim4).paths.private == str(sim4.private_dir)


def test_two_nodes_live_in_one_process(tmp_path, own_privileged_side):
    sims = [support.simulated(tmp_path / family, family) for family in ("4", "9")]
    nodes = [support.open_node(sim, host=f"h{n}") for n, sim in enumerate(sims)]

    assert [node.host for node in nodes] == ["h0", "h1"]
    assert [node.family for node in nodes] == [vzctl.FAMILY_4, vzctl.FAMILY_7]
    assert nodes[0].paths.private != nodes[1].paths.private


# -- reading vz.conf ----------------------------------------------------------------


@pytest.fixture
def root(monkeypatch):
    """This process is root, whoever it is."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_the_owner_of_a_containers_root_is_what_vz_conf_says(sim4, root):
    set_vz_conf(sim4, "LOCAL_UID=100000\nLOCAL_GID=200000")
    assert support.open_node(sim4).guest_ids == (100000, 200000)

    set_vz_conf(sim4, "LOCAL_UID=\nLOCAL_GID=")
    assert support.open_node(sim4).guest_ids == (0, 0)


def test_where_vz_conf_says_nothing_a_containers_root_is_the_hosts(
    tmp_path, own_privileged_side, root
):
    sim = support.SimNode(tmp_path / "node", "4")

    assert support.open_node(sim).guest_ids == (0, 0)


def test_an_owner_that_is_no_number_is_refused(sim4, root):
    set_vz_conf(sim4, "LOCAL_UID=nobody")

    assert "LOCAL_UID in vz.conf is nobody: set it" in refused(sim4)


def test_a_simulated_node_belongs_to_whoever_runs_it(sim4, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1001)

    assert support.open_node(sim4).guest_ids == (1000, 1001)


# -- samples ------------------------------------------------------------------------


def test_a_sample_with_beancounters_is_not_used_under_vswap(sim4):
    assert support.open_node(sim4).sample is None
    assert support.open_node(sim4, default_config="vswap-1g").sample == "vswap-1g"


def test_a_sample_with_beancounters_is_used_with_beancounters(sim4):
    sizing = resources.SizingOptions(use_ubc=True)

    assert support.open_node(sim4, sizing=sizing).sample == "basic"


def test_no_sample_has_to_be_used(sim):
    assert support.open_node(sim, default_config="").sample is None


def test_a_flavors_sample_suits_or_not(node4):
    assert node4.suits("vswap-1g")
    assert not node4.suits("light")
    with pytest.raises(exception.ConfigurationError, match="cannot be read"):
        node4.suits("missing")


# -- layout -------------------------------------------------------------------------


def test_the_layout_may_be_left_to_vz_conf(tmp_path, own_privileged_side):
    sim = support.simulated(tmp_path / "node", "4", ploop=True)
    sim.set_vz_conf(VE_LAYOUT="ploop:expanded")

    assert support.open_node(sim, layout="").layout == "ploop"
    assert support.open_node(sim, layout="simfs").layout == "simfs"


# -- a node that cannot be worked on ------------------------------------------------


def test_without_vz_conf_openvz_is_missing(sim):
    said = refused(sim, vz_conf="/nonexistent/vz.conf")

    assert "/nonexistent/vz.conf cannot be read" in said
    assert "install vzctl" in said


@pytest.mark.parametrize(
    ("option", "directory"),
    [
        ("ve_private_dir", "vz/private"),
        ("ve_root_dir", "vz/root"),
        ("image_template_dir", "vz/template/cache"),
    ],
)
def test_a_missing_directory_is_named_with_its_option(sim, option, directory):
    (sim.root / directory).rmdir()

    said = refused(sim)

    assert f"{sim.root / directory} is not there: create it" in said
    assert f"[openvz]{option}" in said


def test_a_missing_directory_of_configurations_is_named(sim):
    assert "ve_conf_dir" in refused(sim, ve_conf_dir=str(sim.root / "missing"))


@pytest.mark.parametrize("option", ["ve_private_dir", "ve_root_dir"])
def test_an_option_that_contradicts_vz_conf_is_refused(sim, option):
    said = refused(sim, **{option: str(sim.root)})

    assert f"[openvz]{option} is {sim.root}, but vzctl uses" in said
    assert "remove the option, or change" in said


def test_a_directory_that_does_not_end_with_the_number_is_refused(sim4):
    set_vz_conf(sim4, f"VE_PRIVATE={sim4.private_dir}")

    assert "end it with /$VEID" in refused(sim4)


def test_templates_must_be_writable(sim, monkeypatch):
    # Root may write anywhere.
    monkeypatch.setattr(
        os, "access", lambda path, mode: not str(path).endswith("/cache")
    )

    assert "chown it to that user" in refused(sim)


def test_the_claims_directory_must_be_writable(sim, monkeypatch):
    monkeypatch.setattr(
        os, "access", lambda path, mode: not str(path).endswith("/claims")
    )

    assert "lock_dir" in refused(sim)


def test_a_claims_directory_that_cannot_be_made_is_told(sim):
    (sim.root / "file").touch()

    said = refused(sim, lock_dir=str(sim.root / "file/claims"))

    assert "cannot be made (Not a directory): create it" in said


def test_a_claims_directory_that_everyone_may_write_is_refused(sim):
    (sim.root / "claims").mkdir()
    (sim.root / "claims").chmod(0o777)

    assert "chmod o-w it" in refused(sim)


@pytest.mark.parametrize("program", ["vzctl", "vzlist"])
def test_a_missing_program_is_named_with_its_option(sim, program):
    (sim.bin_dir / program).unlink()

    said = refused(sim)

    assert f"{program} is not in {sim.bin_dir}: install it" in said
    assert "[openvz]program_dirs" in said


def test_a_vzctl_of_an_unknown_version_is_refused(sim):
    (sim.bin_dir / "vzctl").write_text("#!/bin/sh\necho vzctl version 3.3\n")

    assert "vzctl 3.3.0 is not supported: install" in refused(sim)


def test_a_vzctl_that_says_nothing_is_refused(sim):
    (sim.bin_dir / "vzctl").write_text("#!/bin/sh\nexit 1\n")

    assert "names no version: install" in refused(sim)


def test_a_missing_sample_is_named_with_its_option(sim):
    said = refused(sim, default_config="large")

    assert "ve-large.conf-sample is not there: set [openvz]default_config" in said


def test_an_unreadable_sample_is_told(sim, monkeypatch):
    # Root may read anything: a link to itself is what nobody can.
    sample = sim.conf_dir / "ve-basic.conf-sample"
    sample.unlink()
    sample.symlink_to(sample)
    monkeypatch.setattr(os.path, "isfile", lambda path: True)

    assert f"{sample} cannot be read" in refused(sim)


def test_bounds_without_a_number_in_between_are_refused(sim4):
    with pytest.raises(exception.ConfigurationError, match="ctid_first is 300 and"):
        support.open_node(sim4, ctids=(300, 299))
    node = support.open_node(sim4, ctids=(300, 300))
    assert node.claims.claim(support.UUID, list) == "300"


@pytest.mark.parametrize("layout", ["ploop", "nfs"])
def test_a_layout_that_the_family_has_not_is_refused(sim9, layout):
    said = refused(sim9, layout=layout)

    assert f"[openvz]layout = {layout} does not work with vzctl 7: set it" in said


def test_vzctl_7_has_to_keep_containers_in_trees(sim9):
    sim9.set_vz_conf(VEFSTYPE="ploop")

    said = refused(sim9)

    assert "VEFSTYPE=simfs" in said
    assert said.endswith("set it.")


def test_there_are_no_beancounters_with_vzctl_7(sim9):
    said = refused(sim9, sizing=resources.SizingOptions(use_ubc=True))

    assert "[openvz]use_ubc = False" in said


def test_a_vzlist_that_cannot_see_is_no_empty_node(sim4):
    sim4.blind_vzlist = True

    said = refused(sim4)

    assert "cannot tell which containers there are" in said
    assert "/proc/vz" in said


def test_a_failing_vzlist_is_no_empty_node(sim):
    sim.fail("vzlist", rc=1, stderr="Unable to read configuration\n")

    assert "Unable to read configuration" in refused(sim)


@pytest.fixture
def unprivileged(monkeypatch):
    """This process is not root, nor its own privileged side."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(privsep.context, "client_mode", True)


def helper(sim, text):
    path = sim.root / "helper"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_root_helper_that_is_missing_is_told(sim4, unprivileged):
    said = refused(sim4, privilege="rootwrap", root_helper="/nonexistent/sudo")

    assert "'/nonexistent/sudo' cannot be run" in said
    assert "correct nova's root helper" in said


def test_a_root_helper_that_fails_is_told(sim4, unprivileged):
    failing = helper(sim4, "echo a password is required >&2; exit 1")

    said = refused(sim4, privilege="rootwrap", root_helper=failing)

    assert "a password is required" in said
    assert "sudoers" in said


def test_containers_are_not_kept_where_roots_side_would_refuse_to_work(
    sim4, unprivileged
):
    place = sim4.root / "2014"
    place.symlink_to(sim4.private_dir)
    set_vz_conf(sim4, f"VE_PRIVATE={place}/$VEID")

    said = refused(sim4)

    assert f"{place} leads through 2014" in said
    assert "mount it in another place" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="the helper has to be root")
def test_programs_that_others_could_change_are_not_run_as_root(sim4, unprivileged):
    ours = (
        "from ovznovadriver.cmd import privileged as p; import sys; sys.exit(p.main())"
    )
    path = os.pathsep.join(filter(None, sys.path))
    sim4.bin_dir.chmod(0o777)
    working = helper(
        sim4, f"shift; PYTHONPATH='{path}' exec {sys.executable} -c '{ours}' \"$@\""
    )

    said = refused(sim4, privilege="rootwrap", root_helper=working)

    assert "could be changed by others than root: chown it" in said


def test_an_unknown_privilege_is_refused(sim):
    assert "[openvz]privilege is sudo: set it" in refused(sim, privilege="sudo")


# -- the rest -----------------------------------------------------------------------


def test_the_hosts_interfaces_are_known(sim, node):
    sim.add_nic("tap0")

    assert node.veth_exists("tap0")
    assert not node.veth_exists("tap1")


def test_artifacts_are_looked_for_where_vzctl_leaves_them(sim, node):
    assert node.artifact_dirs() == {
        "private": str(sim.private_dir),
        "root": str(sim.root_dir),
        "conf": str(sim.conf_dir),
        "names": str(sim.names_dir),
        "lock": str(sim.lock_dir),
        "dump": str(sim.dump_dir),
    }
