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

"""Images of servers: a container's tree, packed and sent to Glance in one stream.

The privileged side packs (see :mod:`ovznovadriver.openvz.pack`); here the stream is
compressed, while Nova's access to Glance reads it. Nothing of the image's size is kept
on the disk or in memory.

What lies between is a directory that only the user of nova-compute can enter::

    first   a FIFO: the contents of a running container's files; of another container
            all there is
    spool   a file: what is packed while a running container is frozen
    second  a FIFO: what of it the file has no room for
    frozen  is there while the container is frozen by us
    owner   which process takes the snapshot

So how long a container is frozen depends on what has changed in it and on the local
disk, not on Glance, until the spool is full. The stream is what the three hold, one
after the other. Somebody reads each FIFO, or it is closed and whoever writes is told
so: nothing is left running, whichever side fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import nova.conf
from nova.compute import task_states
from nova.image import glance
from oslo_concurrency import lockutils
from oslo_log import log as logging

from nova import exception as nova_exception
from ovznovadriver import exception
from ovznovadriver.compute import servers
from ovznovadriver.openvz import ctid
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz.container import OvzContainer, OvzContainers
from ovznovadriver.openvz.vzlist import State

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

#: Seconds between two looks at how far a snapshot is.
PROGRESS_INTERVAL = 10.0

#: Seconds in which a new container's tree gets its attributes.
RESTORE_LIMIT = 1800.0

_CHUNK = 1 << 20
#: Bytes of a read, which is a chunk of the request to Glance: uWSGI, before it, breaks
#: off for one of 1 MiB (chunked-input-limit; measured with uWSGI 2.0), which is what
#: glanceclient asks for.
_MOST = 1 << 19
# The most that a user may ask for (pipe(7)).
_PIPE_SIZE = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS
#: Of an archive, for each byte of the root disk: contents that change while they are
#: packed are packed twice.
_TIMES_DISK = 3
_HEADERS = 8 << 30
_NO_LIMIT = 1 << 60


class _Stream:
    """What Glance reads: a gzip file.

    It is read in whichever thread Nova's access to Glance takes, which under eventlet
    is not one that could wait for a lock of this process: pipes and files are all
    that it uses.

    :param place: the directory described above
    :param failure: tells what went wrong on the other side, when a pipe ends
    :ivar taken: bytes of the archive, before they were packed
    :ivar given: bytes of the image
    :ivar finished: all was read
    """

    def __init__(
        self, place: pathlib.Path, level: int, failure: Callable[[], Exception | None]
    ) -> None:
        self.taken = 0
        self.given = 0
        self.finished = False
        self._failure = failure
        self._packer = zlib.compressobj(level, zlib.DEFLATED, _GZIP)
        self._parts = self._read(place)
        self._part = memoryview(b"")
        self._broken = False
        with contextlib.ExitStack() as stack:
            self._first, self._second = (
                self._open(stack, place / name) for name in ("first", "second")
            )
            self._undo = stack.pop_all()

    @staticmethod
    def _open(stack: contextlib.ExitStack, path: pathlib.Path) -> int:
        os.mkfifo(path, 0o600)
        # Without waiting for somebody who writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        os.set_blocking(descriptor, True)
        with contextlib.suppress(OSError):  # the user has too many large pipes
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        return descriptor

    def close(self) -> None:
        """Stop reading: whoever still writes is told so."""
        self._undo.close()

    def read(self, size: int = -1) -> bytes:
        """The next bytes of the image; none at its end.

        :param size: how many there may be; fewer are no sign of the end
        :raises OvzError: the container could not be packed. Never an OSError, which
            Nova would take for Glance's and try again with what is left.
        """
        if self._broken:
            raise exception.OvzError("the snapshot has failed before")
        try:
            if not self._part:
                self._part = memoryview(next(self._parts, b""))
        except OSError as error:
            self._broken = True
            raise exception.OvzError(f"the archive cannot be read: {error}") from error
        except BaseException:
            self._broken = True
            raise
        end = _MOST if size < 0 else min(size, _MOST)
        data = bytes(self._part[:end])
        self._part = self._part[end:]
        self.given += len(data)
        return data

    def _read(self, place: pathlib.Path) -> Iterator[bytes]:
        for data in self._archive(place):
            self.taken += len(data)
            packed = self._packer.compress(data)
            if packed:
                yield packed
        yield self._packer.flush()
        self.finished = True

    def _archive(self, place: pathlib.Path) -> Iterator[bytes]:
        yield from self._pipe(self._first)
        # The first sign of the second pipe, be it its end, says that the file is
        # complete.
        rest = self._pipe(self._second)
        head = next(rest, b"")
        with (place / "spool").open("rb") as spool:
            while data := spool.read(_CHUNK):
                yield data
        if head:
            yield head
        yield from rest

    def _pipe(self, descriptor: int) -> Iterator[bytes]:
        while data := os.read(descriptor, _CHUNK):
            yield data
        failure = self._failure()
        if failure is not None:
            raise exception.OvzError(str(failure)) from failure


class _Packing(threading.Thread):
    """Has a container packed, and leaves it in the state that it was in.

    :ivar error: why it failed
    :ivar frozen: seconds for which the container was frozen
    """

    def __init__(
        self,
        node: ovz_node.Node,
        container: OvzContainer,
        place: pathlib.Path,
        limit: int,
    ) -> None:
        super().__init__(name=f"ovz-snapshot-{container.ovz_id}", daemon=True)
        self.error: Exception | None = None
        self.frozen = 0.0
        self._node = node
        self._container = container
        self._place = place
        self._deadline = time.monotonic() + CONF.openvz.snapshot_timeout
        self._limit = limit
        self._ends: dict[str, int] = {}
        for name in ("first", "second"):
            # As long as these are open, a pipe does not end.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            self._ends[name] = os.open(place / name, flags)

    def run(self) -> None:
        try:
            with self._container.tree() as tree:
                state = self._container.state
                if state is State.UNKNOWN:
                    raise exception.OvzError("what the container does is not known")
                if state is State.RUNNING:
                    self._pack_running(tree)
                else:
                    self._pack("pack_tree", tree, "first")
            self._check_same()
        except Exception as error:
            self.error = error
        finally:
            for name in ("first", "second"):
                self._end(name)

    def _end(self, name: str) -> None:
        if name in self._ends:
            os.close(self._ends.pop(name))

    def _pack(
        self, verb: str, tree: tuple[str, str, str], pipe: str, **more: Any
    ) -> Any:
        base, ctid, sub = tree
        uid, gid = self._node.guest_ids
        left = max(0.0, self._deadline - time.monotonic())
        return self._node.executor.call(
            verb,
            time_limit=left,
            base=base,
            ctid=ctid,
            sub=sub,
            pipe=str(self._place / pipe),
            owner=os.geteuid(),
            uid=uid,
            gid=gid,
            limit=self._limit,
            seconds=left,
            **more,
        )

    def _pack_running(self, tree: tuple[str, str, str]) -> None:
        packed = self._pack("pack_contents", tree, "first")
        self._end("first")
        with self._freeze():
            done = self._pack(
                "pack_tree",
                tree,
                "second",
                packed=packed,
                spool=str(self._place / "spool"),
                spool_limit=CONF.openvz.snapshot_spool_mb << 20,
            )
        LOG.info(
            "Container %(ctid)s was frozen for %(time).2f s while %(bytes)d bytes of it"
            " were packed",
            {
                "ctid": self._container.ovz_id,
                "time": self.frozen,
                "bytes": done["bytes"],
            },
        )

    @contextlib.contextmanager
    def _freeze(self) -> Iterator[None]:
        mark = self._place / "frozen"
        mark.touch()
        try:
            self._container.pause()
        except exception.CommandFailed as error:
            # After any other failure than of time it is not frozen.
            if (
                not isinstance(error, exception.CommandTimedOut)
                or self._container.refresh() is not State.PAUSED
            ):
                mark.unlink()
            if not isinstance(error, exception.ContainerNotRunning):
                raise
            # It has stopped by itself: nothing in it changes any more.
            yield
            return
        started = time.monotonic()
        try:
            yield
        finally:
            self._container.unpause()
            self.frozen = time.monotonic() - started
            mark.unlink()

    def _check_same(self) -> None:
        """See that it was the server's container all the time, not one after it.

        :raises ContainerNotFound: it has gone
        """
        found = OvzContainer.find(self._node, uuid=self._container.uuid)
        if found.ovz_id != self._container.ovz_id:
            raise exception.ContainerNotFound(
                f"container {self._container.ovz_id} was replaced"
            )


class _Progress(threading.Thread):
    """Tells Nova how far a snapshot is.

    :param total: bytes that the archive will have, about
    """

    def __init__(self, instance: Any, stream: _Stream, total: int) -> None:
        super().__init__(name=f"ovz-progress-{instance.uuid}", daemon=True)
        self._instance = instance
        self._stream = stream
        self._total = total
        self._ended = threading.Event()

    def end(self) -> None:
        """Have it ended; the instance is the caller's alone then."""
        self._ended.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        while not self._ended.wait(PROGRESS_INTERVAL):
            percent = min(99, self._stream.taken * 100 // max(1, self._total))
            try:
                self._instance.progress = percent
                self._instance.save()
            except Exception as error:
                # The server may be about to go. A snapshot does not fail for this.
                LOG.debug("Progress is not told any more: %s", error)
                return


def abandoned(host: str) -> list[pathlib.Path]:
    """What a nova-compute that died while it took snapshots has left of them.

    :param host: the Nova host; what another one has under way stays
    """
    directory = pathlib.Path(CONF.openvz.snapshot_dir)
    if not directory.is_dir():
        return []
    places = (path for path in directory.iterdir() if path.is_dir())
    return sorted(place for place in places if _is_left(place, host))


def under_way(host: str) -> list[pathlib.Path]:
    """The directories of snapshots that a service which runs takes now."""
    directory = pathlib.Path(CONF.openvz.snapshot_dir)
    places = sorted(directory.iterdir()) if directory.is_dir() else []
    owners = [(place, ctid.Owner.read(place / "owner")) for place in places]
    return [
        place
        for place, owner in owners
        if owner is not None and owner.host == host and owner.is_alive()
    ]


def _is_left(place: pathlib.Path, host: str) -> bool:
    owner = ctid.Owner.read(place / "owner")
    if owner is None:
        return True
    # A service that starts has none under way.
    mine = owner.pid == os.getpid() or not owner.is_alive()
    return owner.host == host and mine


def clear(node: ovz_node.Node, place: pathlib.Path) -> None:
    """Remove one of :func:`abandoned`; a container that it had frozen runs on.

    :raises OvzError: it stays frozen, and is tried again the next time
    """
    if (place / "frozen").exists():
        for container in OvzContainers.list(node):
            if container.uuid == place.name:
                container.thaw()
    shutil.rmtree(place, ignore_errors=True)


class Snapshots:
    """Takes the images of this node's servers."""

    def __init__(self, node: ovz_node.Node) -> None:
        self._node = node
        self._directory = pathlib.Path(CONF.openvz.snapshot_dir)
        self._api = glance.API()

    def take(
        self,
        context: Any,
        instance: Any,
        image_id: str,
        update_task_state: Callable[..., None],
    ) -> None:
        """Upload a server's tree as an image.

        :param image_id: the image, which is there and has no data
        :param update_task_state: Nova's, see ComputeDriver.snapshot
        :raises InstanceNotRunning: there is no such server (Nova's name for it)
        :raises ImageNotFound: the image was deleted meanwhile
        :raises OvzError: the container could not be packed, or has not its own tree;
            it is in the state that it was in
        """
        try:
            container = servers.find(self._node, instance)
        except nova_exception.InstanceNotFound as error:
            raise nova_exception.InstanceNotRunning(
                instance_id=instance.uuid
            ) from error
        metadata = image_metadata(instance, self._api.get(context, image_id))
        update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
        update_task_state(
            task_state=task_states.IMAGE_UPLOADING,
            expected_state=task_states.IMAGE_PENDING_UPLOAD,
        )
        try:
            container.refuse_swapped()
            self._upload(context, instance, container, image_id, metadata)
        except Exception:
            # Nova does it after a snapshot, not after a shelving that failed. With
            # half of a server in it nobody may boot from it.
            with contextlib.suppress(Exception):
                self._api.delete(context, image_id)
            raise

    def _upload(
        self,
        context: Any,
        instance: Any,
        container: OvzContainer,
        image_id: str,
        metadata: dict[str, Any],
    ) -> None:
        started = time.monotonic()
        # Where vzlist does not say what is used, the size of the disk bounds it.
        used_kb = container.info.diskspace_kb or instance.flavor.root_gb << 20
        total = used_kb << 10
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(self._place(container))
            packing: _Packing | None = None

            def failure() -> Exception | None:
                return packing.error if packing else None

            level = CONF.openvz.snapshot_compression
            stream = _Stream(place, level, failure)
            try:
                packing = _Packing(self._node, container, place, _limit(instance))
                packing.start()
            except BaseException:
                stream.close()
                raise
            stack.callback(packing.join)
            # Before it is waited for: it may be writing.
            stack.callback(stream.close)
            if total:
                progress = _Progress(instance, stream, total)
                stack.callback(progress.end)
                progress.start()
            try:
                image = self._api.update(
                    context, image_id, metadata, stream, purge_props=False
                )
            except Exception:
                self._raise_for(packing, instance)
                raise
            self._raise_for(packing, instance)
            _check_taken(image, stream)
        instance.progress = 100
        LOG.info(
            "Image %(image)s: %(given)d bytes of %(taken)d, after %(time).1f s; frozen"
            " for %(frozen).2f s",
            {
                "image": image_id,
                "given": stream.given,
                "taken": stream.taken,
                "time": time.monotonic() - started,
                "frozen": packing.frozen,
            },
            instance=instance,
        )

    @staticmethod
    def _raise_for(packing: _Packing, instance: Any) -> None:
        """Raise what the packing failed with, if it did: the reason of all else."""
        error = packing.error
        if isinstance(error, exception.ContainerNotFound):
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid) from error
        if error is not None:
            raise error

    @contextlib.contextmanager
    def _place(self, container: OvzContainer) -> Iterator[pathlib.Path]:
        """The directory of a server's snapshot.

        :raises OvzError: another one of it is under way, or it is frozen since one
        """
        uuid = str(container.uuid)
        with contextlib.ExitStack() as stack:
            _be_alone(stack, uuid)
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            place = self._directory / uuid
            if (place / "frozen").exists():
                clear(self._node, place)
                container.refresh()
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o700)
            stack.callback(self._leave, place)
            ctid.Owner.this_process(uuid, self._node.host).write(place / "owner")
            (place / "spool").touch(mode=0o600)
            yield place

    @staticmethod
    def _leave(place: pathlib.Path) -> None:
        for name in ("first", "spool", "second"):
            (place / name).unlink(missing_ok=True)
        # One that could not be unfrozen is tried again, at the latest when the
        # service starts.
        if not (place / "frozen").exists():
            (place / "owner").unlink(missing_ok=True)
            place.rmdir()


