"""The attempts and the back-off that a request may name, within the limits of the settings. Pure functions."""

from typing import Any, Protocol

from shared.errors import FieldError, InvalidField
from shared.settings import Settings


class Retried(Protocol):
    """A request with attempts and a back-off of its own. None: those of the settings."""

    @property
    def max_attempts(self) -> int | None: ...

    @property
    def retry_backoff_seconds(self) -> float | None: ...


def attempts(settings: Settings, request: Retried | None) -> int:
    """Return the number of crashes and lost workers after which the job fails."""
    asked = request.max_attempts if request is not None else None
    return settings.max_failures if asked is None else asked


def wrong_fields(settings: Settings, request: Retried) -> tuple[FieldError, ...]:
    """Return an error for each field that is over the limit of the settings."""
    found = []
    most = max(settings.max_attempts_limit, settings.max_failures)
    if request.max_attempts is not None and request.max_attempts > most:
        msg = f"{request.max_attempts} is over the limit of this installation; allowed: 1 to {most} (the setting "
        msg += "max_attempts_limit)"
        found.append(FieldError(("body", "max_attempts"), msg, "less_than_equal"))
    longest = max(settings.retry_backoff_limit_seconds, settings.retry_backoff_seconds)
    if request.retry_backoff_seconds is not None and request.retry_backoff_seconds > longest:
        msg = f"{request.retry_backoff_seconds:g} is over the limit of this installation; allowed: 0 to {longest:g} "
        msg += "(the setting retry_backoff_limit_seconds)"
        found.append(FieldError(("body", "retry_backoff_seconds"), msg, "less_than_equal"))
    return tuple(found)


def values(settings: Settings, request: Retried) -> dict[str, Any]:
    """Return the fields of the new job. Raises InvalidField with each field that is over the limit of the settings."""
    if wrong := wrong_fields(settings, request):
        raise InvalidField(*wrong)
    return {"max_failures": attempts(settings, request), "retry_backoff_seconds": request.retry_backoff_seconds}
