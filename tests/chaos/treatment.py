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

"""What users and operators do with a server that the crash of a service has left."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from nova.tests.functional.api import client as api_client

from tests.chaos import invariants, operations
from tests.chaos.cloud import Cloud


def settle_in(cloud: Cloud) -> None:
    """Boot the server that nothing is done to, and note how everything is then."""
    cloud.plant(operations.boot(cloud, "healthy"))
    # The first server that goes leaves a few empty directories.
    cloud.delete(operations.boot(cloud))
    for host in cloud.HOSTS:
        cloud.run_periodic("update_available_resource", host)
    found = json.loads(json.dumps(invariants.fingerprint(cloud)))
    entries = {host: invariants.entries(node) for host, node in cloud.nodes.items()}
    cloud.world.note(healthy=found, entries=entries)
    for node in cloud.nodes.values():
        node.clear_commands()


def _victim(cloud: Cloud) -> dict[str, Any] | None:
    return cloud.server("victim")


def use(cloud: Cloud, operation: operations.Operation) -> list[str]:
    """The server is brought back to work; then it is deleted."""
    server = _victim(cloud)
    if server is None:
        return []
    return finish(cloud, server, operation.keeps, operation.placed)


def delete(cloud: Cloud, _operation: operations.Operation) -> list[str]:
    """The server is deleted as it is."""
    server = _victim(cloud)
    return [] if server is None else _delete(cloud, server)


def finish(
    cloud: Cloud, server: dict[str, Any], keeps: bool, placed: bool = False
) -> list[str]:
    """Bring a server back to work, and delete it.

    :param keeps: the user's file has to be in it
    :param placed: placement has to have it where Nova has it
    """
    wrong = []
    if _has_run(cloud, server):
        try:
            _bring_up(cloud, server, keeps)
            cloud.regain()
            cloud.heal()
            wrong = invariants.in_use(cloud, server, keeps)
            if placed:
                wrong += invariants.placed(cloud, server)
        except Exception as error:
            said = _said(cloud, server, error)
            wrong = [f"the server cannot be brought back: {said}"]
    return wrong + _delete(cloud, server)


def _delete(cloud: Cloud, server: dict[str, Any]) -> list[str]:
    try:
        if cloud.instance(server).task_state:
            # Nova does not delete what it has a task for, or deletes already.
            cloud.reset(server)
        cloud.admin_api.delete_server(server["id"])
        cloud._wait_until_deleted({**server, "status": "ERROR"})
    except Exception as error:
        return [f"the server cannot be deleted: {_said(cloud, server, error)}"]
    return []


#: How a server is treated after the crash, by name.
ENDINGS: Mapping[str, Callable[[Cloud, operations.Operation], list[str]]] = {
    "use": use,
    "delete": delete,
}


def last(cloud: Cloud) -> list[str]:
    """The healthy server is deleted, too; then there is nothing left at all."""
    server = cloud.server("healthy")
    if server is None:
        return []
    cloud.delete(server)
    return [
        f"{host}: {entry} is left of the healthy server"
        for host, node in cloud.nodes.items()
        for entry in invariants.entries(node)
        if not entry.startswith("vz/template/")
    ]


def _has_run(cloud: Cloud, server: dict[str, Any]) -> bool:
    """Whether a server ever came as far as to run; Nova lets no other be used."""
    return bool(cloud.instance(server).launched_at)


def _bring_up(cloud: Cloud, server: dict[str, Any], keeps: bool) -> None:
    """What a user does to have a server that works; what an operator does first.

    :param keeps: its files have to be there; else it may be made anew
    """
    if cloud.admin_api.get_server(server["id"])["OS-EXT-STS:task_state"]:
        cloud.reset(server)
    if cloud.lost == cloud.host_of(server):
        cloud.evacuate(server)
    status = cloud.admin_api.get_server(server["id"])["status"]
    if status == "RESCUE":
        _act(cloud, server, "unrescue")
        return
    if status == "VERIFY_RESIZE":
        try:
            cloud.confirm(server)
            return
        except api_client.OpenStackApiException:
            # Nova does not take up again what was interrupted.
            cloud.reset(server, "active")
    try:
        _act(cloud, server, "reboot", {"type": "HARD"})
    except AssertionError:
        if keeps:
            raise
        _act(cloud, server, "rebuild", {"imageRef": cloud.image_id})


def _act(
    cloud: Cloud, server: dict[str, Any], action: str, arguments: Any = None
) -> None:
    cloud.admin_api.post_server_action(server["id"], {action: arguments})
    # The API has given it a task before it answers.
    task = cloud.rest(server["id"], cloud.PATIENCE)
    status = cloud.admin_api.get_server(server["id"])["status"]
    if task or status != "ACTIVE":
        raise AssertionError(f"{action} leaves it {status}, with the task {task}")


def _said(cloud: Cloud, server: dict[str, Any], error: Exception) -> str:
    reason = cloud.reason(server)
    text = (str(error).strip().splitlines() or [""])[-1]
    return f"{type(error).__name__}: {text} (the last fault: {reason or 'none'})"
