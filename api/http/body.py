"""Read request bodies: limit their size, parse JSON or forms, and validate the fields."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence, Set
from dataclasses import dataclass
from email.message import Message
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import anyio.to_thread
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from api.http import images
from api.http.errors import invalid
from shared.errors import FieldError, InvalidField, MalformedRequest, TooLarge, UnsupportedMedia
from wanworks.requests import GenerationRequest

Body = TypeVar("Body", bound=BaseModel)

LIMIT_BYTES = 30 * 10**6
_INLINE_BYTES = 64 * 1024  # longer bodies are parsed in a thread, so that they do not block the event loop
_MAX_PARTS = 64
# Form values are text. These fields stay text; others are parsed as JSON (a number, a list, an object).
_TEXTS = frozenset(
    {"model_id", "prompt", "negative_prompt", "image", "resolution", "output_format", "quantization", "speed"}
)
_TEXTS |= {"last_image", "fit", "priority", "webhook_url"}
_PICTURES = ("image", "last_image")
_BRACKETS = re.compile(r"(\w{1,64})\[(?:([^\[\]]{1,64})\]|\](?:\[([^\[\]]{1,64})\])?)")  # a[b], a[], a[][b]


@dataclass(frozen=True)
class ReceivedRequest:
    """A parsed request. `image` and `last_image`: the bytes as sent, not decoded yet.

    `wrong`: the errors found so far. If there are any, `request` has only the valid fields, so that the remaining
    checks can report their errors too, and no job may be created from it.
    """

    request: GenerationRequest
    image: bytes | None
    wrong: tuple[FieldError, ...] = ()
    image_left_out: bool = False  # an image was sent but not read
    last_image: bytes | None = None
    last_image_left_out: bool = False

    @property
    def pictures(self) -> dict[str, bytes]:
        """Return what was read, by field."""
        sent = {"image": self.image, "last_image": self.last_image}
        return {field: content for field, content in sent.items() if content is not None}

    def digest(self) -> str:
        """Return a SHA-256 of the request, independent of the formatting of the body."""
        fields = self.request.model_dump(mode="json", exclude=set(_PICTURES), exclude_unset=True)
        hashes = {field: hashlib.sha256(content).hexdigest() for field, content in self.pictures.items()}
        # As earlier versions made it, for requests that they knew.
        canonical = json.dumps({"request": fields, "image": None, **hashes}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


async def read_generation(request: Request) -> ReceivedRequest:
    """Read a generation request from JSON or a form.

    Raises MalformedRequest, UnsupportedMedia, TooLarge, or InvalidField with every invalid field.
    """
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    match media_type.strip().lower():
        case "application/json":
            _check_charset(parameters)
            raw = b"".join([chunk async for chunk in _limited(request)])
            parse = partial(_from_json, raw)
            return parse() if len(raw) <= _INLINE_BYTES else await anyio.to_thread.run_sync(parse)
        case "multipart/form-data":
            form = await _read_form(request, _PICTURES, _TEXTS)
            return await anyio.to_thread.run_sync(partial(received, *form))
    raise UnsupportedMedia(
        "The content type must be application/json (UTF-8), or multipart/form-data with an `image` part"
    )


async def read_fields_or_form(
    request: Request, file_parts: Sequence[str], texts: frozenset[str]
) -> tuple[dict[str, Any], dict[str, bytes], tuple[FieldError, ...]]:
    """Return the fields of a JSON object or form, the bytes of its file parts by name, and errors of form parts.

    The fields are not validated. Form values whose names are not in `texts` are parsed as JSON if possible. Raises like
    `read_generation`.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data":
        return await _read_form(request, file_parts, texts)
    return await read_fields(request), {}, ()


async def read_json(request: Request, model: type[Body]) -> Body:
    """Return a JSON body as `model`. Raises like `read_generation`."""
    return validated(await read_fields(request), model)


