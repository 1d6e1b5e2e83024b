"""Expected starts and ends of queued jobs, from what the database says now. Kept for some seconds."""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from shared.daily_window import DailyWindow
from shared.database.engine import Database
from shared.errors import DatabaseUnavailable
from shared.forecast.durations import UNKNOWN_SECONDS, MeasuredDurations
from shared.forecast.hosts import read_hosts
from shared.forecast.order import in_order
from shared.forecast.pausing import Pauses
from shared.forecast.pausing import read as read_pauses
from shared.forecast.reported import seconds_left
from shared.forecast.simulation import Expected, Place, Situation, Took, simulate
from shared.forecast.slots import DeviceView, carries, fits
from shared.jobs import dispatch
from shared.jobs.claims import running_limits
from shared.jobs.dispatch import Busy, Queue, Waiting
from shared.jobs.usage.durations import Durations
from shared.messaging.progress import Progress
from shared.models import replicas

log = logging.getLogger("wanworks.forecasts")

Basis = Literal["measured", "derived", "none"]

# Further jobs are estimated by the rate at which these are served.
_JOBS, _HELD = 1000, 500
_KEEP_SECONDS = 2.0
_KEEP_FOR_NEW_SECONDS = 1.0  # if a job is asked for that is newer
_QUICK_SECONDS = 0.3  # a request about one job waits for no forecast that costs more
_KEEP_TIMES_COST = 20.0  # so that forecasts take at most a twentieth of one core
_MOCK_SECONDS = 1.0
_SURE = 0.75


@dataclass(frozen=True)
class Forecast:
    """What is expected of one queued job. Times in seconds since 1970; None: unknown, as `how` says."""

    start: float | None
    end: float | None
    basis: Basis
    samples: int
    how: str
    earliest: float = 0.0  # when the clock lets it start: its start time, its window, the end of pauses

    def excludes(self, start_before: float) -> bool:
        """Return whether a start by then is ruled out, by measured durations and with room for their error.

        What is expected of the wait behind other jobs may be too long by a third.
        """
        if self.start is None or self.basis == "none":
            return False
        return start_before < self.earliest + _SURE * (self.start - self.earliest)


@dataclass(frozen=True)
class Facts:
    """The installation at one moment, as forecasts need it."""

    queue: Queue
    held: Sequence[Waiting]
    devices: Sequence[tuple[DeviceView, float]]  # that take jobs, and from when on they do
    closed: Sequence[DeviceView]  # that take none until somebody opens them
    holders: frozenset[str]  # ids of the models that some node holds
    pauses: Pauses
    limits: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, float] = field(default_factory=dict)  # seconds, by running job, by its own steps
    openings: dict[DailyWindow, tuple[float, float]] = field(default_factory=dict)  # the latest, by window

    @property
    def now(self) -> float:
        return self.queue.now


@dataclass(frozen=True)
class _Made:
    """The forecasts of one moment."""

    at: float  # by `time.monotonic`
    cost: float  # seconds
    facts: Facts | None
    jobs: Mapping[str, Forecast]
    seconds_per_job: float | None  # between two starts, if there are more jobs than were played

    def of(self, job_id: str, ahead: int | None) -> Forecast:
        if (known := self.jobs.get(job_id)) is not None:
            return known
        if self.facts is None or self.seconds_per_job is None or ahead is None:
            return Forecast(None, None, "none", 0, "Not reckoned yet.")
        start = self.facts.now + ahead * self.seconds_per_job
        how = f"About: {ahead} jobs are before it, at the rate expected of the first {len(self.jobs)}."
        return Forecast(start, None, "derived", 0, how)


