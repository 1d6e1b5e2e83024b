"""Requests and responses of speed tiers and their benchmarks."""

from typing import Annotated, Literal

from pydantic import Field

from api.schemas.fields import Name, ResponseModel, RetriedModel
from api.schemas.jobs.results import TierFigures, TierQuality, TierUsed
from shared.states import Priority
from wanworks.requests import PLAIN, Quantization, Speed


class BenchmarkRequest(RetriedModel):
    """Compare the speed tiers of a model with `exact` on a device. Omitted sizes are the model's own."""

    model_id: Name
    resolution: Annotated[str, Field(max_length=32, examples=["1280x720"]), PLAIN] | None = None
    frames: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None
    steps: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    quantization: Quantization = "none"
    tiers: Annotated[list[Literal["balanced", "fast"]], Field(min_length=1, max_length=2)] = ["balanced", "fast"]
    runs: Annotated[int, Field(strict=True, ge=1, le=20, description="Prompts for each tier.")] = 3
    priority: Priority = Priority.LOW


class TierMeasured(TierFigures):
    """A measurement, and what it was made with."""

    quality: TierQuality
    device_kind: Literal["cpu", "cuda"]
    device_name: str
    quantization: Quantization
    used: TierUsed
    libraries: dict[str, str]


class Tier(ResponseModel):
    """What a speed tier uses on each kind of device, and what this installation has measured of it."""

    tier: Speed
    cuda: TierUsed
    cpu: TierUsed
    measured: Annotated[
        list[TierMeasured],
        Field(description="The newest measurement of each type of device, quantization and size. Empty: not measured."),
    ]


class ModelTiers(ResponseModel):
    """The speed tiers of a model."""

    model_id: str
    default_speed: Annotated[Speed, Field(description="Of requests that name none.")]
    tiers: list[Tier]
