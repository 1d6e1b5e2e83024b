"""Build the OpenAPI 3.1 document from the table of routes and the pydantic models."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.http.errors import CONVENTION, PROBLEM_TYPE
from api.jobs.webhooks import MESSAGE_ID
from api.operation import Answer, Operation
from api.schemas import problems, videos
from api.schemas.jobs.bulk import BulkFilter
from shared.catalogue.models import Catalogue
from wanworks.requests import GenerationRequest

_REF = "#/components/schemas/{model}"

_PROBLEMS = {
    400: "The body is malformed JSON or multipart, or the action is unknown.",
    401: "The API key is missing, unknown, expired or revoked.",
    403: "The key does not have the required scope, the request comes from a page of another origin, or the link has "
    "expired.",
    404: "The job, artifact, model or alert does not exist. Malformed ids count as not existing.",
    409: "The current state does not allow it.",
    413: "The body is larger than 30 MB.",
    415: "The content type is not supported. Allowed: application/json (UTF-8), or a form with an image.",
    416: "The range contains no byte of the artifact.",
    422: "One or more fields are invalid; `errors` lists all. This includes rules beyond the schema: values that the "
    "model does not support, an image that it requires or refuses, an unknown LoRA, or an Idempotency-Key that was "
    "used with another body.",
    429: "A limit of the key is reached: requests per minute, queued jobs, or GPU-seconds per day.",
    500: "An internal error occurred. The server's log has the details under the request id.",
    503: "The database is unavailable. Retry after `Retry-After` seconds.",
    504: "No worker of the node has answered within two seconds.",
    507: "The disk is full. Nothing was stored.",
}
_CONVENTION_PROBLEMS = {
    **_PROBLEMS,
    400: "The body is malformed, or one or more fields are invalid; `param` names the first. This includes rules "
    "beyond the schema: values or lengths that the model does not support, and an image that it requires or refuses, "
    "or that cannot be fetched.",
    404: "The video or its file does not exist.",
    409: "The current state does not allow it: the video is not ready yet.",
}
# Bodies that are also accepted as a form: the form's name, the file parts, and the parts with JSON.
_FORMS: dict[type[BaseModel], tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    GenerationRequest: ("GenerationForm", ("image", "last_image"), ("loras", "fallback", "metadata")),
    videos.VideoRequest: ("VideoForm", ("input_reference", "last_image"), ("loras", "fallback", "metadata")),
}
_REQUEST_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Idempotency-Key": (
        "Repeating a request with the same key and body returns the same job. With another body it is refused.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$"},
    ),
    "Prefer": (
        "`wait=N`: respond when the job has ended, or after N seconds (at most 60).",
        {"type": "string"},
    ),
    "Last-Event-ID": ("The id of the last received event. Later events are sent first.", {"type": "string"}),
    "Range": ("`bytes=...`, also with several ranges and suffixes. Other units are ignored.", {"type": "string"}),
    "If-Range": (
        "The ETag that the range refers to. If it has changed, the whole artifact is sent.",
        {"type": "string"},
    ),
    "If-None-Match": ("ETags that the client has. If one is current, the response is 304.", {"type": "string"}),
}
_RESPONSE_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Location": ("The URL of the job.", {"type": "string"}),
    "Idempotency-Replayed": (
        "`true`: the job was created by an earlier request.",
        {"type": "string", "enum": ["true"]},
    ),
    "Preference-Applied": ("`wait=N`, if it was requested.", {"type": "string"}),
    "Retry-After": ("Seconds to wait before retrying.", {"type": "string", "pattern": "^[0-9]+$"}),
    "ETag": ("The tag of the content; for an artifact its SHA-256.", {"type": "string"}),
    "Content-Range": ("The range of the returned bytes and the total size.", {"type": "string"}),
    "Accept-Ranges": ("`bytes`", {"type": "string"}),
    "openai-poll-after-ms": (
        "When to poll again, in milliseconds; absent once the job has ended.",
        {"type": "string", "pattern": "^[0-9]+$"},
    ),
}
_ALWAYS = frozenset({"Location", "Retry-After"})


def document(operations: Sequence[Operation], catalogue: Catalogue, public_path: str) -> dict[str, Any]:
    """Return the document for this installation's catalogue and public path."""
    shown = [operation for operation in operations if operation.documented]
    answers = {answer.schema for operation in shown for answer in operation.answers if answer.schema is not None}
    bodies = {operation.body for operation in shown if operation.body is not None}
    outward: list[type[BaseModel]] = [
        *sorted(answers, key=lambda model: model.__name__),
        problems.Problem,
        problems.ValidationProblem,
        videos.ConventionProblem,
    ]
    inward = sorted(bodies, key=lambda model: model.__name__)
    models: list[Any] = [(model, "serialization") for model in outward] + [(model, "validation") for model in inward]
    refs, definitions = models_json_schema(models, ref_template=_REF)
    names = {model: refs[model, mode]["$ref"] for model, mode in models}
    components = definitions["$defs"]
    _name_the_catalogue(components, catalogue)
    for body, (name, file_parts, parts) in _FORMS.items():
        if body in names:
            components[name] = _form_of(names[body].rpartition("/")[2], components, name, file_parts, parts)
    paths: dict[str, dict[str, Any]] = {}
    for operation in shown:
        # A last parameter of a path may contain slashes, which OpenAPI cannot express.
        paths.setdefault(operation.path.replace(":path}", "}"), {})[operation.method.lower()] = _operation(
            operation, names
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wanworks",
            "version": importlib.metadata.version("wanworks"),
            "description": "A durable, GPU-pinned job queue for WAN2.2 video models. Times are ISO 8601 in UTC. "
            "Errors are RFC 9457 problem documents whose `code` is stable. Responses return the `X-Request-ID` of the "
            "request.",
        },
        "servers": [{"url": public_path or "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Created by `wanworks keys create`. Local requests need none until one is created.",
                }
            },
        },
    }


