"""Presets in the default catalogue and in files: whose weights they run, what they fix, and what is refused."""

from pathlib import Path

import pytest

from shared.catalogue import models as catalogue
from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import Catalogue
from shared.catalogue.resolving import resolve
from shared.errors import ConfigurationError, InvalidField
from shared.models import memory_plan
from shared.models.memory_plan import Size
from wanworks.requests import GenerationRequest

PRESET = """
[models.Quick]
extends = "TI2V-5B"
fixed = ["steps", "flow_shift"]
defaults = { steps = 8, flow_shift = 3.0 }
[models.Quick.lora]
repo = "me/quick"
high = "quick.safetensors"
scale = 0.8
file_mb = 200
"""


def loaded(folder: Path, text: str) -> Catalogue:
    file = folder / "models.toml"
    file.write_text(text)
    return catalogue.load(str(file))


def settled(models: Catalogue, model_id: str, **asked: object) -> GenerationParams:
    request = GenerationRequest.model_validate({"model_id": model_id, "prompt": "a cat", **asked})
    return resolve(request, models.get(model_id), None)


def test_the_default_presets_run_the_weights_of_their_bases() -> None:
    models = catalogue.load("default")
    for base in ("T2V-A14B", "I2V-A14B"):
        entry = models.get(f"{base}-Lightning")
        assert (entry.extends, entry.weights_id, entry.requires, entry.repo) == (
            base,
            base,
            base,
            models.get(base).repo,
        )
        assert (entry.caveat, entry.passes, models.get(base).passes) == ("not tried with real weights", 4.0, 80.0)
        assert entry.lora is not None
        assert entry.own_repo == entry.lora.repo == "lightx2v/Wan2.2-Lightning"
        assert entry.total_gb == 126 + 2 * 1.227
    assert all(entry.caveat is None for entry in catalogue.load("demo").entries)


def test_a_file_defines_a_preset(tmp_path: Path) -> None:
    models = loaded(tmp_path, PRESET)
    params = settled(models, "Quick", steps=8)
    assert (params.steps, params.flow_shift, params.guidance_scale) == (8, 3.0, 5.0)
    assert params.model_cache_key == settled(models, "TI2V-5B").model_cache_key == "TI2V-5B:none"
    with pytest.raises(InvalidField, match="50 is not supported by Quick, which fixes it; allowed: 8"):
        settled(models, "Quick", steps=50)
    assert settled(models, "Quick", guidance_scale=2.0).guidance_scale == 2.0


def test_weights_of_its_own_give_a_preset_a_cache_key_of_its_own(tmp_path: Path) -> None:
    models = loaded(tmp_path, """
        [models.Turbo]
        extends = "TI2V-5B"
        repo = "me/turbo"
        fixed = ["steps"]
        defaults = { steps = 4 }
    """)  # fmt: skip
    assert (models.get("Turbo").extends, models.get("Turbo").own_repo) == (None, "me/turbo")
    assert settled(models, "Turbo").model_cache_key == "Turbo:none"


def test_the_default_presets_follow_a_changed_base(tmp_path: Path) -> None:
    models = loaded(tmp_path, """
        [models."T2V-A14B"]
        extends = "T2V-A14B"
        revision = "abc"
        [models."T2V-A14B-Lightning"]
        extends = "T2V-A14B-Lightning"
        caveat = ""
        lora = { scale = 0.9 }
        [models."I2V-A14B"]
        extends = "TI2V-5B"
    """)  # fmt: skip
    entry = models.get("T2V-A14B-Lightning")
    assert (entry.revision, entry.extends, entry.caveat) == ("abc", "T2V-A14B", "")
    assert entry.lora is not None
    assert (entry.lora.scale, entry.lora.repo) == (0.9, "lightx2v/Wan2.2-Lightning")
    assert "I2V-A14B-Lightning" not in models.model_ids, "its base has one transformer now"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PRESET.replace('"quick.safetensors"', '"../quick.safetensors"'), "lora.high"),
        (PRESET.replace("high =", "low ="), "lora.low is for a second transformer"),
        (PRESET.replace('high = "quick.safetensors"', ""), "lora needs a file"),
        (PRESET.replace('extends = "TI2V-5B"', 'extends = "TI2V-5B"\nrepo = "me/other"'), "use its weights"),
        (PRESET.replace('"flow_shift"]', '"guidance_scale_2"]'), "guidance_scale_2, which has no default"),
        (PRESET.replace('"flow_shift"]', '"seed"]'), "fixed.1"),
    ],
)
def test_a_preset_that_cannot_work_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        loaded(tmp_path, text)
    assert said in str(refused.value)
    assert "[models.Quick]" in str(refused.value)


def test_loras_count_in_the_memory_plan() -> None:
    base, preset = (catalogue.load("default").get(name) for name in ("T2V-A14B", "T2V-A14B-Lightning"))
    size, lora = memory_plan.default_size(base), 1_227_000_000
    assert memory_plan.default_size(preset) == Size(size.width, size.height, size.frames, size.image, lora)
    for plain, more in zip(
        memory_plan.plans(base, "none", size, "cuda"),
        memory_plan.plans(preset, "none", memory_plan.default_size(preset), "cuda"),
        strict=True,
    ):
        stages, with_lora = dict(plain.stages), dict(more.stages)
        assert with_lora["denoising"] - stages["denoising"] == 2 * lora, "each expert has its own"
        assert with_lora["decoding"] == stages["decoding"], "it is gone by then"
        assert more.device >= plain.device


def test_a_step_without_guidance_counts_half() -> None:
    models = catalogue.load("default")
    guided = settled(models, "T2V-A14B")
    assert settled(models, "T2V-A14B", guidance_scale=1.0).work == guided.work / 2
    assert settled(models, "T2V-A14B", guidance_scale=4.0, guidance_scale_2=1.0).work == guided.work * 0.75
