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


"""A container's configuration as it was before a resize, kept beside it.

``<ctid>.resize`` among the configuration files is there from before the first change
until the resize is confirmed or reverted. Its name makes it go with the container.

These verbs run as the host's root, as those of rootfs.py do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ovznovadriver import exception
from ovznovadriver.openvz import tree

#: Bytes; vzctl's own are about one thousand.
_LIMIT = 1 << 20


def kept_path(directory: str, ctid: str) -> str:
    """Where the old configuration of a container is, among the configurations."""
    return os.path.join(directory, f"{tree.checked_ctid(ctid)}.resize")


def _conf_path(dirs: Mapping[str, str], ctid: str) -> str:
    """The file that holds a container's configuration.

    vzctl 7 has it in the private area, with a link to it among the others.

    :raises UnsafePath: the link leads elsewhere
    """
    path = os.path.join(dirs["conf"], f"{tree.checked_ctid(ctid)}.conf")
    if "private" not in dirs or not os.path.islink(path):
        return path
    area = os.path.join(os.path.realpath(dirs["private"]), ctid)
    if os.path.realpath(path) != os.path.join(area, "ve.conf"):
        raise exception.UnsafePath(f"{path!r} leads elsewhere than to its ve.conf")
    return os.path.join(area, "ve.conf")


def keep_conf(*, dirs: dict[str, str], ctid: str) -> None:
    """Keep a container's configuration as it is now.

    :param dirs: "conf"; and "private" where vzctl keeps the configuration there
    :raises OvzError: it has none
    """
    with tree.named_errors("keep the configuration of", ctid):
        content, mode = tree.read_plain(_conf_path(dirs, ctid), _LIMIT)
        tree.replace_file(kept_path(dirs["conf"], ctid), content, mode)


def restore_conf(*, dirs: dict[str, str], ctid: str) -> bool:
    """Give a stopped container the configuration back that was kept, if one was.

    :param dirs: as for :func:`keep_conf`
    :returns: whether one was
    """
    kept = kept_path(dirs["conf"], ctid)
    with tree.named_errors("restore the configuration of", ctid):
        try:
            content, mode = tree.read_plain(kept, _LIMIT)
        except FileNotFoundError:
            return False
        place = _conf_path(dirs, ctid)
        # One that is gone was removed with its container.
        os.stat(place)
        tree.replace_file(place, content, mode)
        os.unlink(kept)
    return True


def drop_conf(*, dirs: dict[str, str], ctid: str) -> bool:
    """Forget the configuration that was kept.

    :param dirs: "conf"
    :returns: whether one was
    """
    with tree.named_errors("forget the old configuration of", ctid):
        try:
            os.unlink(kept_path(dirs["conf"], ctid))
        except FileNotFoundError:
            return False
    return True
