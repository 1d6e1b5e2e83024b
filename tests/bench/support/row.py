"""One line of the measurements' table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A measured value and its bound."""

    what: str
    measured: str
    bound: str
    holds: bool | None  # None: there is no bound
