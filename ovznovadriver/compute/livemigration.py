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

"""Live migration: a container goes to another host while it runs, by vzmigrate.

The hosts tell each other what they are by what Nova carries between them; root's ssh,
which vzmigrate uses, is all that they need besides. The container keeps its CTID. It
bears the tag of the host that it comes from until Nova says that it has arrived, and is
nobody's server in between: only the claim of its CTID says whose it is on the new host.

Where both hosts have their private areas in one place, vzmigrate only judges whether
the container can go: it would copy the tree onto itself, and when it fails late it
removes what is mounted on the other host (undo_root of bin/vzmigrate.in, vzctl 4.9.4).
There the container is suspended, and changes hands with its memory: see handover.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Any

from nova.compute import power_state, vm_states
from nova.compute import utils as compute_utils
from nova.network import model
from nova.objects import migrate_data as migrate_data_obj
from oslo_log import log as logging

from nova import exception as nova_exception
from nova.virt import driver as nova_driver
from ovznovadriver import exception
from ovznovadriver.compute import handover, lifecycle, network, progress, servers
from ovznovadriver.openvz import ctid, moving, transfer, wiring
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer, OvzContainers
from ovznovadriver.openvz.vzlist import State

LOG = logging.getLogger(__name__)

#: The version of what the hosts tell each other.
VERSION = 1
#: How servers change hands where the private areas are shared; a host that does not
#: tell this knows no way.
HANDOVER = 1

#: Seconds between two looks at how far a move is.
PROGRESS_INTERVAL = 5.0
#: How much of a move's progress, in percent, the first pass is. What comes after it,
#: the memory and what has changed, nobody can measure.
_FIRST_PASS_SHARE = 90
#: What Nova's database can hold.
_MAX_BYTES = 2**63 - 1


@dataclasses.dataclass
class _Course:
    """A move under way.

    :ivar aborted: it was ended by us, on Nova's word
    :ivar aborting: held while that is tried, so that its outcome is known
    """

    move: moving.Move
    aborted: bool = False
    aborting: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class _Figures:
    """What Nova shows of a move: of the server, and in its migration's record.

    :param migrate_data: of :meth:`LiveMigrations.check_source`, with Nova's migration
    """

    def __init__(self, instance: Any, migrate_data: Any) -> None:
        self._instance = instance
        known = "migration" in migrate_data
        self._migration = migrate_data.migration if known else None
        self._total = _total(migrate_data)
        self._tell_progress = progress.teller(instance, 0, _FIRST_PASS_SHARE)
        self._told = False

    def watched(self, move: moving.Move) -> contextlib.AbstractContextManager[object]:
        """Let Nova show how far a move is, while a block does it."""
        if not self._total:
            return contextlib.nullcontext()

        def look() -> int | None:
            return move.sent(self._total)

        return progress.Watch(self._instance, PROGRESS_INTERVAL, look, self._tell)

    def _tell(self, sent: int) -> None:
        if not self._told:
            # That of an earlier work: a snapshot leaves 100.
            progress.reset(self._instance)
            self._told = True
        if self._migration is not None:
            self._migration.disk_total = self._total
            self._migration.disk_processed = sent
            # The schema of Nova's API has no 0 here. What comes after it nobody knows.
            self._migration.disk_remaining = self._total - sent or None
            self._migration.save()
        self._tell_progress(sent / self._total)


class LiveMigrations:
    """What Nova asks of the two ends of a live migration; see Migrations."""

    def __init__(
        self,
        node: ovz_node.Node,
        life: lifecycle.Lifecycle,
        network: network.Network,
    ) -> None:
        self._node = node
        self._life = life
        self._network = network
        self._handover = handover.Handover(node)
        self._courses: dict[str, _Course] = {}

    # -- before, on the destination ---------------------------------------------------

    def check_destination(
        self, instance: Any, address: str, block_migration: bool | None
    ) -> migrate_data_obj.LibvirtLiveMigrateData:
        """What the source needs to know of this host.

        :param address: at which root here can be reached
        :param block_migration: None lets the driver decide
        :raises MigrationPreCheckError: no server can come here, as it runs
        """
        with _Refusing():
            self._refuse_family()
            self._refuse_copy(instance)
            proof = self._node.executor.call(
                "plant_proof", dirs=self._areas(), host=self._node.host
            )
        return migrate_data_obj.LibvirtLiveMigrateData(
            filename=proof,
            image_type=_tell(
                facts=transfer.local_facts(self._node).as_dict(),
                handover=HANDOVER,
                block=block_migration,
            ),
            target_connect_addr=address,
            # As every driver must say; there is no list of disks to be made.
            is_shared_instance_path=False,
            is_shared_block_storage=False,
            block_migration=False,
        )

    def end_check(self, migrate_data: Any) -> None:
        """Remove what :meth:`check_destination` has made."""
        self._node.executor.call(
            "remove_proof", dirs=self._areas(), name=migrate_data.filename
        )

    def check_number(self, instance: Any, migrate_data: Any) -> Any:
        """See that the CTID of a server that is to come is free here, or its own.

        :returns: migrate_data, as it is
        :raises MigrationPreCheckError: it is not
        """
        with _Refusing():
            told = _told(migrate_data, "ctid")
            number = told["ctid"]
            if _is_shared(told):
                self._refuse_remains(instance)
                self._check_claim(instance, number)
                return migrate_data
            stale = OvzContainer.find_remains(self._node, instance.uuid)
            free = stale is not None and stale.ovz_id == number
            if not free and number in OvzContainers.ctid_in_use(self._node):
                raise exception.ClaimError(_taken(number, self._node.host))
        return migrate_data

    def _check_claim(self, instance: Any, number: str) -> None:
        """See that the claim of the other host is seen here."""
        if number not in self._node.claims.find(instance.uuid, instance.host):
            raise exception.TransferError(
                f"host {self._node.host} has its private areas where host"
                f" {instance.host} has them, but not its claims of CTIDs: put"
                " [openvz]lock_dir of both on that disk, too"
            )

    def _refuse_remains(self, instance: Any) -> None:
        """Refuse a server of which there is anything here but its files.

        To remove that would remove them.
        """
        there = OvzContainer.find_remains(self._node, instance.uuid)
        if there is not None:
            raise exception.TransferError(
                f"host {self._node.host} has a configuration of container"
                f" {there.ovz_id} of this server: see whether it runs there; if it does"
                f" not, remove {self._node.paths.conf}/{there.ovz_id}.conf"
            )

    def prepare(self, instance: Any, network_info: Any, migrate_data: Any) -> Any:
        """Claim the CTID, and have the ports ready.

        What is left of the server here, from a stay before, is removed.

        :raises OvzError: it cannot come. Nova then calls :meth:`roll_back`.
        """
        told = _told(migrate_data, "ctid", "ends")
        shared = _is_shared(told)
        self._refuse_copy(instance)
        if shared:
            self._refuse_remains(instance)
        elif OvzContainer.find_remains(self._node, instance.uuid) is not None:
            LOG.warning("Removing what an earlier stay has left", instance=instance)
            self._life.destroy(instance, None, destroy_vifs=False, keep_incoming=True)
        coming = _vifs_here(network_info, migrate_data)
        nics = self._network.nics(instance, coming)
        if sorted(nic.devname for nic in nics) != told["ends"]:
            raise exception.NetworkUnsupported(
                f"the server's host ends are {', '.join(told['ends'])}, and its ports"
                " would have others here"
            )
        if not shared:
            self._claim(instance, told["ctid"])
        ends = network.host_ends(nics, servers.limits(self._node, instance.flavor))
        wiring.Wiring(self._node, told["ctid"]).refuse_taken(ends)
        self._network.plug(instance, coming)
        if "vifs" in migrate_data and not all(nic.bridge for nic in nics):
            # Nova would have the source wait until Neutron sees the host ends, which
            # come into being with the container. Its own network_info will do there.
            delattr(migrate_data, "vifs")
        return migrate_data

    def _claim(self, instance: Any, number: str) -> None:
        def in_use() -> set[int]:
            known = {info.ctid for info in self._node.look.containers()}
            known |= set(OvzContainers.list_vz_artifacts(self._node))
            return {int(other) for other in known if other.isdecimal()}

        try:
            self._node.claims.claim_this(number, instance.uuid, in_use)
        except exception.ClaimError as error:
            raise exception.ClaimError(_taken(number, self._node.host)) from error

    def _refuse_family(self) -> None:
        if not self._node.family.moves_live:
            raise exception.TransferError(
                f"no server moves live with {self._node.family.name}: migrate it cold."
                " Its vzmigrate moves running containers of layout ploop only"
            )

    def _refuse_copy(self, instance: Any) -> None:
        """Refuse a server of which a container runs here already."""
        there = OvzContainer.find_remains(self._node, instance.uuid)
        if there is not None and _runs(there):
            raise exception.TransferError(
                f"container {there.ovz_id} of this server runs on host"
                f" {self._node.host} already"
            )

    def _areas(self) -> dict[str, str]:
        return {"private": self._node.paths.private}

    # -- before, and the move itself, on the source -----------------------------------

    def check_source(
        self, instance: Any, block_device_info: Any, migrate_data: Any
    ) -> Any:
        """See whether a server can go, as it runs.

        :param migrate_data: of :meth:`check_destination`
        :returns: it, with what the destination needs to know
        :raises MigrationPreCheckError: it cannot; nothing has changed
        """
        with _Refusing():
            told = _told(migrate_data, "facts")
            self._refuse_family()
            if nova_driver.block_device_info_get_mapping(block_device_info):
                raise exception.TransferError("a server with volumes cannot move live")
            theirs = transfer.Facts.from_dict(told["facts"])
            container = servers.find(self._node, instance)
            if container.layout != "simfs":
                raise exception.TransferError(
                    f"only servers of layout simfs move live: {container.layout}"
                )
            shared = self._node.executor.call(
                "find_proof", dirs=self._areas(), name=migrate_data.filename
            )
            _check_way(told, theirs.host, shared=shared)
            # A move that comes to nothing would take its mark away.
            container.refuse_leaving()
            container.refuse_swapped()
            if container.refresh() is not State.RUNNING:
                raise exception.TransferError(
                    f"container {container.ovz_id} is {container.state.value}, and only"
                    " one that is running can move live"
                )
            ours = transfer.local_facts(self._node, container.layout)
            reason = transfer.refusal(ours, theirs)
            content = 0
            if reason is None and not shared:
                # To measure the tree takes long.
                needed_kb, content = container.tree_size()
                reason = transfer.refusal(ours, theirs, needed_kb=needed_kb)
            if reason is not None:
                raise exception.TransferError(reason)
            self._move(container.ovz_id, migrate_data).check()
            nics = self._network.nics(instance, instance.get_network_info())
        ends = sorted(nic.devname for nic in nics)
        # The bytes are for us, when it goes: nobody measures the tree once more.
        said = {
            "ctid": container.ovz_id,
            "ends": ends,
            "bytes": content,
            "shared": shared,
        }
        migrate_data.image_type = _tell(**{**told, **said})
        return migrate_data

    def _move(self, number: str, migrate_data: Any) -> moving.Move:
        return moving.Move(self._node, number, migrate_data.target_connect_addr)

    def move(
        self,
        context: Any,
        instance: Any,
        dest: str,
        post_method: Callable[..., None],
        recover_method: Callable[..., None],
        block_migration: bool | None,
        migrate_data: Any,
    ) -> None:
        """Move a server, and tell Nova where it is then.

        :param post_method: what Nova does when it is there
        :param recover_method: what Nova does when it is here, as before; it is told
            where somebody has aborted the move
        :raises OvzError: nobody knows; nothing is removed on either host
        """
        told = _told(migrate_data, "ctid")
        number = told["ctid"]
        if _is_shared(told):
            if self._hand_over(instance):
                post_method(context, instance, dest, block_migration, migrate_data)
            else:
                recover_method(context, instance, dest, migrate_data)
                self.settle_suspended(instance)
            return
        course = _Course(self._move(number, migrate_data))
        figures = _Figures(instance, migrate_data)
        self._courses[instance.uuid] = course
        try:
            with figures.watched(course.move):
                outcome = course.move.run()
            with course.aborting:
                aborted = course.aborted and outcome.place is moving.Place.HERE
        finally:
            del self._courses[instance.uuid]
        if aborted:
            LOG.info("It is still here: its move was aborted", instance=instance)
            recover_method(
                context, instance, dest, migrate_data, migration_status="cancelled"
            )
            return
        if outcome.reason:
            told = {"place": outcome.place.value, "reason": outcome.reason}
            LOG.error("It is %(place)s: %(reason)s", told, instance=instance)
        if outcome.place is moving.Place.THERE:
            post_method(context, instance, dest, block_migration, migrate_data)
        elif outcome.place is moving.Place.HERE:
            recover_method(context, instance, dest, migrate_data)
        else:
            reason = (
                f"container {number} is on {self._node.host}, on {dest}, or on both;"
                " nothing was removed. See 'When it fails half-way' in the driver's"
                " documentation of migration."
            )
            error = exception.TransferError(reason)
            # Nova sets the server to ERROR, and would say no reason.
            note = compute_utils.add_instance_fault_from_exc
            note(context, instance, error, fault_message=reason)
            progress.reset(instance)
            raise error

    def _hand_over(self, instance: Any) -> bool:
        """Suspend a server, and let the other host have it.

        :returns: False where that failed; it is here, and runs on if it can
        """
        try:
            container = servers.find(self._node, instance)
            # That of an earlier work: a snapshot leaves 100. This has none to tell.
            progress.reset(instance)
            self._node.claims.note(container.ovz_id, ctid.LEAVING)
            container.suspend()
            self._handover.give(container)
        except exception.OvzError as error:
            LOG.error("It is still here: %s", error, instance=instance)
            self.stay(instance)
            return False
        return True

    def is_handed_over(self, instance: Any) -> bool:
        """Whether a server changes hands, and no host has taken it to the end."""
        return self._handover.awaits(instance.uuid) is not None

    def take(self, instance: Any) -> None:
        """Have a server that changes hands be here, suspended.

        :raises ContainerTaken: another host has it
        """
        self._handover.take(instance.uuid)

    def stay(self, instance: Any) -> bool:
        """Have a server that was to change hands run on here; errors are logged.

        :returns: whether it runs
        """
        try:
            self.take(instance)
            for number in self._node.claims.find(instance.uuid):
                self._node.claims.forget(number, ctid.LEAVING)
            container = servers.find(self._node, instance)
            if container.state is State.SUSPENDED:
                self._life.resume(instance, instance.get_network_info())
            return container.refresh() is State.RUNNING
        except (exception.OvzError, nova_exception.NovaException):
            LOG.exception("It does not run on", instance=instance)
            return False

    def settle_suspended(self, instance: Any) -> None:
        """Let Nova have a server as suspended that could not be let run on.

        It would stop one that it has as active, and the memory would be lost.
        """
        if servers.find(self._node, instance).state is State.SUSPENDED:
            servers.settle(instance, vm_states.SUSPENDED, power_state.SUSPENDED)

    def abort(self, instance: Any) -> None:
        """End the move of a server, which then runs on here.

        That of a service that is gone, too: Nova asks for it when it starts.

        :raises InstanceNotFound: it is not here any more
        :raises TransferError: it is too late, or none is under way; it goes on
        """
        course = self._courses.get(instance.uuid)
        if course is None:
            number = servers.find(self._node, instance).ovz_id
            course = _Course(moving.Move(self._node, number, ""))
        with course.aborting:
            course.move.end()
            course.aborted = True

    # -- after, on the source ---------------------------------------------------------

    def unplug(self, instance: Any, network_info: Any) -> None:
        """Remove the ports of a server that has left.

        What fails is logged: Nova would otherwise not finish on the other host.
        """
        try:
            self._network.unplug(instance, network_info)
        except exception.CleanupFailed:
            LOG.exception("A port is left", instance=instance)

    def clean_up(
        self,
        instance: Any,
        network_info: Any,
        migrate_data: Any,
        *,
        destroy_disks: bool,
        destroy_vifs: bool,
    ) -> None:
        """Remove all that is left of a server.

        :param migrate_data: None where it did not move live; otherwise what fails is
            logged, as for :meth:`unplug`
        """
        if migrate_data is not None and self._handover.awaits(instance.uuid):
            # Nothing is, and its files may be the other host's by now.
            LOG.error("The other host has not taken it yet", instance=instance)
            return
        try:
            self._life.destroy(
                instance,
                network_info,
                destroy_disks=destroy_disks,
                destroy_vifs=destroy_vifs,
            )
        except exception.OvzError:
            if migrate_data is None:
                raise
            LOG.exception("Something is left of it here", instance=instance)

    # -- after, on the destination ----------------------------------------------------

    def arrive(self, instance: Any, network_info: Any) -> None:
        """Make the container that has come this host's own, with its network.

        :raises InstanceNotFound: there is none
        :raises InterfaceMissing: it has not all of its interfaces
        """
        container = self.adopt(instance) or servers.find(self._node, instance)
        limits = servers.limits(self._node, instance.flavor)
        try:
            with container.changes():
                lifecycle.apply_limits(container, limits)
        except exception.CommandFailed as error:
            LOG.warning("It keeps the limits that it had: %s", error, instance=instance)
        if container.refresh() is State.SUSPENDED:
            self._life.resume(instance, network_info)
        if container.refresh() is not State.RUNNING:
            LOG.error("It does not run any more", instance=instance)
            return
        nics = self._network.nics(instance, network_info)
        ends = network.host_ends(nics, limits)
        container.wiring.keep(ends)
        container.wiring.connect(ends)
        container.wiring.announce(ends)

    def adopt(self, instance: Any) -> OvzContainer | None:
        """Tag the container of a server that has come for this host.

        One that was handed over is taken.

        :returns: it; None where none has come
        """
        self._handover.take(instance.uuid)
        claims = self._node.claims
        came = (claims.has(c, ctid.ARRIVING) for c in claims.find(instance.uuid))
        container = any(came) and OvzContainer.find_remains(self._node, instance.uuid)
        if not container or container.host == self._node.host:
            return None
        container.host = self._node.host
        container.save_ovz_metadata()
        claims.note(container.ovz_id, ctid.MADE)
        return container

    def roll_back(self, instance: Any, network_info: Any, migrate_data: Any) -> None:
        """Remove what has come of a server that runs on where it was.

        :raises CleanupFailed: with what could not be removed
        """
        coming = _vifs_here(network_info, migrate_data)
        if migrate_data is not None and _is_shared(_told(migrate_data)):
            self._network.unplug(instance, coming)
        else:
            self._life.destroy(instance, coming)


class _Refusing:
    """A block whose errors are reasons why a server cannot move."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, exception.OvzError):
            reason = str(error)
            raise nova_exception.MigrationPreCheckError(reason=reason) from error


