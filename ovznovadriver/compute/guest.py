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

"""What a guest finds in its tree before it starts for the first time.

With cloud-init the config drive says everything. Key, password, host name and
personality files are written by us as well, so that they are there without
cloud-init too; it sets them to the same. The network files are written only
without it: it renders its own, beside ours, and then both would be applied.

Nothing in the tree is trusted: it is read with a limit and through the verbs of
openvz.rootfs, which never leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from oslo_log import log as logging

from ovznovadriver import exception
from ovznovadriver.compute import drive, netfiles, shadow
from ovznovadriver.compute.spec import GuestSpec, Nic

LOG = logging.getLogger(__name__)

#: The most that is read of a file of the guest, in bytes.
READ_LIMIT = 1024 * 1024

#: How cloud-init writes personality files (write_injected_files of
#: DataSourceConfigDrive.py). A file that is there keeps its own mode.
PERSONALITY_MODE = 0o660

_SHADOW = "/etc/shadow"
_HOSTS = "/etc/hosts"
_KEYS = "/root/.ssh/authorized_keys"
_READ = (_SHADOW, _HOSTS, _KEYS)
_CLOUD_INIT = ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init")
# cloud-init's own switch.
_CLOUD_INIT_OFF = "/etc/cloud/cloud-init.disabled"
# An image made for another cloud may not look for a config drive. Later names win.
_DATASOURCE = "/etc/cloud/cloud.cfg.d/99-nova.cfg"
_SETTLED = (*_CLOUD_INIT, _CLOUD_INIT_OFF, *netfiles.PATHS)
_PROBED = (*_READ, *_SETTLED)


class Executor(Protocol):
    """The way to the verbs of the privileged side."""

    def call(self, verb: str, **kwargs: Any) -> Any:
        """Run a verb of openvz.rootfs.VERBS."""


@dataclass(frozen=True)
class Place:
    """Where a container's root is on the host, and whose it may be.

    :ivar base: directory of the containers' directories, such as the private area
    :ivar ctid: the container's own
    :ivar sub: "" or "fs", see openvz.tree.SUBDIRECTORIES
    :ivar uid: the container's root as a user of the host, where vzctl shifts owners
    :ivar gid: its group, likewise
    """

    base: str
    ctid: str
    sub: str = ""
    uid: int = 0
    gid: int = 0


def prepare(
    executor: Executor, place: Place, spec: GuestSpec, nics: Sequence[Nic]
) -> str | None:
    """Write all that the guest is to find, in one look and one verb that writes.

    :returns: what configures the guest's network: "cloud-init", the name of one of
        netfiles.WRITERS, or None when the tree has nothing known; then only the
        config drive says it
    :raises ImageUnsuitable: when a file that must be changed cannot be read
    :raises OvzError: when the tree cannot be written to
    """
    root, seen, owner = _look(executor, place, _PROBED, _READ)
    network = "cloud-init" if seen.has_cloud_init else None
    writer = None if network else netfiles.find_writer(seen.kinds)
    if writer:
        network = writer.name
    elif not network and nics:
        LOG.warning(
            "Container %s: the image has no cloud-init and no network configuration"
            " that is known; its network is only described in %s",
            place.ctid,
            drive.SEED,
        )
    files = _drive_files(spec, seen) + _own_files(spec, seen)
    if writer:
        files += _network_files(writer, nics)
    # The user's files go last: they may be meant to replace ours.
    files += _personality(spec)
    executor.call(
        "write_files",
        **root,
        # The seed that a snapshot brings along is another server's.
        remove=[drive.SEED],
        directories=[
            {"path": drive.SEED, "mode": 0o700, **owner},
            *(
                [{"path": "/root/.ssh", "mode": 0o700, **owner}]
                if spec.ssh_keys
                else []
            ),
        ],
        files=[{**file, **owner} for file in files],
    )
    return network


def refresh(
    executor: Executor,
    place: Place,
    drive_files: Sequence[tuple[str, bytes]],
    nics: Sequence[Nic],
    gone: Sequence[Nic] = (),
    *,
    changed: bool = True,
) -> None:
    """Describe a server to its guest anew.

    What it alone was told when it was made, its passwords and keys, stays.

    :param gone: interfaces whose files go
    :param changed: some interfaces came or went, so the distribution's own files for
        them are written, too
    :raises OvzError: when the tree cannot be written to
    """
    root, seen, owner = _look(executor, place, _SETTLED, ())
    files = [_file(f"{drive.SEED}/{path}", data, 0o600) for path, data in drive_files]
    stale: set[str] = set()
    writer = None if seen.has_cloud_init else netfiles.find_writer(seen.kinds)
    if writer and changed:
        files += _network_files(writer, nics)
        kept = {file["path"] for file in files}
        stale = {file.path for file in writer.write(gone) if file.path not in kept}
    executor.call(
        "write_files",
        **root,
        remove=sorted(stale),
        directories=[{"path": drive.SEED, "mode": 0o700, **owner}],
        files=[{**file, **owner} for file in files],
    )


def _look(
    executor: Executor, place: Place, kinds: Sequence[str], contents: Sequence[str]
) -> tuple[dict[str, str], _Seen, dict[str, int]]:
    """What a tree holds.

    :returns: how the verbs call the tree, what was seen, and whose files in it are
    """
    root = {"base": place.base, "ctid": place.ctid, "sub": place.sub}
    found = executor.call(
        "inspect_tree",
        **root,
        kinds=list(kinds),
        contents=list(contents),
        limit=READ_LIMIT,
    )
    seen = _Seen(found["kinds"], found["contents"])
    return root, seen, _root_of(place, found["owner"])


def _root_of(place: Place, top: dict[str, int]) -> dict[str, int]:
    """Whose the guest's own files are.

    vz.conf names an offset, also on kernels for which vzctl does not shift owners
    (create.c: only without OpenVZ's kernel, and with user namespaces). Whether it
    did shows at the tree's root directory.
    """
    if top["uid"] < place.uid:
        return {"uid": 0, "gid": 0}
    return {"uid": place.uid, "gid": place.gid}


@dataclass(frozen=True)
class _Seen:
    """What the tree held when it was looked at."""

    kinds: dict[str, str | None]
    contents: dict[str, bytes | None]

    @property
    def has_cloud_init(self) -> bool:
        there = any(self.kinds[path] == "file" for path in _CLOUD_INIT)
        return there and self.kinds[_CLOUD_INIT_OFF] is None

    def content(self, path: str) -> bytes:
        """The content of a file that is to be changed; empty when not there."""
        content = self.contents[path]
        if content is None and self.kinds[path] is not None:
            raise exception.ImageUnsuitable(
                f"{path} in the image is not a plain file of at most {READ_LIMIT} bytes"
            )
        return content or b""


def _file(path: str, content: bytes, mode: int, keep: bool = False) -> dict[str, Any]:
    return {"path": path, "content": content, "mode": mode, "keep": keep}


def _drive_files(spec: GuestSpec, seen: _Seen) -> list[dict[str, Any]]:
    files = [_file(f"{drive.SEED}/{path}", data, 0o600) for path, data in spec.drive]
    if seen.has_cloud_init:
        content = b"datasource_list: [ ConfigDrive, None ]\n"
        files.append(_file(_DATASOURCE, content, 0o644))
    return files


def _own_files(spec: GuestSpec, seen: _Seen) -> list[dict[str, Any]]:
    files = [_file("/etc/hostname", f"{spec.hostname}\n".encode(), 0o644, keep=True)]
    hosts = seen.content(_HOSTS)
    if not _names_host(hosts, spec.hostname):
        files.append(_file(_HOSTS, add_host(hosts, spec.hostname), 0o644, keep=True))
    if spec.ssh_keys:
        keys = add_keys(seen.content(_KEYS), spec.ssh_keys)
        files.append(_file(_KEYS, keys, 0o600))
    if spec.admin_password is not None:
        hashed = shadow.hash_password(spec.admin_password)
        text = shadow.set_password(seen.content(_SHADOW), "root", hashed)
        files.append(_file(_SHADOW, text, 0o600, keep=True))
    return files


def _network_files(
    writer: netfiles.Writer, nics: Sequence[Nic]
) -> list[dict[str, Any]]:
    files = writer.write(nics) + netfiles.resolv_conf(nics)
    return [_file(file.path, file.content.encode(), file.mode) for file in files]


def _personality(spec: GuestSpec) -> list[dict[str, Any]]:
    return [
        _file(file.path, file.content, PERSONALITY_MODE, keep=True)
        for file in spec.files
    ]


def _names_host(hosts: bytes, hostname: str) -> bool:
    lines = (line.partition(b"#")[0].split() for line in hosts.splitlines())
    return any(hostname.encode() in words[1:] for words in lines)


def add_host(hosts: bytes, hostname: str) -> bytes:
    """/etc/hosts with a line for the host's own name, as Debian has it."""
    if not hosts:
        hosts = b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    names = dict.fromkeys((hostname, hostname.partition(".")[0]))
    return _with_lines(hosts, [f"127.0.1.1 {' '.join(names)}"])


def add_keys(text: bytes, keys: Sequence[str]) -> bytes:
    """authorized_keys with the keys that it does not have yet."""
    known = {line.strip() for line in text.splitlines()}
    return _with_lines(text, [key for key in keys if key.encode() not in known])


def _with_lines(text: bytes, lines: Sequence[str]) -> bytes:
    if text and not text.endswith(b"\n"):
        text += b"\n"
    return text + "".join(f"{line}\n" for line in lines).encode()
