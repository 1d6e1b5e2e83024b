"""The dispatcher: looks at the queue, asks placement, rings bells, and heals what died.

One leads at a time by a lock in Redis, so that looking is not done twice; two at once do no harm, since every change it
makes is guarded in SQL. It keeps nothing that it could not rebuild.
"""

import logging
import secrets
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice, repeat
from typing import Any

import redis

from scheduler import node_placement, on_demand
from scheduler.alerts.facts import REDIS_LOST
from scheduler.alerts.watch import AlertWatch
from scheduler.fairness import FairStarts
from scheduler.placement import (
    Assignment,
    Moment,
    decide,
    displaced,
    queue_order,
)
from scheduler.slots import DeviceView, Estimates, carries, fits
from shared import clock, garbage
from shared.catalogue.job_types import JOB_TYPES
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Node
from shared.errors import DatabaseUnavailable, StoreFull
from shared.jobs import attempt_spans, attempts, dispatch, download_control, queue_positions, usage
from shared.jobs.attempts import Failure
from shared.jobs.dispatch import Queue, Waiting
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis, connect
from shared.models import replicas
from shared.settings import Settings, load
from shared.stored_names import LOADED_MODEL_KEY, WAKE_KEY
from shared.telemetry import logs, tracing
from shared.telemetry.loop_reports import DISPATCHER
from shared.telemetry.loops import Loop, LoopReporter, RepeatedErrors
from shared.telemetry.metrics import LOOP_ERRORS, PASS_SECONDS, TAKEOVERS, Meters, count_end

log = logging.getLogger("wanworks.dispatcher")

_LOCK_KEY = "wanworks:dispatcher:lock"
_LEADER_SECONDS = 6.0
_LONGEST_PASS_SECONDS = 120.0
# Who leads and whether Redis has its data is asked at most this often: a wake-up does not wait for the answers.
_CERTAIN_SECONDS = 1.0
# One wait for a wake-up: well within the lock's time and the socket's patience.
_WAIT_SECONDS = 0.5  # and short enough for a stop
_ORDER_SECONDS = 0.5
# Bells that are noted in one transaction and then sent.
_FIRST_BATCH = 16
_BATCH = 128
_ESTIMATES_KEEP_SECONDS = 20.0
# How often the dispatcher notes that it watches unplaceable jobs. A pause in watching that is longer than the second
# figure is left out of the time that counts.
_WATCH_NOTED_SECONDS, _WATCH_PAUSE_SECONDS = 10.0, 60.0
_WATCHED_AT = "unplaceable_watched_at"
# Where nothing has been measured yet. Loading and running as long as each other; never shown to anybody.
_UNKNOWN_SECONDS = 30.0

Send = Callable[[Waiting, str, int], None]
"""Sends the bell of a job to a device's queue, in a protocol that the worker there reads (its newest is given).

Raises where Redis is away; the bell is then rung again later.
"""


@dataclass(frozen=True)
class Hosts:
    """The nodes and devices at one look. A drained node finishes what it runs, so placement never sees it."""

    nodes: Mapping[str, Node]  # alive, and taking jobs
    devices: tuple[DeviceView, ...]  # likewise
    drained: frozenset[str]  # names of nodes, alive or not
    drained_devices: tuple[DeviceView, ...]  # alive
    reads: Mapping[str, int]  # the newest protocol of bells, by device, and by node for its io worker


