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

"""What whoever has the nova user's rights may not have the root side do.

Each verb is asked as the driver asks it, but for one argument that is not what it must
be. All that comes is a refusal, and nothing on the node has changed.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import permit, privileged
from tests import trees
from tests.unit.openvz.verbs import NO_TREE, USES, Node

REFUSED = ("CommandRefused", "UnsafePath", "InvalidValue")
_NO_PLACES = (
    *(None, 5, "", "private", "/proc/1/root/vz", "/proc/self/cwd", "/sys/kernel"),
    *("/dev/shm", "/run/user/1000", "/vz\0x", "/../proc/1"),
)
_NO_CTIDS = (
    *("", "0", "1", "100", "..", "101/..", "101\n", " 101", "0101", None, 101, "*"),
    *("2147483645", "00000000-0000-0000-0000-000000000000", "server", "-a"),
)
_NO_WORDS = ("", "-oProxyCommand=sh", "a b", "a;b", "$(sh)", "a\nb", None, 5)
_NO_PROGRAMS = (None, "ip", {"sh": "/bin/sh"}, {"ip": "/bin/sh"}, {"ip": "sbin/ip"})

#: Values of each argument that no verb may take.
BAD: dict[str, tuple[Any, ...]] = {
    "base": _NO_PLACES,
    "dirs": tuple({"private": place} for place in _NO_PLACES),
    "ctid": _NO_CTIDS,
    "other": _NO_CTIDS,
    "sub": ("..", "/", "etc", "fs/..", "../../etc", None, 5),
    "key": ("", "..", "A" * 36, "5d35cf5b/..", None, 5, "*"),
    "name": ("", "x", "../x", ".ovz-proof-", "/etc/passwd", None),
    "owner": (0, -1, "1000", None),
    "programs": _NO_PROGRAMS,
    "names": (["eth0"], ["lo"], ["tap0 up"], ["tap0\n"], [None], ["tap" + "x" * 13]),
    "paths": (["/etc/passwd"], ["/"]),
    "gate": ("a b", "-x", "x;y"),
}
_PEER = ("host", "user", "receiver", "ssh_key", "known_hosts")


def _bad(kwargs: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name in kwargs:
        for value in BAD.get(name, ()):
            if name == "dirs":
                # All others are what they must be.
                kind = next(iter(kwargs["dirs"]))
                value = {**kwargs["dirs"], kind: value["private"]}
            found.append((f"{name}={value!r}", {**kwargs, name: value}))
    for field in _PEER if "peer" in kwargs else ():
        for value in _NO_WORDS:
            if value is None and field in ("ssh_key", "known_hosts"):
                continue  # ssh's own
            peer = {**kwargs["peer"], field: value}
            found.append((f"peer.{field}={value!r}", {**kwargs, "peer": peer}))
    return found


class _Asked(Node):
    """Notes what is asked, and does nothing."""

    def __init__(self, top: Path) -> None:
        super().__init__(top, "fs")
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def call(self, verb: str, **kwargs: Any) -> Any:
        self.asked.append((verb, copy.deepcopy(kwargs)))
        raise exception.OvzError("nothing is done")


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose a place is does not matter here; test_permit.py has that."""
    monkeypatch.setattr(permit, "_check_root_alone", lambda path, found: None)
    monkeypatch.setattr(permit, "TOOL_DIRS", ("/usr/bin", "/bin"))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("verb", USES)
def test_a_verb_takes_nothing_but_what_it_is_for(verb: str, tmp_path: Path) -> None:
    node, use = _Asked(tmp_path / "node"), USES[verb]
    with contextlib.suppress(exception.OvzError):
        use.call(node)
    before = trees.describe(node.top)
    done = []
    tried = 0
    for name, kwargs in node.asked[:1]:
        for what, bad in _bad(kwargs):
            tried += 1
            reply = privileged.decode(privileged.serve(name, bad))
            if reply.get("error") not in REFUSED:
                done.append((name, what, reply))
    assert done == []
    assert tried > 0
    assert trees.describe(node.top) == before


@pytest.mark.parametrize("verb", USES)
def test_a_verb_works_only_where_others_than_root_cannot(
    verb: str, tmp_path: Path
) -> None:
    # pytest's directories are beneath one that everybody may write.
    node = _Asked(tmp_path / "node")
    with contextlib.suppress(exception.OvzError):
        USES[verb].call(node)
    name, kwargs = node.asked[0]
    with pytest.raises(exception.CommandRefused):
        privileged.result(privileged.serve(name, kwargs))


@pytest.mark.parametrize("verb", [*privileged.VERBS, "exec", "__class__", "", "PING"])
def test_what_no_verb_takes_is_an_error_and_not_the_end(verb: str) -> None:
    reply = privileged.decode(privileged.serve(verb, {"direct_": True, "x": 1}))
    assert "error" in reply


def test_whoever_asks_cannot_say_that_he_is_root_himself() -> None:
    for verb in (*USES, *NO_TREE):
        reply = privileged.decode(
            privileged.serve(verb.split(" ")[0], {"direct": True})
        )
        assert "error" in reply
