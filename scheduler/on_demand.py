"""Starts downloads of models that jobs wait for and no node holds, if the settings allow it."""

from collections.abc import Collection, Mapping

from shared.catalogue.job_types import DOWNLOAD, DownloadParams
from shared.database.engine import Database
from shared.database.tables import Node
from shared.jobs import accepting, download_control
from shared.jobs.accepting import NewJob
from shared.jobs.dispatch import Waiting
from shared.models import replicas
from shared.settings import Settings
from shared.states import Priority


def start(
    database: Database,
    settings: Settings,
    waiting: Collection[Waiting],
    held: Collection[str],
    nodes: Mapping[str, Node],
) -> list[str]:
    """Start downloads of missing models to the given node with the most free space. Return the ids of the new jobs.

    It skips models for which a download was started before, so that failed downloads are not repeated forever, and
    models with corrupted files, for which a repair has to fetch far less.
    """
    missing = {job.model_id: job for job in waiting if job.model_id is not None and job.model_id not in held}
    if not missing or not nodes:
        return []
    wrong = replicas.corrupted(database)
    missing = {model_id: job for model_id, job in missing.items() if model_id not in wrong}
    held_on, bases = replicas.ready(database), replicas.bases(database)

    def node_for(model_id: str) -> str:
        """Return the node with the most free space; for a preset among those that hold its base, if any does."""
        of_the_base = [node for node in nodes.values() if bases.get(model_id) in held_on.get(node.name, ())]
        return max(of_the_base or nodes.values(), key=lambda node: (node.disk_free_mb or 0.0, node.name)).name

    tried = {model_id for _, model_id in download_control.latest(database)}
    new = [
        NewJob(
            DOWNLOAD,
            DownloadParams(model_id=model_id, node=node_for(model_id)),
            list(Priority)[job.priority],
            metadata={"started_by": "download_on_demand"},
            max_failures=settings.max_failures,
        )
        for model_id, job in missing.items()
        if model_id not in tried
    ]
    return [job_id for job in new if (job_id := _accepted(database, job)) is not None]


def _accepted(database: Database, new: NewJob) -> str | None:
    """Return the id of the new job; None if the same download was started concurrently."""
    (outcome,) = accepting.accept(database, [new])
    return outcome.job.id if isinstance(outcome, accepting.Accepted) else None
