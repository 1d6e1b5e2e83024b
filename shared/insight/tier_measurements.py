"""Measurements of speed tiers: time and similarity to `exact`. Sole reader and writer of `tier_measurements`.

A measurement holds for one model, tier, quantization and type of device, with the settings and the libraries that it
was made with. The newest one counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlmodel import col, select

from shared import clock
from shared.database.engine import Database
from shared.database.tables import TierMeasurement
from wanworks.requests import Speed

MEAN_SSIM, LEAST_SSIM = 0.95, 0.90
"""A tier's frames count as close to those of `exact` from these values on."""

Quality = Literal["exact", "close", "not close", "not measured"]


def record(database: Database, job_id: str, measured: Sequence[TierMeasurement]) -> None:
    """Store a benchmark's measurements. Those that an earlier attempt at the job has stored are replaced."""
    with database.write() as session:
        for row in session.exec(select(TierMeasurement).where(TierMeasurement.job_id == job_id)):
            session.delete(row)
        session.flush()
        session.add_all(measured)


def of_model(database: Database, model_id: str) -> list[TierMeasurement]:
    """Return the newest measurement of each tier, type of device, quantization and size, newest first."""
    query = (
        select(TierMeasurement)
        .where(TierMeasurement.model_id == model_id)
        .order_by(col(TierMeasurement.measured_at).desc(), col(TierMeasurement.id).desc())
    )
    with database.read() as session:
        rows = session.exec(query).all()
    newest: dict[tuple[object, ...], TierMeasurement] = {}
    for row in rows:
        key = (row.speed, row.device_name, row.quantization, row.width, row.height, row.frames, row.steps)
        newest.setdefault(key, row)
    return list(newest.values())


def matching(
    database: Database,
    model_id: str,
    speed: Speed,
    device_name: str,
    quantization: str,
    settings: Mapping[str, Any],
    libraries: Mapping[str, str],
) -> TierMeasurement | None:
    """Return the newest measurement of what a job uses, at any size; None if there is none."""
    for row in of_model(database, model_id):
        same = (row.speed, row.device_name, row.quantization) == (speed, device_name, quantization)
        if same and row.settings == dict(settings) and row.libraries == dict(libraries):
            return row
    return None


def quality_of(speed: Speed, measured: TierMeasurement | None) -> Quality:
    """Return what may be said of the tier's frames."""
    if speed == "exact":
        return "exact"
    if measured is None:
        return "not measured"
    return "close" if measured.ssim_mean >= MEAN_SSIM and measured.ssim_min >= LEAST_SSIM else "not close"


def figures(measured: TierMeasurement | None) -> dict[str, Any] | None:
    """Return a measurement as results and the API show it."""
    if measured is None:
        return None
    names = ("seconds", "exact_seconds", "ssim_mean", "ssim_min", "psnr_mean", "psnr_min", "runs", "frames", "steps")
    found = {name: getattr(measured, name) for name in names}
    at = {"resolution": f"{measured.width}x{measured.height}", "measured_at": clock.iso(measured.measured_at)}
    return {**found, **at, "speedup": measured.exact_seconds / measured.seconds, "job_id": measured.job_id}
