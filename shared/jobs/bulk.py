"""Actions on many jobs: each is done to a few jobs in one transaction, then to the next few.

An action on very many jobs is itself a job. It stands in no line: a web process claims it. What it has done is stored
in its row in the same transaction as what it does, so the process that continues it after a crash does nothing twice.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, exists, not_, or_
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import BULK, DOWNLOAD, GENERATION, BulkAction
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Job, epoch_now
from shared.errors import Cancelled, DatabaseUnavailable, Fenced, OutcomeUnknown
from shared.jobs import ordering
from shared.jobs.ending import ends, flow_marks, videos
from shared.jobs.lines import holding
from shared.jobs.lines.heads import QUEUED
from shared.jobs.reading import lists
from shared.jobs.records import Stopped
from shared.states import JOB_ENDS, JobState, Priority

AT_ONCE = 100  # jobs in one transaction, so that other writers need not wait long
_DEADLOCK = "40P01"  # PostgreSQL's deadlock_detected
_TRIES = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """Which jobs are meant. None: any."""

    only: str | None = None  # their owner
    type: str | None = None
    status: str | None = None
    model_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    batch_id: str | None = None
    ids: tuple[str, ...] | None = None  # of at most some thousand jobs
    upto: str | None = None  # the highest id: later jobs did not exist when the action was requested


@dataclass(frozen=True)
class Tally:
    """What an action has done so far. `skipped`: by reason. `cursor`: the last job that it has looked at."""

    matched: int = 0  # at its beginning
    changed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    cursor: str | None = None
    detail: str | None = None  # why it has left jobs out

    @property
    def seen(self) -> int:
        return self.changed + sum(self.skipped.values())

    @property
    def percent(self) -> float:
        return 100.0 if not self.matched else min(100.0, 100.0 * self.seen / self.matched)

    def plus(self, changed: int, skipped: Counter[str], cursor: str, detail: str | None = None) -> "Tally":
        together = dict(Counter(self.skipped) + skipped)
        return replace(
            self, changed=self.changed + changed, skipped=together, cursor=cursor, detail=detail or self.detail
        )


@dataclass(frozen=True)
class Task:
    """The attempt of the job that carries out the action."""

    job_id: str
    attempt: int
    lease_seconds: float


def count(database: Database, which: Selection, *, most: int | None = None, after: str | None = None) -> int:
    """Return how many jobs match, or `most` if there are more."""
    return lists.count(database, **_conditions(which), most=most, after=after)


def count_fit(
    database: Database, action: BulkAction, which: Selection, *, priority: Priority | None = None, of_nodes: bool = True
) -> int:
    """Return how many of the matching jobs the action would change now. The limits of keys are not considered.

    `of_nodes`: whether jobs of nodes may be retried.
    """
    fit: list[ColumnElement[bool]] = [col(Job.type) != BULK]
    has_ended = col(Job.status).in_([state.value for state in JobState if state in JOB_ENDS])
    if action == "cancel":
        fit.append(not_(has_ended))
    elif action == "delete":
        fit.append(flow_marks.of_no_open_flow())
    elif action == "set_priority":
        waits = and_(not_(has_ended), or_(col(Job.status) != JobState.RUNNING, col(Job.type) == DOWNLOAD))
        fit += [waits] if priority is None else [waits, col(Job.priority) != priority.rank]
    else:
        again = aliased(Job)
        retried = exists().where(col(again.retry_of) == col(Job.id), col(again.deleted).is_(False))
        fit += [has_ended, not_(retried)]
        fit += [col(Job.status) != JobState.SUCCEEDED] if which.status != JobState.SUCCEEDED else []
        fit += [] if of_nodes else [col(Job.type) == GENERATION]
    return lists.count(database, **_conditions(which), also=fit)


def following(database: Database, which: Selection, after: str | None, limit: int = AT_ONCE) -> list[Job]:
    """Return the next matching jobs after the one with that id, oldest first."""
    while True:
        page = lists.page(database, **_conditions(which), limit=limit, after=after, oldest_first=True)
        # A page may be empty although more follow, if its jobs have changed their states meanwhile.
        if page.jobs or not page.has_more:
            return page.jobs


def _conditions(which: Selection) -> dict[str, Any]:
    return {name: getattr(which, name) for name in which.__dataclass_fields__}


@settled
def act(
    database: Database,
    action: BulkAction,
    which: Selection,
    job_ids: Sequence[str],
    tally: Tally,
    *,
    priority: Priority | None = None,
    task: Task | None = None,
) -> tuple[Tally, list[Stopped]]:
    """Cancel or delete these jobs, or set their priority. Return what has been done, and the jobs that this stopped.

    Raises Fenced if the task belongs to another attempt, and Cancelled if its cancel was requested. Then nothing is
    done.
    """

    def write() -> tuple[Tally, list[Stopped]]:
        with database.write() as session:
            if task is not None:
                own = _own(session, task)
                if is_repetition() and (own.result or {}).get("cursor") == job_ids[-1]:
                    return Tally(**own.result or {}), []
            open_flows = flow_marks.locked_open_flows(session, job_ids) if action == "delete" else frozenset()
            rows = select(Job).where(col(Job.id).in_(job_ids)).order_by(col(Job.id)).with_for_update()
            jobs = [job for job in session.exec(rows) if not job.deleted or is_repetition()]
            skipped: Counter[str] = Counter()
            fit = []
            for job in jobs:
                if job.flow_id in open_flows:
                    skipped["in_open_flow"] += 1
                elif (reason := _unfit(action, which, job, priority)) is None:
                    fit.append(job)
                else:
                    skipped[reason] += 1
            if len(jobs) < len(job_ids):
                skipped["gone"] += len(job_ids) - len(jobs)
            stopped = _done(session, action, fit, priority)
            after = tally.plus(len(fit), skipped, job_ids[-1])
            if task is not None:
                _save(session, own, task, after)
        return after, stopped

    return _despite_deadlocks(write)


@settled
def save(database: Database, task: Task, tally: Tally) -> None:
    """Store what the task has done, and renew its lease. Raises Fenced and Cancelled."""
    with database.write() as session:
        _save(session, _own(session, task), task, tally)


@settled
def claim_next(database: Database, worker: str, pid: int, lease_seconds: float) -> Job | None:
    """Claim the action that waits longest. Return its job; None if none waits."""
    waiting = (QUEUED, col(Job.held) == holding.BULK, col(Job.not_before) <= epoch_now())
    oldest = select(Job).where(*waiting).order_by(col(Job.queued_at)).limit(1)
    with database.read() as session:  # most passes find none, and need no write
        if session.exec(oldest).first() is None and not is_repetition():
            return None
    with database.write() as session:
        mine = (Job.status == JobState.RUNNING, Job.type == BULK, Job.worker == worker, Job.pid == pid)
        if is_repetition() and (job := session.exec(select(Job).where(*mine)).first()) is not None:
            return job
        job = session.exec(oldest.with_for_update(skip_locked=True)).first()
        if job is None:
            return None
        job.status, job.attempt, job.started_at = JobState.RUNNING, job.attempt + 1, clock.now()
        job.worker, job.pid = worker, pid
        job.claimed_at = epoch_now()  # type: ignore[assignment]
        job.lease_until = epoch_now() + lease_seconds  # type: ignore[assignment]
        session.add(job)
        session.flush()
        session.refresh(job)
        return job


def as_result(tally: Tally) -> dict[str, Any]:
    """Return what was done, as it is stored in the result of the job."""
    return asdict(tally)


def selection_of(job: Job) -> Selection:
    """Return which jobs the action is meant for."""
    stored = dict(job.params["filter"])
    for name in ("created_after", "created_before"):
        if stored.get(name) is not None:
            stored[name] = datetime.fromisoformat(stored[name])
    if stored.get("ids") is not None:
        stored["ids"] = tuple(stored["ids"])
    return Selection(**stored)


def filter_of(which: Selection) -> dict[str, Any]:
    """Return the selection as it is stored."""
    values = {name: value for name, value in asdict(which).items() if value is not None}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def _unfit(action: BulkAction, which: Selection, job: Job, priority: Priority | None) -> str | None:
    """Return why the action is not possible for a job whose row is locked."""
    again = is_repetition()
    if job.type == BULK:
        return "is_bulk_action"
    if which.only is not None and job.owner != which.only:
        return "gone"
    if which.status is not None and job.status != which.status and not again:
        return "changed_meanwhile"
    if action == "cancel" and job.status in JOB_ENDS and not (again and job.status == JobState.CANCELLED):
        return "has_ended"
    if action == "set_priority":
        if job.status in JOB_ENDS:
            return "has_ended"
        if job.status == JobState.RUNNING and job.type != DOWNLOAD:
            return "is_running"
        if priority is not None and job.priority == priority.rank and not again:
            return "unchanged"
    return None


def _done(session: Session, action: BulkAction, jobs: Sequence[Job], priority: Priority | None) -> list[Stopped]:
    if action == "set_priority":
        assert priority is not None
        for job in jobs:
            ordering.give_priority(session, job, priority)
        return []
    running = [job for job in jobs if job.status == JobState.RUNNING]
    ended_before = [job for job in jobs if job.status in JOB_ENDS]
    ended = ends.cancel_all(session, jobs)
    if action == "delete":
        for job in jobs:
            job.deleted = True
            job.idempotency_key = None
            session.add(job)
        videos.forget(session, [job.id for job in jobs])
    repeated = ended_before if is_repetition() else []
    return [*(Stopped(job, True) for job in (*ended, *repeated)), *(Stopped(job, False) for job in running)]


def _own(session: Session, task: Task) -> Job:
    of_task = (Job.id == task.job_id, Job.attempt == task.attempt, Job.status == JobState.RUNNING)
    job = session.exec(select(Job).where(*of_task).with_for_update()).one_or_none()
    if job is None:
        raise Fenced()
    if job.cancel_at is not None:
        raise Cancelled()
    return job


def _save(session: Session, own: Job, task: Task, tally: Tally) -> None:
    own.result = as_result(tally)
    own.percent = min(99.0, tally.percent)
    own.lease_until = epoch_now() + task.lease_seconds  # type: ignore[assignment]
    session.add(own)


def _despite_deadlocks(write: Callable[[], T]) -> T:
    """Call `write` again if the database has chosen it to end a deadlock with another writer of several jobs."""
    for _ in range(_TRIES - 1):
        try:
            return write()
        except OutcomeUnknown:
            raise
        except DatabaseUnavailable as error:
            if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) != _DEADLOCK:
                raise
    return write()
