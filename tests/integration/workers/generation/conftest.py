"""What the tests of generation share: a place to generate in, on the CPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.models.generating import Studio
from workers.generation import run


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    monkeypatch.setenv("WANWORKS_DEVICE", "cpu:0")
    monkeypatch.setattr(run, "_warm_models", None)
    yield Studio(tmp_path)
    run.free()
