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

"""What a nova-compute that was killed leaves on its node, and how it is found.

Each of these functions is part of a rule of :data:`recovery.RULES`, which says what it
looks for.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from ovznovadriver import exception
from ovznovadriver.compute import emptytemplate, imagecache, servers, snapshot
from ovznovadriver.compute.scene import DOWN, Finding, Scene
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import procfs, transfer, vzlist

_SCRATCH = re.compile(r"ovz-([0-9]+)-.*")
#: What a claim says of a container that need not be here.
_ON_ITS_WAY = (ovz_ctid.ARRIVING, ovz_ctid.HANDED)


# -- containers -----------------------------------------------------------------------


def busy(scene: Scene) -> Iterator[Finding]:
    for ctid, pid in scene.seen["locks"].items():
        if pid and scene.is_ours(ctid):
            yield scene.finding(
                "busy",
                ctid,
                f"vzctl (process {pid}) still works on it: left alone",
            )


def swaps(scene: Scene) -> Iterator[Finding]:
    for ctid, swap in scene.seen["swaps"].items():
        if not swap or (not isinstance(swap, str) and swap["whole"]):
            continue
        # Also where nothing is done about it: the server's own files may be in there.
        scene.unsettled |= _aside(scene, ctid, swap)
        if not scene.is_ours(ctid) or scene.holder(ctid):
            continue
        if isinstance(swap, str):
            yield Finding("swap", scene.name(ctid), f"its rescue is not known: {swap}")
        else:
            yield scene.finding(
                "swap",
                ctid,
                "its rescue, or the end of it, was interrupted: it gets its own files"
                " back",
                functools.partial(_settle, scene, ctid, swap["tree"]),
            )


def _aside(scene: Scene, ctid: str, swap: dict[str, Any] | str) -> set[str]:
    """The CTIDs under which a container's own tree may stand."""
    if not isinstance(swap, str):
        return {swap["tree"]}
    uuid = scene.uuid(ctid)
    return set(scene.node.claims.find(servers.rescuer(uuid))) if uuid else set()


def _settle(scene: Scene, ctid: str, tree: str) -> None:
    node = scene.node
    node.executor.call(
        "settle_swap",
        dirs={"private": node.paths.private, "conf": node.paths.conf},
        ctid=ctid,
        sub=node.family.tree_dir,
    )
    scene.unsettled.discard(tree)


def half_made(scene: Scene) -> Iterator[Finding]:
    for ctid in sorted(scene.abandoned):
        if scene.is_half_made(ctid) and not scene.holder(ctid):
            yield scene.finding(
                "half-made",
                ctid,
                "it was being made, and bears no tag: removed",
                functools.partial(_remove, scene, ctid),
            )


def half_removed(scene: Scene) -> Iterator[Finding]:
    for ctid in sorted(scene.abandoned):
        if (
            scene.is_half_removed(ctid)
            and not scene.is_half_made(ctid)
            and not scene.holder(ctid)
        ):
            yield scene.finding(
                "half-removed",
                ctid,
                "it was being removed: what is left of it goes",
                functools.partial(_remove, scene, ctid),
            )


def _remove(scene: Scene, ctid: str) -> None:
    if ctid in scene.unsettled:
        raise exception.OvzError("the files of a server that is rescued may be in it")
    if not scene.node.claims.is_abandoned(ctid):
        raise exception.OvzError("its CTID has changed hands meanwhile")
    scene.container(ctid).delete()


def claims(scene: Scene) -> Iterator[Finding]:
    for ctid in sorted(scene.abandoned):
        if not scene.is_there(ctid) and not scene.has(ctid, *_ON_ITS_WAY):
            yield Finding(
                "claim",
                f"CTID {ctid}",
                f"it was claimed for server {scene.uuid(ctid)} by a process that is"
                " gone, and nothing bears it: given back",
                functools.partial(_give_back, scene, ctid),
            )


def _give_back(scene: Scene, ctid: str) -> None:
    if scene.node.claims.is_abandoned(ctid):
        scene.node.claims.release(ctid)


def claim_parts(scene: Scene) -> Iterator[Finding]:
    for name in scene.node.claims.parts():
        yield Finding(
            "claim-part",
            os.path.join(scene.node.options.lock_dir, name),
            "a CTID was being claimed, or given back: removed",
            functools.partial(scene.node.claims.remove_part, name),
        )


def mounts(scene: Scene) -> Iterator[Finding]:
    for ctid, info in scene.infos.items():
        mounted = info.state is vzlist.State.MOUNTED
        if mounted and scene.is_tagged(ctid) and not scene.holder(ctid):
            yield scene.finding(
                "mount",
                ctid,
                "its files are mounted, and it does not run: unmounted",
                scene.container(ctid).umount,
            )


