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

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from ovznovadriver.cmd import shim

TEXT = "from ovznovadriver.driver import OvzDriver\n"


class Hook:
    """Finds Nova in a checkout, as setuptools' import hook does."""

    def __init__(self, checkout: Path) -> None:
        self.init = checkout / "nova" / "__init__.py"

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        return spec_from_file_location(fullname, self.init)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the driver lies; at first the only directory that Python knows."""
    place = tmp_path / "site-packages"
    (place / shim.SHIM).parent.mkdir(parents=True)
    (place / shim.SHIM).write_text(TEXT)
    monkeypatch.setattr(shim, "SITE", place)
    monkeypatch.setattr(sys, "path", [str(place)])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    return place


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return _make_nova(tmp_path / "checkout")


def _make_nova(at: Path) -> Path:
    (at / "nova" / "virt").mkdir(parents=True, exist_ok=True)
    (at / "nova" / "__init__.py").touch()
    (at / "nova" / "virt" / "__init__.py").touch()
    return at


def _act(action: str, monkeypatch: pytest.MonkeyPatch) -> int:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["ovz-shim", action])
        return shim.main()


def test_without_nova_it_says_to_install_nova(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _act("install", monkeypatch) == 1
    assert "install it first" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["install", "remove"])
def test_beside_nova_nothing_is_touched(
    site: Path, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make_nova(site)
    before = sorted(site.rglob("*"))
    assert _act(action, monkeypatch) == 0
    assert sorted(site.rglob("*")) == before


def test_nova_on_another_path_gets_a_copy_and_no_pth(
    site: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.append(str(checkout))
    assert _act("install", monkeypatch) == 0
    assert (checkout / shim.SHIM).read_text() == TEXT
    assert not (site / shim.PTH).exists()


def test_nova_behind_a_hook_gets_a_copy_and_a_pth(
    site: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [PathFinder, Hook(checkout)])
    assert _act("install", monkeypatch) == 0
    assert (checkout / shim.SHIM).read_text() == TEXT
    assert (site / shim.PTH).read_text() == f"{checkout}\n"


def test_remove_undoes_install(
    site: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [PathFinder, Hook(checkout)])
    before = sorted(site.parent.rglob("*"))
    assert _act("install", monkeypatch) == 0
    (checkout / shim.SHIM).with_name("__pycache__").mkdir()
    assert _act("remove", monkeypatch) == 0
    assert sorted(site.parent.rglob("*")) == before


@pytest.mark.parametrize("action", ["install", "remove"])
def test_a_driver_that_is_not_ours_is_left_alone(
    site: Path,
    checkout: Path,
    action: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sys.path.append(str(checkout))
    (checkout / shim.SHIM).parent.mkdir()
    (checkout / shim.SHIM).write_text("class OvzDriver: ...\n")
    assert _act(action, monkeypatch) == 1
    assert "not ours" in capsys.readouterr().err
    assert (checkout / shim.SHIM).read_text() == "class OvzDriver: ...\n"


def test_an_older_copy_is_replaced(
    site: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.append(str(checkout))
    (checkout / shim.SHIM).parent.mkdir()
    (checkout / shim.SHIM).write_text("from ovznovadriver import OvzDriver\n")
    assert _act("install", monkeypatch) == 0
    assert (checkout / shim.SHIM).read_text() == TEXT


def test_check_names_the_file_that_nova_loads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("nova.virt.openvz")
    module.__file__ = "/somewhere/nova/virt/openvz/__init__.py"
    monkeypatch.setitem(sys.modules, "nova.virt.openvz", module)
    assert _act("check", monkeypatch) == 0
    assert "/somewhere/nova/virt/openvz" in capsys.readouterr().out


def test_check_fails_when_nova_cannot_load_the_driver(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # None in sys.modules makes the import fail.
    monkeypatch.setitem(sys.modules, "nova.virt.openvz", None)
    assert _act("check", monkeypatch) == 1
    assert "ovz-shim install" in capsys.readouterr().err
