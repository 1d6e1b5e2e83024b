"""Counters and histograms: every process adds to one hash in Redis, from which any web process exports the sums.

Counts are kept in memory and sent every two seconds. A process that dies loses the last ones, and a Redis that loses
its data restarts at zero, which Prometheus allows for counters. Nothing waits for them or depends on them.
"""

import bisect
import json
import logging
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shared.catalogue.job_types import GENERATION
from shared.database.tables import Job
from shared.messaging.progress import RestingRedis
from shared.states import JobState, Phase

log = logging.getLogger("wanworks.meters")

KEY = "wanworks:meters"
_FLUSH_SECONDS = 2.0
_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True)
class Meter:
    """One Prometheus family of counters or histograms. Times are in seconds."""

    name: str
    kind: Literal["counter", "histogram"]
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


def _counter(name: str, help: str, *labels: str) -> Meter:
    return Meter(name, "counter", help, labels)


def _histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Meter:
    return Meter(name, "histogram", help, labels, buckets)


JOBS_ENDED = _counter("wanworks_jobs_ended", "Jobs that ended.", "type", "model", "outcome")
JOB_SECONDS = _histogram("wanworks_job_seconds", "Jobs that succeeded, from claim to end.", _LONG, "type", "model")
PHASE_SECONDS = _histogram("wanworks_phase_seconds", "Phases of generations.", _LONG, "model", "phase")
STEP_SECONDS = _histogram("wanworks_step_seconds", "One step, the mean of each generation.", _LONG, "model")
STARTS = _counter("wanworks_generation_starts", "Generations, by whether the model was warm.", "model", "warm")
DOWNLOADED = _counter("wanworks_download_bytes", "Bytes downloaded to a node's disk.", "node", "model")
TAKEOVERS = _counter("wanworks_lease_takeovers", "Expired leases, after which the job was given to another attempt.")
PREEMPTIONS = _counter("wanworks_preemptions", "Jobs asked to give their device to a critical one.", "model")
FENCED = _counter("wanworks_fenced_attempts", "Attempts whose job was taken by another attempt.", "node")
PASS_SECONDS = _histogram("wanworks_dispatcher_pass_seconds", "One pass of the dispatcher.", _SHORT)
CLAIM_SECONDS = _histogram("wanworks_claim_seconds", "From sending a dispatch message to its claim.", _LONG, "type")
MESSAGES = _counter("wanworks_webhook_tries", "Messages sent to webhooks, by outcome.", "outcome")
LOOP_ERRORS = _counter("wanworks_loop_errors", "Passes of background loops that failed.", "loop")
XIDS = _counter("wanworks_device_xids", "Xid errors that the driver has reported.", "node", "device", "xid")
REMOVAL_ERRORS = _counter(
    "wanworks_store_removal_errors", "Files of jobs that could not be removed and will be tried again."
)
HTTP_SECONDS = _histogram(
    "wanworks_http_request_seconds", "Requests, without event streams.", _SHORT, "method", "route", "status"
)

PREVIEWS = _counter("wanworks_previews", "Previews of generations, by outcome: stored, lost or failed.", "outcome")

METERS: Mapping[str, Meter] = {
    meter.name: meter
    for meter in (
        JOBS_ENDED, JOB_SECONDS, PHASE_SECONDS, STEP_SECONDS, STARTS, DOWNLOADED, TAKEOVERS, FENCED, PASS_SECONDS,
        CLAIM_SECONDS, MESSAGES, LOOP_ERRORS, XIDS, REMOVAL_ERRORS, HTTP_SECONDS, PREEMPTIONS, PREVIEWS,
    )
}  # fmt: skip


def count_end(meters: "Meters", job: Job) -> None:
    """Count the end of a job, with its duration and phases."""
    model = job.model_id or ""
    meters.count(JOBS_ENDED, job.type, model, str(JobState(job.status)))
    if job.status != JobState.SUCCEEDED or job.started_at is None or job.finished_at is None:
        return
    meters.observe(JOB_SECONDS, job.type, model, seconds=(job.finished_at - job.started_at).total_seconds())
    made = job.result or {}
    if job.type != GENERATION or job.mock:
        return
    meters.count(STARTS, model, "true" if made.get("warm") else "false")
    for phase, seconds in made.get("timings", {}).items():
        meters.observe(PHASE_SECONDS, model, phase, seconds=seconds)
    if Phase.DENOISING in made.get("timings", {}):
        meters.observe(STEP_SECONDS, model, seconds=made["timings"][Phase.DENOISING] / job.params["steps"])


