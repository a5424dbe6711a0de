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

from __future__ import annotations

import os

import pytest

from tests.network.__main__ import VARIABLE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the tests of this directory out where the network is the machine's own."""
    if VARIABLE in os.environ:
        return
    reason = "needs root and namespaces of its own; 'tox -e network' makes them"
    here = os.path.dirname(__file__) + os.sep
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.skip(reason=reason))
