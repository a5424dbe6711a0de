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

"""What the driver relies on, held against the simulator or against real tools.

* By default each test runs on a fresh simulated node of each family.
* With ``OVZ_CONTRACT=real`` it runs on the vzctl and vzlist on PATH, as root. What
  it makes there it removes, and what that machine cannot do it skips, with the
  reason. On a node where nothing else makes containers meanwhile. The simulator's
  own executables on PATH will do, too, with OVZ_SIM_ROOT and OVZ_SIM_FAMILY.
* With ``OVZ_PRIVILEGE`` it runs as an unprivileged user; see tests/privilege. By
  rootwrap, where each command starts three programs, the families take turns: what
  they differ in is behind the way to root, and both run every test by privsep.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import secrets
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from oslo_privsep import priv_context

from ovznovadriver import exception
from ovznovadriver.openvz import container, metadata, privsep
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import vzctl as ovz_vzctl
from tests.contract import rootfs
from tests.contract.place import WAY, Place, made_for_this_worker
from tests.simulator.node import SimNode

_MODE = os.environ.get("OVZ_CONTRACT", "simulator")
if _MODE not in ("simulator", "real"):
    raise pytest.UsageError(f"OVZ_CONTRACT={_MODE}: set it to real or simulator")
REAL = _MODE == "real"
HOST = "contract"


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """By rootwrap, let the families take turns."""
    if WAY != "rootwrap" or REAL:
        return
    families = itertools.cycle("49")
    turns: dict[tuple[str, ...], str] = {}
    left_out = []
    for item in items:
        of = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        if "place" not in of:
            continue
        family = of.pop("place")
        test = (item.nodeid.partition("[")[0], *map(repr, of.values()))
        if test not in turns:
            turns[test] = next(families)
        if turns[test] != family:
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _real() -> Place:
    programs = {name: shutil.which(name) for name in ("vzctl", "vzlist")}
    for name, path in programs.items():
        if path is None:
            pytest.skip(f"there is no {name} on PATH")
    simulated = os.environ.get("OVZ_SIM_ROOT")
    if simulated is None and WAY is None and os.geteuid() != 0:
        pytest.skip("vzctl must be run as root")
    directories = dict.fromkeys(os.path.dirname(str(p)) for p in programs.values())
    return Place(Path(simulated) if simulated else None, tuple(directories))


@pytest.fixture(params=["real"] if REAL else ["4", "9"])
def place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """Where the test runs."""
    if WAY is None:
        monkeypatch.setattr(privsep.context, "client_mode", False)
    else:
        priv_context.init(shlex.split(os.environ["OVZ_PRIVILEGE_HELPER"]))
    if request.param == "real":
        return _real()
    if WAY is not None:
        root = made_for_this_worker() / f"node{request.param}"
        return Place(root, (str(root / "bin"),))
    sim = SimNode(tmp_path / "node", request.param)
    return Place(sim.root, (str(sim.bin_dir),), sim)


@pytest.fixture
def sim(place: Place) -> SimNode:
    """A simulated node; skips the test elsewhere."""
    if place.sim is None:
        pytest.skip("only a simulated node of one's own has faults on order")
    return place.sim


@dataclass
class Bench:
    """A node, and what a test makes on it, so that all of it can be removed.

    :ivar node: the driver's node
    :ivar place: where that is
    :ivar template: what `create` makes a container from
    :ivar blind: why vzlist cannot see containers there; None where it can
    """

    node: ovz_node.Node
    place: Place
    template: str
    blind: str | None
    _made: list[str] = field(default_factory=list)

    @property
    def vzctl(self) -> ovz_vzctl.Vzctl:
        return self.node.vzctl

    def ctid(self) -> str:
        """A CTID that nothing bears yet."""
        if self.node.family.uuid_ctids:
            return self.uuid()
        number = str(1_000_000 + secrets.randbelow(2_000_000_000))
        assert not self.conf_path(number).exists()
        self._made.append(number)
        return number

    def uuid(self) -> str:
        """A UUID for an instance; where CTIDs are UUIDs, it may become one."""
        made = str(uuid.uuid4())
        if self.node.family.uuid_ctids:
            self._made.append(made)
        return made

    def create(self, config: str | None = None) -> str:
        """Make a container with vzctl alone; its CTID."""
        ctid = self.ctid()
        self.vzctl.create(ctid, self.template, config=config, layout="simfs")
        return ctid

    def container(
        self,
        uuid: str | None = None,
        configure: Callable[[container.OvzContainer], None] | None = None,
    ) -> container.OvzContainer:
        """Make a container as the driver does."""
        return container.OvzContainer.create(
            self.node,
            self.template,
            nova_id="7",
            name="instance-00000007",
            uuid=uuid or self.uuid(),
            configure=configure,
        )

    def conf_path(self, ctid: str) -> Path:
        """A container's configuration file."""
        return Path(self.node.paths.conf, f"{ctid}.conf")

    def conf(self, ctid: str) -> dict[str, str]:
        """What a container's configuration file says."""
        return ovz_node.read_settings(str(self.conf_path(ctid)))

    def read(self, ctid: str, path: str) -> bytes | None:
        """A file of a container."""
        content: bytes | None = self.node.executor.call(
            "read_file",
            base=self.node.paths.private,
            ctid=ctid,
            sub=self.node.family.tree_dir,
            path=path,
            limit=65536,
        )
        return content

    def remains(self, ctid: str) -> list[str]:
        """What there is of a container, or of one that was destroyed."""
        paths = self.node.paths
        places = [
            self.conf_path(ctid),
            Path(paths.locks, f"{ctid}.lck"),
            Path(paths.dump, f"Dump.{ctid}"),
        ]
        found = [str(path) for path in places if os.path.lexists(path)]
        if ctid in container.OvzContainers.list_vz_artifacts(self.node):
            found.append("an artifact")
        return found

    def remove_all(self) -> None:
        """Remove every container that the test made."""
        failures = []
        for ctid in dict.fromkeys([*self._made, *map(str, self.node.claims.numbers())]):
            try:
                self._remove(ctid)
            except exception.OvzError as error:
                failures.append(str(error))
        assert failures == []

    def _remove(self, ctid: str) -> None:
        if os.path.lexists(self.conf_path(ctid)):
            # One that does not stop is in the way of what comes next, which says so.
            with contextlib.suppress(exception.CommandFailed):
                self.vzctl.stop(ctid, fast=True)
        container.OvzContainer(self.node, ctid).delete()


