"""What every end of a job writes, and cancels, which end waiting jobs. The rows are locked by the caller."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, case, update
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import DOWNLOAD, GENERATION
from shared.database.tables import Job, Use, epoch_now
from shared.jobs.ending import batch_ends, flow_marks, videos, webhooks
from shared.jobs.ids import new_id
from shared.jobs.usage.gpu_time import device_seconds
from shared.states import JobState, Phase


def mark_partials(job: Job) -> None:
    """Mark a cancelled download whose node has partial files to remove, in the transaction that ends the job."""
    if job.type == DOWNLOAD and job.status == JobState.CANCELLED and job.attempt > 0:
        job.phase = Phase.REMOVING


def note_end(session: Session, job: Job) -> None:
    """Store use, video and message, and tell flow and batch. Call it in the transaction that ends the job."""
    assert job.finished_at is not None
    if job.type == GENERATION:
        session.add(use_of(job, JobState(job.status), job.finished_at, job.result))
    videos.note_end(session, job)
    flow_marks.note_end(session, job)
    webhooks.add_end(session, job, f"msg_{new_id()}")
    if job.batch_id is not None:  # last, because jobs are locked before batches
        batch_ends.note(session, job.batch_id, {JobState(job.status): 1}, job.finished_at, f"msg_{new_id()}")


def use_of(job: Job, outcome: JobState, finished_at: datetime, result: dict[str, Any] | None) -> Use:
    """Return the use of an ended generation, which is kept forever."""
    made = result or {}
    assert job.model_id is not None, "a generation names its model"
    return Use(
        job_id=job.id,
        model_id=job.model_id,
        model_cache_key=job.model_cache_key,
        outcome=outcome,
        owner=job.owner,
        mock=job.mock,
        node=job.node,
        device=job.device,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=finished_at,
        seconds=(finished_at - job.started_at).total_seconds() if job.started_at else None,
        device_seconds=device_seconds(job, finished_at),
        devices=job.devices,
        width=job.params["width"],
        height=job.params["height"],
        frames=job.params["frames"],
        steps=job.params["steps"],
        speed=job.speed,
        work=job.work,
        warm=made.get("warm"),
        timings=made.get("timings", {}),
        resumed_from_step=job.resumed_from_step,
        peak_vram_mb=made.get("peak_vram_mb"),
        device_name=made.get("device_name"),
        quality=(made.get("quality") or {}).get("score"),
        profile=made.get("profile"),
        error_code=(job.error or {}).get("code"),
    )


def cancel_all(session: Session, jobs: Sequence[Job]) -> list[Job]:
    """Cancel many jobs whose rows are locked, as one by one but in few statements. Return those that this ended.

    The locks of their batches are taken here, all in one order.
    """
    batch_ends.locked_of(session, [job.id for job in jobs])
    going = [job.id for job in jobs if job.status == JobState.RUNNING and job.cancel_at is None]
    if going:
        session.connection().execute(update(Job).where(col(Job.id).in_(going)).values(cancel_at=epoch_now()))
    waiting = [job.id for job in jobs if job.status in (JobState.QUEUED, JobState.PAUSED)]
    if not waiting:
        return []
    now = clock.now()
    partial_files = case((and_(col(Job.type) == DOWNLOAD, col(Job.attempt) > 0), Phase.REMOVING.value), else_=None)
    session.connection().execute(
        update(Job)
        .where(col(Job.id).in_(waiting))
        .values(
            status=JobState.CANCELLED,
            finished_at=now,
            cancel_at=epoch_now(),
            dispatched_to=None,
            dispatched_at=None,
            phase=partial_files,
            unplaceable_since=None,
            held=None,
        )
    )
    rows = select(Job).where(col(Job.id).in_(waiting)).order_by(col(Job.id))
    ended = list(session.exec(rows.execution_options(populate_existing=True)))
    of_batches: Counter[str] = Counter()
    for job in ended:
        if job.type == GENERATION:
            session.add(use_of(job, JobState.CANCELLED, now, job.result))
        flow_marks.note_end(session, job)
        webhooks.add_end(session, job, f"msg_{new_id()}")
        if job.batch_id is not None:
            of_batches[job.batch_id] += 1
    for batch_id, count in sorted(of_batches.items()):
        batch_ends.note(session, batch_id, {JobState.CANCELLED: count}, now, f"msg_{new_id()}")
    return ended


def cancel_locked(session: Session, job: Job) -> bool:
    """Cancel a job whose row is locked. Return whether that ended it."""
    if job.status in (JobState.QUEUED, JobState.PAUSED):
        job.status = JobState.CANCELLED
        job.finished_at = clock.now()
        job.cancel_at = epoch_now()  # type: ignore[assignment]
        job.dispatched_to = job.dispatched_at = job.phase = job.unplaceable_since = job.held = None
        mark_partials(job)
        session.add(job)
        session.flush()
        session.refresh(job)
        note_end(session, job)
        return True
    if job.status == JobState.RUNNING and job.cancel_at is None:
        job.cancel_at = epoch_now()  # type: ignore[assignment]
        session.add(job)
        session.flush()
        session.refresh(job)
    return False