Field = tuple[str, ...]
"""(meter, label values..., what): what is `total`, `sum`, or the upper bound of a bucket."""


class Meters:
    """The counts of one process. Thread-safe."""

    def __init__(self, client: RestingRedis) -> None:
        self._redis = client
        self._lock = threading.Lock()
        self._counts: dict[Field, float] = defaultdict(float)
        self._due = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False

    def count(self, meter: Meter, *labels: str, by: float = 1.0) -> None:
        self._add({(meter.name, *labels, "total"): by})

    def observe(self, meter: Meter, *labels: str, seconds: float) -> None:
        place = bisect.bisect_left(meter.buckets, seconds)
        bound = str(meter.buckets[place]) if place < len(meter.buckets) else "+Inf"
        self._add({(meter.name, *labels, bound): 1.0, (meter.name, *labels, "sum"): seconds})

    def flush(self) -> None:
        """Send the counts. If Redis is unavailable, they are kept for the next flush."""
        with self._lock:
            counts, self._counts = self._counts, defaultdict(float)
        if not counts:
            return

        def send(redis: Any) -> bool:
            pipe = redis.pipeline(transaction=False)
            for field, amount in counts.items():
                pipe.hincrbyfloat(KEY, json.dumps(field), amount)
            pipe.execute()
            return True

        sent = None
        try:
            sent = self._redis.ask(send)
        finally:
            if sent is None:
                with self._lock:
                    for field, amount in counts.items():
                        self._counts[field] += amount

    def close(self) -> None:
        self._closing = True
        self._due.set()
        if self._thread is not None:
            self._thread.join(timeout=2)

    def _add(self, counts: Mapping[Field, float]) -> None:
        with self._lock:
            for field, amount in counts.items():
                self._counts[field] += amount
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="meters", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        """Flush periodically. This is not a `Loop`, because that class counts with this one."""
        while not self._closing:
            self._due.wait(_FLUSH_SECONDS)
            try:
                self.flush()
            except Exception:
                log.exception("counts could not be sent; the next flush follows")


@dataclass(frozen=True)
class Family:
    """The present values of one meter: totals of a counter, or buckets and sums of a histogram, by labels."""

    meter: Meter
    totals: Mapping[tuple[str, ...], float]
    sums: Mapping[tuple[str, ...], float]
    buckets: Mapping[tuple[str, ...], Sequence[tuple[str, float]]]  # (upper bound, count up to it)


def read(client: RestingRedis) -> list[Family] | None:
    """Return all meters, including unused ones; None if Redis is unavailable."""
    fields = client.ask(lambda redis: redis.hgetall(KEY))
    return None if fields is None else families({text: float(amount) for text, amount in fields.items()})


def families(fields: Mapping[bytes | str, float]) -> list[Family]:
    """Return the families from the hash's fields, without meters that this version does not know."""
    totals: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in METERS}
    sums: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in METERS}
    counts: dict[str, dict[tuple[str, ...], dict[str, float]]] = {name: {} for name in METERS}
    for text, amount in fields.items():
        name, *labels, what = json.loads(text)
        meter, key = METERS.get(name), tuple(labels)
        if meter is None or len(labels) != len(meter.labels):
            continue
        if what == "total":
            totals[name][key] = amount
        elif what == "sum":
            sums[name][key] = amount
        else:
            counts[name].setdefault(key, {})[what] = amount
    return [
        Family(
            meter,
            totals[name],
            sums[name],
            {key: _cumulated(meter, found) for key, found in counts[name].items()},
        )
        for name, meter in METERS.items()
    ]


def _cumulated(meter: Meter, found: Mapping[str, float]) -> list[tuple[str, float]]:
    so_far, cumulated = 0.0, []
    for bound in (*(str(bucket) for bucket in meter.buckets), "+Inf"):
        so_far += found.get(bound, 0.0)
        cumulated.append((bound, so_far))
    return cumulated
