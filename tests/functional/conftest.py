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

"""When a shared cloud is set up and taken down."""

from __future__ import annotations

import pytest

from tests.functional import CHECKOUT
from tests.functional.shared import CURRENT, SharedCloudTest

HERE = CHECKOUT / "tests" / "functional"


def _family(item: pytest.Item | None) -> str | None:
    """The family of the shared cloud that a test needs, None where it needs none."""
    case = getattr(item, "cls", None)
    if case is None or not issubclass(case, SharedCloudTest):
        return None
    return str(case.FAMILY)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that need the same cloud come one after the other."""
    places = [n for n, item in enumerate(items) if item.path.is_relative_to(HERE)]
    ours = [items[place] for place in places]
    ours.sort(key=lambda item: _family(item) or "~")
    for place, item in zip(places, ours, strict=True):
        items[place] = item


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the cloud that the next test does not need: it may be in its way."""
    CURRENT.keep_for(_family(nextitem))


def pytest_sessionfinish() -> None:
    """The session may end before the test that was to be the next."""
    CURRENT.keep_for(None)
