"""Pins: models that cleanup must leave alone."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api import model_schemas as schemas
from api.context import Context
from api.jobs import answered
from shared import clock
from shared.models import replicas


def pin(context: Context, request: Request, query: BaseModel) -> Response:
    """Idempotent. Raises NotFound."""
    model_id = _model_id(context, request)
    row = replicas.pin(context.database, model_id)
    return answered(schemas.Pinned(model_id=model_id, pinned=True, pinned_at=clock.iso(row.pinned_at)))


def unpin(context: Context, request: Request, query: BaseModel) -> Response:
    """Idempotent. Raises NotFound."""
    model_id = _model_id(context, request)
    replicas.unpin(context.database, model_id)
    return answered(schemas.Pinned(model_id=model_id, pinned=False, pinned_at=None))


def _model_id(context: Context, request: Request) -> str:
    return context.catalogue.get(str(request.path_params["model_id"])).model_id
