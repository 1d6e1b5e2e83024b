"""Convert flows to the API's objects."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from api.schemas.jobs.flows import Flow, FlowCounts, FlowJob, FlowSummary, FrameTaken, OnFailure
from api.schemas.jobs.jobs import JobError
from shared import clock
from shared.database.tables import Flow as FlowRow
from shared.database.tables import FlowNode, Job
from shared.jobs.ending.flow_marks import SKIPPED
from shared.jobs.flows import plan
from shared.jobs.flows.plan import FlowState
from shared.jobs.flows.reading import HELD, Counted, Whole
from shared.states import JobState

State = Literal["held", "queued", "running", "paused", "succeeded", "failed", "cancelled", "skipped"]


def summary(counted: Counted) -> FlowSummary:
    counts = FlowCounts(**{name: count for name, count in counted.counts.items() if name in FlowCounts.model_fields})
    return FlowSummary(**_common(counted.flow, counts, counted.percent))


def flow(whole: Whole, percents: Mapping[str, float], eta: float | None, public_path: str) -> Flow:
    """Return the flow. `percents`: the progress of its running jobs, by job id."""
    jobs = [_job(node, whole, percents, public_path) for node in whole.nodes]
    counts = FlowCounts(**{state: sum(job.state == state for job in jobs) for state in FlowCounts.model_fields})
    percent = round(sum(job.progress_percent for job in jobs) / max(1, len(jobs)), 1)
    common = _common(whole.flow, counts, percent)
    if common["state"] == plan.QUEUED and _has_started(whole.jobs.values()):
        common["state"] = plan.RUNNING  # the row follows within two seconds
    return Flow(**common, eta_seconds=eta, jobs=jobs)


def _has_started(jobs: Any) -> bool:
    return any(job.status == JobState.RUNNING for job in jobs)


def _common(row: FlowRow, counts: FlowCounts, percent: float) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "state": cast(FlowState, row.state),
        "progress_percent": percent,
        "counts": counts,
        "retries": row.retries,
        "created_at": clock.iso(row.created_at) or "",
        "started_at": clock.iso(row.started_at),
        "finished_at": clock.iso(row.finished_at),
        "metadata": row.labels,
    }


def _job(node: FlowNode, whole: Whole, percents: Mapping[str, float], public_path: str) -> FlowJob:
    job = whole.jobs.get(node.job_id)
    outcomes = {one.name: one.outcome for one in whole.nodes}
    return FlowJob(
        name=node.name,
        id=node.job_id,
        earlier_ids=node.earlier_jobs,
        url=f"{public_path}/api/v1/jobs/{node.job_id}",
        type=job.type if job is not None else None,
        model_id=job.model_id if job is not None else None,
        state=state_of(node, job),
        progress_percent=100.0 if node.outcome is not None else percents.get(node.job_id, 0.0),
        depends_on=node.depends_on,
        waits_for=plan.waits_for(node, outcomes) if node.outcome is None else [],
        on_failure=cast(OnFailure, node.on_failure),
        frame_of=_taken(node.frame_of),
        last_frame_of=_taken(node.last_frame_of),
        started_at=clock.iso(job.started_at) if job is not None else None,
        finished_at=clock.iso(job.finished_at) if job is not None else None,
        error=JobError.model_validate(job.error) if job is not None and job.error else None,
    )


def _taken(frame: Mapping[str, Any] | None) -> FrameTaken | None:
    return FrameTaken(job=frame["job"], frame=frame["frame"]) if frame else None


def state_of(node: FlowNode, job: Job | None) -> State:
    """Return the state of a job in its flow."""
    if node.outcome == SKIPPED or job is None:
        return cast(State, node.outcome or JobState.CANCELLED.value)
    if job.status == JobState.QUEUED and not node.released:
        return HELD
    return JobState(job.status).value


def running(jobs: Mapping[str, Job]) -> Sequence[Job]:
    """Return the jobs whose progress is live."""
    return [job for job in jobs.values() if job.status in (JobState.RUNNING, JobState.PAUSED)]