def _check_way(told: dict[str, Any], host: str, *, shared: bool) -> None:
    """See that there is a way for what is asked.

    :param told: by the destination
    :param shared: both hosts have their private areas in one place
    :raises TransferError: there is none
    """
    block = told.get("block")
    if not shared and block is False:
        raise exception.TransferError(
            "a live migration brings the server's files along, unless both hosts have"
            " them on one disk: ask for it with block_migration 'auto' or True"
        )
    if shared and told.get("handover") != HANDOVER:
        raise exception.TransferError(
            f"host {host} has its private areas where this one has them, and cannot"
            " take over a server there: install the same driver on both"
        )
    if shared and block is True:
        raise exception.TransferError(
            f"host {host} has its private areas where this one has them, and nothing is"
            " to be copied: ask for the live migration with block_migration 'auto' or"
            " False"
        )


def _is_shared(told: dict[str, Any]) -> bool:
    """Whether a server changes hands on a disk that both hosts have."""
    return told.get("shared") is True


def _runs(container: OvzContainer) -> bool:
    try:
        return container.state in (State.RUNNING, State.PAUSED, State.UNKNOWN)
    except exception.ContainerNotFound:
        return False


def _taken(number: str, host: str) -> str:
    return (
        f"CTID {number} is taken on host {host}: give each host CTIDs of its own, by"
        " [openvz]ctid_first and [openvz]ctid_last"
    )


