"""Pins: models that cleanup must leave alone."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.responses import answered
from api.operation import Answer, Operation
from api.schemas import downloads as download_schemas
from shared import clock
from shared.models import replicas
from shared.states import Scope


def pin(context: Context, request: Request, query: BaseModel) -> Response:
    """Idempotent. Raises NotFound."""
    model_id = _model_id(context, request)
    row = replicas.pin(context.database, model_id)
    return answered(download_schemas.Pinned(model_id=model_id, pinned=True, pinned_at=clock.iso(row.pinned_at)))


def unpin(context: Context, request: Request, query: BaseModel) -> Response:
    """Idempotent. Raises NotFound."""
    model_id = _model_id(context, request)
    replicas.unpin(context.database, model_id)
    return answered(download_schemas.Pinned(model_id=model_id, pinned=False, pinned_at=None))


def _model_id(context: Context, request: Request) -> str:
    return context.catalogue.get(str(request.path_params["model_id"])).model_id


OPERATIONS = (
    Operation(
        "POST", "/api/v1/models/{model_id}/pin", pin, "pinModel", "Keep a model whatever cleanup wants",
        answers=(Answer(200, "It is pinned.", download_schemas.Pinned),), problems=(404, 503), tag="models",
        scope=Scope.ADMIN,
    ),
    Operation(
        "DELETE", "/api/v1/models/{model_id}/pin", unpin, "unpinModel", "Let cleanup take a model again",
        answers=(Answer(200, "It is not pinned.", download_schemas.Pinned),), problems=(404, 503), tag="models",
        scope=Scope.ADMIN,
    ),
)  # fmt: skip
