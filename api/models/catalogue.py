"""Pin models, which protects them from cleanups."""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.jobs import downloads as download_schemas
from shared import clock
from shared.models import replicas
from shared.states import Scope


def pin(context: Context, request: Request, query: BaseModel) -> Response:
    """Pin a model. Idempotent. Raises NotFound."""
    model_id = _model_id(context, request)
    row = replicas.pin(context.database, model_id)
    return json_response(download_schemas.Pinned(model_id=model_id, pinned=True, pinned_at=clock.iso(row.pinned_at)))


def unpin(context: Context, request: Request, query: BaseModel) -> Response:
    """Unpin a model. Idempotent. Raises NotFound."""
    model_id = _model_id(context, request)
    replicas.unpin(context.database, model_id)
    return json_response(download_schemas.Pinned(model_id=model_id, pinned=False, pinned_at=None))


def _model_id(context: Context, request: Request) -> str:
    return context.catalogue.get(str(request.path_params["model_id"])).model_id


OPERATIONS = (
    Operation(
        "POST", "/api/v1/models/{model_id}/pin", pin, "pinModel", "Protect a model from cleanups",
        answers=(Answer(200, "The model is pinned.", download_schemas.Pinned),), problems=(404, 503), tag="models",
        scope=Scope.ADMIN,
    ),
    Operation(
        "DELETE", "/api/v1/models/{model_id}/pin", unpin, "unpinModel", "Allow cleanups to remove a model again",
        answers=(Answer(200, "The model is not pinned.", download_schemas.Pinned),), problems=(404, 503), tag="models",
        scope=Scope.ADMIN,
    ),
)  # fmt: skip
