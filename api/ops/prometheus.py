"""`/metrics` for Prometheus: gauges read from rows on request, and counters kept in Redis.

Every web process returns the metrics of the whole installation, so scraping one is enough.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import product
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.operation import Answer, Operation
from shared import clock
from shared.catalogue.job_types import DOWNLOAD, GENERATION, JOB_TYPES
from shared.cluster import alerts, nodes
from shared.database.tables import Sample
from shared.insight import samples
from shared.jobs import device_faults, download_control
from shared.jobs.claims import pauses
from shared.jobs.reading import queues
from shared.jobs.reading.queues import Depth
from shared.messaging.progress import RestingRedis, answers
from shared.models import replicas
from shared.states import JobState, Priority, Scope
from shared.telemetry import loop_reports
from shared.telemetry import metrics as meters
from shared.telemetry.metrics import Family

_REDIS_TIMEOUT_SECONDS = 2.0  # not a RestingRedis: its pause after one late response would drop the counters
_EMPTY = Depth(priority=0, model_id=None, queued=0, waiting_for_model=0, oldest_seconds=None, running=0)


def metrics(context: Context, request: Request, query: BaseModel) -> Response:
    """Return the metrics. Raises DatabaseUnavailable."""
    registry = CollectorRegistry()
    registry.register(_Metrics(context))
    return Response(
        generate_latest(registry), headers={"Cache-Control": "no-store"}, media_type=CONTENT_TYPE_PLAIN_0_0_4
    )


class _Metrics(Collector):
    """Collects the metrics of one response."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._found: list[Metric] | None = None

    def collect(self) -> Iterable[Metric]:
        if self._found is None:
            self._found = [*_queue(self._context), *_devices(self._context), *_nodes(self._context),
                           *_state(self._context), *_redis(self._context)]  # fmt: skip
        return self._found


def _queue(context: Context) -> Iterator[Metric]:
    jobs = _gauge("wanworks_jobs", "Jobs that have not ended.", "type", "model", "state")
    models = context.catalogue.model_ids
    all_depths, counts = queues.depths_and_counts(context.database)
    for (type, model_id, status), count in (_no_jobs(models) | counts).items():
        jobs.add_metric([type, model_id or "", status], count)
    yield jobs
    in_force = pauses.in_force(context.database)
    paused = _gauge("wanworks_paused", "Pauses in force, by what they cover.", "scope")
    for scope in get_args(pauses.Kind):
        paused.add_metric([scope], sum(row.kind == scope for row in in_force))
    yield paused
    held = _gauge("wanworks_jobs_held", "Queued jobs that may not start, by reason.", "reason")
    for reason, count in queues.held_by_reason(context.database, in_force).items():
        held.add_metric([reason], count)
    yield held
    depth = _gauge("wanworks_queue_depth", "Queued jobs.", "model", "priority")
    waiting = _gauge("wanworks_queue_waiting_for_model", "Queued jobs whose model no node holds.", "model", "priority")
    oldest = _gauge("wanworks_queue_oldest_seconds", "Age of the oldest queued job.", "model", "priority")
    depths = {(one.model_id, list(Priority)[one.priority]): one for one in all_depths}
    kinds: dict[tuple[str | None, Priority], None] = dict.fromkeys(product(models, Priority))
    for model_id, priority in kinds | dict.fromkeys(depths):
        one = depths.get((model_id, priority), _EMPTY)
        labels = [model_id or "", priority.value]
        depth.add_metric(labels, one.queued)
        waiting.add_metric(labels, one.waiting_for_model)
        oldest.add_metric(labels, max(0.0, one.oldest_seconds or 0.0))
    yield from (depth, waiting, oldest)
    left = _gauge("wanworks_download_left_bytes", "Remaining bytes of running downloads.", "node", "model")
    running = [job for job in download_control.active(context.database) if job.status == JobState.RUNNING]
    progress = context.live.of(running)
    places = product((node.name for node, _ in nodes.nodes(context.database)), models)
    found: dict[tuple[str, str], float | None] = dict.fromkeys(places, 0.0)
    for job in running:
        done, total = progress[job.id].bytes_done, progress[job.id].bytes_total
        found[job.target_node or "", job.model_id or ""] = None if total is None else total - (done or 0)
    for place, bytes_left in found.items():
        if bytes_left is not None:  # unknown until the files are listed
            left.add_metric(place, bytes_left)
    yield left


def _no_jobs(models: Sequence[str]) -> dict[tuple[str, str | None, str], int]:
    """Return zero for every set of labels that is always present."""
    return {
        (job_type.name, model_id, str(state)): 0
        for job_type in JOB_TYPES.values()
        for model_id in (models if job_type.name in (GENERATION, DOWNLOAD) else (None,))
        for state in (
            JobState.QUEUED,
            "held",
            JobState.RUNNING,
            *((JobState.PAUSED,) if job_type.name == DOWNLOAD else ()),
        )
    }


