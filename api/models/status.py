"""The detailed status of all models: read the library once and convert it to the API's schema."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.responses import serialized_response
from api.operation import Answer, Operation
from api.schemas import fields
from api.schemas.models import models as schemas
from shared import clock
from shared.catalogue import scoring
from shared.management.library import (
    FREQUENCY_DAYS,
    Library,
    ModelView,
    ReplicaView,
    bytes_left,
    integrity_of,
    last_check,
    update_available,
)
from shared.states import REPLICA_READY, JobState, ReplicaState, Scope


async def detailed_status(context: Context, request: Request, query: BaseModel) -> Response:
    def compute() -> bytes:
        return _status(context.library()).model_dump_json().encode()

    return serialized_response(await context.coalescer.run("status", compute))


def _status(library: Library) -> schemas.DetailedStatus:
    models = {model_id: model_status(library, model) for model_id, model in library.models.items()}
    states = [model.availability for model in library.models.values()]
    lying = _lying_bytes(library)
    now = clock.iso(library.now) or ""
    return schemas.DetailedStatus(
        models=models,
        system_statistics=schemas.SystemStatistics(
            total_models=len(models),
            available_models=sum(state in REPLICA_READY for state in states),
            downloading_models=sum(state in (ReplicaState.DOWNLOADING, ReplicaState.UPDATING) for state in states),
            corrupted_models=sum(model.corruption_detected for model in models.values()),
            total_size_gb=round(lying / 1e9, 3),
            last_updated=now,
        ),
        timestamp=now,
    )


def _lying_bytes(library: Library) -> int:
    """Return the bytes of all files on all nodes. Those that several entries share count once."""
    found: dict[tuple[str, ...], int] = {}
    for model in library.models.values():
        own = model.entry.lora.paths if model.entry.lora is not None else ()
        for row in (one.row for one in model.replicas if one.row is not None):
            key = (row.node, row.repo, row.revision or "", *own)
            found[key] = max(row.bytes, found.get(key, 0))
    return sum(found.values())


def model_status(library: Library, model: ModelView) -> schemas.ModelStatus:
    """Return the status of one model, from its best replica."""
    best = model.best
    row = best.row if best is not None else None
    lying = row.bytes if row is not None else 0
    moving = [one for one in model.replicas if one.fetching]
    current = row.revision if row is not None else None
    newest = model.version.latest if model.version is not None else None
    performance = scoring.performance_score(model.latest.successes, model.latest.uses, model.latest.relative_seconds)
    integrity = integrity_of(row)
    average = model.month.average_seconds
    left = estimated_seconds(library, model)
    return schemas.ModelStatus(
        model_id=model.entry.model_id,
        availability_status=model.availability.value,
        is_available=model.availability in REPLICA_READY,
        is_loaded=bool(model.loaded),
        size_mb=round(lying / 1e6, 3) if lying else model.entry.own_gb * 1e3,
        download_progress=max((_percent(one) for one in moving), default=None),
        missing_files=row.missing_files if row is not None else [],
        integrity_score=integrity,
        last_health_check=clock.iso(last_check(row)),
        performance_score=performance,
        corruption_detected=any(one.faults or one.availability == ReplicaState.CORRUPTED for one in model.replicas),
        usage_frequency=round(model.month.uses / FREQUENCY_DAYS, 4),
        last_used=clock.iso(model.latest.last_used),
        average_generation_time=None if average is None else round(average, 3),
        can_pause_download=any(_status_of(one) in (JobState.QUEUED, JobState.RUNNING) for one in moving),
        can_resume_download=any(_status_of(one) == JobState.PAUSED for one in moving),
        estimated_download_time=left,
        current_version=current,
        latest_version=newest,
        latest_version_checked_at=clock.iso(model.version.answered_at if model.version is not None else None),
        update_available=update_available(model),
        extends=model.entry.extends,
        caveat=model.entry.caveat,
        pinned=model.pinned,
        loaded_on=list(model.loaded),
        replicas=[_replica(one) for one in model.replicas],
        basis={
            "size_mb": "measured" if lying else "catalogue",
            "integrity_score": basis_of(integrity),
            "performance_score": basis_of(performance),
            "usage_frequency": "measured",
            "average_generation_time": basis_of(average),
            "estimated_download_time": basis_of(left),
        },
        samples=model.month.uses,
    )


def estimated_seconds(library: Library, model: ModelView) -> float | None:
    """Return the seconds until the first running download ends: its remaining bytes divided by its measured rate."""
    estimates = [
        bytes_left(model.entry, one) / rate
        for one in model.replicas
        if _status_of(one) == JobState.RUNNING and (rate := one.progress.bytes_per_second if one.progress else None)
    ]
    return round(min(estimates), 1) if estimates else None


def _replica(one: ReplicaView) -> schemas.ReplicaStatus:
    row = one.row
    return schemas.ReplicaStatus(
        node=one.node,
        online=one.online,
        availability_status=one.availability.value,
        size_mb=round(row.bytes / 1e6, 3) if row is not None else 0.0,
        missing_files=row.missing_files if row is not None else [],
        integrity_score=integrity_of(row),
        revision=row.revision if row is not None else None,
        last_health_check=clock.iso(last_check(row)),
        last_verified=clock.iso(row.verified_at if row is not None else None),
        corruption_types=sorted({fault["type"] for fault in one.faults}),
        prepared=row.prepared if row is not None else [],
        download_progress=_percent(one) if one.fetching else None,
        download_job_id=one.download.id if one.fetching and one.download is not None else None,
    )


def _percent(one: ReplicaView) -> float:
    return one.progress.percent if one.progress is not None else 0.0


def _status_of(one: ReplicaView) -> str | None:
    return one.download.status if one.download is not None else None


def basis_of(value: object) -> fields.Basis:
    return "none" if value is None else "measured"


OPERATIONS = (
    Operation(
        "GET", "/api/v1/models/status/detailed", detailed_status, "detailedStatus",
        "Get availability, downloads, versions and usage of all models",
        answers=(Answer(200, "All models of the catalogue.", schemas.DetailedStatus),), problems=(503,),
        tag="models", scope=Scope.READ,
    ),
)  # fmt: skip
