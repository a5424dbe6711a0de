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

"""What Nova has of a server when the service has seen to it."""

from __future__ import annotations

from nova.compute import vm_states

from nova import objects


def is_settled(instance: objects.Instance, vm_state: str = vm_states.ACTIVE) -> bool:
    """Whether a server has no task any more, and is in some state."""
    return bool((instance.vm_state, instance.task_state) == (vm_state, None))
