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

"""``ovz-console``: the console service of a host; see doc/source/consoles.rst.

Runs as root, apart from nova-compute, and reads the same nova.conf. Nova itself is
not imported: a service that is to outlive nova-compute needs little.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence

from oslo_config import cfg

from ovznovadriver import conf, exception
from ovznovadriver.console import container, service
from ovznovadriver.openvz import privileged, privsep, processes, utils, vzctl, vzlist

LOG = logging.getLogger(__name__)

#: Seconds that vzlist may take; the command timeout is for commands that change.
_LOOK_LIMIT = 30.0

# What Nova has under these names, with its defaults (nova.conf.serial_console).
_SERIAL_OPTIONS = [
    cfg.BoolOpt("enabled", default=False),
    cfg.StrOpt("port_range", default="10000:20000"),
    cfg.StrOpt("proxyclient_address", default="127.0.0.1"),
]


def read_options(args: Sequence[str]) -> cfg.ConfigOpts:
    """The options of nova.conf, and of the command line."""
    found = cfg.ConfigOpts()
    conf.register_opts(found)
    conf.register_nova_opts(found)
    found.register_opts(_SERIAL_OPTIONS, group="serial_console")
    found.register_cli_opt(cfg.BoolOpt("debug", default=False, help="Log more."))
    found(list(args), project="nova", prog="ovz-console", **conf.places())
    return found


def _ports(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5}):(\d{1,5})", text)
    first, end = (int(part) for part in match.groups()) if match else (0, 0)
    if not 0 < first < end <= 65536:
        raise exception.ConfigurationError(
            f"[serial_console]port_range is {text}: set it to two ports with a colon"
            " between, the lower one first."
        )
    return first, end


def service_options(found: cfg.ConfigOpts) -> service.Options:
    """What the service needs of them.

    :raises ConfigurationError: one sentence that says what to do
    """
    group, serial = found.openvz, found.serial_console
    return service.Options(
        host=found.host,
        socket=group.console_socket,
        group=group.console_group,
        interval=group.console_interval,
        settings=container.Settings(
            log_dir=group.console_log_dir,
            log_limit=group.console_log_max_kb * 1024,
            address=serial.proxyclient_address if serial.enabled else None,
            ports=_ports(serial.port_range),
        ),
    )


def build(found: cfg.ConfigOpts) -> service.Service:
    """The service, ready to run.

    :raises ConfigurationError: one sentence that says what to do
    :raises OvzError: vzctl does not work
    """
    options = service_options(found)
    directories = found.openvz.program_dirs
    program = shutil.which("vzctl", path=os.pathsep.join(directories))
    if program is None:
        raise exception.ConfigurationError(
            f"vzctl is not in {', '.join(directories)}: install it, or set"
            " [openvz]program_dirs."
        )
    # This process is its own privileged side.
    privsep.context.set_client_mode(False)
    runner = utils.Executor(program_dirs=directories, timeout=_LOOK_LIMIT)
    answer = runner.run("vzctl", "--version").stdout
    family = vzctl.family_of(vzctl.parse_version(answer))

    def start(ctid: str) -> processes.Terminal:
        argv = [program, *vzctl.console_arguments(family, ctid)]
        return processes.start_on_terminal(argv, env=privileged.CLEAN_ENVIRONMENT)

    return service.Service(options, vzlist.Vzlist(runner).list, start)


def main(args: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code is 1 when it could not begin."""
    found = read_options(sys.argv[1:] if args is None else args)
    logging.basicConfig(
        level=logging.DEBUG if found.debug else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
    )
    os.umask(0o022)  # what is nobody's business has a mode of its own
    try:
        consoles = build(found)
    except (exception.OvzError, OSError) as error:
        print(f"ovz-console: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: consoles.stop())
    LOG.info("Serving the consoles of host %s", found.host)
    consoles.run()
    return 0
