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

"""Targets: what other hosts, the service, consoles and other processes say."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import types
from typing import Any

from ovznovadriver import exception
from ovznovadriver.cmd import receive
from ovznovadriver.compute import coldmigration, imagecache
from ovznovadriver.console import escape, record, requests, service
from ovznovadriver.openvz import ctid, outgoing, permit, privileged, transfer
from tests.fuzz.target import Runner, Source, Target, as_json, as_text, broken, scratch

_FACTS = transfer.Facts(
    protocol=transfer.PROTOCOL,
    host="host1",
    family="vzctl 4",
    layout="simfs",
    guest_ids=(0, 0),
    free_kb=1,
    architecture="x86_64",
    vzctl_version="4.9.4",
    confined=True,
)


def _facts(data: bytes) -> None:
    found = as_json(data)
    try:
        facts = transfer.Facts.from_dict(found)
    except exception.TransferError as error:
        str(error)
        return
    transfer.refusal(_FACTS, facts, needed_kb=2)
    assert transfer.Facts.from_dict(facts.as_dict()) == facts


class _Executor(Runner):
    def call(self, verb: str, **_kwargs: Any) -> Any:
        return "name" if verb == "plant_proof" else None


def _answer(data: bytes) -> None:
    source = Source(data)
    code, stderr, stdout = source.number(255), source.text(), source.text()
    node = types.SimpleNamespace(
        executor=_Executor(code, stdout, stderr),
        paths=types.SimpleNamespace(private="/vz/private"),
        host="host1",
    )
    way = transfer.Transfer(node, transfer.Peer(host="host2"))
    said = []
    for ask in (
        way.hello,
        lambda: way.is_shared("key"),
        lambda: way.sees_claim("101", "key"),
        lambda: way.discard("key"),
    ):
        try:
            ask()
        except exception.TransferError as error:
            said.append(str(error))
    assert not any("\n" in text for text in said)
    outgoing._reported(stderr)


def _rsync(data: bytes) -> None:
    def taken(*pieces: bytes) -> tuple[set[bytes], list[bytes]]:
        shown: list[bytes] = []
        sender = types.SimpleNamespace(
            sent=set(),
            _rest=b"",
            _began=None,
            _shown=types.SimpleNamespace(show=shown.append),
        )
        for piece in pieces:
            outgoing._Sender._take(sender, piece)
        return sender.sent, shown

    cut = len(data) // 2
    whole = taken(data)
    assert taken(data[:cut], data[cut:]) == whole
    assert taken(*(bytes([byte]) for byte in data)) == whole
    progress = outgoing._Progress(None, 0)
    for line in whole[1]:
        progress.show(line)


def _asked(data: bytes) -> None:
    codes = set()
    quiet = contextlib.ExitStack()
    for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
        quiet.enter_context(redirect(io.StringIO()))
    try:
        _files, words = receive._split(["--config-file", "x"], as_text(data))
        # As a shell has them.
        assert words == shlex.split(as_text(data))[1:]
        asked, others = receive._parse(words)
    except exception.CommandRefused:
        return
    except SystemExit as end:
        codes.add(end.code)
    finally:
        quiet.close()
    if codes:
        assert codes <= {0, 2}
        return
    assert asked.command in ("hello", "look", "discard", "receive")
    assert not others or others[0] == "--server"


def _console() -> Any:
    """The console service without its threads and sockets."""
    made = object.__new__(service.Service)
    made._consoles, made._absent, made._expected = {}, {}, {}
    made._options = types.SimpleNamespace(
        settings=types.SimpleNamespace(address="192.0.2.1")
    )
    made._look = lambda then=None: then and then()
    return made


def _request(data: bytes) -> None:
    replies: list[Any] = []
    peer = object.__new__(requests._Peer)
    peer._request = data
    peer._server = types.SimpleNamespace(handle=_console()._handle)
    peer.reply = replies.append
    peer._handle()
    assert len(replies) == 1
    json.dumps(replies)


def _dangerous(data: bytes, *, begins: bool = True) -> bool:
    """Whether vzctl would take a part of it for a command to itself."""
    held = False
    for byte in data:
        if held and byte in b".!,":
            return True
        held = byte == 0x1B and begins
        begins = byte == 0x0D
    return False


def _typed(data: bytes) -> None:
    whole = escape.Filter().feed(data)
    assert not _dangerous(whole)
    pieces = escape.Filter()
    assert b"".join(pieces.feed(bytes([byte])) for byte in data) == whole
    if not _dangerous(data) and not data.endswith(b"\x1b"):
        assert whole == data


#: As they are without a fault.
_RECORD_TYPES = dict(record._TYPES)


def _record(data: bytes) -> None:
    with scratch() as directory:
        (directory / "x.json").write_bytes(data)
        kept = record.Kept(str(directory), "x")
        for name, kind in _RECORD_TYPES.items():
            assert isinstance(getattr(kept.record, name), kind), name
        kept.record.said = "it starts"
        kept.save()
        assert record.Kept(str(directory), "x").record == kept.record


def _claim(data: bytes) -> None:
    with scratch() as directory:
        path = directory / "owner"
        # The boot of whoever runs this.
        path.write_bytes(data.replace(b"BOOT", ctid._boot_id().encode()))
        owner = ctid.Owner.read(path)
        if owner is not None:
            assert owner.is_alive() in (True, False)
            owner.write(path)
            assert ctid.Owner.read(path) == owner


def _cached(data: bytes) -> None:
    image = "5d35cf5b-8d1c-4a0e-9b0e-6f8d5f1c0a01"
    with scratch() as directory:
        (directory / f"{image}.json").write_bytes(data)
        (directory / f"{image}.tar").write_bytes(b"x")
        found = imagecache.Store(directory, 60).look_up(image)
        assert found is None or found.file_size == 1


def _any_entry(store: imagecache.Store, image_id: str) -> imagecache.Entry | None:
    try:
        return imagecache.Entry(**json.loads(store._note(image_id).read_bytes()))
    except (ValueError, TypeError, RecursionError):
        return None


def _disk_info(data: bytes) -> None:
    try:
        coldmigration._version(data.decode(errors="replace"))
    except exception.TransferError as error:
        str(error)


def _message(data: bytes) -> None:
    """What the root side makes of any request, when it has nothing to do."""
    try:
        asked = privileged.decode(data)
        verb, kwargs = asked["verb"], dict(asked["kwargs"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return  # no request: privsep tells the caller so
    done: list[dict[str, Any]] = []
    idle = {
        name: privileged._file_verb(lambda **given: done.append(given))
        for name in privileged.VERBS
    }
    idle["run"] = lambda **given: permit.check_program(
        given["argv"], given["timeout"], direct=False
    )
    real, privileged.VERBS = privileged.VERBS, idle
    try:
        reply = privileged.serve(verb, kwargs)
    finally:
        privileged.VERBS = real
    try:
        privileged.result(reply)
    except exception.OvzError:
        assert not done
    for given in done:
        for place in (given.get("base", "/"), *given.get("dirs", {}).values()):
            assert os.path.realpath(place).split("/")[1] not in ("proc", "dev")


def _reply(data: bytes) -> None:
    try:
        privileged.result(data)
    except (exception.OvzError, ValueError) as error:
        str(error)


TARGETS = {
    "facts": Target(
        _facts,
        ("openvz.transfer",),
        {
            "any version": broken(
                transfer.Facts,
                "from_dict",
                lambda _: classmethod(lambda cls, found: cls(**found)),
            )
        },
    ),
    "answer": Target(
        _answer,
        ("openvz.transfer", "openvz.outgoing"),
        {
            "the last line": broken(
                transfer.Transfer,
                "_problem",
                lambda _: lambda self, code, said: self._failed(said.splitlines()[-1]),
            )
        },
    ),
    "rsync": Target(
        _rsync,
        ("openvz.outgoing",),
        {
            "whole lines": broken(
                outgoing._Sender,
                "_take",
                lambda _: lambda self, data: self.sent.update(data.split(b"\n")),
            )
        },
    ),
    "asked": Target(
        _asked,
        ("cmd.receive",),
        {
            "quotes": broken(
                receive, "_split", lambda _: lambda args, asked: ([], asked.split()[1:])
            )
        },
    ),
    "console-request": Target(
        _request,
        ("console.requests", "console.service"),
        {
            "any CTID": broken(
                service, "_ctid", lambda _: lambda request: request["ctid"].lower()
            )
        },
    ),
    "console-typed": Target(
        _typed,
        ("console.escape",),
        {
            "one of three": broken(escape, "_COMMANDS", lambda _: b".!"),
            "only whole pieces": broken(
                escape.Filter,
                "feed",
                lambda _: lambda self, data: data.replace(b"\x1b.", b""),
            ),
        },
    ),
    "console-record": Target(
        _record,
        ("console.record",),
        {
            "no types": broken(
                record, "_TYPES", lambda real: dict.fromkeys(real, object)
            )
        },
    ),
    "claim": Target(
        _claim,
        ("openvz.ctid",),
        {
            "no types": broken(
                ctid.Owner,
                "read",
                lambda _: classmethod(
                    lambda cls, path: cls(**json.loads(path.read_text()))
                ),
            )
        },
    ),
    "cached-image": Target(
        _cached,
        ("compute.imagecache",),
        {"any size": broken(imagecache.Store, "look_up", lambda _: _any_entry)},
    ),
    "disk-info": Target(
        _disk_info,
        ("compute.coldmigration",),
        {
            "an object": broken(
                coldmigration,
                "_version",
                lambda _: lambda text: json.loads(text or "{}").get("version"),
            )
        },
    ),
    "message": Target(
        _message,
        ("openvz.privileged", "openvz.permit"),
        {
            "any base": broken(
                permit,
                "check_trusted_path",
                lambda _: lambda path, missing=False: path,
            )
        },
    ),
    "reply": Target(
        _reply,
        ("openvz.privileged",),
        {
            "any error": broken(
                privileged,
                "result",
                lambda _: lambda reply: privileged.decode(reply)["value"],
            )
        },
    ),
}
