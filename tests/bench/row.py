"""One line of the measurements' table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What was measured, and the bound that it is held to."""

    what: str
    measured: str
    bound: str
    holds: bool | None  # None: there is no bound
