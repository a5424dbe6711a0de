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

"""How many processes a request may cost."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import fixtures
from nova.compute import power_state, vm_states

from nova import objects
from ovznovadriver.openvz import metadata
from tests.functional import base

#: Containers on a busy node, and how many of them are this host's servers: Nova
#: takes far longer to read servers from its database than the driver to compare them.
MANY = 500
SERVERS = 40


class BudgetTests:
    """What holds for both families of vzctl."""

    BOTH_FAMILIES = True

    def test_a_spawn_and_a_destroy(self) -> None:
        inside: dict[str, Counter[str]] = {}
        for method in ("spawn", "destroy"):
            self._count_inside(method, inside)

        self.node.clear_commands()
        server = self.boot("web-1")
        booted = self._counted()
        self.node.clear_commands()
        self.delete(server)
        deleted = self._counted()

        assert inside["spawn"]["vzctl"] == 3
        assert inside["spawn"]["vzlist"] <= 1
        assert inside["destroy"]["vzctl"] == 2
        assert inside["destroy"]["vzlist"] <= 1
        # Nova looks at the power state once more.
        assert booted["vzlist"] <= inside["spawn"]["vzlist"] + 1
        assert deleted["vzlist"] <= inside["destroy"]["vzlist"] + 1

    def _count_inside(self, method: str, counts: dict[str, Counter[str]]) -> None:
        """Count the processes that one of the driver's methods starts."""
        real = getattr(self.driver(), method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            before = self._counted()
            result = real(*args, **kwargs)
            counts[method] = self._counted() - before
            return result

        self.useFixture(fixtures.MockPatchObject(self.driver(), method, counted))

    def test_periodic_tasks_look_once_at_a_full_node(self) -> None:
        context = self.cell_context()
        what = {
            "flavor": objects.Flavor.get_by_flavor_id(context, self.flavor_id),
            "compute_id": objects.ComputeNode.get_first_node_by_host_for_old_compat(
                context, "compute1"
            ).id,
        }
        for number in range(SERVERS):
            self._add_server(context, number, what)
        for number in range(MANY - SERVERS):
            ctid = str(uuid.uuid4()) if self.FAMILY == "9" else str(2000 + number)
            self.add_container(self.node, ctid)
        for task, rest in (
            # The second one looks whether limits are in force.
            ("update_available_resource", {"tc": 1}),
            ("_sync_power_states", {}),
        ):
            self.driver()._node.look.forget()
            self.node.clear_commands()

            self.run_periodic(task)
            self.wait_until("power states", self._compared)

            counted = self._counted()
            assert counted == {"vzlist": 1, **rest}, (task, self.node.commands())

    def _compared(self) -> bool:
        """Threads of their own compare the servers' states."""
        with self.computes["compute1"].manager.syncs_in_progress() as syncs:
            return not syncs

    def _add_server(self, context: Any, number: int, what: dict[str, Any]) -> None:
        """A server and its container, without the seconds of a boot."""
        runs = number % 2 == 0
        instance = objects.Instance(
            context,
            host="compute1",
            node=self.driver().get_available_nodes()[0],
            vm_state=vm_states.ACTIVE if runs else vm_states.STOPPED,
            power_state=power_state.RUNNING if runs else power_state.SHUTDOWN,
            project_id="p",
            user_id="u",
            system_metadata={},
            **what,
        )
        instance.create()
        tag = metadata.Tag("compute1", instance.name, str(instance.id), instance.uuid)
        ctid = instance.uuid if self.FAMILY == "9" else str(1000 + number)
        self.add_container(
            self.node, ctid, name=instance.uuid, description=metadata.encode(tag)
        )
        if runs:
            started = self.node.run("vzctl", "start", ctid)
            assert started.rc == 0, started

    def _counted(self) -> Counter[str]:
        return Counter(command.program for command in self.node.commands())


class TestBudgetWithVzctl4(BudgetTests, base.OpenVZFunctionalTest):
    """The family of OpenVZ 6 and stock kernels."""

    FAMILY = "4"


class TestBudgetWithVzctl9(BudgetTests, base.OpenVZFunctionalTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"