def _claims(path: Path) -> Path:
    path.mkdir(mode=0o755, exist_ok=True)
    return path


def _open(place: Place, lock_dir: Path) -> tuple[ovz_node.Node, str | None]:
    # It also lays out a simulated node that is not there yet.
    answer = place.executor().execute("vzctl", "--version", run_as_root=True)
    options = place.options(lock_dir)
    try:
        return ovz_node.Node.open(HOST, options), None
    except exception.ConfigurationError as error:
        if place.root is not None:
            raise
        if not isinstance(error.__cause__, exception.MalformedOutput):
            pytest.skip(f"the driver does not work on this machine: {error}")
        blind = str(error)
    settings = ovz_node.read_settings(options.vz_conf)
    version = ovz_vzctl.parse_version(answer)
    node = ovz_node.Node(HOST, options, settings, place.executor(5), version)
    return node, blind


#: A node that this process alone uses is opened once: to ask what it is takes most of
#: a test's time by rootwrap.
_open_once = functools.cache(_open)


@contextlib.contextmanager
def _template(node: ovz_node.Node, boots: bool) -> Iterator[str]:
    """An image in the template cache, as `create` takes it."""
    name = f"contract-{secrets.token_hex(4)}"
    path = Path(node.paths.templates, f"{name}.tar.gz")
    prefix = f"{node.family.tree_dir}/" if node.family.tree_dir else ""
    path.write_bytes(rootfs.archive(prefix, boots))
    try:
        yield str(path) if node.family.template_paths else name
    finally:
        path.unlink()


@pytest.fixture
def alone(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No other process of this test run uses the node, where there is only one."""
    if place.sim is not None or not REAL:
        yield
        return
    # The directory above that of a single process.
    lock = tmp_path_factory.getbasetemp().parent / "contract.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def bench(
    place: Place, alone: None, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """A node on which containers can be made and configured."""
    if REAL or place.sim is not None:
        node, blind = _open(place, _claims(tmp_path / "claims"))
    else:
        claims = tmp_path_factory.getbasetemp() / f"claims-{place.path('/').name}"
        node, blind = _open_once(place, _claims(claims))
        node.look.forget()
    with _template(node, boots=place.root is None) as template:
        made = Bench(node, place, template, blind)
        try:
            yield made
        finally:
            made.remove_all()


@pytest.fixture
def seeing(bench: Bench) -> Bench:
    """A node on which vzlist can see the containers."""
    if bench.blind:
        pytest.skip(bench.blind)
    return bench


#: Why this machine starts no container; "" when it does. Asked once.
_NO_START: list[str] = []


@pytest.fixture
def starting(bench: Bench) -> Bench:
    """A node on which containers can be started."""
    if bench.place.root is None:
        if not _NO_START:
            _NO_START.append(_try_start(bench))
        if _NO_START[0]:
            pytest.skip(_NO_START[0])
    return bench


def _try_start(bench: Bench) -> str:
    found = rootfs.busybox()
    if isinstance(found, str):
        return found
    ctid = bench.create()
    try:
        bench.vzctl.start(ctid)
        bench.vzctl.stop(ctid, fast=True)
    except exception.CommandFailed as error:
        return f"this machine does not start and stop a container: {error}"
    return ""


@pytest.fixture
def living(starting: Bench, seeing: Bench) -> Bench:
    """A node on which containers can be started and seen."""
    assert starting is seeing
    return seeing


@pytest.fixture
def sample(bench: Bench) -> str:
    """The name of a sample configuration that is not the default one."""
    found = sorted(Path(bench.node.paths.conf).glob("ve-vswap*512*.conf-sample"))
    if not found:
        pytest.skip("there is no sample for 512 MB")
    return found[0].name.removeprefix("ve-").removesuffix(".conf-sample")


@pytest.fixture
def tag() -> metadata.Tag:
    """A tag made of whatever users can name a server and a host."""
    return metadata.Tag(
        host="höst.example",
        name='a "name"\nCPUUNITS="777" $(id) `id` \\ \'',
        nova_id="42",
        uuid=str(uuid.uuid4()),
    )
