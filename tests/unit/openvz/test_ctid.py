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

"""Claims, also by many processes at once."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import command, ctid, procfs
from tests import support

HOST, OTHER_HOST = "host1", "host2"
LIMIT = 60  # seconds for any process of a test to end


@pytest.fixture
def claims(tmp_path):
    return ctid.Claims(str(tmp_path), HOST)


def nothing():
    return ()


def an_owner(**changes):
    """The owner file of a claim by a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(LIMIT)
    owner = {
        "uuid": support.UUID,
        "host": HOST,
        "pid": process.pid,
        "started": 1,
        "boot_id": ctid._boot_id(),
    }
    return json.dumps({**owner, **changes})


def plant(directory, number, owner):
    place = directory / str(number)
    place.mkdir()
    if owner is not None:
        (place / "owner").write_bytes(owner.encode())


# -- the number ---------------------------------------------------------------------


def test_the_first_number_is_not_a_reserved_one(claims):
    assert claims.claim(support.UUID, nothing) == "101"


def test_a_claim_is_on_the_disk_before_it_is_one(claims, tmp_path, monkeypatch):
    synced = []

    def sync(descriptor):
        with open(f"/proc/self/fd/{descriptor}") as file:
            synced.append((json.load(file)["uuid"], (tmp_path / "101").exists()))

    monkeypatch.setattr(os, "fsync", sync)

    claims.claim(support.UUID, nothing)

    assert synced == [(support.UUID, False)]


def test_reserved_numbers_in_use_do_not_matter(claims):
    assert claims.claim(support.UUID, lambda: [1, 100]) == "101"


def test_the_number_is_above_all_that_are_in_use_or_claimed(claims):
    assert claims.claim(support.UUID, lambda: [103, 7]) == "104"
    assert claims.claim(support.OTHER_UUID, nothing) == "105"


def test_a_number_stays_taken_until_it_is_released(claims):
    first = claims.claim(support.UUID, nothing)
    claims.claim(support.OTHER_UUID, nothing)
    claims.release(first)

    assert claims.numbers() == {102}


def test_what_is_in_use_is_asked_while_nobody_else_claims(claims, tmp_path):
    def ask():
        # A second claimer waits at the lock, and comes after the first.
        waiting.start()
        assert not os.path.exists(tmp_path / "102")
        return ()

    waiting = process(claim_many, str(tmp_path), 1, None)
    assert claims.claim(support.UUID, ask) == "101"
    end(waiting)
    assert claims.numbers() == {101, 102}


def test_a_highest_number_at_the_end_makes_gaps_be_used(claims):
    taken = {command.MAX_CTID, 101, 103}

    assert claims.claim(support.UUID, lambda: taken) == "102"
    assert claims.claim(support.OTHER_UUID, lambda: taken) == "104"


def test_without_any_number_left_none_is_given(tmp_path):
    claims = ctid.Claims(str(tmp_path), HOST, (101, 103))

    with pytest.raises(exception.NoFreeCtid, match="101 to 103"):
        claims.claim(support.UUID, lambda: [101, 102, 103])
    assert claims.numbers() == set()


@given(
    bounds=st.lists(st.integers(101, 130), min_size=2, max_size=2).map(sorted),
    taken=st.sets(st.integers(1, 140)),
)
def test_numbers_are_chosen_within_bounds(bounds, taken):
    first, last = bounds
    claims = ctid.Claims("/nonexistent", HOST, (first, last))

    candidates = list(claims._candidates(taken))

    within = set(range(first, last + 1))
    assert sorted(candidates) == sorted(within - taken)
    above = [number for number in candidates if number > max(within & taken, default=0)]
    assert candidates[: len(above)] == above == sorted(above)


def test_a_certain_number_can_be_claimed_be_it_out_of_bounds(tmp_path):
    claims = ctid.Claims(str(tmp_path), HOST, (200, 300))

    claims.claim_this("101", support.UUID, nothing)

    assert claims.find(support.UUID) == ["101"]
    assert claims.has("101", ctid.ARRIVING)
    assert claims.claim(support.OTHER_UUID, nothing) == "200"


