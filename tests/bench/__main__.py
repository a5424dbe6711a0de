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

"""``python -m tests.bench [--runs N]``: what the driver adds to the bare commands.

On a simulated node of each family it times, by turns and in one run:

* a container's life (create, configure, start, stop, delete) by the model, and by
  the vzctl commands alone that the model runs for it;
* a list of 500 containers by the model, and by vzlist alone.

It prints a table of medians and their ratios, which are the figures to look at: the
seconds are those of this machine and of the simulator. It decides nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from ovznovadriver.openvz import metadata, privsep, vzlist
from ovznovadriver.openvz import node as ovz_node
from ovznovadriver.openvz import vzctl as ovz_vzctl
from ovznovadriver.openvz.container import OvzContainer, OvzContainers
from tests.contract.place import Place
from tests.simulator.node import SimNode

CONTAINERS = 500

Work = Callable[[], object]


def _open(sim: SimNode) -> ovz_node.Node:
    place = Place(sim.root, (str(sim.bin_dir),), sim)
    return ovz_node.Node.open("bench", place.options(sim.root / "claims"))


def _configure(container: OvzContainer) -> None:
    container.set_vswap(512, 0)
    container.set_cpuunits(1000)
    container.set_hostname("bench")
    container.add_interfaces((ovz_vzctl.Veth("eth0", "fa:16:3e:00:00:01", "tapbench"),))


def _life(node: ovz_node.Node, template: str) -> None:
    container = OvzContainer.create(
        node,
        template,
        nova_id="1",
        name="bench",
        uuid=str(uuid.uuid4()),
        configure=_configure,
    )
    container.start(["tapbench"])
    container.stop()
    container.delete()


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def _commands_of(sim: SimNode, work: Work) -> list[list[str]]:
    """What work runs on the node."""
    sim.clear_commands()
    work()
    return [[str(sim.bin_dir / c.program), *c.argv[1:]] for c in sim.commands()]


def _fill(sim: SimNode, host: str) -> None:
    """Make the containers of one host, as vzctl leaves them."""
    for number in range(1001, 1001 + CONTAINERS):
        ctid = str(number if sim.family == "4" else uuid.uuid4())
        tag = metadata.Tag(host, f"instance-{number}", str(number), str(uuid.uuid4()))
        settings = {
            "VE_ROOT": f"{sim.root_dir}/$VEID",
            "VE_PRIVATE": f"{sim.private_dir}/$VEID",
            "OSTEMPLATE": "bench",
            "DESCRIPTION": metadata.encode(tag),
        }
        if sim.family == "9":
            settings |= {"VEID": ctid, "UUID": ctid}
        lines = "".join(f'{name}="{value}"\n' for name, value in settings.items())
        (sim.conf_dir / f"{ctid}.conf").write_text(lines)
        (sim.private_dir / ctid / "fs").mkdir(parents=True)


def _measure(runs: int, works: tuple[Work, Work]) -> tuple[float, float]:
    """Medians of the seconds that each takes; by turns, as a machine changes."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for work, taken in zip(works, seconds, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _measure_family(family: str, directory: Path, runs: int) -> None:
    sim = SimNode(directory / f"node{family}", "4" if family == "4" else "9")
    archive = sim.add_template("bench")
    node = _open(sim)
    template = str(archive) if node.family.template_paths else "bench"

    def live() -> None:
        _life(node, template)

    argvs = [argv for argv in _commands_of(sim, live) if argv[0].endswith("vzctl")]

    def bare_life() -> None:
        for argv in argvs:
            _run(argv)

    _print(f"a life, {len(argvs)} vzctl", family, *_measure(runs, (live, bare_life)))
    _fill(sim, node.host)
    assert len(OvzContainers.list(node)) == CONTAINERS
    bare = [str(sim.bin_dir / "vzlist"), *vzlist.ARGUMENTS]
    times = _measure(runs, (lambda: OvzContainers.list(node), lambda: _run(bare)))
    _print(f"a list of {CONTAINERS}", family, *times)


def _print(what: str, family: str, model: float, bare: float) -> None:
    print(
        f"{what:<20} {family:<7} {model * 1000:>9.0f} {bare * 1000:>9.0f}"
        f" {model / bare:>6.2f}",
        flush=True,
    )


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--runs", type=int, default=7, help="of each (default: 7)")
    runs = parser.parse_args().runs
    if os.geteuid() != 0:
        privsep.context.set_client_mode(False)
    print(f"{'':<20} {'family':<7} {'model ms':>9} {'bare ms':>9} {'ratio':>6}")
    with tempfile.TemporaryDirectory(prefix="ovz-bench-") as directory:
        for family in ("4", "9"):
            _measure_family(family, Path(directory), runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
