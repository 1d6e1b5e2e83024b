"""Jobs as clients see them, with what is known beside their rows: progress, positions, reasons, estimates."""

from collections.abc import Sequence

from api.context import Context
from api.jobs import views
from api.schemas.jobs import jobs
from api.services.hosts import Seen
from api.services.waiting import waiting_for
from shared import clock
from shared.database.tables import Job
from shared.jobs.claims import running_limits
from shared.jobs.flows import reading as flows
from shared.jobs.lines import holding
from shared.jobs.reading import dead, queue_positions
from shared.states import JobState


def job_objects(context: Context, rows: Sequence[Job], *, wait: bool = False) -> list[jobs.Job]:
    """Return the jobs as clients see them. `wait`: for the estimates of jobs that were accepted just now."""
    positions = queue_positions.positions(context.database, context.redis, rows)
    progress = context.live.of(rows)
    public_path = context.settings.public_path
    queued = any(row.status == JobState.QUEUED for row in rows)
    seen, now = context.hosts.seen() if queued else Seen(), clock.now().timestamp()
    full = running_limits.at_limit(context.database, [row.owner for row in rows if row.status == JobState.QUEUED])
    awaited = flows.awaited(context.database, [row.id for row in rows if row.held == holding.DEPENDENCY])
    reasons = [waiting_for(row, seen, now, full.get(row.owner or ""), awaited.get(row.id, ())) for row in rows]
    ids = [row.id for row in rows if row.status == JobState.QUEUED]
    ahead = {job_id: position.ahead for job_id, position in positions.items()}
    expected = context.forecasts.of(ids, ahead, wait=wait) if ids else {}
    failed = [row.id for row in rows if row.status in (JobState.FAILED, JobState.CANCELLED)]
    retries = dead.retries_of(context.database, failed) if failed else {}
    return [
        views.job(
            row,
            progress[row.id],
            positions.get(row.id),
            public_path,
            reason,
            expected.get(row.id),
            retried_as=max(retries.get(row.id, ()), default=None),  # ids are in the order of time
        )
        for row, reason in zip(rows, reasons, strict=True)
    ]