def test_a_certain_number_that_is_taken_is_not_claimed(claims, tmp_path):
    claims.claim(support.UUID, nothing)
    plant(tmp_path, 102, an_owner(host=OTHER_HOST))

    for number, in_use in (("101", ()), ("102", ()), ("103", (103,))):
        with pytest.raises(exception.ClaimError, match=f"CTID {number} is taken"):
            claims.claim_this(number, support.UUID, lambda used=in_use: used)

    assert claims.numbers() == {101, 102}
    assert not claims.has("101", ctid.ARRIVING)


def test_a_claim_of_another_host_can_become_this_ones(claims, tmp_path):
    there = ctid.Claims(str(tmp_path), OTHER_HOST)
    number = there.claim(support.UUID, nothing)
    for mark in (ctid.MADE, ctid.LEAVING, ctid.HANDED):
        there.note(number, mark)

    claims.sign(number, support.UUID)

    assert there.find(support.UUID) == []
    assert claims.find(support.UUID) == [number]
    marks = (ctid.MADE, ctid.ARRIVING, ctid.LEAVING, ctid.HANDED)
    assert [claims.has(number, mark) for mark in marks] == [True, True, False, False]
    claims.release(number)
    assert claims.numbers() == set()


def test_a_claim_that_cannot_be_signed_is_not_kept(claims, monkeypatch):
    monkeypatch.setattr(procfs, "start_time", lambda pid: None)

    with pytest.raises(exception.ClaimError):
        claims.claim(support.UUID, nothing)
    assert claims.numbers() == set()


@given(
    taken=st.sets(
        st.one_of(
            st.integers(1, 130), st.integers(command.MAX_CTID - 3, command.MAX_CTID + 3)
        )
    )
)
def test_candidates_are_free_and_allowed_and_begin_above_the_highest(taken):
    claims = ctid.Claims("/nonexistent", HOST)
    seen = list(itertools.islice(claims._candidates(taken), 200))

    assert seen
    assert len(set(seen)) == len(seen)
    assert all(ctid.FIRST_CTID <= number <= command.MAX_CTID for number in seen)
    assert not set(seen) & taken
    allowed = [n for n in taken if n >= ctid.FIRST_CTID]
    if max(allowed, default=0) < command.MAX_CTID:
        assert seen[0] == max(allowed, default=100) + 1


# -- many processes -----------------------------------------------------------------


def claim_many(directory, count, results):
    """What a claiming process does."""
    claims = ctid.Claims(directory, HOST)
    mine = [claims.claim(f"{os.getpid()}-{n}", nothing) for n in range(count)]
    if results is not None:
        results.put(mine)


def race_for_numbers(directory, numbers, results):
    """Take numbers without the lock around the search."""
    claims = ctid.Claims(directory, HOST)
    results.put([number for number in numbers if claims._take(number, "uuid")])


def process(target, *args):
    context = multiprocessing.get_context("spawn")
    return context.Process(target=target, args=args, daemon=True)


def end(*processes):
    for one in processes:
        one.join(LIMIT)
        assert one.exitcode == 0


@pytest.mark.parametrize(
    ("target", "work"), [(claim_many, 50), (race_for_numbers, range(101, 301))]
)
def test_no_two_processes_get_the_same_number(tmp_path, target, work):
    results = multiprocessing.get_context("spawn").Queue()
    racing = [process(target, str(tmp_path), work, results) for _ in range(4)]
    for one in racing:
        one.start()
    numbers = [int(number) for _ in racing for number in results.get(timeout=LIMIT)]
    end(*racing)

    assert sorted(numbers) == list(range(101, 301))
    assert ctid.Claims(str(tmp_path), HOST).numbers() == set(numbers)


# -- whose it is --------------------------------------------------------------------


def test_a_claim_says_who_claimed_for_whom(claims):
    number = claims.claim(support.UUID, nothing)

    owner = claims.owner(number)

    assert (owner.uuid, owner.host, owner.pid) == (support.UUID, HOST, os.getpid())
    assert owner.is_alive()


def test_a_process_with_the_same_number_in_another_boot_is_another_one(claims):
    number = claims.claim(support.UUID, nothing)
    owner = vars(claims.owner(number))

    assert not ctid.Owner(**{**owner, "boot_id": "another"}).is_alive()
    assert not ctid.Owner(**{**owner, "started": owner["started"] + 1}).is_alive()