def interfaces(scene: Scene) -> Iterator[Finding]:
    for ctid, kinds in scene.seen["files"].items():
        info = scene.infos.get(ctid)
        if (
            "nics" not in kinds
            or not scene.is_tagged(ctid)
            or scene.holder(ctid)
            or info is None
            or info.state not in DOWN
        ):
            continue
        wiring = scene.container(ctid).wiring
        try:
            names = wiring.left()
        except exception.OvzError as error:
            yield scene.finding(
                "interface",
                ctid,
                f"what its interfaces are is not known: {error}; its next start says"
                " it anew",
            )
            continue
        if names:
            yield scene.finding(
                "interface",
                ctid,
                f"it does not run, and the host has {', '.join(names)}: removed",
                wiring.drop_pairs,
            )


def locks(scene: Scene) -> Iterator[Finding]:
    for ctid, pid in scene.seen["locks"].items():
        if not pid and scene.is_tagged(ctid):
            yield scene.finding(
                "lock",
                ctid,
                "a vzctl that is gone has left its lock: removed",
                functools.partial(_unlock, scene, ctid),
            )


def _unlock(scene: Scene, ctid: str) -> None:
    failures = scene.node.executor.call(
        "remove_container", dirs={"lock": scene.node.paths.locks}, ctid=ctid
    )
    if failures:
        raise exception.CleanupFailed(f"the lock of container {ctid}", failures)


def renamed(scene: Scene) -> Iterator[Finding]:
    for ctid, tag in scene.tags.items():
        conf = scene.seen["confs"].get(ctid)
        if scene.node.family.uuid_ctids or not scene.is_tagged(ctid) or conf is None:
            continue
        # The second name is that of one that has gone to another host.
        if conf["name"] not in (tag.uuid, f"{tag.uuid}-migrated"):
            yield scene.finding(
                "renamed",
                ctid,
                f"its name is {conf['name'] or 'not set'}: it gets the server's UUID",
                scene.container(ctid).save_ovz_metadata,
            )


def untagged(scene: Scene) -> Iterator[Finding]:
    for ctid in sorted(scene.abandoned):
        if ctid in scene.infos and ctid not in scene.tags:
            if scene.is_half_made(ctid):
                continue
            yield scene.finding(
                "untagged",
                ctid,
                "somebody has changed its description, so it is not managed any more:"
                " 'ovz-manage adopt' tags it again",
            )


def hidden(scene: Scene) -> Iterator[Finding]:
    for ctid in sorted(scene.abandoned):
        if (
            ctid not in scene.infos
            and scene.is_there(ctid)
            and not scene.has(ctid, *_ON_ITS_WAY, ovz_ctid.LENT)
            and not scene.is_half_made(ctid)
            and not scene.is_half_removed(ctid)
            and not scene.holder(ctid)
        ):
            places = ", ".join(scene.seen["places"].get(ctid, []))
            yield scene.finding(
                "hidden",
                ctid,
                f"vzlist does not show it, but it is in {places}: is its private area"
                " mounted? Where Nova deletes the server, all of it goes",
            )


def arriving(scene: Scene) -> Iterator[Finding]:
    for ctid in sorted(scene.abandoned):
        if scene.has(ctid, ovz_ctid.ARRIVING) and not scene.is_tagged(ctid):
            yield scene.finding(
                "arriving",
                ctid,
                "it was coming from another host as it ran: Nova ends its migration, or"
                " nova-compute sees, when it starts, by what Nova has of it, whether it"
                " goes",
            )


def handed(scene: Scene) -> Iterator[Finding]:
    for ctid in sorted(scene.abandoned):
        if scene.has(ctid, ovz_ctid.HANDED):
            yield scene.finding(
                "handed",
                ctid,
                "it was changing hands as it ran: the host that Nova has it on takes"
                " it, when nova-compute starts there or the server is rebooted hard",
            )


def unsigned(scene: Scene) -> Iterator[Finding]:
    for ctid in scene.node.claims.unsigned():
        yield Finding(
            "unsigned",
            f"CTID {ctid}",
            "its claim does not say whose it is: remove"
            f" {os.path.join(scene.node.options.lock_dir, ctid)} if it is nobody's",
        )


# -- files ----------------------------------------------------------------------------


