"""Wall-clock time as the API speaks it. Leases never use this: they compare the database's own clock."""

from datetime import UTC, datetime


def now() -> datetime:
    """The present moment, timezone-aware, in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC with a trailing ``Z`` and milliseconds; None stays None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_epoch(seconds: float) -> datetime:
    """Seconds since 1970-01-01 UTC as an aware datetime."""
    return datetime.fromtimestamp(seconds, UTC)
