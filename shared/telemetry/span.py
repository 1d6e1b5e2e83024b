"""A stretch of time in a trace, as those who live through it speak to it. Knows nothing of how it is recorded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

Attributes = Mapping[str, str | int | float | bool]
Kind = Literal["internal", "server", "consumer"]


class Span:
    """One that has begun. This one is recorded nowhere; `shared/telemetry/otlp.py` has the one that is."""

    def rename(self, name: str) -> None: ...

    def note(self, attributes: Attributes) -> None:
        """Adds to what it says of itself."""

    def event(self, name: str, attributes: Attributes, at: float | None = None) -> None:
        """Something that happened within it, now or at that time (seconds since 1970)."""

    def failed(self, code: str, message: str) -> None:
        """It did not do what it was for: the error's code in our own words, and its message for people."""

    def child(self, name: str) -> "Span":
        return self

    def end(self, at: float | None = None) -> None:
        """Nothing of it is told before; a span that is never ended is never told of."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """What is logged or asked for within belongs to it."""
        yield
