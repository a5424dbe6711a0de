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

"""What this node is: its options, its vzctl, the way to its commands, its host name.

One :class:`Node` is made when the service starts, and handed down. Nothing below
the driver reads global options, so two drivers for two nodes can live in one process.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping

from ovznovadriver import exception
from ovznovadriver.openvz import (
    command,
    ctid,
    look,
    permit,
    resources,
    utils,
    vzconf,
    vzctl,
    vzlist,
)

#: See :func:`vzconf.read_settings`.
read_settings = vzconf.read_settings


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of ``[openvz]`` that concern a node; see :mod:`ovznovadriver.conf`.

    :ivar root_helper: the command that nova runs others as root with
    :ivar ctids: the first and the last CTID that may be claimed
    """

    vz_conf: str
    ve_private_dir: str | None
    ve_root_dir: str | None
    ve_conf_dir: str
    names_dir: str
    lock_dir: str
    image_template_dir: str | None
    sysfs_dir: str
    privilege: str
    root_helper: str
    program_dirs: tuple[str, ...]
    lock_wait: float
    limits: vzctl.TimeLimits
    layout: str
    default_config: str
    default_os_hint: str
    sizing: resources.SizingOptions
    ctids: tuple[int, int] = (ctid.FIRST_CTID, command.MAX_CTID)


@dataclasses.dataclass(frozen=True)
class Paths:
    """Where things are on a node; all absolute.

    :ivar private: holds the private areas
    :ivar root: holds the mount points
    :ivar conf: holds the configuration files
    :ivar names: holds the name links
    :ivar templates: the template cache
    :ivar locks: vzctl's own locks
    :ivar dump: what `vzctl suspend` writes
    :ivar net: where the kernel lists network interfaces
    :ivar cgroup: where its control groups are
    """

    private: str
    root: str
    conf: str
    names: str
    templates: str
    locks: str
    dump: str
    net: str
    cgroup: str

    def sample(self, name: str) -> str:
        """The file of a sample configuration."""
        return os.path.join(self.conf, f"ve-{name}.conf-sample")


def _number(settings: Mapping[str, str], name: str) -> int:
    text = settings.get(name) or "0"
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise exception.ConfigurationError(
            f"{name} in vz.conf is {text}: set it to a number."
        )
    return int(text)


def _paths(options: Options, settings: Mapping[str, str]) -> Paths:
    private = vzconf.private_dir(settings)
    root = vzconf.per_container(settings, "VE_ROOT", "/vz/root")
    for option, given, used in (
        ("ve_private_dir", options.ve_private_dir, private),
        ("ve_root_dir", options.ve_root_dir, root),
    ):
        if given and os.path.realpath(given) != os.path.realpath(used):
            raise exception.ConfigurationError(
                f"[openvz]{option} is {given}, but vzctl uses {used}: remove the"
                f" option, or change {options.vz_conf}."
            )
    template = settings.get("TEMPLATE", "/vz/template")
    return Paths(
        private=private,
        root=root,
        conf=options.ve_conf_dir,
        names=options.names_dir,
        templates=options.image_template_dir or os.path.join(template, "cache"),
        locks=settings.get("LOCKDIR", "/vz/lock"),
        dump=settings.get("DUMPDIR", "/vz/dump"),
        net=os.path.join(options.sysfs_dir, "class", "net"),
        cgroup=os.path.join(options.sysfs_dir, "fs", "cgroup"),
    )


def _check_ctids(first: int, last: int) -> None:
    if first > last:
        raise exception.ConfigurationError(
            f"[openvz]ctid_first is {first} and [openvz]ctid_last is {last}: set them"
            " to the first and the last CTID of this host."
        )


def _check_directories(paths: Paths) -> None:
    for option, path in (
        ("ve_private_dir", paths.private),
        ("ve_root_dir", paths.root),
        ("ve_conf_dir", paths.conf),
        ("image_template_dir", paths.templates),
    ):
        if not os.path.isdir(path):
            raise exception.ConfigurationError(
                f"The directory {path} is not there: create it, or set"
                f" [openvz]{option} to the one that OpenVZ uses."
            )
    if not os.access(paths.templates, os.W_OK):
        raise exception.ConfigurationError(
            f"{paths.templates} cannot be written by the user of nova-compute: chown"
            " it to that user, so that images can be kept there."
        )


def _check_parts(paths: Paths) -> None:
    """See that root's side would work there; see permit.py."""
    for path in (paths.private, paths.root, paths.conf, paths.names, paths.locks):
        part = permit.guests_part(f"{path}/{os.path.realpath(path)}")
        if part is not None:
            raise exception.ConfigurationError(
                f"The directory {path} leads through {part}, which could be a"
                " container's own, where nothing is done for nova-compute as root: call"
                " it otherwise, or mount it in another place (mount --bind)."
            )


def _check_lock_dir(path: str) -> None:
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        raise exception.ConfigurationError(
            f"[openvz]lock_dir {path} cannot be made ({error.strerror}): create it,"
            " owned by the user of nova-compute."
        ) from error
    if not os.access(path, os.W_OK):
        raise exception.ConfigurationError(
            f"[openvz]lock_dir {path} cannot be written: chown it to the user of"
            " nova-compute."
        )
    if os.stat(path).st_mode & 0o002:
        raise exception.ConfigurationError(
            f"[openvz]lock_dir {path} can be written by everyone: chmod o-w it, or"
            " anybody could claim CTIDs."
        )


