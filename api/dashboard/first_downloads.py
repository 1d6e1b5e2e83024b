"""Say what a job of a model that no node has would do about its files: start the download, wait for one, or only wait.

The dispatcher (`scheduler/on_demand.py`) decides; this repeats its conditions, and adds those that the download itself
would meet: the hub and the disk.
"""

from collections.abc import Collection, Mapping

from api.context import Context
from api.schemas.dashboard.first_run import FirstDownload, Hub
from shared.cluster import nodes
from shared.database.tables import Job, Node
from shared.jobs import download_control
from shared.management.library import Library, ModelView
from shared.models import replicas
from shared.states import JOB_ENDS, REPLICA_READY, JobState


def first_downloads(context: Context, library: Library, hub: Hub) -> list[FirstDownload]:
    """Return it for each model that no node has, in the catalogue's order. Raises DatabaseUnavailable."""
    missing = [view for view in library.models.values() if view.availability not in REPLICA_READY]
    if not missing:
        return []
    seen = context.hosts.seen()
    with_devices = {host.node for host in seen.devices if host.open}
    able = {node.name: node for node, _ in nodes.nodes(context.database) if node.name in with_devices & seen.io_nodes}
    downloads: dict[str, list[Job]] = {}
    for (_, model_id), job in download_control.latest(context.database).items():
        downloads.setdefault(model_id, []).append(job)
    damaged = replicas.corrupted(context.database)
    return [
        _of(context, library, view, downloads.get(view.entry.model_id, []), damaged, able, bool(with_devices), hub)
        for view in missing
    ]


def _of(
    context: Context,
    library: Library,
    view: ModelView,
    downloads: Collection[Job],
    damaged: Collection[str],
    able: Mapping[str, Node],
    has_device: bool,
    hub: Hub,
) -> FirstDownload:
    entry = view.entry
    base = library.models.get(entry.requires) if entry.requires is not None else None
    has_base = base is not None and base.availability in REPLICA_READY
    size = entry.lora.gb if entry.lora is not None and has_base else entry.total_gb

    def outcome(job: Job | None = None, reason: str | None = None, why_not: str | None = None) -> FirstDownload:
        state = "refused" if reason is not None else "starts" if job is None else "going"
        return FirstDownload.model_validate(
            {
                "model_id": entry.model_id,
                "download_gb": round(size, 4),
                "state": state,
                "job_id": job.id if job is not None else None,
                "reason": reason,
                "why_not": why_not,
            }
        )

    going = [job for job in downloads if job.status not in JOB_ENDS]
    if running := next((job for job in going if job.status != JobState.PAUSED), None):
        return outcome(running)
    if going:
        return outcome(going[0], "paused", "Its download is paused.")
    if entry.model_id in damaged:
        return outcome(None, "damaged", "Some of its files are damaged and need a repair.")
    if not context.settings.downloads_on_demand:
        return outcome(None, "setting", "This installation downloads a model only when it is asked to.")
    if downloads:
        return outcome(None, "ended", "An earlier download has ended, and is not repeated by itself.")
    if not able:
        why = "The node of no device reports that it can download." if has_device else "No device accepts jobs."
        return outcome(None, "no_node", why)
    if not hub.reachable:
        return outcome(None, "hub", "The model hub cannot be reached.")
    free = max(node.disk_free_mb if node.disk_free_mb is not None else float("inf") for node in able.values())
    if free / 1000 < size:
        return outcome(None, "no_room", "No node has room for its files.")
    return outcome()
