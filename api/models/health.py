"""The health of all models: read the library once and assess it with `shared.insight.health`."""

from collections import Counter

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.responses import serialized_response
from api.models.status import basis_of
from api.operation import Answer, Operation
from api.schemas.models import models as schemas
from shared import clock
from shared.catalogue import scoring
from shared.insight import health as model_health
from shared.insight.health import HealthStatus, ModelFacts
from shared.management.library import Library, ModelView, facts_of, integrity_of, last_check, storage_usage_percent
from shared.states import Scope


async def health(context: Context, request: Request, query: BaseModel) -> Response:
    def compute() -> bytes:
        return _health(context.library()).model_dump_json().encode()

    return serialized_response(await context.coalescer.run("health", compute))


def _health(library: Library) -> schemas.LibraryHealth:
    facts = {model_id: facts_of(model) for model_id, model in library.models.items()}
    models = {model_id: _model(library.models[model_id], each) for model_id, each in facts.items()}
    count = Counter(model.health_status for model in models.values())
    used = storage_usage_percent(library)
    score = scoring.overall_health_score(
        count[HealthStatus.HEALTHY], count[HealthStatus.DEGRADED], count[HealthStatus.CORRUPTED]
    )
    now = clock.iso(library.now) or ""
    return schemas.LibraryHealth(
        system_health=schemas.SystemHealth(
            overall_health_score=score,
            models_healthy=count[HealthStatus.HEALTHY],
            models_degraded=count[HealthStatus.DEGRADED],
            models_corrupted=count[HealthStatus.CORRUPTED],
            models_missing=count[HealthStatus.MISSING],
            models_unknown=count[HealthStatus.UNKNOWN],
            storage_usage_percent=used,
            last_updated=now,
            basis={"overall_health_score": basis_of(score), "storage_usage_percent": basis_of(used)},
        ),
        model_health=models,
        recommendations=[
            schemas.Recommendation(
                type=one.type,
                priority=one.priority,
                message=one.message,
                action=one.action,
                model_id=one.model_id,
            )
            for one in model_health.recommendations(list(facts.values()), used, library.now)
        ],
        timestamp=now,
    )


def _model(model: ModelView, facts: ModelFacts) -> schemas.ModelHealth:
    found = model_health.health(facts)
    row = model.best.row if model.best is not None else None
    integrity = integrity_of(row)
    rate = None if facts.success_rate is None else round(facts.success_rate, 4)
    return schemas.ModelHealth(
        model_id=facts.model_id,
        health_status=found.status,
        is_healthy=found.status == HealthStatus.HEALTHY,
        integrity_score=integrity,
        issues=list(found.issues),
        corruption_types=list(found.corruption_types),
        last_check=clock.iso(last_check(row)),
        repair_suggestions=list(found.repair_suggestions),
        can_auto_repair=found.can_auto_repair,
        success_rate=rate,
        basis={"integrity_score": basis_of(integrity), "success_rate": basis_of(rate)},
        samples=facts.uses,
    )


OPERATIONS = (
    Operation(
        "GET", "/api/v1/models/health", health, "modelsHealth", "Get the health of all models",
        answers=(Answer(200, "The health of all models and advice.", schemas.LibraryHealth),), problems=(503,),
        tag="models", scope=Scope.READ,
    ),
)  # fmt: skip
