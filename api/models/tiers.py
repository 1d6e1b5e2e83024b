"""The speed tiers of a model, and what this installation has measured of them."""

from typing import Any, cast, get_args

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.jobs import tiers as schemas
from api.schemas.jobs.results import TierUsed
from shared.database.tables import TierMeasurement
from shared.insight import tier_measurements
from shared.states import Scope
from wanworks.requests import Speed


async def show(context: Context, request: Request, query: BaseModel) -> Response:
    """Raises NotFound."""
    entry = context.catalogue.get(str(request.path_params["model_type"]))
    rows = await anyio.to_thread.run_sync(lambda: tier_measurements.of_model(context.database, entry.model_id))
    found = [
        schemas.Tier(
            tier=speed,
            cuda=TierUsed(**entry.tiers.of(speed, "cuda").model_dump()),
            cpu=TierUsed(**entry.tiers.of(speed, "cpu").model_dump()),
            measured=[_measured(row) for row in rows if row.speed == speed],
        )
        for speed in get_args(Speed)
    ]
    return json_response(
        schemas.ModelTiers(model_id=entry.model_id, default_speed=context.settings.default_speed, tiers=found)
    )


def _measured(row: TierMeasurement) -> schemas.TierMeasured:
    facts: dict[str, Any] = {
        "quality": tier_measurements.quality_of(cast(Speed, row.speed), row),
        "device_kind": row.device_kind,
        "device_name": row.device_name,
        "quantization": row.quantization,
        "used": row.settings,
        "libraries": row.libraries,
    }
    return schemas.TierMeasured.model_validate({**(tier_measurements.figures(row) or {}), **facts})


OPERATIONS = (
    Operation(
        "GET", "/api/v1/wan-models/tiers/{model_type}", show, "modelTiers",
        "Get a model's speed tiers and their measurements",
        answers=(Answer(200, "Its tiers.", schemas.ModelTiers),), problems=(404, 503), tag="insight",
        scope=Scope.READ,
    ),
)  # fmt: skip
