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

from typing import ClassVar

import pytest

from nova import exception as nova_exception
from ovznovadriver import exception
from ovznovadriver.compute import errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exception.ConfigurationError("set it."), nova_exception.InvalidConfiguration),
        (exception.InvalidValue("no name"), nova_exception.InvalidInput),
        (exception.NetworkUnsupported("no port"), nova_exception.InvalidInput),
        (exception.CommandFailed("vzctl start 101", 47), errors.OpenVZError),
        (exception.CommandTimedOut("vzctl start 101", 5), errors.OpenVZError),
        (exception.MalformedOutput("line 1"), errors.OpenVZError),
        (exception.ContainerNotFound("it is gone"), errors.OpenVZError),
        (exception.CleanupFailed("left-overs", ["a: b"]), errors.OpenVZError),
        (exception.PrivilegeError("no way to root"), errors.OpenVZError),
        # By this one Nova knows that addresses may still be in use.
        (exception.MayRun("vzctl stop"), nova_exception.InstancePowerOffFailure),
        (exception.OvzError("something"), errors.OpenVZError),
    ],
)
def test_every_error_of_ours_becomes_one_of_novas_and_keeps_its_text(error, expected):
    translated = errors.translate(error)

    assert type(translated) is expected
    assert isinstance(translated, nova_exception.NovaException)
    assert str(error) in str(translated)


def test_a_text_with_a_percent_sign_is_kept():
    error = exception.CommandFailed("vzctl create 101", 46, "", "100%s used, 5%(a)d")

    assert "100%s used, 5%(a)d" in str(errors.translate(error))


@errors.translates
class Driver:
    """A class with all kinds of members."""

    capabilities: ClassVar = {"a": True}

    def fine(self, one, *, two):
        """Its own text."""
        return one, two

    def failing(self):
        raise exception.ContainerNotFound("it is gone")

    def of_nova(self):
        raise nova_exception.InstanceNotFound(instance_id="7")

    def missing(self):
        raise NotImplementedError

    def _private(self):
        raise exception.ContainerNotFound("it is gone")


def test_public_methods_raise_novas_exceptions():
    with pytest.raises(errors.OpenVZError, match="it is gone") as caught:
        Driver().failing()

    assert isinstance(caught.value.__cause__, exception.ContainerNotFound)


def test_all_other_exceptions_go_through():
    with pytest.raises(nova_exception.InstanceNotFound):
        Driver().of_nova()
    with pytest.raises(NotImplementedError):
        Driver().missing()


def test_what_is_not_a_public_method_stays_as_it_is():
    assert Driver().fine(1, two=2) == (1, 2)
    assert Driver.fine.__doc__ == "Its own text."
    assert Driver.capabilities == {"a": True}
    with pytest.raises(exception.ContainerNotFound):
        Driver()._private()
