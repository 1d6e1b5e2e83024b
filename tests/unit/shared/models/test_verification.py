"""Verdicts on worked examples: what is wrong with a file, and what that does to the score."""

import json

import pytest

from shared.models.verification import Expected, Fault, FaultType, Found, fault_of, is_oid, judge, promised_size

SHA256, GIT = "a" * 64, "b" * 40
FILE = Expected("x.safetensors", 100, SHA256)


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (None, FaultType.MISSING_FILE),
        (Found(FaultType.BROKEN_LINK), FaultType.BROKEN_LINK),
        (Found(FaultType.UNREADABLE), FaultType.UNREADABLE),
        (Found(size=99, oid=None), FaultType.TRUNCATED),
        (Found(size=101, oid=None), FaultType.SIZE_MISMATCH),
        (Found(size=100, oid="c" * 64), FaultType.CHECKSUM_MISMATCH),
        (Found(size=100, oid=None), FaultType.CHECKSUM_MISMATCH),
        (Found(size=100, oid="c" * 64, header_valid=False), FaultType.BAD_SAFETENSORS_HEADER),
        (Found(size=99, header_valid=False), FaultType.TRUNCATED),
        (Found(size=100, oid=SHA256, header_valid=False), FaultType.BAD_SAFETENSORS_HEADER),
        (Found(size=100, oid=SHA256), None),
        (Found(size=100, trusted=True), None),
    ],
)
def test_each_fault_is_told_apart(found: Found | None, fault: FaultType | None) -> None:
    assert fault_of(FILE, found) == fault


def test_every_type_can_be_found_and_no_other_exists() -> None:
    """The words are fixed: clients compare them."""
    assert {str(fault) for fault in FaultType} == {
        "missing_file",
        "truncated",
        "size_mismatch",
        "checksum_mismatch",
        "unreadable",
        "bad_safetensors_header",
        "broken_link",
    }


def test_a_header_promises_the_size_where_nobody_else_has_said_it() -> None:
    unknown = Expected("x.safetensors", None, SHA256)
    assert fault_of(unknown, Found(size=90, header_size=100)) == FaultType.TRUNCATED
    assert fault_of(unknown, Found(size=110, header_size=100)) == FaultType.SIZE_MISMATCH
    assert fault_of(unknown, Found(size=100, header_size=100, oid=SHA256)) is None


def test_the_score_is_verified_bytes_over_expected_bytes() -> None:
    """300 of 400 bytes are right: 0.75, however large the broken file is now."""
    expected = [Expected("a", 300, GIT), Expected("b", 60, GIT), Expected("c", 40, GIT)]
    found = {"a": Found(size=300, oid=GIT), "b": Found(size=7, oid=None)}
    verdict = judge(expected, found)
    assert verdict.integrity_score == 0.75
    assert (verdict.verified_bytes, verdict.expected_bytes) == (300, 400)
    assert verdict.faults == (Fault("b", FaultType.TRUNCATED), Fault("c", FaultType.MISSING_FILE))


def test_a_lost_file_of_unknown_size_keeps_the_score_below_one() -> None:
    verdict = judge([Expected("a", None, GIT), Expected("b", None, None)], {"a": Found(size=999, oid=GIT)})
    assert verdict.integrity_score == 0.999


def test_nothing_expected_is_whole() -> None:
    assert judge([], {}).integrity_score == 1.0


def test_a_files_checksum_is_its_blobs_name() -> None:
    assert is_oid(SHA256)
    assert is_oid(GIT)
    assert not any(is_oid(name) for name in ("", "main", "A" * 40, "a" * 41, "a" * 64 + ".incomplete"))


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b'"x"', b'{"a": 1}', b'{"a": {"data_offsets": [0]}}', b"\xff{}"])
def test_what_is_no_header_promises_nothing(header: bytes) -> None:
    assert promised_size(header) is None


def test_a_header_promises_its_last_tensors_end() -> None:
    header = json.dumps({"__metadata__": {"a": "b"}, "x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})
    assert promised_size(header.encode()) == 8 + len(header) + 16
