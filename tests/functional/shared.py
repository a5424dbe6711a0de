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

"""One cloud for many tests: to set one up takes longer than to boot a server."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from pathlib import Path
from typing import Any

import testtools
from nova.tests import fixtures as nova_fixtures
from oslo_config import cfg

from tests.functional import base
from tests.functional import fixtures as cloud_fixtures

#: Where the simulator notes what was asked: this may grow.
CHANGING = ("sim/log.jsonl", "sim/stdin/")


class _Cloud(base.OpenVZFunctionalTest):
    """A cloud that is set up without being a test."""

    def runTest(self) -> None:
        """There is nothing to test."""

    def end(self) -> None:
        """What has been set up is taken down, in the opposite order."""
        # Some of it sets warning filters, which are those of the running test.
        with warnings.catch_warnings(), contextlib.ExitStack() as undo:
            for function, args, kwargs in self._cleanups:
                undo.callback(function, *args, **kwargs)


class _Current:
    """The one cloud that there is: Nova's fixtures change what is global."""

    def __init__(self) -> None:
        self._cloud: _Cloud | None = None

    def get(self, family: str) -> _Cloud:
        """The cloud of a family; it is set up where it is not there."""
        self.keep_for(family)
        if self._cloud is None:
            cloud = _Cloud()
            cloud.FAMILY = family
            try:
                cloud.setUp()
            except BaseException:
                cloud.end()
                raise
            self._cloud = cloud
        return self._cloud

    def keep_for(self, family: str | None) -> None:
        """End the cloud, unless it is one of that family."""
        cloud = self._cloud
        if cloud is not None and family != cloud.FAMILY:
            self._cloud = None
            cloud.end()


CURRENT = _Current()


class SharedCloudTest(base.OpenVZFunctionalTest):
    """A test on a cloud with one compute host, on which other tests have been.

    It finds it as if it were new: no server, no command, no image on the node. It
    hands it back so: its servers are deleted by the API, and then nothing may be left
    of them. A cloud on which a test has failed is not used again.

    Such a test restarts no service; `flags` are those that are read while services
    run. It undoes by `addCleanup` whatever else it changes.
    """

    def setUp(self) -> None:
        # Nova's own set-up is the cloud's.
        testtools.TestCase.setUp(self)
        # Before anything can fail, so that it is the last cleanup.
        self.addCleanup(self._hand_back)
        self.addOnException(self._fail)
        self._failed = False
        cloud = CURRENT.get(self.FAMILY)
        for name, value in vars(cloud).items():
            vars(self).setdefault(name, value)
        self.stdlog = self.useFixture(nova_fixtures.StandardLogging())
        self.image_id = self.glance.add_image(cloud_fixtures.rootfs_tarball())
        self.node.clear_commands()
        self.ovs.calls.clear()
        self.glance.downloads.clear()
        self.notifier.reset()
        # Its ports are gone, so their addresses are free.
        self.neutron._numbers = itertools.count(10)
        self._before = self._files()

    def addCleanup(self, function: Any, *args: Any, **kwargs: Any) -> None:
        """As oslotest's, which also ends all mock patches: the cloud's among them."""
        testtools.TestCase.addCleanup(self, function, *args, **kwargs)

    def flags(self, **options: Any) -> None:
        """Set options until the end of the test."""
        group = options.pop("group", None)
        section = cfg.CONF[group] if group else cfg.CONF
        for name, value in options.items():
            self.addCleanup(cfg.CONF.set_override, name, section[name], group)
            cfg.CONF.set_override(name, value, group)

    def start_compute(self, host: str) -> Any:
        """Refuse: the others would have no compute service at its end."""
        raise AssertionError("this needs a cloud of its own: OpenVZFunctionalTest")

    def _create_flavor(self, *args: Any, **kwargs: Any) -> str:
        flavor_id: str = super()._create_flavor(*args, **kwargs)
        self.addCleanup(self._delete_flavor, flavor_id)
        return flavor_id

    def _fail(self, _exception: Any) -> None:
        self._failed = True

    def _hand_back(self) -> None:
        """Leave the cloud as it was found, or end it."""
        try:
            if not self._failed:
                self._clean_up()
        except BaseException:
            self._failed = True
            raise
        finally:
            if self._failed:
                CURRENT.keep_for(None)

    def _clean_up(self) -> None:
        self.node.clear_faults()
        self.ovs.failure = None
        self.ovs.agent_works = True
        self.api.microversion = "latest"
        servers = self.api.get_servers()
        for server in servers:
            self.api.delete_server(server["id"])
        for server in servers:
            self._wait_until_deleted(server)
        left = [*self.left_on(self.node), *self.neutron._ports]
        assert not left, f"left of the servers: {left}"
        (provider,) = self._get_all_providers()
        self.wait_until("freeing", lambda: self._is_free(provider["uuid"]))
        for path in filter(Path.is_file, self.node.template_dir.rglob("*")):
            path.unlink()
        changed = {path for path, _ in self._before.items() ^ self._files().items()}
        assert not changed, f"changed on the node: {sorted(changed)}"

    def _is_free(self, provider: str) -> bool:
        return not any(self._get_provider_usages(provider).values())

    def _files(self) -> dict[str, bytes]:
        """What there is to read on the node, but for what each command changes.

        That leaves out what is empty: directories, and files that are locks.
        """
        root = self.node.root
        found = {
            str(path.relative_to(root)): path.read_bytes()
            for path in filter(Path.is_file, root.rglob("*"))
        }
        return {
            name: content
            for name, content in found.items()
            if content and not name.startswith(CHANGING)
        }
