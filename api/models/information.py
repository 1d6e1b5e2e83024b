"""Capabilities, health and performance of models, their comparison, and recommendations."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of
from api.context import Context
from api.http import headers
from api.http.responses import json_response, serialized_response
from api.models.status import basis_of
from api.operation import Answer, Operation
from api.ops.alerts import seen_by
from api.schemas.fields import Basis
from api.schemas.models import information as schemas
from api.schemas.models.information import RecommendQuery
from api.schemas.models.models import Recommendation as RecommendationSchema
from api.schemas.ops.alerts import alert
from shared import clock
from shared.catalogue import scoring
from shared.catalogue.models import CatalogueEntry
from shared.insight import assessment
from shared.insight import health as model_health
from shared.insight.assessment import Performance
from shared.insight.health import HealthStatus, Recommendation
from shared.management import recommendation
from shared.management.library import last_check
from shared.management.model_summary import ModelOverview
from shared.management.recommendation import Advice, Candidate, Wish
from shared.management.summary import Overview, Whole, health_counts
from shared.models import memory_plan
from shared.states import Scope


async def capabilities(context: Context, request: Request, query: BaseModel) -> Response:
    """Return a model's capabilities, which change only with the catalogue. Raises NotFound."""
    entry = context.catalogue.get(str(request.path_params["model_type"]))
    base = context.catalogue.get(entry.extends) if entry.extends is not None else None
    body = capabilities_of(entry, base).model_dump_json().encode()
    etag = f'"{hashlib.sha256(body).hexdigest()}"'
    known = {"ETag": etag, "Cache-Control": "no-cache"}
    if headers.none_match(request.headers, etag):
        return Response(status_code=304, headers=known)
    return serialized_response(body, extra=known)


async def health(context: Context, request: Request, query: BaseModel) -> Response:
    """Raises NotFound."""
    model_id = context.catalogue.get(str(request.path_params["model_type"])).model_id

    def compute() -> bytes:
        return health_of(context.overviews.models().models[model_id]).model_dump_json().encode()

    return serialized_response(await context.coalescer.run(("insight health", model_id), compute))


async def performance(context: Context, request: Request, query: BaseModel) -> Response:
    """Raises NotFound."""
    model_id = context.catalogue.get(str(request.path_params["model_type"])).model_id

    def compute() -> bytes:
        return performance_of(context.overviews.models().models[model_id].performance).model_dump_json().encode()

    return serialized_response(await context.coalescer.run(("insight performance", model_id), compute))


async def compare(context: Context, request: Request, query: BaseModel) -> Response:
    """Raises NotFound."""
    a = context.catalogue.get(str(request.path_params["model_a"]))
    b = context.catalogue.get(str(request.path_params["model_b"]))

    def compute() -> bytes:
        return _comparison(context.overviews.models(), a, b).model_dump_json().encode()

    return serialized_response(await context.coalescer.run(("insight compare", a.model_id, b.model_id), compute))


async def recommend(context: Context, request: Request, query: RecommendQuery) -> Response:
    wish = Wish(query.use_case, query.quality_priority, query.speed_priority, query.memory_constraint_gb)
    overview = await context.coalescer.run("insight", context.overviews.models)
    candidates = [
        Candidate(model.view.entry, model.view.availability, model.status, model.performance)
        for model in overview.models.values()
    ]
    return json_response(_recommendation(recommendation.recommend(wish, candidates), overview))


async def dashboard(context: Context, request: Request, query: BaseModel) -> Response:
    caller = caller_of(request)

    def compute() -> bytes:
        return schemas.InsightDashboard(**dashboard_fields(whole_for(context, caller))).model_dump_json().encode()

    return serialized_response(await context.coalescer.run(("insight dashboard", caller.only), compute))


async def status(context: Context, request: Request, query: BaseModel) -> Response:
    def compute() -> bytes:
        whole = context.overviews.whole()
        return (
            schemas.InsightStatus(
                status=whole.status,
                available_models=[name for name, model in whole.overview.models.items() if model.available],
                api_version=importlib.metadata.version("wanworks"),
                timestamp=clock.iso(whole.overview.library.now) or "",
            )
            .model_dump_json()
            .encode()
        )

    return serialized_response(await context.coalescer.run("insight status", compute))


