"""What the memory plan computes with, against memory that is really taken; and the command that derives it."""

import os
import subprocess
import sys
import tomllib

import pytest

from shared.catalogue import memory_data
from shared.catalogue.memory_facts import Memory
from shared.models import memory_plan
from shared.models.memory_plan import Size
from tests.support.models.generating import snapshots
from tests.support.places import ROOT

MODELS = (
    "T2V-A14B",
    pytest.param("I2V-A14B", marks=pytest.mark.slow),
    pytest.param("TI2V-5B", marks=pytest.mark.slow),
)


@pytest.mark.slow
@pytest.mark.parametrize("model_id", MODELS)
def test_the_command_prints_the_facts_of_a_model(model_id: str) -> None:
    command = [sys.executable, "-m", "wanworks.cli.main", "measure-memory", model_id]
    command += ["--folder", str(snapshots()[model_id])]
    environment = {**os.environ, "WANWORKS_CATALOGUE": "demo"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    printed = tomllib.loads(done.stdout)["models"][model_id]["memory"]
    assert Memory.model_validate(printed) == memory_data.TINY[model_id]


@pytest.mark.slow
def test_files_that_are_not_those_of_the_configuration_are_refused(tmp_path: os.PathLike[str]) -> None:
    command = [sys.executable, "-m", "wanworks.cli.main", "measure-memory", "T2V-A14B", "--folder", str(tmp_path)]
    environment = {**os.environ, "WANWORKS_CATALOGUE": "demo"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 1
    assert "has not the configuration of such a model" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("stage", "size"),
    [("decode", (256, 192, 17)), ("decode", (352, 256, 17)), ("denoise", (416, 240, 33)), ("denoise", (640, 384, 33))],
)
def test_a_stage_at_the_published_widths_takes_what_is_planned(stage: str, size: tuple[int, int, int]) -> None:
    command = [sys.executable, "-m", "tests.support.devices.peak_of_a_stage", stage, *map(str, size)]
    # Freed memory returns to the system at once, or the peak would include what is kept for later.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    measured = int(done.stdout)
    planned = Size(*size, image=False)
    plan = memory_plan.decode_bytes if stage == "decode" else memory_plan.denoise_bytes
    with_margin = plan(memory_data.T2V_A14B, planned)
    print(f"{stage} {size}: measured {measured / 1e9:.3f} GB, planned with margin {with_margin / 1e9:.3f} GB")
    assert 0.85 * with_margin <= measured <= 1.02 * with_margin