def _operation(operation: Operation, names: dict[Any, str]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [*_path(operation), *_query(operation), *_headers(operation)],
        "responses": {
            **{str(answer.status): _answer(answer, names) for answer in operation.answers},
            **{str(status): _problem(operation, status, names) for status in _statuses(operation)},
        },
    }
    if operation.scope is not None:
        # Or no key: while there are none, or with a signed link.
        described["security"] = [{"key": []}, {}]
        described["x-scope"] = operation.scope.value
    if operation.description:
        described["description"] = operation.description
    if operation.takes_file:
        file = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        described["requestBody"] = {"required": True, "content": file}
    if operation.body is not None:
        content: dict[str, Any] = {"application/json": {"schema": {"$ref": names[operation.body]}}}
        if operation.body in _FORMS:
            form, file_parts, parts = _FORMS[operation.body]
            content["multipart/form-data"] = {
                "schema": {"$ref": _REF.format(model=form)},
                "encoding": {
                    **{name: {"contentType": "image/png, image/jpeg, image/webp"} for name in file_parts},
                    **{name: {"contentType": "application/json"} for name in parts},
                },
            }
        described["requestBody"] = {"required": operation.body_required, "content": content}
    return described


def _path(operation: Operation) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1}
    models = dict.fromkeys(("model_id", "model_type", "model_a", "model_b", "model"), text)
    message = {"type": "string", "pattern": f"^{MESSAGE_ID.pattern}$"}
    schema = {
        "id": {"type": "string", "format": "uuid"},
        "job_id": {"type": "string", "format": "uuid"},
        "message_id": message,
        "name": text,
        "node": text,
        "index": {"type": "integer", "minimum": 0, "maximum": 999},
        "model": text,
        **models,
    }
    return [
        {"name": name, "in": "path", "required": True, "schema": schema[name]}
        for name in schema
        if f"{{{name}}}" in operation.path or f"{{{name}:path}}" in operation.path
    ]


