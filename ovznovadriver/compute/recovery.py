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

"""What a nova-compute that was killed has left on its node.

:data:`RULES` says what can be found, and what is done about it. When the service
starts, it goes through them once (:func:`recover`); ``ovz-manage`` shows what they find
and applies them on the operator's word.

A rule acts on what bears this host's tag or claim and on nothing else; on nothing that
a process which lives has claimed, and on no container that a vzctl works on. The rest
is told, and stays. What concerns a server that Nova knows, and is up to what Nova wants
of it, is :mod:`ovznovadriver.compute.restart`'s.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator

from oslo_log import log as logging

from ovznovadriver.compute import remains
from ovznovadriver.compute.scene import Finding, Scene
from ovznovadriver.openvz import ctid as ovz_ctid
from ovznovadriver.openvz import node as ovz_node

LOG = logging.getLogger(__name__)

#: How old, in seconds, the look at the containers may be: the one that the service
#: has just taken to see that vzlist works.
LOOK_MAX_AGE = 5

#: How long, in seconds, a start waits for vzctl to end what a killed service has begun:
#: what is half made or half removed then is dealt with at once. The figure is ours.
BUSY_WAIT = 10.0
_PAUSE = 0.5


@dataclasses.dataclass(frozen=True)
class Rule:
    """What may be found on a node, and what is done about it.

    :ivar kind: its name
    :ivar found: what it looks for
    :ivar done: what is done about it; None where it is only told
    :ivar at_start: whether the service looks for it, too, and not only ovz-manage
    """

    kind: str
    found: str
    done: str | None
    find: Callable[[Scene], Iterator[Finding]]
    at_start: bool = True


#: In the order in which they are applied. doc/source/recovery.rst has the same table.
RULES: tuple[Rule, ...] = (
    Rule(
        "busy",
        "a container of this host that a vzctl still works on",
        None,
        remains.busy,
    ),
    Rule(
        "swap",
        "a container whose trees were being swapped, for a rescue or after it",
        "it gets its own tree back",
        remains.swaps,
    ),
    Rule(
        "half-made",
        "a container, or a part of one, that was never tagged, with a CTID that this"
        " host claimed by a process that is gone",
        "it is removed, and its CTID given back",
        remains.half_made,
    ),
    Rule(
        "half-removed",
        "what is left of a container of this host that was being removed",
        "it is removed, and its CTID given back",
        remains.half_removed,
    ),
    Rule(
        "claim",
        "a CTID that this host claimed by a process that is gone, and nothing bears",
        "it is given back",
        remains.claims,
    ),
    Rule(
        "claim-part",
        "a CTID that was being claimed or given back",
        "the part is removed",
        remains.claim_parts,
    ),
    Rule(
        "mount",
        "a mounted container of this host that does not run",
        "it is unmounted",
        remains.mounts,
    ),
    Rule(
        "interface",
        "a container of this host that does not run and has interfaces on the host",
        "they are removed",
        remains.interfaces,
    ),
    Rule(
        "lock",
        "the lock of a vzctl that is gone, on a container of this host; or one that"
        " names no process, as a power cut leaves it, older than a minute",
        "it is removed",
        remains.locks,
    ),
    Rule(
        "temporary",
        "a file of this driver's for a container of this host, half written",
        "it is removed",
        remains.temporary,
    ),
    Rule(
        "snapshot",
        "what a snapshot needs while it is taken",
        "it is removed; a container that was frozen for it runs on",
        remains.snapshots,
    ),
    Rule(
        "download",
        "a file of an image that was being fetched, and whose lock nobody holds",
        "it is removed",
        remains.downloads,
    ),
    Rule(
        "template",
        "the driver's own template, half written",
        "it is removed",
        remains.templates,
    ),
    Rule(
        "scratch",
        "a directory for temporary files of a process that is gone",
        "it is removed",
        remains.scratch,
    ),
    Rule(
        "mark",
        "the mark of a tree that has come, when a container of this host has it",
        "it is removed",
        remains.marks,
    ),
    Rule(
        "proof",
        "a file by which this host asked whether another one sees its disk",
        "it is removed",
        remains.proofs,
    ),
    Rule(
        "untagged",
        "a container of this host whose description somebody has changed",
        None,
        remains.untagged,
    ),
    Rule(
        "hidden",
        "a container of this host that vzlist does not show any more",
        None,
        remains.hidden,
    ),
    Rule(
        "unsigned",
        "a claim that does not say whose it is, older than an hour",
        None,
        remains.unsigned,
    ),
    Rule(
        "stray",
        "a file of this driver's for a container that is not there",
        None,
        remains.strays,
    ),
    Rule(
        "renamed",
        "a container of this host that has another name than its server's UUID",
        "it gets that name",
        remains.renamed,
        at_start=False,
    ),
    Rule(
        "arriving",
        "a CTID for a container that comes from another host as it runs",
        None,
        remains.arriving,
        at_start=False,
    ),
    Rule(
        "handed",
        "a container that changes hands, on a disk that several hosts have",
        None,
        remains.handed,
        at_start=False,
    ),
    Rule(
        "received",
        "a tree that has come from another host, and no container has taken",
        None,
        remains.received,
        at_start=False,
    ),
    Rule(
        "left-over",
        "a directory, a file, a dump or a name of a container that is not there",
        None,
        remains.left_overs,
        at_start=False,
    ),
    Rule(
        "cgroup",
        "a control group of a container that is not there",
        None,
        remains.cgroups,
        at_start=False,
    ),
)


def findings(scene: Scene) -> Iterator[Finding]:
    """What all rules find; a rule looks only when those before have been applied."""
    for rule in RULES:
        yield from rule.find(scene)


def recover(node: ovz_node.Node) -> None:
    """Complete or undo what a service that is gone has left; one log line for each.

    Whatever fails is logged, and keeps nobody from starting.
    """
    served = other_service(node)
    if served is not None:
        LOG.error(
            "Nothing is recovered: process %d is host %s already; end one of the two",
            served,
            node.host,
        )
        return
    try:
        node.claims.serve()
        scene = _settled(node)
        _note_made(scene)
    except Exception:
        LOG.exception("What a former service has left is not known")
        return
    for rule in RULES:
        if rule.at_start:
            _apply(rule, scene)


def other_service(node: ovz_node.Node) -> int | None:
    """Another process that is this host's service already; None without."""
    served = node.claims.served_by()
    return None if served == os.getpid() else served


