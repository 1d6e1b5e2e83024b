"""Messages to webhooks of jobs, batches and flows, stored with the end, sent until accepted, and kept for replays.

Sole reader and writer of `webhook_messages`. It does not send messages itself.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, delete, exists, or_, update
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Batch, Flow, Job, WebhookMessage, epoch_at_start, epoch_now
from shared.errors import Conflict, NotFound
from shared.net.outbound import receiver_of
from shared.states import JobState, Priority

State = Literal["waiting", "delivered", "dead"]
WAITING: State = "waiting"
DELIVERED: State = "delivered"
DEAD: State = "dead"
PROGRESS = "job.progress"
OF_BATCH, OF_FLOW = "batch.", "flow."  # begin the types of messages about these


@dataclass(frozen=True)
class Page:
    messages: list[WebhookMessage]
    has_more: bool


def add_end(session: Session, job: Job, message_id: str) -> None:
    """Add the message about the end, if the job has a webhook. Call it in the transaction that ends the job."""
    if job.webhook_url is None:
        return
    # Unsent progress is obsolete now.
    stale = delete(WebhookMessage).where(
        col(WebhookMessage.job_id) == job.id, col(WebhookMessage.type) == PROGRESS, col(WebhookMessage.state) == WAITING
    )
    session.connection().execute(stale)
    session.add(_message(job.id, job.webhook_url, message_id, f"job.{JobState(job.status).value}", _summary(job)))


def add_flow_end(session: Session, flow: Flow, message_id: str, data: dict[str, Any]) -> None:
    """Add the message about a flow's end, if it has a webhook. Call it in the transaction that ends the flow."""
    if flow.webhook_url is not None:
        session.add(_message(flow.id, flow.webhook_url, message_id, f"{OF_FLOW}{flow.state}", data))


def add_end_of_batch(session: Session, batch: Batch, state: JobState, message_id: str) -> None:
    """Add the message about the end, if the batch has a webhook. Call it in the transaction that ends the batch."""
    if batch.webhook_url is not None:
        data = {
            "id": batch.id,
            "name": batch.name,
            "status": state.value,
            "total": batch.total,
            "counts": {"succeeded": batch.succeeded, "failed": batch.failed, "cancelled": batch.cancelled},
            "created_at": clock.iso(batch.created_at),
            "finished_at": clock.iso(batch.finished_at),
            "url": f"/api/v1/batches/{batch.id}",
        }
        session.add(_message(batch.id, batch.webhook_url, message_id, f"{OF_BATCH}{state.value}", data))


def add_progress(database: Database, job: Job, message_id: str, progress: dict[str, Any]) -> None:
    """Add a message about the job's progress, or replace one that still waits. After the attempt's end, do nothing.

    It is called beside the attempt, so the end may be stored first, and its message must stay the last one.
    """
    data = {**_summary(job), "progress": progress}
    waiting = update(WebhookMessage).where(
        col(WebhookMessage.job_id) == job.id,
        col(WebhookMessage.type) == PROGRESS,
        col(WebhookMessage.state) == WAITING,
        col(WebhookMessage.tries) == 0,
        col(WebhookMessage.due_at) <= epoch_now(),
    )
    running = (col(Job.id) == job.id, col(Job.attempt) == job.attempt, col(Job.status) == JobState.RUNNING)
    with database.write() as session:
        # The lock keeps the end waiting until the message is stored.
        if session.exec(select(Job.id).where(*running).with_for_update(read=True)).first() is None:
            return
        if not session.connection().execute(waiting.values(data=data)).rowcount:
            assert job.webhook_url is not None
            session.add(_message(job.id, job.webhook_url, message_id, PROGRESS, data))


def take_due(
    database: Database,
    seconds: float,
    limit: int = 20,
    *,
    per_receiver: int | None = None,
    busy: Mapping[str, int] | None = None,
) -> list[WebhookMessage]:
    """Return messages to send now, earliest first. They are reserved for the caller for `seconds`.

    At most `per_receiver` are of one receiver, less its `busy` deliveries. Messages to other receivers are found
    however many of its messages are due before them.
    """
    with database.read() as session:
        due = select(WebhookMessage.id).where(_IS_DUE).order_by(col(WebhookMessage.due_at)).limit(1)
        if session.exec(due).first() is None:
            return []
    with database.write() as session:
        _name_receivers(session)
        mine = _chosen(session, limit, per_receiver, busy or {})
        if not mine:
            return []
        taken = (
            update(WebhookMessage)
            .where(col(WebhookMessage.id).in_(mine))
            .values(due_at=epoch_now() + seconds)
            .returning(WebhookMessage)
        )
        rows = session.scalars(taken, execution_options={"populate_existing": True})
        return sorted(rows, key=lambda row: mine.index(row.id))