class Node:
    """A node with OpenVZ.

    :ivar host: the Nova host that this service is
    :ivar options: what the operator set
    :ivar paths: where things are
    :ivar version: the installed vzctl's
    :ivar family: what the installed vzctl can do
    :ivar executor: the way to commands and to the verbs of the privileged side
    :ivar claims: the CTIDs claimed here
    :ivar look: the last look at the containers
    :ivar sample: the sample configuration for containers, None for vz.conf's own
    :ivar layout: simfs or ploop
    :ivar guest_ids: UID and GID on the host of root inside a container, where vzctl
        shifts owners (LOCAL_UID and LOCAL_GID of vz.conf)
    """

    def __init__(
        self,
        host: str,
        options: Options,
        settings: Mapping[str, str],
        executor: utils.Executor,
        version: tuple[int, int, int],
    ) -> None:
        self.host = host
        self.options = options
        self.paths = _paths(options, settings)
        self.executor = executor
        self.version = version
        self.family = vzctl.family_of(version)
        self.vzlist = vzlist.Vzlist(executor)
        self.look = look.Look(self.vzlist.list)
        self.vzctl = vzctl.Vzctl(
            executor, self.family, options.limits, self.look.forget
        )
        self.claims = ctid.Claims(options.lock_dir, host, options.ctids)
        self.layout = options.layout or settings.get("VE_LAYOUT", "simfs").split(":")[0]
        self.guest_ids = self._guest_ids(settings)
        self.sample = self._usable_sample()

    @classmethod
    def open(cls, host: str, options: Options) -> Node:
        """Look at the node and check that the driver can work on it.

        :raises ConfigurationError: one sentence that says what to do
        """
        settings = read_settings(options.vz_conf)
        _check_ctids(*options.ctids)
        _check_directories(_paths(options, settings))
        _check_lock_dir(options.lock_dir)
        for program in ("vzctl", "vzlist", "ip", "tc"):
            if (
                shutil.which(program, path=os.pathsep.join(options.program_dirs))
                is None
            ):
                raise exception.ConfigurationError(
                    f"{program} is not in {', '.join(options.program_dirs)}: install"
                    " it, or set [openvz]program_dirs."
                )
        executor = utils.Executor(
            privilege=options.privilege,
            root_helper=options.root_helper,
            program_dirs=options.program_dirs,
            timeout=options.limits.command,
            lock_wait=options.lock_wait,
        )
        if not executor.direct:
            _check_parts(_paths(options, settings))
        try:
            executor.check()
            answer = executor.run("vzctl", "--version").stdout
        except exception.OvzError as error:
            raise exception.ConfigurationError(str(error)) from error
        node = cls(host, options, settings, executor, vzctl.parse_version(answer))
        node._check_family(settings)
        node._check_vzlist()
        return node

    def _guest_ids(self, settings: Mapping[str, str]) -> tuple[int, int]:
        if self.executor.direct and os.geteuid() != 0:
            # A simulated node: all of it belongs to whoever runs it.
            return os.geteuid(), os.getegid()
        return _number(settings, "LOCAL_UID"), _number(settings, "LOCAL_GID")

    def _usable_sample(self) -> str | None:
        name = self.options.default_config
        if not name:
            return None
        if not os.path.isfile(self.paths.sample(name)):
            raise exception.ConfigurationError(
                f"The sample {self.paths.sample(name)} is not there: set"
                " [openvz]default_config to one that is, or leave it empty."
            )
        return name if self.suits(name) else None

    def suits(self, sample: str) -> bool:
        """Whether a sample limits memory the way that this node does.

        Under vswap the PRIVVMPAGES of one with beancounters would stay in force:
        272 MB with 'basic', whatever the flavor says.

        :raises ConfigurationError: it cannot be read
        """
        if self.options.sizing.use_ubc:
            return True
        return resources.is_vswap_sample(vzconf.read(self.paths.sample(sample)))

    def _check_family(self, settings: Mapping[str, str]) -> None:
        if self.layout not in self.family.layouts:
            raise exception.ConfigurationError(
                f"[openvz]layout = {self.layout} does not work with"
                f" {self.family.name}: set it to"
                f" {' or '.join(sorted(self.family.layouts))}."
            )
        if self.family.template_paths and settings.get("VEFSTYPE") != "simfs":
            raise exception.ConfigurationError(
                f"{self.options.vz_conf} does not say VEFSTYPE=simfs, and a root file"
                f" system tarball becomes no ploop image with {self.family.name}:"
                " set it."
            )
        if self.options.sizing.use_ubc and not self.family.has_ubc:
            raise exception.ConfigurationError(
                f"{self.family.name} has no user beancounters: set [openvz]use_ubc ="
                " False."
            )

    def _check_vzlist(self) -> None:
        try:
            self.look.containers()
        except exception.OvzError as error:
            raise exception.ConfigurationError(
                "vzlist cannot tell which containers there are, so none could be"
                f" managed safely; make 'vzlist -a' list them: {error}"
            ) from error

    def veth_exists(self, host_ifname: str) -> bool:
        """Whether the host has an interface of that name."""
        return os.path.lexists(os.path.join(self.paths.net, host_ifname))

    def programs(self, *names: str) -> dict[str, str]:
        """The absolute paths of programs, for verbs that run them."""
        return {name: self.executor.find(name) for name in names}

    def artifact_dirs(self) -> dict[str, str]:
        """The directories in which a container leaves traces, for the file verbs."""
        paths = self.paths
        return {
            "private": paths.private,
            "root": paths.root,
            "conf": paths.conf,
            "names": paths.names,
            "lock": paths.locks,
            "dump": paths.dump,
        }
