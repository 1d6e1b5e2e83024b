"""Convert a `/v1/videos` request to a generation request. Pure functions.

That format has a length in seconds; the models make 4k + 1 frames. So `seconds` becomes the nearest 4k + 1 to
seconds x fps + 1, as WAN defines lengths: 81 frames at 16 fps are 5 seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from api.http.body import valid_part
from api.schemas.videos import ImageReference, VideoRequest
from shared.catalogue.models import Catalogue, CatalogueEntry
from shared.errors import FieldError, InvalidField, NotFound
from wanworks.requests import GenerationRequest

_NO = "not_supported"
_GRID = 4  # frames that the models' video encoder combines, after the first
_RENAMED = {"num_frames": "frames", "num_inference_steps": "steps"}
_TAKEN_OVER = frozenset(GenerationRequest.model_fields) & frozenset(VideoRequest.model_fields) - {"last_image"}
_WORDS = {
    "model_id": "model",
    "resolution": "size",
    "frames": "num_frames",
    "steps": "num_inference_steps",
    "image": "input_reference",
}


@dataclass(frozen=True)
class Translation:
    """The valid part of the request, and the errors of the rest."""

    request: GenerationRequest
    wrong: tuple[FieldError, ...]


def generation_request(
    video: VideoRequest, catalogue: Catalogue, *, with_image: bool, wrong: Sequence[FieldError] = ()
) -> Translation:
    """Convert the request, without the checks of admission. `wrong`: errors found before.

    Adds errors for an image that the model does not accept, an unsupported length, and contradictory fields. Raises
    InvalidField with all errors if the model does not exist.
    """
    found = list(wrong)
    try:
        entry = _entry(video.model, catalogue, with_image)
    except InvalidField as error:
        raise InvalidField(*found, *error.errors) from None
    wanted = video.model_dump(include=set(_TAKEN_OVER), exclude_none=True)
    wanted |= {ours: value for theirs, ours in _RENAMED.items() if (value := getattr(video, theirs)) is not None}
    wanted["model_id"] = entry.model_id
    if with_image and entry.image == "refused":
        found.append(
            FieldError(
                ("body", "image"),
                f"{entry.model_id} does not accept an image; leave it out or choose another model",
                _NO,
            )
        )
    try:
        if (size := _size(video)) is not None:
            wanted["resolution"] = size
    except InvalidField as error:
        found += error.errors
    try:
        if video.seconds is not None and video.num_frames is None:  # num_frames takes precedence
            fps = video.fps or entry.defaults.fps
            if fps in entry.fps:  # admission reports an unsupported rate
                wanted["frames"] = frames_of(video.seconds, fps, entry)
    except InvalidField as error:
        found += error.errors
    request, others = valid_part(wanted, GenerationRequest)
    return Translation(request, (*found, *others))


def reference(video: VideoRequest) -> str | None:
    """Return the URL or data URL of the referenced image. Raises InvalidField."""
    if video.input_reference is not None and video.image_reference is not None:
        raise _wrong("image_reference", "is another name for input_reference; give only one of them", "duplicate")
    named = video.input_reference if video.input_reference is not None else video.image_reference
    return _url(named, "input_reference")


def last_reference(video: VideoRequest) -> str | None:
    """Return the URL or data URL of the picture with which the video ends. Raises InvalidField."""
    return _url(video.last_image, "last_image")


def _url(named: str | ImageReference | None, field: str) -> str | None:
    if not isinstance(named, ImageReference):
        return named
    if named.file_id is not None:
        raise _wrong(
            f"{field}.file_id",
            "is not supported, because this server stores no uploaded files; send the image itself or give image_url",
        )
    if named.image_url is None:
        raise _wrong(f"{field}.image_url", "is needed", "missing")
    return named.image_url


def frames_of(seconds: float, fps: int, entry: CatalogueEntry) -> int:
    """Return the length in frames that the model supports. Raises InvalidField with the allowed lengths."""
    frames = _GRID * math.floor(seconds * fps / _GRID + 0.5) + 1
    fewest = _GRID * math.ceil((entry.min_frames - 1) / _GRID) + 1
    most = _GRID * ((entry.max_frames - 1) // _GRID) + 1
    if not fewest <= frames <= most:
        allowed = f"{(fewest - 1) / fps:g} to {(most - 1) / fps:g}"
        raise _wrong("seconds", f"{seconds:g} is not supported by {entry.model_id} at {fps} fps; allowed: {allowed}")
    return frames


def with_video_names(error: InvalidField) -> InvalidField:
    """Return the error with the field names of the `/v1/videos` format."""
    return InvalidField(*(FieldError(_renamed(one.loc), one.msg, one.type) for one in error.errors))


def _renamed(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Rename the field itself, not what is inside it."""
    return (*loc[:1], *(_WORDS.get(str(part), part) for part in loc[1:2]), *loc[2:])


def _entry(name: str | None, catalogue: Catalogue, with_image: bool) -> CatalogueEntry:
    if name is not None:
        try:
            return catalogue.named(name)
        except NotFound:
            raise _wrong("model", f"there is no model {name!r}; available: {_offered(catalogue)}", "unknown") from None
    unsuited = "refused" if with_image else "required"
    suited = [entry for entry in catalogue.entries if entry.image != unsuited]
    if not suited:
        raise _wrong(
            "model",
            f"is required, because no model suits the request by default; available: {_offered(catalogue)}",
            "missing",
        )
    return suited[0]


def _offered(catalogue: Catalogue) -> str:
    return ", ".join(" or ".join((entry.model_id, *entry.aliases)) for entry in catalogue.entries)


def _size(video: VideoRequest) -> str | None:
    if video.width is None and video.height is None:
        return video.size
    if video.size is not None and video.size != f"{video.width}x{video.height}":
        raise _wrong("size", "contradicts width and height; give only one of them", "duplicate")
    if video.width is None or video.height is None:
        missing = "width" if video.width is None else "height"
        raise _wrong(missing, "is required, because width and height must be given together", "missing")
    return f"{video.width}x{video.height}"


def _wrong(field: str, msg: str, type: str = _NO) -> InvalidField:
    return InvalidField(FieldError(("body", *field.split(".")), msg, type))
