"""Estimate how long a generation would take: the measured times of its parts, scaled to its size."""

from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import caller_of
from api.context import Context
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.dashboard import page as page_schemas
from api.schemas.dashboard.page import Estimate, EstimateQuery
from api.services import estimates
from shared import clock
from shared.catalogue.entries import passes_per_step
from shared.catalogue.job_types import GENERATION
from shared.catalogue.models import parse_resolution
from shared.jobs.dispatch import Waiting
from shared.states import Priority, Scope


def estimate(context: Context, request: Request, query: EstimateQuery) -> Response:
    """Return the estimate. Raises NotFound for an unknown model."""
    entry = context.catalogue.get(query.model_id)
    width, height = parse_resolution(query.resolution or entry.defaults.resolution)
    share = passes_per_step(entry.defaults.guidance_scale, entry.defaults.guidance_scale_2) / 2
    steps = query.steps or entry.defaults.steps
    volume = width * height * (query.frames or entry.defaults.frames) / 1e6
    work = volume * steps * share
    speed = query.speed or context.settings.default_speed
    wanted = estimates.Wanted(entry.model_id, entry.weights_id, query.quantization, speed, work, volume)
    found = estimates.estimate(context.database, context.library(), wanted)
    start = context.forecasts.of_new(
        Waiting(
            job_id="", type=GENERATION, model_id=entry.model_id, model_cache_key=wanted.model_cache_key,
            target_node=None, priority=Priority.NORMAL.rank, owner=caller_of(request).key_id, queued_at=0.0,
            not_before=0.0, work=work, mock=False, min_vram_mb=0, min_ram_mb=0, phase=None, dispatched_to=None,
            dispatched_at=None, speed=speed, volume=volume,
        )
    ).start  # fmt: skip
    figures = {
        "generation_seconds": found.generation_seconds,
        "loading_seconds": found.loading_seconds,
        "queue_seconds": None if start is None else round(max(0.0, start - clock.now().timestamp()), 1),
    }
    return json_response(
        Estimate(
            model_id=entry.model_id,
            warm=found.warm,
            samples=found.samples,
            basis={name: "measured" if value is not None else "none" for name, value in figures.items()},
            **figures,
        )
    )


OPERATIONS = (
    Operation(
        "GET", "/api/v1/dashboard/estimate", estimate, "estimateGeneration",
        "Estimate the duration of a generation",
        answers=(Answer(200, "In seconds; null where nothing was measured.", page_schemas.Estimate),),
        problems=(404, 503), query=page_schemas.EstimateQuery, tag="dashboard", scope=Scope.READ,
    ),
)  # fmt: skip
