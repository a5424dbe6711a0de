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

"""Console logs: what is kept, and that it is bounded."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, strategies

from ovznovadriver.console import log

LIMIT = 100


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


@given(chunks=strategies.lists(strategies.binary(max_size=250), max_size=12))
def test_the_end_of_all_that_was_written_is_kept_and_no_more(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    directory = tmp_path_factory.mktemp("logs")
    made = log.ConsoleLog(str(directory), "ct", LIMIT)
    for chunk in chunks:
        made.write(chunk)
    whole = b"".join(chunks)
    kept = made.tail(10 * LIMIT)
    made.close()
    assert whole.endswith(kept)
    assert len(kept) >= min(len(whole), LIMIT)
    assert _size(directory) <= 2 * LIMIT
    assert made.tail(7) == whole[-7:]
    assert made.tail(0) == b""


def test_another_process_goes_on_where_one_has_ended(tmp_path: Path) -> None:
    first = log.ConsoleLog(str(tmp_path), "ct", LIMIT)
    first.write(b"x" * 90)
    first.close()
    second = log.ConsoleLog(str(tmp_path), "ct", LIMIT)
    second.write(b"y" * 20)
    assert second.tail(LIMIT) == b"x" * 80 + b"y" * 20
    assert (tmp_path / "ct.log").read_bytes() == b"y" * 10


def test_a_boot_begins_a_log_and_keeps_that_of_the_boot_before(tmp_path: Path) -> None:
    made = log.ConsoleLog(str(tmp_path), "ct", LIMIT)
    made.new_boot()
    assert _names(tmp_path) == set()
    made.write(b"first" * 30)
    made.new_boot()
    assert made.tail(LIMIT) == b""
    made.write(b"second")
    assert made.tail(LIMIT) == b"second"
    assert (tmp_path / "ct.previous.log").read_bytes() == (b"first" * 30)[100:]
    assert (tmp_path / "ct.previous.log.1").read_bytes() == (b"first" * 30)[:100]
    made.new_boot()
    assert (tmp_path / "ct.previous.log").read_bytes() == b"second"
    assert _names(tmp_path) == {"ct.previous.log"}


def test_four_files_are_the_most(tmp_path: Path) -> None:
    made = log.ConsoleLog(str(tmp_path), "ct", LIMIT)
    for _ in range(3):
        made.new_boot()
        made.write(b"x" * 10 * LIMIT)
    assert _size(tmp_path) == 4 * LIMIT


def test_a_full_disk_costs_output_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = log.ConsoleLog(str(tmp_path), "ct", LIMIT)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        made.write(b"lost")
        made.write(b"lost")
    assert len(caplog.records) == 1
    assert "No space" in caplog.text
    made.write(b"kept")
    assert made.tail(LIMIT) == b"kept"


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "ct.log").symlink_to(tmp_path / "canary")
    log.ConsoleLog(str(tmp_path), "ct", LIMIT).write(b"x")
    assert not (tmp_path / "canary").exists()


def test_only_root_and_its_group_read_it(tmp_path: Path) -> None:
    log.ConsoleLog(str(tmp_path), "ct", LIMIT).write(b"x")
    assert (tmp_path / "ct.log").stat().st_mode & 0o027 == 0


def test_remove_leaves_nothing_of_it_and_others_alone(tmp_path: Path) -> None:
    other = log.ConsoleLog(str(tmp_path), "ct2", LIMIT)
    other.write(b"x")
    made = log.ConsoleLog(str(tmp_path), "ct", LIMIT)
    for _ in range(2):
        made.write(b"x" * 150)
        made.new_boot()
    made.write(b"x")
    made.remove()
    assert _names(tmp_path) == {"ct2.log"}
