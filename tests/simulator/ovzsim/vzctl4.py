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
"""``vzctl`` of family 4: the subcommands, with create and set in modules of theirs."""

from __future__ import annotations

import os
from collections.abc import Callable

from ovzsim import area, base, cgroups, guest
from ovzsim.base import UNMODELLED, Exit, Unmodelled
from ovzsim.call import Call, linked_ctid, unlink_name
from ovzsim.container4 import Container, note
from ovzsim.getopt_long import BadOption, parse

VERSION = "vzctl version 4.9.4\n"
HIGHEST_CTID = 2147483644


# -- the subcommands ----------------------------------------------------------


def _options(args: list[str], known: dict[str, bool]) -> dict[str, str]:
    """Options of a subcommand other than create and set. :raises Exit: 20."""
    try:
        found, extra = parse(args, known, "vzctl")
    except BadOption as error:
        raise Exit(20, f"{error}\n") from None
    if extra:
        raise Exit(20, f"Invalid extra arguments: {' '.join(extra)} \n")
    return dict(found)


def start(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl start CTID [--force] [--wait]"""
    options = _options(args, {"force": False, "wait": False, "skip-fsck": False})
    Container(call, ctid)
    note(call)
    with call.work(ctid):
        container = Container(call, ctid)
        if container.state.running:
            raise Exit(32, "Container is already running\n")
        if container.conf.get("DISABLED") == "yes" and "force" not in options:
            raise Exit(
                105,
                "Container start disabled\nUse --force option to start anyway\n",
            )
        container.start("wait" in options)
    return 0


def stop(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl stop CTID [--fast] [--skip-umount]"""
    options = _options(args, {"fast": False, "skip-umount": False})
    if "skip-umount" in options:
        raise Unmodelled("stop --skip-umount")
    Container(call, ctid)
    note(call)
    with call.work(ctid) as lock:
        container = Container(call, ctid)
        if not container.state.running:
            call.streams.warn("Unable to stop: container is not running")
            return 0
        container.stop("fast" in options, lock)
    return 0


def restart(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl restart CTID [--wait] [--force] [--fast]"""
    options = _options(
        args, {"force": False, "wait": False, "fast": False, "skip-fsck": False}
    )
    Container(call, ctid)
    note(call)
    with call.work(ctid) as lock:
        container = Container(call, ctid)
        call.streams.say("Restarting container")
        if container.state.running:
            container.stop("fast" in options, lock)
        container.start("wait" in options)
    return 0


def mount(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl mount CTID"""
    _options(args, {"skip-fsck": False})
    Container(call, ctid)
    note(call)
    with call.work(ctid):
        container = Container(call, ctid)
        if container.state.mounted:
            call.streams.warn("Container is already mounted")
            return 0
        container.mount()
    return 0


def umount(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl umount CTID"""
    _options(args, {})
    Container(call, ctid)
    note(call)
    with call.work(ctid):
        container = Container(call, ctid)
        if container.state.running:
            raise Exit(32, "Container is running -- stop it first\n")
        if not container.state.mounted:
            raise Exit(40, "CT is not mounted\n")
        container.umount()
    return 0


def destroy(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl destroy CTID"""
    _options(args, {})
    Container(call, ctid)
    note(call)
    with call.work(ctid):
        container = Container(call, ctid)
        if container.state.running:
            call.streams.say("Container is currently running. Stop it first.")
            return 32
        if container.state.mounted:
            call.streams.say("Container is currently mounted (umount first)")
            return 41
        place = container.area
        if not os.path.isdir(place.root):
            call.streams.warn(f"stat({place.root}): No such file or directory")
        call.streams.say(f"Destroying container private area: {place.private}")
        warning = place.remove()
        if warning:
            call.streams.warn(warning)
        os.replace(container.file.path, container.file.path + ".destroyed")
        if container.conf.get("NAME"):
            unlink_name(call.host, ctid, container.conf["NAME"])
        cgroups.empty(call.host, ctid)
        call.streams.say("Container private area was destroyed")
    return 0


def status(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl status CTID: always 0, and no lock"""
    _options(args, {})
    with call.work():
        words_ = ["deleted", "unmounted", "down"]
        suspended = False
        try:
            container = Container(call, ctid)
        except Exit:
            root = area.Area(call.host, ctid, {}).root
            call.streams.warn(f"stat({root}): No such file or directory")
        else:
            if container.area.exists:
                words_[0] = "exist"
            if not os.path.isdir(container.area.root):
                call.streams.warn(
                    f"stat({container.area.root}): No such file or directory"
                )
            if container.state.mounted:
                words_[1] = "mounted"
            if container.state.running:
                words_[2] = "running"
            suspended = os.path.exists(container.dump)
        if suspended:
            words_.append("suspended")
        call.streams.out(f"CTID {ctid} {' '.join(words_)}\n")
    return 0


def _execute(call: Call, ctid: str, args: list[str], exact: bool) -> int:
    if not args:
        raise Exit(20, f"No command line given for exec{'2' if exact else ''}\n")
    Container(call, ctid)
    note(call)
    with call.work():
        container = Container(call, ctid)
        if not container.state.running:
            raise Exit(31 if exact else 8, "Container is not running\n")
        line = " ".join(args)
        if guest.halts(line):
            container.state.stopped()
            return 0
        rc = guest.run(
            call.host,
            ctid,
            container.area.tree,
            guest.Command(line, call.stdin, container.conf.get("HOSTNAME", "")),
            call.streams,
        )
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
    """vzctl enter CTID: only its refusal is modelled"""
    del args
    container = Container(call, ctid)
    note(call)
    if not container.state.running:
        raise Exit(31, "Container is not running\n")
    raise Unmodelled("enter into a running container")


_CHECKPOINT = {
    "dumpfile": True,
    "suspend": False,
    "resume": False,
    "dump": False,
    "kill": False,
}


def chkpnt(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl chkpnt CTID [--dumpfile F] | --suspend | --resume"""
    options = _options(args, _CHECKPOINT)
    if "dump" in options or "kill" in options:
        raise Unmodelled("chkpnt --dump and --kill")
    Container(call, ctid)
    note(call)
    with call.work(ctid):
        container = Container(call, ctid)
        live = container.state
        if not live.running:
            raise Exit(31, "Container is not running\n")
        failed = f"{container.dump}.fail"
        paused = live.paused
        wrong = paused if "suspend" in options else "resume" in options and not paused
        if wrong or not call.host.switch("criu"):
            raise Exit(
                16,
                "Failed to checkpoint the Container\n"
                f"All dump files and logs were saved to {failed}\n",
            )
        if "suspend" in options or "resume" in options:
            live.paused = "suspend" in options
            live.save()
            call.streams.say("Resuming..." if "resume" in options else "suspend...")
            return 0
        call.streams.say("Setting up checkpoint...")
        dump = options.get("dumpfile") or container.dump
        os.makedirs(os.path.dirname(dump), exist_ok=True)
        base.write_text(dump, f"checkpoint of {ctid}\n")
        live.stopped()
        cgroups.empty(call.host, ctid)
        call.streams.say("Checkpointing completed successfully")
        container.umount()
    return 0


def restore(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl restore CTID [--dumpfile F] | --resume"""
    options = _options(args, {**_CHECKPOINT, "undump": False})
    if {"undump", "kill", "dump", "suspend"} & set(options):
        raise Unmodelled("restore in steps")
    if "resume" in options:
        return chkpnt(call, ctid, ["--resume"])
    Container(call, ctid)
    note(call)
    with call.work(ctid):
        container = Container(call, ctid)
        if container.state.running:
            raise Exit(32, "Unable to perform restore: container already running\n")
        dump = options.get("dumpfile") or container.dump
        if not os.path.exists(dump):
            _restore_without_dump(container)
        if dump != container.dump:
            os.replace(dump, container.dump)
        container.start()
    return 0


def _restore_without_dump(container: Container) -> None:
    if not container.state.mounted:
        container.mount()
    container.umount()
    raise Exit(
        17,
        f"Error (criu/image.c:566): Can't open dir {container.dump}: "
        "No such file or directory\n"
        f"Error (criu/crtools.c:237): Couldn't open image dir {container.dump}\n"
        f"The restore log was saved in {container.dump}/restore.log\n"
        "Container restore failed (try to check kernel messages, "
        'e.g. "dmesg | tail")\n',
    )


def _quota(rc: int) -> Callable[[Call, str, list[str]], int]:
    def refuse(call: Call, ctid: str, args: list[str]) -> int:
        _options(args, {})
        Container(call, ctid)
        note(call)
        if call.host.switch("openvz_kernel"):
            raise Unmodelled("disk quota commands")
        call.streams.say("Disk quota is not enabled, skipping operation")
        return rc

    return refuse


def snapshot_needs_ploop(rc: int) -> Callable[[Call, str, list[str]], int]:
    """Snapshots: refused on simfs as the tool does, not modelled on ploop."""

    def refuse(call: Call, ctid: str, args: list[str]) -> int:
        del args
        container = Container(call, ctid)
        if container.area.is_ploop:
            raise Unmodelled("snapshots of a ploop container")
        if rc == 156:
            note(call)
        raise Exit(rc, "Snapshot feature is only available for ploop-based CTs\n")

    return refuse


def compact(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl compact CTID"""
    _options(args, {})
    container = Container(call, ctid)
    if container.area.is_ploop:
        raise Unmodelled("compact of a ploop container")
    note(call)
    call.streams.say("Compact only makes sense for ploop containers")
    return 0


def console(call: Call, ctid: str, args: list[str]) -> int:
    """vzctl console CTID [TTY]"""
    from ovzsim import console as ovz_console  # slow to import

    return ovz_console.attach4(call, ctid, args)


COMMANDS: dict[str, Callable[[Call, str, list[str]], int]] = {
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
    "chkpnt": chkpnt,
    "suspend": chkpnt,
    "restore": restore,
    "resume": restore,
    "quotaon": _quota(60),
    "quotaoff": _quota(66),
    "quotainit": _quota(61),
    "snapshot": snapshot_needs_ploop(156),
    "snapshot-list": snapshot_needs_ploop(167),
    "compact": compact,
    "console": console,
}
# Known to the real tool, refused by the simulator.
_OTHERS = (
    "convert snapshot-switch snapshot-delete snapshot-mount snapshot-umount runscript "
    "reinstall register unregister"
).split()


def main(call: Call, args: list[str]) -> int:
    """Runs ``vzctl [--quiet|--verbose|--skiplock] SUBCOMMAND CTID …``."""
    args = list(args)
    while args and args[0].startswith("--"):
        option = args.pop(0)
        if option == "--version":
            call.streams.out(VERSION)
            return 0
        if option == "--quiet":
            call.streams.quiet = True
        elif option == "--skiplock":
            call.skip_lock = True
        elif option != "--verbose":
            raise Unmodelled(f"vzctl {option}")
    if not args:
        raise Unmodelled("vzctl without a subcommand")
    subcommand, *rest = args
    if subcommand in _OTHERS:
        raise Unmodelled(f"vzctl {subcommand}")
    if subcommand not in (*COMMANDS, "create", "set"):
        raise Exit(20, f"Bad command: {subcommand}\n")
    call.host.vz_conf()
    if not rest:
        raise Exit(21, "CT ID missing\n")
    ctid = resolve(call, rest[0], by_name=subcommand != "create")
    call.claim_faults(subcommand, ctid)
    # These two import large tables of options.
    if subcommand == "create":
        from ovzsim import create4

        return create4.create(call, ctid, rest[1:])
    if subcommand == "set":
        from ovzsim import set4

        return set4.set_(call, ctid, rest[1:])
    return COMMANDS[subcommand](call, ctid, rest[1:])


def resolve(call: Call, word: str, by_name: bool) -> str:
    """The container that a number or a name means. :raises Exit: 21, none."""
    if word.isdigit() and 0 < int(word) <= HIGHEST_CTID:
        return str(int(word))
    held = linked_ctid(call.host, word) if by_name and not word.isdigit() else None
    if held is None:
        raise Exit(21, f"Bad CT ID {word}\n")
    values, _ = call.load(held).parse(strict=True)
    if values.get("NAME") != word:
        raise Exit(21, f"Unable to find container by name {word}\n")
    return held
