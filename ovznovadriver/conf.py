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

"""The options of ``[openvz]``.

Every option of the 2014 driver is accepted under its old name, ``ovz_…`` in
``[DEFAULT]``. Options that have lost their meaning are accepted, deprecated for
removal, so that an old nova.conf still starts.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from typing import Any

from oslo_config import cfg, types
from oslo_utils import netutils

GROUP = "openvz"

#: Seconds: the most that root's side lets a command run (permit.TIMEOUT_LIMIT).
_LONGEST = 7 * 86400


def _opt(cls: type[cfg.Opt], name: str, **kwargs: Any) -> cfg.Opt:
    """An option that the 2014 driver had too: its name then was ``ovz_<name>``."""
    names = [cfg.DeprecatedOpt(f"ovz_{name}", group="DEFAULT")]
    names += [
        cfg.DeprecatedOpt(old, group="DEFAULT") for old in kwargs.pop("old_names", ())
    ]
    return cls(name, deprecated_opts=names, **kwargs)


_PLACES = [
    cfg.StrOpt(
        "vz_conf",
        default="/etc/vz/vz.conf",
        help="OpenVZ's global configuration file. Directories that are not given "
        "below are taken from it.",
    ),
    _opt(
        cfg.StrOpt,
        "ve_private_dir",
        help="The directory that holds the containers' private areas, without the "
        "container's number. Unset: VE_PRIVATE of vz_conf.",
    ),
    _opt(
        cfg.StrOpt,
        "ve_root_dir",
        help="The directory under which the containers are mounted. Unset: VE_ROOT "
        "of vz_conf.",
    ),
    _opt(
        cfg.StrOpt,
        "ve_conf_dir",
        old_names=("ovz_config_dir",),
        default="/etc/vz/conf",
        help="The directory of the containers' configuration files.",
    ),
    cfg.StrOpt(
        "names_dir",
        default="/etc/vz/names",
        help="The directory in which vzctl keeps the containers' names as links.",
    ),
    _opt(
        cfg.StrOpt,
        "lock_dir",
        default="$state_path/openvz/claims",
        help="The directory in which CTIDs are claimed. The user that nova-compute "
        "runs as must be able to write it, and nobody else. Where several hosts "
        "share their private areas it must be shared too.",
    ),
    _opt(
        cfg.StrOpt,
        "image_template_dir",
        help="The directory in which images are kept, ready for 'vzctl create'. The "
        "user that nova-compute runs as must be able to write it. Unset: 'cache' in "
        "TEMPLATE of vz_conf, which is the one place where vzctl 4 looks.",
    ),
]

_PLACES.append(
    cfg.StrOpt(
        "sysfs_dir",
        default="/sys",
        advanced=True,
        help="Where the kernel shows network interfaces and control groups. Only a "
        "simulated node needs another place.",
    )
)

_PLACES += [
    cfg.IntOpt(
        "ctid_first",
        default=101,
        min=101,
        max=2147483644,
        help="The first of the CTIDs that this host chooses from. A server keeps its "
        "CTID when it moves live, so give each host CTIDs of its own. Only used by "
        "vzctl 4.",
    ),
    cfg.IntOpt(
        "ctid_last",
        default=2147483644,
        min=101,
        max=2147483644,
        help="The last of the CTIDs that this host chooses from. Only used by vzctl 4.",
    ),
]

_IMAGES: list[cfg.Opt] = [
    cfg.IntOpt(
        "image_conversion_timeout",
        default=900,
        min=1,
        help="Time limit in seconds for what turns an image into an archive that vzctl "
        "unpacks: zstd, lz4, or guestfish for disk images.",
    ),
    cfg.IntOpt(
        "image_unpacked_max_gb",
        default=64,
        min=1,
        help="The most that an image may take unpacked where no flavor limits it: for "
        "flavors without a root disk, and when it is cached in advance.",
    ),
    cfg.IntOpt(
        "image_cache_max_mb",
        default=0,
        min=0,
        help="The most that the images in image_template_dir may take. The ones not "
        "used for the longest are removed. 0 sets no bound, and leaves it to "
        "[image_cache]remove_unused_base_images.",
    ),
]

_COMMANDS = [
    cfg.StrOpt(
        "privilege",
        default="privsep",
        choices=[
            ("privsep", "a daemon, started once by nova's root helper"),
            ("rootwrap", "nova's root helper, for each command"),
        ],
        help="How commands are run as root. A nova-compute that is root already runs "
        "them itself.",
    ),
    cfg.ListOpt(
        "program_dirs",
        default=["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin"],
        help="Where vzctl and vzlist are looked for, in this order. Only root may be "
        "able to write there.",
    ),
    cfg.IntOpt(
        "command_timeout",
        default=120,
        min=1,
        max=_LONGEST,
        help="Time limit in seconds for commands that only read or change a "
        "configuration.",
    ),
    cfg.IntOpt(
        "create_timeout",
        default=1800,
        min=1,
        max=_LONGEST,
        help="Time limit in seconds for 'vzctl create', which unpacks the image, and "
        "'vzctl destroy', which removes the tree.",
    ),
    cfg.IntOpt(
        "start_timeout",
        default=300,
        min=1,
        max=_LONGEST,
        help="Time limit in seconds for starting, suspending and resuming a container.",
    ),
    cfg.IntOpt(
        "stop_timeout",
        default=300,
        min=1,
        max=_LONGEST,
        help="The longest a clean stop may take, in seconds, whatever Nova's own "
        "shutdown timeout says. vzctl 4 gives up by itself after 120 s, vzctl 7 "
        "after 60 s.",
    ),
    cfg.IntOpt(
        "lock_wait",
        default=60,
        min=0,
        help="How long to wait, in seconds, for a container that another vzctl has "
        "locked (exit code 9).",
    ),
]

_EVENTS = [
    cfg.IntOpt(
        "event_interval",
        default=5,
        min=0,
        help="Seconds from one look at what containers do by themselves to the next: "
        "one vzlist for all of them. Nova learns within two looks that one has "
        "stopped, started or been paused. 0: Nova learns it from its own power state "
        "sync, every ten minutes.",
    ),
]

_CONTAINERS = [
    _opt(
        cfg.StrOpt,
        "layout",
        default="simfs",
        choices=[
            ("simfs", "a plain directory tree"),
            ("ploop", "a disk image; vzctl 4 only, where the node has ploop"),
            ("", "what vz.conf says"),
        ],
        help="Where the containers' files are kept.",
    ),
    _opt(
        cfg.StrOpt,
        "default_config",
        default="basic",
        help="The sample configuration (ve-<name>.conf-sample) that a container is "
        "made from, unless the flavor names one (extra spec vz_config_file). Empty: "
        "what vz.conf says. Samples with UBC limits are not applied while use_ubc "
        "is off: 'basic' would leave 272 MB of PRIVVMPAGES in force.",
    ),
    cfg.StrOpt(
        "default_os_hint",
        default="",
        help="The distribution that vzctl takes the image for when the image has no "
        "os_distro property; it chooses the scripts that set network and hostname.",
    ),
    _opt(
        cfg.FloatOpt,
        "disk_space_oversub_percent",
        default=1.10,
        min=1.0,
        help="The hard limit of a container's disk quota, as a multiple of the "
        "flavor's root disk, which is the soft limit.",
    ),
    _opt(
        cfg.BoolOpt,
        "use_ubc",
        default=False,
        help="Limit memory by user beancounters instead of vswap.",
    ),
    _opt(cfg.BoolOpt, "use_cpuunit", default=True, help="Set CPU weights (cpuunits)."),
    _opt(cfg.BoolOpt, "use_cpulimit", default=True, help="Set hard CPU limits."),
    _opt(cfg.BoolOpt, "use_cpus", default=True, help="Set the number of CPUs."),
    _opt(cfg.BoolOpt, "use_ioprio", default=True, help="Set I/O priorities."),
    _opt(
        cfg.BoolOpt,
        "use_disk_quotas",
        default=True,
        help="Set disk quotas. Turn it off on a kernel without them.",
    ),
    _opt(
        cfg.FloatOpt,
        "cpulimit_overcommit_multiplier",
        default=1.0,
        min=0.01,
        help="Factor on the hard CPU limit that follows from a flavor's share of the "
        "host's memory.",
    ),
    _opt(
        cfg.IntOpt,
        "memory_unit_size",
        default=512,
        min=1,
        help="The size in MB of one unit of memory, by which other limits grow.",
    ),
    _opt(
        cfg.IntOpt,
        "file_descriptors_per_unit",
        default=4096,
        min=1,
        help="Open files and file locks per unit of memory.",
    ),
    _opt(
        cfg.IntOpt,
        "kmemsize_percent_of_memory",
        default=20,
        min=1,
        max=100,
        help="Limit of kernel memory, in percent of the flavor's memory (UBC only).",
    ),
    _opt(
        cfg.IntOpt,
        "kmemsize_barrier_differential",
        default=10,
        min=0,
        max=99,
        help="How far the barrier of kernel memory lies below the limit, in percent "
        "(UBC only).",
    ),
    _opt(
        cfg.IntOpt,
        "numtcpsock_default",
        default=2000,
        min=1,
        help="TCP sockets of a flavor whose memory is not in numtcpsock_map.",
    ),
    _opt(
        cfg.Opt,
        "numtcpsock_map",
        type=types.Dict(types.Integer(min=1)),
        default={
            "512": 2000,
            "1024": 2000,
            "2048": 2000,
            "4096": 2000,
            "8192": 3000,
            "16384": 4000,
        },
        help="TCP sockets by the flavor's memory in MB.",
    ),
    _opt(
        cfg.IntOpt,
        "tc_mbit_per_unit",
        default=20,
        min=0,
        help="Bandwidth of each interface, to the guest and from it, in Mbit/s per "
        "unit of memory, for flavors that do not say it (extra specs vz_bandwidth and "
        "quota:vif_...). 0 sets no such limit.",
    ),
    _opt(
        cfg.IntOpt,
        "tc_max_line_speed",
        default=1000,
        min=1,
        max=1000000,
        help="The highest bandwidth in Mbit/s that follows from tc_mbit_per_unit.",
    ),
]

_CONSOLES = [
    cfg.StrOpt(
        "console_socket",
        default="/run/ovz-console/socket",
        help="Where nova-compute asks the console service (ovz-console).",
    ),
    cfg.StrOpt(
        "console_group",
        default="nova",
        help="The group that may ask the console service, besides root: that of the "
        "user that nova-compute runs as. Empty: none.",
    ),
    cfg.StrOpt(
        "console_log_dir",
        default="/var/log/ovz-console",
        help="Where the console service keeps the containers' console logs. Only root "
        "may be able to write there.",
    ),
    cfg.IntOpt(
        "console_log_max_kb",
        default=1024,
        min=4,
        help="The size in KB at which a console log is rotated. Up to four files of "
        "this size are kept for a container: two since it booted, two of the boot "
        "before.",
    ),
    cfg.FloatOpt(
        "console_interval",
        default=2.0,
        min=0.1,
        help="How often, in seconds, the console service looks which containers run. "
        "nova-compute tells it of those that it starts.",
    ),
]

_SNAPSHOTS = [
    cfg.StrOpt(
        "snapshot_dir",
        default="$state_path/openvz/snapshots",
        help="The directory for what a snapshot needs while it is taken, up to "
        "snapshot_spool_mb each. The user that nova-compute runs as must be able to "
        "write it.",
    ),
    cfg.IntOpt(
        "snapshot_spool_mb",
        default=2048,
        min=0,
        help="How much of what has changed in a running container while it was packed "
        "is kept on the local disk, in MiB, so that the container need not stay "
        "frozen until Glance has it. What is beyond goes straight to Glance, while "
        "the container is frozen.",
    ),
    cfg.IntOpt(
        "snapshot_timeout",
        default=6 * 3600,
        min=1,
        help="How long it may take to pack a container, in seconds; Glance takes the "
        "image at the same time.",
    ),
    cfg.IntOpt(
        "snapshot_compression",
        default=1,
        min=0,
        max=9,
        help="How hard a snapshot is compressed, as gzip's levels; 0 only stores it. "
        "Level 6 takes three times as long as level 1, for a tenth less.",
    ),
]

_MIGRATION = [
    _opt(
        cfg.StrOpt,
        "migration_user",
        default="nova",
        help="The user on the other host that a container's tree is sent to by ssh: "
        "the one that nova-compute runs as there.",
    ),
    cfg.StrOpt(
        "migration_ssh_key",
        help="The file of the private key for it, which the user of nova-compute alone "
        "can read, and which has no passphrase. Unset: those in that user's ~/.ssh.",
    ),
    cfg.StrOpt(
        "migration_known_hosts",
        help="The file of the other hosts' keys. A host whose key is not in it gets "
        "nothing. Unset: ssh's own files.",
    ),
    cfg.PortOpt("migration_ssh_port", default=22, help="The port of ssh there."),
    cfg.IntOpt(
        "migration_bandwidth_kbps",
        default=0,
        min=0,
        help="The most that sending a tree may take of the network, in KiB/s. 0 sets "
        "no bound.",
    ),
    cfg.IntOpt(
        "migration_timeout",
        default=7200,
        min=1,
        max=_LONGEST,
        help="How long one pass over a tree may take, in seconds.",
    ),
    cfg.IntOpt(
        "live_migration_timeout",
        default=7200,
        min=1,
        max=_LONGEST,
        help="How long vzmigrate may take for a live migration, in seconds; then it is "
        "ended. Ended in the moment when the server is frozen, it leaves a server that "
        "an operator must look after: let it be far more than one ever takes. Where "
        "servers change hands on a shared disk, how long their memory may take to be "
        "copied.",
    ),
    cfg.StrOpt(
        "migration_receiver",
        default="ovz-receive",
        help="The program that is asked on the other host; with its directory, where "
        "that is not on the user's PATH there.",
    ),
    _opt(
        cfg.IntOpt,
        "rsync_iterations",
        default=1,
        min=0,
        help="How often a tree is sent while its container still runs; once more after "
        "it has stopped. 0 stops it first.",
    ),
]

_OPTIONS: list[cfg.Opt] = [
    *_PLACES,
    *_IMAGES,
    *_COMMANDS,
    *_EVENTS,
    *_CONTAINERS,
    *_CONSOLES,
    *_SNAPSHOTS,
    *_MIGRATION,
]

#: Options of 2014 that no code reads any more, or not yet.
_WITHOUT_EFFECT = {
    "bridge_device": "os-vif plugs ports into Open vSwitch.",
    "create_disk_partition": "Volumes are not partitioned for the guest.",
    "disk_space_increment": "A flavor's root disk is in GB.",
    "disk_space_oversub": "disk_space_oversub_percent says it.",
    "iscsiadm_num_tries": "os-brick connects volumes.",
    "max_symlink_wait_time": "os-brick connects volumes.",
    "migration_method": "Trees go by rsync, running containers by vzmigrate.",
    "migration_transport": "Trees go by rsync over ssh.",
    "mount_options": "It was never read.",
    "system_num_tries": "No command is run a second time.",
    "tc_host_slave_device": "Traffic is limited on each port's own interface.",
    "tc_id_max": "Traffic is limited without tc classes.",
    "tc_template_dir": "Traffic is limited without templates.",
    "template_path": "It was never read.",
    "tmp_dir": "Images are kept in image_template_dir.",
    "use_bind_mount": "It was never read.",
    "use_dhcp": "It was never read.",
    "use_veth_devs": "Every port is a veth pair.",
    "vif_driver": "os-vif plugs ports.",
    "volume_default_fs": "It was never read.",
    "volume_settle_num_tries": "os-brick connects volumes.",
    "vzmigrate_destroy_source_container_on_migrate": "Nova says how.",
    "vzmigrate_online_migration": "Nova says how.",
    "vzmigrate_opts": "Nova says how.",
    "vzmigrate_verbose_migration_logging": "Nova says how.",
}

_OPTIONS += [
    _opt(
        cfg.StrOpt,
        name,
        help="Accepted from an old nova.conf; it has no effect.",
        deprecated_for_removal=True,
        deprecated_reason=reason,
    )
    for name, reason in _WITHOUT_EFFECT.items()
]


def places() -> dict[str, list[str]]:
    """Where nova-compute finds nova.conf by itself, for the programs beside it.

    That is /etc/nova/nova.conf, and also nova-compute.conf and nova-compute.conf.d
    there: which files an application reads, oslo.config tells from its name.

    :returns: arguments of ConfigOpts
    """
    who = {"project": "nova", "prog": "nova-compute"}
    return {
        "default_config_files": cfg.find_config_files(**who),
        "default_config_dirs": cfg.find_config_dirs(**who),
    }


def _nova_dir() -> str:
    """The directory that Nova lies in; it is not imported for that."""
    found = importlib.util.find_spec("nova")
    places = list(found.submodule_search_locations or ()) if found else []
    return os.path.dirname(os.path.abspath(places[0])) if places else "/"


def register_nova_opts(conf: cfg.ConfigOpts) -> None:
    """Make known what Nova has in [DEFAULT] that values may begin with, as $state_path.

    For the programs that do not import Nova, with its defaults (nova.conf.paths and
    nova.conf.netconf).
    """
    conf.register_opts(
        [
            cfg.StrOpt("pybasedir", default=_nova_dir()),
            cfg.StrOpt("state_path", default="$pybasedir"),
            cfg.StrOpt("host", default=socket.gethostname()),
            cfg.StrOpt("my_ip", default=netutils.get_my_ipv4()),
        ]
    )


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Make ``conf.openvz`` known; nothing happens when it is known already."""
    conf.register_opts(_OPTIONS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """What oslo-config-generator prints (entry point ``oslo.config.opts``)."""
    return [(GROUP, _OPTIONS)]
