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

"""OpenVZ's configuration files, as they are read."""

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import vzconf


def test_settings_are_read_as_a_shell_would(tmp_path):
    path = tmp_path / "vz.conf"
    path.write_bytes(
        b"# A=1\n  B=2 # note\nC=\"3 4\"\nD='5'\nB=6\nE=\nnot a setting\n"
        b'#F=7\nG="caf\xe9"\nLONG_1=x'
    )

    settings = vzconf.read_settings(str(path))

    assert settings.pop("G").startswith("caf")
    assert settings == {"B": "6", "C": "3 4", "D": "5", "E": "", "LONG_1": "x"}


def test_a_file_that_cannot_be_read_is_told_with_its_options(tmp_path):
    with pytest.raises(exception.ConfigurationError, match=r"Is a directory.*vz_conf"):
        vzconf.read_settings(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "directory"),
    [
        ({}, "/vz/private"),
        ({"VE_PRIVATE": "/disk/$VEID"}, "/disk"),
        ({"VE_PRIVATE": "/disk/${VEID}//"}, "/disk"),
        ({"VE_PRIVATE": "/$VEID"}, "/"),
        ({"VE_ROOT": "/disk/root"}, "/vz/private"),
    ],
)
def test_private_areas_are_beside_each_other(settings, directory):
    assert vzconf.private_dir(settings) == directory


@pytest.mark.parametrize("path", ["", "/disk", "/$VEID/fs", "/disk/ct$VEID", "/$CTID"])
def test_a_directory_in_another_form_is_refused_by_its_name(path):
    with pytest.raises(exception.ConfigurationError, match=r"^VE_ROOT in vz\.conf is"):
        vzconf.per_container({"VE_ROOT": path}, "VE_ROOT", "/vz/root")


def test_interfaces_are_what_is_said_of_each():
    netif = "ifname=eth0,mac=00:01,host_ifname=tap0;ifname=eth1,network=;odd"

    assert vzconf.interfaces(netif) == [
        {"ifname": "eth0", "mac": "00:01", "host_ifname": "tap0"},
        {"ifname": "eth1", "network": ""},
        {"odd": ""},
    ]
    assert vzconf.interfaces("") == []
