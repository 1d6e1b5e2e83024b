"""Convert job rows to the API's job objects."""

from collections.abc import Callable
from typing import Any

from api.schemas.jobs.jobs import (
    AttemptEnd,
    Job,
    JobError,
    JobEstimate,
    JobProgress,
    Params,
    WaitingFor,
)
from api.schemas.jobs.results import Artifact, DownloadResult, GenerationResult
from shared import clock
from shared.catalogue.job_types import (
    BENCHMARK,
    BULK,
    CLEANUP,
    DOWNLOAD,
    GENERATION,
    INTEGRITY_CHECK,
    PREPARE,
    AppliedFallback,
    BenchmarkParams,
    CleanupParams,
    DownloadParams,
    GenerationParams,
    IntegrityCheckParams,
    PrepareParams,
)
from shared.database.tables import Job as JobRow
from shared.forecast.forecasts import Forecast
from shared.jobs.claims import gangs
from shared.jobs.reading.queue_positions import Position
from shared.jobs.usage import gpu_time
from shared.states import JobState, Priority


def job(
    row: JobRow,
    progress: JobProgress,
    position: Position | None,
    public_path: str,
    waiting_for: WaitingFor | None = None,
    forecast: Forecast | None = None,
    accepted: GenerationParams | None = None,
    retried_as: str | None = None,
) -> Job:
    """Return the job as its owner sees it. URLs in it begin with the public path.

    `accepted`: the parameters of a generation that was stored just now, which need not be read from its row.
    """
    return Job(
        id=row.id,
        type=row.type,
        status=JobState(row.status),
        model_id=row.model_id,
        priority=list(Priority)[row.priority],
        mock=row.mock,
        params=_PARAMS.get(row.type, _unknown_params)(row.params) if accepted is None else _shown(accepted),
        fallback_applied=[AppliedFallback.model_validate(each) for each in row.params.get("fallback_applied", ())],
        bandwidth_limit_mbps=row.bandwidth_mbps,
        paused_by=row.paused_by,
        progress=progress,
        queue_position=position.ahead if position is not None else None,
        queue_position_approximate=position.approximate if position is not None else None,
        waiting_for=waiting_for,
        estimated_start=_iso(forecast.start) if forecast is not None else None,
        estimated_end=_iso(forecast.end) if forecast is not None else None,
        estimate=None
        if forecast is None
        else JobEstimate(basis=forecast.basis, samples=forecast.samples, how=forecast.how),
        start_after=_iso(row.start_after),
        start_before=_iso(row.start_before),
        moved_to_front_at=_iso(row.front_at),
        attempt=row.attempt,
        max_attempts=row.max_failures,
        retry_backoff_seconds=row.retry_backoff_seconds,
        failures=row.failures,
        node=row.node,
        worker=row.worker,
        device=row.device,
        gang=[row.device_key, *gangs.keys_of(row.members)] if row.members and row.device_key else [],
        preempted=row.preempted,
        checkpoint_step=row.checkpoint_step,
        resumed_from_step=row.resumed_from_step,
        created_at=clock.iso(row.created_at) or "",
        started_at=clock.iso(row.started_at),
        first_started_at=row.attempt_history[0]["started_at"] if row.attempt_history else clock.iso(row.started_at),
        attempt_history=[AttemptEnd.model_validate(one) for one in row.attempt_history or ()],
        finished_at=clock.iso(row.finished_at),
        gpu_seconds=_rounded(gpu_time.held_seconds(row, clock.now())),
        error=JobError.model_validate(row.error) if row.error else None,
        result=_result(row, public_path) if row.result else None,
        retry_of=row.retry_of,
        retried_as=retried_as,
        flow_id=row.flow_id,
        batch_id=row.batch_id,
        metadata=row.labels,
    )


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else clock.iso(clock.from_epoch(seconds))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


_SHARED_PARAMS = tuple(set(Params.model_fields) - {"image", "last_image", "fit", "resolution"})


def settled_params(stored: dict[str, Any]) -> Params:
    return _shown(GenerationParams.model_validate(stored))


def _shown(params: GenerationParams) -> Params:
    shared = {name: getattr(params, name) for name in _SHARED_PARAMS}
    has_image = params.image is not None or params.image_of is not None
    has_last = params.last_image is not None or params.last_image_of is not None
    fit = (params.fit or "cover") if has_image else None
    return Params(**shared, image=has_image, last_image=has_last, fit=fit, resolution=params.resolution)


def _benchmark_params(stored: dict[str, Any]) -> dict[str, Any]:
    params = BenchmarkParams.model_validate(stored)
    names = {"model_id", "frames", "steps", "quantization", "tiers", "runs"}
    return {**params.model_dump(mode="json", include=names), "resolution": params.resolution}


def _bulk_params(stored: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in stored["filter"].items() if name not in ("only", "upto")}
    return {"action": stored["action"], "filter": shown, "priority": stored.get("priority")}


def _unknown_params(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the stored parameters of a job whose type only a newer version knows."""
    return stored


def _result(row: JobRow, public_path: str) -> GenerationResult | DownloadResult | dict[str, Any]:
    result = row.result or {}
    if row.type == GENERATION:
        return _generation_result(row.id, result, public_path)
    return DownloadResult.model_validate(result) if row.type == DOWNLOAD else result


def _generation_result(job_id: str, result: dict[str, Any], public_path: str) -> GenerationResult:
    """Return the result. Values that the worker did not measure are null."""
    figures = {name: result.get(name) for name in GenerationResult.model_fields}
    lists: dict[str, Any] = {
        "timings": result.get("timings") or {},
        "loras": result.get("loras") or [],
        "notes": result.get("notes") or [],
    }
    return GenerationResult(
        **{**figures, **lists, "artifacts": artifacts(job_id, result, public_path), "mock": bool(result.get("mock"))}
    )


def artifacts(job_id: str, result: dict[str, Any], public_path: str) -> list[Artifact]:
    """Return the files of a generation's result."""
    return [
        Artifact(
            name=item["name"],
            kind=item.get("kind"),
            url=f"{public_path}/api/v1/jobs/{job_id}/artifacts/{item['name']}",
            bytes=item["bytes"],
            sha256=item["sha256"],
            content_type=item["content_type"],
        )
        for item in result.get("artifacts", [])
    ]


_PARAMS: dict[
    str,
    Callable[
        [dict[str, Any]],
        Params | DownloadParams | IntegrityCheckParams | CleanupParams | PrepareParams | dict[str, Any],
    ],
] = {
    GENERATION: settled_params,
    BENCHMARK: _benchmark_params,
    BULK: _bulk_params,
    DOWNLOAD: DownloadParams.model_validate,
    INTEGRITY_CHECK: IntegrityCheckParams.model_validate,
    CLEANUP: CleanupParams.model_validate,
    PREPARE: PrepareParams.model_validate,
}