@settled
def delivered(database: Database, message: WebhookMessage, now: datetime) -> None:
    """Record that a taken message was delivered. Do nothing if its outcome is recorded already."""
    _settle(database, message, state=DELIVERED, due_at=None, delivered_at=now, error=None)


@settled
def failed(database: Database, message: WebhookMessage, error: str, wait_seconds: float | None) -> None:
    """Record a failed try. `wait_seconds` None: no further try follows, but the message can be replayed.

    Do nothing if the outcome of this try is recorded already.
    """
    if wait_seconds is None:
        _settle(database, message, state=DEAD, due_at=None, error=error[:200])
    else:
        _settle(database, message, due_at=epoch_now() + wait_seconds, error=error[:200])


def page(
    database: Database,
    *,
    only: str | None = None,
    limit: int,
    after: str | None,
    state: str | None = None,
    job_id: str | None = None,
) -> Page:
    """Return messages, newest first, after the one with id `after`. `only`: of this owner's jobs; None: of all."""
    query = select(WebhookMessage).order_by(col(WebhookMessage.id).desc()).limit(limit + 1)
    if after is not None:
        query = query.where(col(WebhookMessage.id) < after)
    if state is not None:
        query = query.where(WebhookMessage.state == state)
    if job_id is not None:
        query = query.where(WebhookMessage.job_id == job_id)
    if only is not None:
        query = query.where(_is_about_a_job_of(only))
    with database.read() as session:
        rows = list(session.exec(query))
    return Page(rows[:limit], has_more=len(rows) > limit)


@settled
def replay(database: Database, message_id: str, *, only: str | None = None) -> WebhookMessage:
    """Send a delivered or dead message again under its id. Raises NotFound, and Conflict if it is still waiting.

    `only` as in `page`.
    """
    query = select(WebhookMessage).where(WebhookMessage.id == message_id)
    if only is not None:
        query = query.where(_is_about_a_job_of(only))
    with database.write() as session:
        message = session.exec(query).first()
        if message is None:
            raise NotFound("message", message_id)
        if message.state == WAITING and is_repetition():
            return message
        if message.state == WAITING:
            raise Conflict("The message is still waiting to be sent")
        message.state, message.tries, message.error, message.delivered_at = WAITING, 0, None, None
        message.due_at = epoch_now()  # type: ignore[assignment]
        session.add(message)
        session.flush()
        session.refresh(message)
        return message


def owner_of(database: Database, message: WebhookMessage) -> str | None:
    """Return the owner of the job, batch or flow that the message is about; None if it has none, or is gone."""
    table: Any = Job
    if message.type.startswith(OF_BATCH):
        table = Batch
    elif message.type.startswith(OF_FLOW):
        table = Flow
    with database.read() as session:
        return session.exec(select(table.owner).where(table.id == message.job_id)).one_or_none()


def drop(session: Session, job_ids: Sequence[str]) -> None:
    """Remove the delivered and dead messages of these jobs or batches, together with them. Others are kept."""
    over = delete(WebhookMessage).where(
        col(WebhookMessage.job_id).in_(job_ids), col(WebhookMessage.state).in_((DELIVERED, DEAD))
    )
    session.connection().execute(over)


def drop_of_gone_jobs(database: Database, after: str, limit: int = 1000) -> tuple[int, str | None]:
    """Remove ended messages without a job or batch, among the `limit` messages after the one with id `after`.

    Return how many were removed, and the id to continue after; None at the end. Each call reads one page of an index.
    """
    page = (
        select(WebhookMessage.id, WebhookMessage.job_id)
        .where(col(WebhookMessage.id) > after)
        .order_by(col(WebhookMessage.id))
        .limit(limit)
    )
    with database.read() as session:
        seen = session.exec(page).all()
        job_ids = {job_id for _, job_id in seen}
        existing = set(session.exec(select(Job.id).where(col(Job.id).in_(job_ids))))
        existing |= set(session.exec(select(Flow.id).where(col(Flow.id).in_(job_ids - existing))))
        existing |= set(session.exec(select(Batch.id).where(col(Batch.id).in_(job_ids - existing))))
    gone = [message_id for message_id, job_id in seen if job_id not in existing]
    dropped = 0
    if gone:
        with database.write() as session:
            over = delete(WebhookMessage).where(
                col(WebhookMessage.id).in_(gone), col(WebhookMessage.state).in_((DELIVERED, DEAD))
            )
            dropped = int(session.connection().execute(over).rowcount)
    return dropped, seen[-1][0] if len(seen) == limit else None


