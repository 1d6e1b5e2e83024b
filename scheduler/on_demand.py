"""Starts the download of a model that jobs wait for and no node holds, where that is allowed."""

from collections.abc import Collection, Mapping

from shared.catalogue.job_types import DOWNLOAD, DownloadParams
from shared.database.engine import Database
from shared.database.tables import Node
from shared.jobs import download_control, records
from shared.jobs.dispatch import Waiting
from shared.jobs.records import NewJob
from shared.models import replicas
from shared.settings import Settings
from shared.states import Priority


def allowed(settings: Settings) -> bool:
    """The demo's models are tiny and come from this machine's own hub."""
    return settings.download_on_demand or settings.catalogue == "demo"


def start(
    database: Database,
    settings: Settings,
    waiting: Collection[Waiting],
    held: Collection[str],
    nodes: Mapping[str, Node],
) -> list[str]:
    """Downloads what is missing to the node of those given that has most room. Returns the ids of the new jobs.

    A model that a download was started for before is left to a person, for trying again for ever helps nobody; so is
    one whose files were found wrong, which a repair makes whole by fetching far less.
    """
    missing = {job.model_id: job for job in waiting if job.model_id is not None and job.model_id not in held}
    if not missing or not nodes:
        return []
    wrong = replicas.corrupted(database)
    missing = {model_id: job for model_id, job in missing.items() if model_id not in wrong}
    node = max(nodes.values(), key=lambda node: (node.disk_free_mb or 0.0, node.name)).name
    tried = {model_id for _, model_id in download_control.latest(database)}
    new = [
        NewJob(
            DOWNLOAD,
            DownloadParams(model_id=model_id, node=node),
            list(Priority)[job.priority],
            metadata={"started_by": "download_on_demand"},
            max_failures=settings.max_failures,
        )
        for model_id, job in missing.items()
        if model_id not in tried
    ]
    return [job_id for job in new if (job_id := _accepted(database, job)) is not None]


def _accepted(database: Database, new: NewJob) -> str | None:
    """None where somebody has started the same download at this moment."""
    (outcome,) = records.accept(database, [new])
    return outcome.job.id if isinstance(outcome, records.Accepted) else None