def has_body(request: Request) -> bool:
    """Return whether the headers announce a body."""
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def read_fields(request: Request, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """Return the fields of a JSON object of at most that size without validating them.

    Raises MalformedRequest, UnsupportedMedia, TooLarge or InvalidField.
    """
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise UnsupportedMedia("The content type must be application/json (UTF-8)")
    _check_charset(parameters)
    raw = b"".join([chunk async for chunk in _limited(request, limit_bytes)])
    fields = await anyio.to_thread.run_sync(_json, raw) if len(raw) > _INLINE_BYTES else _json(raw)
    if not isinstance(fields, dict):
        raise InvalidField(FieldError(("body",), "must be a JSON object", "dict_type"))
    return fields


def validated(fields: dict[str, Any], model: type[Body]) -> Body:
    """Return the fields as `model`. Raises InvalidField with every invalid field."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid(error, "body", model) from None


def valid_part(
    fields: dict[str, Any], model: type[Body], wrong: tuple[FieldError, ...] = ()
) -> tuple[Body, tuple[FieldError, ...]]:
    """Return the valid fields as `model`, and the errors of all others, including those in `wrong`.

    Raises InvalidField if the valid fields alone do not make a `model`.
    """
    try:
        return model.model_validate(fields), wrong
    except ValidationError as error:
        found = invalid(error, "body", model).errors
    named = {one.loc[1] for one in found if len(one.loc) > 1}
    kept = {name: value for name, value in fields.items() if name not in named}
    if "prompt" in named:
        kept["prompt"] = "-"  # no other check depends on its text
    try:
        return model.model_validate(kept), (*found, *wrong)
    except ValidationError:
        raise InvalidField(*found, *wrong) from None


def _from_json(raw: bytes) -> ReceivedRequest:
    return received(_json(raw))


def received(
    fields: Any, files: Mapping[str, bytes] = MappingProxyType({}), wrong: tuple[FieldError, ...] = ()
) -> ReceivedRequest:
    """Return the fields of a generation as a request. `files`: pictures that were sent as parts of a form.

    Raises InvalidField if the valid fields do not make a request.
    """
    if not isinstance(fields, dict):
        raise InvalidField(FieldError(("body",), "must be a JSON object", "dict_type"))
    request, wrong = valid_part(fields, GenerationRequest, wrong)
    pictures = dict(files)
    for field in _PICTURES:
        url = getattr(request, field)
        if field not in pictures and url is not None:
            try:
                pictures[field] = images.from_data_url(url, field)
            except InvalidField as error:
                wrong = (*wrong, *error.errors)
    named = {one.loc[1] for one in wrong if len(one.loc) > 1}
    image, last_image = (pictures.get(field) for field in _PICTURES)
    return ReceivedRequest(
        request,
        image,
        wrong,
        image is None and "image" in named,
        last_image,
        last_image is None and "last_image" in named,
    )


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_fields)
    except UnicodeDecodeError:
        raise MalformedRequest("The body is not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedRequest(f"The body is not JSON: {error.msg} at {where}") from None
    except (ValueError, RecursionError):
        raise MalformedRequest(
            "The JSON body cannot be parsed: it is nested too deeply, or a number is too long"
        ) from None


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise MalformedRequest(f"The JSON body has the field {name[:100]!r} twice. Give each field once.")
    return result


def _check_charset(parameters: str) -> None:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise UnsupportedMedia("The charset of JSON must be UTF-8")


async def _limited(request: Request, limit_bytes: int = LIMIT_BYTES) -> AsyncGenerator[bytes, None]:
    """Yield the body in chunks. Raises TooLarge as soon as the limit is exceeded."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isascii() and declared.isdigit() else 0
    too_large = TooLarge(f"The body is larger than {limit_bytes // 10**6} MB, the maximum")
    if size > limit_bytes:
        raise too_large
    total = 0
    try:
        async for chunk in request.stream():
            total += len(chunk)
            if total > limit_bytes:
                raise too_large
            yield chunk
    except ClientDisconnect:
        raise MalformedRequest("The connection ended before the whole body was received") from None


class _FormParser(MultiPartParser):
    """Starlette's parser with two corrections: it refuses truncated bodies, and it recognises file parts that have
    only an RFC 5987 name (`filename*=utf-8''...`), as some clients send for non-ASCII names."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.ended = False
        self.json_fields: set[str] = set()  # fields whose part has the content type JSON

    def on_headers_finished(self) -> None:
        disposition = self._current_part.content_disposition
        if disposition is not None and b"*" in disposition and b"filename" not in parse_options_header(disposition)[1]:
            headers = Message()
            headers["Content-Disposition"] = disposition.decode("latin-1")
            if headers.get_filename() is not None:  # the name itself is not used
                self._current_part.content_disposition = disposition + b'; filename="file"'
        super().on_headers_finished()
        declared = dict(self._current_part.item_headers).get(b"content-type", b"")
        if declared.partition(b";")[0].strip().lower() == b"application/json":
            self.json_fields.add(self._current_part.field_name)

    def on_end(self) -> None:
        self.ended = True


Form = tuple[dict[str, Any], dict[str, bytes], tuple[FieldError, ...]]


async def _read_form(request: Request, file_parts: Sequence[str], texts: frozenset[str]) -> Form:
    parser = _FormParser(
        request.headers, _limited(request), max_files=_MAX_PARTS, max_fields=_MAX_PARTS, max_part_size=LIMIT_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"The multipart body cannot be read: {error.message}") from None
    try:
        if not parser.ended:
            raise MalformedRequest("The multipart body is truncated: its final boundary is missing")
        return await _read_parts(form, file_parts, texts, parser.json_fields)
    finally:
        await form.close()


async def _read_parts(form: FormData, file_parts: Sequence[str], texts: frozenset[str], json_fields: Set[str]) -> Form:
    """Read the parts of a form. An empty part counts as not given, because browsers send empty inputs too.

    An empty part with the content type JSON is refused: browsers never send that type, and an empty text is not JSON.
    """
    fields: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    wrong: list[FieldError] = []
    for name, value in form.multi_items():
        try:
            if isinstance(value, UploadFile):
                if not value.filename and not value.size:
                    continue
                if name not in file_parts:
                    raise InvalidField(_no_file_part(name, file_parts))
                if name in fields or name in files:
                    raise _duplicate(name)
                files[name] = await value.read()
            elif (brackets := _BRACKETS.fullmatch(name)) is not None:
                _put_inside(fields, brackets, value)
            elif value == "" and name not in json_fields:
                continue
            elif name in fields or name in files:
                raise _duplicate(name)
            else:
                fields[name] = value if name in texts else _form_value(value)
        except InvalidField as error:
            wrong += error.errors
    return fields, files, tuple(wrong)


def _no_file_part(name: str, file_parts: Sequence[str]) -> FieldError:
    allowed = " and ".join(f"`{part}`" for part in file_parts)
    msg = f"must not be a file; only {allowed} may be files, all other parts are values without a filename"
    return FieldError(("body", name[:100]), msg, "extra_forbidden")


def _put_inside(fields: dict[str, Any], name: "re.Match[str]", text: str) -> None:
    """Add a value of an object or list that is sent as several parts (`a[b]`, `a[]`), as generated clients do.

    Values stay text, except in objects within lists, such as a LoRA's scale.
    """
    field, key, inner = name.groups()
    held = fields.setdefault(field, {} if key is not None else [])
    if isinstance(held, dict) and key is not None and key not in held:
        held[key] = text
    elif not isinstance(held, list) or key is not None:
        raise _duplicate(field)
    elif inner is None:
        if text:  # an empty text means an empty list
            held.append(text)
    else:
        value = text if inner == "name" else _form_value(text)
        if held and isinstance(held[-1], dict) and inner not in held[-1]:
            held[-1][inner] = value
        else:
            held.append({inner: value})


def _duplicate(name: str) -> InvalidField:
    return InvalidField(FieldError(("body", name[:100]), "is given twice", "duplicate"))


def _form_value(text: str) -> Any:
    """Parse a form value as JSON. Other text and `null`, which forms do not have, stay text for the validation."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if value is None else value
