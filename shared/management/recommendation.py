"""Which model suits a use case: a weighted score for each model from the use case's words, the catalogue and
measurements. Pure.

It matches words, without understanding them. Formula, weights and worked examples are in docs/scores.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shared.catalogue.models import CatalogueEntry
from shared.insight.assessment import Performance, Status, use_case
from shared.management.fallback_types import Level, Speed
from shared.models import memory_plan
from shared.states import REPLICA_READY, ReplicaState

Source = Literal["measured", "catalogue"]

# The weight of each part. Those of quality and speed depend on the priorities; a word of the use case maximises them.
_INPUT, _READY = 0.40, 0.15
_QUALITY: Mapping[Level, float] = {"low": 0.10, "medium": 0.20, "high": 0.35}
_SPEED: Mapping[Speed, float] = {"slow": 0.10, "medium": 0.20, "fast": 0.35}

# Words are recognised by their beginnings.
_IMAGE = ("image", "imaging", "i2v", "img", "photo", "picture", "portrait", "product", "logo", "drawing", "painting",
          "sketch", "still", "screenshot", "animat", "selfie", "artwork")  # fmt: skip
_TEXT = ("text", "t2v", "prompt", "story", "stories", "storyt", "narrat", "script", "describ", "descript", "written",
         "scenario", "poem", "idea")  # fmt: skip
_FAST = ("fast", "quick", "draft", "preview", "prototyp", "rapid", "iterat", "experiment", "instant")
_FINE = ("quality", "cinema", "final", "detail", "film", "movie", "profession", "commercial", "broadcast", "sharp",
         "beautiful", "realis", "photorealis")  # fmt: skip
_NOT = frozenset({"no", "not", "without", "never", "any", "a", "an", "the", "input"})
_DENIES = frozenset({"no", "not", "without", "never"})

# How well a model's use of images fits the use case, by (the words mention images, the words mention text).
_FIT: Mapping[tuple[bool, bool], Mapping[str, float]] = {
    (True, False): {"required": 1.0, "optional": 0.9, "refused": 0.1},
    (False, True): {"refused": 1.0, "optional": 0.9, "required": 0.1},
    (True, True): {"optional": 1.0, "required": 0.7, "refused": 0.5},
    (False, False): {"optional": 0.9, "refused": 0.9, "required": 0.5},
}
_MARGIN = 0.2  # a lead of this size over the next model gives full confidence
_ENOUGH = 20  # more jobs than this add little information


@dataclass(frozen=True)
class Wish:
    use_case: str
    quality: Level = "medium"
    speed: Speed = "medium"
    memory_gb: float | None = None  # of the largest device


@dataclass(frozen=True)
class Candidate:
    """One model with its present state."""

    entry: CatalogueEntry
    availability: ReplicaState
    status: Status
    performance: Performance


@dataclass(frozen=True)
class Reading:
    """What the words of a use case mention."""

    image: bool = False
    text: bool = False
    fast: bool = False
    fine: bool = False
    words: tuple[str, ...] = ()  # the recognised words


@dataclass(frozen=True)
class Scored:
    """One fitting model: its parts, from 0 to 1, and their weighted mean."""

    model_id: str
    score: float
    input: float
    quality: float
    speed: float
    readiness: float


@dataclass(frozen=True)
class Advice:
    """The recommendation. `best` None: no model fits."""

    best: Scored | None
    others: tuple[Scored, ...]  # best first
    confidence: float | None
    reasons: tuple[str, ...]
    limitations: tuple[str, ...]
    quality_source: Source
    speed_source: Source


def recommend(wish: Wish, candidates: Sequence[Candidate]) -> Advice:
    """Return the model with the highest ``(0.40 input + q quality + s speed + 0.15 readiness) / (0.55 + q + s)``.

    Only models that fit the memory count, and presets only if time matters more than quality. q and s are 0.10, 0.20
    or 0.35 by the priorities. Of equal scores, the catalogue's first wins.
    """
    reading = read(wish.use_case)
    counting = [one for one in candidates if one.entry.extends is None or _time_matters(wish, reading)]
    fitting = [one for one in counting if _fits(one.entry, wish.memory_gb)]
    bases = {one.entry.model_id: one.entry for one in candidates}
    quality, quality_source = _qualities(fitting)
    speed, speed_source = _speeds(fitting, bases)
    scored = sorted(
        (_scored(wish, reading, one, quality[one.entry.model_id], speed[one.entry.model_id]) for one in fitting),
        key=lambda one: -one.score,
    )
    if not scored:
        return Advice(None, (), None, _why_none(wish, counting), (), quality_source, speed_source)
    best = scored[0]
    chosen = next(one for one in fitting if one.entry.model_id == best.model_id)
    return Advice(
        best=best,
        others=tuple(scored[1:]),
        confidence=_confidence(reading, scored, chosen),
        reasons=(
            *_reasons(wish, reading, chosen, best, scored, quality_source, speed_source),
            *_gain(chosen.entry, bases),
        ),
        limitations=(*_cost(chosen.entry, bases), *_limitations(wish, reading, chosen)),
        quality_source=quality_source,
        speed_source=speed_source,
    )


def read(text: str) -> Reading:
    """Return what the text mentions. Negations count: "without an image" means text alone."""
    words = re.findall(r"[a-z0-9]+", text.casefold())
    spoken: dict[str, bool] = {}
    understood: list[str] = []
    denied_image = False
    for place, word in enumerate(words):
        denied = _is_denied(words, place)
        for kind, stems in (("image", _IMAGE), ("text", _TEXT), ("fast", _FAST), ("fine", _FINE)):
            if not word.startswith(stems):
                continue
            understood.append(word)
            if denied:
                denied_image = denied_image or kind == "image"
            else:
                spoken[kind] = True
    return Reading(
        image=spoken.get("image", False),
        text=spoken.get("text", False) or denied_image,
        fast=spoken.get("fast", False),
        fine=spoken.get("fine", False),
        words=tuple(dict.fromkeys(understood)),
    )


def _is_denied(words: Sequence[str], place: int) -> bool:
    """Return whether a negation precedes the word, with only filler words between."""
    for word in reversed(words[:place]):
        if word in _DENIES:
            return True
        if word not in _NOT:
            return False
    return False


def _time_matters(wish: Wish, reading: Reading) -> bool:
    """Return whether time is asked for, by the priorities or the words, and quality is not."""
    fast = wish.speed == "fast" or (reading.fast and wish.speed != "slow")
    fine = wish.quality == "high" or (reading.fine and wish.quality != "low")
    return fast and not fine


def _gain(entry: CatalogueEntry, bases: Mapping[str, CatalogueEntry]) -> Sequence[str]:
    if (base := bases.get(entry.extends or "")) is None:
        return ()
    return (
        f"Time matters: it takes {entry.passes:g} forward passes of the same weights, where {base.model_id} takes "
        f"{base.passes:g}",
    )


def _cost(entry: CatalogueEntry, bases: Mapping[str, CatalogueEntry]) -> Sequence[str]:
    if (base := bases.get(entry.extends or "")) is None:
        return ()
    steps = f"{entry.defaults.steps} steps instead of {base.defaults.steps}"
    found = [f"A preset of {base.model_id} with {steps}. {entry.notes}".rstrip()]
    return (*found, *([entry.caveat[:1].upper() + entry.caveat[1:]] if entry.caveat else []))


def _fits(entry: CatalogueEntry, memory_gb: float | None) -> bool:
    return memory_gb is None or entry.hardware.min_vram_gb <= memory_gb


def _qualities(candidates: Sequence[Candidate]) -> tuple[dict[str, float], Source]:
    """Return the measured technical scores if all models have one; else the sizes relative to the largest."""
    measured = {one.entry.model_id: one.performance.quality_score for one in candidates}
    known = {model_id: score for model_id, score in measured.items() if score is not None}
    if known and len(known) == len(measured):
        return known, "measured"
    most = max((one.entry.download_gb for one in candidates), default=1.0)
    return {one.entry.model_id: one.entry.download_gb / most for one in candidates}, "catalogue"


def _speeds(candidates: Sequence[Candidate], bases: Mapping[str, CatalogueEntry]) -> tuple[dict[str, float], Source]:
    """Return the speeds relative to the fastest, if all were measured; else the smallest size over each size.

    Rates are of steps, and a preset has fewer: measured ones are multiplied by the ratio of steps, those by size by
    that of forward passes, up to 1.
    """
    steps, passes = {}, {}
    for entry in (one.entry for one in candidates):
        base = bases.get(entry.extends or "", entry)
        steps[entry.model_id] = base.defaults.steps / entry.defaults.steps
        passes[entry.model_id] = base.passes / entry.passes
    rates = {one.entry.model_id: one.performance.work_per_second for one in candidates}
    measured = {name: None if rate is None else rate * steps[name] for name, rate in rates.items()}
    known = {model_id: rate for model_id, rate in measured.items() if rate is not None}
    if known and len(known) == len(measured):
        fastest = max(known.values())
        return {model_id: rate / fastest for model_id, rate in known.items()}, "measured"
    least = min((one.entry.download_gb for one in candidates), default=1.0)
    sizes = {one.entry.model_id: least / one.entry.download_gb for one in candidates}
    return {name: min(1.0, size * passes[name]) for name, size in sizes.items()}, "catalogue"


def _scored(wish: Wish, reading: Reading, one: Candidate, quality: float, speed: float) -> Scored:
    fit = _FIT[reading.image, reading.text][one.entry.image]
    ready = _readiness(one)
    q, s = _weights(wish, reading)
    score = (_INPUT * fit + q * quality + s * speed + _READY * ready) / (_INPUT + q + s + _READY)
    return Scored(one.entry.model_id, round(score, 4), fit, round(quality, 4), round(speed, 4), ready)


def _weights(wish: Wish, reading: Reading) -> tuple[float, float]:
    """Return the weights of quality and speed. The lowest priority overrides words of the use case."""
    quality = max(_QUALITY.values()) if reading.fine and wish.quality != "low" else _QUALITY[wish.quality]
    speed = max(_SPEED.values()) if reading.fast and wish.speed != "slow" else _SPEED[wish.speed]
    return quality, speed


def _readiness(one: Candidate) -> float:
    """Return 1 if it can serve now, 0.5 if it is being downloaded, 0.2 if it must be, and 0 if it is critical."""
    if one.status == Status.CRITICAL:
        return 0.0
    if one.availability in REPLICA_READY:
        return 1.0
    return 0.5 if one.availability in (ReplicaState.DOWNLOADING, ReplicaState.QUEUED) else 0.2


def _confidence(reading: Reading, scored: Sequence[Scored], chosen: Candidate) -> float:
    """Return ``(margin + evidence) / 2``.

    Margin: the lead over the next model, divided by 0.2, at most 1; 1 without another model. Evidence: the mean of
    whether any word was recognised, and of the shares of 20 successes that were timed and that have a quality score.
    """
    margin = min(1.0, (scored[0].score - scored[1].score) / _MARGIN) if len(scored) > 1 else 1.0
    timed, judged = chosen.performance.successes, chosen.performance.qualities
    evidence = (float(bool(reading.words)) + min(1.0, timed / _ENOUGH) + min(1.0, judged / _ENOUGH)) / 3
    return round((margin + evidence) / 2, 4)


def _reasons(
    wish: Wish,
    reading: Reading,
    chosen: Candidate,
    best: Scored,
    scored: Sequence[Scored],
    quality_source: Source,
    speed_source: Source,
) -> Sequence[str]:
    entry = chosen.entry
    found = [f"{entry.model_id}: {use_case(entry)}"]
    if reading.words:
        spoken = [name for name, is_so in (("an input image", reading.image), ("text", reading.text)) if is_so]
        words = ", ".join(reading.words)
        found.append(f"Recognised in the use case: {words}" + (f" ({' and '.join(spoken)})" if spoken else ""))
    else:
        found.append("No word of the use case distinguishes the models; the priorities decide")
    if wish.memory_gb is not None:
        found.append(
            f"It runs on a device of {wish.memory_gb:g} GB: it needs at least {entry.hardware.min_vram_gb:g} GB"
        )
    q, s = _weights(wish, reading)
    of = _INPUT + q + s + _READY
    measured = "as measured here"
    quality = measured if quality_source != "catalogue" else "not measured here: larger weights count as better"
    speed = measured if speed_source != "catalogue" else "not measured here: smaller weights and fewer steps are faster"
    found.append(f"Quality: {best.quality:.2f} of 1, {quality}; it counts for {q / of:.0%} of the score")
    found.append(f"Speed: {best.speed:.2f} of 1, {speed}; it counts for {s / of:.0%} of the score")
    if best.readiness == 1.0:
        found.append("It is ready")
    if len(scored) > 1:
        found.append(f"Its score is {best.score:.2f} of 1; next is {scored[1].model_id} with {scored[1].score:.2f}")
    return found


def _limitations(wish: Wish, reading: Reading, chosen: Candidate) -> Sequence[str]:
    entry, found = chosen.entry, []
    if entry.image == "required":
        found.append("It needs an input image")
    if entry.image == "refused":
        found.append("It accepts no input image" + (", which the use case mentions" if reading.image else ""))
    seconds = entry.max_frames / entry.defaults.fps
    found.append(f"At most {entry.max_frames} frames: {seconds:.1f} s at {entry.defaults.fps} fps")
    if wish.memory_gb is not None:
        full = memory_plan.least_device_gb(entry, "none")
        if full > wish.memory_gb:
            found.append(
                f"With {wish.memory_gb:g} GB it runs with int8 weights only; its native type needs {full:g} GB"
            )
    if wish.memory_gb is not None and wish.memory_gb < entry.hardware.recommended_vram_gb:
        found.append(f"{entry.hardware.recommended_vram_gb:g} GB of device memory is recommended")
    if chosen.status == Status.CRITICAL:
        found.append("Its status is critical now: check its health")
    elif chosen.availability not in REPLICA_READY:
        found.append(f"It is not ready ({chosen.availability.value}): no node has its files of {entry.total_gb:g} GB")
    if chosen.performance.average_seconds is None:
        found.append("Its duration was never measured here")
    return found


def _why_none(wish: Wish, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    if not candidates:
        return ("The catalogue is empty",)
    return tuple(
        f"{one.entry.model_id} needs {one.entry.hardware.min_vram_gb:g} GB of device memory; "
        f"the device has {wish.memory_gb:g} GB"
        for one in candidates
    )
