"""What a text must be to match a pattern, in words."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

import api.schemas
import shared.catalogue
from shared import patterns
from shared.settings import Settings


def models() -> Iterator[type[BaseModel]]:
    """All models of requests, answers, settings and the catalogue."""
    for package in (api.schemas, shared.catalogue):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for found in vars(importlib.import_module(module.name)).values():
                if isinstance(found, type) and issubclass(found, BaseModel) and found.__module__ == module.name:
                    yield found
    yield Settings


def patterns_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), str) and isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for part in schema.values():
            yield from patterns_in(part)
    elif isinstance(schema, (list, tuple)):
        for part in schema:
            yield from patterns_in(part)


def test_no_message_shows_a_regular_expression() -> None:
    found = {pattern for model in models() for pattern in patterns_in(model.__pydantic_core_schema__)}
    assert len(found) > 10
    assert [one for one in found if "pattern" in patterns.in_words(one)] == []


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (patterns.one_of("auto", "on", "off"), "must be 'auto', 'on' or 'off'"),
        (patterns.one_of("only"), "must be 'only'"),
        (patterns.RESOLUTION, "must be a width and a height such as 1280x720"),
        ("^a", "must match the pattern ^a"),
    ],
)
def test_words_of_a_pattern(pattern: str, words: str) -> None:
    assert patterns.in_words(pattern) == words
