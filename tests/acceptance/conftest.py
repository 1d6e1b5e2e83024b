"""One stack for a module's tests: two CPU devices, the tiny random-weight models."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import Stack


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-m", "workers.demo_models", str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def stack(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack") / "home", demo_models)
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
def own_stack(demo_models: Path, tmp_path: Path) -> Iterator[Stack]:
    """Not started; for tests that stop and start."""
    stack = Stack(tmp_path / "home", demo_models)
    yield stack
    if stack.process is not None:
        stack.stop()
