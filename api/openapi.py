"""OpenAPI 3.1, made from the table of routes and the pydantic models: what is not there cannot be documented here."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api import schemas
from api.errors import PROBLEM_TYPE
from api.operation import Answer, Operation
from api.webhooks import MESSAGE_ID
from shared.catalogue import Catalogue
from shared.job_types import GenerationRequest

_REF = "#/components/schemas/{model}"

_PROBLEMS = {
    400: "The body cannot be read: broken JSON or multipart; or there is no such action.",
    403: "A page of another origin asks; or it is not allowed.",
    404: "There is no such job, artifact, model or alert; a malformed id is one that does not exist.",
    409: "The present state forbids it.",
    413: "The body is larger than 30 MB.",
    415: "The content type is none that the route takes: application/json (UTF-8), or a form with an image.",
    416: "No byte of the artifact is in the range.",
    422: "One or more fields are wrong, each named in `errors`. That includes what the schema cannot say: what the "
    "model in question does not offer, an image that it needs or refuses, a LoRA that is not there, an "
    "Idempotency-Key that was used with another body.",
    500: "Something went wrong on the server; its log has the request id.",
    503: "The database is away; ask again after `Retry-After` seconds.",
    507: "The disk is full; nothing was stored.",
}
_REQUEST_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Idempotency-Key": (
        "The same key with the same body gives the same job, with another body a 422.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$"},
    ),
    "Prefer": (
        "`wait=N`: answer when the job has ended, after N seconds (at most 60) at the latest.",
        {"type": "string"},
    ),
    "Last-Event-ID": ("The id of the last event seen; what came after it is told first.", {"type": "string"}),
    "Range": ("`bytes=...`, several ranges and suffixes included; another unit is ignored.", {"type": "string"}),
    "If-Range": ("The ETag for which the range is meant; with another the whole artifact comes.", {"type": "string"}),
    "If-None-Match": ("ETags that the client has; 304 where one of them is current.", {"type": "string"}),
}
_RESPONSE_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Location": ("Where the job is.", {"type": "string"}),
    "Idempotency-Replayed": ("`true`: the job was there before.", {"type": "string", "enum": ["true"]}),
    "Preference-Applied": ("`wait=N`, where it was asked for.", {"type": "string"}),
    "Retry-After": ("Seconds after which to ask again.", {"type": "string", "pattern": "^[0-9]+$"}),
    "ETag": ("The content's tag; for an artifact its SHA-256.", {"type": "string"}),
    "Content-Range": ("Which bytes these are, and of how many.", {"type": "string"}),
    "Accept-Ranges": ("`bytes`", {"type": "string"}),
}
_ALWAYS = frozenset({"Location", "Retry-After"})


def document(operations: Sequence[Operation], catalogue: Catalogue) -> dict[str, Any]:
    """The whole document for this installation's catalogue."""
    shown = [operation for operation in operations if operation.documented]
    answers = {answer.schema for operation in shown for answer in operation.answers if answer.schema is not None}
    bodies = {operation.body for operation in shown if operation.body is not None}
    outward: list[type[BaseModel]] = [
        *sorted(answers, key=lambda model: model.__name__),
        schemas.Problem,
        schemas.ValidationProblem,
    ]
    inward = sorted(bodies, key=lambda model: model.__name__)
    models: list[Any] = [(model, "serialization") for model in outward] + [(model, "validation") for model in inward]
    refs, definitions = models_json_schema(models, ref_template=_REF)
    names = {model: refs[model, mode]["$ref"] for model, mode in models}
    components = definitions["$defs"]
    _name_the_catalogue(components, catalogue)
    components["GenerationForm"] = _form_of(components["GenerationRequest"])
    paths: dict[str, dict[str, Any]] = {}
    for operation in shown:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wanworks",
            "version": importlib.metadata.version("wanworks"),
            "description": "A durable, GPU-pinned job queue for WAN2.2 video models. Times are ISO 8601 in UTC. "
            "Errors are RFC 9457 problem documents whose `code` is stable. Send `X-Request-ID` and it comes back.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(operation: Operation, names: dict[Any, str]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [*_path(operation), *_query(operation), *_headers(operation)],
        "responses": {
            **{str(answer.status): _answer(answer, names) for answer in operation.answers},
            **{str(status): _problem(status, names) for status in sorted({*operation.problems, 422, 500})},
        },
    }
    if operation.description:
        described["description"] = operation.description
    if operation.body is not None:
        content: dict[str, Any] = {"application/json": {"schema": {"$ref": names[operation.body]}}}
        if operation.body is GenerationRequest:
            content["multipart/form-data"] = {
                "schema": {"$ref": _REF.format(model="GenerationForm")},
                "encoding": {
                    "image": {"contentType": "image/png, image/jpeg, image/webp"},
                    **{name: {"contentType": "application/json"} for name in ("loras", "fallback", "metadata")},
                },
            }
        described["requestBody"] = {"required": operation.body_required, "content": content}
    return described