def _devices(context: Context) -> Iterator[Metric]:
    silence = context.settings.device_silence_seconds
    labels = ("node", "device", "uuid")
    up = _gauge("wanworks_device_up", "Whether the device's worker is online.", *labels)
    busy = _gauge("wanworks_device_busy", "Whether a job runs on it.", *labels)
    finishes = _gauge("wanworks_device_finishing", "Whether the job before is being finished beside it.", *labels)
    quarantined = _gauge("wanworks_device_quarantined", "Whether the device is quarantined as faulty.", *labels)
    in_a_row = _gauge("wanworks_device_faults_in_a_row", "Faults without a success between them.", *labels)
    throttled = _gauge("wanworks_device_throttled", "Whether heat or the power supply slows it down.", *labels)
    figures: tuple[tuple[GaugeMetricFamily, Callable[[Sample], float | None]], ...] = (
        (_gauge("wanworks_device_utilization_ratio", "Utilisation of the GPU; on a CPU, of one core.", *labels),
         lambda one: None if one.utilization_percent is None else one.utilization_percent / 100),
        (_gauge("wanworks_device_memory_used_bytes", "Memory in use.", *labels),
         lambda one: None if one.memory_used_mb is None else one.memory_used_mb * 1e6),
        (_gauge("wanworks_device_memory_total_bytes", "Memory.", *labels),
         lambda one: None if one.memory_total_mb is None else one.memory_total_mb * 1e6),
        (_gauge("wanworks_device_temperature_celsius", "Temperature.", *labels), lambda one: one.temperature_celsius),
        (_gauge("wanworks_device_power_watts", "Power consumption.", *labels), lambda one: one.power_watts),
        (_gauge("wanworks_device_ecc_uncorrected", "Uncorrectable memory errors since the driver was loaded.", *labels),
         lambda one: one.ecc_uncorrected),
    )  # fmt: skip
    running = queues.on_devices(context.database)
    finishing = queues.finishing_on_devices(context.database)
    latest = samples.latest(context.database, clock.now() - timedelta(seconds=context.settings.reading_seconds))
    faults = device_faults.counts(context.database)
    for seen in nodes.devices(context.database):
        device = seen.device
        values = [device.node, str(device.index), device.uuid]
        alive = seen.alive(silence)
        up.add_metric(values, float(alive))
        busy.add_metric(values, float(alive and device.key in running))
        finishes.add_metric(values, float(device.key in finishing))
        quarantined.add_metric(values, float(device.quarantined_at is not None))
        in_a_row.add_metric(values, float(faults.get((device.node, device.uuid), 0)))
        if alive and device.key in latest:
            if (reasons := latest[device.key].throttle_reasons) is not None:
                throttled.add_metric(values, float(bool(samples.SLOWDOWNS.intersection(reasons.split(",")))))
            for gauge, read in figures:
                if (figure := read(latest[device.key])) is not None:
                    gauge.add_metric(values, figure)
    yield from (up, busy, finishes, quarantined, in_a_row, throttled, *(gauge for gauge, _ in figures))


def _nodes(context: Context) -> Iterator[Metric]:
    up = _gauge("wanworks_node_up", "Whether the node's io worker is online.", "node")
    drained = _gauge("wanworks_node_drained", "Whether the node is drained.", "node")
    total = _gauge("wanworks_node_disk_total_bytes", "Size of the disk with the model storage.", "node")
    free = _gauge("wanworks_node_disk_free_bytes", "Free space on that disk.", "node")
    for node, silent in nodes.nodes(context.database):
        up.add_metric([node.name], float(silent <= context.settings.device_silence_seconds))
        drained.add_metric([node.name], float(node.drained_at is not None))
        if node.disk_total_mb is not None and node.disk_free_mb is not None:
            total.add_metric([node.name], node.disk_total_mb * 1e6)
            free.add_metric([node.name], node.disk_free_mb * 1e6)
    yield from (up, drained, total, free)
    held = _gauge("wanworks_replica_ready", "Whether the node has the complete model.", "node", "model")
    size = _gauge("wanworks_replica_bytes", "Size of the model on the node.", "node", "model")
    ready = replicas.ready(context.database)
    for row in replicas.rows(context.database):
        held.add_metric([row.node, row.model_id], float(row.model_id in ready.get(row.node, ())))
        size.add_metric([row.node, row.model_id], row.bytes)
    yield from (held, size)


def _state(context: Context) -> Iterator[Metric]:
    opened = _gauge("wanworks_alerts_open", "Open alerts.", "severity")
    rows = alerts.open_alerts(context.database)
    for severity in ("critical", "warning", "info"):
        opened.add_metric([severity], sum(row.severity == severity for row in rows))
    yield opened
    leads = _gauge("wanworks_dispatcher_up", "Whether a dispatcher has finished a pass within the last 15 s.")
    leads.add_metric([], float(loop_reports.dispatcher_heard(loop_reports.seen(context.database))))
    yield leads


def _redis(context: Context) -> Iterator[Metric]:
    """Yield the state of Redis and the counters in it. Unknown metrics are absent."""
    up = _gauge("wanworks_redis_up", "Whether Redis responds; absent if it takes longer than two seconds.")
    there = answers(context.settings.redis)
    if there is not None:
        up.add_metric([], float(there))
    yield up
    patient = RestingRedis(context.settings.redis, timeout=_REDIS_TIMEOUT_SECONDS, rest=0.0)
    for family in (meters.read(patient) if there else None) or ():
        yield _counter(family) if family.meter.kind == "counter" else _histogram(family)


def _counter(family: Family) -> Metric:
    metric = CounterMetricFamily(family.meter.name, family.meter.help, labels=family.meter.labels)
    for labels, total in sorted(family.totals.items()):
        metric.add_metric(list(labels), total)
    return metric


def _histogram(family: Family) -> Metric:
    metric = HistogramMetricFamily(family.meter.name, family.meter.help, labels=family.meter.labels)
    for labels, buckets in sorted(family.buckets.items()):
        metric.add_metric(list(labels), buckets, sum_value=family.sums.get(labels, 0.0))
    return metric


def _gauge(name: str, help: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, labels=labels)


OPERATIONS = (
    Operation(
        "GET", "/metrics", metrics, "metrics", "Get metrics for Prometheus",
        answers=(Answer(200, "The metrics of the whole installation.", media_type="text/plain"),),
        problems=(503,), tag="operations", scope=Scope.READ,
    ),
)  # fmt: skip
