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

"""Containers' network namespaces, from the outside."""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.network.__main__ import SYSTEM_PATH

IP = shutil.which("ip", path=SYSTEM_PATH) or "ip"
WIRE = str(Path(__file__).with_name("wire.py"))


class Guest:
    """The network of a running container.

    :param ctid: the container's; None for the host
    """

    def __init__(self, ctid: str | None = None) -> None:
        self.ctid = ctid

    def ip(self, *words: str) -> Any:
        """Run ip inside; with -json, what it answers."""
        inside = ["-n", self.ctid] if self.ctid else []
        done = subprocess.run(
            [IP, *inside, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
        return json.loads(done.stdout) if "-json" in words and done.stdout else None

    def links(self) -> dict[str, dict[str, Any]]:
        """The interfaces by name, without lo."""
        found = {link["ifname"]: link for link in self.ip("-json", "link", "show")}
        return {name: link for name, link in found.items() if name != "lo"}

    def configure(
        self, data: Mapping[str, Any], leases: Mapping[str, list[str]]
    ) -> None:
        """Do what cloud-init does at boot with network_data.json.

        :param leases: what a DHCP server or a router would offer, by MAC address
        """
        links = {link["id"]: link for link in data["links"]}
        names = {link["address"]: name for name, link in self.links().items()}
        for link in links.values():
            mtu = ("mtu", str(link["mtu"])) if link.get("mtu") else ()
            name = names[link["ethernet_mac_address"]]
            self.ip("link", "set", name, *mtu, "up")
        for network in data["networks"]:
            mac = links[network["link"]]["ethernet_mac_address"]
            if "ip_address" in network:
                length = int(ipaddress.ip_address(network["netmask"])).bit_count()
                found = [f"{network['ip_address']}/{length}"]
            else:
                is_6 = network["type"].startswith("ipv6")
                found = [lease for lease in leases[mac] if (":" in lease) is is_6]
            for address in found:
                self.address(address, names[mac])

    def address(self, address: str, name: str = "eth0") -> None:
        """Give an interface an address, and set it up."""
        self.ip("link", "set", name, "up")
        # Whether anybody else has the address need not be waited for.
        flags = ("nodad",) if ":" in address else ()
        self.ip("address", "replace", address, "dev", name, *flags)

    # -- programs inside ---------------------------------------------------------

    def wire(self, *words: str) -> Any:
        """Run wire.py inside, and give what it says at the end."""
        done = subprocess.run(
            self._command(*words), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    def _command(self, *words: str) -> list[str]:
        inside = [IP, "netns", "exec", self.ctid] if self.ctid else []
        return [*inside, sys.executable, "-S", WIRE, *words]

    @contextmanager
    def wiring(self, *words: str) -> Iterator[Result]:
        """Run wire.py inside, from when it is ready to its end."""
        with subprocess.Popen(
            self._command(*words), stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            result = Result()
            try:
                yield result
                result.value = json.loads(child.stdout.readline())
            finally:
                child.kill()

    def reaches(self, address: str, seconds: float = 60) -> bool:
        """Whether an address answers to ping."""
        return bool(self.wire("ping", address, str(seconds)))

    def throughput(self, other: Guest, address: str, seconds: float = 1.5) -> float:
        """Bytes a second that get through to another one's address over TCP."""
        with other.wiring("receive", "5001", str(seconds)) as result:
            self.wire("send", address, "5001")
        return float(result.value)


class Result:
    """What a program says at its end."""

    value: Any = None
