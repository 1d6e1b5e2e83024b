"""Resolve a request into the parameters of a job: the model's defaults filled in and its limits applied."""

import random
from typing import Any

from shared.catalogue.entries import CatalogueEntry, parse_resolution
from shared.catalogue.job_types import FRAME_GROUP, GenerationParams
from shared.catalogue.picture_fit import follow_picture, wrong_shape
from shared.errors import FieldError, InvalidField
from wanworks.requests import MAX_SEED, GenerationRequest, Speed


def resolve(
    request: GenerationRequest,
    entry: CatalogueEntry,
    image: str | None,
    default_speed: Speed = "exact",
    *,
    last_image: str | None = None,
    picture: tuple[int, int] | None = None,
) -> GenerationParams:
    """Return the request's parameters, with the catalogue's defaults filled in and its limits applied.

    `image`, `last_image`: the stored inputs' names, or None. `default_speed`: the tier of a request that names none.
    `picture`: width and height of the image, which decide the size under `fit: auto`; None: not known.

    Raises InvalidField with each field that the model does not support, the requested value and the allowed values.
    """
    defaults = entry.defaults
    resolution = request.resolution or defaults.resolution
    frames = request.frames if request.frames is not None else defaults.frames
    fps = request.fps if request.fps is not None else defaults.fps
    steps = request.steps if request.steps is not None else defaults.steps
    model = entry.model_id
    wrong: list[FieldError] = []

    def refuse(field: str, msg: str, type: str = "not_supported") -> None:
        wrong.append(FieldError(("body", field), msg, type))

    def one_of(field: str, value: object, allowed: tuple[object, ...]) -> None:
        if value not in allowed:
            refuse(field, f"{value!r} is not supported by {model}; allowed: {', '.join(map(str, allowed))}")

    one_of("resolution", resolution, entry.resolutions)
    one_of("fps", fps, entry.fps)
    one_of("output_format", request.output_format, entry.output_formats)
    one_of("quantization", request.quantization, entry.quantizations)
    low, high = entry.min_frames, entry.max_frames
    if not low <= frames <= high:
        refuse("frames", f"{frames} is not supported by {model}; allowed: {low} to {high}")
    low, high = entry.min_steps, entry.max_steps
    if not low <= steps <= high:
        refuse("steps", f"{steps} is not supported by {model}; allowed: {low} to {high}")
    if request.loras and not entry.loras:
        refuse("loras", f"{model} does not support LoRAs")
    if len(request.loras) != len({lora.name for lora in request.loras}):
        refuse("loras", "the same LoRA is named twice", "duplicate")
    two_experts = entry.boundary_ratio is not None
    if request.guidance_scale_2 is not None and not two_experts:
        refuse("guidance_scale_2", f"{model} has one transformer, so only guidance_scale applies")
    if image is not None and entry.image == "refused":
        refuse("image", f"{model} makes video from text alone, without an image")
    if image is None and entry.image == "required":
        refuse("image", f"{model} needs an image", "missing")
    wrong += _wrong_last_image(entry, frames, last_image, image)
    has_size = resolution in entry.resolutions
    if request.fit is not None and image is None:
        refuse(
            "fit", f"{request.fit!r} is only possible with an image, which it fits to the video's size; leave it out"
        )
    asked, size = resolution, resolution
    if request.fit == "auto" and picture is not None and has_size:
        if (shape := wrong_shape(entry, resolution, picture)) is None:
            size = "{}x{}".format(*follow_picture(entry, resolution, picture))
        else:
            wrong.append(shape)
            has_size = False
    for name in entry.fixed:
        given, value = getattr(request, name), getattr(defaults, name)
        if given is not None and given != value:
            other = f", or use {entry.extends}, which does not fix it" if entry.extends is not None else ""
            refuse(
                name, f"{given!r} is not supported by {model}, which fixes it; allowed: {value}. Leave it out{other}"
            )
    last_seed = MAX_SEED + 1 - request.count
    if request.seed is not None and request.seed > last_seed:
        refuse(
            "seed",
            f"{request.seed} is too large for {request.count} seeds from there on; allowed: at most {last_seed}",
        )
    devices = request.devices_per_job if request.devices_per_job is not None else entry.devices_per_job
    one_of("devices_per_job", devices, entry.team_sizes)
    if devices > 1 and request.devices_per_job is None and request.speed not in (None, "exact"):
        devices = 1  # a tier was named, several devices were not
    if devices > 1 and request.speed not in (None, "exact"):
        refuse(
            "speed",
            f"{request.speed!r} is not supported with {devices} devices; allowed: exact. Leave devices_per_job out "
            "for it",
        )
    if has_size and not shares_are_equal(entry, size, frames, devices):
        refuse(
            "devices_per_job",
            f"{devices} devices cannot share {size} with {frames} frames equally; choose another number or size",
        )
    if wrong:
        raise InvalidField(*wrong)

    guidance_scale = _or(request.guidance_scale, defaults.guidance_scale)
    # A first scale that switches guidance off does so for both experts, unless the request has a second one.
    is_off = request.guidance_scale is not None and request.guidance_scale <= 1 and two_experts
    width, height = parse_resolution(size)
    return GenerationParams(
        model_id=model,
        weights_id=entry.extends,
        prompt=request.prompt,
        negative_prompt=_or(request.negative_prompt, defaults.negative_prompt),
        image=image,
        last_image=last_image,
        fit=None if image is None else request.fit or "cover",
        asked_resolution=asked if request.fit == "auto" else None,
        width=width,
        height=height,
        frames=frames,
        fps=fps,
        output_format=request.output_format,
        steps=steps,
        guidance_scale=guidance_scale,
        guidance_scale_2=_or(request.guidance_scale_2, guidance_scale if is_off else defaults.guidance_scale_2),
        flow_shift=_or(request.flow_shift, defaults.flow_shift),
        seed=request.seed if request.seed is not None else random.randrange(MAX_SEED + 2 - request.count),
        quantization=request.quantization,
        speed=request.speed or (default_speed if devices == 1 else "exact"),
        devices_per_job=devices,
        loras=tuple(request.loras),
        fallback=tuple(request.fallback),
        preview=request.preview,
    )


