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

"""Nova's own services in one process, with the driver over a simulated node.

Importing this package prepares the process for ``nova.test``, which must not be
imported before: nova runs on native threads, and knows the driver's name also
when the package is not installed beside it.
"""

import importlib.util
import os
from pathlib import Path

os.environ.setdefault("OS_NOVA_DISABLE_EVENTLET_PATCHING", "1")

from nova import monkey_patch

monkey_patch.patch()

import nova.virt  # noqa: E402 - not before the line above

CHECKOUT = Path(__file__).resolve().parents[2]

if importlib.util.find_spec("nova.virt.openvz") is None:
    nova.virt.__path__.append(str(CHECKOUT / "nova" / "virt"))
