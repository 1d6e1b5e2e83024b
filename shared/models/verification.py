"""Compares the expected files with those found. Pure: it reads nothing.

A file's checksum is the name of its blob: SHA-256, or for small files git's blob SHA-1.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# The longest header that the safetensors library reads.
MAX_HEADER_BYTES = 100_000_000


class FaultType(StrEnum):
    MISSING_FILE = "missing_file"  # not in the snapshot
    TRUNCATED = "truncated"  # shorter than it should be
    SIZE_MISMATCH = "size_mismatch"  # longer than it should be
    CHECKSUM_MISMATCH = "checksum_mismatch"
    UNREADABLE = "unreadable"  # because of the disk or permissions, or it is not a file
    BAD_SAFETENSORS_HEADER = "bad_safetensors_header"
    BROKEN_LINK = "broken_link"  # the snapshot links to a missing blob


@dataclass(frozen=True)
class Expected:
    """One file that a model should have. None: unknown."""

    path: str
    size: int | None
    oid: str | None


@dataclass(frozen=True)
class Found:
    """What was found on reading the file. `oid` is None if it was not read completely."""

    fault: FaultType | None = None  # why it could not be read
    size: int = 0
    oid: str | None = None
    header_size: int | None = None  # of a safetensors file: the size given by its header
    header_valid: bool = True
    trusted: bool = False  # not read: unchanged since it was last verified


@dataclass(frozen=True)
class Fault:
    path: str
    type: FaultType

    def as_dict(self) -> dict[str, str]:
        return {"path": self.path, "type": str(self.type)}


@dataclass(frozen=True)
class Verdict:
    """Sizes in bytes."""

    expected_bytes: int
    verified_bytes: int
    faults: tuple[Fault, ...]

    @property
    def integrity_score(self) -> float:
        """Verified bytes over expected bytes, 0 to 1; 1 if nothing is expected."""
        return self.verified_bytes / self.expected_bytes if self.expected_bytes else 1.0


def fault_of(expected: Expected, found: Found | None) -> FaultType | None:
    """Return the file's most significant fault; None if it has none. `found` None: the file is missing."""
    if found is None:
        return FaultType.MISSING_FILE
    if found.trusted or found.fault is not None:
        return found.fault
    size = expected.size if expected.size is not None else found.header_size
    if size is not None and found.size < size:
        return FaultType.TRUNCATED
    if size is not None and found.size > size:
        return FaultType.SIZE_MISMATCH
    if not found.header_valid:
        return FaultType.BAD_SAFETENSORS_HEADER
    if expected.oid is not None and found.oid != expected.oid:
        return FaultType.CHECKSUM_MISMATCH
    return None


def judge(expected: Sequence[Expected], found: Mapping[str, Found]) -> Verdict:
    """Return the verdict on all files. `found`: by path; files without an entry are missing."""
    faults = []
    expected_bytes = verified_bytes = 0
    for file in expected:
        seen = found.get(file.path)
        fault = fault_of(file, seen)
        # A missing file of unknown size counts as one byte, so that the score is below 1.
        size = file.size if file.size is not None else (seen.size if seen is not None else 0) or 1
        if fault is None and seen is not None:
            size = seen.size
            verified_bytes += size
        else:
            assert fault is not None
            faults.append(Fault(file.path, fault))
        expected_bytes += size
    return Verdict(expected_bytes, verified_bytes, tuple(faults))


def is_oid(name: str) -> bool:
    """Return whether a blob's name is a checksum."""
    return _OID.fullmatch(name) is not None


def promised_size(header: bytes) -> int | None:
    """Return the size of a safetensors file by its header (without the 8 bytes of length); None if it is invalid."""
    try:
        content: Any = json.loads(header)
        ends = [tensor["data_offsets"][1] for name, tensor in content.items() if name != "__metadata__"]
        good = all(isinstance(end, int) and end >= 0 for end in ends)
    except (ValueError, UnicodeDecodeError, AttributeError, TypeError, KeyError, IndexError, RecursionError):
        return None
    return 8 + len(header) + max(ends, default=0) if good else None
