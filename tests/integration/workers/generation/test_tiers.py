"""The speed tiers on the real pipelines with tiny models, on the CPU, with the real compiler."""

import gc
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch._dynamo.utils import counters

from shared.catalogue.job_types import settle
from shared.catalogue.models import CatalogueEntry, Offload
from shared.catalogue.tiers import ByDevice, Tiers, TierSettings
from shared.errors import Cancelled
from shared.states import Phase
from tests.conftest import lacking
from tests.integration.workers.generation.lora_files import write_lora
from tests.integration.workers.generation.stopping import Stop
from tests.integration.workers.generation.test_memory import crowd_out
from tests.support.generating import CATALOGUE, Studio, snapshots
from wanworks.requests import GenerationRequest, Quantization, Speed
from workers.generation import run
from workers.generation.geometry import plan
from workers.generation.pipelines import loras, running
from workers.generation.pipelines.loading import LoadedModel, load
from workers.generation.pipelines.prompts import PromptCache
from workers.generation.pipelines.resuming import Denoising
from workers.generation.pipelines.tiers import compiling

TIERS: tuple[Speed, ...] = ("balanced", "fast")
CACHING = Tiers(fast=ByDevice(cpu=TierSettings(step_cache=0.9), cuda=TierSettings(step_cache=0.9)))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of compiled code that this module's tests share. Skips where there is no compiler."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        lacking("no C++ compiler, which torch.compile needs on a CPU")
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        patch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))
        yield folder


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def test_exact_is_what_it_was_before_and_after_each_tier(studio: Studio, compiled: Path) -> None:
    """Tiers change between jobs on one loaded model, without loading it again."""
    exact = studio.generate("T2V-A14B", speed="exact")
    assert exact.outcome.speed == {
        "tier": "exact",
        "used": {
            "attention": "native", "compiled": False, "step_cache": None, "decode": "float32", "channels_last": False,
        },
        "as_in_catalogue": True,
        "notes": [],
    }  # fmt: skip
    for speed in TIERS:
        made = studio.generate("T2V-A14B", speed=speed)
        assert made.outcome.warm
        assert made.outcome.notes == ()
        assert made.outcome.speed is not None
        used = CATALOGUE.get("T2V-A14B").tiers.of(speed, "cpu").model_dump()
        assert made.outcome.speed["used"] == used
        assert used["compiled"]
        assert made.outcome.manifest["speed"] == speed
        assert made.outcome.manifest["speed_settings"] == used
        before = graphs()
        again = studio.generate("T2V-A14B", speed=speed)
        assert again.sha256 == made.sha256
        assert graphs() == before
        assert studio.generate("T2V-A14B").sha256 == exact.sha256
    assert next(compiled.glob("fxgraph"), None) is not None
