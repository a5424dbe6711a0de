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

"""The option reference in doc/ is what the code says."""

from __future__ import annotations

import pathlib
import runpy

DOC = pathlib.Path(__file__).parents[2] / "doc"


def test_the_option_reference_is_what_the_options_are() -> None:
    reference = runpy.run_path(str(DOC / "options.py"))["reference"]

    assert (DOC / "source" / "options.rst").read_text() == reference(), (
        "run: python doc/options.py > doc/source/options.rst"
    )
