"""What the measurements share."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.stack import Stack


class Bench:
    """Folders and models that the measurements share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        subprocess.run(
            [sys.executable, "-m", "workers.generation.demo_models", str(self.models)], check=True, capture_output=True
        )
        self._stacks = 0

    @contextlib.contextmanager
    def stack(self, *options: str, devices: str = "cpu:1", **environment: str) -> Iterator[Stack]:
        self._stacks += 1
        usual = {"WANWORKS_LEASE_SECONDS": "60", "WANWORKS_HEARTBEAT_SECONDS": "10", "WANWORKS_LOG_LEVEL": "WARNING"}
        stack = Stack(self.folder / f"home-{self._stacks}", self.models, devices, **usual, **environment)
        try:
            stack.start(*options)
            yield stack
        finally:
            stack.stop()

    def snapshot(self, model_id: str) -> Path:
        return next((self.models / f"models--wanworks-demo--{model_id}" / "snapshots").iterdir())
