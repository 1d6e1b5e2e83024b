"""Presets on the real pipelines with tiny models: their base's weights, their own LoRA, their fixed parameters."""

from pathlib import Path
from typing import Any

import pytest

from shared.catalogue import models
from shared.catalogue.models import CatalogueEntry
from shared.errors import InvalidField, ModelUnavailable
from shared.models import replicas
from tests.support.models.generating import CATALOGUE, Studio, snapshots
from workers.generation import demo_models, run
from workers.generation.pipelines import warm
from workers.generation.pipelines.weights import loading, loras

PRESET, BASE = "T2V-A14B-Lightning", "T2V-A14B"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The entries whose weights were read from the disk."""
    found: list[str] = []

    def counted(snapshot: Path, entry: CatalogueEntry, *others: Any) -> loading.LoadedModel:
        found.append(entry.model_id)
        return loading.load(snapshot, entry, *others)

    monkeypatch.setattr(warm, "load", counted)
    return found


def test_switching_between_base_and_preset_loads_no_weights(studio: Studio, loads: list[str]) -> None:
    before = studio.generate(BASE, steps=4)
    preset = studio.generate(PRESET, steps=4)
    after = studio.generate(BASE, steps=4)
    assert loads == [BASE]
    assert preset.outcome.warm
    assert after.outcome.warm
    assert run.warm()[0]["model_id"] == BASE
    assert before.sha256 == after.sha256, "the LoRA leaves nothing behind"
    run.free()
    fresh = studio.generate(PRESET, steps=4)
    assert loads == [BASE, PRESET]
    assert fresh.sha256 == preset.sha256 != before.sha256


@pytest.mark.parametrize("preset", [PRESET, "I2V-A14B-Lightning"])
def test_a_preset_runs_its_fixed_parameters_and_its_lora(studio: Studio, preset: str) -> None:
    image = studio.picture() if preset.startswith("I2V") else None
    outcome = studio.generate(preset, image=image, steps=None).outcome
    described = outcome.manifest
    fixed = {name: described[name] for name in ("steps", "guidance_scale", "guidance_scale_2", "flow_shift")}
    assert fixed == {"steps": 4, "guidance_scale": 1.0, "guidance_scale_2": 1.0, "flow_shift": 5.0}
    (lora,) = described["loras"]
    assert (lora["name"], lora["scale"]) == (preset, 1.0)
    assert sorted(lora["files"]) == ["high_noise_model.safetensors", "low_noise_model.safetensors"]
    assert [(each["expert"], each["keys_not_applied"]) for each in outcome.loras] == [
        ("high_noise", 0), ("low_noise", 0),
    ]  # fmt: skip
    assert not outcome.notes


def test_a_lora_of_the_request_is_applied_beside_that_of_the_preset(studio: Studio) -> None:
    (folder,) = {snapshots()[BASE].parents[2]}
    own = replicas.lora_dir(folder, CATALOGUE.get(PRESET))
    assert own is not None
    (source,) = own.glob("*T2V*/high_noise_model.safetensors")
    (studio.settings.loras_dir / "mine.safetensors").write_bytes(source.read_bytes())
    alone = studio.generate(PRESET, steps=None)
    both = studio.generate(PRESET, steps=None, loras=[{"name": "mine", "scale": 0.5}])
    assert [lora["name"] for lora in both.outcome.manifest["loras"]] == [PRESET, "mine"]
    assert alone.sha256 != both.sha256


def test_a_preset_without_its_lora_runs_nothing(studio: Studio) -> None:
    with pytest.raises(ModelUnavailable, match="The LoRA of T2V-A14B-Lightning is not on this node"):
        loras.of_preset(CATALOGUE.get(PRESET), None)


def test_fixed_parameters_cannot_be_contradicted(studio: Studio) -> None:
    with pytest.raises(InvalidField) as refused:
        studio.generate(PRESET, steps=20, flow_shift=12.0, guidance_scale=1.0)
    assert [error.loc[-1] for error in refused.value.errors] == ["steps", "flow_shift"]
    assert refused.value.errors[0].msg == (
        "20 is not supported by T2V-A14B-Lightning, which fixes it; allowed: 4. Leave it out, or use T2V-A14B, which "
        "does not fix it"
    )


def test_the_demo_writes_the_lora_once_and_the_same(tmp_path: Path) -> None:
    one, two = demo_models.make_loras(tmp_path / "one"), demo_models.make_loras(tmp_path / "two")
    assert one.name == two.name
    assert demo_models.make_loras(tmp_path / "one") == one
    for model_id in (PRESET, "I2V-A14B-Lightning"):
        assert replicas.scan(tmp_path / "one", models.load("demo").get(model_id)).state == "available"
