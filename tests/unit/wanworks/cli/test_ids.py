"""Short ids, and ids from their beginnings."""

from typing import Any

import pytest

from wanworks.cli.ids import job_id, one_of, short_ids
from wanworks.errors import ConfigurationError

A = "0190a3c4-1f2e-7111-8111-111111111111"
B = "0190a3c4-1f2e-7112-8111-111111111111"
C = "0190a3c4-1f30-7111-8111-111111111111"


class Jobs:
    """A client of these jobs."""

    def __init__(self, *ids: str) -> None:
        self._ids = sorted(ids, reverse=True)

    def jobs_page(self, *, limit: int, after: str) -> dict[str, Any]:
        return {"data": [{"id": one} for one in self._ids if one < after][:limit]}


def test_each_is_as_long_as_needed_and_at_least_a_millisecond_long() -> None:
    assert short_ids([C, A, B]) == ["0190a3c4-1f30", "0190a3c4-1f2e-7111", "0190a3c4-1f2e-7112"]
    assert short_ids([]) == []
    assert short_ids([A, A]) == ["0190a3c4-1f2e"] * 2
    assert short_ids(["", "alert"]) == ["", "alert"]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("0190a3c4-1f30", C),
        ("0190a3c41f30", C),
        ("0190A3C4-1F3", C),
        (A, A),
        ("0190a3c4-1f2e-7112", B),
        ("0190a3c4-1f3", C),
    ],
)
def test_a_beginning_that_one_job_has_names_it(text: str, whole: str) -> None:
    assert job_id(Jobs(A, B, C), text) == whole  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0190a3c4-1f2e", f"several ids, such as {A} and {B}: give more of it"),
        ("0190", "several ids, such as"),
        ("ffff", "no job has an id that begins with ffff"),
        ("a boat", "neither the id of a job nor the beginning of one; `wanworks jobs` lists them"),
        ("", "neither the id"),
        ("0190a3c4-1f2e-7111-8111-1111111111119", "neither the id"),
    ],
)
def test_what_names_none_or_several_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        job_id(Jobs(A, B, C), text)  # type: ignore[arg-type]


def test_among_known_ids_a_whole_one_wins() -> None:
    assert one_of("ab", "alert", ["ab", "abc"]) == "ab"
    assert one_of("abc", "alert", ["ab", "abcd"]) == "abcd"
    with pytest.raises(ConfigurationError, match="several ids"):
        one_of("a", "alert", ["ab", "ac"])