def shares_are_equal(entry: CatalogueEntry, resolution: str, frames: int, devices: int) -> bool:
    """Return whether the tokens of that size can be divided among the devices. Another rule reports a wrong number."""
    if devices == 1 or devices not in entry.team_sizes:
        return True
    width, height = (-(-edge // entry.size_multiple) * entry.size_multiple for edge in parse_resolution(resolution))
    per_frame = (width // entry.memory.pixels_per_token) * (height // entry.memory.pixels_per_token)
    return per_frame * (-(-(frames - 1) // 4) + 1) % devices == 0


def _wrong_last_image(
    entry: CatalogueEntry, frames: int, last_image: str | None, image: str | None
) -> list[FieldError]:
    """Return why the video cannot end with a picture: the model, a missing first picture, or the length."""
    if last_image is None:
        return []
    if not entry.takes_last_image:
        msg = f"{entry.model_id} does not take a last image; leave it out, or use a model that always starts from one"
        return [FieldError(("body", "last_image"), msg, "not_supported")]
    wrong = []
    if image is None:
        msg = "is only possible beside `image`, the picture with which the video begins; send both"
        wrong.append(FieldError(("body", "last_image"), msg, "missing"))
    if frames % FRAME_GROUP != 1 and entry.min_frames <= frames <= entry.max_frames:
        below = (frames - 1) // FRAME_GROUP * FRAME_GROUP + 1
        near = [one for one in (below, below + FRAME_GROUP) if entry.min_frames <= one <= entry.max_frames]
        msg = f"{frames} is not possible with `last_image`: the model makes 4k + 1 frames, and the last one would be "
        msg += f"cut off; allowed: {' or '.join(map(str, near))}"
        wrong.append(FieldError(("body", "frames"), msg, "not_supported"))
    return wrong


def _or(value: float | str | None, default: Any) -> Any:
    return default if value is None else value
