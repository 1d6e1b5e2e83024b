"""Bodies of fallback suggestions."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.schemas.fields import Asked, Basis, Name, Public, Score, Time
from api.schemas.models import Availability
from shared.catalogue.models import parse_resolution
from shared.management.fallback import Level, Speed, Strategy


def _resolution(text: str) -> str:
    parse_resolution(text)
    return text


class FallbackRequest(Asked):
    """What is wanted of a model that may not be there."""

    requested_model: Name
    quality: Level = "medium"
    speed: Speed = "medium"
    resolution: Annotated[
        str,
        Field(max_length=32, pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$", examples=["1280x720"]),
        AfterValidator(_resolution),
    ] = "1280x720"
    max_wait_minutes: Annotated[float, Field(strict=True, ge=0, le=100_000, allow_inf_nan=False)] | None = None


class AlternativeSuggestion(Public):
    """The model that comes nearest."""

    suggested_model: str
    compatibility_score: Score
    performance_difference: Annotated[
        float | None, Field(description="Its performance score minus the requested model's; null: not measured.")
    ]
    availability_status: Availability
    reason: str
    estimated_quality_difference: Literal["lower", "slightly_lower", "similar", "slightly_higher", "higher"]


class FallbackStrategy(Public):
    """What to do. `estimated_wait_time` in seconds."""

    strategy_type: Strategy
    recommended_action: str
    alternative_model: str | None
    estimated_wait_time: Annotated[float | None, Field(description="Seconds; null: not measurable.")]
    user_message: str
    can_queue_request: bool
    combines: Annotated[list[Strategy], Field(description="The parts of a `hybrid_approach`.")]
    quantization: Annotated[str | None, Field(description="What to ask for instead.")]
    resolution: Annotated[str | None, Field(description="What to ask for instead.")]
    score: Score


class WaitEstimate(Public):
    """Until the requested model would start, in seconds: bytes left over the measured rate, then the queue."""

    seconds: float
    download_seconds: float
    queue_seconds: float


class FallbackSuggestion(Public):
    """The best strategy, and the others that would do."""

    requested_model: str
    alternative_suggestion: AlternativeSuggestion | None
    fallback_strategy: FallbackStrategy
    other_strategies: list[FallbackStrategy]
    wait_time_estimate: Annotated[WaitEstimate | None, Field(description="Null: not measurable.")]
    basis: dict[str, Basis]
    timestamp: Time