def strays(scene: Scene) -> Iterator[Finding]:
    for ctid, kinds in scene.seen["files"].items():
        if ctid in scene.infos or ctid in scene.seen["confs"] or ctid in scene.claimed:
            continue
        for kind in kinds:
            yield Finding(
                "stray",
                os.path.join(scene.node.paths.conf, f"{ctid}.{kind}"),
                "there is no such container, and nobody has claimed its CTID: remove"
                " it if it is nobody's",
            )


def temporary(scene: Scene) -> Iterator[Finding]:
    node = scene.node
    dirs = {"private": node.paths.private, "conf": node.paths.conf}
    for path in scene.seen["temporary"]:
        name = os.path.basename(path)
        ctid = name.partition(".")[0]
        if name.startswith("ve.conf"):
            ctid = os.path.basename(os.path.dirname(path))
        if scene.is_ours(ctid):
            yield Finding(
                "temporary",
                path,
                "a file was being written: removed",
                functools.partial(
                    node.executor.call, "remove_temporary", dirs=dirs, paths=[path]
                ),
            )


def snapshots(scene: Scene) -> Iterator[Finding]:
    for place in snapshot.abandoned(scene.node.host):
        frozen = (place / "frozen").exists()
        runs_on = ", and the server, which was frozen for it, runs on"
        yield Finding(
            "snapshot",
            f"server {place.name}",
            f"its snapshot was interrupted: removed{runs_on if frozen else ''}",
            functools.partial(snapshot.clear, scene.node, place),
        )


def downloads(scene: Scene) -> Iterator[Finding]:
    store = imagecache.Store(pathlib.Path(scene.node.paths.templates), lease=0)
    for path in store.parts():
        if not store.is_busy(path):
            yield Finding(
                "download",
                str(path),
                "an image was being fetched: removed",
                functools.partial(store.remove_part, path),
            )


def templates(scene: Scene) -> Iterator[Finding]:
    for path, pid in emptytemplate.parts(scene.node):
        if not procfs.is_running(pid):
            yield Finding(
                "template",
                str(path),
                "a template was being written: removed",
                functools.partial(path.unlink, missing_ok=True),
            )


def scratch(_scene: Scene) -> Iterator[Finding]:
    for path in sorted(pathlib.Path(tempfile.gettempdir()).glob("ovz-*")):
        match = _SCRATCH.fullmatch(path.name)
        if (
            match
            and path.is_dir()
            and not path.is_symlink()
            and path.stat().st_uid == os.geteuid()
            and not procfs.is_running(int(match[1]))
        ):
            yield Finding(
                "scratch",
                str(path),
                "a process that is gone worked in it: removed",
                functools.partial(shutil.rmtree, path),
            )


def marks(scene: Scene) -> Iterator[Finding]:
    uuids = {tag.uuid for ctid, tag in scene.tags.items() if scene.is_tagged(ctid)}
    for key in scene.seen["marks"]:
        if key in uuids:
            yield Finding(
                "mark",
                f"server {key}",
                "its files have arrived: the mark that says so is removed",
                functools.partial(transfer.drop, scene.node, key),
            )


def proofs(scene: Scene) -> Iterator[Finding]:
    for name, host in scene.seen["proofs"].items():
        if host == scene.node.host:
            yield Finding(
                "proof",
                os.path.join(scene.node.paths.private, name),
                "whether another host sees it was being asked: removed",
                functools.partial(
                    scene.node.executor.call,
                    "remove_proof",
                    dirs={"private": scene.node.paths.private},
                    name=name,
                ),
            )


def received(scene: Scene) -> Iterator[Finding]:
    for key, busy in scene.seen["incoming"].items():
        how = "is coming" if busy else "has come"
        yield Finding(
            "received",
            f"server {key}",
            f"a tree {how} from another host, and no container has taken it: nova-"
            "compute removes it when it starts, once its migration is over",
        )


# -- what may be anybody's ------------------------------------------------------------


def left_overs(scene: Scene) -> Iterator[Finding]:
    for ctid, places in scene.seen["places"].items():
        known = ctid in scene.infos or ctid in scene.claimed
        if known or scene.holder(ctid) or ctid in scene.seen["files"]:
            continue
        yield Finding(
            "left-over",
            f"CTID {ctid}",
            f"vzlist does not show it, but it is in {', '.join(places)}",
        )


def cgroups(scene: Scene) -> Iterator[Finding]:
    top = pathlib.Path(scene.node.paths.cgroup)
    for path in sorted([*top.glob("vz-*"), *top.glob("*/vz-*")]):
        ctid = path.name.removeprefix("vz-")
        if ctid not in scene.infos and ctid not in scene.claimed:
            yield Finding("cgroup", str(path), "there is no such container")
