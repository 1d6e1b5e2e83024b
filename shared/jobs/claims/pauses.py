"""Pauses: parts of the queue from which no job starts. Jobs are accepted meanwhile.

Only this module writes the table of pauses. A pause covers everything, or all jobs of one model, device, node, key or
type. Placement leaves out what is paused, and every claim reads the pauses under a shared lock, so no job starts once
a pause was stored. A paused node is a drained one (`shared/cluster/nodes.py`), which its row says too.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, cast

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, or_, update
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import DOWNLOAD, GENERATION
from shared.database.engine import Database, hold, is_repetition, settled
from shared.database.tables import Job, Pause, epoch_now
from shared.jobs.download_control import YIELD
from shared.jobs.finishing import ON_DEVICE
from shared.jobs.ids import new_id
from shared.states import JobState

Kind = Literal["everything", "model_id", "device", "node", "key", "job_type"]
Running = Literal["finish", "yield"]
_LOCK = "pauses"
_KEPT = timedelta(days=30)


@dataclass(frozen=True)
class Scope:
    """What a pause covers. `value` is empty for everything."""

    kind: Kind
    value: str = ""


EVERYTHING = Scope("everything")

_IN_FORCE = and_(col(Pause.ended_at).is_(None), or_(col(Pause.until).is_(None), col(Pause.until) > epoch_now()))
# Built once, because a device waits for its claim.
_PAUSED = (
    select(Pause.id)
    .join(Job, col(Job.id) == bindparam("its_job_id"))
    .where(
        _IN_FORCE,
        or_(
            col(Pause.kind) == "everything",
            and_(col(Pause.kind) == "model_id", col(Pause.value) == col(Job.model_id)),
            and_(col(Pause.kind) == "key", col(Pause.value) == col(Job.owner)),
            and_(col(Pause.kind) == "job_type", col(Pause.value) == col(Job.type)),
            and_(col(Pause.kind) == "node", col(Pause.value) == bindparam("its_node")),
            and_(col(Pause.kind) == "device", col(Pause.value).in_(bindparam("its_device_keys", expanding=True))),
        ),
    )
    .limit(1)
)


def is_paused(session: Session, job_id: str, node: str, device_keys: Collection[str]) -> bool:
    """Return whether a pause covers the job or the place where it would run. Call it in the claim's transaction.

    No pause is stored until that transaction ends.
    """
    hold(session, _LOCK, shared=True)
    values = {"its_job_id": job_id, "its_node": node, "its_device_keys": list(device_keys)}
    return session.execute(_PAUSED, values).first() is not None


@settled
def pause(
    database: Database, scope: Scope, *, by: str, reason: str = "", until: float | None = None, running: Running
) -> Pause:
    """Pause the scope; a pause of the same scope is replaced. Running jobs that shall yield are asked to.

    `until`: seconds since 1970. No claim that began earlier is committed after this returns.
    """
    with database.write() as session:
        hold(session, _LOCK)
        return store(session, scope, by=by, reason=reason, until=until, running=running)


def store(
    session: Session, scope: Scope, *, by: str, reason: str = "", until: float | None = None, running: Running
) -> Pause:
    """Store the pause in this transaction, which must hold or lock what the scope's claims read."""
    row = _open(session, scope)
    if row is not None and row.until is not None and row.until <= _now(session):
        row.ended_at = row.until
        session.add(row)
        session.flush()
        row = None
    if row is None:
        row = Pause(
            id=new_id(), kind=scope.kind, value=scope.value, running=running, created_at=clock.now(), created_by=by
        )
    row.reason, row.until, row.running = reason, until, running
    session.add(row)
    if running == "yield":
        session.connection().execute(
            update(Job)
            .where(
                col(Job.status) == JobState.RUNNING,
                col(Job.requested_action).is_(None),
                col(Job.type).in_((DOWNLOAD, GENERATION)),
                ON_DEVICE,
                *_covers(scope),
            )
            .values(requested_action=YIELD)
        )
    session.flush()
    return row


@settled
def resume(database: Database, scope: Scope) -> Pause | None:
    """End the pause of exactly this scope. Return it; None if there was none."""
    with database.write() as session:
        return end(session, scope)


def end(session: Session, scope: Scope) -> Pause | None:
    """End the pause of the scope in this transaction."""
    row = _open(session, scope)
    if row is None:
        ended = select(Pause).where(col(Pause.kind) == scope.kind, col(Pause.value) == scope.value)
        ended = ended.order_by(col(Pause.ended_at).desc()).limit(1)
        return session.exec(ended).one_or_none() if is_repetition() else None
    now = _now(session)
    row.ended_at = now if row.until is None else min(now, row.until)
    session.add(row)
    return row


def in_force(database: Database) -> list[Pause]:
    """Return the pauses that are in force now, oldest first."""
    with database.read() as session:
        return list(session.exec(select(Pause).where(_IN_FORCE).order_by(col(Pause.id))))


def run_out(database: Database) -> list[Pause]:
    """Return the pauses that have reached their `until` and are not marked as ended."""
    query = select(Pause).where(col(Pause.ended_at).is_(None), col(Pause.until) <= epoch_now())
    with database.read() as session:
        return list(session.exec(query))


def resumed_at(database: Database) -> Mapping[tuple[str, str], float]:
    """Return when each scope was last resumed, by (kind, value), for those paused within the last 30 days."""
    last = func.max(func.coalesce(Pause.ended_at, Pause.until))
    over = or_(col(Pause.ended_at).is_not(None), col(Pause.until) <= epoch_now())
    query = select(Pause.kind, Pause.value, last).where(over).group_by(col(Pause.kind), col(Pause.value))
    with database.read() as session:
        return {(kind, value): at for kind, value, at in session.exec(query)}


def purge(database: Database) -> int:
    """Remove pauses that ended more than 30 days ago. Return how many."""
    with database.write() as session:
        old = delete(Pause).where(col(Pause.ended_at) < epoch_now() - _KEPT.total_seconds())
        return int(session.connection().execute(old).rowcount)


def scope_of(row: Pause) -> Scope:
    """Return what the pause covers."""
    return Scope(cast(Kind, row.kind), row.value)


def covering(
    pauses: Collection[Pause], *, model_id: str | None, owner: str | None, job_type: str, node: str | None = None
) -> Pause | None:
    """Return the first of these pauses that covers a job with these values wherever it would run."""
    of_job = scopes_over(model_id, owner, job_type, node)
    return next((row for row in pauses if (row.kind, row.value) in of_job), None)


def scopes_over(
    model_id: str | None, owner: str | None, job_type: str, node: str | None
) -> tuple[tuple[str, str], ...]:
    """Return the scopes, as (kind, value), that cover a job with these values wherever it would run."""
    return (
        ("everything", ""),
        ("model_id", model_id or ""),
        ("key", owner or ""),
        ("job_type", job_type),
        ("node", node or ""),
    )


def _open(session: Session, scope: Scope) -> Pause | None:
    query = select(Pause).where(
        col(Pause.kind) == scope.kind, col(Pause.value) == scope.value, col(Pause.ended_at).is_(None)
    )
    return session.exec(query.with_for_update()).one_or_none()


def _covers(scope: Scope) -> tuple[ColumnElement[bool], ...]:
    columns = {
        "model_id": col(Job.model_id),
        "device": col(Job.device_key),
        "node": col(Job.node),
        "key": col(Job.owner),
        "job_type": col(Job.type),
    }
    return () if scope.kind == "everything" else (columns[scope.kind] == scope.value,)


def _now(session: Session) -> float:
    return float(session.connection().execute(select(epoch_now())).scalar_one())