def _vifs_here(network_info: Any, migrate_data: Any) -> Any:
    """The ports as they are bound to the destination, where Neutron can tell."""
    if migrate_data is None or "vifs" not in migrate_data:
        return network_info
    return model.NetworkInfo([vif.get_dest_vif() for vif in migrate_data.vifs])


def _tell(**told: Any) -> str:
    """What one host tells the other.

    It goes in ``image_type``, as classes and fields of our own would break conductors
    that have not this driver, and no other field holds a text that Nova leaves alone.
    """
    return json.dumps({**told, "version": VERSION})


def _total(migrate_data: Any) -> int:
    """What the tree of a server that goes holds, in bytes; 0 where that is not known.

    Another service of this host may have said it, before an upgrade, and not known it.
    """
    content = _told(migrate_data).get("bytes")
    return min(max(content, 0), _MAX_BYTES) if type(content) is int else 0


def _told(migrate_data: Any, *wanted: str) -> dict[str, Any]:
    """What the other host tells.

    :param wanted: what has to be in it
    :raises TransferError: it is of another version, or makes no sense
    """
    senseless = exception.TransferError(
        "what the other host says of itself makes no sense: is it this driver's?"
    )
    try:
        told: dict[str, Any] = json.loads(migrate_data.image_type)
        version = told.pop("version")
    # Nova's objects raise NotImplementedError for what was never set.
    except (
        *(AttributeError, KeyError, NotImplementedError),
        *(RecursionError, TypeError, ValueError),
    ) as error:
        raise senseless from error
    if version == VERSION and not told.keys() >= set(wanted):
        raise senseless
    if version != VERSION:
        raise exception.TransferError(
            f"the other host speaks version {version} of live migration, and this one"
            f" version {VERSION}: install the same driver on both"
        )
    return told
