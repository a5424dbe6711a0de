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

"""openvz/command.py: what a CTID is."""

import pytest

from ovznovadriver.openvz import command

UUID = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"


@pytest.mark.parametrize(
    "text", ["1", "101", str(command.MAX_CTID), UUID, UUID.upper()]
)
def test_numbers_and_uuids_are_ctids(text):
    assert command.is_ctid(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "+1",
        "0101",
        " 101",
        "101\n",
        "\u0661\u0660\u0661",
        str(command.MAX_CTID + 1),
        "9" * 30,
        "web",
        "--all",
        "../101",
        UUID + "\n",
        UUID[:-1],
        "{" + UUID + "}",
        UUID.replace("-", ""),
    ],
)
def test_names_options_and_paths_are_not(text):
    assert not command.is_ctid(text)