def _be_alone(stack: contextlib.ExitStack, uuid: str) -> None:
    """Take no other snapshot of a server until the stack is closed.

    Nova itself asks for one at a time, but where its task has been reset meanwhile.

    :raises OvzError: one is being taken
    """
    try:
        stack.enter_context(lockutils.lock(f"ovz-snapshot-{uuid}", blocking=False))
    except lockutils.AcquireLockFailedException as error:
        raise exception.OvzError(
            "another snapshot of it is still being taken: wait for it, or start"
            " nova-compute anew"
        ) from error


def _limit(instance: Any) -> int:
    """Bytes that a server's archive may have."""
    root_gb: int = instance.flavor.root_gb
    return (root_gb << 30) * _TIMES_DISK + _HEADERS if root_gb else _NO_LIMIT


def _check_taken(image: Any, stream: _Stream) -> None:
    """See that Glance has all that was packed.

    When a connection fails, Nova's access to Glance begins anew, with what is left of
    a stream.

    :raises OvzError: it has not
    """
    size = image.get("size") if isinstance(image, dict) else None
    if not stream.finished or (size is not None and size != stream.given):
        raise exception.OvzError(
            f"Glance has {size} bytes of an image of {stream.given}: the upload was"
            " interrupted"
        )


def image_metadata(instance: Any, image: dict[str, Any]) -> dict[str, Any]:
    """What a snapshot's image is to say of itself.

    The properties of the image that the server was made from are in it by now: Nova's
    API has copied them.

    :param image: what Glance says of it now
    """
    known = image.get("properties", {})
    properties = {
        "image_location": "snapshot",
        "image_state": "available",
        "owner_id": instance.project_id,
        "hypervisor_type": known.get("hypervisor_type") or "openvz",
        "vm_mode": known.get("vm_mode") or "exe",
    }
    if instance.os_type:
        properties["os_type"] = instance.os_type
    return {
        "status": "active",
        "name": image["name"],
        "disk_format": "raw",
        "container_format": "bare",
        "properties": properties,
    }


def restore(node: ovz_node.Node, tree: tuple[str, str, str]) -> None:
    """Have in a new container's tree what vzctl has not unpacked of a snapshot.

    :param tree: as :meth:`OvzContainer.tree` tells of it
    """
    base, ctid, sub = tree
    uid, gid = node.guest_ids
    node.executor.call(
        "restore_attributes",
        base=base,
        ctid=ctid,
        sub=sub,
        uid=uid,
        gid=gid,
        seconds=RESTORE_LIMIT,
    )