_IS_DUE = col(WebhookMessage.due_at) <= epoch_at_start()
_NAMED_AT_ONCE = 500


def _name_receivers(session: Session) -> None:
    """Set the receivers of due messages that an earlier version stored without one."""
    nameless = select(WebhookMessage.id, WebhookMessage.url).where(_IS_DUE, WebhookMessage.receiver == "")
    # Rows that another sender is taking are set by it.
    nameless = nameless.order_by(col(WebhookMessage.due_at)).limit(_NAMED_AT_ONCE).with_for_update(skip_locked=True)
    for message_id, url in session.exec(nameless).all():
        session.connection().execute(
            update(WebhookMessage).where(col(WebhookMessage.id) == message_id).values(receiver=receiver_of(url))
        )


def _chosen(session: Session, limit: int, per_receiver: int | None, busy: Mapping[str, int]) -> list[str]:
    """Return the ids of due messages. Each round excludes at least one more receiver, so there are few rounds."""
    most = limit if per_receiver is None else per_receiver
    taken, chosen = Counter(busy), list[str]()
    while len(chosen) < limit:
        full = [receiver for receiver, count in taken.items() if count >= most]
        due = (
            select(WebhookMessage.id, WebhookMessage.receiver)
            .where(_IS_DUE, col(WebhookMessage.id).not_in(chosen), col(WebhookMessage.receiver).not_in(full))
            .order_by(col(WebhookMessage.due_at))
            .limit(limit - len(chosen))
        )
        # Skip rows that another node's sender is taking, so that neither waits for the other.
        found = session.exec(due.with_for_update(skip_locked=True)).all()
        before = len(chosen)
        for message_id, receiver in found:
            if taken[receiver] < most:
                taken[receiver] += 1
                chosen.append(message_id)
        if len(found) < limit - before:
            break
    return chosen


def _is_about_a_job_of(owner: str) -> ColumnElement[bool]:
    return or_(
        *(
            exists().where(col(table.id) == col(WebhookMessage.job_id), col(table.owner) == owner)
            for table in (Job, Batch, Flow)
        )
    )


def _message(about: str, url: str, message_id: str, type: str, data: dict[str, Any]) -> WebhookMessage:
    return WebhookMessage(
        id=message_id,
        job_id=about,
        type=type,
        url=url,
        receiver=receiver_of(url),
        data=data,
        state=WAITING,
        created_at=clock.now(),
        due_at=epoch_now(),  # type: ignore[arg-type]
    )


def _summary(job: Job) -> dict[str, Any]:
    """Return a summary of the job, without prompt and paths. Its URL has the complete job."""
    made = job.result or {}
    return {
        "id": job.id,
        "type": job.type,
        "status": JobState(job.status).value,
        "model_id": job.model_id,
        "priority": list(Priority)[job.priority].value,
        "attempt": job.attempt,
        "created_at": clock.iso(job.created_at),
        "started_at": clock.iso(job.started_at),
        "finished_at": clock.iso(job.finished_at),
        "error": job.error,
        "url": f"/api/v1/jobs/{job.id}",
        "artifacts": [
            {**artifact, "url": f"/api/v1/jobs/{job.id}/artifacts/{artifact['name']}"}
            for artifact in (made.get("artifacts", ()) if job.type == GENERATION else ())
        ],
        "metadata": job.labels,
        **({"batch_id": job.batch_id} if job.batch_id is not None else {}),
    }


def _settle(database: Database, message: WebhookMessage, **values: Any) -> None:
    """Record the outcome of one try, once: a row with another count of tries belongs to another try."""
    with database.write() as session:
        session.connection().execute(
            update(WebhookMessage)
            .where(
                col(WebhookMessage.id) == message.id,
                col(WebhookMessage.tries) == message.tries,
                col(WebhookMessage.state) == WAITING,
            )
            .values(tries=message.tries + 1, **values)
        )
