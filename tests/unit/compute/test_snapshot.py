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

"""The stream that Glance reads; tests/functional/test_snapshot.py has the rest."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.compute import snapshot


class Writer:
    """The other side of a stream."""

    def __init__(self, place: Path) -> None:
        (place / "spool").touch()
        self.place = place
        self.error: Exception | None = None
        self.stream = snapshot._Stream(place, 1, lambda: self.error)
        self._ends = [os.open(place / n, os.O_WRONLY) for n in ("first", "second")]

    def write(self, pipe: int, data: bytes) -> None:
        os.write(self._ends[pipe], data)

    def end(self, pipe: int, error: Exception | None = None) -> None:
        self.error = error
        os.close(self._ends[pipe])


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


def read_all(stream: Any) -> bytes:
    return b"".join(iter(stream.read, b""))


def test_the_image_is_first_pipe_spool_and_second_pipe(writer: Writer) -> None:
    writer.write(0, b"contents ")
    writer.end(0)
    (writer.place / "spool").write_bytes(b"frozen ")
    writer.write(1, b"rest")
    writer.end(1)

    data = read_all(writer.stream)

    assert gzip.decompress(data) == b"contents frozen rest"
    assert (writer.stream.taken, writer.stream.given) == (20, len(data))
    assert writer.stream.finished


def test_the_spool_is_read_only_when_it_is_complete(writer: Writer) -> None:
    writer.end(0)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(read_all(writer.stream)))
    reader.start()
    (writer.place / "spool").write_bytes(b"complete")
    writer.end(1)
    reader.join()

    assert gzip.decompress(read[0]) == b"complete"


@pytest.mark.parametrize("size", [-1, 1 << 20, 5000])
def test_no_more_is_given_than_uwsgi_takes(writer: Writer, size: int) -> None:
    content = os.urandom(3 << 20)
    (writer.place / "spool").write_bytes(content)
    writer.end(0)
    writer.end(1)

    pieces = list(iter(lambda: writer.stream.read(size), b""))

    # Less than 1 MiB, as what is around a chunk counts, too.
    assert max(map(len, pieces)) <= (1 << 19 if size != 5000 else size)
    assert gzip.decompress(b"".join(pieces)) == content
    assert writer.stream.given == sum(map(len, pieces))
    assert writer.stream.finished


@pytest.mark.parametrize("pipe", [0, 1])
def test_a_failure_is_no_end_and_stays_one(writer: Writer, pipe: int) -> None:
    writer.write(0, b"contents")
    if pipe:
        writer.end(0)
    writer.end(pipe, OSError("packing failed"))

    # Nova would take an OSError for Glance's, and go on with what is left.
    with pytest.raises(exception.OvzError, match="packing failed"):
        read_all(writer.stream)
    with pytest.raises(exception.OvzError):
        writer.stream.read()
    assert not writer.stream.finished


def test_whoever_writes_learns_that_the_stream_was_closed(writer: Writer) -> None:
    writer.stream.close()

    for pipe in (0, 1):
        with pytest.raises(BrokenPipeError):
            writer.write(pipe, b"x")


@pytest.mark.parametrize(
    ("size", "finished", "complete"),
    [(10, True, True), (None, True, True), (9, True, False), (10, False, False)],
)
def test_an_image_of_which_glance_has_a_part_is_refused(
    size: int | None, finished: bool, complete: bool
) -> None:
    stream: Any = SimpleNamespace(given=10, finished=finished)
    if complete:
        snapshot._check_taken({"size": size}, stream)
        return
    with pytest.raises(exception.OvzError, match="interrupted"):
        snapshot._check_taken({"size": size}, stream)


def test_an_image_keeps_what_it_says_of_its_kind() -> None:
    instance = SimpleNamespace(project_id="p", os_type="linux")
    known = {"name": "x", "properties": {"vm_mode": "exe", "hypervisor_type": "lxc"}}

    found = snapshot.image_metadata(instance, known)

    assert found["properties"] == {
        "image_location": "snapshot",
        "image_state": "available",
        "owner_id": "p",
        "hypervisor_type": "lxc",
        "vm_mode": "exe",
        "os_type": "linux",
    }


@pytest.mark.parametrize(("root_gb", "limit"), [(0, 1 << 60), (2, (6 + 8) << 30)])
def test_an_archive_is_bounded_by_the_servers_disk(root_gb: int, limit: int) -> None:
    flavor = SimpleNamespace(root_gb=root_gb)
    assert snapshot._limit(SimpleNamespace(flavor=flavor)) == limit
