"""Which waiting job is dispatched to which device: the dispatcher's side of the `jobs` table.

The row says to which device's queue a dispatch message was sent, and when. A message may be lost, duplicated or stale:
the row decides, and only the device that it names may claim the job.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import bindparam, case, or_, update
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import ApiKey, Installation, Job, Pause, epoch_now
from shared.jobs.attempts import Failure
from shared.jobs.ending.ends import note_end
from shared.jobs.finishing import ON_DEVICE
from shared.jobs.lines import holding, windows
from shared.jobs.lines.heads import QUEUED, first_of_each, lines_there
from shared.jobs.lines.names import NEEDS, owner_part
from shared.jobs.usage import durations
from shared.states import JobState, Phase

# A job that waits this long counts as one priority higher.
PRIORITY_RISE_SECONDS = 600.0
# How many of the first jobs are read: enough to fill any usual number of devices between two passes. It is divided
# among the owners, but at least _LOOK_AHEAD_OF_EACH jobs of each line are read.
LOOK_AHEAD = 100
_LOOK_AHEAD_OF_EACH = 4
# The dispatcher publishes the exact order of this many queued jobs.
ORDERED = 1000


class Waiting(NamedTuple):
    """A queued job as placement sees it. Times are seconds by the database's clock.

    A tuple, because one pass creates tens of thousands.
    """

    job_id: str
    type: str
    model_id: str | None
    model_cache_key: str
    target_node: str | None
    priority: int
    owner: str | None
    queued_at: float
    not_before: float
    work: float
    mock: bool
    min_vram_mb: int
    min_ram_mb: int
    phase: str | None
    dispatched_to: str | None
    dispatched_at: float | None
    unplaceable_since: float | None = None
    line: str = ""
    avoid_device: str | None = None  # key of the last device that failed under it
    memory_needs: str = ""
    speed: str = "exact"
    devices: int = 1  # of one node, that it runs on together
    members: str = ""  # the keys of the other devices that it is dispatched to, separated by blanks
    front_at: float | None = None  # when an administrator moved it before all others
    checkpoint_node: str | None = None  # the node from whose disk it could continue
    volume: float = 0.0  # 0: not known

    @property
    def timing_key(self) -> str:
        return durations.timing_key(self.model_cache_key, self.speed, self.devices)


class Busy(NamedTuple):
    """A running job that holds its device or node, as placement sees it."""

    job_id: str
    type: str
    model_id: str | None
    device_key: str
    model_cache_key: str
    node: str
    priority: int
    requested_action: str | None
    owner: str | None
    work: float
    claimed_at: float
    mock: bool
    memory_needs: str = ""
    speed: str = "exact"
    devices: int = 1
    members: str = ""
    preempted: int = 0
    checkpoint_at: float | None = None
    volume: float = 0.0  # 0: not known
    attempt: int = 0

    @property
    def timing_key(self) -> str:
        return durations.timing_key(self.model_cache_key, self.speed, self.devices)


@dataclass(frozen=True)
class Cut:
    """The last job read from a line that may have further jobs."""

    line: str
    job_id: str
    queued_at: float
    ready_at: float | None  # if only jobs that may start by then were read


@dataclass(frozen=True)
class Queue:
    """The queue at one moment, as placement reads it."""

    now: float
    waiting: tuple[Waiting, ...]
    busy: tuple[Busy, ...]
    cuts: tuple[Cut, ...] = ()
    # Whether there may be pauses, windows, or keys with a limit of running jobs. False: none need be read.
    has_rules: bool = True


_WAITING = (
    Job.id, Job.type, Job.model_id, Job.model_cache_key, Job.target_node, Job.priority, Job.owner, Job.queued_at,
    Job.not_before, Job.work, Job.mock, Job.min_vram_mb, Job.min_ram_mb, Job.phase, Job.dispatched_to,
    Job.dispatched_at, Job.unplaceable_since, Job.line, Job.avoid_device,
    Job.memory_needs, Job.speed, Job.devices, Job.members, Job.front_at, Job.checkpoint_node,
    Job.volume,
)  # fmt: skip
_BUSY = (
    Job.id, Job.type, Job.model_id, Job.device_key, Job.model_cache_key, Job.node, Job.priority, Job.requested_action,
    Job.owner, Job.work, Job.claimed_at, Job.mock, Job.memory_needs, Job.speed, Job.devices, Job.members,
    Job.preempted, Job.checkpoint_at, Job.volume, Job.attempt,
)  # fmt: skip
# Built once, because every pass executes them.
_NOW = select(
    epoch_now(),
    or_(
        select(Pause.id).exists(),
        select(ApiKey.id)
        .where(or_(col(ApiKey.running_jobs).is_not(None), col(ApiKey.low_priority_window).is_not(None)))
        .exists(),
        select(Installation.name).where(Installation.name == windows.NAME, Installation.value != "").exists(),
    ),
)
_DISPATCHED = select(*_WAITING).where(QUEUED, col(Job.dispatched_to).is_not(None))  # type: ignore[call-overload]
_MARK_DISPATCHED = (
    update(Job)
    .where(col(Job.id) == bindparam("of_job"), QUEUED)
    .values(
        dispatched_to=bindparam("at_device"),
        members=bindparam("with_members"),
        dispatched_at=epoch_now(),
        phase=None,
        unplaceable_since=None,
    )
)
# A job that is being finished has left its device, so it neither keeps others from it nor takes memory there.
_RUNNING = select(*_BUSY).where(col(Job.status) == JobState.RUNNING, ON_DEVICE)  # type: ignore[call-overload]


def rank(priority: int, queued_at: float, now: float) -> int:
    """Return the job's rank: its priority, raised by one for each ten minutes of waiting. 0 is served first."""
    earned = priority - int((now - queued_at) / PRIORITY_RISE_SECONDS)
    return earned if earned > 0 else 0


