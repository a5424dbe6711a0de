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

"""The wheel, and Nova finding the driver that was installed from it."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

# Wheels are built, and Nova is imported by new interpreters, on busy machines.
pytestmark = pytest.mark.timeout(300)

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "ovznovadriver"
SHIM = "nova/virt/openvz/__init__.py"

LOAD = """
import nova
from nova.virt import driver, virtapi
loaded = driver.load_compute_driver(virtapi.VirtAPI(), "openvz.OvzDriver")
print(nova.__file__, type(loaded).__module__)
"""


def _run(*cmd: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command that must succeed; its standard output."""
    done = _try(*cmd, cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _try(
    *cmd: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PBR_VERSION")
    }
    return subprocess.run(
        [str(part) for part in cmd],
        cwd=cwd,
        env=clean | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _pip_wheel(source: Path, into: Path) -> tuple[object, ...]:
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-w", into)
    return (sys.executable, "-m", "pip", "wheel", *options, source)


def _copy_tree(to: Path) -> Path:
    """The project as a clone would have it, without its history."""
    made = ("__pycache__", "*.egg-info", "build", "dist", "AUTHORS", "ChangeLog")
    shutil.copytree(REPO, to, ignore=shutil.ignore_patterns(".*", *made))
    return to


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of two commits and no tags."""
    tree = _copy_tree(tmp_path_factory.mktemp("source") / "clone")
    who = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
    _run("git", "init", "-q", cwd=tree)
    _run("git", "add", "-A", cwd=tree)
    for message in ("First", "Second"):
        _run("git", *who, "commit", "-q", "--allow-empty", "-m", message, cwd=tree)
    return tree


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("wheel")
    _run(*_pip_wheel(clone, into), cwd=into)
    (made,) = into.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    return Parser().parsestr(_member(wheel, "METADATA"))


def _member(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
        return archive.read(path).decode()


def test_wheel_holds_package_shim_and_data_files_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    expected = {p.relative_to(REPO).as_posix() for p in PACKAGE.rglob("*.py")}
    data = wheel.name.removesuffix("-py3-none-any.whl") + ".data/data/"
    shipped = {
        f"{data}etc/nova/rootwrap.d/openvz.filters",
        f"{data}etc/systemd/ovz-console.service",
    }
    assert names == expected | {SHIM} | shipped


def test_entry_points(wheel: Path) -> None:
    points = configparser.ConfigParser()
    points.read_string(_member(wheel, "entry_points.txt"))
    assert dict(points["console_scripts"]) == {
        "ovz-console": "ovznovadriver.cmd.console:main",
        "ovz-net-hook": "ovznovadriver.cmd.net_hook:main",
        "ovz-privileged": "ovznovadriver.cmd.privileged:main",
        "ovz-manage": "ovznovadriver.cmd.manage:main",
        "ovz-receive": "ovznovadriver.cmd.receive:main",
        "ovz-shim": "ovznovadriver.cmd.shim:main",
    }
    assert dict(points["oslo.config.opts"]) == {
        "ovznovadriver": "ovznovadriver.conf:list_opts"
    }


def test_every_entry_point_exists(wheel: Path) -> None:
    points = configparser.ConfigParser()
    points.read_string(_member(wheel, "entry_points.txt"))
    for section in points.sections():
        for name, value in points[section].items():
            point = importlib.metadata.EntryPoint(name, value, section)
            assert callable(point.load())


def test_metadata_asks_for_what_requirements_txt_says(metadata: Message) -> None:
    asked = {str(Requirement(r)) for r in metadata.get_all("Requires-Dist", [])}
    assert asked == {str(r) for r in _requirements()}
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License"] == "Apache-2.0"


def test_clone_without_tags_has_a_version(metadata: Message) -> None:
    assert metadata["Version"] == "0.0.1.dev1"


def test_sdist_needs_no_git(clone: Path, tmp_path: Path) -> None:
    build = f"import pbr.build; pbr.build.build_sdist({str(tmp_path)!r})"
    _run(sys.executable, "-c", build, cwd=clone)
    (sdist,) = tmp_path.glob("*.tar.gz")
    _run(*_pip_wheel(sdist, tmp_path), cwd=tmp_path)
    assert list(tmp_path.glob("ovznovadriver-0.0.1.dev1-*.whl"))


def test_tree_that_is_neither_clone_nor_sdist_says_what_is_missing(
    tmp_path: Path,
) -> None:
    done = _try(*_pip_wheel(_copy_tree(tmp_path / "tree"), tmp_path), cwd=tmp_path)
    assert done.returncode != 0
    assert "requires either an sdist tarball, or access to an upstream git" in (
        done.stdout + done.stderr
    )


# What is imported is what is asked for


def _requirements() -> list[Requirement]:
    lines = (REPO / "requirements.txt").read_text().splitlines()
    return [Requirement(text) for line in lines if (text := line.partition("#")[0])]


def _imported_top_levels() -> Iterator[str]:
    for path in [*PACKAGE.rglob("*.py"), REPO / SHIM]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield str(node.module).partition(".")[0]


def test_requirements_are_what_the_package_imports() -> None:
    imported = set(_imported_top_levels()) - sys.stdlib_module_names
    imported.remove("ovznovadriver")
    providers = importlib.metadata.packages_distributions()
    # Nova's own distribution provides `nova`; ours puts the shim there.
    providers["nova"] = ["nova"]
    names = {providers[module][0].lower().replace("_", "-") for module in imported}
    assert names == {r.name.lower() for r in _requirements()}


def test_every_requirement_has_one_lower_bound_and_no_upper() -> None:
    for requirement in _requirements():
        assert [s.operator for s in requirement.specifier] == [">="], requirement


# Nova finds the driver


class Environment:
    """A virtual environment that has all that Nova needs, but not Nova."""

    def __init__(self, base: Path) -> None:
        self.base = base
        venv.create(base / "venv", with_pip=False, symlinks=True)
        self.bin = base / "venv" / "bin"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = base / "venv" / "lib" / version / "site-packages"
        self._share_dependencies(base / "dependencies")

    def _share_dependencies(self, links: Path) -> None:
        links.mkdir()
        left_out = re.compile(r"(nova|ovznovadriver)(-.*)?|__editable__.*")
        for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for entry in Path(site).iterdir():
                if not left_out.fullmatch(entry.name):
                    (links / entry.name).symlink_to(entry)
        (self.site / "dependencies.pth").write_text(f"{links}\n")

    def pip(self, *args: object) -> None:
        pip = (sys.executable, "-m", "pip", "--python", self.bin / "python")
        _run(*pip, *args, cwd=self.base)

    def pip_install(self, *args: object) -> None:
        options = ("--no-deps", "--no-index", "--no-build-isolation")
        self.pip("install", *options, *args)

    def run(self, *cmd: object) -> subprocess.CompletedProcess[str]:
        native = {"OS_NOVA_DISABLE_EVENTLET_PATCHING": "true"}
        return _try(self.bin / str(cmd[0]), *cmd[1:], cwd=self.base, env=native)

    def loaded_driver(self) -> list[str]:
        """The file of Nova and the module of the driver that Nova loads."""
        done = self.run("python", "-c", LOAD)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split()


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def _copy_nova(to: Path) -> Path:
    spec = importlib.util.find_spec("nova")
    assert spec is not None
    assert spec.origin is not None
    # Nova's tests are large and not needed; an installed driver is not Nova's.
    ignore = shutil.ignore_patterns("tests", "openvz")
    shutil.copytree(Path(spec.origin).parent, to / "nova", ignore=ignore)
    return to / "nova"


def _files(*trees: Path) -> set[Path]:
    files = {p for tree in trees for p in tree.rglob("*") if p.is_file()}
    return {p for p in files if "__pycache__" not in p.parts}


def test_wheel_beside_nova(environment: Environment, wheel: Path) -> None:
    nova = _copy_nova(environment.site)
    environment.pip_install(wheel)

    assert environment.loaded_driver() == [
        str(nova / "__init__.py"),
        "ovznovadriver.driver",
    ]
    before = _files(environment.site)
    for action in ("check", "install", "remove"):
        done = environment.run("ovz-shim", action)
        assert done.returncode == 0, done.stderr
    assert _files(environment.site) == before


@pytest.mark.parametrize(
    "mode", ["lenient", pytest.param("compat", marks=pytest.mark.slow)]
)
def test_editable_nova(environment: Environment, wheel: Path, mode: str) -> None:
    """Setuptools makes a checkout importable by a hook, or (compat) by a path."""
    checkout = environment.base / "checkout"
    nova = _copy_nova(checkout)
    (checkout / "pyproject.toml").write_text(
        '[project]\nname = "nova"\nversion = "34.0.0"\n'
        '[build-system]\nrequires = ["setuptools"]\n'
        'build-backend = "setuptools.build_meta"\n'
        '[tool.setuptools.packages.find]\ninclude = ["nova*"]\n'
    )
    settings = f"--config-settings=editable_mode={mode}"
    environment.pip_install(settings, "-e", checkout)
    before = _files(checkout, environment.site)
    environment.pip_install(wheel)
    with_wheel = _files(checkout, environment.site)
    # Beside a hook the wheel hides Nova or not, by the age of setuptools.
    hidden = environment.run("python", "-c", "import nova.virt.driver").returncode
    if hidden or mode == "compat":
        assert mode == ("lenient" if hidden else "compat")
        assert environment.run("ovz-shim", "check").returncode == 1

    for _ in range(2):
        done = environment.run("ovz-shim", "install")
        assert done.returncode == 0, done.stderr
        assert environment.loaded_driver() == [
            str(nova / "__init__.py"),
            "ovznovadriver.driver",
        ]
    assert environment.run("ovz-shim", "check").returncode == 0

    for _ in range(2):
        assert environment.run("ovz-shim", "remove").returncode == 0
    assert _files(checkout, environment.site) == with_wheel
    environment.pip("uninstall", "-y", "ovznovadriver")
    assert _files(checkout, environment.site) == before
