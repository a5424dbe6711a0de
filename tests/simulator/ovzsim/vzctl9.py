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
"""``vzctl`` of family 9: the subcommands, with create and set in modules of theirs."""

from __future__ import annotations

import os
from collections.abc import Callable

from ovzsim import guest
from ovzsim.base import UNMODELLED, Exit, Unmodelled
from ovzsim.call import Call, linked_ctid, unlink_name
from ovzsim.container9 import Container
from ovzsim.getopt_long import BadOption, parse

VERSION = "vzctl v.9.0.1"
HIGHEST_CTID = 2147483644
_HEX = set("0123456789abcdefABCDEF")


def canonical_ctid(word: str) -> str | None:
    """A number, or a UUID with its dashes; None for anything else."""
    if word.isdigit() and int(word) <= HIGHEST_CTID:
        return str(int(word))
    bare = word.removeprefix("{").removesuffix("}").replace("-", "")
    if len(bare) != 32 or set(bare) - _HEX:
        return None
    return "-".join((bare[:8], bare[8:12], bare[12:16], bare[16:20], bare[20:]))


def _options(ctid: str, args: list[str], known: dict[str, bool], rc: int) -> set[str]:
    try:
        found, extra = parse(args, known, ctid)
    except BadOption as error:
        raise Exit(rc, f"{error}\n") from None
    if extra:
        raise Exit(20, f"Invalid options: {' '.join(extra)} \n")
    return {name for name, _ in found}


