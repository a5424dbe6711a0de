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

"""What the service keeps of a container."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ovznovadriver.console import record


def test_what_was_saved_is_there_again(tmp_path: Path) -> None:
    kept = record.Kept(str(tmp_path), "ct")
    kept.record.port = 10001
    kept.record.said = "Starting \udcff"
    kept.record.started = 12.5
    kept.save()
    assert record.Kept(str(tmp_path), "ct").record == kept.record
    assert (tmp_path / "ct.json").stat().st_mode & 0o077 == 0


def test_what_has_not_changed_is_not_written(tmp_path: Path) -> None:
    kept = record.Kept(str(tmp_path), "ct")
    kept.save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"port": "x"}', '{"boot_id": 3, "port": 1}', "\xff"]
    + [
        json.dumps({**dataclasses.asdict(record.Record()), **wrong})
        for wrong in ({"port": "1"}, {"said": 1}, {"started": "x"}, {"asleep": 1})
    ],
)
def test_what_cannot_be_read_counts_as_new_and_is_said(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ct.json").write_text(text, encoding="latin-1")
    assert record.Kept(str(tmp_path), "ct").record == record.Record()
    assert f"{tmp_path}/ct.json cannot be read" in caplog.text


def test_what_is_not_there_yet_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert record.Kept(str(tmp_path), "ct").record == record.Record()
    assert "WARNING" not in caplog.text


def test_remove_can_be_repeated(tmp_path: Path) -> None:
    kept = record.Kept(str(tmp_path), "ct")
    kept.record.port = 1
    kept.save()
    kept.remove()
    kept.remove()
    assert list(tmp_path.iterdir()) == []
