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

"""Images of several kinds, and the cache that they are kept in."""

from __future__ import annotations

import os
import struct
import sys
import time

import pytest
from nova.tests.functional.api import client as api_client

from tests.functional import base
from tests.functional import fixtures as cloud_fixtures

#: What zstd's archives begin with; the stand-in for zstd asks for no more.
ZSTD = b"\x28\xb5\x2f\xfd"

_STAND_IN = """#!{python}
import gzip, sys
with open({calls!r}, "a") as calls:
    calls.write("call\\n")
sys.stdout.buffer.write(gzip.open({data!r}).read())
"""


class ImageTests:
    """What holds for both families of vzctl."""

    def _install_zstd(self) -> None:
        """Have a zstd that unpacks everything to the test's image."""
        data = self.node.root / "image.tar.gz"
        data.write_bytes(cloud_fixtures.rootfs_tarball())
        self.calls = self.node.root / "zstd.calls"
        program = self.node.bin_dir / "zstd"
        program.write_text(
            _STAND_IN.format(
                python=sys.executable, calls=str(self.calls), data=str(data)
            )
        )
        program.chmod(0o755)

    def test_the_second_server_pays_nothing_for_a_conversion(self) -> None:
        self._install_zstd()
        image = self.glance.add_image(ZSTD)
        for name in ("web-1", "web-2"):
            server = self.boot(name, image_id=image, networks="none")
            assert (self.tree(server) / "sbin/init").is_file()
        assert self.glance.downloads == [image]
        assert self.calls.read_text().splitlines() == ["call"]

    @pytest.mark.slow
    def test_the_image_says_which_distribution_it_is(self) -> None:
        image = self.glance.add_image(
            cloud_fixtures.rootfs_tarball(), os_distro="debian", os_version="12"
        )
        server = self.boot("web-1", image_id=image, networks="none")

        conf = self.node.conf(self.container(server))
        name = "OSTEMPLATE" if self.FAMILY == "4" else "DISTRIBUTION"
        assert conf[name] == "debian-12"

    @pytest.mark.slow
    def test_an_image_without_servers_goes_when_it_is_old(self) -> None:
        server = self.boot("web-1", networks="none")
        self._age_images()
        self.run_periodic("_run_image_cache_manager_pass")
        assert self._images() != []

        self.delete(server)
        # The pass before has told that there was a server.
        self.run_periodic("_run_image_cache_manager_pass")
        assert self._images() != []
        self._age_images()
        self.run_periodic("_run_image_cache_manager_pass")
        assert self._images() == []

    def _images(self) -> list[str]:
        found = self.node.template_dir.glob(f"{self.image_id}.*")
        return [path.name for path in found]

    def _age_images(self) -> None:
        for name in self._images():
            then = time.time() - 25 * 3600
            os.utime(self.node.template_dir / name, (then, then))


class TestImagesWithVzctl4(ImageTests, base.OpenVZFunctionalTest):
    """The family of OpenVZ 6 and stock kernels; and what does not reach a vzctl."""

    FAMILY = "4"

    @pytest.mark.slow
    def test_an_image_that_names_another_file_is_refused(self) -> None:
        header = struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 1024, 11, 16, 1 << 30)
        header += bytes(1024 - len(header)) + b"/etc/shadow" + bytes(1 << 16)
        image = self.glance.add_image(header, disk_format="qcow2")

        server = self.boot("web-1", image_id=image, status="ERROR")

        assert "backing file" in self.fault(server)
        self.delete(server)
        assert self.left_on(self.node) == []

    def test_an_image_for_a_larger_disk_is_refused_at_once(self) -> None:
        image = self.glance.add_image(cloud_fixtures.rootfs_tarball(), min_disk=2)
        with pytest.raises(api_client.OpenStackApiException, match="minimum") as caught:
            self.boot("web-1", image_id=image)
        assert caught.value.response.status_code == 400

    def test_an_image_is_cached_before_a_server_wants_it(self) -> None:
        aggregate = self.admin_api.post_aggregate({"aggregate": {"name": "openvz"}})
        self.admin_api.add_host_to_aggregate(aggregate["id"], self.HOSTS[0])
        for _ in range(2):
            self.admin_api.api_post(
                f"/os-aggregates/{aggregate['id']}/images",
                {"cache": [{"id": self.image_id}]},
            )
            self.wait_until("download", lambda: self.glance.downloads)
        self.boot("web-1", networks="none")

        assert self.glance.downloads == [self.image_id]


class TestImagesWithVzctl9(ImageTests, base.OpenVZFunctionalTest):
    """The family of OpenVZ and Virtuozzo 7 to 9."""

    FAMILY = "9"
