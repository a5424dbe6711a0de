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

"""A cloud that can be killed, and started again on what it left."""

from __future__ import annotations

import importlib
import logging
import sqlite3
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fixtures
from nova.db.main import api as db
from nova.tests.functional import fixtures as func_fixtures
from nova.tests.functional.api import client as api_client

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from ovznovadriver.openvz import procfs, transfer
from tests import ssh
from tests.chaos import neighbours
from tests.chaos.world import World
from tests.functional import fixtures as cloud_fixtures
from tests.functional import livehosts, twohosts
from tests.simulator.node import SimNode

# In its package, the name of this module is the one of another.
nova_fixtures: Any = importlib.import_module("nova.tests.fixtures.nova")

#: Nova's periodic tasks that set right what a service left when it died.
PERIODIC = (
    "update_available_resource",
    "_cleanup_incomplete_migrations",
    "_cleanup_running_deleted_instances",
    "_poll_rebooting_instances",
)
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: A user's file in each server, that is to be there at the end.
PLANTED = "srv/planted"
PLANTED_TEXT = "of the user\n"


class Cloud(livehosts.LiveHosts):
    """Nova's services over a world, without being a test.

    :ivar world: where all of it lies
    :ivar one_disk: the hosts share the private areas and the claims of the first one
    """

    GLANCE = neighbours.Glance
    NEUTRON = neighbours.Neutron
    WAY = transfer.Transfer
    PATIENCE = 60.0

    def __init__(
        self, world: World, family: str, hosts: int, one_disk: bool = False
    ) -> None:
        super().__init__()
        self.world = world
        self.one_disk = one_disk
        self.FAMILY = family
        self.HOSTS = ("compute1", "compute2")[:hosts]

    def runTest(self) -> None:
        """There is nothing to test."""

    # -- on the disk ------------------------------------------------------------

    def setUp(self) -> None:
        self._keep_databases()
        self.useFixture(
            fixtures.MonkeyPatch("tempfile.tempdir", str(self.world.temporary))
        )
        self._is_new = self.world.is_new
        # A world that was put aside has not said for long that it is up.
        self.flags(service_down_time=10**6, allow_resize_to_same_host=True)
        self.flags(snapshot_timeout=60, group="openvz")
        super().setUp()
        self._unforce()

    def _keep_databases(self) -> None:
        def on_disk(name: str) -> tuple[str, str]:
            path = self.world.databases / f"{name}.sqlite"
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            return f"sqlite:///{path}", str(path)

        for module in (nova_fixtures, func_fixtures):
            self._put(module, "_use_file_backed_sqlite_with_wal", on_disk)
        if self.world.is_new:
            return
        self._put(nova_fixtures.Database, "_apply_schema", lambda _: None)
        self._put(nova_fixtures.CellDatabases, "_cache_schema", lambda *_: None)
        self._put(nova_fixtures.DefaultFlavorsFixture, "setUp", fixtures.Fixture.setUp)

    @staticmethod
    def _put(owner: Any, name: str, value: Any) -> None:
        # It ends with the process.
        setattr(owner, name, value)

    def _start_neighbours(self) -> None:
        # Nova's fixture keeps the log in memory, which dies with the process.
        handler = logging.StreamHandler()
        handler.setLevel(logging.INFO)
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logging.getLogger().addHandler(handler)
        super()._start_neighbours()

    def _setup_cells(self) -> None:
        if self._is_new:
            super()._setup_cells()
            return
        databases = nova_fixtures.CellDatabases()
        context = nova_context.get_context()
        for mapping in objects.CellMappingList.get_all(context):
            self.cell_mappings[mapping.name] = mapping
            databases.add_cell_database(
                mapping.database_connection, default=mapping.name == "cell1"
            )
        self.useFixture(databases)
        for mapping in objects.HostMappingList.get_all(context):
            self.host_mappings[mapping.host] = mapping

    def _make_directory(self) -> Path:
        return self.world.path

    def _furnish(self) -> None:
        # Nova's fixtures have one of their own, which no other process would know.
        self.useFixture(
            fixtures.MonkeyPatch("tempfile.tempdir", str(self.world.temporary))
        )
        # A service that starts may ask the other host.
        for host in self.HOSTS:
            self.make_node(host)
        if len(self.HOSTS) > 1:
            self._serve_ssh()
        if not self._is_new:
            vars(self).update(self.world.notes()["furniture"])
            return
        super()._furnish()
        self.new_image_id = self.glance.add_image(
            cloud_fixtures.rootfs_tarball(), name="not in the cache"
        )
        names = ("flavor_id", "image_id", "new_image_id", "large")
        self.world.note(furniture={name: getattr(self, name) for name in names})

    def make_node(self, host: str) -> SimNode:
        node = super().make_node(host)
        first = self.nodes[self.HOSTS[0]]
        if self.one_disk and node is not first:
            twohosts.put_on_one_disk(first, node)
        node.watch("ssh", "rsync")
        return node

    def _identity(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, self._acting_host))

    def _begin(self, driver: Any, host: str) -> None:
        self._acting.node = self.nodes[host]
        try:
            super()._begin(driver, host)
        finally:
            self._acting.node = None
        # The driver has seen what outlived its service: now it may end.
        self.nodes[host].go_on()

    def _serve_ssh(self) -> None:
        # Keys and a port of this process's own; sshd is no part of the service.
        directory = Path(tempfile.mkdtemp(prefix="ssh-", dir=self.world.temporary))
        # It serves as long as there is a reference to it.
        self._ssh = ssh.serving(directory)
        server = self._ssh.__enter__()
        peers = {
            twohosts.ADDRESSES[host]: server.peer_of(node, host)
            for host, node in self.nodes.items()
        }
        self.useFixture(
            fixtures.MonkeyPatch(
                "ovznovadriver.openvz.transfer.Peer.from_options",
                lambda _cls, address, _group: peers[address],
            )
        )

    def configure(self, node: SimNode) -> None:
        """Set the options of a node's service; with two hosts, servers move live."""
        if len(self.HOSTS) > 1 and self.FAMILY == "4":
            super().configure(node)
        else:
            twohosts.TwoHostsTest.configure(self, node)

    # -- hosts that are lost ------------------------------------------------------

    @property
    def lost(self) -> str | None:
        """The host that does not start with the others."""
        found = self.world.notes().get("lost")
        return str(found) if found else None

    def lose(self, host: str) -> None:
        """Have a host gone, and Nova know it."""
        self.computes.pop(host).stop()
        (service,) = self.admin_api.get_services(host=host, binary="nova-compute")
        self.admin_api.put_service_force_down(service["id"], True)
        self.world.note(lost=host)

    def regain(self) -> None:
        """Have the lost host back, if there is one."""
        host = self.lost
        if host is not None:
            self.world.note(lost=None)
            self.start_compute(host)
            self._unforce()

    def _unforce(self) -> None:
        for service in self.admin_api.get_services(binary="nova-compute"):
            if service["forced_down"] and service["host"] in self.computes:
                self.admin_api.put_service_force_down(service["id"], False)

    def start_compute(self, host: str) -> Any:
        """Start nova-compute of a host, unless it is lost."""
        return None if host == self.lost else super().start_compute(host)

    def evacuate(self, server: dict[str, Any]) -> None:
        """Have a server of the lost host come to the other one."""
        self.admin_api.post_server_action(server["id"], {"evacuate": {}})
        there = self.HOSTS[1]

        def is_over() -> bool:
            # Nova has no task for it any more some time before it has come.
            found = self.instance(server)
            failed = found.vm_state == "error" and not found.task_state
            return failed or self.host_of(server) == there

        self.wait_until("the evacuation", is_over)
        self.rest(server["id"], self.PATIENCE)
        assert self.host_of(server) == there, self.reason(server)

    # -- servers ----------------------------------------------------------------

    def server(self, name: str) -> dict[str, Any] | None:
        """A server as the API shows it; None for one that is not there."""
        for instance in self.instances():
            if instance.display_name == name:
                with suppress(api_client.OpenStackApiNotFoundException):
                    return dict(self.admin_api.get_server(instance.uuid))
        return None

    @property
    def victim(self) -> dict[str, Any]:
        """The server that things are done to."""
        found = self.server("victim")
        assert found is not None, "there is no victim"
        return found

    def plant(self, server: dict[str, Any]) -> None:
        """Put the user's file into a server."""
        path = self.tree(server) / PLANTED
        path.parent.mkdir(exist_ok=True)
        path.write_text(PLANTED_TEXT)

    def instances(self) -> list[Any]:
        """Nova's servers, whatever has become of them."""
        filters = {"deleted": False}
        return list(objects.InstanceList.get_by_filters(self.cell_context(), filters))

    def await_commands(self) -> None:
        """Wait until nothing works on a node any more that another service began."""
        began = [
            command.pid
            for node in self.nodes.values()
            for command in node.commands()
            if command.rc is None
        ]
        self.wait_until(
            "the end of commands", lambda: not any(map(procfs.is_running, began))
        )

    def heal(self) -> None:
        """What time does: Nova's periodic tasks run, and what goes on comes to an end.

        A server that stays with a task is what an operator resets.
        """
        for host in self.computes:
            for task in PERIODIC:
                self.run_periodic(task, host)
        for instance in self.instances():
            self.rest(instance.uuid)

    def rest(self, uuid: str, patience: float = 8.0) -> str | None:
        """Wait for the end of a server's task; the one that does not end."""

        def task() -> str | None:
            with suppress(nova_exception.InstanceNotFound):
                row = db.instance_get_by_uuid(self.cell_context(), uuid, [])
                return str(row.task_state) if row.task_state else None
            return None

        found: str | None = self._patiently(patience, task)
        return found

    def _patiently(self, seconds: float, look: Callable[[], Any]) -> Any:
        """Look until there is nothing, or for so long; what is there at last."""
        before = self.PATIENCE
        self.PATIENCE = seconds
        with suppress(self.failureException):
            self._wait_for_server("nothing", lambda: not look())
        self.PATIENCE = before
        return look()

    def reset(self, server: dict[str, Any], state: str = "error") -> None:
        """What an operator does with a server that Nova does nothing with."""
        body = {"os-resetState": {"state": state}}
        self.admin_api.post_server_action(server["id"], body)

    # -- placement and moves ------------------------------------------------------

    def allocations(self, provider: str) -> dict[str, Any]:
        """Who has something of a provider, by consumer."""
        path = f"/resource_providers/{provider}/allocations"
        found: dict[str, Any] = self.placement.get(path).body["allocations"]
        return found

    def migrations(self) -> list[str]:
        """The UUIDs of moves that have not come to an end."""
        found = objects.MigrationList.get_by_filters(self.cell_context(), {})
        over = ("done", "confirmed", "reverted", "failed", "completed")
        return [move.uuid for move in found if move.status not in over]
