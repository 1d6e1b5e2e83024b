"""Requests that need less memory than one that fits no device.

Another speed tier, int8 weights, a smaller or shorter video, or another model.

Pure. The caller decides with `Fits` what fits; `fallback/suggest`, the fallback `reduce_requirements` and refused
requests all take what this module finds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from shared.catalogue.models import CatalogueEntry, parse_resolution
from shared.models import memory_plan
from shared.models.memory_plan import Size
from wanworks.requests import Quantization, Speed

_FRAME_STEP = 4  # frames per latent frame


@dataclass(frozen=True)
class Request:
    """What the memory of a generation depends on."""

    entry: CatalogueEntry
    resolution: str
    frames: int
    quantization: Quantization
    image: bool  # it starts from an image
    loras: int = 0  # bytes of the request's own LoRA files for one expert
    speed: Speed = "exact"


def needs(request: Request) -> str:
    """Return what the request needs, as `memory_plan.Needs` reads it."""
    width, height = parse_resolution(request.resolution)
    loras = memory_plan.lora_bytes(request.entry) + request.loras
    size = Size.of(request.entry, width, height, request.frames, request.image, loras, request.speed)
    return memory_plan.needs(request.entry, request.quantization, size)


Fits = Callable[[Request], bool]
"""Whether a device has the memory for it."""


def of_the_same_model(request: Request, fits: Fits) -> list[Request]:
    """Return what the same model can do instead: the first of each kind that fits, the smallest change first."""
    kinds = (_exact(request), _int8(request), _smaller(request), _shorter(request))
    found = [_first(kind, fits) for kind in kinds]
    if not any(found):
        # No single change is enough.
        lighter = next(_int8(next(_exact(request), request)), request)
        found = [_first(_smaller(lighter), fits), _first(_smaller_and_shorter(lighter), fits)]
    return list(dict.fromkeys(filter(None, found)))


def of_other_models(request: Request, entries: Iterable[CatalogueEntry], fits: Fits) -> list[Request]:
    """Return what each other model that takes the same inputs can do instead, as close to the request as fits."""
    found = []
    for entry in entries:
        if entry.model_id == request.entry.model_id or entry.image == ("refused" if request.image else "required"):
            continue
        quantization = request.quantization if request.quantization in entry.quantizations else "none"
        near = Request(
            entry,
            request.resolution if request.resolution in entry.resolutions else _nearest(entry, request.resolution),
            min(max(request.frames, entry.min_frames), entry.max_frames),
            quantization,
            request.image,
            request.loras,
            request.speed,
        )
        options = (near, *_int8(near), *_smaller(near), *_smaller(next(_int8(near), near)))
        found.append(_first(options, fits))
    return list(filter(None, found))


def alternatives(request: Request, entries: Sequence[CatalogueEntry], fits: Fits) -> list[Request]:
    """Return all alternatives that fit, those of the same model first."""
    return [*of_the_same_model(request, fits), *of_other_models(request, entries, fits)]


def _exact(request: Request) -> Iterator[Request]:
    """Yield the tier without a step cache."""
    if request.speed != "exact":
        yield replace(request, speed="exact")


def _int8(request: Request) -> Iterator[Request]:
    if request.quantization != "int8" and "int8" in request.entry.quantizations:
        yield replace(request, quantization="int8")


def _smaller(request: Request) -> Iterator[Request]:
    """Yield smaller sizes of the same orientation, the largest first."""
    width, height = parse_resolution(request.resolution)
    sizes = [(parse_resolution(text), text) for text in request.entry.resolutions]
    fitting = [(w * h, text) for (w, h), text in sizes if w * h < width * height and (w >= h) == (width >= height)]
    for _, text in sorted(fitting, reverse=True):
        yield replace(request, resolution=text)


def _shorter(request: Request) -> Iterator[Request]:
    """Yield shorter videos, the longest first, down to half the length."""
    least = max(request.entry.min_frames, request.frames // 2)
    for frames in range(request.frames - _FRAME_STEP, least - 1, -_FRAME_STEP):
        yield replace(request, frames=frames)


def _smaller_and_shorter(request: Request) -> Iterator[Request]:
    """Yield the smallest size of the same orientation with ever fewer frames."""
    smallest = [request, *_smaller(request)][-1]
    least = request.entry.min_frames
    for frames in (*range(request.frames - _FRAME_STEP, least, -_FRAME_STEP), least):
        if frames < request.frames:
            yield replace(smallest, frames=frames)


def _first(options: Iterable[Request], fits: Fits) -> Request | None:
    return next((option for option in options if fits(option)), None)


def _nearest(entry: CatalogueEntry, resolution: str) -> str:
    width, height = parse_resolution(resolution)

    def distance(text: str) -> tuple[bool, int]:
        w, h = parse_resolution(text)
        return (w >= h) != (width >= height), abs(w * h - width * height)

    return min(entry.resolutions, key=distance)
