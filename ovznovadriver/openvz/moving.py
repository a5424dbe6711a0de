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

"""A running container goes to another host, and where it is when that failed.

What is known for certain is found out anew, never taken from how a command ended: the
container may be frozen, or be on both hosts, when vzmigrate is ended by its time limit.
"""

from __future__ import annotations

import dataclasses
import enum
import os

from oslo_log import log as logging

from ovznovadriver import exception
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import firstpass, metadata, vzctl, vzmigrate
from ovznovadriver.openvz import node as ovz_node

LOG = logging.getLogger(__name__)

#: Seconds for which an end of the first pass waits for its beginning: until then
#: vzmigrate has a dozen of short talks with the other host by ssh.
WAIT = 20.0
#: Seconds for a look at how far it is, besides what the way to root may take.
_LOOK_LIMIT = 10.0
_GOES_ON = {
    firstpass.ABSENT: "no vzmigrate of this driver's moves it here",
    firstpass.EARLY: f"its first pass has not begun for {WAIT:g} s: try again",
    firstpass.LATE: "its first pass is over, and from then on it cannot be undone",
}


class Place(enum.Enum):
    """Where a container is after an attempt to move it."""

    HERE = "still here"
    THERE = "on the other host"
    UNKNOWN = "not known to be here"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an attempt to move a container ended.

    :ivar reason: what went wrong; empty when nothing did
    """

    place: Place
    reason: str = ""


class Move:
    """The move of one container of this node.

    :param address: a host name or IPv4 address, at which root lets this root in
    """

    def __init__(self, node: ovz_node.Node, ctid: str, address: str) -> None:
        self._node = node
        self._ctid = ctid
        self._address = address
        self._vzmigrate = vzmigrate.Vzmigrate(node.executor, node.look.forget)

    def check(self) -> None:
        """See whether the container, which runs, could go; nothing changes.

        :raises MoveFailed: it could not
        :raises TransferError: the address cannot be given to vzmigrate
        """
        if not vzmigrate.is_host(self._address):
            raise exception.TransferError(
                f"vzmigrate cannot go to {self._address}: set [DEFAULT]my_ip of that"
                " host to an IPv4 address"
            )
        self._vzmigrate.check(
            self._ctid, self._address, self._node.options.limits.command
        )

    def run(self) -> Outcome:
        """Move the container; an error is an outcome, too.

        Where it may be on the other host it is marked as leaving, and does not start
        here any more.
        """
        claims = self._node.claims
        claims.note(self._ctid, ovz_ctid.LEAVING)
        outcome = self._run()
        if outcome.place is Place.HERE:
            claims.forget(self._ctid, ovz_ctid.LEAVING)
        return outcome

    def _run(self) -> Outcome:
        limit = self._node.options.limits.move
        try:
            self._vzmigrate.move(self._ctid, self._address, limit)
        except exception.CommandFailed as error:
            return self._found_out(error)
        except (exception.ConfigurationError, exception.CommandRefused) as error:
            # It was not even started.
            return Outcome(Place.HERE, str(error))
        except exception.OvzError as error:
            # The way to root broke; vzmigrate may go on without us.
            return Outcome(Place.UNKNOWN, str(error))
        return Outcome(Place.THERE)

    def end(self) -> None:
        """Have the move given up and undone, while the container still runs here.

        :meth:`run`, which somebody else is in, then says that it is here.

        :raises TransferError: that is not possible, and the move goes on
        """
        answer = self._node.executor.call(
            "end_first_pass",
            dirs={"lock": self._node.paths.locks},
            ctid=self._ctid,
            wait=WAIT,
        )
        if answer != firstpass.ENDED:
            raise exception.TransferError(
                f"the live migration of container {self._ctid} cannot be aborted:"
                f" {_GOES_ON[answer]}"
            )

    def sent(self, total: int) -> int | None:
        """How much of the tree has gone in the first pass, in bytes.

        :param total: what the tree holds, in bytes
        :returns: all of it when the first pass is over; None before it has begun, and
            in between
        :raises OvzError: that cannot be found out now
        """
        answer = self._node.executor.call(
            "measure_first_pass",
            time_limit=_LOOK_LIMIT,
            dirs={"lock": self._node.paths.locks},
            ctid=self._ctid,
        )
        if isinstance(answer, int):
            # It grows while it is sent.
            return min(answer, total)
        return total if answer == firstpass.LATE else None

    def _found_out(self, error: exception.CommandFailed) -> Outcome:
        try:
            return Outcome(self._find(error), str(error))
        except exception.OvzError as second:
            return Outcome(Place.UNKNOWN, f"{error}; then {second}")

    def _find(self, error: exception.CommandFailed) -> Place:
        info = self._node.vzlist.find(self._ctid)
        tagged = info is not None and metadata.decode(info.description) is not None
        if info is None or not tagged:
            return Place.THERE if self._is_given_up() else Place.UNKNOWN
        froze = vzmigrate.FREEZING in error.stdout
        if isinstance(error, exception.CommandTimedOut):
            # Only a vzctl that changes something takes away the lock that is left.
            same = vzctl.Settings(description=info.description)
            self._node.vzctl.set(self._ctid, same)
            if froze and not self._is_nothing_there():
                return Place.UNKNOWN
        if froze:
            self._thaw()
            # Which vzmigrate leaves when a later step fails (line 301).
            dirs = {"dump": self._node.paths.dump}
            self._node.executor.call("remove_dump", dirs=dirs, ctid=self._ctid)
        return Place.HERE

    def _is_given_up(self) -> bool:
        """Whether vzmigrate has come to its last step."""
        conf = os.path.join(self._node.paths.conf, f"{self._ctid}.conf")
        return not os.path.lexists(conf) and os.path.lexists(f"{conf}.migrated")

    def _is_nothing_there(self) -> bool:
        try:
            self.check()
        except exception.MoveFailed as error:
            LOG.warning("%s", error)
            return False
        return True

    def _thaw(self) -> None:
        try:
            self._node.vzctl.unpause(self._ctid)
        except exception.CommandFailed as error:
            LOG.debug("Container %s was not frozen: %s", self._ctid, error)
