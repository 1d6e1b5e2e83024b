"""Messages of webhooks, as tests make and read them."""

from shared import clock
from shared.database.engine import Database
from shared.database.tables import Job, WebhookMessage
from shared.jobs import ids, records
from shared.jobs.ending import webhooks
from shared.net.outbound import receiver_of

HOOK = "https://hooks.example/x?token=secret"


def messages(database: Database) -> list[WebhookMessage]:
    return webhooks.page(database, limit=100, after=None).messages


def _cancel_waiting(database: Database, job: Job) -> None:
    records.request_cancel(database, job.id)


HUNDREDS = 300


def _due(database: Database, *urls: str) -> None:
    """Messages of ended jobs, due in that order."""
    rows = [
        WebhookMessage(
            id=f"msg_{ids.new_id()}", job_id=ids.new_id(), type="job.succeeded", url=url,
            receiver=receiver_of(url), data={}, state="waiting", created_at=clock.now(), due_at=1000.0 + place,
        )
        for place, url in enumerate(urls)
    ]  # fmt: skip
    with database.write() as session:
        session.add_all(rows)
