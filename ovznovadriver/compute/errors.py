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

"""Errors of the layers below become Nova's, here and only here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from oslo_log import log as logging

from nova import exception as nova_exception
from ovznovadriver import exception

LOG = logging.getLogger(__name__)

T = TypeVar("T")


class OpenVZError(nova_exception.NovaException):  # type: ignore[misc] # no types
    """Something below Nova failed; the message says what.

    A subclass of Nova's own root: where it catches NovaException, as it does when an
    interface is attached, anything else would leak what it had made.
    """


def translate(error: exception.OvzError) -> nova_exception.NovaException:
    """Nova's exception for one of ours."""
    if isinstance(error, exception.ConfigurationError):
        return nova_exception.InvalidConfiguration(str(error))
    if isinstance(error, (exception.NetworkUnsupported, exception.InvalidValue)):
        # A request that no host could serve: Nova gives it up, with this text.
        return nova_exception.InvalidInput(reason=str(error))
    if isinstance(error, exception.MayRun):
        # After any other failure to remove a server Nova gives its addresses away.
        return nova_exception.InstancePowerOffFailure(reason=str(error))
    return OpenVZError(str(error))


def translated(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method raise Nova's exceptions."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except exception.OvzError as error:
            raise translate(error) from error

    return wrapper


def translates(cls: type[T]) -> type[T]:
    """Let all public methods of a class raise Nova's exceptions."""
    for name, method in list(vars(cls).items()):
        if callable(method) and not name.startswith("_"):
            setattr(cls, name, translated(method))
    return cls
