"""Accept a flow: all of its jobs in one transaction, or none."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database, settled
from shared.database.tables import Flow, FlowNode, Job, epoch_now
from shared.errors import Conflict, InvalidField, LimitReached, Unavailable
from shared.jobs import accepting
from shared.jobs.accepting import NewJob
from shared.jobs.flows.plan import QUEUED, SKIP

_DOWNLOAD_THERE = "A download of one of these models to its node exists already and has not ended"


@dataclass(frozen=True)
class NewNode:
    """A job of a new flow."""

    name: str
    job: NewJob
    depends_on: tuple[str, ...] = ()
    frame_of: dict[str, Any] | None = None  # the job and the frame that is its input picture
    last_frame_of: dict[str, Any] | None = None  # and the one with which its video ends
    on_failure: str = SKIP


@dataclass(frozen=True)
class NewFlow:
    """A validated flow that is about to be stored. Its jobs name it."""

    id: str
    nodes: tuple[NewNode, ...]
    name: str | None = None
    owner: str | None = None
    owner_may_queue: int | None = None
    webhook_url: str | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Accepted:
    """The stored flow, and whether an earlier request with the same idempotency key had created it."""

    flow: Flow
    replayed: bool


@settled
def accept(database: Database, new: NewFlow) -> Accepted:
    """Store the flow and its jobs in one transaction.

    Raises InvalidField for an idempotency key of another request, LimitReached if the owner may not queue so many jobs,
    and Conflict for a download that is already active. Nothing is stored then.
    """
    try:
        return _accept(database, new)
    except IntegrityError:
        # Another transaction used the key, or began the same download, between our read and our insert.
        try:
            return _accept(database, new)
        except IntegrityError:
            raise Conflict(_DOWNLOAD_THERE) from None


def earlier(database: Database, idempotency_key: str | None, request_hash: str | None) -> str | None:
    """Return the id of the flow of an earlier request with that key. Raises InvalidField if it had another body."""
    if idempotency_key is None:
        return None
    with database.read() as session:
        flow = _of_key(session, idempotency_key, request_hash)
    return flow.id if flow is not None else None


def may_exist(error: Exception) -> bool:
    """Return whether the flow may have been stored although `accept` has raised this."""
    return isinstance(error, Unavailable)


def insert_jobs(session: Session, jobs: Sequence[NewJob]) -> None:
    """Insert the rows of the jobs, in order. Raises LimitReached if a limit of queued jobs does not allow all."""
    room = accepting.room_of(session, jobs)
    for job in jobs:
        if job.owner in room:
            room[job.owner] -= 1
            if room[job.owner] < 0:
                message = (
                    f"{accepting.queue_limit_message(job.owner_may_queue or 0)}; the flow would queue {len(jobs)} more"
                )
                raise LimitReached(message, accepting.QUEUE_RETRY_SECONDS)
    now = clock.now()
    queued_at = session.connection().execute(select(epoch_now())).scalar_one()
    in_force = accepting.windows_for(session, jobs)
    rows = [accepting.row_of(job, now, queued_at + place * 1e-6, in_force) for place, job in enumerate(jobs)]
    session.scalars(insert(Job).returning(Job), rows).all()


def _accept(database: Database, new: NewFlow) -> Accepted:
    with database.write() as session:
        if (there := session.get(Flow, new.id)) is not None:  # the commit of an earlier call was not answered
            return Accepted(there, replayed=False)
        if new.idempotency_key is not None:
            there = _of_key(session, new.idempotency_key, new.request_hash)
            if there is not None:
                return Accepted(there, replayed=True)
        flow = Flow(
            id=new.id,
            owner=new.owner,
            name=new.name,
            state=QUEUED,
            labels=new.labels,
            webhook_url=new.webhook_url,
            idempotency_key=new.idempotency_key,
            request_hash=new.request_hash,
            created_at=clock.now(),
        )
        session.add(flow)
        session.flush()
        insert_jobs(session, [node.job for node in new.nodes])
        session.add_all(
            FlowNode(
                flow_id=new.id,
                position=position,
                name=node.name,
                job_id=node.job.id,
                earlier_jobs=[],
                depends_on=list(node.depends_on),
                frame_of=node.frame_of,
                last_frame_of=node.last_frame_of,
                on_failure=node.on_failure,
                released=not node.depends_on,
            )
            for position, node in enumerate(new.nodes)
        )
        session.flush()
    return Accepted(flow, replayed=False)


def _of_key(session: Session, idempotency_key: str, request_hash: str | None) -> Flow | None:
    flow = session.exec(select(Flow).where(col(Flow.idempotency_key) == idempotency_key)).one_or_none()
    if flow is not None and flow.request_hash != request_hash:
        raise InvalidField.of("Idempotency-Key", "this key was used with another body", "idempotency_mismatch")
    return flow
