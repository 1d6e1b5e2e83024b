"""The errors of the commands and of the client, each with its exit code; `wanworks --help` lists the codes from here.

WanworksError
├── ApiRefused            1   the API refused the request, or the job did not succeed
│   ├── BadRequest            400, 413, 415, 416, 422: invalid request; `fields` names the invalid fields
│   ├── AccessRefused         401, 403: the key is missing, invalid, or does not permit this
│   ├── NotThere              404: no such model, job, alert or artifact
│   ├── StateForbids          409: not possible in the present state
│   ├── TooBusy               429, 503: retry after `retry_after_seconds`
│   └── ServerFault           500 and other server errors
├── ApiUnreachable        3   nothing answers at the API's address
├── TransferBroken        3   a file arrived corrupted, or its transfer broke repeatedly
├── TimedOut              4   not finished within the time limit
└── AlreadyRunning        5   another process holds this home, device, port or folder
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    TIMED_OUT = 4
    ALREADY_RUNNING = 5
    INTERRUPTED = 130  # 128 + SIGINT, as in shells

    @property
    def meaning(self) -> str:
        return _MEANING[self]


_MEANING = {
    ExitCode.OK: "success",
    ExitCode.REFUSED: "the job failed or was cancelled, or the API refused the request",
    ExitCode.USAGE: "an invalid option or setting",
    ExitCode.UNREACHABLE: "the API (or, for a process command, Redis or the database) cannot be reached",
    ExitCode.TIMED_OUT: "not finished within --timeout; the job continues",
    ExitCode.ALREADY_RUNNING: "another process holds this home, device or port",
    ExitCode.INTERRUPTED: "interrupted from the keyboard; the job continues",
}


class WanworksError(Exception):
    """An error occurred in wanworks."""

    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[ExitCode] = ExitCode.REFUSED  # of the command that it ends

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").splitlines()[0])

    @property
    def message(self) -> str:
        return str(self)


class ConfigurationError(WanworksError):
    """The configuration cannot be used."""

    code = "configuration_error"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class WrongField:
    """One invalid field: its path, such as `loras.0.scale`, and the reason."""

    name: str
    message: str


class ApiRefused(WanworksError):
    """The API refused the request. The text is one readable sentence that names every invalid field.

    `status` and the attributes after it are None, or empty, if the refusal is not a response of the API.
    """

    code = "api_refused"

    def __init__(
        self,
        message: str,
        status: int | None = None,
        problem_code: str | None = None,
        *,
        detail: str | None = None,
        fields: Sequence[WrongField] = (),
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.status = status
        self.problem_code = problem_code  # the API's stable code, such as `not_found`
        self.detail = detail
        self.fields = tuple(fields)
        self.request_id = request_id  # identifies the request in the server's log
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class BadRequest(ApiRefused):
    """The request cannot be read, or a field is invalid."""


class AccessRefused(ApiRefused):
    """The key is missing, invalid, or does not permit this."""


class NotThere(ApiRefused):
    """There is no such model, job, alert or artifact."""


class StateForbids(ApiRefused):
    """This is not possible in the present state."""


class TooBusy(ApiRefused):
    """The server is busy or unavailable; retry later."""


class ServerFault(ApiRefused):
    """An error occurred on the server."""


class ApiUnreachable(WanworksError):
    """The API cannot be reached."""

    code = "api_unreachable"
    exit_code = ExitCode.UNREACHABLE


class TransferBroken(WanworksError):
    """A file could not be fetched completely."""

    code = "transfer_broken"
    exit_code = ExitCode.UNREACHABLE


class TimedOut(WanworksError):
    """The operation did not finish within the time limit."""

    code = "timed_out"
    exit_code = ExitCode.TIMED_OUT


class AlreadyRunning(WanworksError):
    """Another process holds this home, device or port."""

    code = "already_running"
    exit_code = ExitCode.ALREADY_RUNNING
