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
from ovznovadriver.openvz import metadata, resources, vzctl, vzlist
from ovznovadriver.openvz import node as ovz_node

LOG = logging.getLogger(__name__)

#: With these `vzctl create` has not begun.
_NOTHING_MADE = (
    exception.ContainerLocked,
    exception.PrivateAreaExists,
    exception.SampleUnusable,
)


class OvzContainer:
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
        self.node = node
        self.ovz_id = ovz_id
        self.nova_id = nova_id
        self.name = name
        self.uuid = uuid
        self.host = host if host is not None else node.host
        self._info = info
        self._gathered: vzctl.Settings | None = None

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
            return uuid

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

        That is a container tagged for it; or, tagged for nobody, one whose CTID is
        claimed for the instance or is its UUID.

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
        if node.family.uuid_ctids:
            there = uuid in OvzContainers.list_vz_artifacts(node)
            ctids = [uuid] if there else []
        else:
            ctids = node.claims.find(uuid)
        # One that bears a tag is another's container by now.
        for number in ctids:
            if number not in tagged:
                return cls(node, number, uuid=uuid, info=known.get(number))
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

    def start(self, host_ifnames: Sequence[str] = ()) -> None:
        """Start it, and look that its interfaces are there.

        vzctl 4 leaves out an interface whose host end has the name of one that is
        there already, and reports success.

        :param host_ifnames: the host ends that there must be afterwards
        :raises InterfaceMissing: one cannot come into being, or did not; the
            container does not run
        """
        if not self.node.family.adopts_host_ends:
            taken = [name for name in host_ifnames if self.node.veth_exists(name)]
            if taken:
                raise exception.InterfaceMissing(
                    f"container {self.ovz_id} cannot have its interface: the host has"
                    f" one named {taken[0]} already; remove it with 'ip link del"
                    f" {taken[0]}'"
                )
        self.ensure_root_dir()
        self.node.vzctl.start(self.ovz_id)
        self._note_paused(False)
        missing = [name for name in host_ifnames if not self.node.veth_exists(name)]
        if missing:
            self.stop(fast=True)
            raise exception.InterfaceMissing(
                f"container {self.ovz_id} was started without the interface whose"
                f" host end is {missing[0]}; it was stopped again"
            )

    def stop(self, *, fast: bool = False, timeout: float | None = None) -> None:
        """Stop it; see :meth:`ovznovadriver.openvz.vzctl.Vzctl.stop`."""
        self.node.vzctl.stop(self.ovz_id, fast=fast, timeout=timeout)
        self._note_paused(False)

    def mount(self) -> None:
        """Mount its tree."""
        self.ensure_root_dir()
        self.node.vzctl.mount(self.ovz_id)
        self._info = None

    def umount(self) -> None:
        """Unmount its tree."""
        self.node.vzctl.umount(self.ovz_id)
        self._info = None

    def pause(self) -> None:
        """Freeze it in memory."""
        self.node.vzctl.pause(self.ovz_id)
        self._note_paused(True)

    def unpause(self) -> None:
        """Let it run on."""
        self.node.vzctl.unpause(self.ovz_id)
        self._note_paused(False)

    def suspend(self) -> None:
        """Write its memory to disk and stop it."""
        self.node.vzctl.suspend(self.ovz_id)
        self._info = None

    def resume(self) -> None:
        """Start it from what :meth:`suspend` wrote."""
        self.ensure_root_dir()
        self.node.vzctl.resume(self.ovz_id)
        self._info = None

    def _note_paused(self, paused: bool) -> None:
        self._info = None
        if not self.node.family.lists_paused:
            self.node.claims.note_paused(self.ovz_id, paused)

    @contextlib.contextmanager
    def tree(self) -> Iterator[tuple[str, str, str]]:
        """Where the stopped container's root tree is, as long as the block runs.

        :returns: base directory, CTID, directory beneath it; as the file verbs take
            them
        """
        if self.node.layout == "ploop":
            self.mount()
            try:
                yield self.node.paths.root, self.ovz_id, ""
            finally:
                self.umount()
        else:
            yield self.node.paths.private, self.ovz_id, self.node.family.tree_dir

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

    def prep_for_migration(self) -> None:
        """Give up the name, so that a second copy on this node can have it."""
        self._set(vzctl.Settings(name=f"{self.uuid}-migrated"))

    def delete(self) -> None:
        """Remove the stopped container and everything that it leaves.

        One that is half there, or gone already, is removed as far as it is there.

        :raises ContainerRunning: it must be stopped first
        :raises CleanupFailed: vzctl destroyed it, and some left-overs remain
        """
        try:
            self._destroy()
        except exception.ContainerConfigMissing:
            LOG.debug("Container %s has no configuration any more", self.ovz_id)
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

    # -- settings -----------------------------------------------------------------

    @contextlib.contextmanager
    def changes(self) -> Iterator[None]:
        """Gather what the setters set, and send it as one command at the end.

        Nothing is sent when the block raises.
        """
        if self._gathered is not None:
            # An outer block sends it all.
            yield
            return
        self._gathered = vzctl.Settings()
        try:
            yield
            gathered = self._gathered
        finally:
            self._gathered = None
        self._send(gathered)

    def _send(self, settings: vzctl.Settings) -> None:
        # For an unknown number `set --save` makes a stray configuration file, and
        # says that all is well.
        if not os.path.exists(
            os.path.join(self.node.paths.conf, f"{self.ovz_id}.conf")
        ):
            raise exception.ContainerNotFound(
                f"container {self.ovz_id} has no configuration file"
            )
        self.node.vzctl.set(self.ovz_id, settings)

    def _set(self, settings: vzctl.Settings) -> None:
        if self._gathered is not None:
            self._gathered = self._gathered.merged(settings)
        else:
            self._send(settings)

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

    def apply_config(self, config: str) -> None:
        """Apply a sample configuration; alone, it overrides what goes with it."""
        self._send(vzctl.Settings(applyconfig=config))

    def set_vz_os_hint(self, ostemplate: str) -> None:
        """Say which distribution's scripts vzctl is to run."""
        self._set(vzctl.Settings(os_hint=ostemplate))

    def set_hostname(self, hostname: str) -> None:
        """Set the container's host name."""
        self._set(vzctl.Settings(hostname=hostname))

    def set_nameservers(self, addresses: tuple[str, ...]) -> None:
        """Set the name servers that vzctl writes into the container."""
        self._set(vzctl.Settings(nameservers=addresses))

    def set_onboot(self, onboot: bool) -> None:
        """Whether the node starts the container when it boots."""
        self._set(vzctl.Settings(onboot=onboot))

    def add_interfaces(self, veths: tuple[vzctl.Veth, ...]) -> None:
        """Give the container interfaces."""
        self._set(vzctl.Settings(netif_add=veths))

    def set_numflock(self, max_file_descriptors: int) -> None:
        """Limit the number of file locks."""
        self._set(vzctl.Settings(numflock=max_file_descriptors))

    def set_numfiles(self, max_file_descriptors: int) -> None:
        """Limit the number of open files."""
        self._set(vzctl.Settings(numfile=max_file_descriptors))

    def set_numtcpsock(self, tcp_sockets: int) -> None:
        """Limit the number of TCP sockets."""
        self._set(vzctl.Settings(numtcpsock=tcp_sockets))

    def set_vmguarpages(self, num_pages: int) -> None:
        """Guarantee memory, in pages of 4 KiB."""
        self._set(vzctl.Settings(vmguarpages=num_pages))

    def set_privvmpages(self, num_pages: int) -> None:
        """Limit the memory that can be allocated, in pages of 4 KiB."""
        self._set(vzctl.Settings(privvmpages=num_pages))

    def set_kmemsize(self, kmem_barrier: int, kmem_limit: int) -> None:
        """Limit kernel memory, in bytes."""
        self._set(vzctl.Settings(kmemsize=(kmem_barrier, kmem_limit)))

    def set_cpuunits(self, units: int) -> None:
        """Set the CPU weight."""
        self._set(vzctl.Settings(cpuunits=units))

    def set_cpulimit(self, cpulimit: int) -> None:
        """Limit CPU time, in percent of one CPU."""
        self._set(vzctl.Settings(cpulimit=cpulimit))

    def set_cpus(self, vcpus: int) -> None:
        """Set the number of CPUs that the container has."""
        self._set(vzctl.Settings(cpus=vcpus))

    def set_ioprio(self, ioprio: int) -> None:
        """Set the I/O priority, 0 to 7."""
        self._set(vzctl.Settings(ioprio=ioprio))

    def set_diskspace(self, soft_limit: int, hard_limit: int) -> None:
        """Limit disk space, in KiB."""
        self._set(vzctl.Settings(diskspace_kb=(soft_limit, hard_limit)))

    def set_iolimits(self, iolimit: int | None, iopslimit: int | None) -> None:
        """Limit disk I/O, in bytes and in operations a second."""
        self._set(vzctl.Settings(iolimit=iolimit, iopslimit=iopslimit))

    def set_vswap(self, ram: int, swap: int) -> None:
        """Limit memory and virtual swap, in MB."""
        self._set(vzctl.Settings(ram_mb=ram, swap_mb=swap))

    def set_password(self, user: str, password: str) -> None:
        """Change a password in the running container."""
        self.node.vzctl.set_password(self.ovz_id, user, password)


# A method named list hides the type from the annotations that come after it.
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
