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

"""The model: OpenVZ containers that belong to this Nova host.

Names and meaning are those of the driver of 2014. What its class methods took from
global options, these take from the node that they are given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

from oslo_log import log as logging

from ovznovadriver import exception
from ovznovadriver.openvz import (
    ctid,
    hostends,
    metadata,
    resources,
    settings,
    swap,
    vzctl,
    vzlist,
    wiring,
)
from ovznovadriver.openvz import node as ovz_node

LOG = logging.getLogger(__name__)

#: With these `vzctl create` has not begun.
_NOTHING_MADE = (
    exception.ContainerLocked,
    exception.PrivateAreaExists,
    exception.SampleUnusable,
)


class OvzContainer(settings.ContainerSettings):
    """One container of this Nova host.

    The setters each run one `vzctl set`; those within one :meth:`changes` block go
    out together, as one command.

    :ivar ovz_id: the CTID
    :ivar nova_id: Nova's number of the instance
    :ivar name: Nova's name of the instance
    :ivar uuid: the instance's UUID, also the container's name
    :ivar host: the Nova host that the container belongs to
    """

    def __init__(
        self,
        node: ovz_node.Node,
        ovz_id: str,
        nova_id: str | None = None,
        name: str | None = None,
        uuid: str | None = None,
        host: str | None = None,
        info: vzlist.ContainerInfo | None = None,
    ) -> None:
        super().__init__(node, ovz_id)
        self.nova_id = nova_id
        self.name = name
        self.uuid = uuid
        self.host = host if host is not None else node.host
        self._info = info

    # -- making and finding -------------------------------------------------------

    @classmethod
    def create(
        cls,
        node: ovz_node.Node,
        image: str,
        *,
        nova_id: str,
        name: str,
        uuid: str,
        config: str | None = None,
        diskspace_kb: tuple[int, int] | None = None,
        configure: Callable[[OvzContainer], None] | None = None,
    ) -> OvzContainer:
        """Create a container, tag it, and configure it.

        :param image: what `vzctl create --ostemplate` takes
        :param config: a sample configuration other than the node's
        :param diskspace_kb: size of a disk image, where the layout is one
        :param configure: called with the container; its setters go out in one
            command with the tag
        :raises ClaimError: no CTID for it, or it is there already
        :raises CommandFailed: vzctl failed. What was made is gone again.
        """
        container = cls(
            node, cls.get_next_id(node, uuid), nova_id=nova_id, name=name, uuid=uuid
        )
        try:
            node.vzctl.create(
                container.ovz_id,
                image,
                config=config or node.sample,
                layout=node.options.layout or None,
                diskspace_kb=diskspace_kb,
            )
        except _NOTHING_MADE:
            # What is there is somebody else's, not ours to remove.
            node.claims.release(container.ovz_id)
            raise
        except Exception:
            container._undo_create()
            raise
        try:
            with container.changes():
                container.save_ovz_metadata()
                if configure is not None:
                    configure(container)
            node.claims.note(container.ovz_id, ctid.MADE)
        except Exception:
            container._undo_create()
            raise
        return container

    def _undo_create(self) -> None:
        try:
            self.delete()
        except (exception.OvzError, OSError):
            LOG.exception(
                "Container %(ctid)s of instance %(uuid)s is half made and cannot be "
                "removed; its CTID stays claimed",
                {"ctid": self.ovz_id, "uuid": self.uuid},
            )

    @classmethod
    def get_next_id(cls, node: ovz_node.Node, uuid: str) -> str:
        """A CTID that is this instance's alone from now on.

        :raises ClaimError: the node has a container for this instance already, or
            no CTID is left
        """
        if node.family.uuid_ctids:
            if uuid in OvzContainers.ctid_in_use(node):
                raise exception.ClaimError(
                    f"a container {uuid} is on this node already; where the CTID is"
                    " the instance's UUID, a node cannot hold a server twice"
                )
            return node.claims.claim_uuid(uuid)

        def in_use() -> set[int]:
            known = node.look.containers()
            for info in known:
                tag = metadata.decode(info.description)
                if tag is not None and (tag.uuid, tag.host) == (uuid, node.host):
                    raise exception.ClaimError(
                        f"container {info.ctid} is there already for instance {uuid}"
                    )
            numbers = {info.ctid for info in known}
            numbers |= set(OvzContainers.list_vz_artifacts(node))
            return {int(number) for number in numbers if number.isdecimal()}

        return node.claims.claim(uuid, in_use)

    @classmethod
    def find(
        cls,
        node: ovz_node.Node,
        ovz_id: str | None = None,
        name: str | None = None,
        nova_id: str | None = None,
        uuid: str | None = None,
        max_age: float = 0,
    ) -> OvzContainer:
        """Find a container of this host by one of its identities.

        :param max_age: how old, in seconds, what is known of it may be
        :raises InvalidValue: no identity is given
        :raises ContainerNotFound: vzlist worked, and there is none
        :raises MalformedOutput: vzlist cannot say
        :raises CommandFailed: vzlist failed
        """
        given = {"ovz_id": ovz_id, "name": name, "nova_id": nova_id, "uuid": uuid}
        wanted = {key: str(value) for key, value in given.items() if value is not None}
        if not wanted:
            raise exception.InvalidValue("a container is looked for by nothing")
        for container in OvzContainers.list(node, max_age=max_age):
            if wanted.items() <= vars(container).items():
                return container
        raise exception.ContainerNotFound(f"there is no container with {wanted}")

    @classmethod
    def find_remains(cls, node: ovz_node.Node, uuid: str) -> OvzContainer | None:
        """Whatever there is of an instance's container, be it half made.

        That is a container tagged for it; or one whose CTID is claimed for the
        instance or is its UUID, and which is tagged for nobody, or comes from another
        host by a live migration and bears that host's tag.

        :raises MalformedOutput: vzlist cannot say
        :raises CommandFailed: vzlist failed
        """
        known = {info.ctid: info for info in node.look.containers()}
        tagged = {}
        for info in known.values():
            container = cls.load(node, info)
            if container is None:
                continue
            if (container.uuid, container.host) == (uuid, node.host):
                return container
            tagged[info.ctid] = container
        claimed = node.claims.find(uuid)
        if node.family.uuid_ctids and not claimed:
            # A driver that claimed no UUIDs may have made it.
            there = uuid in OvzContainers.list_vz_artifacts(node)
            claimed = [uuid] if there else []
        for number in claimed:
            if number not in tagged:
                return cls(node, number, uuid=uuid, info=known.get(number))
            # One that bears another tag is another's container by now.
            if tagged[number].uuid == uuid and node.claims.has(number, ctid.ARRIVING):
                return tagged[number]
        return None

    @classmethod
    def load(
        cls, node: ovz_node.Node, info: vzlist.ContainerInfo
    ) -> OvzContainer | None:
        """The container that vzlist tells of; None for one without our tag."""
        tag = metadata.decode(info.description)
        if tag is None:
            return None
        return cls(
            node,
            info.ctid,
            nova_id=tag.nova_id,
            name=tag.name,
            uuid=tag.uuid,
            host=tag.host,
            info=info,
        )

    # -- what it is ---------------------------------------------------------------

    @property
    def info(self) -> vzlist.ContainerInfo:
        """What vzlist says of it; asked when nothing is known.

        :raises ContainerNotFound: it is gone
        """
        if self._info is None:
            self._info = self.node.vzlist.find(self.ovz_id)
        if self._info is None:
            raise exception.ContainerNotFound(f"container {self.ovz_id} is gone")
        return self._info

    @property
    def state(self) -> vzlist.State:
        """What it is doing; see :meth:`refresh`."""
        state = self.info.state
        if (
            state is vzlist.State.RUNNING
            and not self.node.family.lists_paused
            and self.node.claims.is_paused(self.ovz_id)
        ):
            return vzlist.State.PAUSED
        return state

    def refresh(self) -> vzlist.State:
        """Ask vzlist anew for its state.

        :raises ContainerNotFound: it is gone
        """
        self._info = None
        return self.state

    # -- life ---------------------------------------------------------------------

    def start(self, ends: Sequence[hostends.HostEnd] = ()) -> None:
        """Start it, with its interfaces.

        :param ends: their host ends
        :raises TransferError: it may run on another host
        :raises InterfaceMissing: one cannot come into being, or did not; the
            container does not run
        """
        self.refuse_leaving()
        self.take_back()
        wiring = self.wiring
        wiring.refuse_taken(ends)
        wiring.keep(ends)
        self.ensure_root_dir()
        self.node.vzctl.start(self.ovz_id)
        self._note_paused(False)
        self._connect(ends)

    def refuse_leaving(self) -> None:
        """Refuse to begin anew what may run on another host.

        :raises TransferError: nobody knows how its live migration ended
        """
        if self.node.claims.has(self.ovz_id, ctid.LEAVING):
            mark = f"{self.node.options.lock_dir}/{self.ovz_id}/{ctid.LEAVING}"
            raise exception.TransferError(
                f"container {self.ovz_id} may run on another host, for its live"
                " migration was interrupted: see 'When it fails half-way' in the"
                f" driver's documentation of migration, and then remove {mark}"
            )

    def set_aside(self) -> None:
        """Note that its server is made anew elsewhere, and only its files are kept."""
        self.node.claims.note(self.ovz_id, ctid.ASIDE)

    def take_back(self) -> None:
        """Have it be its server again; see :meth:`set_aside`.

        Also one that was to be removed, and could not.
        """
        for mark in (ctid.ASIDE, ctid.REMOVING):
            self.node.claims.forget(self.ovz_id, mark)

    @property
    def is_aside(self) -> bool:
        """Whether only its files are kept; see :meth:`set_aside`."""
        return self.node.claims.has(self.ovz_id, ctid.ASIDE)

    def _connect(self, ends: Sequence[hostends.HostEnd]) -> None:
        try:
            self.wiring.connect(ends)
        except exception.OvzError:
            self.stop(fast=True)
            raise

    @property
    def wiring(self) -> wiring.Wiring:
        """The host's side of its interfaces."""
        return wiring.Wiring(self.node, self.ovz_id)

    def stop(self, *, fast: bool = False, timeout: float | None = None) -> None:
        """Stop it; see :meth:`ovznovadriver.openvz.vzctl.Vzctl.stop`."""
        self.node.vzctl.stop(self.ovz_id, fast=fast, timeout=timeout)
        self._note_paused(False)
        self.wiring.drop(self.wiring.kept())

    def mount(self) -> bool:
        """Mount its tree; see :meth:`ovznovadriver.openvz.vzctl.Vzctl.mount`."""
        self.ensure_root_dir()
        mounted = self.node.vzctl.mount(self.ovz_id)
        self._info = None
        return mounted

    def umount(self) -> None:
        """Unmount its tree."""
        self.node.vzctl.umount(self.ovz_id)
        self._info = None

    def pause(self) -> None:
        """Freeze it in memory; where that takes too long, it runs on."""
        paused = self.node.claims.is_paused(self.ovz_id)
        # Before: were this process killed in between, nobody would know of it.
        self._note_paused(True)
        try:
            self.node.vzctl.pause(self.ovz_id)
        except exception.CommandTimedOut:
            self._run_on()
            raise
        except exception.CommandFailed:
            self._note_paused(paused)
            raise
        self._info = None

    def unpause(self) -> None:
        """Let it run on."""
        self.node.vzctl.unpause(self.ovz_id)
        self._note_paused(False)

    def thaw(self) -> None:
        """Let it run on, whether or not it is frozen, which may not be known."""
        if self.node.family.lists_paused:
            if self.refresh() is vzlist.State.PAUSED:
                self.unpause()
            return
        try:
            self.unpause()
        except (exception.CommandTimedOut, exception.ContainerLocked):
            raise
        except exception.CommandFailed as error:
            LOG.debug("Container %s was not frozen: %s", self.ovz_id, error)
            self._note_paused(False)

    def suspend(self) -> None:
        """Write its memory to disk and stop it; where that fails, it runs on."""
        self._info = None
        try:
            self.node.vzctl.suspend(self.ovz_id)
        except exception.CommandTimedOut:
            self._run_on()
            raise

    def _run_on(self) -> None:
        """Undo what a vzctl has begun that was killed as it froze the container.

        vzctl's own errors it undoes itself (vz_chkpnt and real_chkpnt of vzctl 4's
        hooks_vz.c).
        """
        try:
            if self.refresh() in (vzlist.State.RUNNING, vzlist.State.PAUSED):
                self.thaw()
                # A start by itself would go on from half a dump.
                self.discard_dump()
        except exception.OvzError as error:
            LOG.error(
                "Container %(ctid)s may be frozen, and cannot be made to run on:"
                " %(error)s",
                {"ctid": self.ovz_id, "error": error},
            )

    def resume(self, ends: Sequence[hostends.HostEnd] = ()) -> None:
        """Start it from what :meth:`suspend` wrote; otherwise as :meth:`start`.

        :raises InterfaceMissing: one cannot come into being, or did not; the
            container is suspended again, or stopped where that fails
        """
        self.refuse_leaving()
        self.take_back()
        self.wiring.refuse_taken(ends)
        self.wiring.keep(ends)
        self.ensure_root_dir()
        self.node.vzctl.resume(self.ovz_id)
        self._info = None
        try:
            self.wiring.connect(ends)
        except exception.OvzError:
            self._suspend_again()
            raise

    def _suspend_again(self) -> None:
        """Keep its memory, which is nowhere else now."""
        try:
            self.suspend()
        except exception.OvzError as error:
            LOG.error(
                "Container %(ctid)s cannot be suspended again, and is stopped:"
                " %(error)s",
                {"ctid": self.ovz_id, "error": error},
            )
            self.stop(fast=True)

    def _note_paused(self, paused: bool) -> None:
        self._info = None
        if not self.node.family.lists_paused:
            self.node.claims.note_paused(self.ovz_id, paused)

    @contextlib.contextmanager
    def tree(self) -> Iterator[tuple[str, str, str]]:
        """Where the container's root tree is, as long as the block runs.

        A disk image that is not mounted is, meanwhile.

        :returns: base directory, CTID, directory beneath it; as the file verbs take
            them
        """
        if self.layout != "ploop":
            yield self.node.paths.private, self.ovz_id, self.node.family.tree_dir
            return
        mounted = self.mount()
        try:
            yield self.node.paths.root, self.ovz_id, ""
        finally:
            if mounted:
                self.umount()

    def used_kb(self) -> int | None:
        """How much room its files take, in KiB; None where that is not known."""
        if self.layout == "ploop":
            return self.info.diskspace_kb
        return self.tree_size()[0]

    def tree_size(self) -> tuple[int, int]:
        """How large its tree is (layout simfs): KiB on the disk, bytes in its files."""
        size_kb, content = self.node.executor.call(
            "tree_size",
            base=self.node.paths.private,
            ctid=self.ovz_id,
            sub=self.node.family.tree_dir,
        )
        return size_kb, content

    def discard_dump(self) -> None:
        """Remove what `suspend` wrote, here or for a former container of this CTID.

        `start` would go on from it.
        """
        dirs = {"dump": self.node.paths.dump}
        if self.node.family.tree_dir:
            # Elsewhere the same path would be the guest's own.
            dirs["private"] = self.node.paths.private
        self.node.executor.call("remove_dump", dirs=dirs, ctid=self.ovz_id)
        self._info = None

    def ensure_root_dir(self) -> None:
        """Make the directory it is mounted on, which a reboot may have lost."""
        if not self.node.family.uuid_ctids:
            self.node.executor.call(
                "ensure_root_dir", base=self.node.paths.root, ctid=self.ovz_id
            )

    # -- a root tree in place of its own ----------------------------------------------

    def helper(self, uuid: str) -> OvzContainer:
        """The container, there or not, in which another tree for this one is made.

        :param uuid: what stands for an instance's UUID
        :raises ClaimError: there is no CTID for it
        """
        claims = self.node.claims
        known = claims.find(uuid)
        if known:
            number = known[0]
        elif self.node.family.uuid_ctids:
            number = claims.claim_uuid(uuid)
        else:
            number = self.get_next_id(self.node, uuid)
        return OvzContainer(self.node, number, uuid=uuid)

    def has_helper(self, uuid: str) -> bool:
        """Whether anything may be there of :meth:`helper`."""
        return bool(self.node.claims.find(uuid))

    def make_helper(self, uuid: str, image: str) -> OvzContainer:
        """Make that container, which bears no tag: it is nobody's server.

        :param image: what `vzctl create --ostemplate` takes
        :raises CommandFailed: vzctl failed
        """
        node = self.node
        helper = self.helper(uuid)
        node.vzctl.create(helper.ovz_id, image, config=node.sample, layout=self.layout)
        return helper

    @property
    def is_swapped(self) -> bool:
        """Whether it has another's tree, or a swap was interrupted."""
        return os.path.lexists(swap.note_path(self.node.paths.conf, self.ovz_id))

    def refuse_swapped(self) -> None:
        """Refuse to take for its tree the one that rescues it, with its own inside.

        Nova asks for that where somebody has reset the state of a rescued server.

        :raises TransferError: it has that one
        """
        if self.is_swapped:
            raise exception.TransferError(
                f"container {self.ovz_id} has the tree that rescues it: reboot the"
                " server hard, and it has its own again"
            )

    def swap_in(self, helper: OvzContainer) -> None:
        """Take over another's tree, with this one's own in it; see openvz.swap."""
        self._swap("swap_in", helper)

    def swap_out(self, helper: OvzContainer) -> None:
        """Have its own tree again; nothing happens where it has it."""
        self._swap("swap_out", helper)

    def _swap(self, verb: str, helper: OvzContainer) -> None:
        paths = self.node.paths
        self.node.executor.call(
            verb,
            dirs={"private": paths.private, "conf": paths.conf},
            ctid=self.ovz_id,
            sub=self.node.family.tree_dir,
            other=helper.ovz_id,
        )

    def prep_for_migration(self) -> None:
        """Give up the name, so that a second copy on this node can have it."""
        self._set(vzctl.Settings(name=f"{self.uuid}-migrated"))

    def delete(self) -> None:
        """Remove the stopped container and everything that it leaves.

        One that is half there, or gone already, is removed as far as it is there.

        :raises ContainerRunning: it must be stopped first
        :raises TransferError: it is another host's, or nobody knows whose
        :raises CleanupFailed: vzctl destroyed it, and some left-overs remain
        """
        if self.node.claims.has(self.ovz_id, ctid.HANDED):
            raise exception.TransferError(
                f"container {self.ovz_id} was handed over to another host, which may"
                " have its files"
            )
        self.node.claims.note(self.ovz_id, ctid.REMOVING)
        try:
            self._destroy()
        except exception.ContainerConfigMissing:
            LOG.debug("Container %s has no configuration any more", self.ovz_id)
        # One that halted by itself was not stopped.
        self.wiring.drop_pairs()
        dirs = {**self.node.artifact_dirs(), "cgroup": self.node.paths.cgroup}
        failures: CtidList = self.node.executor.call(
            "remove_container", dirs=dirs, ctid=self.ovz_id
        )
        if failures:
            raise exception.CleanupFailed(
                f"left-overs of container {self.ovz_id}", failures
            )
        self.node.claims.release(self.ovz_id)

    def _destroy(self) -> None:
        try:
            self.node.vzctl.destroy(self.ovz_id)
        except exception.ContainerMounted:
            self.umount()
            self.node.vzctl.destroy(self.ovz_id)

    def save_ovz_metadata(self) -> None:
        """Name the container and tag it with what Nova calls it.

        The name is the UUID, so that it can be used with vzctl. Where the CTID is
        the UUID it is left out: vzctl would find two containers of one name.
        """
        tag = metadata.Tag(
            host=self.host,
            name=self.name or "",
            nova_id=str(self.nova_id),
            uuid=self.uuid or "",
        )
        name = None if self.node.family.uuid_ctids else self.uuid
        self._set(vzctl.Settings(name=name, description=metadata.encode(tag)))


