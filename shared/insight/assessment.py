"""The status of a model, and comparisons of two models. Pure.

Formulas and worked examples are in docs/scores.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shared.catalogue import scoring
from shared.catalogue.models import CatalogueEntry
from shared.insight.health import LOWEST_SUCCESS_RATE, HealthStatus

# A CPU device's processes may use several cores; it counts as busy from one core on.
_FULL_PERCENT = 100.0
_ALIKE_PERCENT = 5.0  # speeds that differ by less count as equal
_ALIKE_SCORE = 0.02
_FEW_JOBS = 3  # fewer of either model say little about its speed


class Status(StrEnum):
    """The status of a model or of the installation."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    CRITICAL = "critical"  # its files are broken, or most of its latest uses failed
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Performance:
    """A model's performance over 30 days of real successes. None: never measured."""

    model_id: str
    newest: datetime | None = None  # when the newest success ended
    successes: int = 0
    uses: int = 0
    average_seconds: float | None = None
    p95_seconds: float | None = None
    videos_per_hour: float | None = None  # of one device
    work_per_second: float | None = None  # megapixels x frames x steps denoised; median of the latest uses
    performance_score: float | None = None
    quality_score: float | None = None  # technical: the mean of the latest successes that have one
    qualities: int = 0  # how many those are
    stability_score: float | None = None
    samples: int = 0  # of devices, while it ran
    load_percent: float | None = None
    memory_used_mb: float | None = None
    memory_peak_mb: float | None = None
    memory_total_mb: float | None = None
    power_watts: float | None = None
    devices: tuple[str, ...] = ()  # names, of the latest successes
    profiles: tuple[str, ...] = ()  # memory profiles, likewise

    @property
    def memory_efficiency_score(self) -> float | None:
        return scoring.memory_efficiency_score(self.memory_peak_mb, self.memory_total_mb)


@dataclass(frozen=True)
class Comparison:
    """Differences of b relative to a; None if either was not measured."""

    performance_difference_percent: float | None  # of the videos an hour
    quality_difference_score: float | None
    memory_usage_difference_mb: float | None  # of the peaks
    speed_difference_percent: float | None  # of the work done in a second
    recommendation: str
    use_cases: dict[str, str]
    trade_offs: tuple[str, ...]


def status(health: HealthStatus, success_rate: float | None) -> Status:
    """Return the status of a model. Corrupted files or a low success rate are critical."""
    failing = success_rate is not None and success_rate < LOWEST_SUCCESS_RATE
    if health == HealthStatus.CORRUPTED or (health == HealthStatus.DEGRADED and failing):
        return Status.CRITICAL
    return Status(health.value)


def system_status(statuses: Iterable[Status], *, devices: int, critical_alerts: int) -> Status:
    """Return the status of the installation, from the models that some node holds.

    It is critical if all are critical, and degraded if any is not healthy, no device is alive, or a critical alert is
    open. If no node holds a model, it is missing, or unknown before the first scan.
    """
    found = list(statuses)
    held = [one for one in found if one not in (Status.MISSING, Status.UNKNOWN)]
    if not held:
        return Status.MISSING if Status.MISSING in found else Status.UNKNOWN
    if all(one == Status.CRITICAL for one in held):
        return Status.CRITICAL
    well = all(one == Status.HEALTHY for one in held) and devices > 0 and critical_alerts == 0
    return Status.HEALTHY if well else Status.DEGRADED


def load_percent(utilization_percent: float | None) -> float | None:
    """Return the load of a device, 0 to 100, from the utilization in its samples."""
    return None if utilization_percent is None else round(min(_FULL_PERCENT, utilization_percent), 1)


def compare(a: Performance, b: Performance, entry_a: CatalogueEntry, entry_b: CatalogueEntry) -> Comparison:
    """Compare two models. Differences are b relative to a."""
    speed = scoring.difference_percent(b.work_per_second, a.work_per_second)
    quality = _minus(b.quality_score, a.quality_score, 4)
    memory = _minus(b.memory_peak_mb, a.memory_peak_mb, 1)
    return Comparison(
        performance_difference_percent=scoring.difference_percent(b.videos_per_hour, a.videos_per_hour),
        quality_difference_score=quality,
        memory_usage_difference_mb=memory,
        speed_difference_percent=speed,
        recommendation=_recommendation(entry_a, entry_b, speed, quality) + _by_few(a, b, speed),
        use_cases={entry.model_id: use_case(entry) for entry in (entry_a, entry_b)},
        trade_offs=tuple(_trade_offs(entry_a, entry_b, speed, quality, memory)),
    )


