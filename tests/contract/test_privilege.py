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

"""The way to root: what it permits, on the node that the tests are run on."""

from __future__ import annotations

import os

import pytest

from ovznovadriver import exception
from tests.contract import rootfs
from tests.contract.conftest import Bench
from tests.contract.place import WAY


def test_it_works(bench: Bench) -> None:
    bench.node.executor.check()
    assert bench.node.executor.direct is (WAY is None)
    assert bench.node.executor.call("ping") == (os.geteuid() if WAY is None else 0)


@pytest.mark.parametrize(
    "command",
    [
        ["vzctl", "exec", "101", "id"],
        ["vzctl", "exec2", "101", "id"],
        ["vzctl", "enter", "101"],
        ["vzctl", "runscript", "101", "/tmp/script"],
        ["vzctl", "start", "a-name"],
        ["vzctl", "set", "101", "--userpasswd", "root:secret", "--save"],
        ["vzctl", "set", "101", "--description", 'x"\nCPUUNITS="1', "--save"],
        ["vzctl", "create", "101", "--ostemplate", "x", "--private", "/etc"],
        ["vzlist", "-a"],
    ],
)
def test_what_the_driver_does_not_use_is_refused(
    bench: Bench, command: list[str]
) -> None:
    with pytest.raises(exception.CommandRefused):
        bench.node.executor.run(*command)


def test_a_secret_is_not_an_argument(bench: Bench) -> None:
    with pytest.raises(exception.InvalidValue, match="standard input"):
        bench.node.executor.run(
            "vzctl", "set", "101", "--hostname", "pa55word", secrets=["pa55word"]
        )


def test_a_file_is_written_into_a_container_and_read(bench: Bench) -> None:
    ctid = bench.create()
    uid, gid = bench.node.guest_ids
    place = {
        "base": bench.node.paths.private,
        "ctid": ctid,
        "sub": bench.node.family.tree_dir,
    }
    file = {"path": "var/new/file", "content": b"\0\xff", "mode": 0o600}
    bench.node.executor.call(
        "write_files", **place, files=[{**file, "uid": uid, "gid": gid}]
    )
    assert bench.read(ctid, "var/new/file") == b"\0\xff"
    assert bench.read(ctid, rootfs.MARK) == rootfs.MARK_CONTENT
    assert bench.read(ctid, "var/none") is None


def test_a_path_does_not_lead_out_of_a_container(bench: Bench) -> None:
    ctid = bench.create()
    assert bench.read(ctid, "../" * 20 + rootfs.MARK) == rootfs.MARK_CONTENT
