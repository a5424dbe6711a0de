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


"""A server's files go from host to host by a rename, where both have them on one disk.

The container that they come from lends them: it and its claim stay until the move is
confirmed, and get the files back when it is reverted. They are in one place at any
time, the one container's private area or the other's, and nothing of them is ever
removed here. Who has them is seen from the private areas; the claims, which such hosts
share as well, say whose they are. See openvz.incoming, which does the renames.
"""

from __future__ import annotations

from ovznovadriver import exception
from ovznovadriver.openvz import ctid
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer


class Lending:
    """What a host lends to others, and has from them."""

    def __init__(self, node: ovz_node.Node) -> None:
        self._node = node

    def lend(self, container: OvzContainer) -> None:
        """Let another host have a container's files; it does not run."""
        self._node.claims.note(container.ovz_id, ctid.LENT)

    def recall(self, uuid: str) -> None:
        """Have what was lent of a server be its container's own again.

        :raises TransferError: the files are not back
        """
        for number in self._lent(uuid, self._node.host):
            if number not in self._places():
                raise exception.TransferError(
                    f"the files of container {number} are not back in"
                    f" {self._node.paths.private}: the host that it moved to has them"
                    " in one of its own"
                )
            self._node.claims.forget(number, ctid.LENT)

    def refuse_kept(self, uuid: str) -> None:
        """See that what was lent of a server has been taken.

        :raises TransferError: it has not: what removes the container would remove it
        """
        for number in self._lent(uuid, self._node.host):
            if number in self._places():
                raise exception.TransferError(
                    f"the files of container {number} were never taken by the host"
                    f" that it moved to: see {self._node.paths.private}/{number}"
                )

    def awaits(self, uuid: str) -> bool:
        """Whether files of a server wait to be taken by this host.

        Its container, if there is one, has not got them.
        """
        lent = self._lent(uuid)
        return bool(lent) and not self._places().isdisjoint(lent)

    def lender(self, uuid: str, host: str) -> str | None:
        """The CTID under which another host lends a server's files; None without."""
        return next(iter(self._lent(uuid, host)), None)

    def borrow(self, container: OvzContainer, lender: str) -> None:
        """Have the files of another host's container in the place of its own.

        Interrupted, it can be called again.

        :param lender: of :meth:`lender`
        :raises TransferError: that one has none
        """
        if not self.has(container, lender):
            self._call("take_tree", container, lender)
        self._node.claims.note(container.ovz_id, ctid.BORROWED)

    def give_back(self, container: OvzContainer, lender: str) -> None:
        """Undo :meth:`borrow`, as far as it came.

        :raises TransferError: the container that they come from has others now.
            Nothing has changed.
        """
        if not self.has(container, lender):
            return
        self._call("return_tree", container, lender)
        if container.ovz_id in self._places():
            private = self._node.paths.private
            raise exception.TransferError(
                f"the files in {private}/{container.ovz_id} cannot go back to"
                f" {private}/{lender}, where others are: see whose they are"
            )
        self._node.claims.forget(container.ovz_id, ctid.BORROWED)

    def has(self, container: OvzContainer, lender: str) -> bool:
        """Whether a container has the files of the lender, and not others of its own.

        The mark tells it also where others have come into being in their old place.
        """
        places = self._places()
        return container.ovz_id in places and (
            lender not in places
            or self._node.claims.has(container.ovz_id, ctid.BORROWED)
        )

    def _lent(self, uuid: str, host: str | None = None) -> list[str]:
        """The CTIDs under which a server's files are lent.

        :param host: by which; None for all but this one
        """
        claims = self._node.claims
        return [
            number
            for number in claims.ctids()
            if claims.has(number, ctid.LENT)
            and (owner := claims.owner(number)) is not None
            and owner.uuid == uuid
            and (owner.host == host if host else owner.host != self._node.host)
        ]

    def _places(self) -> set[str]:
        dirs = {"private": self._node.paths.private}
        return set(self._node.executor.call("list_artifacts", dirs=dirs))

    def _call(self, verb: str, container: OvzContainer, lender: str) -> None:
        dirs = {"private": self._node.paths.private}
        self._node.executor.call(verb, dirs=dirs, ctid=container.ovz_id, other=lender)
