"""The interface of a span in a trace, independent of how it is recorded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

Attributes = Mapping[str, str | int | float | bool]
Kind = Literal["internal", "server", "consumer"]


class Span:
    """A span that has begun. This class records nothing; the one of `shared/telemetry/otlp.py` does."""

    def rename(self, name: str) -> None: ...

    def note(self, attributes: Attributes) -> None:
        """Add attributes."""

    def event(self, name: str, attributes: Attributes, at: float | None = None) -> None:
        """Add an event, now or at that time (seconds since 1970)."""

    def failed(self, code: str, message: str) -> None:
        """Mark the span as failed, with an error code and a message."""

    def child(self, name: str) -> "Span":
        return self

    def end(self, at: float | None = None) -> None:
        """End the span. A span that is never ended is never exported."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the current span of log lines and outgoing requests within the block."""
        yield