class Forecasts:
    """Makes and keeps the forecasts of one database's queue. Any thread may use it."""

    def __init__(self, database: Database, silence_seconds: float, progress: Progress | None = None) -> None:
        """`progress`: of running jobs; None: their ends are expected from the times of other jobs alone."""
        self._database = database
        self._progress = progress
        self._silence_seconds = silence_seconds
        self._durations = MeasuredDurations(database)
        self._lock = threading.Lock()
        self._made = _Made(float("-inf"), 0.0, None, {}, None)
        self._is_moved = False  # whether the order of the queue has changed since

    def of(self, job_ids: Sequence[str], ahead: Mapping[str, int], *, wait: bool = False) -> dict[str, Forecast]:
        """Return the forecasts of queued jobs. `ahead`: how many jobs are before those whose position is known.

        They may be some seconds old. `wait`: for those of jobs that are newer, if that is quick; otherwise these have
        none yet. Raises DatabaseUnavailable, with `wait` alone.
        """
        if (wait or self._is_moved) and self._made.cost < _QUICK_SECONDS:
            new = self._is_moved or any(job_id not in self._made.jobs for job_id in job_ids)
            self._refresh(_KEEP_FOR_NEW_SECONDS if new else _KEEP_SECONDS)
        elif self._is_older(_KEEP_SECONDS) and not self._lock.locked():
            threading.Thread(target=self._refresh_quietly, name="forecasts", daemon=True).start()
        made = self._made
        return {job_id: made.of(job_id, ahead.get(job_id)) for job_id in job_ids}

    def of_new(self, job: Waiting) -> Forecast:
        """Return the forecast of a job that would be accepted now. Raises DatabaseUnavailable."""
        return self.of_several_new([job])[0]

    def of_several_new(self, jobs: Sequence[Waiting]) -> list[Forecast]:
        """Return the forecasts of jobs that would be accepted together now. Raises DatabaseUnavailable."""
        self._refresh(_KEEP_FOR_NEW_SECONDS)
        facts = self._made.facts
        assert facts is not None
        new = [job._replace(queued_at=max(job.queued_at, facts.now) + place * 1e-6) for place, job in enumerate(jobs)]
        found = forecasts(facts, self._durations, new)
        return [found[job.job_id] for job in jobs]

    def expire(self) -> None:
        """Note that the order of the queue has changed: the next request makes the forecasts again, if it is quick."""
        self._made = replace(self._made, at=min(self._made.at, time.monotonic() - _KEEP_SECONDS))
        self._is_moved = True

    def _is_older(self, seconds: float) -> bool:
        return time.monotonic() - self._made.at >= max(seconds, _KEEP_TIMES_COST * self._made.cost)

    def _refresh(self, seconds: float) -> None:
        """Make the forecasts again, if they are older than that. Raises DatabaseUnavailable."""
        with self._lock:
            if not self._is_older(seconds):
                return
            self._is_moved = False
            began = time.monotonic()
            facts = gather(self._database, self._silence_seconds, self._progress)
            jobs = forecasts(facts, self._durations)
            starts = [one.start for one in jobs.values() if one.start is not None]
            span = max(starts) - facts.now if starts else 0.0
            rate = span / len(starts) if facts.queue.cuts and span > 0 else None
            now = time.monotonic()
            self._made = _Made(now, now - began, facts, jobs, rate)

    def _refresh_quietly(self) -> None:
        try:
            self._refresh(_KEEP_SECONDS)
        except DatabaseUnavailable as error:
            log.debug("no forecasts are made: %s", error)
        except Exception:  # the next read tries again
            log.exception("no forecasts are made")


def gather(database: Database, silence_seconds: float, progress: Progress | None = None) -> Facts:
    """Read the facts. Raises DatabaseUnavailable. The cost is bounded, however long the queue is."""
    queue = dispatch.read_queue(database, _JOBS)
    paused = read_pauses(database, queue)
    held = replicas.ready(database)
    hosts = read_hosts(database, held, silence_seconds)
    opens = {
        (row.kind, row.value): math.inf if row.until is None else row.until
        for row in paused.in_force
        if row.kind in ("device", "node")
    }
    devices, closed = [], []
    for device in (*hosts.devices, *hosts.closed_devices):
        until = max(opens.get(("device", device.key), 0.0), opens.get(("node", device.node), 0.0))
        if device.key in hosts.closed or until == math.inf:
            closed.append(device)
        else:
            devices.append((device, until))
    return Facts(
        queue=queue,
        held=dispatch.read_held(database, _HELD),
        devices=devices,
        closed=closed,
        holders=frozenset().union(*held.values()) if held else frozenset(),
        pauses=paused,
        limits=running_limits.of_owners(database) if queue.has_rules else {},
        left=seconds_left(queue.busy, progress) if progress is not None else {},
    )


def forecasts(facts: Facts, durations: MeasuredDurations, new: Sequence[Waiting] = ()) -> dict[str, Forecast]:
    """Return the forecasts of all queued jobs among the facts and of these new ones, by id."""
    estimates = durations.estimates()
    found: dict[str, Forecast] = {}
    ready, later = [], []
    for job in (*_first(facts), *facts.held, *new):
        job = job._replace(queued_at=facts.pauses.waiting_since(job))
        why = _unknown(job, facts)
        at = _may_start(job, facts)
        if why is None and at == math.inf:
            why = "Unknown: it is paused without an end."
        if why is not None:
            found[job.job_id] = Forecast(None, None, "none", 0, why)
        elif at > facts.now:
            later.append((at, job))
        else:
            ready.append(job)

    def took(job: Waiting | Busy) -> Took:
        if job.mock:
            return Took(_MOCK_SECONDS, 0.0, True)
        measured = durations.of(job)
        load = measured.load_seconds
        seconds, held = measured.seconds(job.work, job.volume), measured.device_seconds(job.work, job.volume)
        return Took(
            UNKNOWN_SECONDS if held is None else held,
            UNKNOWN_SECONDS if load is None else load,
            held is not None,
            load is not None,
            0.0 if seconds is None or held is None else seconds - held,
        )

    situation = Situation(
        facts.now,
        [_place(device, until, facts, took) for device, until in facts.devices],
        ready,
        later,
        facts.queue.busy,
        took,
        estimates,
        facts.limits,
        lambda job, at: _closed_until(job, facts, at),
    )
    expected = simulate(situation)
    for at, job in (*((facts.now, job) for job in ready), *later):
        forecast = _forecast(job, expected.get(job.job_id), durations.of(job))
        found[job.job_id] = replace(forecast, earliest=at)
    return found


