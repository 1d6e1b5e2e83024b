"""What to do if a model cannot serve immediately: alternatives, waits and reductions, with scores. Pure.

It uses the catalogue and given facts, starts nothing and reads no table. Formulas and worked examples are in
docs/fallback.md.
"""

from collections.abc import Mapping, Sequence

from shared.catalogue import scoring
from shared.catalogue.models import CatalogueEntry, parse_resolution
from shared.management.fallback_types import (
    Alternative,
    Choice,
    Level,
    ModelFacts,
    Speed,
    Strategy,
    Suggestion,
    Wait,
    Wish,
)

_QUALITY: Mapping[Level, float] = {"low": 0.3, "medium": 0.5, "high": 0.8}
_SPEED: Mapping[Speed, float] = {"slow": 0.2, "medium": 0.5, "fast": 0.8}
# How much of the request is still met.
_INT8_FIDELITY = 0.9
_HYBRID_BONUS: Mapping[Level, float] = {"low": -0.2, "medium": -0.05, "high": 0.1}  # the requested model serves later
# Without a limit, a wait of this length halves the promptness.
_HALF_SCORE_SECONDS = 1800.0
_UNKNOWN_PROMPTNESS = 0.4  # a wait that cannot be measured counts as slightly longer
_LEAST_COMPATIBLE = 0.5
# How well the inputs of an alternative replace those of the request: (requested, alternative), by their use of images.
_INPUTS = {
    ("refused", "refused"): 1.0,
    ("refused", "optional"): 1.0,
    ("refused", "required"): 0.5,
    ("optional", "optional"): 1.0,
    ("optional", "refused"): 0.7,
    ("optional", "required"): 0.7,
    ("required", "required"): 1.0,
    ("required", "optional"): 1.0,
    ("required", "refused"): 0.2,
}


def suggest(wish: Wish, models: Mapping[str, ModelFacts]) -> Suggestion:
    """Return the best choice for the request. `models`: all entries of the catalogue."""
    wanted = models[wish.model_id]
    alternatives = alternatives_to(wish, models)
    choices = [choice for choice in _choices(wish, wanted, alternatives, models) if _in_time(choice, wish)]
    ranked = sorted(choices, key=lambda choice: -choice.score)
    if not ranked:
        ranked = [_mock(wish, wanted)]
    return Suggestion(
        alternative=alternatives[0] if alternatives else None,
        choice=ranked[0],
        others=tuple(ranked[1:]),
        wait=Wait(0.0 if wanted.ready else wanted.download_seconds, wanted.queue_seconds),
    )


def alternatives_to(wish: Wish, models: Mapping[str, ModelFacts]) -> list[Alternative]:
    """Return all other models, usable ones first, each group by compatibility."""
    wanted = models[wish.model_id]
    found = [
        Alternative(
            model_id=model_id,
            compatibility=compatibility(wanted.entry, facts.entry, wish.resolution),
            performance_difference=scoring.performance_difference(wanted.performance, facts.performance),
            availability=facts.availability,
            reason=_reason(wanted.entry, facts.entry),
            quality_difference=quality_difference(wanted.entry, facts.entry),
        )
        for model_id, facts in models.items()
        if model_id != wish.model_id
    ]
    return sorted(found, key=lambda one: (not models[one.model_id].usable, -one.compatibility, one.model_id))


def compatibility(wanted: CatalogueEntry, other: CatalogueEntry, resolution: str) -> float:
    """Return ``0.5 x inputs + 0.3 x size + 0.2 x length``, 0.0 to 1.0, from the catalogue alone.

    Inputs: how well the alternative's inputs fit, by a table. Size: 1 if it supports the resolution, else the ratio of
    areas of the nearest one. Length: the ratio of the longest videos, at most 1.
    """
    inputs = _INPUTS[wanted.image, other.image]
    area = _area(resolution)
    size = max(min(area, each) / max(area, each) for each in map(_area, other.resolutions))
    if resolution in other.resolutions:
        size = 1.0
    length = min(1.0, _longest_seconds(other) / _longest_seconds(wanted))
    return round(0.5 * inputs + 0.3 * size + 0.2 * length, 4)


def quality_difference(wanted: CatalogueEntry, other: CatalogueEntry) -> str:
    """Return the ratio of the weights' sizes in words: up to half is `lower`, 0.8 to 1.25 `similar`, twice `higher`.

    It compares sizes, not results.
    """
    ratio = other.download_gb / wanted.download_gb
    if ratio <= 0.5:
        return "lower"
    if ratio < 0.8:
        return "slightly_lower"
    if ratio <= 1.25:
        return "similar"
    return "slightly_higher" if ratio < 2 else "higher"