def test_an_instances_claims_are_found(claims, tmp_path):
    elsewhere = ctid.Claims(str(tmp_path), OTHER_HOST)
    elsewhere.claim(support.UUID, nothing)
    claims.claim(support.OTHER_UUID, nothing)
    mine = claims.claim(support.UUID, nothing)

    assert claims.find(support.UUID) == [mine]
    assert claims.find("no such instance") == []


UNREADABLE = {
    "missing": None,
    "empty": "",
    "no JSON": "{",
    "a list": "[1]",
    "a number": "5",
    "more keys": '{"uuid": "u", "evil": 1}',
    "fewer keys": "{}",
}


@pytest.mark.parametrize("owner", UNREADABLE.values(), ids=UNREADABLE)
def test_a_claim_whose_owner_cannot_be_read_is_nobodys_and_stays(
    claims, tmp_path, owner
):
    plant(tmp_path, 101, owner)

    assert claims.owner("101") is None
    assert claims.find(support.UUID) == []
    assert not claims.is_abandoned("101")
    assert claims.claim(support.UUID, nothing) == "102"


def test_bytes_that_are_no_text_are_no_owner(claims, tmp_path):
    plant(tmp_path, 101, None)
    (tmp_path / "101/owner").write_bytes(b"\xff\xfe{}")

    assert claims.owner("101") is None


def test_what_is_no_claim_in_the_directory_is_left_alone(claims, tmp_path):
    for name in ("0101", "x", "12345678901", "\u0661\u0660\u0661", "0"):
        (tmp_path / name).mkdir()
    (tmp_path / "105").touch()

    assert claims.numbers() == {105}
    assert claims.owner("105") is None
    assert not claims.is_paused("105")
    claims.release("105")
    assert claims.numbers() == {105}


# -- giving back --------------------------------------------------------------------


def test_releasing_twice_or_what_was_never_claimed_is_no_error(claims):
    number = claims.claim(support.UUID, nothing)
    claims.release(number)
    claims.release(number)
    claims.release("7777")

    assert claims.numbers() == set()


def test_another_hosts_claim_is_not_released(claims, tmp_path):
    number = ctid.Claims(str(tmp_path), OTHER_HOST).claim(support.UUID, nothing)

    with pytest.raises(exception.ClaimError, match=OTHER_HOST):
        claims.release(number)
    assert claims.numbers() == {int(number)}


def test_a_claim_is_given_back_at_once_or_not_at_all(claims, tmp_path, monkeypatch):
    number = claims.claim(support.UUID, nothing)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: None)

    claims.release(number)

    assert claims.numbers() == set()
    (part,) = claims.parts()
    monkeypatch.undo()
    claims.remove_part(part)
    assert os.listdir(tmp_path) == [".lock"]


# -- what the dead have left --------------------------------------------------------


def test_a_claim_of_a_process_that_is_gone_is_abandoned(claims, tmp_path):
    plant(tmp_path, 101, an_owner())
    plant(tmp_path, 102, an_owner(boot_id="former"))
    plant(tmp_path, 103, an_owner(host=OTHER_HOST))

    assert [claims.is_abandoned(ctid) for ctid in claims.ctids()] == [True, True, False]


def test_a_claim_whose_process_runs_is_not_abandoned(claims):
    assert not claims.is_abandoned(claims.claim(support.UUID, nothing))
    assert not claims.is_abandoned("555")


def claim_and_wait(directory, ready):
    ctid.Claims(directory, HOST).claim(support.UUID, nothing)
    ready.set()
    signal.pause()


def test_a_killed_process_leaves_an_abandoned_claim(claims, tmp_path):
    ready = multiprocessing.get_context("spawn").Event()
    other = process(claim_and_wait, str(tmp_path), ready)
    other.start()
    assert ready.wait(LIMIT)
    assert not claims.is_abandoned("101")

    other.kill()
    # Its parent, this process, has not asked about it yet.
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)

    assert claims.is_abandoned("101")
    other.join(LIMIT)


