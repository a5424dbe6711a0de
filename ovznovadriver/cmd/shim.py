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

"""``ovz-shim``: let Nova find the driver where Nova is installed elsewhere.

Nova imports drivers from the one directory ``nova/virt`` that it was itself
imported from. The wheel puts its shim into ``nova/virt`` beside it, which is
right when both are in one site-packages directory. Otherwise (Nova is an
editable install, or belongs to the distribution) two things can go wrong, and
this command mends both:

- Nova's ``nova/virt`` has no shim: it is copied there.
- The wheel's ``nova/virt``, which has no ``nova/__init__.py``, hides a Nova that
  setuptools made importable by an import hook: Python asks the hook last. A
  ``.pth`` file that names the checkout puts it on the path, ahead of that.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import ovznovadriver

#: Where the driver is installed, and with it the shim as it was shipped.
SITE = Path(ovznovadriver.__file__).resolve().parents[1]
SHIM = Path("nova", "virt", "openvz", "__init__.py")
PTH = "ovznovadriver-nova.pth"


class ShimError(Exception):
    """The shim cannot be put in place; the message says what to do."""


def _nova_specs() -> list[ModuleSpec]:
    """What every finder says to ``import nova``; Python takes the first."""
    specs = (finder.find_spec("nova", None) for finder in sys.meta_path)
    return [spec for spec in specs if spec is not None]


def _nova_parent() -> Path:
    """The directory that holds the real Nova's package."""
    for spec in _nova_specs():
        if spec.origin is not None:
            return Path(spec.origin).resolve().parents[1]
    raise ShimError(f"There is no Nova for {sys.executable}: install it first.")


def _is_hidden() -> bool:
    specs = _nova_specs()
    return bool(specs) and specs[0].origin is None


def _target() -> Path | None:
    """Where the copy belongs; None when the wheel's own shim is there already."""
    parent = _nova_parent()
    if parent == SITE:
        return None
    target = parent / SHIM
    if target.exists() and "ovznovadriver" not in target.read_text():
        raise ShimError(f"{target} is not ours: it is left alone. Move it away.")
    return target


def install() -> str:
    """Put the shim in place. Doing it again changes nothing."""
    target = _target()
    if target is None:
        return "Nothing to do: Nova and the driver are installed side by side."
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(SITE / SHIM, target)
    done = f"{target} is in place."
    if _is_hidden():
        pth = SITE / PTH
        pth.write_text(f"{_nova_parent()}\n")
        done += f" {pth} puts that Nova ahead of {SITE / 'nova'}."
    return done


def remove() -> str:
    """Take away what :func:`install` made, and nothing else."""
    target = _target()
    if target is None:
        return "Nothing to do: pip removes the shim with the driver."
    if target.exists():
        target.unlink()
        shutil.rmtree(target.parent / "__pycache__", ignore_errors=True)
        target.parent.rmdir()
    (SITE / PTH).unlink(missing_ok=True)
    return f"{target} is gone."


def check() -> str:
    """Import the driver under the name that Nova uses."""
    try:
        module = importlib.import_module("nova.virt.openvz")
    except ImportError as error:
        raise ShimError(
            f"Nova cannot load openvz.OvzDriver: {error}. If it is the shim that is "
            "not found, run 'ovz-shim install'."
        ) from error
    return f"Nova loads openvz.OvzDriver from {module.__file__}."


def main() -> int:
    """Run the command line; the exit code is 1 when it could not be done."""
    parser = argparse.ArgumentParser(
        prog="ovz-shim",
        description="Let Nova find openvz.OvzDriver where Nova is an editable "
        "install, or is installed elsewhere.",
    )
    actions = {"install": install, "remove": remove, "check": check}
    parser.add_argument("action", choices=actions)
    try:
        print(actions[parser.parse_args().action]())
    except (ShimError, OSError) as error:
        print(f"ovz-shim: {error}", file=sys.stderr)
        return 1
    return 0
