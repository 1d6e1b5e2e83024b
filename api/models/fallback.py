"""Suggest strategies when a model is not ready, computed by `shared.management.fallback`."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.body import read_json
from api.http.responses import json_response
from api.models.status import basis_of
from api.operation import Answer, Operation
from api.schemas.models import fallback as fallback_schemas
from api.schemas.models.fallback import FallbackRequest
from api.services.admission import fallback_facts
from shared import clock
from shared.management.fallback import suggest
from shared.management.fallback_types import Alternative, Choice, ModelFacts, Suggestion, Wish
from shared.states import Scope


async def suggest_fallback(context: Context, request: Request, query: BaseModel) -> Response:
    body = await read_json(request, FallbackRequest)
    context.catalogue.get(body.requested_model)

    def compute() -> dict[str, ModelFacts]:
        return fallback_facts.facts(context.settings, context.library())

    models = await context.coalescer.run("fallback", compute)
    limit = body.max_wait_minutes
    wish = Wish(body.requested_model, body.quality, body.speed, body.resolution, None if limit is None else limit * 60)
    return json_response(_answer(wish, suggest(wish, models)))


def _answer(wish: Wish, found: Suggestion) -> fallback_schemas.FallbackSuggestion:
    wait = found.wait
    estimate = None
    if wait.seconds is not None and wait.download_seconds is not None and wait.queue_seconds is not None:
        estimate = fallback_schemas.WaitEstimate(
            seconds=round(wait.seconds, 1),
            download_seconds=round(wait.download_seconds, 1),
            queue_seconds=round(wait.queue_seconds, 1),
        )
    difference = found.alternative.performance_difference if found.alternative is not None else None
    return fallback_schemas.FallbackSuggestion(
        requested_model=wish.model_id,
        alternative_suggestion=_alternative(found.alternative) if found.alternative is not None else None,
        fallback_strategy=_strategy(found.choice),
        other_strategies=[_strategy(choice) for choice in found.others],
        wait_time_estimate=estimate,
        basis={
            "compatibility_score": "catalogue" if found.alternative is not None else "none",
            "estimated_quality_difference": "catalogue" if found.alternative is not None else "none",
            "performance_difference": basis_of(difference),
            "estimated_wait_time": basis_of(found.choice.wait_seconds),
            "wait_time_estimate": basis_of(estimate),
        },
        timestamp=clock.iso(clock.now()) or "",
    )


def _alternative(one: Alternative) -> fallback_schemas.AlternativeSuggestion:
    return fallback_schemas.AlternativeSuggestion(
        suggested_model=one.model_id,
        compatibility_score=one.compatibility,
        performance_difference=one.performance_difference,
        availability_status=one.availability.value,
        reason=one.reason,
        estimated_quality_difference=one.quality_difference,
    )


def _strategy(choice: Choice) -> fallback_schemas.FallbackStrategy:
    return fallback_schemas.FallbackStrategy(
        strategy_type=choice.strategy,
        recommended_action=choice.action,
        alternative_model=choice.alternative,
        estimated_wait_time=None if choice.wait_seconds is None else round(choice.wait_seconds, 1),
        user_message=choice.message,
        can_queue_request=choice.can_queue,
        combines=list(choice.parts),
        quantization=choice.quantization,
        resolution=choice.resolution,
        frames=choice.frames,
        score=min(1.0, max(0.0, choice.score)),
    )


OPERATIONS = (
    Operation(
        "POST", "/api/v1/models/fallback/suggest", suggest_fallback, "suggestFallback",
        "Suggest strategies when a model is not ready",
        answers=(Answer(200, "The best strategy and alternatives.", fallback_schemas.FallbackSuggestion),),
        problems=(400, 404, 413, 415, 503), body=fallback_schemas.FallbackRequest, tag="models", scope=Scope.READ,
    ),
)  # fmt: skip
