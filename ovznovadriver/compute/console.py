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

"""What Nova asks of a server's console; ovz-console has the answers."""

from __future__ import annotations

import base64
from typing import Any

from nova.console import type as console_type
from oslo_log import log as logging

from nova import exception as nova_exception
from ovznovadriver import exception
from ovznovadriver.console import ask

LOG = logging.getLogger(__name__)

#: Bytes of a log that Nova is given at most, as by its own drivers.
MAX_OUTPUT = 100 * 1024


class Consoles:
    """The console service of this host. No call takes longer than ask.TIME_LIMIT.

    :param socket: the service's
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def output(self, instance: Any) -> bytes:
        """What a server has written on its console since it booted.

        :raises InstanceNotFound: it has no container here
        :raises ConsoleNotAvailable: the service does not answer
        """
        request = {"do": "output", "uuid": instance.uuid, "limit": MAX_OUTPUT}
        try:
            reply = ask.ask(self._socket, request)
        except exception.ConsoleUnknown as error:
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid) from error
        except exception.ConsoleError as error:
            LOG.warning("There is no console log: %s", error, instance=instance)
            raise nova_exception.ConsoleNotAvailable() from error
        return base64.b64decode(reply["output"])

    def serial(self, instance: Any) -> console_type.ConsoleSerial:
        """Where nova-serialproxy finds a server's console.

        :raises InstanceNotFound: it has no container here
        :raises SocketPortRangeExhaustedException: no port is left for it
        :raises ConsoleTypeUnavailable: the service does not answer
        """
        request = {"do": "port", "uuid": instance.uuid}
        try:
            reply = ask.ask(self._socket, request)
        except exception.ConsoleUnknown as error:
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid) from error
        except exception.NoFreePort as error:
            raise nova_exception.SocketPortRangeExhaustedException(
                host=str(error)
            ) from error
        except exception.ConsoleError as error:
            LOG.warning("There is no serial console: %s", error, instance=instance)
            raise nova_exception.ConsoleTypeUnavailable(
                console_type="serial"
            ) from error
        return console_type.ConsoleSerial(host=reply["host"], port=reply["port"])

    # -- vzctl.Witness --------------------------------------------------------------

    def starting(self, ctid: str) -> None:
        """Let the service listen before a container says its first word."""
        self._tell({"do": "starting", "ctid": ctid})

    def started(self, ctid: str, said: str) -> None:
        """Keep what `vzctl start` said."""
        self._tell({"do": "started", "ctid": ctid, "said": said[-ask.SAID_LIMIT :]})

    def _tell(self, request: dict[str, Any]) -> None:
        try:
            ask.ask(self._socket, request)
        except exception.ConsoleError as error:
            LOG.debug("A start goes on without a console: %s", error)
