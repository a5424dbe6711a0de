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

"""What the test command leaves out, to end within ten minutes on two cores.

Tests with the mark ``slow`` are left out. And what is the same for both families of
vzctl runs with each in turn.

A functional test, or one of Nova's contract suite, is written once and inherited by a
class for each family; one of a module of compute has the node as a parameter. What
differs between the families lies below: in openvz, whose unit and contract tests always
run with both. So here half of the pairs run with the one family and half with the
other, by the test's name. A class with ``BOTH_FAMILIES`` always runs with both.

With ``OVZ_THOROUGH`` in the environment (``tox -e thorough``) nothing is left out.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import defaultdict
from pathlib import Path

import pytest

#: Nothing is left out.
THOROUGH = bool(os.environ.get("OVZ_THOROUGH"))

_FAMILY = re.compile(r"[49]$")
_NODE = re.compile(r"\bvzctl[49]\b")
_COMPUTE = Path(__file__).parent / "unit" / "compute"


def _key(item: pytest.Item) -> tuple[str, str] | None:
    """What a test and its twin have in common; None for one that has none."""
    if _COMPUTE in item.path.parents and _NODE.search(item.name):
        return str(item.path), _NODE.sub("vzctl", item.name)
    case = getattr(item, "cls", None)
    function = getattr(item, "function", None)
    if case is None or function is None or not _FAMILY.search(case.__name__):
        return None
    if getattr(case, "BOTH_FAMILIES", False):
        return None
    if function.__qualname__.startswith(f"{case.__name__}."):
        return None
    return _FAMILY.sub("", f"{item.path}:{case.__name__}"), item.name


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what is slow, and one of each pair."""
    if THOROUGH:
        return
    left_out = {item for item in items if item.get_closest_marker("slow")}
    pairs: defaultdict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        key = _key(item)
        # One whose twin is slow is the only one that is left of its pair.
        if key is not None and item not in left_out:
            pairs[key].append(item)
    left_out |= {
        pair[zlib.crc32(key[1].encode()) % 2]
        for key, pair in pairs.items()
        if len(pair) == 2
    }
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