def use_case(entry: CatalogueEntry) -> str:
    """Return what a model is suited for, from the catalogue alone."""
    made = {
        "refused": "Videos from text alone",
        "optional": "Videos from text, or from an image and text",
        "required": "Videos that start from a given image",
    }[entry.image]
    seconds = entry.max_frames / entry.defaults.fps
    least, most = entry.hardware.min_vram_gb, entry.hardware.recommended_vram_gb
    length = f"up to {seconds:.1f} s at {entry.defaults.fps} fps"
    return f"{made}, {length}, on devices from {least:g} GB ({most:g} recommended)"


def _recommendation(a: CatalogueEntry, b: CatalogueEntry, speed: float | None, quality: float | None) -> str:
    if a.model_id == b.model_id:
        return "Both are the same model"
    if a.weights_id == b.weights_id:
        few, many = sorted((a, b), key=lambda entry: entry.passes)
        return (
            f"Both run the same weights: {few.model_id} takes {few.passes:g} forward passes for a video, "
            f"{many.model_id} {many.passes:g}; choose {few.model_id} for time"
        )
    if speed is None:
        lean, rich = sorted((a, b), key=lambda entry: entry.download_gb)
        if lean.download_gb == rich.download_gb:
            return f"Their speeds are not measured yet; choose by input: {_inputs(a)}; {_inputs(b)}"
        return (
            f"Their speeds are not measured yet; by the catalogue {lean.model_id} is the smaller model and "
            f"{rich.model_id} the larger one"
        )
    if abs(speed) < _ALIKE_PERCENT:
        return f"Both are about equally fast; choose by input: {_inputs(a)}; {_inputs(b)}"
    fast, slow = (b, a) if speed > 0 else (a, b)
    better = 0.0 if quality is None else (quality if fast is b else -quality)
    if quality is None or abs(quality) < _ALIKE_SCORE:
        suffix = "" if quality is None else " at the same technical quality"
        return f"{fast.model_id} is faster{suffix}"
    if better > 0:
        return f"{fast.model_id} is faster, and its technical quality is higher"
    return f"Choose {fast.model_id} for speed, {slow.model_id} for technical quality"


def _by_few(a: Performance, b: Performance, speed: float | None) -> str:
    """Return an addition to the recommendation where few jobs of either model were measured."""
    if speed is None or a.model_id == b.model_id or min(a.successes, b.successes) >= _FEW_JOBS:
        return ""
    return f"; judged by few jobs so far ({a.model_id}: {a.successes}, {b.model_id}: {b.successes})"


def _trade_offs(
    a: CatalogueEntry, b: CatalogueEntry, speed: float | None, quality: float | None, memory: float | None
) -> Sequence[str]:
    if a.model_id == b.model_id:
        return []
    found = [
        ". ".join(filter(None, (f"{entry.model_id}: {entry.notes.rstrip('.')}", entry.caveat)))
        for entry in (a, b)
        if entry.extends is not None
    ]
    if speed is not None:
        # As a ratio of times, because "75 % slower" is read as 1.75 times as long, and means four times.
        ratio = 1 + speed / 100  # of b's speed to a's
        slow, fast, times = (a, b, ratio) if ratio >= 1 else (b, a, 1 / ratio if ratio else float("inf"))
        found.append(
            f"For the same size, frames and steps {slow.model_id} takes {times:.1f} times as long as {fast.model_id}"
        )
    if quality is not None:
        direction = "above" if quality > 0 else "below"
        found.append(f"{b.model_id}'s technical quality score is {abs(quality):.2f} {direction} {a.model_id}'s")
    if memory is not None:
        direction = "more" if memory > 0 else "less"
        found.append(f"{b.model_id} takes {abs(memory) / 1e3:.1f} GB {direction} memory at its peak than {a.model_id}")
    least_a, least_b = a.hardware.min_vram_gb, b.hardware.min_vram_gb
    if least_a != least_b:
        found.append(f"{b.model_id} needs a device of at least {least_b:g} GB, {a.model_id} one of {least_a:g} GB")
    if a.image != b.image:
        found.append(f"{_inputs(a)}; {_inputs(b)}")
    long_a, long_b = a.max_frames / a.defaults.fps, b.max_frames / b.defaults.fps
    if long_a != long_b or a.max_frames != b.max_frames:
        found.append(
            f"{a.model_id} makes up to {a.max_frames} frames ({long_a:.1f} s), {b.model_id} {b.max_frames} "
            f"({long_b:.1f} s)"
        )
    return found


def _inputs(entry: CatalogueEntry) -> str:
    takes = {
        "refused": "takes text only",
        "optional": "takes text, with or without an image",
        "required": "needs an image",
    }
    return f"{entry.model_id} {takes[entry.image]}"


def _minus(b: float | None, a: float | None, digits: int) -> float | None:
    return None if a is None or b is None else round(b - a, digits)
