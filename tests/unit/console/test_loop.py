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

"""The loop: descriptors, times, threads."""

from __future__ import annotations

import os
import threading

import pytest

from ovznovadriver.console import loop as console_loop


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def test_a_descriptor_that_is_ready_is_told_until_it_is_forgotten(
    loop: console_loop.Loop, pipe: tuple[int, int]
) -> None:
    told: list[int] = []
    loop.watch(pipe[0], read=lambda: told.append(1))
    os.write(pipe[1], b"x")
    loop.turn(5)
    assert told == [1]
    loop.forget(pipe[0])
    loop.forget(pipe[0])
    loop.turn(0)
    assert told == [1]


def test_what_is_asked_for_last_counts(
    loop: console_loop.Loop, pipe: tuple[int, int]
) -> None:
    told: list[str] = []
    loop.watch(pipe[1], write=lambda: told.append("first"))
    loop.watch(pipe[1], write=lambda: told.append("second"))
    loop.turn(5)
    loop.watch(pipe[1])
    loop.turn(0)
    assert told == ["second"]


def test_a_descriptor_that_was_closed_in_the_same_turn_is_not_told(
    loop: console_loop.Loop,
) -> None:
    pipes = [os.pipe(), os.pipe()]
    told: list[int] = []

    def close_other(this: int) -> None:
        told.append(this)
        loop.forget(pipes[1 - this][0])

    for number, (reading, writing) in enumerate(pipes):
        loop.watch(reading, read=lambda n=number: close_other(n))
        os.write(writing, b"x")
    loop.turn(5)
    assert len(told) == 1


def test_times_come_in_their_order(loop: console_loop.Loop) -> None:
    told: list[str] = []
    loop.later(0.02, lambda: told.append("second"))
    loop.later(0.0, lambda: told.append("first"))
    while len(told) < 2:
        loop.turn()
    assert told == ["first", "second"]


def test_another_thread_wakes_it(loop: console_loop.Loop) -> None:
    told: list[threading.Thread] = []
    thread = threading.Thread(
        target=lambda: loop.soon(lambda: told.append(threading.current_thread()))
    )
    thread.start()
    while not told:
        loop.turn(10)
    thread.join()
    assert told == [threading.current_thread()]


def test_many_calls_from_threads_do_not_block_them(loop: console_loop.Loop) -> None:
    told: list[int] = []
    for number in range(20000):
        loop.soon(lambda n=number: told.append(n))
    while len(told) < 20000:
        loop.turn(0)
    assert told == list(range(20000))


def test_one_failure_does_not_end_it(
    loop: console_loop.Loop, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    loop.soon(lambda: 1 / 0)
    loop.soon(lambda: told.append(1))
    loop.turn(0)
    assert told == [1]
    assert "ZeroDivisionError" in caplog.text


def test_stop_ends_run_from_another_thread(loop: console_loop.Loop) -> None:
    thread = threading.Timer(0.01, loop.stop)
    thread.start()
    loop.run()
    thread.join()


def test_a_call_after_the_end_is_no_error() -> None:
    loop = console_loop.Loop()
    loop.close()
    loop.soon(lambda: None)