def rank_of(job: Waiting, now: float) -> int:
    """Return the rank of the job. Those moved to the front are first, the last one moved before the others."""
    return rank(job.priority, job.queued_at, now) if job.front_at is None else -int(job.front_at * 1000)


def read_queue(database: Database, ahead: int = LOOK_AHEAD) -> Queue:
    """Return the first jobs of each line, all dispatched jobs, and the running jobs, without those being finished.

    ``ahead``: how many jobs to read for all owners together. The cost depends on the number of lines, not on the
    number of queued jobs.
    """
    with database.read() as session:
        connection = session.connection()
        now, has_rules = connection.execute(_NOW).one()
        lines = lines_there(connection)
        # An owner with many queued jobs must not hide the owners after it.
        each = max(ahead // max(1, len({owner_part(line) for line in lines})), _LOOK_AHEAD_OF_EACH)
        found = [Waiting._make(row) for row in first_of_each(connection, _WAITING, lines, each)]
        cuts = _cuts(found, each)
        # Jobs that may not start yet must not displace those that may.
        held_back = {job.line for job in found if job.not_before > now} & {cut.line for cut in cuts}
        heads = first_of_each(connection, _WAITING, sorted(held_back), each, ready_at=now)
        ready = [Waiting._make(row) for row in heads]
        found += ready
        cuts += _cuts(ready, each, ready_at=now)
        found += [Waiting._make(row) for row in connection.execute(_DISPATCHED)] if cuts else []
        busy = tuple(Busy._make(row) for row in connection.execute(_RUNNING))
    waiting = tuple({job.job_id: job for job in found}.values())
    return Queue(now, waiting, busy, tuple(cuts), bool(has_rules))


def read_held(database: Database, each: int) -> list[Waiting]:
    """Return queued jobs that may not start yet, up to `each` for either reason, first come first."""
    found = []
    with database.read() as session:
        for reason in (holding.START_TIME, holding.WINDOW):
            held = select(*_WAITING).where(QUEUED, Job.held == reason)  # type: ignore[call-overload]
            rows = session.connection().execute(held.order_by(col(Job.queued_at)).limit(each))
            found += [Waiting._make(row) for row in rows]
    return found


def read_further(database: Database, queue: Queue, cuts: Collection[Cut], more: int) -> Queue:
    """Return the queue with up to `more` further jobs behind each of these cuts."""
    known = {job.job_id: job for job in queue.waiting}
    left = [cut for cut in queue.cuts if cut not in cuts]
    with database.read() as session:
        connection = session.connection()
        for cut in cuts:
            where = [QUEUED, col(Job.line) == cut.line, col(Job.queued_at) >= cut.queued_at]
            if cut.ready_at is not None:
                where.append(col(Job.not_before) <= cut.ready_at)
            behind = select(*_WAITING).where(*where, col(Job.id) != cut.job_id)  # type: ignore[call-overload]
            behind = behind.order_by(col(Job.queued_at)).limit(more)
            found = [Waiting._make(row) for row in connection.execute(behind)]
            known |= {job.job_id: job for job in found}
            left += _cuts(found, more, ready_at=cut.ready_at)
    return replace(queue, waiting=tuple(known.values()), cuts=tuple(left))


def _cuts(jobs: Sequence[Waiting], each: int, ready_at: float | None = None) -> list[Cut]:
    """Return the last job read of each line of which `each` jobs were read; it may have more."""
    found: dict[str, list[Waiting]] = defaultdict(list)
    for job in jobs:
        found[job.line].append(job)
    last = [max(many, key=lambda job: (job.queued_at, job.job_id)) for many in found.values() if len(many) >= each]
    return [Cut(job.line, job.job_id, job.queued_at, ready_at) for job in last]


@settled
def mark_dispatched(
    database: Database, assignments: Sequence[tuple[str, str]], members: Mapping[str, str] = MappingProxyType({})
) -> list[tuple[str, str]]:
    """Mark each (job id, device key) as dispatched now. Return those that were still queued.

    `members`: the keys of the other devices of gangs, separated by blanks, by job id.
    """
    if not assignments:
        return []
    dispatched = set()
    with database.write() as session:
        connection = session.connection()
        # Sorted, so that two dispatchers lock the rows in the same order.
        for job_id, device_key in sorted(assignments):
            values = {"of_job": job_id, "at_device": device_key, "with_members": members.get(job_id, "")}
            if connection.execute(_MARK_DISPATCHED, values).rowcount:
                dispatched.add((job_id, device_key))
    return [assignment for assignment in assignments if assignment in dispatched]


def next_on(database: Database, device_key: str) -> Job | None:
    """Return the queued job that was dispatched to this device first; None if there is none."""
    here = (QUEUED, col(Job.dispatched_to).is_not(None), col(Job.dispatched_to) == device_key)
    query = select(Job).where(*here).order_by(col(Job.dispatched_at)).limit(1)
    with database.read() as session:
        return session.exec(query).one_or_none()


def is_on(database: Database, job_id: str, device_key: str) -> bool:
    """Return whether the job is queued and dispatched to this device."""
    query = select(Job.id).where(QUEUED, col(Job.id) == job_id, col(Job.dispatched_to) == device_key)
    with database.read() as session:
        return session.exec(query).first() is not None


@settled
def recall(database: Database, job_ids: Collection[str] | None = None) -> int:
    """Recall all dispatches, or those of these jobs, so that the jobs are placed again. Return how many."""
    where = [QUEUED, col(Job.dispatched_to).is_not(None)]
    if job_ids is not None:
        where.append(col(Job.id).in_(job_ids))
    with database.write() as session:
        query = update(Job).where(*where).values(dispatched_to=None, dispatched_at=None)
        return int(session.connection().execute(query).rowcount)


@settled
def hand_back(database: Database, job_id: str, device_key: str) -> bool:
    """Recall the dispatch of a job to that device. Return whether the job was still dispatched there."""
    where = (col(Job.id) == job_id, col(Job.status) == JobState.QUEUED, col(Job.dispatched_to) == device_key)
    with database.write() as session:
        query = update(Job).where(*where).values(dispatched_to=None, dispatched_at=None)
        return bool(session.connection().execute(query).rowcount)


def note_unplaceable(database: Database, like: Waiting, unplaceable: bool) -> int:
    """Record that from now on no device can run this job and those with equal needs, or clear that record.

    Return how many rows changed.
    """
    needs = [(getattr(Job, name), getattr(like, name)) for name in NEEDS]
    where = [column.is_(None) if value is None else column == value for column, value in needs]
    since = col(Job.unplaceable_since)
    where.append(since.is_(None) if unplaceable else since.is_not(None))
    where.append(col(Job.held).is_(None))  # a job that may not start yet lacks nothing
    with database.write() as session:
        query = update(Job).where(QUEUED, *where).values(unplaceable_since=epoch_now() if unplaceable else None)
        return int(session.connection().execute(query).rowcount)


@settled
def forget_unplaceable(database: Database, lines: Collection[str]) -> None:
    """Forget since when nothing could run the jobs of these lines, which does not count while they are paused."""
    with database.write() as session:
        query = update(Job).where(QUEUED, col(Job.line).in_(lines), col(Job.unplaceable_since).is_not(None))
        session.connection().execute(query.values(unplaceable_since=None))


def put_off_unplaceable(database: Database, watched_until: float) -> int:
    """Exclude the time since `watched_until` from the time in which nothing could run the jobs.

    Return how many rows changed.
    """
    since = col(Job.unplaceable_since)
    # Jobs marked after that moment start anew; for the others, the time until then is kept.
    kept = case((since < watched_until, watched_until - since), else_=0.0)
    with database.write() as session:
        query = update(Job).where(QUEUED, since.is_not(None)).values(unplaceable_since=epoch_now() - kept)
        return int(session.connection().execute(query).rowcount)


def mark_waiting_for_model(database: Database, held: Collection[str]) -> int:
    """Set the phase `waiting_for_model` on queued jobs whose model no node holds, and clear it on the others."""
    queued = (QUEUED, col(Job.mock).is_(False), col(Job.type) == GENERATION)
    absent = update(Job).where(*queued, col(Job.model_id).not_in(held), col(Job.phase).is_(None))
    present = update(Job).where(*queued, col(Job.model_id).in_(held), col(Job.phase) == Phase.WAITING_FOR_MODEL)
    with database.write() as session:
        connection = session.connection()
        changed = connection.execute(absent.values(phase=Phase.WAITING_FOR_MODEL)).rowcount
        return int(changed + connection.execute(present.values(phase=None)).rowcount)


@settled
def give_up(database: Database, job_id: str, failure: Failure) -> Job | None:
    """Fail a queued job. Return it; None if it is no longer queued."""
    with database.write() as session:
        job = session.get(Job, job_id, with_for_update=True)
        if job is None or job.status != JobState.QUEUED:
            settled_before = is_repetition() and job is not None and job.error == failure.as_dict()
            return job if settled_before else None
        return _given_up(session, job, failure)


def give_up_node(session: Session, node: str, failure: Failure) -> list[Job]:
    """Fail the queued and paused jobs of that node. Return them."""
    waiting = col(Job.status).in_((JobState.QUEUED, JobState.PAUSED))
    query = select(Job).where(Job.target_node == node, waiting).with_for_update()
    return [_given_up(session, job, failure) for job in session.exec(query).all()]


def given_up_with_node(session: Session, node: str) -> list[Job]:
    """Return the jobs failed by an earlier `give_up_node` call whose commit was not answered."""
    query = select(Job).where(Job.target_node == node, Job.status == JobState.FAILED)
    return [job for job in session.exec(query) if (job.error or {}).get("code") == "node_lost"]


def _given_up(session: Session, job: Job, failure: Failure) -> Job:
    job.status = JobState.FAILED
    job.finished_at = clock.now()
    job.error = failure.as_dict()
    job.dispatched_to = job.dispatched_at = job.phase = job.paused_by = job.unplaceable_since = job.held = None
    session.add(job)
    note_end(session, job)
    return job