def start(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl start CTID [--wait] [--force]: also unpauses"""
    known = {"wait": False, "force": False, "repair": False, "cloud-init": True}
    options = _options(ctid, args, known, rc=21)
    if options & {"repair", "cloud-init"}:
        raise Unmodelled("start --repair and --cloud-init")
    Container(call, ctid)
    with call.work(ctid):
        container = Container(call, ctid)
        if container.state.paused:
            _unpause(container)
            return 0
        if container.state.running:
            raise Exit(32, "Container is already running\n")
        if container.conf.get("DISABLED") == "yes" and "force" not in options:
            raise Exit(105, "Container start disabled\n")
        container.start()
    return 0


def stop(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl stop CTID [--fast]: 0 for whatever does not run, even if unknown"""
    options = _options(ctid, args, {"fast": False, "force": False}, rc=21)
    with call.work(ctid) as lock:
        try:
            container = Container(call, ctid)
        except Exit:
            call.streams.warn("Container is not running")
            return 0
        if not container.state.running:
            call.streams.warn("Container is not running")
            return 0
        container.stop("fast" in options, lock)
    return 0


def restart(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl restart CTID [--wait] [--fast]"""
    options = _options(ctid, args, {"wait": False, "fast": False}, rc=21)
    Container(call, ctid)
    with call.work(ctid) as lock:
        container = Container(call, ctid)
        call.streams.say("Restart the Container")
        if container.state.running:
            container.stop("fast" in options, lock)
        container.start()
    return 0


def mount(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl mount CTID"""
    _options(ctid, args, {}, rc=20)
    Container(call, ctid)
    with call.work(ctid):
        container = Container(call, ctid)
        if container.state.mounted:
            call.streams.say("Container is already mounted")
            return 0
        container.mount()
    return 0


def umount(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl umount CTID"""
    _options(ctid, args, {}, rc=20)
    Container(call, ctid)
    with call.work(ctid):
        container = Container(call, ctid)
        if container.state.running:
            raise Exit(32, "Unable to unmount running Container: stop it first\n")
        if not container.state.mounted:
            raise Exit(40, "Container is not mounted\n")
        container.umount()
    return 0


def destroy(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl destroy CTID: unmounts it first when it is mounted"""
    _options(ctid, args, {"force": False}, rc=20)
    Container(call, ctid)
    with call.work(ctid):
        container = Container(call, ctid)
        if container.state.running:
            raise Exit(
                32, "Container is currently running. Stop it before proceeding.\n"
            )
        if container.state.mounted:
            container.umount()
        call.streams.say(f"Destroying Container private area: {container.area.private}")
        os.unlink(call.host.conf_path(ctid))
        if container.conf.get("NAME"):
            unlink_name(call.host, ctid, container.conf["NAME"])
        call.streams.say("Container unregistered succesfully")
        container.area.remove()  # a mount point that stays is not spoken of
        call.streams.say("Container private area was destroyed")
    return 0


def status(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl status CTID: always 0, and no lock"""
    _options(ctid, args, {}, rc=20)
    with call.work():
        words = ["deleted", "unmounted", "down"]
        try:
            container = Container(call, ctid)
        except Exit:
            pass  # what is unknown counts as deleted
        else:
            live = container.state
            if container.area.exists:
                words[0] = "exist"
            if live.mounted:
                words[1] = "mounted"
            if live.running:
                words[2] = "paused" if live.paused else "running"
            elif os.path.exists(container.dump):
                words[2] = "suspended"
        call.streams.out(f"VEID {ctid} {' '.join(words)}\n")
    return 0


def _execute(call: Call, ctid: str, args: list[str], exact: bool) -> int:
    if not args:
        raise Exit(20, "No command to execute by vzctl exec\n")
    with call.work():
        container = Container(call, ctid)
        if not container.state.running:
            raise Exit(31, "Container is not running\n")
        line = " ".join(args)
        if guest.halts(line):
            container.state.stopped()
            return 0
        command = guest.Command(line, call.stdin, container.conf.get("HOSTNAME", ""))
        tree = container.area.tree
        rc = guest.run(call.host, ctid, tree, command, call.streams)
    if rc == UNMODELLED:
        return rc
    if rc < 0:
        call.streams.warn(f"Got signal {-rc}")
        rc = 3
    return rc if exact or rc == 0 else 8


def execute(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl exec CTID command: every failure is 8"""
    return _execute(call, ctid, args, exact=False)


def execute2(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl exec2 CTID command: the command's own exit code"""
    return _execute(call, ctid, args, exact=True)


def enter(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl enter CTID: only its refusals are modelled"""
    if args:
        raise Exit(20, f"Invalid options: {' '.join(args)} \n")
    if not Container(call, ctid).state.running:
        raise Exit(31, "Container is not running\n")
    raise Unmodelled("enter into a running container")


def pause(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl pause CTID"""
    _options(ctid, args, {}, rc=20)
    Container(call, ctid)
    with call.work(ctid):
        container = Container(call, ctid)
        if not container.state.running:
            raise Exit(31, "Container is not running\n")
        container.state.paused = True
        container.state.save()
        call.streams.say("Container was paused")
    return 0


def _unpause(container: Container) -> None:
    container.state.paused = False
    container.state.save()
    container.streams.say("Container was resumed")


def suspend(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl suspend CTID (chkpnt): the checkpoint lies in the private area"""
    options = _options(ctid, args, {"dumpfile": True}, rc=20)
    Container(call, ctid)
    with call.work(ctid):
        container = Container(call, ctid)
        if not container.state.running:
            raise Exit(31, "Container is not running\n")
        if options:
            raise Unmodelled("suspend --dumpfile")
        call.streams.say("Setting up checkpoint...")
        container.suspend()
        call.streams.say("Checkpointing completed successfully")
    return 0


def resume(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl resume CTID (restore): from a checkpoint or from a pause"""
    options = _options(ctid, args, {"dumpfile": True}, rc=20)
    Container(call, ctid)
    with call.work(ctid):
        container = Container(call, ctid)
        if container.state.paused:
            _unpause(container)
            return 0
        if container.state.running:
            raise Exit(32, "Container is already running\n")
        if not os.path.exists(container.dump):
            raise Exit(17, "Container is not suspended\n")
        if options:
            raise Unmodelled("resume --dumpfile")
        container.start()
    return 0


def quotainit(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl quotainit CTID: nothing but a warning"""
    del ctid, args
    call.streams.warn("Warning: The 'quotainit' action is deprecated")
    return 0


# These import large tables of options, so they are imported only when called.


def create(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl create CTID …"""
    from ovzsim import create9

    return create9.create(call, ctid, args)


def set_(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl set CTID …"""
    from ovzsim import set9

    return set9.set_(call, ctid, args)


def unset(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl unset CTID …"""
    from ovzsim import set9

    return set9.unset(call, ctid, args)


def console(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl console CTID [TTY]"""
    from ovzsim import console as ovz_console

    return ovz_console.attach9(call, ctid, args)


COMMANDS: dict[str, Callable[[Call, str, list[str]], int]] = {
    "create": create,
    "set": set_,
    "unset": unset,
    "start": start,
    "stop": stop,
    "restart": restart,
    "mount": mount,
    "umount": umount,
    "destroy": destroy,
    "delete": destroy,
    "status": status,
    "exec": execute,
    "exec2": execute2,
    "enter": enter,
    "pause": pause,
    "suspend": suspend,
    "chkpnt": suspend,
    "resume": resume,
    "restore": resume,
    "quotainit": quotainit,
    "console": console,
}
# Known to the real tool, refused by the simulator.
_OTHERS = (
    "convert reinstall snapshot snapshot-switch snapshot-delete snapshot-mount "
    "snapshot-umount snapshot-list exec3 runscript execaction register unregister "
    "monitor compact"
).split()


def _usage(call: Call) -> None:
    listed = " | ".join((*COMMANDS, *_OTHERS))
    call.streams.out(f"{VERSION}\n\nUsage:\nvzctl {listed}\n")


def main(call: Call, args: list[str]) -> int:
    """Runs ``vzctl [--quiet|--verbose|--skiplock] SUBCOMMAND CTID …``."""
    args = list(args)
    while args and args[0].startswith("--"):
        option = args.pop(0)
        if option == "--version":
            call.streams.out(f"{VERSION}\n")
            return 0
        if option == "--help":
            _usage(call)
            return 0
        if option == "--quiet":
            call.streams.quiet = True
        elif option == "--skiplock":
            call.skip_lock = True
        elif option != "--verbose":
            raise Unmodelled(f"vzctl {option}")
    if not args:
        _usage(call)
        return 20
    subcommand, *rest = args
    if subcommand not in (*COMMANDS, *_OTHERS):
        raise Exit(20, f"Bad command: {subcommand}\n")
    call.host.vz_conf()
    if not rest:
        raise Exit(21, "ctid is not given\n")
    if subcommand in _OTHERS:
        raise Unmodelled(f"vzctl {subcommand}")
    ctid = resolve(call, rest[0], by_name=subcommand != "create")
    call.claim_faults(subcommand, ctid)
    return COMMANDS[subcommand](call, ctid, rest[1:])


def resolve(call: Call, word: str, by_name: bool) -> str:
    """The container that an identifier or a name means. :raises Exit: 21, none."""
    ctid = canonical_ctid(word)
    if ctid is None and by_name:
        ctid = linked_ctid(call.host, word)
    if ctid is None:
        raise Exit(21, f"Invalid ctid is specified: {word}\n")
    return ctid
