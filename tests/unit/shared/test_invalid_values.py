"""Values that a model refuses: the message says what is allowed, and what was given."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from api.http.errors import invalid
from shared import invalid_values


class Level(StrEnum):
    LOW = "low"
    HIGH = "high"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = "x"
    strength: float = 1.0


class Given(BaseModel):
    model_config = ConfigDict(extra="forbid")
    whole: Annotated[int, Field(strict=True, ge=1, le=16)] = 1
    loose: int = 1
    number: Annotated[float, Field(gt=0, lt=2, allow_inf_nan=False)] = 1.0
    even: Annotated[int, Field(multiple_of=2)] = 2
    flag: Annotated[bool, Field(strict=True)] = False
    text: Annotated[str, Field(min_length=1, max_length=5)] = "x"
    pair: Annotated[list[int], Field(min_length=2, max_length=3)] = [1, 2]
    level: Level = Level.LOW
    word: Literal["a", "b"] = "a"
    when: datetime | None = None
    day: date | None = None
    id: UUID | None = None
    table: dict[str, int] = {}
    part: Part = Part()
    parts: list[Part] | None = None
    prompt: Annotated[str, Field(pattern="^a")] = "a"
    webhook_secret: Literal["x"] = "x"
    own: Any = None
    advice: Any = None
    size: str = "1x1"

    @field_validator("own")
    @classmethod
    def _own(cls, value: Any) -> Any:
        if value is not None:
            raise ValueError("must be a number of seconds such as 5")
        return value

    @field_validator("advice")
    @classmethod
    def _advice(cls, value: Any) -> Any:
        if value is not None:
            raise ValueError("must be even, or it is rounded; give another")
        return value

    @field_validator("size")
    @classmethod
    def _size(cls, value: str) -> str:
        if "x" not in value:
            raise ValueError("is not a size; give one such as 64x64")
        return value


def refused(given: dict[str, Any]) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Given.model_validate(given)
    return caught.value


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("whole", "3", "must be a whole number, not '3'"),
        ("whole", 0, "must be at least 1, not 0"),
        ("whole", 17, "must be at most 16, not 17"),
        ("whole", None, "must be a whole number, not null"),
        ("whole", True, "must be a whole number, not true"),
        ("whole", [1], "must be a whole number, not a list"),
        ("whole", {"a": 1}, "must be a whole number, not an object"),
        ("whole", 10**60, "must be at most 16"),
        ("loose", 1.5, "must be a whole number, not 1.5"),
        ("loose", "one", "must be a whole number, not 'one'"),
        ("loose", "1" * 5000, "must be a whole number"),
        ("number", "fast", "must be a number, not 'fast'"),
        ("number", 0, "must be more than 0, not 0"),
        ("number", 2.5, "must be less than 2, not 2.5"),
        ("number", float("nan"), "must be a finite number, not NaN"),
        ("even", 3, "must be a multiple of 2, not 3"),
        ("flag", "yes", "must be true or false, not 'yes'"),
        ("text", 5, "must be text, not 5"),
        ("text", "", "must not be empty"),
        ("text", "longer", "must have at most 5 characters, not 6"),
        ("pair", [1], "must have at least 2 items, not 1"),
        ("pair", [1, 2, 3, 4], "must have at most 3 items, not 4"),
        ("pair", "ab", "must be a list, not 'ab'"),
        ("level", "middle", "must be 'low' or 'high', not 'middle'"),
        ("level", "m" * 41, "must be 'low' or 'high'"),
        ("word", 7, "must be 'a' or 'b', not 7"),
        ("when", "soon", "must be a time such as 2026-01-31T12:00:00Z, not 'soon'"),
        ("day", "soon", "must be a day such as 2026-01-31, not 'soon'"),
        ("id", "one", "must be a UUID, not 'one'"),
        ("table", 3, "must be an object, not 3"),
        ("part", "one", "must be an object, not 'one'"),
        ("prompt", "b", "must match the pattern ^a"),
        ("webhook_secret", "hunter2", "must be 'x'"),
        ("own", "soon", "must be a number of seconds such as 5, not 'soon'"),
        ("size", "large", "'large' is not a size; give one such as 64x64"),
        ("size", "large" * 20, "is not a size; give one such as 64x64"),
        ("advice", 3, "must be even, or it is rounded; give another"),
    ],
)
def test_it_names_what_is_allowed_and_what_was_given(field: str, value: Any, said: str) -> None:
    (error,) = refused({field: value}).errors()
    assert invalid_values.message(error) == said


def test_the_values_of_texts_have_no_quotation_marks() -> None:
    (error,) = refused({"loose": "one"}).errors()
    assert invalid_values.message(error, bare=True) == "must be a whole number, not one"
    (error,) = refused({"loose": ""}).errors()
    assert invalid_values.message(error, bare=True) == "must be a whole number, not ''"


def test_a_private_value_is_not_repeated() -> None:
    (error,) = refused({"word": "hunter2"}).errors()
    assert invalid_values.message(error, private=True) == "must be 'a' or 'b'"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"numbr": 1}, "there is no such field; did you mean `number`?"),
        ({"part": {"strengt": 1}}, "there is no such field; did you mean `strength`?"),
        ({"parts": [{}, {"nam": "x"}]}, "there is no such field; did you mean `name`?"),
        ({"zzz": 1}, "there is no such field"),
        ({"part": {"number": 1}}, "there is no such field"),
        ({"n" * 10_000: 1}, "there is no such field"),
    ],
)
def test_a_name_that_is_almost_right_is_corrected(given: dict[str, Any], said: str) -> None:
    (error,) = invalid(refused(given), "body", Given).errors
    assert error.msg == said
