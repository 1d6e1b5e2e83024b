"""What the live page asks for beyond what the jobs' and models' routes tell: an estimate, and the way to Flower."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.http.query import digits
from api.schemas.fields import Basis, Name
from wanworks.requests import Quantization


class Flower(BaseModel):
    """Where Flower is for this client, and whether somebody listens there."""

    model_config = ConfigDict(frozen=True)

    url: str
    user: str
    reachable: bool


class EstimateQuery(BaseModel):
    """A generation that might be asked for. What is left out takes the model's native value."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_id: Name
    resolution: Annotated[str, Field(max_length=32, pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$")] | None = None
    frames: Annotated[int, Field(ge=1, le=100_000), BeforeValidator(digits)] | None = None
    steps: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(digits)] | None = None
    quantization: Quantization = "none"


class Estimate(BaseModel):
    """What a generation will take, in seconds, from jobs that were measured; null where none was.

    `generation_seconds` is the median over the latest successes of that model and quantization, loading left out, of
    seconds for each megapixel, frame and step, times those asked for. `loading_seconds` comes on top where no device
    has the model loaded. `queue_seconds` is what waits and runs now, shared among the devices.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model_id: str
    generation_seconds: float | None
    loading_seconds: float | None
    queue_seconds: float | None
    warm: Annotated[bool, Field(description="Whether a device has it loaded now, under that quantization.")]
    samples: Annotated[int, Field(description="The measured jobs behind `generation_seconds`, at most 20.")]
    basis: dict[str, Basis]
