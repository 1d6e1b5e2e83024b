"""The dispatcher: reads the queue, asks placement, and sends dispatch messages.

It keeps nothing in memory that it could not read again.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import Any

from shared import startup

if __name__ == "__main__":
    startup.begin()

import redis

from scheduler import on_demand, pausing
from scheduler.alerts.watch import AlertWatch
from scheduler.flows import Flows
from scheduler.job_reports import JobReports
from scheduler.leadership import Leadership
from scheduler.placement import host_memory, nodes, preemption
from scheduler.placement.devices import Assignment, Moment, displaced
from scheduler.placement.fairness import FairStarts
from scheduler.placement.gangs import decide
from scheduler.placement.owner_limits import OwnerLimits
from scheduler.queue_views import PublishedOrder, known_jobs, part
from scheduler.recovery import Recovery
from scheduler.sender import Send, celery_sender
from scheduler.unplaceable import UnplaceableJobs
from shared import garbage
from shared.cluster import nodes as cluster_nodes
from shared.database.engine import Database
from shared.errors import DatabaseUnavailable, StoreFull
from shared.forecast.durations import MeasuredDurations
from shared.forecast.hosts import Hosts, read_hosts
from shared.forecast.pausing import Pauses
from shared.forecast.pausing import read as read_pauses
from shared.forecast.reported import ReportedEnds
from shared.jobs import checkpoints, dispatch, download_control
from shared.jobs.claims import gangs, running_limits
from shared.jobs.dispatch import Queue, Waiting
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.models import replicas
from shared.settings import Settings, load
from shared.telemetry import logs, tracing
from shared.telemetry.loop_reports import DISPATCHER
from shared.telemetry.loops import LoopReporter, RepeatedErrors
from shared.telemetry.metrics import LOOP_ERRORS, PASS_SECONDS, PREEMPTIONS, Meters

log = logging.getLogger("wanworks.dispatcher")

# Assignments that are written in one transaction and then sent.
_FIRST_BATCH = 16
_BATCH = 128
_AGAIN = 4  # decisions of one pass that follow a limit of an owner


class Dispatcher:
    """Makes a pass at every wake-up and every `dispatch_seconds`."""

    def __init__(self, settings: Settings, database: Database, send: Send, policy: Any = decide) -> None:
        self._settings = settings
        self._database = database
        self._send = send
        self._policy = policy
        resting_redis = RestingRedis(settings.redis)
        self._progress = Progress(resting_redis)
        self._fair_starts = FairStarts()
        self._durations = MeasuredDurations(database)
        self._reported_ends = ReportedEnds(self._progress, self._durations)
        self.meters = Meters(resting_redis)
        self.reporter = LoopReporter(database, f"dispatcher@{settings.node}", settings.node)
        reports = JobReports(self._progress, self.meters)
        self.leadership = Leadership(settings, database, self.meters, self.reporter)
        self.published_order = PublishedOrder(database, resting_redis)
        self._flows = Flows(database, reports)
        self._recovery = Recovery(settings, database, reports, self.meters)
        self._unplaceable = UnplaceableJobs(database, reports, settings.unplaced_limit_hours * 3600)
        self._ahead = dispatch.LOOK_AHEAD  # how many of the first jobs are read: enough for every device
        self._skipped = False  # whether a limit of an owner has left a device without a job in this pass
        self._marked = False  # whether this pass has changed which jobs are marked as waiting for a model
        self.stopping = threading.Event()

    def run(self) -> None:
        """Make passes until `stopping` is set. Continue while Redis or the database is unavailable."""
        errors = RepeatedErrors()
        recover_at = float("-inf")
        self.leadership.start()
        while not self.stopping.is_set():
            try:
                if self.leadership.may_run():
                    began = time.monotonic()
                    # Not at every wake-up: recovery would delay the job that caused it.
                    recover = began >= recover_at
                    self.run_pass(recover=recover)
                    recover_at = began + self._settings.dispatch_seconds if recover else recover_at
                    self.reporter.report(DISPATCHER, self._settings.dispatch_seconds)
                    self.meters.observe(PASS_SECONDS, seconds=time.monotonic() - began)
            except (DatabaseUnavailable, StoreFull) as error:
                if errors.is_news(error):
                    log.warning("database: %s", error)
            except (redis.RedisError, OSError) as error:
                if errors.is_news(error):
                    log.warning("redis: %s", error)
            except Exception as error:
                # One row that cannot be read must not stop all other jobs.
                self.meters.count(LOOP_ERRORS, DISPATCHER)
                if errors.is_news(error):
                    log.exception("this pass failed; continuing with the next one")
            self.leadership.wait(self.stopping, self.published_order.due_in())
        self.leadership.stop()

    def run_pass(self, *, recover: bool = True) -> int:
        """Make one pass: place jobs on devices and send their messages. Return how many messages were sent.

        `recover`: first return jobs whose lease has expired, and resume downloads that have disk space again.
        Raises DatabaseUnavailable.
        """
        if recover:
            self._recovery.run()
            self._flows.note_started()
            self._flows.find_missed()
        self._flows.follow()
        queue = dispatch.read_queue(self._database, self._ahead)
        paused = read_pauses(self._database, queue)
        self._marked = self._skipped = False
        dispatched = self._place(queue, paused) if queue.waiting else 0
        for _ in range(_AGAIN):
            if not self._skipped:
                break
            # A device was meant for a job whose owner has reached its limit meanwhile: another job may have it.
            queue = dispatch.read_queue(self._database, self._ahead)
            dispatched += self._place(queue, paused)
        self._unplaceable.passed(queue.now)
        queue_now = None if dispatched or self._marked else queue
        self.published_order.publish(queue_now, self._ahead, paused, self._reported_ends)
        return dispatched

    def _place(self, queue: Queue, paused: Pauses) -> int:
        held = replicas.ready(self._database)
        hosts = read_hosts(self._database, held, self._settings.device_silence_seconds, paused.devices)
        self._skipped = False
        read, self._ahead = self._ahead, max(dispatch.LOOK_AHEAD, len(hosts.devices))
        if self._recall_from_closed(queue, hosts) or self._ahead > read:
            queue = dispatch.read_queue(self._database, self._ahead)
        queue = pausing.startable(self._database, known_jobs(queue), paused)
        self._unplaceable.check(queue, hosts, held, lambda: self._startable(paused))
        of_devices = part(queue, of_nodes=False)
        limits = OwnerLimits(of_devices, running_limits.of_owners(self._database) if queue.has_rules else {})
        if excess := limits.excess():
            dispatch.recall(self._database, excess)
        by_id = {job.job_id: job for job in queue.waiting}
        dispatched = 0
        for batch in _batches(self._place_on_devices(of_devices, limits, held, hosts)):
            for assignment in displaced(of_devices, batch):
                if dispatch.hand_back(self._database, assignment.job_id, assignment.device_key):
                    log.info(
                        "job %s: recalled from %s: a more urgent job runs first",
                        assignment.job_id,
                        assignment.device_key,
                    )
            if full := host_memory.in_the_way(batch, of_devices, hosts.devices, hosts.loaded_mb):
                cluster_nodes.ask_to_release(self._database, full)
            sent, available = self._dispatch_all(by_id, batch, hosts.protocols)
            dispatched += sent
            if not available:
                return dispatched
        self._skipped = limits.skipped
        on_nodes = self._place_on_nodes(part(queue, of_nodes=True), hosts)
        sent, _ = self._dispatch_all(by_id, on_nodes, hosts.protocols)
        return dispatched + sent

    def _startable(self, paused: Pauses) -> Queue:
        return paused.left_out_of(known_jobs(dispatch.read_queue(self._database, self._ahead)))

    def _recall_from_closed(self, queue: Queue, hosts: Hosts) -> int:
        """Recall messages sent to drained nodes and closed devices, so that their jobs are placed elsewhere."""
        sent_there = [
            job.job_id
            for job in queue.waiting
            if job.dispatched_to is not None
            and (
                job.dispatched_to.rpartition("/")[0] in hosts.drained
                or not hosts.closed.isdisjoint((job.dispatched_to, *gangs.keys_of(job.members)))
            )
        ]
        return dispatch.recall(self._database, sent_there) if sent_there else 0

    def _place_on_devices(
        self, queue: Queue, limits: OwnerLimits, held: Mapping[str, frozenset[str]], hosts: Hosts
    ) -> Iterable[Assignment]:
        if not queue.waiting:
            return ()
        alive = hosts.devices
        anywhere = frozenset().union(*held.values()) if held else frozenset()
        self._mark_waiting_for_model(queue, anywhere)
        if self._settings.downloads_on_demand:
            with_devices = {
                name: node for name, node in hosts.nodes.items() if any(view.node == name for view in alive)
            }
            real = [job for job in queue.waiting if not job.mock]
            for job_id in on_demand.start(self._database, self._settings, real, anywhere, with_devices):
                log.info("job %s: started a download that waiting jobs need", job_id)
        queue = limits.queue()
        estimates = self._durations.estimates()
        deadlines = self._fair_starts.observe(queue, alive, estimates)
        moment = Moment(
            queue,
            host_memory.shared(queue, alive),
            estimates,
            deadlines,
            self._settings.redispatch_seconds,
            self._reported_ends.of(queue),
        )
        preempted = self._preempt(moment)
        moment = replace(moment, queue=preemption.applied(moment.queue, preempted)) if preempted else moment
        given = (one.assignment for one in preempted)
        decided: Iterable[Assignment] = limits.within(chain(given, self._policy(moment)))
        return host_memory.within_hosts(decided, queue, alive)

    def _preempt(self, moment: Moment) -> list[preemption.Preemption]:
        """Ask the jobs that must give their devices to critical ones. Return those that will."""
        if not self._settings.preemption:
            return []
        asked = []
        for one in preemption.choose(moment, self._settings.preemption_wait_seconds):
            victim = one.victim.job_id
            if checkpoints.preempt(self._database, victim):
                self._progress.hint(victim)
                self.meters.count(PREEMPTIONS, one.victim.model_id or "")
                log.info("job %s: gives %s to the critical job %s after its step", victim, one.device_key, one.job_id)
                asked.append(one)
        return asked

    def _place_on_nodes(self, queue: Queue, hosts: Hosts) -> tuple[Assignment, ...]:
        settings, alive = self._settings, hosts.nodes
        decision = nodes.decide(queue, alive, settings.download_slots, settings.redispatch_seconds)
        if decision.yields:
            download_control.ask_to_yield(self._database, decision.yields)
            for job_id in decision.yields:
                self._progress.hint(job_id)
        if decision.recalls:
            dispatch.recall(self._database, decision.recalls)
        return decision.assignments

    def _dispatch_all(
        self, waiting: Mapping[str, Waiting], decided: Sequence[Assignment], protocols: Mapping[str, int]
    ) -> tuple[int, bool]:
        """Send the messages. Return how many were sent, and whether Redis still accepts messages."""
        members = {one.job_id: gangs.joined(one.members) for one in decided if one.members}
        dispatched = dispatch.mark_dispatched(
            self._database, [(one.job_id, one.device_key) for one in decided], members
        )
        for place, (job_id, device_key) in enumerate(dispatched):
            try:
                self._send(waiting[job_id], device_key, protocols.get(device_key, celery.OLDEST_PROTOCOL))
            except Exception as error:  # kombu raises what its transport raises
                # The rows say dispatched, but Redis has no message: recall the rest, so that the next pass sends them.
                log.warning("cannot send dispatch messages: %s", error)
                dispatch.recall(self._database, [job for job, _ in dispatched[place:]])
                return place, False
        return len(dispatched), True

    def _mark_waiting_for_model(self, queue: Queue, held: frozenset[str]) -> None:
        wrong = any(
            (job.phase is None) != (job.model_id in held) and not job.mock and job.dispatched_to is None
            for job in queue.waiting
        )
        if wrong:
            self._marked = dispatch.mark_waiting_for_model(self._database, held) > 0


def _batches(decided: Iterable[Assignment]) -> Iterator[list[Assignment]]:
    """Yield the assignments in batches. The first is small, so that devices start while others are still decided."""
    rest = iter(decided)
    for size in chain((_FIRST_BATCH,), repeat(_BATCH)):
        if not (batch := list(islice(rest, size))):
            return
        yield batch


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
