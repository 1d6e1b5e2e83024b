"""The alert rules: a table of pure functions from the current facts to what is wrong. One row is one kind of alert.

A rule receives the subjects of its open alerts, so that the threshold to keep an alert can be lower than the one to
open it (hysteresis). Its row sets how long a cause must last or be gone before that counts. Nothing here reads a clock
or a table.
"""

import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from scheduler.alerts import device_rules
from scheduler.alerts.fact_types import Facts
from scheduler.alerts.found import HYSTERESIS as _HYSTERESIS
from scheduler.alerts.found import Find, Found
from scheduler.alerts.found import limit as _limit
from scheduler.alerts.found import span as _span
from shared import clock
from shared.cluster.alerts import Severity
from shared.cluster.nodes import is_heard
from shared.settings import Settings
from shared.states import REPLICA_READY, ReplicaState

_MINUTE = 60.0
_LEAST_USES = 4  # for a share of failures
_LATEST, _BEFORE = 5, 10  # generations compared with those before them
_SHOWN = 3  # file names in one message


@dataclass(frozen=True)
class Rule:
    name: str
    severity: Severity
    action_required: bool
    for_seconds: Callable[[Settings], float]  # how long the cause must last before the alert opens
    gone_seconds: float  # how long it must be gone before the alert is resolved
    find: Find


