"""A request in the `/v1/videos` convention's words, as the request for a generation that it is. Pure.

The convention speaks of seconds; the models make frames, one first and then four at a time. So `seconds` becomes
4k + 1 frames, the nearest to seconds x fps + 1, as WAN counts its own lengths: 81 frames at 16 a second are 5 seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from api.http.body import what_is_right
from api.schemas.videos import ImageReference, VideoRequest
from shared.catalogue.models import Catalogue, CatalogueEntry
from shared.errors import FieldError, InvalidField, NotFound
from wanworks.requests import GenerationRequest

_NO = "not_supported"
_GRID = 4  # frames that the models' video encoder takes together, after the first
_RENAMED = {"num_frames": "frames", "num_inference_steps": "steps"}
_TAKEN_OVER = frozenset(GenerationRequest.model_fields) & frozenset(VideoRequest.model_fields)
_WORDS = {
    "model_id": "model",
    "resolution": "size",
    "frames": "num_frames",
    "steps": "num_inference_steps",
    "image": "input_reference",
}


@dataclass(frozen=True)
class Translation:
    """The request as far as it is right, and what is wrong with the rest of it."""

    request: GenerationRequest
    wrong: tuple[FieldError, ...]


def generation_request(
    asked: VideoRequest, catalogue: Catalogue, *, with_image: bool, wrong: Sequence[FieldError] = ()
) -> Translation:
    """What is asked of the model, not yet held against all that it can do. `wrong`: what is known to be wrong already.

    What is wrong beside that: a picture that the model does not take, a length that it cannot make, or the same thing
    said twice in two ways. Raises InvalidField with all of it where there is no such model.
    """
    found = list(wrong)
    try:
        entry = _entry(asked.model, catalogue, with_image)
    except InvalidField as error:
        raise InvalidField(*found, *error.errors) from None
    wanted = asked.model_dump(include=set(_TAKEN_OVER), exclude_none=True)
    wanted |= {ours: value for theirs, ours in _RENAMED.items() if (value := getattr(asked, theirs)) is not None}
    wanted["model_id"] = entry.model_id
    if with_image and entry.image == "refused":
        found.append(
            FieldError(("body", "image"), f"{entry.model_id} makes video from text alone, without an image", _NO)
        )
    try:
        if (size := _size(asked)) is not None:
            wanted["resolution"] = size
    except InvalidField as error:
        found += error.errors
    try:
        if asked.seconds is not None and asked.num_frames is None:  # frames are the more exact of the two
            fps = asked.fps or entry.defaults.fps
            if fps in entry.fps:  # a wrong rate is reported by admission
                wanted["frames"] = frames_of(asked.seconds, fps, entry)
    except InvalidField as error:
        found += error.errors
    request, others = what_is_right(wanted, GenerationRequest)
    return Translation(request, (*found, *others))


def reference(asked: VideoRequest) -> str | None:
    """The URL or data URL of the picture that is named. Raises InvalidField."""
    if asked.input_reference is not None and asked.image_reference is not None:
        raise _wrong("image_reference", "says the same as input_reference; give one of them", "duplicate")
    named = asked.input_reference if asked.input_reference is not None else asked.image_reference
    if not isinstance(named, ImageReference):
        return named
    if named.file_id is not None:
        raise _wrong("input_reference.file_id", "files are not kept here; send the picture, or give image_url")
    if named.image_url is None:
        raise _wrong("input_reference.image_url", "is needed", "missing")
    return named.image_url


def frames_of(seconds: float, fps: int, entry: CatalogueEntry) -> int:
    """The length as a number of frames on the model's grid. Raises InvalidField naming what is allowed."""
    frames = _GRID * math.floor(seconds * fps / _GRID + 0.5) + 1
    fewest = _GRID * math.ceil((entry.min_frames - 1) / _GRID) + 1
    most = _GRID * ((entry.max_frames - 1) // _GRID) + 1
    if not fewest <= frames <= most:
        allowed = f"{(fewest - 1) / fps:g} to {(most - 1) / fps:g}"
        raise _wrong("seconds", f"{seconds:g} is not a length of {entry.model_id} at {fps} fps; allowed: {allowed}")
    return frames


def in_their_words(error: InvalidField) -> InvalidField:
    """The same error, each field by the convention's name."""
    return InvalidField(*(FieldError(_words(one.loc), one.msg, one.type) for one in error.errors))


def _words(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Only the field itself has another name, not what may stand inside it."""
    return (*loc[:1], *(_WORDS.get(str(part), part) for part in loc[1:2]), *loc[2:])


def _entry(name: str | None, catalogue: Catalogue, with_image: bool) -> CatalogueEntry:
    if name is not None:
        try:
            return catalogue.named(name)
        except NotFound:
            raise _wrong("model", f"there is no model {name!r}; offered: {_offered(catalogue)}", "unknown") from None
    unsuited = "refused" if with_image else "required"
    suited = [entry for entry in catalogue.entries if entry.image != unsuited]
    if not suited:
        raise _wrong("model", f"no model suits; offered: {_offered(catalogue)}", "missing")
    return suited[0]


def _offered(catalogue: Catalogue) -> str:
    return ", ".join(" or ".join((entry.model_id, *entry.aliases)) for entry in catalogue.entries)


def _size(asked: VideoRequest) -> str | None:
    if asked.width is None and asked.height is None:
        return asked.size
    if asked.size is not None and asked.size != f"{asked.width}x{asked.height}":
        raise _wrong("size", "says another size than width and height; give one of them", "duplicate")
    if asked.width is None or asked.height is None:
        missing = "width" if asked.width is None else "height"
        raise _wrong(missing, "is needed: width and height go together", "missing")
    return f"{asked.width}x{asked.height}"


def _wrong(field: str, msg: str, type: str = _NO) -> InvalidField:
    return InvalidField(FieldError(("body", *field.split(".")), msg, type))