def _query(operation: Operation) -> list[dict[str, Any]]:
    schema = operation.query.model_json_schema(ref_template=_REF)
    definitions = schema.get("$defs", {})
    parameters = []
    for name, field in schema.get("properties", {}).items():
        # A query string cannot express null, so the parameter is left out instead.
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
    if answer.also is not None:
        described["content"][answer.also] = {"schema": {"type": "string"}}
    if answer.headers or answer.at_times:
        described["headers"] = _response_headers(*answer.headers, *answer.at_times)
        for name in answer.at_times:
            described["headers"][name]["required"] = False
    return described


def _statuses(operation: Operation) -> list[int]:
    wrong_field = 400 if operation.path.startswith(CONVENTION) else 422
    guarded = (401, 403, 429, 503) if operation.scope is not None else ()
    return sorted({*operation.problems, *guarded, wrong_field, 500})


def _problem(operation: Operation, status: int, names: dict[Any, str]) -> dict[str, Any]:
    model: type[BaseModel] = problems.ValidationProblem if status == 422 else problems.Problem
    described: dict[str, Any] = {
        "description": _PROBLEMS[status],
        "content": {PROBLEM_TYPE: {"schema": {"$ref": names[model]}}},
    }
    if operation.path.startswith(CONVENTION):
        schema = {"$ref": names[videos.ConventionProblem]}
        described = {"description": _CONVENTION_PROBLEMS[status], "content": {"application/json": {"schema": schema}}}
    if status in (429, 503):
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
    """Add this installation's models as enumerations to fields that are plain text in the models."""
    for title, component in components.items():
        # A filter may name a model that has left the catalogue, whose jobs are still there.
        if component.get("additionalProperties") is False and title != BulkFilter.__name__:  # a request, no response
            for name in ("model_id", "requested_model"):
                _offer(component["properties"].get(name, {}), catalogue.model_ids)
            names = [name for entry in catalogue.entries for name in entry.names]
            _offer(component["properties"].get("model", {}), names)
    sizes = dict.fromkeys(size for entry in catalogue.entries for size in entry.resolutions)
    for model, field in ((GenerationRequest, "resolution"), (videos.VideoRequest, "size")):
        if model.__name__ in components:
            _offer(components[model.__name__]["properties"][field], list(sizes))


def _offer(field: dict[str, Any], offered: Sequence[str]) -> None:
    for text in (field, *field.get("anyOf", ())):
        if text.get("type") == "string":
            text["enum"] = list(offered)


def _form_of(
    body: str, components: dict[str, Any], title: str, file_parts: Sequence[str], json_parts: Sequence[str]
) -> dict[str, Any]:
    """Return the schema of the same fields as parts of a form, with the pictures as file parts.

    Optional parts may also be empty, as browsers send them, unless they are JSON.
    """
    schema = components[body]
    image = {"type": "string", "format": "binary", "description": "A PNG, JPEG or WebP file of at most 20 MB."}
    properties = {name: _without_null(field) for name, field in schema["properties"].items()}
    for name in properties.keys() - set(json_parts) - set(schema.get("required", ())):
        properties[name] = _or_empty(properties[name])
    return {**schema, "title": title, "properties": {**properties, **dict.fromkeys(file_parts, image)}}


def _or_empty(field: dict[str, Any]) -> dict[str, Any]:
    about = {key: value for key, value in field.items() if key in ("title", "description", "default", "examples")}
    values = {key: value for key, value in field.items() if key not in about}
    return {**about, "anyOf": [values, {"const": "", "description": "Not given."}]}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Return the field without null, which forms cannot express."""
    kept = {key: value for key, value in field.items() if key not in ("anyOf", "default") or value is not None}
    choices = [choice for choice in kept.pop("anyOf", []) if choice != {"type": "null"}]
    return {**kept, **(choices[0] if choices else {})}