class Dispatcher:
    """One look after the other, at every nudge and every `dispatch_seconds`."""

    def __init__(self, settings: Settings, database: Database, send: Send, policy: Any = decide) -> None:
        self._settings = settings
        self._database = database
        self._send = send
        self._policy = policy
        self._turns = FairStarts()
        self._durations: dict[str, tuple[float, usage.Durations]] = {}
        self._resting = RestingRedis(settings.redis)
        self._progress = Progress(self._resting)
        self.meters = Meters(self._resting)
        self._redis = connect(settings.redis, timeout=5.0) if settings.redis else None
        self._ahead = dispatch.LOOK_AHEAD  # how many of the first are looked at: enough for every device
        self._marked = False  # whether this pass has changed which jobs are said to wait for a model
        self._order_told_at = float("-inf")
        # By the database's clock: the last pass of this process, and when that was last noted for the others.
        self._watched_at = self._watch_noted_at = 0.0
        self._row_errors = RepeatedErrors()
        self._led_at = float("-inf")  # when the leadership was last asked for
        self._certain_at = float("-inf")  # when both were last asked: who leads, and whether Redis has its data
        self._lock = (
            self._redis.lock(_LOCK_KEY, timeout=_LEADER_SECONDS, blocking=False, thread_local=False)
            if self._redis is not None
            else None
        )
        self.reporter = LoopReporter(database, f"dispatcher@{settings.node}", settings.node)
        self._keeping = Loop("dispatcher-lock", _LEADER_SECONDS / 3, self._keep_leading, meters=self.meters)
        self.stopping = threading.Event()

    def run(self) -> None:
        """Until `stopping` is set. Survives a missing Redis and a missing database."""
        errors = RepeatedErrors()
        heal_at = float("-inf")
        self._keeping.start()
        while not self.stopping.is_set():
            try:
                if self._may_run():
                    began = time.monotonic()
                    # Not with every wake-up: a job would wait for it.
                    heal = began >= heal_at
                    self.run_pass(heal=heal)
                    heal_at = began + self._settings.dispatch_seconds if heal else heal_at
                    self.reporter.report(DISPATCHER, self._settings.dispatch_seconds)
                    self.meters.observe(PASS_SECONDS, seconds=time.monotonic() - began)
            except (DatabaseUnavailable, StoreFull) as error:
                if errors.is_news(error):
                    log.warning("database: %s", error)
            except (redis.RedisError, OSError) as error:
                if errors.is_news(error):
                    log.warning("redis: %s", error)
            except Exception as error:
                # One row that cannot be understood must not stop all the others.
                self.meters.count(LOOP_ERRORS, DISPATCHER)
                if errors.is_news(error):
                    log.exception("this pass failed; the next one follows")
            self._wait()
        self._keeping.stop()
        if self._lock is not None:
            try:
                self._lock.release()
            except redis.RedisError as error:
                log.info("leadership was not ours to give back: %s", error)

    def run_pass(self, *, heal: bool = True) -> int:
        """Make one pass: place jobs on devices and send their bells. Return how many bells were sent.

        `heal`: first return jobs whose lease has expired, and resume downloads that have room again.
        Raises DatabaseUnavailable.
        """
        if heal:
            self._take_back_lapsed()
            self._resume_where_there_is_room()
        queue = dispatch.read_queue(self._database, self._ahead)
        self._marked = False
        dispatched = self._place(queue) if queue.waiting else 0
        self._watched_at = queue.now
        self._publish_order(None if dispatched or self._marked else queue)
        return dispatched

    def _place(self, queue: Queue) -> int:
        held = replicas.ready(self._database)
        hosts = self._hosts(held)
        looked, self._ahead = self._ahead, max(dispatch.LOOK_AHEAD, len(hosts.devices))
        if self._take_back_from_drained(queue, hosts.drained) or self._ahead > looked:
            queue = dispatch.read_queue(self._database, self._ahead)
        queue = _known(queue)
        self._note_unplaceable(queue, hosts, held)
        of_devices = _part(queue, of_nodes=False)
        by_id = {job.job_id: job for job in queue.waiting}
        dispatched = 0
        for some in _batches(self._place_on_devices(of_devices, held, hosts)):
            for assignment in displaced(of_devices, some):
                if dispatch.hand_back(self._database, assignment.job_id, assignment.device_key):
                    log.info("job %s: recalled from %s: another goes first", assignment.job_id, assignment.device_key)
            sent, redis_takes = self._dispatch_all(by_id, some, hosts.reads)
            dispatched += sent
            if not redis_takes:
                return dispatched
        sent, _ = self._dispatch_all(by_id, self._place_on_nodes(_part(queue, of_nodes=True), hosts), hosts.reads)
        return dispatched + sent

    def _hosts(self, held: dict[str, frozenset[str]]) -> Hosts:
        silence = self._settings.device_silence_seconds
        known = nodes.nodes(self._database)
        drained = frozenset(node.name for node, _ in known if node.drained_at is not None)
        seen = [item.device for item in nodes.devices(self._database) if item.alive(silence)]
        views = [
            DeviceView(
                key=device.key,
                node=device.node,
                kind=device.kind,
                memory_mb=device.memory_mb,
                warm=frozenset(entry[LOADED_MODEL_KEY] for entry in device.warm),
                holds=held.get(device.node, frozenset()),
            )
            for device in seen
        ]
        return Hosts(
            nodes={node.name: node for node, silent in known if silent < silence and node.name not in drained},
            devices=tuple(view for view in views if view.node not in drained),
            drained=drained,
            drained_devices=tuple(view for view in views if view.node in drained),
            reads={device.key: device.message_protocol for device in seen}
            | {celery.node_key(node.name): node.message_protocol for node, _ in known},
        )

    def _take_back_from_drained(self, queue: Queue, drained: frozenset[str]) -> int:
        """The bells that lie at drained nodes: their jobs are placed anew, elsewhere or once the node is back."""
        there = [
            job.job_id
            for job in queue.waiting
            if job.dispatched_to is not None and job.dispatched_to.rpartition("/")[0] in drained
        ]
        return dispatch.recall(self._database, there) if there else 0

    def _place_on_devices(self, queue: Queue, held: dict[str, frozenset[str]], hosts: Hosts) -> Iterable[Assignment]:
        if not queue.waiting:
            return ()
        alive = hosts.devices
        anywhere = frozenset().union(*held.values()) if held else frozenset()
        self._say_what_is_missing(queue, anywhere)
        if on_demand.allowed(self._settings):
            with_devices = {
                name: node for name, node in hosts.nodes.items() if any(view.node == name for view in alive)
            }
            real = [job for job in queue.waiting if not job.mock]
            for job_id in on_demand.start(self._database, self._settings, real, anywhere, with_devices):
                log.info("job %s: a download that waiting jobs need", job_id)
        estimates = Estimates(cache(self._load_seconds), cache(self._run_seconds))
        deadlines = self._turns.observe(queue, alive, estimates)
        moment = Moment(queue, alive, estimates, deadlines, self._settings.redispatch_seconds)
        decided: Iterable[Assignment] = self._policy(moment)
        return decided

    def _place_on_nodes(self, queue: Queue, hosts: Hosts) -> tuple[Assignment, ...]:
        settings, alive = self._settings, hosts.nodes
        decision = node_placement.decide(queue, alive, settings.download_slots, settings.redispatch_seconds)
        if decision.yields:
            download_control.ask_to_yield(self._database, decision.yields)
            for job_id in decision.yields:
                self._progress.hint(job_id)
        if decision.recalls:
            dispatch.recall(self._database, decision.recalls)
        return decision.assignments

    def _resume_where_there_is_room(self) -> None:
        """Downloads that a full disk stopped go on once their node says that what is left of them fits."""
        stopped = download_control.stopped_by_full_disk(self._database)
        alive = self._hosts({}).nodes if stopped else {}
        for job in stopped:
            node = alive.get(job.target_node or "")
            left_mb = ((job.bytes_total or 0) - (job.bytes_done or 0)) / 1e6
            there_is_room = node is not None and (node.disk_free_mb or 0.0) > left_mb + self._settings.min_free_disk_mb
            if there_is_room and download_control.resume_with_room(self._database, job.id):
                log.info("job %s: there is room again", job.id)

    def _dispatch_all(
        self, waiting: Mapping[str, Waiting], decided: Sequence[Assignment], reads: Mapping[str, int]
    ) -> tuple[int, bool]:
        """Sends the bells. Returns how many were sent, and whether Redis still takes messages."""
        dispatched = dispatch.mark_dispatched(self._database, [(one.job_id, one.device_key) for one in decided])
        for place, (job_id, device_key) in enumerate(dispatched):
            try:
                self._send(waiting[job_id], device_key, reads.get(device_key, celery.OLDEST_PROTOCOL))
            except Exception as error:  # kombu raises what its transport raises
                # The rows say rung, Redis does not have it: take the rest back, so that the next look rings again.
                log.warning("cannot ring: %s", error)
                dispatch.recall(self._database, [job for job, _ in dispatched[place:]])
                return place, False
        return len(dispatched), True

    def _take_back_lapsed(self) -> None:
        for job_id, attempt in attempts.lapsed(self._database):
            with self._apart(job_id):
                self._take_back(job_id, attempt)

    def _take_back(self, job_id: str, attempt: int) -> None:
        backoff, reason = self._settings.retry_backoff_seconds, "The worker died or went silent"
        job = attempts.crashed(self._database, job_id, attempt, reason, backoff, lapsed=True)
        if job is not None:
            log.warning("job %s: the lease of attempt %d ran out; now %s", job_id, attempt, job.status)
            self.meters.count(TAKEOVERS)
            attempt_spans.tell_lost(job, attempt, "worker_lost", "Its lease ran out")
            self._tell(job)

    @contextmanager
    def _apart(self, job_id: str) -> Iterator[None]:
        """Logs and counts what one job's row raises, so that it stops neither the other jobs nor the pass."""
        try:
            yield
        except (DatabaseUnavailable, StoreFull):
            raise
        except Exception as error:
            self.meters.count(LOOP_ERRORS, DISPATCHER)
            if self._row_errors.is_news(error):
                log.exception("job %s is left out of this pass", job_id)

    def _check_epoch(self) -> None:
        """A missing epoch means that Redis lost its data, and with it every bell."""
        if self._redis is None or self._redis.exists(celery.EPOCH_KEY):
            return
        epoch = secrets.token_hex(8)
        lost = dispatch.recall(self._database)
        if nodes.note(self._database, "redis_epoch", epoch) is not None:
            nodes.note(self._database, REDIS_LOST, str(clock.now().timestamp()))
        # Only once the rows say so: where the database is away, the next pass finds the key missing again.
        self._redis.set(celery.EPOCH_KEY, epoch)
        if lost:
            log.warning("Redis has lost its data: %d bells are rung again", lost)

    def _say_what_is_missing(self, queue: Queue, held: frozenset[str]) -> None:
        wrong = any(
            (job.phase is None) != (job.model_id in held) and not job.mock and job.dispatched_to is None
            for job in queue.waiting
        )
        if wrong:
            self._marked = dispatch.mark_waiting_for_model(self._database, held) > 0

    def _note_unplaceable(self, queue: Queue, hosts: Hosts, held: dict[str, frozenset[str]]) -> None:
        """Keeps since when nothing that is there could run a job, and ends jobs of which that was true for too long.

        A device that is merely busy, or drained, or a model that is on its way, is worth waiting for. Time in which no
        dispatcher looked does not count: the whole installation may have been off.
        """
        if self._leave_out_pause(queue):
            queue = _known(dispatch.read_queue(self._database, self._ahead))
        limit = self._settings.unplaced_limit_hours * 3600
        alike: dict[tuple[Any, ...], list[Waiting]] = defaultdict(list)
        for job in queue.waiting:
            alike[_needs(job)].append(job)
        coming: frozenset[str] | None = None
        for group in alike.values():
            one = group[0]
            failure = _why_unplaceable(one, hosts, held)
            if failure is not None and failure.code == "model_unavailable":
                if coming is None:
                    coming = frozenset(download.model_id or "" for download in download_control.active(self._database))
                failure = None if one.model_id in coming else failure
            if any((job.unplaceable_since is None) == (failure is not None) for job in group):
                dispatch.note_unplaceable(self._database, one, failure is not None)
            if failure is None:
                continue
            for job in group:
                if job.unplaceable_since is None or queue.now - job.unplaceable_since < limit:
                    continue
                with self._apart(job.job_id):
                    if (ended := dispatch.give_up(self._database, job.job_id, failure)) is not None:
                        self._tell(ended)

    def _leave_out_pause(self, queue: Queue) -> bool:
        """Moves the time of unplaceable jobs on by the pause since somebody last watched them; whether it did."""
        if all(job.unplaceable_since is None for job in queue.waiting):
            return False
        last, moved = self._watched_at, False
        if queue.now - last > _WATCH_PAUSE_SECONDS:
            noted = nodes.noted(self._database, _WATCHED_AT)  # by another dispatcher, or an earlier process
            last = max(last, float(noted or 0.0))
            if queue.now - last > _WATCH_PAUSE_SECONDS:
                moved = dispatch.put_off_unplaceable(self._database, last) > 0
        if queue.now - self._watch_noted_at > _WATCH_NOTED_SECONDS:
            nodes.note(self._database, _WATCHED_AT, str(queue.now))
            self._watch_noted_at = queue.now
        return moved

    def _publish_order(self, queue: Queue | None) -> None:
        """Tells those who ask for positions in which order the queue is served; twice a second at most.

        ``queue``: as it stands now; None where the pass has changed it.
        """
        if time.monotonic() - self._order_told_at < _ORDER_SECONDS:
            return
        self._order_told_at = time.monotonic()
        queue = dispatch.read_queue(self._database, self._ahead) if queue is None else queue
        while True:
            ids = queue_order(_known(queue))[: dispatch.ORDERED]
            places = {job_id: place for place, job_id in enumerate(ids)}
            cuts = [cut for cut in queue.cuts if cut.job_id in places]
            if not cuts:
                break
            queue = dispatch.read_further(self._database, queue, cuts, max(8, dispatch.ORDERED // len(cuts)))
        queue_positions.publish(self._resting, ids)

    def _tell(self, job: Any) -> None:
        ended = job.finished_at is not None
        self._progress.report(job.id, {"kind": "state", "attempt": job.attempt, "status": job.status}, ended=ended)
        if ended:
            count_end(self.meters, job)

    def _load_seconds(self, model_cache_key: str) -> float:
        measured = self._measured(model_cache_key).load_seconds
        return _UNKNOWN_SECONDS if measured is None else measured

    def _run_seconds(self, model_cache_key: str, work: float) -> float:
        measured = self._measured(model_cache_key).seconds_per_work
        return _UNKNOWN_SECONDS if measured is None else measured * work

    def _measured(self, model_cache_key: str) -> usage.Durations:
        asked, durations = self._durations.get(model_cache_key, (float("-inf"), None))
        if durations is None or time.monotonic() - asked > _ESTIMATES_KEEP_SECONDS:
            durations = usage.durations(self._database, model_cache_key)
            self._durations[model_cache_key] = (time.monotonic(), durations)
        return durations

    def _may_run(self) -> bool:
        """Return whether this process leads. If it does, bells that Redis has lost have been taken back."""
        if time.monotonic() - self._certain_at < _CERTAIN_SECONDS:
            return True
        if not self._leads():
            return False
        self._check_epoch()
        self._certain_at = self._led_at
        return True

    def _leads(self) -> bool:
        if self._redis is None or self._lock is None:
            return True
        self._led_at = time.monotonic()
        leads = False
        with suppress(redis.exceptions.LockError):
            if self._lock.owned():
                self._lock.extend(_LEADER_SECONDS, replace_ttl=True)
                leads = True
            else:
                leads = bool(self._lock.acquire())
        if not leads:
            self._certain_at = float("-inf")
        return leads

    def _keep_leading(self) -> None:
        """Keeps the leadership beside a long pass; not beside one that will never end."""
        since = time.monotonic() - self._led_at
        if self._lock is not None and _LEADER_SECONDS / 3 < since < _LONGEST_PASS_SECONDS:
            with suppress(redis.RedisError, OSError):
                self._lock.extend(_LEADER_SECONDS, replace_ttl=True)

    def _wait(self) -> None:
        """For a wake-up, or until the next pass is due; the leadership is kept meanwhile, however long that is."""
        due = time.monotonic() + self._settings.dispatch_seconds
        while not self.stopping.is_set() and (left := due - time.monotonic()) > 0:
            if self._redis is None:
                self.stopping.wait(left)
                return
            try:
                if self._redis.blpop([WAKE_KEY], timeout=min(left, _WAIT_SECONDS)) is not None:
                    return
                if time.monotonic() - self._led_at > _LEADER_SECONDS / 3 and self._leads():
                    self.reporter.report(DISPATCHER, self._settings.dispatch_seconds)  # alive, with nothing to do
            except (redis.RedisError, OSError):
                self.stopping.wait(min(left, _WAIT_SECONDS))


def _batches(decided: Iterable[Assignment]) -> Iterator[list[Assignment]]:
    """Yields what is decided in batches, the first of them small: a device is called while others are still weighed."""
    rest = iter(decided)
    for size in chain((_FIRST_BATCH,), repeat(_BATCH)):
        if not (batch := list(islice(rest, size))):
            return
        yield batch


def _known(queue: Queue) -> Queue:
    """The queue without waiting jobs of types that this version does not know: a newer dispatcher serves them."""
    return replace(queue, waiting=tuple(job for job in queue.waiting if _is_known(job.type)))


@cache
def _is_known(job_type: str) -> bool:
    if job_type not in JOB_TYPES:
        log.warning("jobs of type %s are left to a newer dispatcher: this one does not know it", job_type)
    return job_type in JOB_TYPES


def _part(queue: Queue, *, of_nodes: bool) -> Queue:
    """Of the queue, what is for nodes or what is for devices."""
    return Queue(
        queue.now,
        tuple(job for job in queue.waiting if (job.target_node is not None) == of_nodes),
        tuple(job for job in queue.busy if (job.device_key == celery.node_key(job.node)) == of_nodes),
    )


def _needs(job: Waiting) -> tuple[Any, ...]:
    """What decides whether something could run the job: alike for all jobs with the same."""
    return (job.model_id, job.model_cache_key, job.target_node, job.mock, job.min_vram_mb, job.min_ram_mb)


def _why_unplaceable(job: Waiting, hosts: Hosts, held: dict[str, frozenset[str]]) -> Failure | None:
    """The reason that nothing could run the job; None where something could, be it busy or drained."""
    if job.target_node is not None:
        if job.target_node in hosts.nodes or job.target_node in hosts.drained:
            return None
        return Failure("node_lost", f"Node {job.target_node} has been silent", retryable=True)
    there = (*hosts.devices, *hosts.drained_devices)
    if any(fits(job, device) for device in there):
        return None
    holders = {node for node, models in held.items() if job.model_id in models}
    if not holders and not job.mock:
        return Failure("model_unavailable", f"No node holds {job.model_id}", retryable=True)
    if not any(carries(job, device) for device in there):
        return Failure("no_device", "No live device has the memory that this job needs", retryable=True)
    return Failure("node_lost", f"The nodes that hold {job.model_id} have been silent", retryable=True)


def celery_sender(settings: Settings) -> Send:
    """Rings by Celery: task id = job id, on the device's own queue."""
    app = celery.celery_app(settings, "wanworks.dispatcher")

    def send(job: Waiting, device_key: str, reads: int) -> None:
        app.send_task(
            JOB_TYPES[job.type].task,
            args=celery.dispatch_message(job.job_id, reads),
            argsrepr=f"({job.type} {job.model_id})",
            kwargsrepr="",
            task_id=job.job_id,
            queue=celery.queue_of(device_key),
            declare=[],  # the worker declares its queue; a message may come before
            retry=False,
        )

    return send


def main() -> None:
    settings = load()
    logs.set_up(settings, "dispatcher")
    tracing.set_up(settings, "dispatcher")
    dispatcher = Dispatcher(settings, Database(settings.database), celery_sender(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: dispatcher.stopping.set())
    alerting = AlertWatch(settings, dispatcher.meters, dispatcher.reporter)
    alerting.start()
    garbage.settle()
    dispatcher.run()
    alerting.stop(timeout=1.5)
    dispatcher.reporter.close()
    dispatcher.meters.close()
    tracing.close()


if __name__ == "__main__":
    main()
