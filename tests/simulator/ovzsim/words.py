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
"""Fixed words of the tools: features, capabilities, modules, distributions."""

from __future__ import annotations

FEATURES_4 = ("sysfs", "nfs", "sit", "ipip", "ppp", "ipgre", "bridge", "nfsd")
FEATURES_9 = FEATURES_4

# In the order of the kernel's numbers, which is the order in configuration files.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP "
    "LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK "
    "IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE VE_ADMIN"
).split()

NETFILTER = ("disabled", "stateless", "stateful", "full")

# First words of template names for which vzctl has a distribution file.
DISTRIBUTIONS = (
    "alpine altlinux arch centos cern debian fedora gentoo mandriva opensuse redhat "
    "rhel scientific slackware sles suse ubuntu"
).split()