def nearest_resolution(entry: CatalogueEntry, resolution: str) -> str:
    """Return the supported resolution with the nearest area, in the same orientation if possible."""
    width, height = parse_resolution(resolution)

    def distance(offered: str) -> tuple[bool, float]:
        w, h = parse_resolution(offered)
        return (w > h) != (width > height), abs(w * h - width * height)

    return min(entry.resolutions, key=distance)


def _choices(
    wish: Wish, wanted: ModelFacts, alternatives: Sequence[Alternative], models: Mapping[str, ModelFacts]
) -> list[Choice]:
    reduced = _reduced(wish, wanted)
    served = next(
        (one for one in alternatives if models[one.model_id].usable and one.compatibility >= _LEAST_COMPATIBLE), None
    )
    found: list[Choice] = []
    if reduced is None and wanted.usable:
        found.append(_queue(wish, wanted, 0.0))
    elif reduced is None and wanted.fetching:
        found.append(_queue(wish, wanted, wanted.download_seconds))
    elif reduced is None and not wanted.ready and wanted.fetchable:
        found.append(_download(wish, wanted))
    if reduced is not None and wanted.ready:
        found.append(reduced)
    elif reduced is not None and (wanted.fetching or wanted.fetchable):
        found.append(_reduced_later(wish, wanted, reduced))
    if served is not None:
        found.append(_alternative(wish, served, models[served.model_id]))
        if not wanted.ready and (wanted.fetching or wanted.fetchable):
            found.append(_alternative_meanwhile(wish, wanted, served, models[served.model_id]))
    return found


def _queue(wish: Wish, wanted: ModelFacts, download: float | None) -> Choice:
    wait = _plus(download, wanted.queue_seconds)
    ready = wanted.usable
    what = "It is ready" if ready else "It is being downloaded"
    return Choice(
        Strategy.QUEUE_AND_WAIT,
        action=f"Queue the request for {wish.model_id}",
        message=f"{what}; the request starts {_in(wait)}",
        score=_score(wish, 1.0, wait),
        wait_seconds=wait,
        can_queue=True,
    )


def _download(wish: Wish, wanted: ModelFacts) -> Choice:
    wait = _plus(wanted.download_seconds, wanted.queue_seconds)
    return Choice(
        Strategy.DOWNLOAD_AND_RETRY,
        action=f"Start the download of {wish.model_id} and queue the request",
        message=f"{wish.model_id} is {wanted.availability}; once it is downloaded the request starts, {_in(wait)}",
        score=_score(wish, 1.0, wait),
        wait_seconds=wait,
        can_queue=True,
    )


def _reduced(wish: Wish, wanted: ModelFacts) -> Choice | None:
    """Return the reduced request; None if the model can serve the request unchanged."""
    resolution: str | None = None
    if wish.resolution not in wanted.entry.resolutions:
        resolution = nearest_resolution(wanted.entry, wish.resolution)
    quantization = frames = None
    if wanted.carried is False and wanted.reduced is not None:
        fitting = wanted.reduced
        quantization = "int8" if fitting.quantization == "int8" else None
        frames = fitting.frames if fitting.frames < wanted.entry.defaults.frames else None
        if _area(fitting.resolution) < _area(resolution or wish.resolution):
            resolution = fitting.resolution
    if resolution is None and quantization is None and frames is None:
        return None
    areas = sorted((_area(wish.resolution), _area(resolution or wish.resolution)))
    fidelity = (areas[0] / areas[1]) * (_INT8_FIDELITY if quantization else 1.0)
    fidelity *= frames / wanted.entry.defaults.frames if frames else 1.0
    parts = (
        resolution,
        f"{frames} frames" if frames else None,
        f"quantization {quantization}" if quantization else None,
    )
    less = " and ".join(filter(None, parts))
    too_large = wanted.carried is False and wanted.reduced is not None
    why = "no device has the memory for more" if too_large else "it does not support the requested size"
    return Choice(
        Strategy.REDUCE_REQUIREMENTS,
        action=f"Request {wish.model_id} with {less}",
        message=f"{wish.model_id} can serve with {less}: {why}",
        score=_score(wish, fidelity, wanted.queue_seconds),
        wait_seconds=wanted.queue_seconds,
        can_queue=True,
        quantization=quantization,
        resolution=resolution,
        frames=frames,
    )