def _settled(node: ovz_node.Node) -> Scene:
    """What is there when nobody makes or removes a container, or goes on for long."""
    deadline = time.monotonic() + BUSY_WAIT
    scene = Scene(node, LOOK_MAX_AGE)
    while any(map(scene.is_under_way, scene.abandoned)):
        if time.monotonic() > deadline:
            break
        time.sleep(_PAUSE)
        scene = Scene(node)
    return scene


def _note_made(scene: Scene) -> None:
    """Have it noted of which containers it was not, by a service killed in between."""
    claims = scene.node.claims
    for ctid in filter(scene.is_claimed_here, scene.tags):
        if scene.is_tagged(ctid) and not claims.has(ctid, ovz_ctid.MADE):
            claims.note(ctid, ovz_ctid.MADE)


def _apply(rule: Rule, scene: Scene) -> None:
    try:
        for finding in rule.find(scene):
            LOG.warning("Recovery: %s: %s", finding.subject, finding.what)
            if finding.act is not None:
                apply(finding)
    except Exception:
        LOG.exception("Recovery: rule %s cannot be applied", rule.kind)


def apply(finding: Finding) -> str | None:
    """Do what is to be done about something.

    :returns: None, or why it could not be done
    """
    if finding.act is None:
        return "it is the operator's to do"
    try:
        finding.act()
    except Exception as error:
        LOG.error(
            "Recovery: %(subject)s: not done: %(error)s; mend the cause, and run"
            " 'ovz-manage repair' or start the service again",
            {"subject": finding.subject, "error": error},
        )
        return str(error) or type(error).__name__
    return None