def test_half_of_a_claim_is_left_alone_while_somebody_may_be_writing_it(
    claims, tmp_path
):
    (tmp_path / ".new-01").mkdir()
    (tmp_path / ".new-02").mkdir()
    os.utime(tmp_path / ".new-02", (1, 1))
    plant(tmp_path, ".new-03", an_owner())
    plant(tmp_path, ".new-04", an_owner(host=OTHER_HOST))
    plant(tmp_path, ".new-05", json.dumps(vars(ctid.Owner.this_process("", HOST))))

    assert claims.parts() == [".new-02", ".new-03"]
    claims.remove_part(".new-02")
    claims.remove_part("101")
    assert claims.parts() == [".new-03"]
    assert claims.numbers() == set()


def test_a_claim_that_says_nothing_is_told_when_it_is_old(claims, tmp_path):
    plant(tmp_path, 101, None)
    plant(tmp_path, 102, None)
    plant(tmp_path, 103, an_owner())
    for number in ("102", "103"):
        os.utime(tmp_path / number, (1, 1))

    assert claims.unsigned() == ["102"]


def test_an_empty_directory_is_a_claim_and_not_replaced(claims, tmp_path):
    plant(tmp_path, 101, None)

    assert not claims._take(101, support.UUID)
    assert claims.owner("101") is None


# -- UUIDs --------------------------------------------------------------------------


def test_a_uuid_is_claimed_once_and_found(claims):
    assert claims.claim_uuid(support.UUID) == support.UUID

    assert claims.find(support.UUID) == [support.UUID]
    assert claims.numbers() == set()
    with pytest.raises(exception.ClaimError, match=HOST):
        claims.claim_uuid(support.UUID)
    claims.release(support.UUID)
    assert claims.ctids() == []


def test_a_uuid_that_the_dead_have_claimed_is_claimed_anew(claims, tmp_path):
    plant(tmp_path, support.UUID, an_owner())
    plant(tmp_path, support.OTHER_UUID, an_owner(host=OTHER_HOST))

    claims.claim_uuid(support.UUID)

    assert claims.owner(support.UUID).pid == os.getpid()
    with pytest.raises(exception.ClaimError, match=OTHER_HOST):
        claims.claim_uuid(support.OTHER_UUID)


# -- how far a container is ---------------------------------------------------------


def test_a_claim_says_how_far_its_container_is(claims, tmp_path):
    number = claims.claim(support.UUID, nothing)
    assert not claims.has(number, ctid.MADE)

    claims.note(number, ctid.MADE)
    claims.note("555", ctid.MADE)

    assert claims.has(number, ctid.MADE)
    assert not claims.has(number, ctid.REMOVING)
    assert not (tmp_path / "555").exists()


# -- the service --------------------------------------------------------------------


def test_a_hosts_service_is_known_as_long_as_it_runs(claims, tmp_path):
    assert claims.served_by() is None

    claims.serve()

    assert claims.served_by() == os.getpid()
    assert ctid.Claims(str(tmp_path), OTHER_HOST).served_by() is None
    (path,) = (tmp_path / ".lock").iterdir()
    path.write_text(an_owner())
    assert claims.served_by() is None


# -- paused -------------------------------------------------------------------------


def test_a_pause_is_remembered_until_it_ends(claims):
    number = claims.claim(support.UUID, nothing)
    assert not claims.is_paused(number)

    claims.note_paused(number, True)
    assert claims.is_paused(number)

    claims.note_paused(number, False)
    claims.note_paused(number, False)
    assert not claims.is_paused(number)


def test_a_pause_is_over_when_the_node_was_booted(claims, monkeypatch):
    number = claims.claim(support.UUID, nothing)
    claims.note_paused(number, True)
    monkeypatch.setattr(ctid, "_boot_id", lambda: "another")

    assert not claims.is_paused(number)


def test_a_pause_that_comes_too_late_claims_nothing(claims):
    claims.release(number := claims.claim(support.UUID, nothing))
    claims.note_paused(number, True)

    claims.note_paused(number, False)

    assert claims.claim(support.UUID, nothing) == number


def test_a_container_without_a_claim_can_be_paused_and_forgotten(claims):
    claims.note_paused("150", True)

    assert claims.is_paused("150")
    claims.release("150")
    assert not claims.is_paused("150")
    claims.note_paused("150", False)
