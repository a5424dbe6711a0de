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

"""What is set in a container's configuration, by its name in the model of 2014."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from oslo_log import log as logging

from ovznovadriver import exception
from ovznovadriver.openvz import keptconf, vzconf, vzctl
from ovznovadriver.openvz import node as ovz_node

LOG = logging.getLogger(__name__)

#: Disk space in a configuration file, as `vzctl set` writes it: soft and hard limit
#: in KiB.
_DISKSPACE = re.compile(r"([0-9]{1,19}):([0-9]{1,19})")


def _disk_size(path: str) -> tuple[int, int] | None:
    """The disk space in a configuration file; None where it is as in a sample."""
    found = _DISKSPACE.fullmatch(vzconf.read_settings(path).get("DISKSPACE", ""))
    return (int(found[1]), int(found[2])) if found else None


class ContainerSettings:
    """The setters of a container.

    Each is a command of its own, or they go out together: see :meth:`changes`.

    :param ovz_id: the CTID
    """

    def __init__(self, node: ovz_node.Node, ovz_id: str) -> None:
        self.node = node
        self.ovz_id = ovz_id
        self._gathered: vzctl.Settings | None = None

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
        # says that all is well. With vzctl 7 the file is a link into the private areas,
        # which root alone can follow.
        if not os.path.lexists(self._conf_path()):
            raise exception.ContainerNotFound(
                f"container {self.ovz_id} has no configuration file"
            )
        self.node.vzctl.set(self.ovz_id, settings)

    def _set(self, settings: vzctl.Settings) -> None:
        if self._gathered is not None:
            self._gathered = self._gathered.merged(settings)
        else:
            self._send(settings)

    # -- as a whole -----------------------------------------------------------------

    def _conf_path(self) -> str:
        return os.path.join(self.node.paths.conf, f"{self.ovz_id}.conf")

    def _conf_dirs(self) -> dict[str, str]:
        dirs = {"conf": self.node.paths.conf}
        if self.node.family.tree_dir:
            # Elsewhere what is in the private area is the guest's own.
            dirs["private"] = self.node.paths.private
        return dirs

    @property
    def layout(self) -> str:
        """What its files are kept in, whatever those of new containers are: simfs or
        ploop.
        """
        if self.node.family.template_paths:
            return self.node.layout
        try:
            found = vzconf.read_settings(self._conf_path())
        except exception.ConfigurationError:
            # It is half made, or gone.
            found = {}
        return found.get("VE_LAYOUT", self.node.layout).split(":")[0]

    @property
    def image_kb(self) -> int | None:
        """How large its disk image is (layout ploop), in KiB; None where not known."""
        size = _disk_size(self._conf_path())
        return size and size[1]

    @property
    def is_kept(self) -> bool:
        """Whether :meth:`keep` was called, and nothing came of it yet."""
        return os.path.lexists(keptconf.kept_path(self.node.paths.conf, self.ovz_id))

    def keep(self) -> None:
        """Keep all that is set as it is now, for :meth:`restore`."""
        self.node.executor.call("keep_conf", dirs=self._conf_dirs(), ctid=self.ovz_id)

    def restore(self) -> bool:
        """Have all set, in the stopped container, as it was kept.

        :returns: whether it was kept
        :raises DiskImageNotResized: its disk image cannot have its size, and is too
            small
        """
        if self.is_kept and self.layout == "ploop":
            self._restore_image()
        done: bool = self.node.executor.call(
            "restore_conf", dirs=self._conf_dirs(), ctid=self.ovz_id
        )
        return done

    def _restore_image(self) -> None:
        kept = _disk_size(keptconf.kept_path(self.node.paths.conf, self.ovz_id))
        if kept is None:
            return
        now = _disk_size(self._conf_path()) or kept
        try:
            # Also where both say the same: vzctl may have been interrupted.
            self.set_diskspace(*kept)
        except exception.DiskImageNotResized as error:
            if kept[1] > now[1]:
                raise
            LOG.warning(
                "The disk image of container %(ctid)s stays larger than its limit of"
                " %(size)d KiB, as its files need more: %(error)s",
                {"ctid": self.ovz_id, "size": kept[1], "error": error},
            )

    def forget_kept(self) -> None:
        """Let what was kept go."""
        self.node.executor.call(
            "drop_conf", dirs={"conf": self.node.paths.conf}, ctid=self.ovz_id
        )

    # -- one by one -----------------------------------------------------------------

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
        """Give the container interfaces; one that runs has them at once."""
        self._set(vzctl.Settings(netif_add=veths))

    def hang_interfaces(self, veths: tuple[vzctl.Veth, ...]) -> bool:
        """Have the interfaces of a stopped container, which has others, or too few.

        The driver of 2014 gave the host's ends names of its own, and a detach that
        failed half-way has taken one whose port Nova has still. Nothing is asked of
        vzctl where there is nothing to do.

        :returns: whether one was missing
        :raises ContainerNotFound: its configuration cannot be read
        """
        there = {
            nic.get("ifname"): nic.get("host_ifname") for nic in self._interfaces()
        }
        wanted = {veth.host_ifname for veth in veths}
        missing = tuple(
            veth
            for veth in veths
            if veth.host_ifname not in there.values()
            and there.get(veth.name) not in wanted
        )
        for veth in missing:
            LOG.warning(
                "Container %(ctid)s had no interface %(name)s, and gets it again",
                {"ctid": self.ovz_id, "name": veth.host_ifname},
            )
        # Each a command of its own: of a name that is both removed and added vzctl 4
        # keeps nothing (merge_veth_list() of veth.c).
        if old := tuple(veth.name for veth in missing if veth.name in there):
            self.remove_interfaces(old)
        if missing:
            self.add_interfaces(missing)
        return bool(missing)

    def _interfaces(self) -> list[dict[str, str]]:
        """What its configuration says of its interfaces; see vzconf.interfaces()."""
        if not self.node.family.template_paths:
            try:
                text = vzconf.read_settings(self._conf_path()).get("NETIF", "")
            except exception.ConfigurationError as error:
                raise exception.ContainerNotFound(str(error)) from error
            return vzconf.interfaces(text)
        # It is a link that only root can follow.
        confs = self.node.executor.call(
            "survey", dirs=self.node.artifact_dirs(), sub=self.node.family.tree_dir
        )["confs"]
        if self.ovz_id not in confs:
            raise exception.ContainerNotFound(
                f"container {self.ovz_id} has no configuration"
            )
        found: list[dict[str, str]] = confs[self.ovz_id]["interfaces"]
        return found

    def remove_interfaces(self, names: tuple[str, ...]) -> None:
        """Take interfaces from the container, by their names inside it."""
        self._set(vzctl.Settings(netif_del=names))

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
