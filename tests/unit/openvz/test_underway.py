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


import os
import socket
import threading

import pytest

from ovznovadriver import exception
from ovznovadriver.openvz import gate, underway


def test_a_failing_call_fails_its_caller():
    def call():
        raise exception.TransferError("no")

    with (
        underway.Watch(lambda _: None) as watch,
        pytest.raises(exception.TransferError, match="no"),
    ):
        watch.result_of(underway.Work(call))


def test_the_last_percentage_of_what_was_said_is_told():
    told, heard = [], threading.Event()

    def tell(part):
        told.append(part)
        heard.set()

    with underway.Watch(tell) as watch:

        def call():
            with open(watch.pipe, "w") as pipe:
                pipe.write("7\n30\n4")
                pipe.flush()
                assert heard.wait(30)
                heard.clear()
                pipe.write("0\n250\n")
                pipe.flush()
                assert heard.wait(30)
            return "done"

        assert watch.result_of(underway.Work(call)) == "done"
    assert told == [0.3, 1.0]
    assert not os.path.exists(watch.pipe)


def test_without_somebody_who_wants_them_there_are_no_percentages():
    with underway.Watch(None) as watch:
        assert watch.pipe is None
        watch.tell(1.0)
        assert watch.result_of(underway.Work(lambda: 5)) == 5


def test_a_gate_opens_when_it_is_told_to():
    with underway.Gate() as waiting:

        def call():
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(waiting.path)
                return link.recv(100)

        work = underway.Work(call)
        assert waiting.wait(work) is True
        waiting.open()
        assert work.result() == gate.GO
    assert not os.path.exists(waiting.path)


def test_whoever_waits_at_a_gate_that_is_closed_is_told_by_its_end():
    with underway.Gate() as waiting:

        def call():
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(waiting.path)
                return link.recv(100)

        work = underway.Work(call)
        assert waiting.wait(work) is True
        waiting.close()
        assert work.result() == b""
        # Nobody is there any more: whoever opens it is not the one to fail.
        waiting.open()


def test_a_gate_is_not_waited_at_for_work_that_has_ended():
    with underway.Gate() as waiting:
        work = underway.Work(lambda: None)
        assert waiting.wait(work) is False
        waiting.open()
