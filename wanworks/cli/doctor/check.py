"""A check's result."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """What was checked and found; with a warning or a problem, what to do about it."""

    name: str
    state: State
    found: str
    remedy: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