def _path(operation: Operation) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1}
    models = dict.fromkeys(("model_id", "model_type", "model_a", "model_b"), text)
    message = {"type": "string", "pattern": f"^{MESSAGE_ID.pattern}$"}
    schema = {"id": {"type": "string", "format": "uuid"}, "message_id": message, "name": text, **models}
    return [
        {"name": name, "in": "path", "required": True, "schema": schema[name]}
        for name in schema
        if f"{{{name}}}" in operation.path
    ]


def _query(operation: Operation) -> list[dict[str, Any]]:
    schema = operation.query.model_json_schema(ref_template=_REF)
    definitions = schema.get("$defs", {})
    parameters = []
    for name, field in schema.get("properties", {}).items():
        # An absent parameter is absent: in a query string there is no null.
        choices = [choice for choice in field.pop("anyOf", []) if choice != {"type": "null"}]
        plain = {**(choices[0] if choices else {}), **field}
        plain.pop("title", None)
        if plain.get("default", 0) is None:
            del plain["default"]
        if "$ref" in plain:
            plain = {**definitions[plain.pop("$ref").rpartition("/")[2]], **plain}
            plain.pop("title", None)
        described = plain.pop("description", "")
        needed = name in schema.get("required", ())
        parameters.append({"name": name, "in": "query", "required": needed, "description": described, "schema": plain})
    return parameters


def _headers(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
        for name in operation.headers
        for text, schema in [_REQUEST_HEADERS[name]]
    ]


def _answer(answer: Answer, names: dict[Any, str]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.schema is not None:
        described["content"] = {"application/json": {"schema": {"$ref": names[answer.schema]}}}
    elif answer.media_type is not None:
        described["content"] = {answer.media_type: {"schema": {}}}
    if answer.headers:
        described["headers"] = _response_headers(*answer.headers)
    return described


def _problem(status: int, names: dict[Any, str]) -> dict[str, Any]:
    model = schemas.ValidationProblem if status == 422 else schemas.Problem
    described: dict[str, Any] = {
        "description": _PROBLEMS[status],
        "content": {PROBLEM_TYPE: {"schema": {"$ref": names[model]}}},
    }
    if status == 503:
        described["headers"] = _response_headers("Retry-After")
    if status == 416:
        described["headers"] = _response_headers("Content-Range")
    return described


def _response_headers(*names: str) -> dict[str, Any]:
    return {
        name: {
            "description": _RESPONSE_HEADERS[name][0],
            "required": name in _ALWAYS,
            "schema": _RESPONSE_HEADERS[name][1],
        }
        for name in names
    }


def _name_the_catalogue(components: dict[str, Any], catalogue: Catalogue) -> None:
    """Tells what this installation offers, where the bare model only knows that it is text."""
    for component in components.values():
        if component.get("additionalProperties") is False:  # what is asked, not what is answered
            for name in ("model_id", "requested_model"):
                _offer(component["properties"].get(name, {}), catalogue)
    properties = components[GenerationRequest.__name__]["properties"]
    sizes = dict.fromkeys(size for entry in catalogue.entries for size in entry.resolutions)
    properties["resolution"]["anyOf"][0]["enum"] = list(sizes)


def _offer(field: dict[str, Any], catalogue: Catalogue) -> None:
    for text in (field, *field.get("anyOf", ())):
        if text.get("type") == "string":
            text["enum"] = list(catalogue.model_ids)


def _form_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The same fields as form values; the image is a file part."""
    image = {"type": "string", "format": "binary", "description": "A PNG, JPEG or WebP file of at most 20 MB."}
    properties = {name: _without_null(field) for name, field in schema["properties"].items()}
    return {**schema, "title": "GenerationForm", "properties": {**properties, "image": image}}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """A form value is there or it is not."""
    kept = {key: value for key, value in field.items() if key not in ("anyOf", "default") or value is not None}
    choices = [choice for choice in kept.pop("anyOf", []) if choice != {"type": "null"}]
    return {**kept, **(choices[0] if choices else {})}
