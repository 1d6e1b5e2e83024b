"""One stack for the tests of several modules: two CPU devices, the tiny random-weight models."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack


@pytest.fixture(scope="package")
def stack(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Shared by all modules that have none of their own: what a test finds there, others may have made."""
    folder = tmp_path_factory.mktemp("stack")
    models = shutil.copytree(demo_models, folder / "models", symlinks=True)  # its jobs may change them
    stack = Stack(folder / "home", models, devices="cpu:2")
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
def own_stack(demo_models: Path, tmp_path: Path) -> Iterator[Stack]:
    """Not started; for tests that stop and start."""
    models = shutil.copytree(demo_models, tmp_path / "models", symlinks=True)
    stack = Stack(tmp_path / "home", models, devices="cpu:2")
    yield stack
    if stack.process is not None:
        stack.stop()
