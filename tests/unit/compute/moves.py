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

"""Servers that move: Nova's record of it, and what has come."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nova import objects
from ovznovadriver.openvz import incoming
from ovznovadriver.openvz import node as ovz_node
from tests import support

#: That of the other host.
ADDRESS = "192.0.2.2"


def record(**changes: Any) -> SimpleNamespace:
    """Nova's record of a move to this host, with other values by name."""
    usual = {
        "migration_type": "migration",
        "source_compute": "host2",
        "dest_compute": support.HOST,
        "dest_host": ADDRESS,
        "old_instance_type_id": 1,
        "new_instance_type_id": 1,
    }
    return SimpleNamespace(**{**usual, **changes})


def recorded(
    instance: objects.Instance, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """Let Nova have a record of the move that a server is on; it."""
    found = record()
    instance.migration_context = objects.MigrationContext(migration_id=3)
    monkeypatch.setattr(
        objects.Migration, "get_by_id_and_instance", lambda *args: found
    )
    return found


def arrivals(node: ovz_node.Node) -> Path:
    """Where what has come of the server lies."""
    return Path(node.paths.private) / f".incoming-{support.UUID}"


def tree_that_came(node: ovz_node.Node) -> Path:
    """Let the server's tree have come; the tree."""
    with incoming.held(node.paths.private, support.UUID):
        pass
    tree = arrivals(node) / "tree"
    (tree / "sbin").mkdir()
    (tree / "sbin/init").touch(mode=0o755)
    (tree / "mine").write_text("mine")
    # As all that comes, it has the owners that it had.
    os.chown(tree, *node.guest_ids)
    return tree
