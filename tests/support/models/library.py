"""A model library for tests: nodes, replicas, devices and downloads as their writers store them."""

from datetime import datetime
from typing import Any

from shared import clock
from shared.catalogue.job_types import DOWNLOAD, DownloadParams
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device, Job, Replica
from shared.jobs import accepting, attempts, dispatch, records
from shared.jobs.accepting import NewJob
from shared.jobs.attempts import Claimant
from shared.messaging import celery
from shared.models import versions
from shared.states import Priority, ReplicaState
from tests.support.jobs import DEMO

COMMIT = "a" * 40
NEWER = "b" * 40


def node(database: Database, name: str = "here", total_gb: float = 1000.0, free_gb: float = 400.0) -> None:
    """A node that is online."""
    nodes.node_beat(database, name, total_gb * 1e3, free_gb * 1e3)


def replica(
    database: Database, model_id: str = "T2V-A14B", state: str = ReplicaState.AVAILABLE, on: str = "here", **more: Any
) -> None:
    """One model's files on a node; complete and 500 MB by default."""
    now: datetime = clock.now()
    values: dict[str, Any] = {
        "repo": DEMO.get(model_id).repo, "revision": COMMIT, "bytes": 500_000_000, "missing_files": [],
        "checked_at": now,
    }  # fmt: skip
    with database.write() as session:
        session.merge(Replica(node=on, model_id=model_id, state=state, **{**values, **more}))


def device(database: Database, *loaded: str, on: str = "here", index: int = 0, **more: Any) -> None:
    """A live device with these models loaded."""
    row = Device(
        key=f"{on}/{index}", node=on, index=index, name="GPU", worker=f"gpu-{index}@{on}",
        started_at=clock.now(), seen_at=0.0, warm=[],
        **{"uuid": f"GPU-{on}-{index}", "kind": "cuda", "memory_mb": 80_000, "pid": 1, **more},
    )  # fmt: skip
    nodes.register_device(database, row)
    nodes.report_loaded(database, row.key, [{"model_id": name, "quantization": "none"} for name in loaded])


def hub_says(database: Database, model_id: str, commit: str | None) -> datetime:
    """Record the newest commit. Return when it was checked."""
    now = clock.now()
    versions.record(database, model_id, commit, now)
    return now


def download(database: Database, model_id: str = "T2V-A14B", on: str = "here", **more: Any) -> Job:
    """A queued download."""
    params = DownloadParams(model_id=model_id, node=on)
    (made,) = accepting.accept(database, [NewJob(DOWNLOAD, params, more.pop("priority", Priority.NORMAL), **more)])
    assert isinstance(made, accepting.Accepted)
    return made.job


def start(database: Database, job: Job) -> Job:
    """As the node's io worker claims it."""
    name = job.target_node or ""
    key = celery.node_key(name)
    dispatch.mark_dispatched(database, [(job.id, key)])
    claimed = attempts.claim(database, job.id, Claimant(name, f"io@{name}", None, key), 60.0, at_most=9)
    assert claimed is not None
    return claimed


def state_of(database: Database, job: Job) -> str:
    return records.get(database, job.id).status
