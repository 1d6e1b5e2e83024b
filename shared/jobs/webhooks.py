"""Messages to the webhooks that jobs name: made with the job's end, sent until they are taken, kept to be sent again.

Sole reader and writer of `webhook_messages`. It sends nothing itself.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, delete, exists, update
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import GENERATION
from shared.database.engine import Database, is_repetition, settled
from shared.database.tables import Job, WebhookMessage, epoch_now
from shared.errors import Conflict, NotFound
from shared.net.outbound import receiver_of
from shared.states import JobState, Priority

State = Literal["waiting", "delivered", "dead"]
WAITING: State = "waiting"
DELIVERED: State = "delivered"
DEAD: State = "dead"
PROGRESS = "job.progress"


@dataclass(frozen=True)
class Page:
    messages: list[WebhookMessage]
    has_more: bool


def add_end(session: Session, job: Job, message_id: str) -> None:
    """In the transaction that ends the job: the message that says so, where the job names a webhook."""
    if job.webhook_url is None:
        return
    # What was to be said on the way is of no use to anybody now.
    stale = delete(WebhookMessage).where(
        col(WebhookMessage.job_id) == job.id, col(WebhookMessage.type) == PROGRESS, col(WebhookMessage.state) == WAITING
    )
    session.connection().execute(stale)
    session.add(_message(job, message_id, f"job.{JobState(job.status).value}", _told(job)))


def add_progress(database: Database, job: Job, message_id: str, progress: dict[str, Any]) -> None:
    """How far the job is, in place of what still waits to be said of that."""
    told = {**_told(job), "progress": progress}
    waiting = update(WebhookMessage).where(
        col(WebhookMessage.job_id) == job.id,
        col(WebhookMessage.type) == PROGRESS,
        col(WebhookMessage.state) == WAITING,
        col(WebhookMessage.tries) == 0,
        col(WebhookMessage.due_at) <= epoch_now(),
    )
    with database.write() as session:
        if not session.connection().execute(waiting.values(data=told)).rowcount:
            session.add(_message(job, message_id, PROGRESS, told))


def take_due(
    database: Database,
    seconds: float,
    limit: int = 20,
    *,
    per_receiver: int | None = None,
    busy: Mapping[str, int] | None = None,
) -> list[WebhookMessage]:
    """Messages to be sent now, earliest first. They are the caller's for that long; then another may take them.

    At most `per_receiver` of one receiver, less what is `busy` with it already: those of others are found however many
    of its messages are due before them.
    """
    with database.read() as session:
        if session.exec(select(WebhookMessage.id).where(_IS_DUE).limit(1)).first() is None:
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
    """The message that was taken has been delivered. Does nothing where it is settled already."""
    _settle(database, message, state=DELIVERED, due_at=None, delivered_at=now, error=None)


@settled
def failed(database: Database, message: WebhookMessage, error: str, wait_seconds: float | None) -> None:
    """A try has failed. `wait_seconds` None: no other follows, and the message can be sent again by hand.

    Does nothing where this try is settled already.
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
    """Messages, newest first, behind the one of the id `after`. `only`: about this owner's jobs; None: about all."""
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
    """Sends a delivered or dead message once more, under its id. Raises NotFound, and Conflict where it still waits.

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


def drop(session: Session, job_ids: Sequence[str]) -> None:
    """Removes the messages of these jobs that have ended, together with the jobs. What still waits is sent first."""
    over = delete(WebhookMessage).where(
        col(WebhookMessage.job_id).in_(job_ids), col(WebhookMessage.state).in_((DELIVERED, DEAD))
    )
    session.connection().execute(over)


def drop_of_gone_jobs(database: Database, after: str, limit: int = 1000) -> tuple[int, str | None]:
    """Removes ended messages whose job is gone, among the `limit` that follow the message of the id `after`.

    Returns how many went, and the id to go on after; None at the end. Each call reads one page of an index, however
    many messages there are.
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
        there = set(session.exec(select(Job.id).where(col(Job.id).in_(job_ids))))
    gone = [message_id for message_id, job_id in seen if job_id not in there]
    dropped = 0
    if gone:
        with database.write() as session:
            over = delete(WebhookMessage).where(
                col(WebhookMessage.id).in_(gone), col(WebhookMessage.state).in_((DELIVERED, DEAD))
            )
            dropped = int(session.connection().execute(over).rowcount)
    return dropped, seen[-1][0] if len(seen) == limit else None


_IS_DUE = col(WebhookMessage.due_at) <= epoch_now()
_NAMED_AT_ONCE = 500


def _name_receivers(session: Session) -> None:
    """Names the receivers of due messages that an earlier version wrote without."""
    nameless = select(WebhookMessage.id, WebhookMessage.url).where(_IS_DUE, WebhookMessage.receiver == "")
    # What another is just taking is named by that one.
    nameless = nameless.limit(_NAMED_AT_ONCE).with_for_update(skip_locked=True)
    for message_id, url in session.exec(nameless).all():
        session.connection().execute(
            update(WebhookMessage).where(col(WebhookMessage.id) == message_id).values(receiver=receiver_of(url))
        )


def _chosen(session: Session, limit: int, per_receiver: int | None, busy: Mapping[str, int]) -> list[str]:
    """Ids of due messages. Each round leaves out one more receiver at least, so the rounds are few."""
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
        # What another node's sender is just taking is left to it: neither waits for the other.
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
    return exists().where(col(Job.id) == col(WebhookMessage.job_id), col(Job.owner) == owner)


def _message(job: Job, message_id: str, type: str, data: dict[str, Any]) -> WebhookMessage:
    assert job.webhook_url is not None
    return WebhookMessage(
        id=message_id,
        job_id=job.id,
        type=type,
        url=job.webhook_url,
        receiver=receiver_of(job.webhook_url),
        data=data,
        state=WAITING,
        created_at=clock.now(),
        due_at=epoch_now(),  # type: ignore[arg-type]
    )


def _told(job: Job) -> dict[str, Any]:
    """The job in brief: no prompt, and no path. The whole of it is at its own address."""
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
    }


def _settle(database: Database, message: WebhookMessage, **values: Any) -> None:
    """Writes what came of one try, once: a row whose count of tries has moved on belongs to another try."""
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
