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

"""nova-compute is killed at every step, and what comes up again is looked at.

``python -m tests.chaos`` runs Nova's own services over simulated nodes, with
everything that outlives a process on the disk: the databases, the nodes, and what
Neutron and Glance know. For each operation it notes the commands that it takes, and
then, for each of them anew, has the whole process killed:

* before: the command dies with it, as when systemd ends all of a service. It has taken
  the container's lock, and done nothing.
* after: the command does its work and goes on to its end, as when only the service
  dies; nobody hears its answer.
* amid: so it does, but only when the driver of the next process has looked at what is
  there: until then it has the container's lock.

Another process starts on what is there, as nova-compute would, and
:mod:`tests.chaos.invariants` says what has to hold.
"""

from tests import functional  # noqa: F401 - prepares the process for nova
