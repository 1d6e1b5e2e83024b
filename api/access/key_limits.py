"""What the limits of a key allow in a generation: models, size and length. Pure functions."""

from shared.access.keys import Limits
from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import parse_resolution
from shared.errors import FieldError, Forbidden

_REMEDY = "Ask for less, or have an administrator change the key with `wanworks keys update`"


def check_model(limits: Limits, model_id: str) -> None:
    """Raise Forbidden if the key may not use the model."""
    if limits.models is not None and model_id not in limits.models:
        allowed = ", ".join(limits.models)
        raise Forbidden(
            f"model_id: this API key may not use {model_id!r}; allowed: {allowed}. Use one of these, or have an "
            "administrator change the key with `wanworks keys update`"
        )


def wrong_fields(limits: Limits, params: GenerationParams) -> tuple[FieldError, ...]:
    """Return an error for each field that is over a limit of the key."""
    found = []
    if limits.max_resolution is not None:
        width, height = parse_resolution(limits.max_resolution)
        if params.width * params.height > width * height:
            msg = f"{params.resolution} is over the largest size that this API key allows; allowed: at most as many "
            msg += f"pixels as {limits.max_resolution}. {_REMEDY}"
            found.append(FieldError(("body", "resolution"), msg, "over_limit"))
    if limits.max_frames is not None and params.frames > limits.max_frames:
        msg = f"{params.frames} is over the greatest length that this API key allows; allowed: at most "
        msg += f"{limits.max_frames} frames. {_REMEDY}"
        found.append(FieldError(("body", "frames"), msg, "over_limit"))
    return tuple(found)


def permits(limits: Limits, params: GenerationParams) -> bool:
    """Return whether the key allows a generation with these parameters."""
    return (limits.models is None or params.model_id in limits.models) and not wrong_fields(limits, params)
