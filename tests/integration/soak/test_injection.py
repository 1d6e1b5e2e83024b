"""The faults that the soak puts into processes: each is done where a file orders it, and nothing without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tests.soak

_INJECTION = Path(tests.soak.__file__).parent / "injection"
_COMMIT = """
import os, sqlalchemy
from shared.database.engine import Database
from shared.errors import OutcomeUnknown
database = Database(f"sqlite:///{os.environ['WANWORKS_HOME']}/x.db")
try:
    with database.write() as session:
        session.connection().exec_driver_sql("CREATE TABLE IF NOT EXISTS x (y int)")
        session.connection().exec_driver_sql("INSERT INTO x VALUES (1)")
    said = "committed"
except OutcomeUnknown:
    said = "unknown"
with database.read() as session:
    print(said, session.connection().exec_driver_sql("SELECT count(*) FROM x").scalar())
"""
_STORE = """
import os
from pathlib import Path
from shared.errors import StoreFull
from shared.storage.directory import DirectoryStore
try:
    print(DirectoryStore(Path(os.environ["WANWORKS_HOME"]) / "store").put_input("job", "x", b"1"))
except StoreFull:
    print("full")
"""
_PICTURE = """
import os
from pathlib import Path
import numpy
from shared.errors import StoreFull
from workers.generation.finishing import outputs
try:
    made = outputs.write(Path(os.environ["WANWORKS_HOME"]), [numpy.zeros((16, 16, 3), numpy.uint8)] * 3, 8, "mp4", {})
    print(len(made))
except StoreFull:
    print("full")
"""
_WAITS = "from shared.net.standard_webhooks import WAITS_SECONDS; print(WAITS_SECONDS[0])"
_STEP = """
import sitecustomize
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

@dataclass(frozen=True)
class Signals:
    enter: Any
    check: Any

def steps(model, signals, room, denoising):
    for stage in ("encoding", "denoising", "decoding"):
        signals.enter(stage)
        signals.check()
    return "ran"

module = SimpleNamespace(run=steps)
sitecustomize._pipeline(module)
try:
    print(module.run(None, Signals(lambda stage: print(stage, end=" "), lambda: None), None, None))
except (MemoryError, RuntimeError) as error:
    print(type(error).__name__)
"""
_LOAD = """
import sitecustomize
from types import SimpleNamespace
module = SimpleNamespace(load=lambda: "loaded")
sitecustomize._loading(module)
try:
    print(module.load())
except RuntimeError as error:
    print(type(error).__name__)
"""
_POISONED = """
import sitecustomize, torch
from types import SimpleNamespace
module = SimpleNamespace(load=lambda: float((torch.ones(2, 2) @ torch.ones(2, 2)).sum()))
sitecustomize._loading(module)
for _ in range(2):
    try:
        print(module.load(), end=" ")
    except RuntimeError as error:
        print(type(error).__name__, end=" ")
"""
_PIPELINE = "from workers.generation.pipelines import running; print(running.run.__name__)"


def run(home: Path, program: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "WANWORKS_HOME": str(home), "PYTHONPATH": str(_INJECTION)}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)


_RAN = "encoding denoising decoding ran"


@pytest.mark.parametrize(
    ("program", "flag", "content", "well", "faulty"),
    [
        (_COMMIT, "commit-lost", "1", "committed 1", "unknown 2"),
        (_STORE, "disk-full", "", "job/x", "full"),
        (_PICTURE, "disk-full", "", "4", "full"),
        (_STEP, "pipeline-memory-1", "", _RAN, "encoding MemoryError"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)  # each loads torch twice
            for case in (
                (_STEP, "pipeline-error-1", "", _RAN, "encoding RuntimeError"),
                (_STEP, "oom-denoising-1", "", _RAN, "encoding denoising OutOfMemoryError"),
                (_STEP, "oom-decoding-1", "", _RAN, "encoding denoising decoding OutOfMemoryError"),
                (_LOAD, "oom-loading-1", "", "loaded", "OutOfMemoryError"),
                (_POISONED, "cuda-loading-1", "", "8.0 8.0", "AcceleratorError AcceleratorError"),
            )
        ),
    ],
)
def test_a_fault_is_done_where_a_file_orders_it(
    tmp_path: Path, program: str, flag: str, content: str, well: str, faulty: str
) -> None:
    (tmp_path / "soak").mkdir()
    assert run(tmp_path, program).stdout.strip() == well
    (tmp_path / "soak" / flag).write_text(content)
    assert run(tmp_path, program).stdout.strip() == faulty


@pytest.mark.parametrize(("kind", "code"), [("exit", 1), ("segv", -11)])
def test_a_step_ends_its_process(tmp_path: Path, kind: str, code: int) -> None:
    (tmp_path / "soak").mkdir()
    (tmp_path / "soak" / f"pipeline-{kind}-1").touch()
    assert run(tmp_path, _STEP).returncode == code
    assert run(tmp_path, _STEP).stdout.strip().endswith(" ran")


def test_webhooks_are_sent_again_soon(tmp_path: Path) -> None:
    assert run(tmp_path, _WAITS).stdout.strip() == "1"


@pytest.mark.slow  # torch
def test_the_pipeline_is_the_one_that_can_be_struck(tmp_path: Path) -> None:
    assert run(tmp_path, _PIPELINE).stdout.strip() == "faulty"
