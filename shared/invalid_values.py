"""The messages for values that a pydantic model refuses: what is allowed, and what was given."""

import json
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from shared import patterns

_LONGEST_SHOWN = 40  # characters of a value
_PRIVATE = re.compile(r"secret|token|password|key|url|^(?:negative_)?prompt$", re.IGNORECASE)
"""Parts of the names of fields whose values are not repeated, because logs and screens keep messages."""

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "bytes": "text",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "an object",
    "mapping": "an object",
    "model": "an object",
    "model_attributes": "an object",
    "dataclass": "an object",
    "none_required": "null",
    "date": "a day such as 2026-01-31",
    "datetime": "a time such as 2026-01-31T12:00:00Z",
    "uuid": "a UUID",
}
"""Prefixes of pydantic's types of errors, and what the value must be."""

_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
}


def message(error: ErrorDetails, *, bare: bool = False, private: bool = False) -> str:
    """Return what is allowed and, where it is short and no secret, the value that was given.

    `bare`: values are texts by nature (a query, a setting), so they are shown without quotation marks; `private`: the
    value is not shown at all.
    """
    said = _rule(error)
    named = (part for part in error["loc"] if isinstance(part, str))
    if private or any(_PRIVATE.search(name) for name in named):
        return said
    if said.startswith("is not "):
        value = _shown(error["input"], bare=False)
        return said if value is None else f"{value} {said}"
    value = _shown(error["input"], bare) if _takes_value(error, said) else None
    return said if value is None else f"{said}, not {value}"


def unknown(name: Any, known: Iterable[str], noun: str) -> str:
    """Return the message for a name that does not exist, with the existing name that is most like it, if any."""
    like = get_close_matches(str(name)[:100], list(known), 1, 0.7)
    return f"there is no such {noun}" + (f"; did you mean `{like[0]}`?" if like else "")


def names_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> Iterator[str]:
    """Return the names of the fields beside the one at `loc`. Empty where that is no model's."""
    here: type[BaseModel] | None = model
    for part in loc[:-1]:
        if here is not None and isinstance(part, str):
            field = here.model_fields.get(part)
            here = None if field is None else _model_in(field.annotation)
    for name, field in here.model_fields.items() if here is not None else ():
        yield field.alias or name


def _rule(error: ErrorDetails) -> str:
    """Return what is allowed."""
    type, context = error["type"], error.get("ctx", {})
    if type == "missing":
        return "is missing"
    if type in ("value_error", "assertion_error"):
        return error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if type in _BOUNDS:
        bounds = {name: f"{bound:.15g}" if isinstance(bound, float) else bound for name, bound in context.items()}
        return "must be " + _BOUNDS[type].format_map(bounds)
    if type in ("enum", "literal_error"):
        return f"must be {context['expected']}"
    if type in ("string_too_short", "too_short"):
        return _length(error, "at least", context["min_length"])
    if type in ("string_too_long", "too_long"):
        return _length(error, "at most", context["max_length"])
    if type == "string_unicode":
        return "must be valid UTF-8"
    if type == "string_pattern_mismatch":
        return patterns.in_words(context["pattern"])
    kind = _kind(type)
    return f"must be {kind}" if kind else error["msg"]


def _kind(type: str) -> str | None:
    """Return what a value must be whose type is wrong, by the longest known beginning of pydantic's type."""
    parts = type.split("_")
    found = ("_".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((_KINDS[name] for name in found if name in _KINDS), None)


def _length(error: ErrorDetails, bound: str, limit: int) -> str:
    """Return the limit of a length, and the length that was given."""
    value = error["input"]
    if limit == 1 and bound == "at least":
        return "must not be empty"
    unit = "character" if isinstance(value, str) else "item"
    units = unit if limit == 1 else f"{unit}s"
    try:
        given = f", not {len(value)}"
    except TypeError:
        given = ""
    return f"must have {bound} {limit} {units}{given}"


def _takes_value(error: ErrorDetails, said: str) -> bool:
    """Return whether "not VALUE" can follow: the message says what must be, and in one clause."""
    if error["type"] in ("string_too_short", "string_too_long", "too_short", "too_long"):
        return False  # the length says enough
    own_words = error["type"] in ("value_error", "assertion_error")
    return said.startswith("must be ") and not (own_words and re.search("[,;]", said))


def _shown(value: Any, bare: bool) -> str | None:
    """Return the value as text, or None if it is too long."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple, set, frozenset)):
        return "a list"
    if isinstance(value, str):
        if len(value) > _LONGEST_SHOWN:
            return None
        return value if bare and value and value.isprintable() else repr(value)
    if value is None or isinstance(value, (bool, int, float)):
        try:
            text = json.dumps(value)
        except ValueError:
            return None  # too many digits
        return text if len(text) <= _LONGEST_SHOWN else None
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that the annotation contains. None if there is none, or more than one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [one for one in map(_model_in, get_args(annotation)) if one is not None]
    return found[0] if len(found) == 1 else None
