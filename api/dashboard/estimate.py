"""Estimate how long a generation would take: the median of measured jobs, scaled to its size."""

from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas import page as page_schemas
from api.schemas.page import Estimate, EstimateQuery
from api.services.fallback_facts import queue_seconds
from shared.catalogue.entries import passes_per_step
from shared.catalogue.models import parse_resolution
from shared.jobs import durations
from shared.states import Scope


def estimate(context: Context, request: Request, query: EstimateQuery) -> Response:
    """Return the estimate. Raises NotFound for an unknown model."""
    entry = context.catalogue.get(query.model_id)
    width, height = parse_resolution(query.resolution or entry.defaults.resolution)
    share = passes_per_step(entry.defaults.guidance_scale, entry.defaults.guidance_scale_2) / 2
    steps = query.steps or entry.defaults.steps
    work = width * height * (query.frames or entry.defaults.frames) * steps * share / 1e6
    speed = query.speed or context.settings.default_speed
    key = f"{entry.weights_id}:{query.quantization}"
    measured = durations.measured(context.database, key, entry.model_id, speed)
    library = context.library()
    rate = measured.seconds_per_work
    figures = {
        "generation_seconds": round(rate * work, 1) if rate is not None else None,
        "loading_seconds": round(measured.load_seconds, 1) if measured.load_seconds is not None else None,
        "queue_seconds": queue_seconds(library),
    }
    return json_response(
        Estimate(
            model_id=entry.model_id,
            warm=any(
                (loaded.get("model_id"), loaded.get("quantization", "none")) == (entry.weights_id, query.quantization)
                for device in library.devices
                for loaded in device.warm
            ),
            samples=measured.samples,
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