def capabilities_of(entry: CatalogueEntry, base: CatalogueEntry | None) -> schemas.ModelCapabilities:
    """Return the capabilities from the catalogue. `base`: of a preset, the entry that it extends."""
    figures = (
        "supported_resolutions", "min_frames", "max_frames", "supported_fps", "hardware_requirements", "min_steps",
        "max_steps", "defaults", "download_size_gb",
    )  # fmt: skip
    return schemas.ModelCapabilities(
        model_id=entry.model_id,
        model_type=entry.model_type,
        supported_resolutions=list(entry.resolutions),
        min_frames=entry.min_frames,
        max_frames=entry.max_frames,
        supported_fps=list(entry.fps),
        input_types=["text"] if entry.image == "refused" else ["text", "image"],
        output_formats=list(entry.output_formats),
        quantization_support=list(entry.quantizations),
        speed_support=["exact", "balanced", "fast"],
        lora_support=entry.loras,
        controlnet_support=False,
        inpainting_support=False,
        img2img_support=entry.image != "refused",
        text2img_support=entry.image != "required",
        batch_processing=False,
        streaming_support=False,
        hardware_requirements=_hardware(entry),
        image=entry.image,
        min_steps=entry.min_steps,
        max_steps=entry.max_steps,
        defaults=schemas.Defaults(**entry.defaults.model_dump()),
        download_size_gb=entry.total_gb,
        notes=entry.notes,
        caveat=entry.caveat,
        preset=_preset(entry, base) if base is not None else None,
        basis=dict.fromkeys(figures, "catalogue"),
        samples=0,
    )


def _preset(entry: CatalogueEntry, base: CatalogueEntry) -> schemas.Preset:
    lora = entry.lora
    return schemas.Preset(
        extends=base.model_id,
        fixed={name: getattr(entry.defaults, name) for name in entry.fixed},
        lora=schemas.PresetLora(
            repo=lora.repo,
            revision=lora.revision,
            high_noise=lora.high,
            low_noise=lora.low,
            scale=lora.scale,
            size_gb=round(lora.gb, 3),
        )
        if lora is not None
        else None,
        forward_passes=entry.passes,
        forward_passes_of_base=base.passes,
    )


def health_of(model: ModelOverview) -> schemas.ModelHealthMetrics:
    best, day, now = model.view.best, model.day, model.readings
    figures = {
        "integrity_score": model.integrity_score,
        "performance_score": model.performance.performance_score,
        "availability_score": model.availability_score,
        "health_score": model.health_score,
        "error_count_24h": day.failures,
        "success_rate_24h": day.success_rate,
        "average_response_time_ms": day.average_response_ms,
        "memory_usage_mb": now.memory_used_mb,
        "gpu_utilization_percent": now.load_percent,
        "temperature_celsius": now.temperature_celsius,
    }
    advice = model_health.recommendations([model.facts], None, model.now)
    return schemas.ModelHealthMetrics.model_validate(
        {
            **figures,
            "model_id": model.view.entry.model_id,
            "health_status": model.status,
            "last_check": clock.iso(last_check(best.row if best is not None else None)),
            "issues": model.health.issues,
            "recommendations": [one.message for one in advice],
            "devices": now.devices,
            "device_kinds": now.kinds,
            "basis": bases(figures),
            "samples": day.uses,
        }
    )


def performance_of(found: Performance) -> schemas.ModelPerformance:
    figures = {
        "generation_time_avg_seconds": found.average_seconds,
        "generation_time_p95_seconds": found.p95_seconds,
        "throughput_videos_per_hour": found.videos_per_hour,
        "memory_efficiency_score": found.memory_efficiency_score,
        "gpu_utilization_avg_percent": found.load_percent,
        "power_consumption_watts": found.power_watts,
        "quality_score": found.quality_score,
        "stability_score": found.stability_score,
        "performance_score": found.performance_score,
        "memory_average_mb": found.memory_used_mb,
        "memory_peak_mb": found.memory_peak_mb,
        "hardware_profile": ", ".join(found.devices) or None,
        "optimization_level": ", ".join(found.profiles) or None,
    }
    return schemas.ModelPerformance.model_validate(
        {
            **figures,
            "model_id": found.model_id,
            "benchmark_date": clock.iso(found.newest),
            "basis": bases(figures),
            "samples": found.successes,
            "device_samples": found.samples,
        }
    )


def whole_for(context: Context, caller: Caller) -> Whole:
    """Return everything that the caller may see. Raises DatabaseUnavailable."""
    whole = context.overviews.whole()
    return replace(whole, alerts=tuple(seen_by(context, caller, whole.alerts)))


def dashboard_fields(whole: Whole) -> dict[str, object]:
    """Return the fields of the dashboard, which are also part of the overview."""
    overview = whole.overview
    entries = {model_id: model.view.entry for model_id, model in overview.models.items()}
    scores = [model.performance.performance_score for model in overview.models.values()]
    average = scoring.mean_score(scores)
    return {
        "timestamp": clock.iso(overview.library.now),
        "models": {
            model_id: schemas.ModelInsight(
                capabilities=capabilities_of(model.view.entry, entries.get(model.view.entry.extends or "")),
                health=health_of(model),
                performance=performance_of(model.performance),
            )
            for model_id, model in overview.models.items()
        },
        "system_overview": schemas.SystemOverview(
            total_models=len(overview.models),
            healthy_models=health_counts(overview)[HealthStatus.HEALTHY],
            average_performance_score=average,
            system_status=whole.status,
            basis={"average_performance_score": basis_of(average)},
            samples=sum(score is not None for score in scores),
        ),
        "alerts": [alert(row) for row in whole.alerts],
        "recommendations": shown_recommendations(overview.recommendations),
    }


