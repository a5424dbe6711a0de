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

"""Neutron and Glance on the disk: they outlive the process that Nova is in."""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.functional import fixtures as cloud_fixtures


def _kept(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that changes what is known: it is on the disk when it returns."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.guard:
            try:
                return method(self, *args, **kwargs)
            finally:
                _write(self.file, self.known())

    return wrapper


def _write(path: Path, value: Any) -> None:
    # A process can be killed at any instant.
    fresh = path.with_suffix(".new")
    fresh.write_bytes(pickle.dumps(value))
    os.replace(fresh, path)


def _read(path: Path) -> Any:
    # It is this program's own.
    return pickle.loads(path.read_bytes())  # noqa: S301


class Neutron(cloud_fixtures.Neutron):
    """Ports and their bindings are in a file."""

    def __init__(self, test: Any) -> None:
        super().__init__(test)
        self.guard = threading.RLock()
        self.file = test.world.path / "neutron"
        if self.file.exists():
            self._ports, bindings, number = _read(self.file)
            self._port_bindings.update(bindings)
            self._numbers = itertools.count(number)

    def known(self) -> Any:
        """All that is to be kept."""
        number = next(self._numbers)
        self._numbers = itertools.count(number)
        return self._ports, dict(self._port_bindings), number

    create_port = _kept(cloud_fixtures.Neutron.create_port)
    update_port = _kept(cloud_fixtures.Neutron.update_port)
    delete_port = _kept(cloud_fixtures.Neutron.delete_port)
    create_port_binding = _kept(cloud_fixtures.Neutron.create_port_binding)
    delete_port_binding = _kept(cloud_fixtures.Neutron.delete_port_binding)
    activate_port_binding = _kept(cloud_fixtures.Neutron.activate_port_binding)
    set_status = _kept(cloud_fixtures.Neutron.set_status)


class Glance(cloud_fixtures.Glance):
    """Images and their content are in a file."""

    def __init__(self, test: Any) -> None:
        super().__init__(test)
        self.guard = threading.RLock()
        self.file = test.world.path / "glance"
        self._imagedata: dict[str, bytes] = {}

    def setUp(self) -> None:
        found = _read(self.file) if self.file.exists() else ({}, {})
        super().setUp()
        self.images.update(found[0])
        self._imagedata.update(found[1])
        _write(self.file, self.known())

    def known(self) -> Any:
        """All that is to be kept."""
        return self.images, self._imagedata

    create = _kept(cloud_fixtures.Glance.create)
    update = _kept(cloud_fixtures.Glance.update)
    delete = _kept(cloud_fixtures.Glance.delete)