def _first(facts: Facts) -> Sequence[Waiting]:
    """Return the queued jobs to play. Behind the last ones of a line that was not read to its end, nothing is said."""
    waiting = [job for job in facts.queue.waiting if not job.target_node]
    return in_order(waiting, facts.queue.busy, facts.now)[:_JOBS]


def _place(device: DeviceView, until: float, facts: Facts, took: Callable[[Waiting | Busy], Took]) -> Place:
    queue = facts.queue
    running = next(
        (busy for busy in queue.busy if device.key == busy.device_key or device.key in busy.members.split()), None
    )
    if running is None:
        return Place(device, max(queue.now, until), device.warm)
    times = took(running)
    cold = not running.mock and running.model_cache_key not in device.warm
    missing = times.missing(cold)
    ends = running.claimed_at + times.run_seconds + (times.load_seconds if cold else 0.0)
    if (left := facts.left.get(running.job_id)) is not None:  # by its own steps, so better than by those of others
        ends, missing = queue.now + left - times.beside_seconds, None
    warm = device.warm if running.mock else frozenset((running.model_cache_key,))
    return Place(device, max(queue.now, ends, until), warm, missing)


def _may_start(job: Waiting, facts: Facts) -> float:
    """Return from when on the job may start, as far as the clock decides: now, if nothing is in its way."""
    at = max(facts.now, job.not_before, job.queued_at, facts.pauses.covered_until(job))
    if at < math.inf and (opens := _closed_until(job, facts, at)) is not None:
        return opens
    return at


def _closed_until(job: Waiting, facts: Facts, at: float) -> float | None:
    windows = facts.pauses.windows
    if windows.is_empty or not windows.closed(job.type, job.priority, job.owner, job.front_at, at):
        return None
    window = windows.of(job.owner)
    if window is None:
        return None
    closed_since, opens = facts.openings.get(window, (math.inf, 0.0))
    if not closed_since <= at < opens:  # each is reckoned once, because many jobs wait for it
        opens = window.opens_at(at)
        facts.openings[window] = (at, opens)
    return opens


def _unknown(job: Waiting, facts: Facts) -> str | None:
    """Return why nothing can be said about the job's start; None if something can."""
    if job.target_node is not None:
        return "Unknown: jobs of nodes, such as downloads, are not estimated."
    if not job.mock and job.model_id not in facts.holders:
        return "Unknown: no node has the model."
    fitting = Counter(device.node for device, _ in facts.devices if fits(job, device))
    if max(fitting.values(), default=0) >= job.devices:
        return None
    if any(carries(job, device) for device in (*(device for device, _ in facts.devices), *facts.closed)):
        return "Unknown: no device that fits it accepts jobs."
    return "Unknown: no device is registered that fits it."


def _forecast(job: Waiting, expected: Expected | None, measured: Durations) -> Forecast:
    samples = measured.samples(job.volume)
    if expected is None:
        return Forecast(None, None, "none", samples, "Not reckoned: too far back in the queue.")
    if expected.start is None:
        how = "Unknown: a job before it uses a model that has not been measured."
        if expected.missing == "loading":
            how = "Unknown: a job before it must load a model whose loading has not been measured."
        return Forecast(None, None, "none", samples, how)
    if job.mock:
        return Forecast(expected.start, None, "none", 0, "Placeholder output is not estimated, but its start is.")
    if expected.end is None:
        how = f"Its end is unknown: no {expected.missing} of {job.model_id} has been measured here."
        return Forecast(expected.start, None, "none", 0, how)
    basis: Basis = "derived" if measured.derived else "measured"
    source = "of another tier, number of devices or model of the same weights" if measured.derived else "like it"
    times = f"median times of the last {samples} successes" if samples != 1 else "times of the last success"
    how = f"By playing the queue forward with the {times} {source}."
    return Forecast(expected.start, expected.end, basis, samples, how)
