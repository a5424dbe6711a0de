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

"""Everything that can go wrong below Nova, as types.

Nothing here knows Nova: ``driver.py`` turns these into Nova's own exceptions,
once, at the border.
"""

from __future__ import annotations


class OvzError(Exception):
    """The root of this package's exceptions."""


class ConfigurationError(OvzError):
    """The service cannot start as it is configured.

    The message is one sentence that says what to do.
    """


class InvalidValue(OvzError, ValueError):
    """A value that vzctl would take without checking, or would misread."""


class MalformedOutput(OvzError):
    """A tool answered something that is not in its language.

    It is never taken for an empty answer.
    """


class PrivilegeError(OvzError):
    """The way to root (privsep's or rootwrap's helper) does not work."""


class CommandRefused(OvzError):
    """The privileged side does not run this: it is not in its table."""


class UnsafePath(OvzError):
    """A path that is not what it must be: it leads out, or is no plain file."""


def _printable(text: str) -> str:
    # Bytes that are no UTF-8 come as lone surrogates, which no log can write.
    return text.encode(errors="surrogateescape").decode(errors="replace")


class CommandFailed(OvzError):
    """A command ended with an exit code that is not zero.

    :ivar command: the command line, secrets masked
    :ivar exit_code: the exit code; None when the command was ended by us
    :ivar stdout: the end of its standard output
    :ivar stderr: the end of its standard error
    """

    #: How much of an output is kept, in characters.
    TAIL = 2000

    #: A longer command line is cut to its first words in the message. Nova shows a
    #: server's owner 255 characters, and they are to hold the reason.
    SHOWN = 60

    def __init__(
        self, command: str, exit_code: int | None, stdout: str = "", stderr: str = ""
    ) -> None:
        self.command = command
        self.exit_code = exit_code
        self.stdout = _printable(stdout[-self.TAIL :])
        self.stderr = _printable(stderr[-self.TAIL :])
        super().__init__(self._message())

    def _message(self) -> str:
        # vzctl destroy explains itself on stdout.
        said = (self.stderr.strip() or self.stdout.strip()) or "no output"
        # The last line is the reason; warnings come before it.
        *before, last = [line.strip() for line in said.splitlines() if line.strip()]
        message = f"'{self.shown}' failed with exit code {self.exit_code}: {last}"
        return f"{message} (before that: {'; '.join(before)})" if before else message

    @property
    def shown(self) -> str:
        """The command line, cut to its first words when it is long."""
        if len(self.command) <= self.SHOWN:
            return self.command
        return " ".join(self.command.split(" ")[:3]) + " …"


class CommandTimedOut(CommandFailed):
    """A command ran longer than its time limit and was ended with its children."""

    def __init__(
        self, command: str, seconds: float, stdout: str = "", stderr: str = ""
    ) -> None:
        self.seconds = seconds
        super().__init__(command, None, stdout, stderr)

    def _message(self) -> str:
        return (
            f"'{self.shown}' did not end within {self.seconds:g} s and was ended"
            " with all processes it had started"
        )


class ContainerLocked(CommandFailed):
    """Another vzctl holds the container's lock (exit code 9)."""


class ContainerConfigMissing(CommandFailed):
    """The container has no configuration file (exit code 14)."""


class ContainerNotRunning(CommandFailed):
    """The container is not running (exit code 31)."""


class ContainerRunning(CommandFailed):
    """The container is running (exit code 32)."""


class ContainerMounted(CommandFailed):
    """The container's file system is mounted (exit code 41)."""


class ContainerNotMounted(CommandFailed):
    """The container's file system is not mounted (exit code 40)."""


class PrivateAreaMissing(CommandFailed):
    """The container's private area is gone (exit code 43)."""


class PrivateAreaExists(CommandFailed):
    """A private area of that CTID is there already (exit code 44)."""


class SampleUnusable(CommandFailed):
    """`create --config` made nothing (exit code 82).

    There is no such sample, or a container of that CTID is there already.
    """


class DiskImageNotResized(CommandFailed):
    """A disk image has another size than was asked for (exit code 154).

    When it was to become smaller: the files in it need more room.
    """


class NameInUse(CommandFailed):
    """Another container has that name (exit codes 131 and 137)."""


class MoveFailed(CommandFailed):
    """vzmigrate did not move a container to another host."""

    #: What the operator may do about it.
    ADVICE = ""

    def _message(self) -> str:
        message = super()._message()
        return f"{message}. {self.ADVICE}" if self.ADVICE else message


class PeerUnreachable(MoveFailed):
    """root here cannot reach root on the other host by ssh (exit code 4)."""

    ADVICE = "Let root of this host in there, as root, by an ssh key."


class ContainerThere(MoveFailed):
    """The other host has a container of that CTID (exit code 9)."""

    ADVICE = (
        "Give each host CTIDs of its own: [openvz]ctid_first and [openvz]ctid_last."
    )


class PeerUnsuitable(MoveFailed):
    """The container could not run on the other host (exit codes 14 and 16 to 18)."""


class MoveLocked(MoveFailed):
    """Another command holds the container's lock, or left it (exit code 20)."""

    ADVICE = "If the process in the lock file is gone, remove the file."


class ContainerNotFound(OvzError):
    """vzlist worked, and the container is not there."""


class MayRun(OvzError):
    """A container that is to go runs still, or nobody knows whether it does."""


class ClaimError(OvzError):
    """A CTID cannot be claimed, or its claim is not ours."""


class NoFreeCtid(ClaimError):
    """No CTID is left to claim."""


class ImageUnsuitable(OvzError):
    """The image cannot become a container's root file system."""


class ImageTooLarge(ImageUnsuitable):
    """The image does not fit into the root file system it is for.

    :ivar size: bytes that it takes at least
    :ivar limit: bytes that there are for it
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(f"it takes more than {limit} bytes unpacked")


class DiskFull(OvzError):
    """A file system of the node has no room for what must be written."""


class NetworkUnsupported(OvzError):
    """A port of a kind that this driver cannot plug."""


class InterfaceMissing(OvzError):
    """vzctl started the container without one of its interfaces."""


class CleanupFailed(OvzError):
    """Some steps of a clean-up failed; the others were done.

    :ivar failures: a sentence for each step that failed
    """

    def __init__(self, what: str, failures: list[str]) -> None:
        self.failures = failures
        steps = "; ".join(failures)
        super().__init__(f"{what}: {len(failures)} step(s) failed: {steps}")


class ConsoleError(OvzError):
    """The console service does not answer, or cannot do what it is asked."""


class ConsoleUnknown(ConsoleError):
    """The console service knows no such container."""


class NoFreePort(ConsoleError):
    """No TCP port is left to serve a console on."""


class TransferError(OvzError):
    """A container's tree cannot go to another host, or has not arrived there.

    The message is one sentence for the operator.
    """


class ContainerTaken(TransferError):
    """A container that was handed over is another host's."""


class PeerFull(TransferError, DiskFull):
    """The other host has no room for the tree."""
