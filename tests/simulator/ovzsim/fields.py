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
"""The columns of vzlist: heading, width, alignment, for both families."""

from __future__ import annotations

UBC_HEADINGS = {
    "kmemsize": "KMEMSIZE",
    "lockedpages": "LOCKEDP",
    "privvmpages": "PRIVVMP",
    "shmpages": "SHMP",
    "numproc": "NPROC",
    "physpages": "PHYSP",
    "vmguarpages": "VMGUARP",
    "oomguarpages": "OOMGUARP",
    "numtcpsock": "NTCPSOCK",
    "numflock": "NFLOCK",
    "numpty": "NPTY",
    "numsiginfo": "NSIGINFO",
    "tcpsndbuf": "TCPSNDB",
    "tcprcvbuf": "TCPRCVB",
    "othersockbuf": "OTHSOCKB",
    "dgramrcvbuf": "DGRAMRB",
    "numothersock": "NOTHSOCK",
    "dcachesize": "DCACHESZ",
    "numfile": "NFILE",
    "numiptent": "NIPTENT",
    "swappages": "SWAPP",
}


class Field:
    """One column. A positive width aligns to the right, a negative one to the left."""

    def __init__(
        self, heading: str, width: int, cut: bool = False, loose: bool = False
    ) -> None:
        self.heading = heading
        self.width = width
        self.cut = cut
        self.loose = loose  # only the dash of an empty value is padded

    def pad(self, text: str, last: bool, trim: bool) -> str:
        """A value as it stands in its column; the last column is never cut."""
        if self.cut and trim and not last:
            text = text[: abs(self.width)]
        if self.loose and text != "-":
            return text
        if self.width > 0:
            return text.rjust(self.width)
        return text if last else text.ljust(-self.width)


def _ubc() -> dict[str, Field]:
    fields = {}
    for name, heading in UBC_HEADINGS.items():
        fields[name] = Field(heading, 10)
        for part in "mblf":
            fields[f"{name}.{part}"] = Field(f"{heading}.{part.upper()}", 10)
    return fields


def _disk(space: str, inodes: str) -> dict[str, Field]:
    fields = {}
    for name, heading in (("diskspace", space), ("diskinodes", inodes)):
        fields[name] = Field(heading, 10)
        for part in "sh":
            fields[f"{name}.{part}"] = Field(f"{heading}.{part.upper()}", 10)
    return fields


FIELDS_4: dict[str, Field] = {
    "ctid": Field("CTID", 10),
    "veid": Field("CTID", 10),
    "vpsid": Field("CTID", 10),
    "private": Field("PRIVATE", -32, True),
    "root": Field("ROOT", -32, True),
    "mount_opts": Field("MOUNT_OPTS", -32, True),
    "origin_sample": Field("ORIGIN_SAMPLE", -32, True),
    "hostname": Field("HOSTNAME", -32, True),
    "name": Field("NAME", -32, True),
    "smart_name": Field("SMARTNAME", 10),
    "description": Field("DESCRIPTION", -32, True),
    "ostemplate": Field("OSTEMPLATE", -24, True),
    "ip": Field("IP_ADDR", -15, True),
    "nameserver": Field("NAMESERVER", -15, True),
    "searchdomain": Field("SEARCHDOMAIN", -15, True),
    "status": Field("STATUS", -9),
    **_ubc(),
    **_disk("DSPACE", "DINODES"),
    "laverage": Field("LAVERAGE", 14),
    "uptime": Field("UPTIME", 15),
    "cpulimit": Field("CPULIM", 7),
    "cpuunits": Field("CPUUNI", 7),
    "cpus": Field("CPUS", 5),
    "ioprio": Field("IOP", 3),
    "iolimit": Field("IOLIMIT", 10),
    "iopslimit": Field("IOPS", 4),
    "onboot": Field("ONBOOT", 6),
    "bootorder": Field("BOOTORDER", 10),
    "layout": Field("LAYOUT", -6),
    "features": Field("FEATURES", -15, True),
    "vswap": Field("VSWAP", 5),
    "disabled": Field("DISABL", 6),
    "vm_overcommit": Field("VM_OVC", 6),
}

FIELDS_9: dict[str, Field] = {
    "ctid": Field("CTID", 36),
    "private": Field("PRIVATE", -32),
    "root": Field("ROOT", -32),
    "veid": Field("CTID", 36),
    "uuid": Field("UUID", -36),
    "hostname": Field("HOSTNAME", -32),
    "name": Field("NAME", -32),
    "smart_name": Field("NAME", -32),
    "description": Field("DESCRIPTION", -32, True),
    "tm": Field("TM", -3),
    "ostemplate": Field("OSTEMPLATE", -24),
    "distribution": Field("DISTRIBUTION", -15),
    "ip": Field("IP_ADDR", -15, True),
    "nameserver": Field("NAMESERVER", -15, True),
    "searchdomain": Field("SEARCHDOMAIN", -15, True),
    "configured_ip": Field("CFG_IP_ADDR", -15, True),
    "status": Field("STATUS", -9),
    **_ubc(),
    **_disk("DQBLOCKS", "DQINODES"),
    "laverage": Field("LAVERAGE", 14),
    "cpulimit": Field("CPULIM", 7),
    "cpulimit%": Field("CPUL_%", 7),
    "cpulimitM": Field("CPUL_M", 7),
    "cpuunits": Field("CPUUNI", 7),
    "cpus": Field("CPUS", 5),
    "cpumask": Field("CPUMASK", 20),
    "nodemask": Field("NODEMASK", 20),
    "host_ifname": Field("HOST_IFNAME", -16),
    "mac": Field("MAC", -17),
    "host_mac": Field("HOST_MAC", -17),
    "gw": Field("GATEWAY", -15),
    "network": Field("NETWORK", -32, loose=True),
    "ifname": Field("IFNAME", -8),
    "netif": Field("NET_INTERFACES", -32),
    "onboot": Field("ONBOOT", -6),
    "disabled": Field("DISABL", 6),
    "autostop": Field("AUTOSTOP", 10),
    "bootorder": Field("BOOTORDER", 10),
    "uptime": Field("UPTIME", 15),
    "ioprio": Field("IOPRIO", 6),
    "iolimit": Field("IOLIMIT", 10),
    "iopslimit": Field("IOPSLIMIT", 10),
    "features": Field("FEATURES", -15, True),
    "layout": Field("LAYOUT", 6),
    "device": Field("DEVICE", -16),
    "ha_enable": Field("HA_ENABLE", 9),
    "ha_prio": Field("HA_PRIO", 8),
    "devnodes": Field("DEVNODES", -15, True),
    "origin_sample": Field("ORIGIN_SAMPLE", -32),
    "type": Field("TYPE", -8),
}

_LIMITS = "cpulimit cpuunits cpus ioprio iolimit iopslimit".split()

# The fields of -j without -o, in order. numproc is there twice in family 9.
JSON_4 = [
    *"ctid veid vpsid private root mount_opts origin_sample hostname name".split(),
    *"smart_name description ostemplate ip nameserver searchdomain status".split(),
    *UBC_HEADINGS,
    *"diskspace diskinodes laverage uptime".split(),
    *_LIMITS,
    *"onboot bootorder layout features vswap disabled vm_overcommit".split(),
]
JSON_9 = [
    *"ctid private root hostname name smart_name description ostemplate".split(),
    *"distribution ip configured_ip nameserver searchdomain status numproc".split(),
    *UBC_HEADINGS,
    *"diskspace diskinodes laverage uptime".split(),
    *_LIMITS,
    *"onboot bootorder layout features disabled".split(),
]
