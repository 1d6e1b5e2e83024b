"""The facts for cleanup plans: one node at one moment, read from rows, so that a dry run does not involve the node."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_
from sqlmodel import Session, col, select

from shared.catalogue.job_types import BENCHMARK, DOWNLOAD, GENERATION, INTEGRITY_CHECK, PREPARE
from shared.catalogue.models import Catalogue
from shared.database.engine import Database
from shared.database.tables import Blob, Job, Node, Pin, Replica, Use
from shared.jobs.ending import flow_marks, videos
from shared.management.cleanup_plan import ArtifactFact, BlobFact, CleanupFacts, ModelFact
from shared.models import removals
from shared.states import JOB_ENDS, JobState, ReplicaState

# Expired jobs in one plan; retention removes the rest.
_MOST_ARTIFACTS = 1000


def gather(
    database: Database,
    catalogue: Catalogue,
    node: str,
    now: datetime,
    target_space_gb: float | None = None,
    keep_recent_days: int = 30,
    retention_days: float = 30.0,
) -> CleanupFacts:
    """Return the facts. Raises DatabaseUnavailable.

    `target_space_gb`: free space to reach, in 10^9 bytes. `retention_days`: the installation's setting.
    """
    with database.read() as session:
        disk = session.get(Node, node)
        replicas = {row.model_id: row for row in session.exec(select(Replica).where(Replica.node == node))}
        blobs = session.exec(select(Blob).where(Blob.node == node)).all()
        models = _models(session, catalogue, node, replicas, {blob.repo for blob in blobs})
        artifacts = _artifacts(session, now - timedelta(days=retention_days))
    repos = {model.repo for model in models}
    return CleanupFacts(
        node=node,
        now=now,
        target_free_bytes=None if target_space_gb is None else round(target_space_gb * 1e9),
        keep_recent_days=keep_recent_days,
        disk_total_bytes=_bytes(disk.disk_total_mb if disk is not None else None),
        disk_free_bytes=_bytes(disk.disk_free_mb if disk is not None else None),
        models=models,
        blobs=tuple(
            BlobFact(
                blob.repo,
                blob.name,
                blob.bytes,
                blob.partial,
                blob.modified_at,
                tuple(blob.revisions),
                blob.prepared,
                blob.shared,
            )
            for blob in blobs
            if blob.repo in repos  # ignore other files in a shared cache
        ),
        artifacts=artifacts,
    )


def _models(
    session: Session, catalogue: Catalogue, node: str, replicas: dict[str, Replica], repos: set[str]
) -> tuple[ModelFact, ...]:
    pinned = set(session.exec(select(Pin.model_id)))
    loaded = removals.loaded(session, node)
    running, queued, downloading = _needed(session, node)
    facts = []
    for entry in catalogue.entries:
        row = replicas.get(entry.model_id)
        if row is None and entry.own_repo not in repos:
            continue
        # Weights are needed as long as a preset of them is.
        family = {one.model_id for one in catalogue.entries if entry.model_id in (one.model_id, one.requires)}
        used = (
            select(Use.finished_at)
            .where(
                col(Use.model_id).in_(family),
                col(Use.mock).is_(False),
                col(Use.outcome).in_((JobState.SUCCEEDED, JobState.FAILED)),
            )
            .order_by(col(Use.finished_at).desc())
            .limit(1)
        )
        removing = row is not None and row.state == ReplicaState.REMOVING
        facts.append(
            ModelFact(
                model_id=entry.model_id,
                repo=entry.own_repo,
                revision=row.revision if row is not None else None,
                bytes=row.bytes if row is not None else 0,
                present=entry.own_repo in repos or (row is not None and row.bytes > 0),
                last_used=session.exec(used).one_or_none(),
                pinned=not family.isdisjoint(pinned),
                loaded=entry.model_id in loaded,
                running=removing or not family.isdisjoint(running) or None in running,
                queued=not family.isdisjoint(queued),
                downloading=not family.isdisjoint(downloading),
                copies_only=row is not None and row.removed_source_bytes > 0,
            )
        )
    return tuple(facts)


def _needed(session: Session, node: str) -> tuple[set[str | None], set[str | None], set[str | None]]:
    """Return the models of jobs running here, of jobs queued anywhere, and of downloads to here. None: all models."""
    query = (
        select(Job.type, Job.status, Job.model_id, Job.node, Job.target_node)  # type: ignore[call-overload]
        .where(col(Job.status).in_([state for state in JobState if state not in JOB_ENDS]), col(Job.mock).is_(False))
        .distinct()
    )
    running: set[str | None] = set()
    queued: set[str | None] = set()
    downloading: set[str | None] = set()
    for type, status, model_id, on_node, target_node in session.exec(query):
        if type == DOWNLOAD and target_node == node:
            downloading.add(model_id)
        elif type in (GENERATION, BENCHMARK) and status == JobState.QUEUED:
            queued.add(model_id)
        elif (
            type in (GENERATION, BENCHMARK, INTEGRITY_CHECK, PREPARE) and status == JobState.RUNNING and on_node == node
        ):
            running.add(model_id)
    return running, queued, downloading


def _artifacts(session: Session, ended_before: datetime) -> tuple[ArtifactFact, ...]:
    query = (
        select(Job.id, Job.result)
        .where(col(Job.status).in_(JOB_ENDS), col(Job.finished_at) < ended_before, Job.type == GENERATION)
        .where(flow_marks.of_no_open_flow())  # another job may still need a frame of it
        .where(or_(col(Job.deleted).is_(True), videos.of_no_one()))  # favourites are not removed by retention
        .limit(_MOST_ARTIFACTS)
    )
    sizes = ((job_id, _size((result or {}).get("artifacts", ()))) for job_id, result in session.exec(query))
    return tuple(ArtifactFact(job_id, size) for job_id, size in sizes if size)


def _size(artifacts: Sequence[dict[str, int]]) -> int:
    return sum(artifact["bytes"] for artifact in artifacts)


def _bytes(megabytes: float | None) -> int | None:
    return None if megabytes is None else round(megabytes * 1e6)
