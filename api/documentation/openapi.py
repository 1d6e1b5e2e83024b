"""OpenAPI 3.1, made from the table of routes and the pydantic models: what is not there cannot be documented here."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.http.errors import CONVENTION, PROBLEM_TYPE
from api.jobs.webhooks import MESSAGE_ID
from api.operation import Answer, Operation
from api.schemas import problems, videos
from shared.catalogue.models import Catalogue
from wanworks.requests import GenerationRequest

_REF = "#/components/schemas/{model}"

_PROBLEMS = {
    400: "The body cannot be read: broken JSON or multipart; or there is no such action.",
    401: "No API key, or one that is not known, has expired or was revoked.",
    403: "The key has not the scope that this needs; or a page of another origin asks; or a link is over.",
    404: "There is no such job, artifact, model or alert; a malformed id is one that does not exist.",
    409: "The present state forbids it.",
    413: "The body is larger than 30 MB.",
    415: "The content type is none that the route takes: application/json (UTF-8), or a form with an image.",
    416: "No byte of the artifact is in the range.",
    422: "One or more fields are wrong, each named in `errors`. That includes what the schema cannot say: what the "
    "model in question does not offer, an image that it needs or refuses, a LoRA that is not there, an "
    "Idempotency-Key that was used with another body.",
    429: "A limit of the key is reached: requests a minute, queued jobs, or GPU-seconds a day.",
    500: "Something went wrong on the server; its log has the request id.",
    503: "The database is away; ask again after `Retry-After` seconds.",
    507: "The disk is full; nothing was stored.",
}
_CONVENTION_PROBLEMS = {
    **_PROBLEMS,
    400: "The body cannot be read, or one or more fields are wrong; `param` names the first. That includes what the "
    "schema cannot say: what the model in question does not offer, a length that it cannot make, a picture that it "
    "needs or refuses or that cannot be fetched.",
    404: "There is no such video, or no such file of it.",
    409: "The present state forbids it: the video is not ready yet.",
}
# Bodies that are also taken as a form: the form's name, the file part, and the parts that hold JSON.
_FORMS: dict[type[BaseModel], tuple[str, str, tuple[str, ...]]] = {
    GenerationRequest: ("GenerationForm", "image", ("loras", "fallback", "metadata")),
    videos.VideoRequest: ("VideoForm", "input_reference", ("loras", "fallback", "metadata")),
}
_REQUEST_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Idempotency-Key": (
        "The same key with the same body gives the same job, with another body it is refused.",
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
    "openai-poll-after-ms": ("When to ask again; absent once it has ended.", {"type": "string", "pattern": "^[0-9]+$"}),
}
_ALWAYS = frozenset({"Location", "Retry-After"})


def document(operations: Sequence[Operation], catalogue: Catalogue, public_path: str) -> dict[str, Any]:
    """The whole document for this installation's catalogue, at its public path."""
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
    for body, (name, picture, parts) in _FORMS.items():
        if body in names:
            components[name] = _form_of(names[body].rpartition("/")[2], components, name, picture, parts)
    paths: dict[str, dict[str, Any]] = {}
    for operation in shown:
        # A path's last parameter may hold slashes, which OpenAPI has no word for.
        paths.setdefault(operation.path.replace(":path}", "}"), {})[operation.method.lower()] = _operation(
            operation, names
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wanworks",
            "version": importlib.metadata.version("wanworks"),
            "description": "A durable, GPU-pinned job queue for WAN2.2 video models. Times are ISO 8601 in UTC. "
            "Errors are RFC 9457 problem documents whose `code` is stable. Send `X-Request-ID` and it comes back.",
        },
        "servers": [{"url": public_path or "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Made by `wanworks keys create`; where none was ever made, its own host needs none.",
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
        # Or nothing: while there are no keys, or with a signed link.
        described["security"] = [{"key": []}, {}]
        described["x-scope"] = operation.scope.value
    if operation.description:
        described["description"] = operation.description
    if operation.body is not None:
        content: dict[str, Any] = {"application/json": {"schema": {"$ref": names[operation.body]}}}
        if operation.body in _FORMS:
            form, picture, parts = _FORMS[operation.body]
            content["multipart/form-data"] = {
                "schema": {"$ref": _REF.format(model=form)},
                "encoding": {
                    picture: {"contentType": "image/png, image/jpeg, image/webp"},
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
        "message_id": message,
        "name": text,
        "node": text,
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
    """Tells what this installation offers, where the bare model only knows that it is text."""
    for component in components.values():
        if component.get("additionalProperties") is False:  # what is asked, not what is answered
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
    body: str, components: dict[str, Any], title: str, picture: str, json_parts: Sequence[str]
) -> dict[str, Any]:
    """Return the schema of the same fields as parts of a form; the picture is a file part.

    A part that may be left out may also be empty, as browsers send it, unless it is JSON.
    """
    schema = components[body]
    image = {"type": "string", "format": "binary", "description": "A PNG, JPEG or WebP file of at most 20 MB."}
    properties = {name: _without_null(field) for name, field in schema["properties"].items()}
    for name in properties.keys() - set(json_parts) - set(schema.get("required", ())):
        properties[name] = _or_empty(properties[name])
    return {**schema, "title": title, "properties": {**properties, picture: image}}


def _or_empty(field: dict[str, Any]) -> dict[str, Any]:
    about = {key: value for key, value in field.items() if key in ("title", "description", "default", "examples")}
    values = {key: value for key, value in field.items() if key not in about}
    return {**about, "anyOf": [values, {"const": "", "description": "Not given."}]}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """A form value is there or it is not."""
    kept = {key: value for key, value in field.items() if key not in ("anyOf", "default") or value is not None}
    choices = [choice for choice in kept.pop("anyOf", []) if choice != {"type": "null"}]
    return {**kept, **(choices[0] if choices else {})}
