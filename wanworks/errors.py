"""What ends a command early, each with its exit code; `wanworks --help` lists the codes from here. Callers of
`wanworks.client.client` catch the same errors.

WanworksError
├── ApiRefused            1   the API answered, and its answer is no; or the job did not succeed
│   ├── BadRequest            400, 413, 415, 416, 422: asked wrongly; `fields` names what
│   ├── AccessRefused         401, 403: no key, a wrong one, or one that may not
│   ├── NotThere              404: no such model, job, alert or artifact
│   ├── StateForbids          409: not in the state that it is in
│   ├── TooBusy               429, 503: worth asking again, after `retry_after_seconds`
│   └── ServerFault           500 and the rest of them
├── ApiUnreachable        3   nothing answers at the API's address
├── TransferBroken        3   a file came wrong, or broke off again and again
├── TimedOut              4   it did not happen in the time allowed
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
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it

    @property
    def meaning(self) -> str:
        return _MEANING[self]


_MEANING = {
    ExitCode.OK: "done",
    ExitCode.REFUSED: "the job failed or was cancelled, or the API refused the request",
    ExitCode.USAGE: "a wrong option or setting",
    ExitCode.UNREACHABLE: "the API (or, for a process command, Redis or the database) cannot be reached",
    ExitCode.TIMED_OUT: "not finished within --timeout; the job goes on",
    ExitCode.ALREADY_RUNNING: "another process holds this home, device or port",
    ExitCode.INTERRUPTED: "interrupted from the keyboard; the job goes on",
}


class WanworksError(Exception):
    """Something went wrong in wanworks."""

    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[ExitCode] = ExitCode.REFUSED  # tells a script what went wrong

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
    """One field that the API does not take: where it is, such as `loras.0.scale`, and why."""

    name: str
    message: str


class ApiRefused(WanworksError):
    """The API refused the request. The text is one readable sentence, with every wrong field named.

    `status` and what follows are None, or empty, where the refusal is not an answer of the API's own.
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
        self.problem_code = problem_code  # the API's stable word for it, such as `not_found`
        self.detail = detail
        self.fields = tuple(fields)
        self.request_id = request_id  # under which the server's log tells more
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class BadRequest(ApiRefused):
    """The request cannot be read, or a field of it is wrong."""


class AccessRefused(ApiRefused):
    """There is no key, or a wrong one, or one that may not do this."""


class NotThere(ApiRefused):
    """There is no such model, job, alert or artifact."""


class StateForbids(ApiRefused):
    """The present state forbids it."""


class TooBusy(ApiRefused):
    """Not now."""


class ServerFault(ApiRefused):
    """Something went wrong on the server."""


class ApiUnreachable(WanworksError):
    """The API cannot be reached."""

    code = "api_unreachable"
    exit_code = ExitCode.UNREACHABLE


class TransferBroken(WanworksError):
    """A file could not be fetched whole."""

    code = "transfer_broken"
    exit_code = ExitCode.UNREACHABLE


class TimedOut(WanworksError):
    """It did not happen in the time allowed."""

    code = "timed_out"
    exit_code = ExitCode.TIMED_OUT


class AlreadyRunning(WanworksError):
    """Another process holds this home, device or port."""

    code = "already_running"
    exit_code = ExitCode.ALREADY_RUNNING
