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

import pytest

from ovznovadriver import exception


def all_types(root=exception.OvzError):
    for kind in root.__subclasses__():
        yield kind
        yield from all_types(kind)


def test_every_exception_has_the_one_root():
    declared = {
        value
        for value in vars(exception).values()
        if isinstance(value, type) and issubclass(value, Exception)
    }

    assert declared == {exception.OvzError, *all_types()}


@pytest.mark.parametrize("kind", sorted(all_types(), key=lambda kind: kind.__name__))
def test_every_exception_says_what_it_is_about(kind):
    assert kind.__doc__


def test_a_failed_command_says_what_ran_and_what_it_said():
    error = exception.CommandFailed("vzctl start 101", 47, "out\n", "no init\n")

    assert str(error) == "'vzctl start 101' failed with exit code 47: no init"
    assert (error.command, error.exit_code) == ("vzctl start 101", 47)
    assert (error.stdout, error.stderr) == ("out\n", "no init\n")


def test_the_reason_comes_before_what_nova_cuts_off():
    error = exception.CommandFailed(
        "vzctl set 101 --description " + "x" * 400, 21, "", "Warning: a\n\nBad value\n"
    )

    assert str(error) == (
        "'vzctl set 101 …' failed with exit code 21: Bad value"
        " (before that: Warning: a)"
    )


@pytest.mark.parametrize(
    ("stdout", "stderr", "said"),
    [("is running\n", "", "is running"), ("out", " \n", "out"), ("", "", "no output")],
)
def test_what_destroy_says_on_stdout_is_told_too(stdout, stderr, said):
    error = exception.CommandFailed("vzctl destroy 101", 32, stdout, stderr)

    assert str(error).endswith(f": {said}")


def test_the_end_of_a_long_output_is_kept():
    error = exception.CommandFailed(
        "vzctl create 101", 46, "a" * 9000, "b" * 9000 + "c"
    )

    assert len(error.stdout) == exception.CommandFailed.TAIL
    assert len(error.stderr) == exception.CommandFailed.TAIL
    assert error.stderr.endswith("c")


def test_bytes_that_are_no_utf8_can_be_logged():
    raw = b"caf\xe9".decode(errors="surrogateescape")

    error = exception.CommandFailed("vzctl start 101", 1, raw, raw)

    assert str(error).encode()
    assert error.stdout.encode() == error.stderr.encode() == "caf\ufffd".encode()


def test_a_command_that_was_ended_has_no_exit_code():
    error = exception.CommandTimedOut("vzctl stop 101", 0.5, "out", "err")

    assert error.exit_code is None
    assert error.seconds == 0.5
    assert "did not end within 0.5 s" in str(error)
    assert isinstance(error, exception.CommandFailed)


def test_a_bad_value_is_a_value_error_as_well():
    assert issubclass(exception.InvalidValue, ValueError)


def test_a_failed_clean_up_counts_and_names_its_failures():
    error = exception.CleanupFailed("left-overs of container 101", ["a: b", "c: d"])

    assert error.failures == ["a: b", "c: d"]
    assert str(error) == "left-overs of container 101: 2 step(s) failed: a: b; c: d"
