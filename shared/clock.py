"""Wall-clock time for the API. Leases do not use it; they use the database's clock."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time as an aware datetime in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime | None) -> str | None:
    """Return the time as ISO 8601 in UTC with milliseconds and a trailing ``Z``; None for None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_epoch(seconds: float) -> datetime:
    """Return seconds since 1970-01-01 UTC as an aware datetime."""
    return datetime.fromtimestamp(seconds, UTC)
