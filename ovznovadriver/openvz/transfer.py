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

"""A container's tree, from host to host, by rsync over ssh.

The service asks the other host, as its own unprivileged user, by the command
``ovz-receive`` (:mod:`ovznovadriver.cmd.receive`); doc/source/migration.rst says how
the two come to trust each other. What goes from host to host has a version; one that
does not know it says so before anything changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ovznovadriver import exception
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import outgoing, underway

LOG = logging.getLogger(__name__)

PROTOCOL = outgoing.PROTOCOL

#: Seconds for a short question to the other host. Its answer may need two ways to root.
ASK_LIMIT = 120.0

#: Seconds, within what outgoing.py allows for the kernel's tick.
_CLOCK_STEP = 0.01
#: What a shell, and after it ssh and rsync, end with for a command that is not there.
_NO_COMMAND = 127
#: How the sentences of the other host begin.
_OURS = ("ovz-receive: ", "ovz-privileged: ")
_TRACEBACK = "Traceback (most recent call last)"
_NO_SPACE = ("No space left on device", "Disk quota exceeded")

# What ssh and rsync say, and what the operator needs to know. In this order: the first
# one that is found is the reason.
_REASONS: tuple[tuple[str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "it shows another host key than the one in {known}: find out why, and if the"
        " host was installed anew, replace its line",
    ),
    (
        "Host key verification failed",
        "its host key is not in {known}: add it, from a source that you trust",
    ),
    (
        "Permission denied (",
        "it does not let {user} in with {key}: add the public key to that user's"
        " authorized_keys",
    ),
    ("Identity file", "{key} cannot be read by the user of this service"),
    ("Load key", "{key} cannot be read by the user of this service"),
    ("This account is currently not available", "its user {user} has no shell"),
    ("Connection refused", "nothing listens on port {port} there"),
    ("Connection timed out", "it does not answer"),
    ("Could not resolve hostname", "its name cannot be resolved"),
    ("io timeout", "it neither sent nor received anything for too long"),
    ("connection unexpectedly closed", "the connection broke off"),
    ("Connection closed", "the connection broke off"),
    ("Broken pipe", "the connection broke off"),
)


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another host, and how it is reached.

    :ivar host: its address or name
    :ivar user: the user there, which nova-compute runs as
    :ivar ssh_key: the file of the private key; None for those in ~/.ssh
    :ivar known_hosts: the file of the host keys; None for ssh's own ones
    :ivar port: of ssh there
    :ivar bandwidth_kbps: KiB/s that a pass may take; 0 for no limit
    :ivar timeout: seconds that one pass may take
    :ivar receiver: the program that is asked there
    """

    host: str
    user: str = "nova"
    ssh_key: str | None = None
    known_hosts: str | None = None
    port: int = 22
    bandwidth_kbps: int = 0
    timeout: float = 7200.0
    receiver: str = "ovz-receive"

    @classmethod
    def from_options(cls, host: str, group: Any) -> Peer:
        """A host as the options say that all are reached.

        :param group: the options of [openvz]
        """
        return cls(
            host=host,
            user=group.migration_user,
            ssh_key=group.migration_ssh_key,
            known_hosts=group.migration_known_hosts,
            port=group.migration_ssh_port,
            bandwidth_kbps=group.migration_bandwidth_kbps,
            timeout=float(group.migration_timeout),
            receiver=group.migration_receiver,
        )


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a host says of itself before anything goes there.

    :ivar protocol: the version that it speaks
    :ivar host: the Nova host
    :ivar family: what its vzctl can do, by name
    :ivar layout: simfs or ploop
    :ivar guest_ids: UID and GID on the host of root inside a container
    :ivar free_kb: KiB that are free for private areas
    :ivar architecture: of its kernel
    :ivar vzctl_version: as vzctl gives it
    :ivar confined: its rsync is confined to the tree that it takes in
    """

    protocol: int
    host: str
    family: str
    layout: str
    guest_ids: tuple[int, int]
    free_kb: int
    architecture: str
    vzctl_version: str
    confined: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return {**dataclasses.asdict(self), "guest_ids": list(self.guest_ids)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Facts:
        """The opposite of :meth:`as_dict`; what is not known is passed over.

        :raises TransferError: it is of another version, or makes no sense
        """
        try:
            if found["protocol"] != PROTOCOL:
                raise exception.TransferError(
                    f"host {_plain(found.get('host'))} speaks version"
                    f" {_plain(found['protocol'])} of the transfer's protocol, and this"
                    f" one version {PROTOCOL}: install the same driver on both"
                )
            uid, gid = map(int, found["guest_ids"])
            return cls(
                protocol=PROTOCOL,
                host=_plain(found["host"]),
                family=_plain(found["family"]),
                layout=_plain(found["layout"]),
                guest_ids=(uid, gid),
                free_kb=int(found["free_kb"]),
                architecture=_plain(found["architecture"]),
                vzctl_version=_plain(found["vzctl_version"]),
                confined=bool(found["confined"]),
            )
        except (
            *(KeyError, TypeError, ValueError),
            *(AttributeError, OverflowError),
        ) as error:
            raise exception.TransferError(
                f"what the other host says of itself makes no sense: {error!r}"
            ) from error


def _plain(value: object) -> str:
    """What another host says, as a text for a message."""
    return "".join(c if c.isprintable() else "?" for c in str(value)[:255])


def local_facts(node: ovz_node.Node, layout: str | None = None) -> Facts:
    """What this host says of itself.

    :param layout: that of the container that is to go, which may be older than the
        node's
    """
    free = os.statvfs(node.paths.private)
    return Facts(
        protocol=PROTOCOL,
        host=node.host,
        family=node.family.name,
        layout=layout or node.layout,
        guest_ids=node.guest_ids,
        free_kb=free.f_bavail * free.f_frsize // 1024,
        architecture=platform.machine(),
        vzctl_version=".".join(map(str, node.version)),
        confined=os.geteuid() == 0 or not node.executor.direct,
    )


def refusal(ours: Facts, theirs: Facts, *, needed_kb: int = 0) -> str | None:
    """Why a container's tree cannot go to another host; None when it can.

    :param needed_kb: KiB that it takes
    """
    for what, here, there in (
        ("vzctl", ours.family, theirs.family),
        ("layout", ours.layout, theirs.layout),
        ("architecture", ours.architecture, theirs.architecture),
        ("root of a container (LOCAL_UID)", ours.guest_ids, theirs.guest_ids),
    ):
        if here != there:
            return f"{what} is {here} here, and {there} on host {theirs.host}"
    if needed_kb > theirs.free_kb:
        return (
            f"the tree takes {needed_kb} KiB, and host {theirs.host} has"
            f" {theirs.free_kb} KiB free"
        )
    return None


def _clock() -> float:
    """What the time of day is ahead of a clock that nobody sets, in seconds."""
    return time.time() - time.monotonic()


@dataclasses.dataclass
class _Pass:
    """What is known of the passes for one key.

    :ivar since: see :func:`ovznovadriver.openvz.outgoing.send_tree`
    :ivar clock: of :func:`_clock`, when the first pass began
    """

    since: int | None = None
    proven: bool = False
    clock: float = dataclasses.field(default_factory=_clock)

    def check_clock(self) -> None:
        """Have everything compared by content where the clock was set back.

        What changed since may bear a time from before the first pass.
        """
        if self.since is not None and _clock() < self.clock - _CLOCK_STEP:
            LOG.warning("The clock was set back: all files are compared by content")
            self.since = 0


class Transfer:
    """Sends the trees of containers of a node to another host.

    All methods raise TransferError, with a sentence for the operator.
    """

    def __init__(self, node: ovz_node.Node, peer: Peer) -> None:
        self._node = node
        self._peer = peer
        self._facts: Facts | None = None
        self._passes: dict[str, _Pass] = {}

    def hello(self) -> Facts:
        """Ask the other host what it is; nothing changes there.

        :raises TransferError: it cannot be reached, is not the one that is known, or
            speaks another version
        """
        self._facts = Facts.from_dict(self._ask("hello"))
        return self._facts

    def is_shared(self, key: str) -> bool:
        """Whether both hosts have their private areas in the same place.

        Names prove nothing: a file that is made here is looked for there.

        :param key: the instance's UUID, for the log
        """
        LOG.debug("Asking %s whether %s is on a shared disk", self._peer.host, key)
        call, dirs = self._node.executor.call, _dirs(self._node)
        name = call("plant_proof", dirs=dirs, host=self._node.host)
        try:
            found = self._ask("look", name).get("found")
        finally:
            call("remove_proof", dirs=dirs, name=name)
        if not isinstance(found, bool):
            raise self._failed("it does not say whether it sees the same directory")
        return found

    def sees_claim(self, ctid: str, key: str) -> bool:
        """Whether the other host sees that this one has claimed a CTID.

        :param key: the instance's UUID, for which it is claimed
        """
        found = self._ask("claims", key, self._node.host).get("claims")
        if not isinstance(found, list):
            raise self._failed("it does not say which claims it sees")
        return ctid in found

    def tree_kb(self, ctid: str) -> int:
        """What a container's tree takes on the disk, in KiB."""
        size_kb, _ = self._node.executor.call("tree_size", **self._tree(ctid))
        return int(size_kb)

    def send(
        self,
        ctid: str,
        key: str,
        *,
        final: bool = False,
        progress: Callable[[float], object] | None = None,
    ) -> None:
        """Copy a container's tree to the other host, or what changed since the last.

        What an older attempt left there is removed before the first pass.

        :param key: the instance's UUID
        :param final: the container does not run: what could have changed without a
            trace is compared by content, and both trees are listed
        :param progress: gets 0.0 to 1.0
        :raises PeerFull: the other host has no room; call :meth:`discard`
        :raises TransferError: something else went wrong; a pass can be tried again
        """
        with underway.Watch(progress) as watch:
            work = self._begin(ctid, key, final, watch.pipe, None, True)
            self._end(key, final, watch.result_of(work))
            watch.tell(1.0)

    @contextlib.contextmanager
    def connected(
        self,
        ctid: str,
        key: str,
        progress: Callable[[float], object] | None = None,
        *,
        holes: bool = True,
    ) -> Iterator[Callable[[], None]]:
        """Have all ready for the final pass while the container still runs.

        What the block is given does the pass; it is to be called when the container
        has stopped. A block that ends without it ends the connection.

        :param holes: whether what is zero becomes a hole there
        :raises TransferError: as :meth:`send`; also before the block
        """
        with underway.Watch(progress) as watch, underway.Gate() as waiting:
            work = self._begin(ctid, key, True, watch.pipe, waiting.path, holes)
            try:
                if not waiting.wait(work):
                    self._end(key, True, work.result())
                    raise self._failed("it has not waited for the container to stop")

                def finish() -> None:
                    waiting.open()
                    self._end(key, True, watch.result_of(work))
                    watch.tell(1.0)

                yield finish
            finally:
                waiting.close()
                work.wait()

    def _begin(
        self,
        ctid: str,
        key: str,
        final: bool,
        progress: str | None,
        gate: str | None,
        holes: bool,
    ) -> underway.Work:
        facts = self._facts or self.hello()
        state = self._passes.get(key)
        if state is None:
            self.discard(key)
            state = self._passes[key] = _Pass()
        state.proven = False
        state.check_clock()
        return underway.Work(
            lambda: self._node.executor.call(
                "send_tree",
                # Both passes of a final one, and the lists.
                time_limit=3 * self._peer.timeout,
                **self._tree(ctid),
                key=key,
                peer=self._described(confined=facts.confined),
                owner=os.geteuid(),
                final=final,
                since=state.since,
                progress=progress,
                gate=gate,
                holes=holes,
            )
        )

    def _end(self, key: str, final: bool, reply: Mapping[str, Any]) -> None:
        state = self._passes[key]
        self._check(reply, running=not final)
        state.since = reply["since"]
        if final:
            self._check_same(reply)
            state.proven = True

    def verify(self, ctid: str, key: str) -> None:
        """Make sure that the other host has the tree as it is here.

        The proof is the comparison at the end of a final pass.

        :raises TransferError: there was none, or something was sent since
        """
        state = self._passes.get(key)
        if state is None or not state.proven:
            raise exception.TransferError(
                f"the copy of container {ctid} on host {self._peer.host} was not"
                " compared with it"
            )

    def discard(self, key: str) -> None:
        """Remove what the other host has of a tree; nothing there is fine."""
        self._passes.pop(key, None)
        self._ask("discard", key, limit=self._peer.timeout)

    # -- how the other host is asked --------------------------------------------

    def _tree(self, ctid: str) -> dict[str, Any]:
        node = self._node
        sub = node.family.tree_dir
        return {"base": node.paths.private, "ctid": ctid, "sub": sub}

    def _described(self, **others: Any) -> dict[str, Any]:
        return {**dataclasses.asdict(self._peer), **others}

    def _ask(self, *words: str, limit: float = ASK_LIMIT) -> dict[str, Any]:
        """What ``ovz-receive`` there answers."""
        described = self._described()
        try:
            arguments = outgoing.ssh_arguments(described)
            command = shlex.join(outgoing.receiver(described, *words))
            done = self._node.executor.run(
                "ssh", *arguments, command, run_as_root=False, timeout=limit
            )
        except exception.CommandTimedOut as error:
            raise self._failed("it did not answer in time") from error
        if done.returncode != 0:
            raise self._problem(done.returncode, done.stderr)
        try:
            answer = json.loads(done.stdout.splitlines()[-1])
            return dict(answer)
        except (ValueError, IndexError, TypeError, RecursionError) as error:
            raise self._failed(
                f"'{self._peer.receiver}' does not answer what it should: is it this"
                " driver's?"
            ) from error

    def _check(self, reply: Mapping[str, Any], *, running: bool) -> None:
        """Judge how rsync ended (its exit codes: rsync(1))."""
        code, stderr = reply["code"], reply["stderr"]
        if reply["timed_out"]:
            raise self._failed(
                f"the pass did not end within {self._peer.timeout:g} s"
                " ([openvz]migration_timeout)"
            )
        # 24: files have vanished, which those of a running container do.
        if code != 0 and not (running and code == 24):
            raise self._problem(code, stderr)

    def _check_same(self, reply: Mapping[str, Any]) -> None:
        if reply["same"] is None:
            raise self._failed("it has not listed what came")
        if not reply["same"]:
            raise self._failed(
                f"the copy there is not what the container is: {reply['theirs']} names"
                f" there, {reply['ours']} here, or their attributes differ"
            )

    def _problem(self, code: int, stderr: str) -> exception.TransferError:
        said = [line.strip() for line in stderr.splitlines() if line.strip()]
        if any(text in stderr for text in _NO_SPACE):
            return exception.PeerFull(
                f"host {self._peer.host} has no room for the tree"
            )
        for line in said:
            if line.startswith(_OURS):
                return self._failed(line.partition(": ")[2])
        if code == _NO_COMMAND:
            return self._failed(
                f"it has no {self._peer.receiver}: install the driver there, or set"
                " [openvz]migration_receiver"
            )
        for text, reason in _REASONS:
            if text in stderr:
                return self._failed(
                    reason.format(
                        user=self._peer.user,
                        key=self._peer.ssh_key or "its keys in ~/.ssh",
                        known=self._peer.known_hosts or "ssh's known_hosts",
                        port=self._peer.port,
                        receiver=self._peer.receiver,
                    )
                )
        # rsync tells the cause first; Python, last.
        reason = (said or ["no reason given"])[-1 if _TRACEBACK in stderr else 0]
        return self._failed(f"{reason} (exit code {code})")

    def _failed(self, reason: str) -> exception.TransferError:
        return exception.TransferError(f"host {self._peer.host}: {reason}")


# -- on the host that a tree has come to ------------------------------------------


def _dirs(node: ovz_node.Node) -> dict[str, str]:
    return {"private": node.paths.private}


def adopt(node: ovz_node.Node, ctid: str, key: str) -> None:
    """Make the tree that has come the root tree of a container that is stopped.

    The tree that it had is removed. Interrupted, it can be called again.

    :raises TransferError: nothing has come for that key
    """
    node.executor.call(
        "adopt_incoming",
        dirs=_dirs(node),
        ctid=ctid,
        sub=node.family.tree_dir,
        key=key,
    )


def drop(node: ovz_node.Node, key: str) -> None:
    """Remove what has come for a key; nothing there is fine."""
    node.executor.call("drop_incoming", dirs=_dirs(node), key=key)


def incoming(node: ovz_node.Node) -> list[str]:
    """The keys for which something has come, and is still there."""
    return list(node.executor.call("list_incoming", dirs=_dirs(node)))
