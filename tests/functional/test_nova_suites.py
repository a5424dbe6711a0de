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


"""Nova's own tests of cold migration, resize and evacuation."""

from __future__ import annotations

import pytest
from nova.tests.functional import (
    test_cold_migrate,
    test_cross_cell_migrate,
    test_servers,
)
from nova.tests.functional.regressions import (
    test_bug_1669054,
    test_bug_1702454,
    test_bug_1713783,
    test_bug_1741125,
    test_bug_1764556,
    test_bug_1764883,
    test_bug_1781286,
    test_bug_1790204,
    test_bug_1794996,
    test_bug_1815153,
    test_bug_1823370,
    test_bug_1825537,
    test_bug_1830747,
    test_bug_1843090,
    test_bug_1845291,
    test_bug_1848343,
    test_bug_1890244,
    test_bug_1922053,
    test_bug_1938326,
    test_bug_1978983,
)

from tests.functional.nova_suites import Suite

LIVE = "live migration, which test_livemigration.py has"
SAME_HOST = "the driver does not migrate a server to the host that it is on"
VOLUME = "the server has a volume, which containers cannot have"

SUITES = (
    Suite(test_cold_migrate.ColdMigrationDisallowSameHost),
    Suite(
        test_cold_migrate.ColdMigrationAllowSameHost,
        left_out={"test_cold_migrate_same_host_supported": SAME_HOST},
    ),
    Suite(
        test_servers.ServerMovingTests,
        left_out={
            "test_live_migrate": LIVE,
            "test_live_migrate_force": LIVE,
            "test_live_migrate_forced_v268": LIVE,
            "test_live_migrate_pre_check_fails": LIVE,
            "test_live_migrate_rollback_cleans_dest_node_allocations": LIVE,
            "test_live_migrate_rollback_cleans_dest_node_allocations_forced": LIVE,
            "test_live_migration_after_server_created_with_host": LIVE,
        },
        quick=("test_evacuate_instance_kept_on_the_hypervisor",),
    ),
    Suite(test_servers.PollUnconfirmedResizesTest),
    Suite(
        test_servers.ConsumerGenerationConflictTest,
        left_out={
            "test_force_live_migrate_claim_on_dest_fails": LIVE,
            "test_live_migrate_drop_allocation_on_source_fails": LIVE,
        },
    ),
    Suite(
        test_cross_cell_migrate.TestMultiCellMigrate,
        left_out={
            "test_finish_snapshot_based_resize_at_dest_spawn_fails": VOLUME,
            "test_resize_confirm_from_stopped": VOLUME,
            "test_resize_confirm_image_backed": VOLUME,
            "test_resize_revert_detach_volume_while_resized": VOLUME,
            "test_resize_revert_volume_backed": VOLUME,
        },
    ),
    Suite(test_bug_1669054.ResizeEvacuateTestCase),
    Suite(test_bug_1702454.SchedulerOnlyChecksTargetTest),
    Suite(test_bug_1713783.FailedEvacuateStateTests),
    Suite(test_bug_1741125.TestServerResizeReschedule),
    Suite(test_bug_1764556.InstanceListWithDeletedServicesTestCase),
    Suite(test_bug_1764883.TestEvacuationWithSourceReturningDuringRebuild),
    Suite(test_bug_1781286.RescheduleMigrateAvailabilityZoneUpCall),
    Suite(test_bug_1790204.ResizeSameHostDoubledAllocations),
    Suite(test_bug_1794996.TestEvacuateDeleteServerRestartOriginalCompute),
    Suite(test_bug_1815153.NonPersistentFieldNotResetTest),
    Suite(test_bug_1823370.MultiCellEvacuateTestCase),
    Suite(
        test_bug_1825537.FinishResizeErrorAllocationCleanupTestCase,
        faults=("finish_migration",),
    ),
    Suite(test_bug_1830747.MissingReqSpecInstanceGroupUUIDTestCase),
    Suite(test_bug_1843090.PinnedComputeRpcTests),
    Suite(test_bug_1845291.ForcedHostMissingReScheduleTestCase),
    Suite(test_bug_1848343.DeletedServerAllocationRevertTest),
    Suite(test_bug_1890244.IgnoreDeletedServerGroupsTest),
    Suite(test_bug_1922053.ForceUpWithDoneEvacuations),
    Suite(test_bug_1922053.ForceUpWithDoneEvacuationsv252),
    Suite(test_bug_1938326.TestMigrateFromDownHost),
    Suite(test_bug_1978983.EvacuateServerWithTaskState),
)

for _suite in SUITES:
    for _case in _suite.classes():
        globals()[_case.__name__] = _case


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.case.__name__)
def test_what_is_named_here_is_still_in_nova(suite: Suite) -> None:
    assert {*suite.left_out, *suite.quick} <= {*suite.tests}
    assert not {*suite.left_out} & {*suite.quick}
    for name in suite.faults:
        assert name in vars(suite.size)
