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

"""What is done to a server while the service is killed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.chaos.cloud import Cloud

Step = Callable[[Cloud], object]


@dataclass(frozen=True)
class State:
    """How the victim is found.

    :ivar made_from: the state that it is made from; None for none: there is no victim
    :ivar make: makes it
    """

    made_from: str | None
    make: Step


@dataclass(frozen=True)
class Operation:
    """One request, and all that Nova does for it.

    :ivar begins_in: a name of :data:`STATES`
    :ivar act: asks for it, and waits for its end
    :ivar keeps: what the user has in the server has to be there afterwards, however far
        it came
    :ivar hosts: the compute hosts that it takes
    :ivar families: of vzctl, that it can be asked of
    :ivar one_disk: the hosts have the private areas and the claims in one place
    :ivar placed: placement has to have the server where Nova has it afterwards; Nova
        itself leaves that to operators, for a move that it broke off when it started
    :ivar settled: of the first host's commands, how many come before only an operator
        can say where the server is; None for all
    """

    begins_in: str
    act: Step
    keeps: bool = True
    hosts: int = 1
    families: tuple[str, ...] = ("4", "9")
    settled: int | None = None
    one_disk: bool = False
    placed: bool = False


# -- single steps ------------------------------------------------------------------


def boot(
    cloud: Cloud, name: str = "victim", *, ports: int = 1, image: str | None = None
) -> dict[str, Any]:
    """Boot a server, on the first host."""
    networks = [cloud.neutron.network_1["id"], cloud.neutron.storage_network["id"]]
    return cloud.boot(
        name,
        networks=[{"uuid": uuid} for uuid in networks[:ports]],
        image_id=image or cloud.image_id,
        host=cloud.HOSTS[0],
    )


def _acting(action: str, arguments: Any = None, status: str | None = None) -> Step:
    def step(cloud: Cloud) -> None:
        victim = cloud.victim
        cloud.admin_api.post_server_action(victim["id"], {action: arguments})
        if status:
            cloud._wait_for_state_change(victim, status)
        cloud.settle(victim)

    return step


def _make_active(cloud: Cloud) -> None:
    cloud.plant(boot(cloud))


def _resize(cloud: Cloud) -> None:
    _acting("resize", {"flavorRef": cloud.large}, "VERIFY_RESIZE")(cloud)


def _rebuild(cloud: Cloud) -> None:
    _acting("rebuild", {"imageRef": cloud.image_id})(cloud)


def _snapshot(cloud: Cloud) -> None:
    known = set(cloud.glance.images)
    _acting("createImage", {"name": "snapshot"})(cloud)

    def arrived() -> bool:
        fresh = set(cloud.glance.images) - known
        return all(cloud.glance.images[key]["status"] == "active" for key in fresh)

    cloud.wait_until("the image", arrived)


def _attach(cloud: Cloud) -> None:
    network = cloud.neutron.storage_network["id"]
    request = {"interfaceAttachment": {"net_id": network}}
    cloud.api.attach_interface(cloud.victim["id"], request)


def _detach(cloud: Cloud) -> None:
    victim = cloud.victim
    last = cloud.api.get_port_interfaces(victim["id"])[-1]["port_id"]
    cloud.api.detach_interface(victim["id"], last)

    def ports() -> list[str]:
        found = cloud.api.get_port_interfaces(victim["id"])
        return [entry["port_id"] for entry in found]

    cloud.wait_until("detached", lambda: last not in ports())


def _move_live(cloud: Cloud) -> None:
    victim = cloud.victim
    there = cloud.ends(victim)[1]
    cloud.ask(victim)
    cloud.wait_until("the move", lambda: cloud.host_of(victim) == there)
    cloud.settle(victim)


def _lose(cloud: Cloud) -> None:
    victim = cloud.victim
    node = cloud.nodes[cloud.HOSTS[0]]
    cloud.lose(cloud.HOSTS[0])
    # It goes with its host; what is not evacuated is looked at there.
    node.run("vzctl", "stop", cloud.container(victim, node), "--fast")


def _evacuate(cloud: Cloud) -> None:
    cloud.evacuate(cloud.victim)
    cloud.regain()


def _evacuate_meanwhile(cloud: Cloud) -> None:
    # It is there again when this comes to its end, or is killed.
    cloud.world.note(lost=None)
    cloud.evacuate(cloud.victim)


#: How a victim can be found. Each is made once, and put aside.
STATES: Mapping[str, State] = {
    "none": State(None, lambda cloud: None),
    "active": State("none", _make_active),
    "stopped": State("active", _acting("os-stop", None, "SHUTOFF")),
    "paused": State("active", _acting("pause", None, "PAUSED")),
    "suspended": State("active", _acting("suspend", None, "SUSPENDED")),
    "resized": State("active", _resize),
    "rescued": State("active", _acting("rescue", {}, "RESCUE")),
    "attached": State("active", _attach),
    "lost": State("active", _lose),
    "moved": State("active", _acting("migrate", None, "VERIFY_RESIZE")),
}

_MOVES = {
    "migrate": Operation("active", lambda c: c.move(c.victim), hosts=2),
    "migrate-confirm": Operation("moved", lambda c: c.confirm(c.victim), hosts=2),
    "migrate-revert": Operation("moved", lambda c: c.revert(c.victim), hosts=2),
}

#: What is done, by name.
OPERATIONS: Mapping[str, Operation] = {
    "spawn": Operation("none", lambda cloud: boot(cloud, image=cloud.new_image_id)),
    "spawn-2-ports": Operation("none", lambda cloud: boot(cloud, ports=2)),
    "destroy": Operation("active", lambda c: c.delete(c.victim), keeps=False),
    "soft-reboot": Operation("active", _acting("reboot", {"type": "SOFT"})),
    "hard-reboot": Operation("active", _acting("reboot", {"type": "HARD"})),
    "stop": Operation("active", _acting("os-stop")),
    "start": Operation("stopped", _acting("os-start")),
    "pause": Operation("active", _acting("pause")),
    "unpause": Operation("paused", _acting("unpause")),
    "suspend": Operation("active", _acting("suspend")),
    "resume": Operation("suspended", _acting("resume")),
    "resize": Operation("active", _resize),
    "resize-confirm": Operation("resized", lambda cloud: cloud.confirm(cloud.victim)),
    "resize-revert": Operation("resized", lambda cloud: cloud.revert(cloud.victim)),
    "snapshot": Operation("active", _snapshot),
    "rescue": Operation("active", _acting("rescue", {}, "RESCUE")),
    "unrescue": Operation("rescued", _acting("unrescue", None, "ACTIVE")),
    "rebuild": Operation("active", _rebuild, keeps=False),
    "attach": Operation("active", _attach),
    "detach": Operation("attached", _detach),
    **_MOVES,
    # Nothing is copied then.
    **{
        f"{name}-one-disk": dataclasses.replace(
            operation, families=("4",), one_disk=True
        )
        for name, operation in _MOVES.items()
    },
    # The next step of vzmigrate dumps the memory, by which it may run on both.
    "live-migrate": Operation(
        "active", _move_live, hosts=2, families=("4",), settled=8
    ),
    # Nobody needs to be asked: the disk says who has the server.
    "live-migrate-one-disk": Operation(
        "active", _move_live, hosts=2, families=("4",), one_disk=True
    ),
    # The lost host comes back later, and before the other one.
    **{
        name: Operation(
            "lost", act, hosts=2, families=("4",), one_disk=True, placed=True
        )
        for name, act in (
            ("evacuate", _evacuate),
            ("evacuate-back", _evacuate_meanwhile),
        )
    },
}
