"""The OpenAPI document says in JSON Schema's words what the API enforces."""

from collections.abc import Iterator
from typing import Any

from api.routes import document
from shared.catalogue.models import load

# Pydantic writes a constraint so when a validator stands between it and its type: no client understands it.
_NOT_JSON_SCHEMA = {"ge", "gt", "le", "lt", "min_length", "max_length", "multiple_of", "decimal_places", "max_digits"}


def _objects(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object of the document with its path."""
    if isinstance(value, dict):
        yield path, value
        for key, child in value.items():
            yield from _objects(child, f"{path}/{key}")
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _objects(child, f"{path}/{index}")


def test_every_bound_of_a_field_is_a_keyword_of_json_schema() -> None:
    found = document(load("default"))
    objects = [(path, value) for path, value in _objects(found) if not path.endswith("/properties")]
    assert len(objects) > 1000
    assert [(path, words) for path, value in objects if (words := _NOT_JSON_SCHEMA & value.keys())] == []
