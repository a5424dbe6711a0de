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
"""Turns recordings of the real tools into the form that test_recordings.py replays.

    python tests/contract/recordings/convert.py [directory with *.jsonl]

Kept are the calls of vzctl and vzlist, in order: the recording's id ("id"), arguments
("argv"), exit code ("rc"), standard output and error ("out", "err", left out when
empty), and the container's configuration file where the call had changed it ("conf"):
lines, or [from, to] for lines taken over from the same container's file before. Long
runs of one character are written as <<character*count>>. replay.py reads all this back.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DEFAULT_SOURCE = HERE.parents[3] / "shared/transcripts"
SOURCES = {"4": "vzctl-4.9.4.jsonl", "9": "vzctl-9.0.1.jsonl"}

_RUN = re.compile(r"(\S)\1{59,}")
_WRITES = ("create", "set", "unset")


def shorten(text: str) -> str:
    """Writes long runs of one character as <<character*count>>."""
    return _RUN.sub(lambda m: f"<<{m.group(1)}*{len(m.group(0))}>>", text)


def subcommand(argv: list[str]) -> tuple[str, str]:
    """The subcommand of vzctl and the container it is about."""
    words = [word for word in argv[1:] if not word.startswith("--")]
    return (words[0] if words else ""), (words[1] if len(words) > 1 else "")


def configuration(record: dict[str, Any], family: str) -> list[str] | None:
    """Configuration lines that belong to the call, None when it has none."""
    after = record.get("conf_after")
    command, ctid = subcommand(record["argv"])
    if not isinstance(after, str) or command not in _WRITES:
        return None
    lines = after.splitlines()
    veid = next((ln[6:-1] for ln in lines if ln.startswith('VEID="')), None)
    # Family 9: the file is sometimes that of the container before.
    if family == "9" and veid is not None and veid != ctid:
        return None
    return lines


def packed(lines: list[str], before: list[str]) -> list[object]:
    """The lines, with [from, to] for runs of lines that were there before."""
    short: list[object] = []
    for line in lines:
        place = before.index(line) if line in before else -1
        last = short[-1] if short else None
        if place < 0:
            short.append(line)
        elif isinstance(last, list) and last[1] == place:
            last[1] += 1
        else:
            short.append([place, place + 1])
    return short


def convert(source: Path, family: str) -> list[dict[str, object]]:
    """The records of one family."""
    kept: list[dict[str, object]] = []
    seen: dict[str, int] = {}
    files: dict[str, list[str]] = {}
    for line in source.read_text().splitlines():
        record = json.loads(line)
        if record["argv"][0] not in ("vzctl", "vzlist"):
            continue
        name = record["id"]
        seen[name] = seen.get(name, 0) + 1
        entry: dict[str, object] = {
            "id": name if seen[name] == 1 else f"{name}.{seen[name]}",
            "argv": [shorten(word) for word in record["argv"]],
            "rc": record["rc"],
        }
        for key, short in (("stdout", "out"), ("stderr", "err")):
            if record[key]:
                entry[short] = shorten(record[key])
        lines = configuration(record, family)
        if lines is not None:
            lines = [shorten(line) for line in lines]
            ctid = subcommand(record["argv"])[1]
            entry["conf"] = packed(lines, files.get(ctid, []))
            files[ctid] = lines
        kept.append(entry)
    return kept


def main() -> None:
    """Converts both families."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_SOURCE
    for family, name in SOURCES.items():
        records = convert(source / name, family)
        text = "".join(
            json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n"
            for r in records
        )
        (HERE / f"family{family}.jsonl").write_text(text)
        print(f"family {family}: {len(records)} calls")


if __name__ == "__main__":
    main()
