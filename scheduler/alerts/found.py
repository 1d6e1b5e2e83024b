"""What an alert rule returns, and what the rules share."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from scheduler.alerts.fact_types import Facts
from shared.cluster.alerts import Severity
from shared.settings import Settings

HYSTERESIS = 0.95
"""Most alerts stay open until the figure is below this share of the threshold."""


@dataclass(frozen=True)
class Found:
    """One subject for which a rule finds a cause."""

    subject: str
    title: str
    message: str
    suggested_action: str
    model_id: str | None = None
    severity: Severity | None = None  # if it differs from the rule's


Find = Callable[[Facts, Settings, Collection[str]], Iterable[Found] | None]
"""(facts, thresholds, subjects with an open alert) -> the causes; None: unknown at present."""


def limit(threshold: float, open: bool) -> float:
    """Return the threshold to open an alert, or the lower one to keep it open."""
    return threshold * HYSTERESIS if open else threshold


def span(seconds: float) -> str:
    """Return a duration in words."""
    for name, unit in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
