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

import os

import hypothesis

# Nova must set up its threads before any module imports eventlet, which
# oslo.privsep does: so it comes first in every test process.
from tests import functional  # noqa: F401 - importing it is what it is for
from tests.families import pytest_collection_modifyitems  # noqa: F401 - a hook

# Whatever the user's is: the tests make files that others may read.
os.umask(0o022)

# How long an example takes, or its making, says how busy the machine is.
hypothesis.settings.register_profile(
    "ovz", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ovz")
