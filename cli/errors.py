"""What ends a command early, each with its exit code. `wanworks --help` lists the codes from here.

WanworksError
├── ApiRefused        1   the API answered, and its answer is no; or the job did not succeed
├── ApiUnreachable    3   nothing answers at the API's address
├── TimedOut          4   it did not happen in the time allowed
└── AlreadyRunning    5   another process holds this home, device or port
"""

from enum import IntEnum

from shared.errors import ConfigurationError, StoreMismatch, Unavailable, WanworksError


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


class ApiRefused(WanworksError):
    """The API refused the request."""

    code = "api_refused"

    def __init__(self, message: str, status: int | None = None, code: str | None = None) -> None:
        self.status = status
        self.problem_code = code
        super().__init__(message)


class ApiUnreachable(WanworksError):
    """The API cannot be reached."""

    code = "api_unreachable"


class TimedOut(WanworksError):
    """It did not happen in the time allowed."""

    code = "timed_out"


class AlreadyRunning(WanworksError):
    """Another process holds this home, device or port."""

    code = "already_running"


def exit_code(error: WanworksError) -> ExitCode:
    """The exit code that tells a script what went wrong."""
    match error:
        case ConfigurationError() | StoreMismatch():
            return ExitCode.USAGE
        case ApiUnreachable() | Unavailable():
            return ExitCode.UNREACHABLE
        case TimedOut():
            return ExitCode.TIMED_OUT
        case AlreadyRunning():
            return ExitCode.ALREADY_RUNNING
        case _:
            return ExitCode.REFUSED
