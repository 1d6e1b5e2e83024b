"""Read the state that the server renders into the live page, before any script runs.

While the database is unavailable the values are empty and `missing` names it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from api.access.caller import Caller
from api.context import Context
from api.jobs.objects import job_objects
from api.ops import workers as op_workers
from api.ops.alerts import seen_by
from api.schemas.jobs import jobs as schemas
from api.schemas.ops import nodes as node_schemas
from shared import clock
from shared.catalogue.models import CatalogueEntry
from shared.cluster import alerts
from shared.database.tables import Alert
from shared.errors import Unavailable
from shared.jobs.reading import lists, queues
from shared.jobs.reading.queues import Depth
from shared.management import library
from shared.management.library import Library, ModelView
from shared.states import Scope
from wanworks.requests import Speed

_JOBS = 12

Read = TypeVar("Read")


@dataclass(frozen=True)
class ModelLine:
    """One line of the list of models."""

    model_id: str
    availability: str
    loaded: bool
    pinned: bool
    size_gb: float
    uses: int  # over 30 days
    average_seconds: float | None


@dataclass(frozen=True)
class InitialState:
    """The data rendered into the page. Sizes in GB of 10^9 bytes, times in seconds; None: unknown."""

    at: str
    missing: tuple[str, ...]
    queued: int | None
    running: int | None
    oldest_seconds: float | None
    devices: Sequence[node_schemas.DeviceStatus]
    nodes: Sequence[node_schemas.NodeStatus]
    models: tuple[ModelLine, ...]
    jobs: Sequence[schemas.Job]
    alerts: Sequence[Alert]
    disk_used_percent: float | None
    form: tuple[dict[str, Any], ...]

    @property
    def available(self) -> int:
        return sum(model.availability in ("available", "updating") for model in self.models)

    @property
    def live(self) -> int:
        return sum(device.state != "offline" for device in self.devices)

    @property
    def busy(self) -> int:
        return sum(device.state in ("busy", "draining") for device in self.devices)


def initial_state(context: Context, caller: Caller) -> InitialState:
    """Read what the caller may see. Does not raise Unavailable: `missing` names what could not be read."""
    # Without READ the caller is unknown, because the database could not be read.
    missing: list[str] = [] if caller.may(Scope.READ) else ["the database"]

    def read(from_rows: Callable[[], Read], otherwise: Read) -> Read:
        if "the database" in missing:
            return otherwise
        try:
            return from_rows()
        except Unavailable:
            missing.append("the database")
            return otherwise

    no_depths: list[Depth] = []
    no_jobs: list[schemas.Job] = []
    no_alerts: list[Alert] = []
    depths = read(lambda: queues.depths(context.database), no_depths)
    held = read(lambda: queues.held(context.database), 0)
    seen: Library | None = read(context.library, None)
    workers = read(lambda: op_workers.seen(context, caller), node_schemas.Workers(devices=[], nodes=[]))
    latest = read(
        lambda: job_objects(context, lists.page(context.database, only=caller.only, limit=_JOBS).jobs), no_jobs
    )
    open_alerts = read(lambda: seen_by(context, caller, alerts.open_alerts(context.database)), no_alerts)
    return InitialState(
        at=clock.now().strftime("%H:%M:%S UTC"),
        missing=tuple(missing),
        queued=sum(depth.queued for depth in depths) + held if depths is not None else None,
        running=sum(depth.running for depth in depths) if depths is not None else None,
        oldest_seconds=max(
            (one.oldest_seconds for one in depths or () if one.oldest_seconds is not None), default=None
        ),
        devices=workers.devices,
        nodes=workers.nodes,
        models=tuple(_line(model) for model in seen.models.values()) if seen is not None else (),
        jobs=latest,
        alerts=open_alerts,
        disk_used_percent=library.storage_usage_percent(seen) if seen is not None else None,
        form=tuple(_form(entry, context.settings.default_speed) for entry in context.catalogue.entries),
    )


def _line(model: ModelView) -> ModelLine:
    return ModelLine(
        model_id=model.entry.model_id,
        availability=model.availability.value,
        loaded=bool(model.loaded),
        pinned=model.pinned,
        size_gb=max((one.row.bytes for one in model.replicas if one.row is not None), default=0) / 1e9,
        uses=model.month.uses,
        average_seconds=model.month.average_seconds,
    )


def _form(entry: CatalogueEntry, default_speed: Speed) -> dict[str, Any]:
    """Return what the form for a new job offers for this model."""
    return {
        "model_id": entry.model_id,
        "image": entry.image,
        "last_image": entry.takes_last_image,
        "resolutions": entry.resolutions,
        "size_multiple": entry.size_multiple,
        "frames": (entry.min_frames, entry.max_frames),
        "fps": entry.fps,
        "steps": (entry.min_steps, entry.max_steps),
        "output_formats": entry.output_formats,
        "quantizations": entry.quantizations,
        "speeds": get_args(Speed),
        "default_speed": default_speed,
        "team_sizes": entry.team_sizes,
        "devices_per_job": entry.devices_per_job,
        "loras": entry.loras,
        "two_experts": entry.boundary_ratio is not None,
        "defaults": entry.defaults.model_dump(),
        "download_gb": entry.total_gb,
        "notes": entry.notes,
        "caveat": entry.caveat,
        "extends": entry.extends,
        "fixed": entry.fixed,
    }