def shown_recommendations(found: Sequence[Recommendation]) -> list[RecommendationSchema]:
    return [RecommendationSchema.model_validate(vars(one)) for one in found]


def bases(figures: Mapping[str, object]) -> dict[str, Basis]:
    return {name: basis_of(value) for name, value in figures.items()}


def _hardware(entry: CatalogueEntry) -> schemas.HardwareRequirements:
    return schemas.HardwareRequirements(
        min_vram_gb=entry.hardware.min_vram_gb,
        recommended_vram_gb=entry.hardware.recommended_vram_gb,
        min_ram_gb=memory_plan.least_host_gb(entry),
        cuda_compute_capability=entry.hardware.cuda_compute_capability,
    )


def _comparison(overview: Overview, a: CatalogueEntry, b: CatalogueEntry) -> schemas.ModelComparison:
    of_a, of_b = (overview.models[entry.model_id].performance for entry in (a, b))
    found = assessment.compare(of_a, of_b, a, b)
    figures = {
        "performance_difference_percent": found.performance_difference_percent,
        "quality_difference_score": found.quality_difference_score,
        "memory_usage_difference_mb": found.memory_usage_difference_mb,
        "speed_difference_percent": found.speed_difference_percent,
    }
    return schemas.ModelComparison.model_validate(
        {
            **figures,
            "model_a": a.model_id,
            "model_b": b.model_id,
            "comparison_date": clock.iso(overview.library.now),
            "recommendation": found.recommendation,
            "use_cases": found.use_cases,
            "trade_offs": found.trade_offs,
            "basis": bases(figures),
            "samples": {each.model_id: each.successes for each in (of_a, of_b)},
        }
    )


def _recommendation(advice: Advice, overview: Overview) -> schemas.ModelRecommendation:
    best = overview.models[advice.best.model_id] if advice.best is not None else None
    seen = best.performance if best is not None else Performance("")
    expected = {
        "generation_time_seconds": seen.average_seconds,
        "quality_score": seen.quality_score,
        "throughput_videos_per_hour": seen.videos_per_hour,
        "memory_efficiency": seen.memory_efficiency_score,
    }
    fitting = [*([advice.best] if advice.best is not None else []), *advice.others]
    return schemas.ModelRecommendation(
        recommended_model=advice.best.model_id if advice.best is not None else None,
        confidence_score=advice.confidence,
        reasoning=list(advice.reasons),
        alternative_models=[one.model_id for one in advice.others],
        hardware_requirements=_hardware(best.view.entry) if best is not None else None,
        expected_performance=schemas.ExpectedPerformance.model_validate(
            {**expected, "basis": bases(expected), "samples": seen.successes}
        ),
        limitations=list(advice.limitations),
        scores={
            one.model_id: schemas.ScoredModel(
                score=one.score, input=one.input, quality=one.quality, speed=one.speed, readiness=one.readiness
            )
            for one in fitting
        },
        basis={"quality": advice.quality_source, "speed": advice.speed_source} if fitting else {},
    )


OPERATIONS = (
    Operation(
        "GET", "/api/v1/wan-models/capabilities/{model_type}", capabilities, "modelCapabilities",
        "Get a model's capabilities",
        answers=(
            Answer(200, "Its capabilities, from the catalogue.", schemas.ModelCapabilities, headers=("ETag",)),
            Answer(304, "Not modified.", media_type=None, headers=("ETag",)),
        ),
        problems=(404,), headers=("If-None-Match",), tag="insight", scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/wan-models/health/{model_type}", health, "modelHealthMetrics",
        "Get a model's health, now and over 24 hours",
        answers=(Answer(200, "Its health.", schemas.ModelHealthMetrics),), problems=(404, 503), tag="insight",
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/wan-models/performance/{model_type}", performance, "modelPerformance",
        "Get a model's performance over 30 days",
        answers=(Answer(200, "Its performance.", schemas.ModelPerformance),), problems=(404, 503),
        tag="insight", scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/wan-models/compare/{model_a}/{model_b}", compare, "compareModels",
        "Compare two models",
        answers=(Answer(200, "The differences of b relative to a.", schemas.ModelComparison),),
        problems=(404, 503), tag="insight", scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/wan-models/recommend", recommend, "recommendModel", "Recommend a model for a use case",
        answers=(Answer(200, "The best fitting model, with reasons.", schemas.ModelRecommendation),),
        problems=(503,), query=schemas.RecommendQuery, tag="insight",
        description="The memory constraint is a hard limit. If no model fits, `recommended_model` is null.",
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/wan-models/dashboard", dashboard, "insightDashboard", "Get all information on all models",
        answers=(Answer(200, "Models, alerts and recommendations.", schemas.InsightDashboard),),
        problems=(503,), tag="insight", scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/wan-models/status", status, "insightStatus", "Get the status and the usable models",
        answers=(Answer(200, "The status and the available models.", schemas.InsightStatus),), problems=(503,),
        tag="insight", scope=Scope.READ,
    ),
)  # fmt: skip
