"""A violated guarantee, with the lines of the history that show it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.soak.history import Event, History

ENDS = frozenset({"succeeded", "failed", "cancelled"})
GENERATION = "generation"
_AROUND_SECONDS = 3.0  # faults so near to an event are shown with it
_LINES = 24  # of a violation; the whole history is kept beside the report


@dataclass(frozen=True)
class Violation:
    """One violated guarantee, with the lines of the history that show it."""

    rule: str
    job: str | None
    said: str
    lines: tuple[str, ...] = ()


Rule = Callable[[History], Iterator[Violation]]


def accepted_jobs(history: History) -> set[str]:
    return {event.job for event in history.of("submit") if event.job is not None}


def types_of(history: History) -> dict[str, str]:
    return {event.job: event.facts["type"] for event in history.of("submit") if event.job is not None}


def rows_of(history: History) -> dict[str, Mapping[str, Any]]:
    return {row["id"]: row for row in history.remains.rows}


def says_end(event: Event) -> bool:
    return event.facts.get("status") in ENDS and event.facts.get("code", 200) == 200


def violated(rule: Rule, history: History, job: str | None, said: str, at: Event | None = None) -> Violation:
    return Violation(rule.__name__, job, said, _lines(history, job, at))


def _lines(history: History, job: str | None, at: Event | None) -> tuple[str, ...]:
    """Return the events about the job, without repetitions, and the faults around it."""
    of_it: list[Event] = [event for event in history.events if event.job == job and not _is_good_file(event)]
    if job is None:
        of_it = []
    if at is not None:
        of_it = [at]
    told = [
        event
        for place, event in enumerate(of_it)
        if event.kind != "see" or place in (0, len(of_it) - 1) or _differs(event, of_it[place - 1])
    ]
    moments: Iterable[float] = [moment for event in told for moment in (event.asked, event.at)]
    faults = [
        event
        for event in history.of("fault", "undone")
        if any(abs(event.at - moment) < _AROUND_SECONDS for moment in moments)
    ]
    lines = sorted({event.number: event for event in (*told, *faults)}.items())
    row = next((row for row in history.remains.rows if row["id"] == job), None)
    shown = [str(event) for _, event in lines[-_LINES:]]
    return (*shown, *([_row_line(row)] if row is not None else []))


def _is_good_file(event: Event) -> bool:
    facts = event.facts
    return event.kind == "artifact" and facts["code"] == 200 and facts["sha256"] == facts["promised"]


def _differs(event: Event, before: Event) -> bool:
    names = ("code", "status", "attempt")
    return before.kind != "see" or any(event.facts.get(name) != before.facts.get(name) for name in names)


def _row_line(row: Mapping[str, Any]) -> str:
    names = ("type", "status", "attempt", "failures", "hidden", "worker", "started_at", "finished_at", "error")
    return "row: " + " ".join(f"{name}={row[name]}" for name in names if row.get(name) is not None)
