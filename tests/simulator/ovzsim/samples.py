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
"""vz.conf and the sample configurations of a fresh node.

The parameters of the samples are those that the recordings show in the configuration
files of containers made from them.
"""

from __future__ import annotations


def vz_conf(family: str, root: str) -> str:
    """The global configuration, with paths beneath the node's directory."""
    common = (
        "## Global parameters\n"
        "VIRTUOZZO=yes\n"
        f"LOCKDIR={root}/vz/lock\n"
        f"DUMPDIR={root}/vz/dump\n"
        "VE0CPUUNITS=1000\n"
        "\n"
        "## Defaults for containers\n"
        f"VE_ROOT={root}/vz/root/$VEID\n"
        f"VE_PRIVATE={root}/vz/private/$VEID\n"
        f"TEMPLATE={root}/vz/template\n"
    )
    if family == "4":
        return common + (
            'CONFIGFILE="vswap-256m"\n'
            'DEF_OSTEMPLATE="centos-6-x86"\n'
            "VE_LAYOUT=simfs\n"
            "STOP_TIMEOUT=120\n"
            "#LOCAL_UID=100000\n"
            "#LOCAL_GID=100000\n"
        )
    return common + ('CONFIGFILE="basic"\nVEFSTYPE=simfs\nSTOP_TIMEOUT=60\n')


_TAIL_4 = """
# Disk quota, soft:hard, in 1K blocks and inodes
DISKSPACE="2G:2.2G"
DISKINODES="131072:144179"
QUOTATIME="0"

# Fair share of the CPU
CPUUNITS="1000"

NETFILTER="stateless"
"""

_BASIC_4 = """# Every beancounter, no vswap
KMEMSIZE="14372700:14790164"
LOCKEDPAGES="2048:2048"
PRIVVMPAGES="65536:69632"
SHMPAGES="21504:21504"
NUMPROC="240:240"
PHYSPAGES="0:unlimited"
VMGUARPAGES="33792:unlimited"
OOMGUARPAGES="26112:unlimited"
NUMTCPSOCK="360:360"
NUMFLOCK="188:206"
NUMPTY="16:16"
NUMSIGINFO="256:256"
TCPSNDBUF="1720320:2703360"
TCPRCVBUF="1720320:2703360"
OTHERSOCKBUF="1126080:2097152"
DGRAMRCVBUF="262144:262144"
NUMOTHERSOCK="360:360"
DCACHESIZE="3409920:3624960"
NUMFILE="9312:9312"
AVNUMPROC="180:180"
NUMIPTENT="128:128"
"""


def _vswap_4(ram: str, swap: str) -> str:
    return f'# RAM and swap\nPHYSPAGES="0:{ram}"\nSWAPPAGES="0:{swap}"\n{_TAIL_4}'


def _vswap_9(megabytes: int, cpu_first: bool = True) -> str:
    pages = megabytes * 256
    pair = ['CPUUNITS="1000"', 'NETFILTER="full"']
    if not cpu_first:
        pair.reverse()
    return "\n".join(
        [
            'VERSION="2"',
            'ONBOOT="yes"',
            f'PHYSPAGES="{pages}:{pages}"',
            'SWAPPAGES="0"',
            *pair,
            'DISKSPACE="10485760:10485760"',
            'DISKINODES="655360:655360"',
            'QUOTATIME="0"',
            'IP_ADDRESS="0.0.0.0"',
            'PLATFORM="linux"',
            'NUMMEMORYSUBGROUPS="512"',
            "",
        ]
    )


def samples(family: str) -> dict[str, str]:
    """Sample configurations by name, as ``create --config`` takes it."""
    if family == "4":
        return {
            "basic": _BASIC_4 + _TAIL_4,
            "light": _BASIC_4 + _TAIL_4,
            "vswap-256m": _vswap_4("256M", "512M"),
            "vswap-512m": _vswap_4("512M", "1G"),
            "vswap-1g": _vswap_4("1G", "2G"),
            "vswap-1024m": _vswap_4("1024M", "2048M"),
            "vswap-2g": _vswap_4("2G", "4G"),
            "vswap-4g": _vswap_4("4G", "8G"),
        }
    return {
        "basic": _vswap_9(512),
        "vswap.256MB": _vswap_9(256),
        "vswap.512MB": _vswap_9(512),
        "vswap.1024MB": _vswap_9(1024, cpu_first=False),
        "vswap.2048MB": _vswap_9(2048),
    }
