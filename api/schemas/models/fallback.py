"""Requests and responses of fallback suggestions."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.schemas.fields import Basis, Name, RequestModel, ResponseModel, Score, Time
from api.schemas.models.models import Availability
from shared import patterns
from shared.catalogue.models import parse_resolution
from shared.management.fallback_types import Level, Speed, Strategy


def _resolution(text: str) -> str:
    parse_resolution(text)
    return text


class FallbackRequest(RequestModel):
    """The model and settings that a client wants to use."""

    requested_model: Name
    quality: Level = "medium"
    speed: Speed = "medium"
    resolution: Annotated[
        str,
        Field(max_length=32, pattern=patterns.RESOLUTION, examples=["1280x720"]),
        AfterValidator(_resolution),
    ] = "1280x720"
    max_wait_minutes: Annotated[float, Field(strict=True, ge=0, le=100_000, allow_inf_nan=False)] | None = None


class AlternativeSuggestion(ResponseModel):
    """The most compatible other model."""

    suggested_model: str
    compatibility_score: Score
    performance_difference: Annotated[
        float | None, Field(description="Its performance score minus the requested model's; null: not measured.")
    ]
    availability_status: Availability
    reason: str
    estimated_quality_difference: Literal["lower", "slightly_lower", "similar", "slightly_higher", "higher"]


class FallbackStrategy(ResponseModel):
    """A strategy to apply. `estimated_wait_time` is in seconds."""

    strategy_type: Strategy
    recommended_action: str
    alternative_model: str | None
    estimated_wait_time: Annotated[float | None, Field(description="In seconds; null: unknown.")]
    user_message: str
    can_queue_request: bool
    combines: Annotated[list[Strategy], Field(description="The strategies that a `hybrid_approach` combines.")]
    quantization: Annotated[str | None, Field(description="The quantization to request instead.")]
    resolution: Annotated[str | None, Field(description="The resolution to request instead.")]
    frames: Annotated[int | None, Field(description="The number of frames to request instead.")] = None
    score: Score


class WaitEstimate(ResponseModel):
    """Estimated seconds until the requested model would start: the remaining download, then the queue."""

    seconds: float
    download_seconds: float
    queue_seconds: float


class FallbackSuggestion(ResponseModel):
    """The best strategy, and other applicable ones."""

    requested_model: str
    alternative_suggestion: AlternativeSuggestion | None
    fallback_strategy: FallbackStrategy
    other_strategies: list[FallbackStrategy]
    wait_time_estimate: Annotated[WaitEstimate | None, Field(description="Null: unknown.")]
    basis: dict[str, Basis]
    timestamp: Time
