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

"""OpenVZ's own configuration: vz.conf, and the files that are written like it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from ovznovadriver import exception

_SETTING = re.compile(
    r"^\s*([A-Z_0-9]+)=(\"[^\"\n]*\"|'[^'\n]*'|[^\s#]*)", re.MULTILINE
)


def read(path: str) -> str:
    """A whole file.

    :raises ConfigurationError: it cannot be read
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        raise exception.ConfigurationError(
            f"{path} cannot be read ({error.strerror}): install vzctl, or set"
            " [openvz]vz_conf and ve_conf_dir to where its configuration is."
        ) from error


def read_settings(path: str) -> dict[str, str]:
    """The settings of one of OpenVZ's configuration files.

    :raises ConfigurationError: it cannot be read
    """
    return {name: value.strip("\"'") for name, value in _SETTING.findall(read(path))}


def interfaces(netif: str) -> list[dict[str, str]]:
    """What NETIF says of a container's interfaces, as far as it is known.

    :returns: for each "ifname", "mac", "host_ifname" and others
    """
    return [
        dict(pair.partition("=")[::2] for pair in one.split(","))
        for one in netif.split(";")
        if one
    ]


def private_dir(settings: Mapping[str, str]) -> str:
    """The directory that holds the private areas.

    :raises ConfigurationError: it is not given in the one form that works
    """
    return per_container(settings, "VE_PRIVATE", "/vz/private")


def per_container(settings: Mapping[str, str], name: str, default: str) -> str:
    """A directory that vz.conf gives with the container's number at its end.

    :raises ConfigurationError: it is given in another form
    """
    path = settings.get(name, f"{default}/$VEID").rstrip("/")
    directory, number = os.path.split(path)
    if number not in ("$VEID", "${VEID}"):
        raise exception.ConfigurationError(
            f"{name} in vz.conf is {path}: end it with /$VEID, the one form that this"
            " driver works with."
        )
    return directory
