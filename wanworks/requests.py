"""A generation request and its rules. The API validates requests by them, and the batch command checks files."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from wanworks.moments import Moment
from wanworks.net.urls import ForbiddenAddress, check_url
from wanworks.states import Priority

Quantization = Literal["none", "fp16", "bf16", "int8", "fp8"]
OutputFormat = Literal["mp4", "webm"]
Speed = Literal["exact", "balanced", "fast"]
Fit = Literal["cover", "contain", "auto"]
DEVICES_PER_JOB = (1, 2, 4, 8)
LORA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_SEED = 2**32 - 1
MOST_SEEDS = 16
_NOT_TEXT = "text must not contain NUL or lone surrogate characters"
# Not `[]`, which Pydantic would copy deeply for each request.
_EMPTY_LIST: dict[str, Any] = {"default_factory": list, "json_schema_extra": {"default": []}}
_ANY_SEED = -1  # many clients send this to request a random seed


def _text(value: str) -> str:
    try:
        value.encode()  # fails for lone surrogates
    except UnicodeEncodeError:
        raise ValueError(_NOT_TEXT) from None
    if "\x00" in value:
        raise ValueError(_NOT_TEXT)
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def lora_name(value: str) -> str:
    if LORA_NAME.fullmatch(value) is None:
        raise ValueError("a LoRA name has no path, only letters, digits, '.', '_' and '-'")
    return value


def webhook(value: str | None) -> str | None:
    """Validate the URL of a webhook. Raises ValueError."""
    if value is not None:
        try:
            check_url(value)
        except ForbiddenAddress as error:
            raise ValueError(error.message[0].lower() + error.message[1:]) from None
    return value


def _given_seed(seed: int | None) -> int | None:
    return None if seed == _ANY_SEED else seed


@dataclass(frozen=True)
class Rule:
    """A rule for a text: a function that raises ValueError, and the equivalent pattern for the JSON Schema."""

    check: Callable[[str], str]
    pattern: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self.pattern}


# In each field, limits precede these rules: only then do they appear in the JSON Schema too. NOT_BLANK follows PLAIN,
# and its pattern includes both. Blanks are spelled out, because `\s` differs between the languages' patterns.
_BLANK = r"\x09-\x0d\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
PLAIN = Rule(_text, r"^[^\x00]*$")
NOT_BLANK = Rule(_not_blank, rf"^[^\x00]*[^\x00{_BLANK}][^\x00]*$")


# Strict: booleans and texts are not numbers. An integer is accepted for a float.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]


class Lora(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=128), Rule(lora_name, f"^{LORA_NAME.pattern}$")]
    scale: Annotated[Number, Field(ge=-4, le=4)] = 1.0


Seed = Annotated[
    Annotated[Whole, Field(ge=_ANY_SEED, le=MAX_SEED)] | None,
    AfterValidator(_given_seed),
    Field(description="If omitted or -1, a random seed is chosen and recorded."),
]


FitField = Annotated[
    Fit | None,
    Field(
        description="How a picture meets the size of the video. `cover`: its centre is cropped to the size. `contain`: "
        "it is shown whole, between black bars. `auto`: the size takes the picture's shape, at the area of "
        "`resolution`. Only with `image`. If omitted, `cover`."
    ),
]


PreviewField = Annotated[
    bool,
    Field(strict=True, description="Show a small preview every few seconds while the video is made, where it can be."),
]


FallbackStrategy = Literal[
    "alternative_model",
    "queue_and_wait",
    "mock_generation",
    "download_and_retry",
    "reduce_requirements",
    "hybrid_approach",
]


MaxAttempts = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=100)] | None,
    Field(
        description="Number of crashes and lost workers after which the job fails, at most the setting "
        "`max_attempts_limit`. If omitted, the setting `max_failures`."
    ),
]
RetryBackoff = Annotated[
    Annotated[Number, Field(ge=0, le=86_400)] | None,
    Field(
        description="Seconds until the second attempt; the delay doubles with each further one. At most the setting "
        "`retry_backoff_limit_seconds`. If omitted, the setting `retry_backoff_seconds`."
    ),
]


WebhookUrl = Annotated[
    str | None,
    Field(max_length=2000, description="An http(s) address that receives the end, signed by Standard Webhooks."),
    AfterValidator(webhook),
]
Labels = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64), PLAIN], Annotated[str, Field(max_length=512), PLAIN]],
    Field(max_length=16),
]


class GenerationRequest(BaseModel):
    """A generation as the client requests it, before the catalogue's defaults and limits. The API reads pictures."""

    model_config = ConfigDict(extra="forbid")

    model_id: Annotated[str, Field(min_length=1, max_length=64), PLAIN]
    prompt: Annotated[str, Field(min_length=1, max_length=5000), PLAIN, NOT_BLANK]
    negative_prompt: Annotated[str, Field(max_length=5000), PLAIN] | None = None
    image: Annotated[str, Field(description="A data URL: data:image/png;base64,...")] | None = None
    last_image: Annotated[
        str | None,
        Field(description="The picture with which the video ends, as a data URL. It needs `image`, and 4k + 1 frames."),
    ] = None
    fit: FitField = None
    resolution: Annotated[str, Field(max_length=32, examples=["1280x720"])] | None = None
    frames: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None
    fps: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    output_format: OutputFormat = "mp4"
    steps: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    guidance_scale: Annotated[Number, Field(ge=0, le=30)] | None = None
    guidance_scale_2: Annotated[Number, Field(ge=0, le=30)] | None = None
    flow_shift: Annotated[Number, Field(gt=0, le=100)] | None = None
    seed: Seed = None
    count: Annotated[
        int,
        Field(
            strict=True,
            ge=1,
            le=MOST_SEEDS,
            description="How many videos are made, with the seeds from `seed` on. More than one are a batch: the "
            "response is its first job, with `batch_id` and `job_ids`. Not for jobs of batches and flows.",
        ),
    ] = 1
    quantization: Quantization = "none"
    speed: Annotated[
        Speed | None,
        Field(
            description="The speed tier. `exact` is reproducible bit for bit; `balanced` is faster with frames close "
            "to those of `exact`; `fast` also skips steps that change little. If omitted, the setting `default_speed`."
        ),
    ] = None
    devices_per_job: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=1000)] | None,
        Field(
            description="How many devices of one node compute the video together: 1, 2, 4 or 8. Each has all weights. "
            "If omitted, the model's own, which is 1 unless the catalogue says otherwise."
        ),
    ] = None
    loras: list[Lora] = Field(max_length=8, **_EMPTY_LIST)
    priority: Priority = Priority.NORMAL
    max_attempts: MaxAttempts = None
    retry_backoff_seconds: RetryBackoff = None
    fallback: list[FallbackStrategy] = Field(
        max_length=6,
        description="Permitted strategies while the model is not ready, in order of preference.",
        **_EMPTY_LIST,
    )
    start_after: Annotated[
        Moment | None, Field(description="The job does not start before this time (ISO 8601 with an offset or Z).")
    ] = None
    start_before: Annotated[
        Moment | None,
        Field(description="If the job has not started by this time, it fails with the code `expired`."),
    ] = None
    webhook_url: Annotated[
        str | None,
        Field(
            max_length=2000, description="An http(s) address that receives the job's end, signed by Standard Webhooks."
        ),
        AfterValidator(webhook),
    ] = None
    webhook_progress: Annotated[
        bool, Field(strict=True, description="Also send progress to the webhook, about every ten seconds.")
    ] = False
    preview: PreviewField = True
    metadata: Labels = Field(default_factory=dict, json_schema_extra={"default": {}})
