"""Pieces of any size, from any offset of the file, are written byte for byte and hashed."""

import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import StoreFull
from workers.models.fetch.digest import Digest
from workers.models.fetch.writing import BUFFER_BYTES, Appender

CONTENT = random.Random(7).randbytes(1_700_003)


def _append(path: Path, begin: int, pieces: list[int], stops: set[int]) -> str:
    """Append CONTENT from `begin` on, flushing before the pieces in `stops`. Return the checksum."""
    path.write_bytes(CONTENT[:begin])
    descriptor = os.open(path, os.O_RDWR)
    digest = Digest(descriptor, len(CONTENT), True, begin)
    end = Appender(path, descriptor, begin, digest.wrote)
    turn = 0
    while end.reached < len(CONTENT):
        if turn in stops:
            end.flush()
            assert path.stat().st_size == end.reached == end.offset
        space = end.space(min(pieces[turn % len(pieces)], len(CONTENT) - end.reached))
        assert len(space)
        space[:] = CONTENT[end.reached : end.reached + len(space)]
        end.received(len(space))
        turn += 1
    end.flush()
    end.close()
    while (result := digest.result(0.2)) is None:
        pass
    digest.stop()
    os.close(descriptor)
    return result


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, len(CONTENT)),
    st.lists(st.integers(1, 2 * BUFFER_BYTES), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 4000),
    st.sets(st.integers(0, 30)),
)
def test_every_byte_is_at_its_offset(
    tmp_path_factory: pytest.TempPathFactory, begin: int, pieces: list[int], stops: set[int]
) -> None:
    path = tmp_path_factory.mktemp("appending") / "partial"
    assert _append(path, begin, pieces, stops) == hashlib.sha256(CONTENT).hexdigest()
    assert path.read_bytes() == CONTENT


def test_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file system opens for direct writes and then refuses them."""
    monkeypatch.setattr("workers.models.fetch.writing._BLOCK_BYTES", 100)  # of no disk: EINVAL each time
    path = tmp_path / "partial"
    assert _append(path, 5, [70_001], {3}) == hashlib.sha256(CONTENT).hexdigest()
    assert path.read_bytes() == CONTENT


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    end = Appender(tmp_path / "not there", full, 0, lambda piece, offset: None)
    end.space(100)
    end.received(100)
    with pytest.raises(StoreFull):
        end.flush()
    os.close(full)
