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

"""What an operator sees and does with ovz-manage."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import fixture as config_fixture

from ovznovadriver.cmd import manage
from ovznovadriver.compute import host
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import metadata
from ovznovadriver.openvz.container import OvzContainer, OvzContainers
from tests import support
from tests.unit.compute.abandoned import abandon, half_made

UUID, OTHER_UUID = support.UUID, support.OTHER_UUID
PROJECT = Path(__file__).parents[3]
DOCUMENT = PROJECT / "doc/source/ovz-manage.rst"


@pytest.fixture(
    params=["4", pytest.param("9", marks=pytest.mark.slow)], ids=["vzctl4", "vzctl9"]
)
def sim(request, tmp_path, own_privileged_side):
    """A simulated node."""
    return support.simulated(tmp_path / "node", request.param)


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Directories of the service's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with config_fixture.Config(host.CONF) as config:
        config.config(group="openvz", snapshot_dir=str(tmp_path / "snapshots"))
        yield


@pytest.fixture
def tool(sim, capsys):
    """Run it: its exit code, and its answer from JSON."""

    def run(*words, host=support.HOST, plain=False):
        capsys.readouterr()
        flags = [] if plain else ["--json"]
        code = manage.main(
            [*flags, *words], opened=lambda files: support.open_node(sim, host)
        )
        said = capsys.readouterr()
        if code == manage.FAILED and not said.out:
            return code, said.err
        return code, said.out if plain else json.loads(said.out)

    return run


# -- list ---------------------------------------------------------------------------


def test_containers_are_listed_with_what_their_tags_say(sim, node, image, tool):
    ours = support.create(node, image)
    ours.start()
    theirs = support.create(support.open_node(sim, "host2"), image, OTHER_UUID)

    code, rows = tool("list")
    assert code == manage.DONE
    assert rows == [
        {
            "ctid": ours.ovz_id,
            "state": "running",
            "owner": support.HOST,
            "host": support.HOST,
            "uuid": UUID,
            "name": "instance-00000007",
            "problems": [],
        }
    ]
    _, rows = tool("list", "--all")
    owners = {row["ctid"]: row["owner"] for row in rows if row["owner"] != "-"}
    assert owners == {ours.ovz_id: support.HOST, theirs.ovz_id: "host2"}


def test_a_problem_stands_beside_its_container(sim, node, image, tool):
    ctid = support.create(node, image).ovz_id
    OvzContainer.find(node, uuid=UUID).mount()

    _, ((row),) = tool("list")
    code, text = tool("list", plain=True)

    assert code == manage.DONE
    assert row["problems"][0].startswith("mount: ")
    lines = text.splitlines()
    assert lines[0].split() == ["CTID", "STATE", "OWNER", "UUID", "NAME"]
    assert lines[1].split() == [ctid, "mounted", "host1", UUID, "instance-00000007"]
    assert lines[2].startswith("    mount: ")


def test_what_a_terminal_obeys_is_not_printed(sim, node, image, tool, monkeypatch):
    ctid = support.create(node, image, name="\x1b[2Jinstance").ovz_id

    _, text = tool("list", plain=True)

    assert ctid in text
    assert "\x1b" not in text


def test_an_empty_node_is_said_to_be_one(tool):
    for command in ("list", "orphans", "repair", "drain"):
        code, text = tool(command, plain=True)
        assert code == manage.DONE
        assert len(text.splitlines()) == 1, text


# -- orphans and repair -------------------------------------------------------------


def test_orphans_are_told_and_nothing_is_done(sim, node, image, tool):
    ctid = half_made(node, image)
    (sim.dump_dir / "Dump.555").touch()
    before = support.traces(sim, node)

    code, found = tool("orphans")

    assert code == manage.FOUND
    assert [one["kind"] for one in found] == ["half-made", "left-over"]
    assert ctid in found[0]["subject"]
    assert support.traces(sim, node) == before


def test_a_repair_is_shown_first_and_done_when_it_is_wanted(sim, node, image, tool):
    half_made(node, image)
    before = support.traces(sim, node)

    code, shown = tool("repair")
    assert (code, shown[0]["result"]) == (manage.FOUND, "would be done")
    assert support.traces(sim, node) == before

    code, done = tool("repair", "--yes")
    assert (code, done[0]["result"]) == (manage.DONE, "done")
    assert support.traces(sim, node) == {}
    assert tool("repair", "--yes") == (manage.DONE, [])


def test_only_the_kinds_that_are_wanted_are_repaired(sim, node, image, tool):
    ctid = half_made(node, image)
    mounted = support.create(node, image, OTHER_UUID)
    mounted.mount()

    code, done = tool("repair", "--yes", "--kind", "mount")

    assert (code, [one["kind"] for one in done]) == (manage.DONE, ["mount"])
    assert ctid in sim.containers()
    code, said = tool("repair", "--kind", "everything")
    assert code == manage.FAILED
    assert "there are busy, swap," in said


def test_what_fails_is_told_and_what_is_the_operators_too(sim, node, image, tool):
    ctid = half_made(node, image)
    sim.fail("vzctl", "destroy", rc=5, stderr="no way")
    code, done = tool("repair", "--yes", "--kind", "half-made")
    assert (code, done[0]["result"]) == (manage.FAILED, "failed")
    assert "no way" in done[0]["what"]
    assert ctid in sim.containers()

    (sim.dump_dir / "Dump.555").touch()
    code, done = tool("repair", "--yes")
    assert [one["result"] for one in done] == ["done", "yours to do"]
    assert code == manage.FOUND


def test_nothing_is_repaired_while_the_service_runs(
    sim, node, image, tool, monkeypatch
):
    ctid = half_made(node, image)
    monkeypatch.setattr(os, "getpid", os.getppid)
    node.claims.serve()
    monkeypatch.undo()

    code, said = tool("repair", "--yes")

    assert code == manage.FAILED
    assert f"process {os.getppid()}" in said
    assert ctid in sim.containers()
    assert tool("repair")[0] == manage.FOUND


def test_a_container_renamed_by_hand_gets_its_name_back(sim4, node4, image4, capsys):
    ctid = support.create(node4, image4).ovz_id
    sim4.run("vzctl", "set", ctid, "--name", "web", "--save")

    code = manage.main(
        ["repair", "--yes"], opened=lambda files: support.open_node(sim4)
    )

    assert code == manage.DONE
    assert "renamed" in capsys.readouterr().out
    assert sim4.conf(ctid)["NAME"] == UUID


# -- adopt --------------------------------------------------------------------------


def test_a_container_of_2014_is_adopted(sim4, node4, image4, capsys):
    ctid = support.legacy(sim4, image4, "150")
    before = (sim4.tree(ctid) / "etc/passwd").read_bytes()

    code = manage.main(
        ["adopt", "--host", "host1", "150"], opened=lambda f: support.open_node(sim4)
    )

    assert code == manage.DONE, capsys.readouterr()
    found = OvzContainer.find(node4, uuid=UUID)
    assert (found.ovz_id, found.name, found.nova_id) == (
        "150",
        "instance-00000007",
        "7",
    )
    assert node4.claims.find(UUID) == ["150"]
    assert node4.claims.has("150", ovz_ctid.MADE)
    assert (sim4.tree(ctid) / "etc/passwd").read_bytes() == before


def test_all_of_a_host_are_adopted_and_no_others(sim4, image4, capsys):
    support.legacy(sim4, image4, "150")
    support.legacy(sim4, image4, "151", uuid=OTHER_UUID)
    support.legacy(sim4, image4, "152", host="host2", uuid=UUID[:-1] + "9")
    support.foreign(sim4, image4, "153", "web server")

    manage.main(
        ["--json", "adopt", "--host", "host1", "--all"],
        opened=lambda f: support.open_node(sim4),
    )

    adopted = json.loads(capsys.readouterr().out)
    assert [one["ctid"] for one in adopted] == ["150", "151"]
    node = support.open_node(sim4)
    assert [c.ovz_id for c in OvzContainers.list(node)] == ["150", "151"]
    assert sim4.conf("153")["DESCRIPTION"] == "web server"
    assert metadata.decode(sim4.conf("152")["DESCRIPTION"]) is None


REFUSED = {
    "nobody's": ("153", "not one that this driver"),
    "another host's": ("152", "made for host host2"),
    "not there": ("999", "no container 999"),
    "tagged": ("101", "bears a tag"),
}


def test_what_is_not_the_hosts_is_not_adopted(sim4, node4, image4, capsys):
    support.create(node4, image4)
    support.legacy(sim4, image4, "152", host="host2", uuid=OTHER_UUID)
    support.foreign(sim4, image4, "153", "web server")
    before = {one: sim4.conf_text(one) for one in sim4.containers()}

    for ctid, reason in REFUSED.values():
        code = manage.main(
            ["--json", "adopt", "--host", "host1", ctid],
            opened=lambda f: support.open_node(sim4),
        )

        assert code == manage.FAILED
        assert reason in json.loads(capsys.readouterr().out)[0]["what"]
    assert {one: sim4.conf_text(one) for one in sim4.containers()} == before


def test_a_server_that_has_a_container_gets_no_second_one(sim4, node4, image4, capsys):
    support.create(node4, image4)
    support.foreign(sim4, image4, "150")
    support.describe(
        sim4,
        "150",
        json.dumps({"host": "host1", "name": "n", "nova_id": "7", "uuid": UUID}),
    )

    code = manage.main(
        ["adopt", "--host", "host1", "150"], opened=lambda f: support.open_node(sim4)
    )

    assert code == manage.FAILED
    assert "has a container here already" in capsys.readouterr().out


def test_a_server_that_lost_its_tag_gets_it_back(sim, node, image, tool):
    ctid = support.create(node, image, configure=support.with_interfaces).ovz_id
    abandon(node, ctid)
    support.describe(sim, ctid, "my machine")
    assert tool("orphans")[1][0]["kind"] == "untagged"

    code, said = tool("adopt", "--host", support.HOST, ctid)
    assert code == manage.FAILED
    assert UUID in said[0]["what"]
    code, _ = tool(
        *("adopt", "--host", support.HOST, ctid),
        *("--name", "instance-00000007", "--id", "7"),
    )

    assert code == manage.DONE
    assert OvzContainer.find(node, uuid=UUID).name == "instance-00000007"
    assert tool("orphans") == (manage.DONE, [])


# -- drain --------------------------------------------------------------------------


def test_what_runs_and_what_is_under_way_is_told(sim, node, image, tool):
    assert tool("drain") == (manage.DONE, [])
    running = support.create(node, image)
    running.start()
    OvzContainer.get_next_id(node, OTHER_UUID)
    lock = sim.lock_dir / f"{running.ovz_id}.lck"
    lock.write_text(f"{os.getpid()}\n")

    code, found = tool("drain")

    assert code == manage.FOUND
    assert [one["kind"] for one in found] == ["runs", "vzctl", "under-way"]
    lock.unlink()
    _, text = tool("drain", plain=True)
    assert "service set --disable" in text
    running.stop(fast=True)
    node.claims.release(node.claims.find(OTHER_UUID)[0])
    assert tool("drain") == (manage.DONE, [])


def test_others_do_not_hold_up_maintenance(sim, image, tool):
    theirs = support.open_node(sim, "host2")
    support.create(theirs, image).start()
    OvzContainer.get_next_id(theirs, OTHER_UUID)

    assert tool("drain") == (manage.DONE, [])


# -- the command itself -------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--everything"],
        ["adopt", "101"],
        ["adopt", "--host", "h"],
        ["adopt", "--host", "h", "--all", "101"],
        ["adopt", "--host", "h", "101", "102", "--name", "x"],
        [],
    ],
)
def test_wrong_words_are_refused(words, capsys):
    with pytest.raises(SystemExit) as error:
        manage.main(words, opened=lambda files: pytest.fail("opened"))
    assert error.value.code == 2


def test_a_node_that_cannot_be_opened_is_one_sentence(sim, node, capsys):
    sim.fail("vzlist", rc=1)

    code = manage.main(["list"], opened=lambda files: support.open_node(sim))

    assert code == manage.FAILED
    assert re.fullmatch(r"ovz-manage: vzlist cannot .*\n", capsys.readouterr().err)


def test_without_a_lock_dir_nobody_has_run_here(tmp_path):
    with pytest.raises(manage.exception.OvzError, match="ever run on this node"):
        manage._become_owner(str(tmp_path / "claims"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_lock_dir_of_nobody_is_a_clear_error(tmp_path):
    os.chown(tmp_path, 3_999_999_999, -1)

    with pytest.raises(manage.exception.OvzError, match="does not know: chown it"):
        manage._become_owner(str(tmp_path))


def test_it_is_told_where_the_configuration_is_as_nova_compute_is(capsys):
    seen = []

    def opened(flags):
        seen.extend(flags)
        raise manage.exception.OvzError("no node")

    words = ["--config-file", "a", "--config-dir=b", "--config-file=c", "list"]
    assert manage.main(words, opened=opened) == manage.FAILED
    assert seen == ["--config-file=a", "--config-file=c", "--config-dir=b"]


@pytest.mark.slow
@pytest.mark.parametrize("given", [True, False], ids=["given", "found"])
def test_it_works_with_a_nova_conf(sim, node, image, tmp_path, given):
    support.create(node, image)
    options = {
        "vz_conf": sim.root / "etc/vz/vz.conf",
        "ve_conf_dir": sim.conf_dir,
        "names_dir": sim.names_dir,
        "lock_dir": sim.root / "claims",
        "sysfs_dir": sim.root / "sys",
        "program_dirs": sim.bin_dir,
        "snapshot_dir": tmp_path / "snapshots",
    }
    # Without a word it finds what is nova-compute's alone, too.
    conf = tmp_path / ".nova/nova-compute.conf"
    conf.parent.mkdir()
    words = [f"--config-file={conf}"] if given else []
    lines = [f"{name} = {value}" for name, value in options.items()]
    conf.write_text("\n".join(["[DEFAULT]\nhost = host1\n[openvz]", *lines, ""]))
    code = (
        "from ovznovadriver.openvz import privsep\n"
        "from ovznovadriver.cmd import manage\n"
        "privsep.context.set_client_mode(False)\n"
        f"raise SystemExit(manage.main([*{words!r}, '--json', 'list']))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**os.environ, "HOME": "/nowhere" if given else str(tmp_path)},
    )

    assert done.returncode == manage.DONE, done.stderr
    assert [row["uuid"] for row in json.loads(done.stdout)] == [UUID]


def test_its_document_names_every_command_kind_and_exit_code():
    text = DOCUMENT.read_text()
    for word in ("list", "orphans", "repair", "adopt", "drain"):
        assert f"``{word}" in text
    for code in (manage.DONE, manage.FAILED, manage.FOUND, 2):
        assert re.search(rf"^{code} +\S", text, re.MULTILINE), code
