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

"""What an unprivileged service can do as root, and what it cannot."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from oslo_privsep import priv_context

from ovznovadriver import exception
from ovznovadriver.openvz import hostends, transfer, utils, vzctl, vzlist
from ovznovadriver.openvz import node as ovz_node
from tests.contract.place import Place, made_for_this_worker
from tests.privilege import neighbours

pytestmark = pytest.mark.skipif(
    "OVZ_PRIVILEGE" not in os.environ,
    reason="needs a user and sudo; 'tox -e privilege' sets them up",
)


@pytest.fixture(scope="module")
def directory() -> pathlib.Path:
    return made_for_this_worker()


@pytest.fixture(scope="module")
def helper() -> str:
    helper = os.environ["OVZ_PRIVILEGE_HELPER"]
    priv_context.init(shlex.split(helper))  # as nova-compute does
    return helper


def _executor(helper: str, *program_dirs: pathlib.Path) -> utils.Executor:
    return utils.Executor(
        privilege=os.environ["OVZ_PRIVILEGE"],
        root_helper=helper,
        program_dirs=[str(path) for path in program_dirs],
        timeout=60,
    )


@pytest.fixture(scope="module", params=["4", "9"])
def node(request: pytest.FixtureRequest, directory: pathlib.Path) -> pathlib.Path:
    return directory / f"node{request.param}"


@pytest.fixture(scope="module")
def executor(helper: str, node: pathlib.Path) -> utils.Executor:
    return _executor(helper, node / "bin")


@pytest.fixture
def ctid(node: pathlib.Path) -> str:
    if node.name == "node4":
        return "101"
    return "6e8a9c5e-0d6f-4c3e-9a53-0d3f5f0a7b11"


def test_the_way_to_root_works(executor: utils.Executor) -> None:
    assert os.geteuid() != 0
    assert not executor.direct
    executor.check()
    assert executor.call("ping") == 0


def test_a_container_lives_and_is_gone(
    executor: utils.Executor, node: pathlib.Path, ctid: str
) -> None:
    answer = executor.execute("vzctl", "--version", run_as_root=True)
    family = vzctl.family_of(vzctl.parse_version(answer))
    tool = vzctl.Vzctl(executor, family)
    listing = vzlist.Vzlist(executor)
    template = "tiny"
    if family.template_paths:
        template = str(node / "vz/template/cache/tiny.tar.gz")
    private = str(node / "vz/private")
    tool.create(ctid, template)
    try:
        place = {"base": private, "ctid": ctid, "sub": family.tree_dir}
        file = {"path": "etc/issue", "content": b"\0hello", "mode": 0o600}
        executor.call("write_files", **place, files=[{**file, "uid": 0, "gid": 0}])
        assert executor.call("read_file", **place, path="etc/issue", limit=9) == (
            b"\0hello"
        )
        seen = executor.call(
            "inspect_tree", **place, kinds=["etc"], contents=["etc/issue"], limit=9
        )
        assert seen["kinds"] == {"etc": "directory"}
        assert seen["contents"] == {"etc/issue": b"\0hello"}
        assert executor.call("check_dirs", dirs={"private": private}) == {}
        executor.call("ensure_root_dir", base=str(node / "vz/root"), ctid=ctid)
        tool.start(ctid)
        running = [(info.ctid, info.state) for info in listing.list()]
        assert running == [(ctid, vzlist.State.RUNNING)]
        with pytest.raises(exception.ContainerRunning):
            tool.start(ctid)
        tool.stop(ctid, fast=True)
    finally:
        tool.destroy(ctid)
    assert listing.list() == ()


@pytest.mark.parametrize(
    "argv",
    [
        ["/bin/sh", "-c", "id"],
        ["vzctl", "exec", "101", "id"],
        ["vzctl", "runscript", "101", "/tmp/x"],
    ],
)
def test_nothing_else_runs(executor: utils.Executor, argv: list[str]) -> None:
    with pytest.raises(exception.CommandRefused):
        executor.run(*argv)


def test_a_program_of_the_users_own_does_not_run(
    helper: str, tmp_path: pathlib.Path
) -> None:
    program = tmp_path / "vzctl"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    with pytest.raises(exception.CommandRefused, match="could be changed by others"):
        _executor(helper, tmp_path).run("vzctl", "--version")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("link", [False, True])
def test_a_base_of_the_users_own_is_refused(
    executor: utils.Executor, tmp_path: pathlib.Path, link: bool
) -> None:
    base = tmp_path / "private"
    if link:
        base.symlink_to("/etc")
    else:
        base.mkdir()
        (base / "101").symlink_to("/etc")
    with pytest.raises(exception.CommandRefused, match="could be changed by others"):
        executor.call(
            "read_file", base=str(base), ctid="101", sub="", path="shadow", limit=9999
        )


@pytest.fixture
def slow(directory: pathlib.Path) -> pathlib.Path:
    return directory / "slow"


def _lives(pid: str) -> bool:
    try:
        stat = pathlib.Path("/proc", pid, "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def test_the_end_of_a_commands_time_ends_its_descendants(
    helper: str, slow: pathlib.Path
) -> None:
    with pytest.raises(exception.CommandTimedOut):
        _executor(helper, slow).run("vzctl", "stop", "101", timeout=5)
    noted = [*slow.glob("parent.*"), *slow.glob("child.*")]
    assert len(noted) == 2
    assert [path for path in noted if _lives(path.suffix[1:])] == []


def test_twenty_slow_commands_run_at_once(helper: str, slow: pathlib.Path) -> None:
    executor = _executor(helper, slow)

    def status(ctid: int) -> int:
        return executor.run("vzctl", "status", str(ctid), timeout=90).returncode

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(status, range(101, 121)))
    assert codes == [0] * 20


def test_sudo_permits_nothing_but_rootwrap(helper: str) -> None:
    sudo, *rootwrap = shlex.split(helper)

    def code(*argv: str) -> int:
        done = subprocess.run(
            [sudo, "-n", *argv], capture_output=True, stdin=subprocess.DEVNULL
        )
        return done.returncode

    assert code("id") == 1
    assert code(*rootwrap, "id") == 99
    assert code(*rootwrap, "vzctl", "--version") == 99


def test_a_helper_that_is_not_permitted_is_told() -> None:
    executor = utils.Executor("rootwrap", "sudo nova-rootwrap /etc/other.conf")
    with pytest.raises(exception.PrivilegeError, match="sudoers"):
        executor.check()


def test_a_containers_archive_goes_into_the_users_pipe_and_no_other(
    executor: utils.Executor, node: pathlib.Path, ctid: str, tmp_path: pathlib.Path
) -> None:
    family = vzctl.family_of(
        vzctl.parse_version(executor.execute("vzctl", "--version", run_as_root=True))
    )
    tool = vzctl.Vzctl(executor, family)
    template = "tiny"
    if family.template_paths:
        template = str(node / "vz/template/cache/tiny.tar.gz")
    tool.create(ctid, template)
    place = {
        "base": str(node / "vz/private"),
        "ctid": ctid,
        "sub": family.tree_dir,
        "uid": 0,
        "gid": 0,
    }
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    tmp_path.chmod(0o700)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    how = {**place, "limit": 1 << 30, "seconds": 60.0, "pipe": str(pipe)}
    try:
        # As much as a pipe holds, so that nobody has to read at the same time.
        done = executor.call("pack_tree", owner=os.geteuid(), **how)
        data = os.read(reader, 1 << 20)
        assert done["bytes"] == len(data)
        assert b"etc/shadow" in data
        for owner in (0, os.geteuid() + 1):
            with pytest.raises((exception.CommandRefused, exception.UnsafePath)):
                executor.call("pack_tree", owner=owner, **how)
        tree = {name: place[name] for name in ("base", "ctid", "sub")}
        stage = {"path": ".ovz-snapshot/attributes.0", "mode": 0o600}
        note = {
            "path": "sbin/init",
            "mode": 0o4755,
            "owner": [0, 0],
            "mtime_ns": 0,
            # CAP_NET_RAW
            "attributes": {"security.capability": "AQAAAgAgAAAAAAAAAAAAAAAAAAA="},
        }
        content = json.dumps(note).encode()
        file = {**stage, "content": content, "uid": 0, "gid": 0}
        executor.call("write_files", **tree, files=[file])
        assert executor.call("restore_attributes", **place, seconds=60.0) == 1
    finally:
        os.close(reader)
        tool.destroy(ctid)


@pytest.fixture
def container(executor: utils.Executor, node: pathlib.Path, ctid: str) -> Iterator[str]:
    """A stopped container; its directory in a private area is what is asked for."""
    family = vzctl.family_of(
        vzctl.parse_version(executor.execute("vzctl", "--version", run_as_root=True))
    )
    tool = vzctl.Vzctl(executor, family)
    archive = str(node / "vz/template/cache/tiny.tar.gz")
    tool.create(ctid, archive if family.template_paths else "tiny")
    yield family.tree_dir
    tool.destroy(ctid)


def test_every_other_verb_is_answered_from_the_root_side(
    executor: utils.Executor, node: pathlib.Path, ctid: str, container: str
) -> None:
    conf, private = str(node / "etc/vz/conf"), str(node / "vz/private")
    both = {"conf": conf, "private": private}
    key = "2b0d7b3d-1c1f-4b5e-8f0a-6d1f3c9e7a55"
    tree = {"base": private, "ctid": ctid, "sub": container}

    def call(verb: str, **kwargs: object) -> object:
        return executor.call(verb, **kwargs)

    call("keep_conf", dirs=both, ctid=ctid)
    assert call("restore_conf", dirs=both, ctid=ctid) is True
    assert call("drop_conf", dirs={"conf": conf}, ctid=ctid) is False
    call("remove_dump", dirs={"dump": str(node / "vz/dump")}, ctid=ctid)

    swap = {"dirs": both, "ctid": ctid, "sub": container, "other": key}
    assert call("swap_out", **swap) is False
    with pytest.raises(exception.OvzError, match="rescue"):
        call("swap_in", **swap)
    assert call("settle_swap", dirs=both, ctid=ctid, sub=container) is False

    areas = {kind: str(node / "vz" / kind) for kind in ("private", "root", "dump")}
    areas |= {"conf": conf, "names": str(node / "etc/vz/names")}
    areas["lock"] = str(node / "vz/lock")
    assert call("end_first_pass", dirs=areas, ctid=ctid, wait=0) == "absent"
    assert call("measure_first_pass", dirs=areas, ctid=ctid) == "absent"
    seen = call("survey", dirs=areas, sub=container)
    assert "private" in seen["places"][ctid]
    call("remove_temporary", dirs=both, paths=[])

    end = hostends.HostEnd(host_ifname="tapway0", name="eth0", mac="fa:16:3e:00:00:01")
    call("write_host_ends", base=conf, ctid=ctid, text=hostends.encode([end]))
    programs = {name: executor.find(name) for name in ("ip", "tc")}
    assert call("apply_host_ends", base=conf, ctid=ctid, programs=programs) == []
    assert call("check_host_ends", base=conf, ctids=[ctid], programs=programs) == []
    call("drop_host_ends", names=["tapway0"], programs=programs)
    assert call("drop_pairs", base=conf, ctid=ctid, programs=programs) == []
    assert call("announce", base=conf, ctid=ctid) is True

    dirs = {"private": private}
    assert call("tree_size", **tree)[0] > 0
    proof = call("plant_proof", dirs=dirs)
    assert call("find_proof", dirs=dirs, name=proof) is True
    call("remove_proof", dirs=dirs, name=proof)
    assert key not in call("list_incoming", dirs=dirs)
    call("drop_incoming", dirs=dirs, key=key)
    with pytest.raises(exception.OvzError):
        call("adopt_incoming", dirs=dirs, ctid=ctid, sub=container, key=key)
    with pytest.raises(exception.TransferError):
        call("take_tree", dirs=dirs, ctid=ctid, other="100999")
    call("return_tree", dirs=dirs, ctid="100998", other="100999")

    places = {kind: path for kind, path in areas.items() if kind != "lock"}
    with pytest.raises(exception.OvzError, match="No such file"):
        call("hand_over", dirs=places, ctid=ctid, host="here")
    assert call("take_over", dirs=places, ctid=ctid, host="here") is True

    # Nobody but the caller gets what a container holds.
    with pytest.raises(exception.CommandRefused, match="not the caller"):
        call("pack_contents", owner=0, **tree)
    with pytest.raises(exception.CommandRefused, match="not the caller"):
        call("send_tree", owner=0, **tree)


def test_a_suspended_container_changes_hands(
    executor: utils.Executor, node: pathlib.Path, ctid: str, container: str
) -> None:
    if container:
        pytest.skip("vzctl 7 has the configuration and the memory with the files")
    places = {kind: str(node / "vz" / kind) for kind in ("private", "root", "dump")}
    places |= {kind: str(node / "etc/vz" / kind) for kind in ("conf", "names")}
    tool = vzctl.Vzctl(executor, vzctl.family_of((4, 9, 4)))
    tool.start(ctid)
    tool.suspend(ctid)
    took = {"dirs": places, "ctid": ctid}

    assert executor.call("hand_over", **took, host="here") == []

    listed = executor.call("list_artifacts", dirs={"private": places["private"]})
    assert ctid not in listed
    assert executor.call("take_over", **took, host="there") is True
    assert executor.call("take_over", **took, host="there") is True
    tool.resume(ctid)
    tool.stop(ctid, fast=True)


@pytest.fixture
def source(helper: str, node: pathlib.Path, tmp_path: pathlib.Path) -> ovz_node.Node:
    """The node as a service has it, for which nobody is root."""
    (tmp_path / "claims").mkdir()
    options = Place(node, (str(node / "bin"),)).options(tmp_path / "claims")
    return ovz_node.Node.open("here", options)


@pytest.fixture
def transfers(source: ovz_node.Node, node: pathlib.Path) -> transfer.Transfer:
    """The way from it to a node beside it, by ssh as the same user."""
    described = neighbours.path(node.parent, node.name.removeprefix("node"))
    if not described.exists():
        pytest.skip("needs OpenSSH's server and rsync")
    return transfer.Transfer(source, transfer.Peer(**json.loads(described.read_text())))


@pytest.mark.slow  # test_service.py has a server go there, by privsep
def test_a_tree_goes_to_another_host(
    executor: utils.Executor, ctid: str, container: str, transfers: transfer.Transfer
) -> None:
    key = "6c3f7f7e-3a60-4a37-9c0b-1f8f3b0d2a44"
    private = transfers._node.paths.private
    theirs = transfers.hello()
    assert (theirs.host, theirs.confined) == ("neighbour", True)
    assert transfers.is_shared(key) is False
    assert transfers.sees_claim(ctid, key) is False

    transfers.send(ctid, key)
    later = {"path": "etc/later", "mode": 0o640, "content": b"x", "uid": 0, "gid": 0}
    tree = {"base": private, "ctid": ctid, "sub": container}
    executor.call("write_files", **tree, files=[later])
    transfers.send(ctid, key, final=True)

    # The root sides of both have compared all of it.
    transfers.verify(ctid, key)
    there = str(pathlib.Path(private).parents[1]).replace("/node", "/neighbour")
    dirs = {"private": f"{there}/vz/private"}
    assert key in executor.call("list_incoming", dirs=dirs)
    transfers.discard(key)
    assert key not in executor.call("list_incoming", dirs=dirs)