def _model_corrupted(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    corrupted = {
        (model.model_id, one.node): set(one.faults)
        for model in facts.models
        for one in model.replicas
        if one.faults or one.availability == ReplicaState.CORRUPTED
    }
    for model in facts.models:
        served = any(one.availability in REPLICA_READY for one in model.replicas)
        for one in model.replicas:
            if (model.model_id, one.node) not in corrupted:
                continue
            of_weights = corrupted.get((model.weights_id or "", one.node))
            if of_weights is not None and of_weights >= set(one.faults):
                continue  # a preset: the alert about the model whose files it uses names them
            files = f": {_some(one.faults)}" if one.faults else ""
            yield Found(
                f"{model.model_id} on {one.node}",
                f"{model.model_id} is corrupted on node {one.node}",
                f"{len(one.faults) or 'Some'} files are missing or wrong{files}. "
                + ("Other files or nodes still serve it." if served else "No generation uses it."),
                f"Repair it: verify {model.model_id} on {one.node} with repair, which fetches only the broken files",
                model.model_id,
                "warning" if served else "critical",
            )


def _model_missing(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for model in facts.models:
        served = any(one.availability in REPLICA_READY for one in model.replicas)
        if model.waiting and not served:
            rest = "It is being downloaded." if model.downloading else "No download is running."
            yield Found(
                model.model_id,
                f"Jobs wait for {model.model_id}, which no node can serve",
                f"{model.waiting} generations wait. {rest}",
                "Wait for the download" if model.downloading else f"Start a download of {model.model_id}",
                model.model_id,
                "info" if model.downloading else "critical",
            )


def _node_lost(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for node in facts.nodes:
        if not node.stopped and not is_heard(node.silent_seconds, settings.device_silence_seconds):
            yield Found(
                node.name,
                f"Node {node.name} is silent",
                f"Its io worker sent its last heartbeat {_span(node.silent_seconds)} ago. Its models count as unknown, "
                "and its downloads and checks do not run.",
                "Check whether the host is up, and read the log of its io worker",
            )


def _crash_loop(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for process in facts.processes:
        if process.state == "crash_loop" and process.name != "flower":
            yield Found(
                f"{process.name} on {process.node}",
                f"{process.name} on node {process.node} keeps crashing",
                f"It was started {process.restarts + 1} times and is now restarted once a minute.",
                f"Read logs/{process.name}.log in the home of node {process.node}",
            )


def _queue_age(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    oldest = facts.oldest_queued_seconds
    if oldest is not None and oldest > settings.alert_queue_minutes * _MINUTE:
        yield Found(
            "",
            "Jobs wait too long",
            f"The oldest of {facts.queued} waiting jobs has waited {_span(oldest)}.",
            "Add devices, or check whether the existing ones work",
        )


def _start_late(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for job in facts.late:
        yield Found(
            job.job_id,
            "A job is expected to miss its latest start",
            f"The job {job.job_id}{_of(job.model_id)} is expected to start at {_time(job.expected_start)}, but fails "
            f"if it has not started by {_time(job.start_before)}.",
            "Move it to the front, raise its priority, or add devices",
            job.model_id,
        )


def _time(seconds: float) -> str:
    return clock.iso(clock.from_epoch(seconds)) or ""


def _job_stuck(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for job in facts.running:
        limit = settings.alert_stuck_minutes * _MINUTE
        if job.type != "download" and job.idle_seconds is not None and job.idle_seconds > limit:
            yield Found(
                job.job_id,
                "A job makes no progress",
                f"The {job.type} {job.job_id}{_of(job.model_id)} has reported nothing for {_span(job.idle_seconds)}.",
                "Cancel it, or wait: after its time limit another attempt starts automatically",
                job.model_id,
            )


def _failure_rate(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    uses = facts.succeeded_1h + facts.failed_1h
    limit = _limit(settings.alert_failure_percent, bool(open))
    if uses >= _LEAST_USES and 100 * facts.failed_1h / uses >= limit:
        yield Found(
            "",
            "Many generations fail",
            f"{facts.failed_1h} of the {uses} generations of the last hour failed.",
            "Check the errors of the failed jobs",
        )


def _slower(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for model in facts.models:
        times = model.relative_seconds
        if len(times) < _LATEST + _BEFORE:
            continue
        now, before = statistics.median(times[:_LATEST]), statistics.median(times[_LATEST:])
        if before > 0 and now / before >= _limit(settings.alert_slower_ratio, model.model_id in open):
            yield Found(
                model.model_id,
                f"{model.model_id} has become slower",
                f"Its latest {_LATEST} generations took {now / before:.1f} times as long, for their size and steps, as "
                f"the {len(times) - _LATEST} before them.",
                "Check whether the devices have other load, are hot, or use a leaner memory profile",
                model.model_id,
            )


def _disk_full(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for node in facts.nodes:
        used = node.disk_used_percent
        if node.stopped or used is None or used < _limit(settings.alert_disk_percent, node.name in open):
            continue
        free = f"{node.disk_free_gb:.1f} GB is free" if node.disk_free_gb is not None else "little is free"
        yield Found(
            node.name,
            f"The model storage of node {node.name} is nearly full",
            f"{used:.0f} % is used; {free}.",
            "Check what a cleanup would remove",
        )


def _disk_fills(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    hours = facts.disk_full_in_hours
    if hours is not None and hours * (_HYSTERESIS if open else 1.0) < settings.alert_disk_hours:
        yield Found(
            "",
            "The model storage is filling up",
            f"At the rate of the last hours it will be full in {_span(hours * 3600)}.",
            "Check what a cleanup would remove",
        )


def _download_stalled(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for job in facts.running:
        if job.type == "download" and job.no_bytes:
            yield Found(
                job.job_id,
                f"The download of {job.model_id} has stalled",
                f"Node {job.node} has received no data for {_span(settings.alert_stalled_seconds)} or longer.",
                "Check whether that node can reach the hub",
                job.model_id,
            )


def _download_failed(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for one in facts.failed_downloads:
        yield Found(
            f"{one.model_id} to {one.node}",
            f"The download of {one.model_id} to node {one.node} failed",
            one.reason,
            "Fix the cause and start it again; the data received so far is kept",
            one.model_id,
        )


def _redis_away(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    if facts.redis_away:
        yield Found(
            "",
            "Redis is unavailable",
            "Jobs are accepted and kept, but none is started; progress is not shown.",
            "Start Redis; waiting jobs are then dispatched again",
        )


def _redis_lost(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    if facts.redis_lost_seconds is not None and facts.redis_lost_seconds < _REDIS_LOST_SECONDS:
        yield Found(
            "",
            "Redis has lost its data",
            f"It was found empty {_span(facts.redis_lost_seconds)} ago. "
            "No job was lost: all waiting jobs were dispatched again.",
            "Find the cause; with appendonly on, Redis keeps its data across restarts",
        )


def _dispatcher_silent(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found] | None:
    if facts.dispatcher_silent is None:
        return None
    if not facts.dispatcher_silent:
        return ()
    return (
        Found(
            "",
            "The dispatcher is silent",
            "Jobs are accepted, but none is started.",
            "Read logs/dispatcher.log, and check whether Redis responds",
        ),
    )


def _beat_silent(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found] | None:
    if facts.beat_silent_seconds is None:
        return None
    if facts.beat_silent_seconds < _BEAT_SECONDS:
        return ()
    return (
        Found(
            "",
            "Scheduled work does not run",
            f"No scheduled task has run for {_span(facts.beat_silent_seconds)}: no checks, no retention, no history.",
            "Read logs/beat.log and logs/io.log",
        ),
    )


def _loop_silent(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for loop in facts.loops:
        if loop.silent_seconds > silence_limit(loop.every_seconds):
            yield Found(
                f"{loop.loop} of {loop.process}",
                f"The loop {loop.loop} of {loop.process} hangs",
                f"It has not finished a pass for {_span(loop.silent_seconds)}, although one is due every "
                f"{loop.every_seconds:g} s. The rest of its process continues.",
                f"Read the process's log on node {loop.node}; if the loop does not recover, restart the process",
            )


def silence_limit(every_seconds: float) -> float:
    """Return the seconds without a report after which a loop of that period counts as silent."""
    return max(_LOOP_SECONDS, _LOOP_PERIODS * every_seconds)


def _flower_down(facts: Facts, settings: Settings, open: Collection[str]) -> Iterable[Found]:
    for process in facts.processes:
        if process.name == "flower" and process.state not in ("running", "starting"):
            yield Found(
                process.node,
                f"Flower is down on node {process.node}",
                f"Its state is {process.state}. Jobs are not affected.",
                f"Read logs/flower.log in the home of node {process.node}",
            )
            return
    if facts.flower_answers is False:
        yield Found(
            "",
            "Flower does not respond",
            "It runs, but does not respond within two seconds. Jobs are not affected.",
            "Read logs/flower.log; if it does not recover, kill the process, which is then restarted",
        )


def _after(seconds: float) -> Callable[[Settings], float]:
    return lambda settings: seconds


_at_once = _after(0.0)
_REDIS_LOST_SECONDS = 600.0  # for which the alert stays open
_LOOP_SECONDS = 60.0
_LOOP_PERIODS = 5
_BEAT_SECONDS = 240.0  # four times the shortest of beat's periods

RULES = (
    Rule("model_corrupted", "critical", True, _at_once, 0.0, _model_corrupted),
    Rule("model_missing", "critical", True, _after(30.0), 0.0, _model_missing),
    Rule("worker_lost", "critical", True, _at_once, 0.0, device_rules.worker_lost),
    Rule("node_lost", "critical", True, _at_once, 0.0, _node_lost),
    Rule("crash_loop", "critical", True, _at_once, 0.0, _crash_loop),
    Rule("device_too_hot", "warning", True, _after(120.0), 120.0, device_rules.too_hot),
    Rule("device_quarantined", "critical", True, _at_once, 0.0, device_rules.quarantined),
    Rule("device_throttled", "warning", True, _after(60.0), 120.0, device_rules.throttled),
    Rule("device_memory_errors", "warning", True, _at_once, 0.0, device_rules.memory_errors),
    Rule("device_memory_full", "warning", False, _after(600.0), 120.0, device_rules.memory_full),
    Rule("queue_age", "warning", False, _at_once, 60.0, _queue_age),
    Rule("start_late", "warning", True, _after(30.0), 0.0, _start_late),
    Rule("job_stuck", "warning", True, _at_once, 0.0, _job_stuck),
    Rule("failure_rate", "warning", True, _at_once, 300.0, _failure_rate),
    Rule("slower_than_usual", "warning", False, _at_once, 0.0, _slower),
    Rule("disk_nearly_full", "critical", True, _at_once, 0.0, _disk_full),
    Rule("disk_fills", "warning", True, _after(300.0), 300.0, _disk_fills),
    Rule("download_stalled", "warning", False, lambda settings: settings.alert_stalled_seconds, 0.0, _download_stalled),
    Rule("download_failed", "warning", True, _at_once, 0.0, _download_failed),
    Rule("redis_away", "critical", True, _after(30.0), 0.0, _redis_away),
    Rule("redis_data_lost", "warning", False, _at_once, 0.0, _redis_lost),
    Rule("dispatcher_silent", "critical", True, _after(30.0), 0.0, _dispatcher_silent),
    Rule("beat_silent", "critical", True, _at_once, 0.0, _beat_silent),
    Rule("loop_silent", "warning", True, _at_once, 0.0, _loop_silent),
    Rule("flower_down", "info", False, _after(60.0), 0.0, _flower_down),
)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _of(model_id: str | None) -> str:
    return f" of {model_id}" if model_id else ""
