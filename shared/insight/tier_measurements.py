"""Measurements of speed tiers: time and similarity to `exact`. Sole writer of `tier_measurements`.

A measurement holds for one model, tier, quantization and type of device, with the settings and the libraries that it
was made with. The newest one counts. `shared/jobs/usage/durations.py` reads the times, to estimate those of a tier that
no job has used yet.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import delete
from sqlmodel import col, func, select

from shared import clock
from shared.database.engine import Database
from shared.database.tables import TierMeasurement
from wanworks.requests import Speed

MEAN_SSIM, LEAST_SSIM = 0.95, 0.90
"""A tier's frames count as close to those of `exact` from these values on."""

KEPT = 3
"""As many measurements of the same kind are kept."""

_SHOWN = 300
_KINDS_AT_ONCE = 100
_SAME = (
    col(TierMeasurement.model_id), col(TierMeasurement.speed), col(TierMeasurement.device_name),
    col(TierMeasurement.quantization), col(TierMeasurement.made_with), col(TierMeasurement.width),
    col(TierMeasurement.height), col(TierMeasurement.frames), col(TierMeasurement.steps),
)  # fmt: skip

Quality = Literal["exact", "close", "not close", "not measured"]


def record(database: Database, job_id: str, measured: Sequence[TierMeasurement]) -> None:
    """Store a benchmark's measurements. Those that an earlier attempt at the job has stored are replaced."""
    for one in measured:
        one.made_with = _made_with(one.settings, one.libraries)
    with database.write() as session:
        for row in session.exec(select(TierMeasurement).where(TierMeasurement.job_id == job_id)):
            session.delete(row)
        session.flush()
        session.add_all(measured)


def of_model(database: Database, model_id: str) -> list[TierMeasurement]:
    """Return the newest measurement of each tier, type of device, quantization and size, newest first.

    Only the latest of the model are read. Older ones are of other versions or of devices that were not measured since.
    """
    query = (
        select(TierMeasurement)
        .where(TierMeasurement.model_id == model_id)
        .order_by(col(TierMeasurement.measured_at).desc(), col(TierMeasurement.id).desc())
        .limit(_SHOWN)
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
    query = (
        select(TierMeasurement)
        .where(
            TierMeasurement.model_id == model_id,
            TierMeasurement.speed == speed,
            TierMeasurement.device_name == device_name,
            TierMeasurement.quantization == quantization,
            TierMeasurement.made_with == _made_with(settings, libraries),
        )
        .order_by(col(TierMeasurement.measured_at).desc())
        .limit(1)
    )
    with database.read() as session:
        return session.exec(query).first()


def drop_surplus(database: Database) -> int:
    """Remove measurements that several newer ones of the same kind have replaced. Return how many were removed."""
    crowded = (
        select(*_SAME)  # type: ignore[call-overload]
        .group_by(*_SAME)
        .having(func.count() > KEPT)
        .limit(_KINDS_AT_ONCE)
    )
    with database.read() as session:
        kinds = session.exec(crowded).all()
    dropped = 0
    for kind in kinds:
        of_kind = [column == value for column, value in zip(_SAME, kind, strict=True)]
        kept = (
            select(TierMeasurement.id)
            .where(*of_kind)
            .order_by(col(TierMeasurement.measured_at).desc(), col(TierMeasurement.id).desc())
            .limit(KEPT)
        )
        with database.write() as session:
            found = delete(TierMeasurement).where(*of_kind, col(TierMeasurement.id).not_in(kept))
            dropped += session.connection().execute(found).rowcount
    return dropped


def _made_with(settings: Mapping[str, Any], libraries: Mapping[str, str]) -> str:
    content = json.dumps([dict(settings), dict(libraries)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


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
