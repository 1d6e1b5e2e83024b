"""Requests and responses of the live page's own routes: the estimate and the address of Flower."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.http.query import digits
from api.schemas.fields import Basis, Name
from shared import patterns
from wanworks.requests import Quantization, Speed


class Flower(BaseModel):
    """The address of Flower, and whether it responds."""

    model_config = ConfigDict(frozen=True)

    url: str
    user: str
    reachable: bool


class EstimateQuery(BaseModel):
    """A possible generation. Fields that are left out take the model's defaults."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_id: Name
    resolution: Annotated[str, Field(max_length=32, pattern=patterns.RESOLUTION)] | None = None
    frames: Annotated[int, Field(ge=1, le=100_000), BeforeValidator(digits)] | None = None
    steps: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(digits)] | None = None
    quantization: Quantization = "none"
    speed: Annotated[Speed | None, Field(description="Left out: the setting `default_speed`.")] = None


class Estimate(BaseModel):
    """The estimated duration of a generation in seconds, from measured jobs; null: not measured.

    `generation_seconds` is without loading: the median time of denoising per megapixel, frame and step, of decoding
    and storing per megapixel and frame, and of the rest, over the latest successes of the model, quantization and speed
    tier, of about the same size if there are enough. If the tier has not run yet, it is the time of
    `exact` times the ratio that a benchmark has measured, if there is one; if the model has not, that of another model
    with the same weights. `loading_seconds` is added if no device has loaded the model.
    `queue_seconds` is how long a generation of normal priority would wait, if the queue is played forward over the
    devices with measured durations, pauses and windows. It compares no memory.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model_id: str
    generation_seconds: float | None
    loading_seconds: float | None
    queue_seconds: float | None
    warm: Annotated[bool, Field(description="Whether a device has loaded the model with this quantization.")]
    samples: Annotated[int, Field(description="Number of measured jobs behind `generation_seconds`, at most 20.")]
    basis: dict[str, Basis]