Containers = list[OvzContainer]
CtidList = list[str]


class OvzContainers:
    """The containers of a node."""

    @classmethod
    def list(cls, node: ovz_node.Node, max_age: float = 0) -> Containers:
        """Those that belong to this Nova host; all others are not seen.

        :param max_age: how old, in seconds, the answer may be
        :raises MalformedOutput: vzlist cannot say
        :raises CommandFailed: vzlist failed
        """
        loaded = (
            OvzContainer.load(node, info) for info in node.look.containers(max_age)
        )
        return [c for c in loaded if c is not None and c.host == node.host]

    @classmethod
    def legacy(cls, node: ovz_node.Node) -> CtidList:
        """CTIDs of containers that the driver of 2014 made for this host."""
        found = (
            (info.ctid, metadata.legacy(info.description))
            for info in node.look.containers()
        )
        return [ct for ct, tag in found if tag is not None and tag.host == node.host]

    @classmethod
    def ctid_in_use(cls, node: ovz_node.Node) -> set[str]:
        """All CTIDs of which anything is there."""
        return {
            *(info.ctid for info in node.look.containers()),
            *cls.list_vz_artifacts(node),
            *(str(number) for number in node.claims.numbers()),
        }

    @classmethod
    def list_vz_artifacts(cls, node: ovz_node.Node) -> CtidList:
        """CTIDs of which a directory, a file, a name or a dump is there."""
        found: CtidList = node.executor.call(
            "list_artifacts", dirs=node.artifact_dirs()
        )
        return found

    @classmethod
    def get_memory_mb_used(cls, node: ovz_node.Node, max_age: float = 0) -> int:
        """Memory that this host's containers hold, in MB."""
        return resources.memory_mb_used(
            container.info.physpages for container in cls.list(node, max_age)
        )
