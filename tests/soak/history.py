"""The history of a run: requests and observations in order, and the contents of the installation at its end."""

import dataclasses
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Event:
    """One request with its response, one fault, or one received message. Times are seconds since the run began.

    submit    an accepted or refused job: by (first, again, other_body, retry), key, code, status, type, webhook
    lost      an answer that never came: to (the method and path)
    see       a job as it was seen: by, code, and where that is 200 status and attempt
    cancel    code, status
    delete    code
    manage    a download steered: action, code, success, current_status
    drain     node, code; undrain likewise
    release   device, code: a quarantined device was released; release_asked before it
    artifact  name, code, sha256, promised
    message   a webhook's message that came: id, type, status, digest (of the whole body), answered
    refused   an answer that no client should see: to, code, text
    fault     name, what; undone likewise
    flow      an accepted flow: code; batch likewise
    pause     a model was paused: model_id, code
    settled   the last fault is undone
    """

    number: int
    asked: float
    at: float
    kind: str
    job: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = " ".join(f"{name}={value}" for name, value in self.facts.items() if value is not None)
        return f"#{self.number} {self.asked:.2f}-{self.at:.2f} {self.kind} {self.job or ''} {said}".strip()


@dataclass(frozen=True)
class Remains:
    """The contents once everything has ended and retention and sweep have run."""

    rows: tuple[Mapping[str, Any], ...] = ()  # of jobs: id, type, status, attempt, hidden, mock, result, ...
    uses: tuple[tuple[str, str], ...] = ()  # (job, outcome)
    # Of devices, in order: device_key, job_id, pid, kind, at, cleared_at, quarantine_reason.
    device_faults: tuple[Mapping[str, Any], ...] = ()
    # Of flows: id, state, retries, and nodes (name, job_id, outcome, depends_on, on_failure).
    flows: tuple[Mapping[str, Any], ...] = ()
    # Of batches: id, total, succeeded, failed, cancelled, finished_at.
    batches: tuple[Mapping[str, Any], ...] = ()
    pauses: tuple[Mapping[str, Any], ...] = ()  # kind, value, created_at, until, ended_at
    messages: tuple[Mapping[str, Any], ...] = ()  # of webhooks: id, job_id, type, state, tries
    files: tuple[
        tuple[str, str, int, str], ...
    ] = ()  # in the store: (area, job, attempt, name); an input's attempt is 0
    partials: tuple[tuple[str, str], ...] = ()  # partial files of downloads: (model, path)
    handovers: tuple[str, ...] = ()  # folders of decoded jobs: device.job.attempt
    redis_keys: tuple[tuple[str, int], ...] = ()  # (key, seconds it is kept; -1: for ever)
    strangers: tuple[str, ...] = ()  # processes of the home that the supervisor does not know, as `pid command`
    left_after_stop: tuple[str, ...] = ()  # processes that outlived the stop


@dataclass(frozen=True)
class History:
    events: tuple[Event, ...]
    remains: Remains

    def of(self, *kinds: str) -> Iterator[Event]:
        return (event for event in self.events if event.kind in kinds)

    def by_job(self, *kinds: str) -> dict[str, list[Event]]:
        """In the order of their answers."""
        found: dict[str, list[Event]] = {}
        for event in sorted(self.of(*kinds), key=lambda event: event.at):
            if event.job is not None:
                found.setdefault(event.job, []).append(event)
        return found

    def save(self, path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            for event in self.events:
                file.write(json.dumps(dataclasses.asdict(event)) + "\n")
            file.write(json.dumps({"remains": dataclasses.asdict(self.remains)}) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        remains = lines.pop()["remains"]
        tupled = {
            name: tuple(tuple(item) if isinstance(item, list) else item for item in value)
            for name, value in remains.items()
        }
        return cls(tuple(Event(**line) for line in lines), Remains(**tupled))


class Recorder:
    """Records events from several threads."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._began_wall = time.time()
        self._lock = threading.Lock()
        self._events: list[Event] = []

    @property
    def now(self) -> float:
        return time.monotonic() - self._began

    def of_wall(self, timestamp: float) -> float:
        """A Unix time of this machine on the leg's own clock."""
        return timestamp - self._began_wall

    def note(self, kind: str, job: str | None = None, *, asked: float | None = None, **facts: Any) -> Event:
        with self._lock:
            at = self.now
            event = Event(len(self._events), at if asked is None else asked, at, kind, job, facts)
            self._events.append(event)
        return event

    def events(self) -> tuple[Event, ...]:
        with self._lock:
            return tuple(self._events)
