"""Read what the feed sends: the same bodies that the routes return, so that watching and polling agree.

It reads the data of all owners; the feed decides what each watcher receives.
"""

from typing import Any

from api.access.caller import LOCAL
from api.context import Context
from api.dashboard.feed import Source
from api.dashboard.handlers import metrics_now
from api.jobs.objects import job_objects
from api.ops import workers
from api.ops.pauses import as_shown
from api.schemas.ops.alerts import alert
from shared.cluster import alerts
from shared.jobs import records
from shared.jobs.claims import pauses
from shared.jobs.reading import queues


def feed_source(context: Context) -> Source:
    database = context.database

    def several(job_ids: list[str]) -> dict[str, Any]:
        rows = records.several(database, job_ids)
        return {job.id: job.model_dump(mode="json") for job in job_objects(context, rows)}

    def devices() -> dict[str, Any]:
        seen = workers.seen(context, LOCAL)
        return {f"{one.node}/{one.index}": one.model_dump(mode="json") for one in seen.devices}

    def known_alerts(alert_ids: list[str]) -> dict[str, Any]:
        rows = {row.id: row for row in alerts.open_alerts(database)}
        closed = [alert_id for alert_id in alert_ids if alert_id not in rows]
        rows |= {row.id: row for row in (alerts.several(database, closed) if closed else ())}
        return {row.id: alert(row).model_dump(mode="json") for row in rows.values()}

    def known_pauses() -> dict[str, tuple[str | None, Any]]:
        rows = pauses.in_force(database)
        shown = as_shown(context, LOCAL, rows)
        return {
            row.id: (row.value if row.kind == "key" else None, one.model_dump(mode="json"))
            for row, one in zip(rows, shown, strict=True)
        }

    return Source(
        stirred=lambda since: queues.stirred(database, since),
        jobs=several,
        workers=devices,
        alerts=known_alerts,
        pauses=known_pauses,
        preview_url=f"{context.settings.public_path}/api/v1/jobs/{{}}/preview".format,
        metrics=lambda: metrics_now(context).model_dump(mode="json"),
    )