def _reduced_later(wish: Wish, wanted: ModelFacts, reduced: Choice) -> Choice:
    wait = _plus(wanted.download_seconds, wanted.queue_seconds)
    part = Strategy.QUEUE_AND_WAIT if wanted.fetching else Strategy.DOWNLOAD_AND_RETRY
    begin = "Wait for the download" if wanted.fetching else f"Start the download of {wish.model_id}"
    return Choice(
        Strategy.HYBRID_APPROACH,
        action=f"{begin} and reduce the request: {reduced.action[0].lower()}{reduced.action[1:]}",
        message=f"{reduced.message}, once it is downloaded, {_in(wait)}",
        score=_score(wish, _INT8_FIDELITY, wait),
        wait_seconds=wait,
        can_queue=True,
        parts=(part, Strategy.REDUCE_REQUIREMENTS),
        quantization=reduced.quantization,
        resolution=reduced.resolution,
        frames=reduced.frames,
    )


def _alternative(wish: Wish, other: Alternative, facts: ModelFacts) -> Choice:
    return Choice(
        Strategy.ALTERNATIVE_MODEL,
        action=f"Use {other.model_id} as alternative",
        message=f"{other.model_id} is {other.availability}. {other.reason}",
        score=_score(wish, other.compatibility, facts.queue_seconds),
        alternative=other.model_id,
        wait_seconds=facts.queue_seconds,
    )


def _alternative_meanwhile(wish: Wish, wanted: ModelFacts, other: Alternative, facts: ModelFacts) -> Choice:
    part = Strategy.QUEUE_AND_WAIT if wanted.fetching else Strategy.DOWNLOAD_AND_RETRY
    later = "its download continues" if wanted.fetching else "start its download"
    return Choice(
        Strategy.HYBRID_APPROACH,
        action=f"Use {other.model_id} now; for later requests for {wish.model_id}, {later}",
        message=f"{other.model_id} is {other.availability} and serves until {wish.model_id} is available",
        score=_score(wish, other.compatibility + _HYBRID_BONUS[wish.quality], facts.queue_seconds),
        alternative=other.model_id,
        wait_seconds=facts.queue_seconds,
        can_queue=True,
        parts=(Strategy.ALTERNATIVE_MODEL, part),
    )


def _mock(wish: Wish, wanted: ModelFacts) -> Choice:
    """Return the last resort: labelled placeholder output, immediately."""
    why = "nothing can serve within the maximum wait" if wish.max_wait_seconds is not None else "no model can serve"
    return Choice(
        Strategy.MOCK_GENERATION,
        action='Send the request with fallback ["mock_generation"]',
        message=f"{wish.model_id} is {wanted.availability} and {why}; labelled placeholder output is possible",
        score=0.0,
        wait_seconds=0.0,
    )


def _score(wish: Wish, fidelity: float, wait: float | None) -> float:
    """Return ``(q x fidelity + s x promptness) / (q + s)``; promptness is ``half / (half + wait)``."""
    half = _HALF_SCORE_SECONDS if wish.max_wait_seconds is None else max(1.0, wish.max_wait_seconds)
    promptness = _UNKNOWN_PROMPTNESS if wait is None else half / (half + wait)
    quality, speed = _QUALITY[wish.quality], _SPEED[wish.speed]
    return round((quality * fidelity + speed * promptness) / (quality + speed), 4)


def _in_time(choice: Choice, wish: Wish) -> bool:
    if wish.max_wait_seconds is None or choice.wait_seconds is None:
        return True
    return choice.wait_seconds <= wish.max_wait_seconds


def _reason(wanted: CatalogueEntry, other: CatalogueEntry) -> str:
    if wanted.weights_id == other.weights_id:
        steps = f"{other.defaults.steps} steps instead of {wanted.defaults.steps}"
        passes = f"{other.passes:g} forward passes instead of {wanted.passes:g}"
        return f"It runs the same weights with other parameters: {steps}, {passes}"
    match wanted.image, other.image:
        case ("refused", "required"):
            return "Similar capabilities, but it needs an image to start from"
        case ("refused", "optional"):
            return "It also generates video from text, optionally with an image"
        case ("required", "refused"):
            return "It generates video from text alone; the image would be ignored"
        case ("required", "optional"):
            return "It also starts from an image"
        case ("optional", "required"):
            return "It serves requests with an image"
        case ("optional", "refused"):
            return "It serves requests without an image"
    return "It accepts the same inputs"


def _in(seconds: float | None) -> str:
    if seconds is None:
        return "after a wait that cannot be measured yet"
    if seconds < 1:
        return "immediately"
    return f"in about {seconds:.0f} s" if seconds < 120 else f"in about {seconds / 60:.0f} min"


def _plus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _area(resolution: str) -> int:
    width, height = parse_resolution(resolution)
    return width * height


def _longest_seconds(entry: CatalogueEntry) -> float:
    return entry.max_frames / entry.defaults.fps
