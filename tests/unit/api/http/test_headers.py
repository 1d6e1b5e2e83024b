"""Request headers: parsed, ignored and refused values."""

import pytest

from api.http import headers
from api.http.headers import Unsatisfiable
from shared.errors import InvalidField


@pytest.mark.parametrize(
    ("value", "ranges"),
    [
        ("bytes=0-4", "bytes=0-4"),
        ("bytes=5-", "bytes=5-"),
        ("bytes=-3", "bytes=-3"),
        ("bytes= 0-1 , 4-5", "bytes=0-1,4-5"),
        ("BYTES=0-0", "bytes=0-0"),
        ("bytes=0-99999999999", "bytes=0-99999999999"),
        ("bytes=0-1,500-600", "bytes=0-1"),
        ("bytes=-99999", "bytes=-99999"),
    ],
)
def test_a_range_keeps_what_can_be_satisfied(value: str, ranges: str) -> None:
    assert headers.byte_ranges(value, 100) == ranges


@pytest.mark.parametrize(
    "value",
    ["", "bytes", "bytes=", "bytes=a-b", "bytes=5-2", "bytes=1_0-2_0", "bytes=--1", "bytes=0-1;2-3", "lines=0-4",
     "bytes=0-1,x", "bytes=\xb2-3", "bytes=" + ",".join(["0-1"] * 101)],
)  # fmt: skip
def test_a_malformed_range_is_ignored(value: str) -> None:
    assert headers.byte_ranges(value, 100) is None


@pytest.mark.parametrize("value", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=500-,-0"])
def test_a_range_beyond_the_end_is_unsatisfiable(value: str) -> None:
    assert headers.byte_ranges(value, 100) == Unsatisfiable()


def test_no_range_of_an_empty_file_is_satisfiable() -> None:
    assert headers.byte_ranges("bytes=-5", 0) == Unsatisfiable()


@pytest.mark.parametrize("value", ['"abc"', 'W/"abc"', '"x", "abc"', "*", ' "abc" '])
def test_if_none_match_finds_the_tag(value: str) -> None:
    assert headers.none_match({"if-none-match": value}, '"abc"')


@pytest.mark.parametrize("value", ["", "abc", '"abcd"', '"abc', "W/abc", '""', "\x80"])
def test_a_malformed_or_other_tag_matches_nothing(value: str) -> None:
    assert not headers.none_match({"if-none-match": value}, '"abc"')


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("wait=5", 5), ("wait=0", 0), ("wait=100", 60), ("respond-async, wait=7", 7), ('wait="3"', 3), ("Wait = 2", 2)],
)
def test_prefer_wait(value: str, seconds: int) -> None:
    assert headers.wait_seconds({"prefer": value}) == seconds


@pytest.mark.parametrize("value", ["", "wait", "wait=", "wait=-1", "wait=abc", "wait=1.5", "await=5", "wait=\xb2"])
def test_a_malformed_preference_is_ignored(value: str) -> None:
    assert headers.wait_seconds({"prefer": value}) is None


@pytest.mark.parametrize("key", ["a", "x" * 255, "9f1c-two words!"])
def test_a_valid_idempotency_key(key: str) -> None:
    assert headers.idempotency_key({"idempotency-key": key}) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "caf\xe9", "\x7f"])
def test_an_invalid_idempotency_key_is_reported(key: str) -> None:
    with pytest.raises(InvalidField, match="Idempotency-Key"):
        headers.idempotency_key({"idempotency-key": key})


@pytest.mark.parametrize(("value", "read"), [("1-0", "1-0"), ("abc", None), ("1", None), ("$", None), ("1-0-0", None)])
def test_last_event_id(value: str, read: str | None) -> None:
    assert headers.last_event_id({"last-event-id": value}) == read
