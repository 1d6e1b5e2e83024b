"""Two loaded models share a text encoder and a VAE of equal files, and each gives the same video as alone."""

import gc
from pathlib import Path

import pytest
import torch

from tests.support.models.generating import Studio
from tests.support.models.prepared_models import prepared_here, with_equal_parts
from workers.generation import run
from workers.generation.pipelines.weights.loading import LoadedModel


def loaded() -> list[LoadedModel]:
    models = run._warm_models
    assert models is not None
    return list(models._models.values())


@pytest.mark.parametrize("prepared", [False, True])
def test_equal_parts_are_one_object(tmp_path: Path, studio: Studio, prepared: bool) -> None:
    one, other = with_equal_parts(tmp_path / "models")
    if prepared:
        prepared_here(tmp_path / "models", "T2V-A14B")
        prepared_here(tmp_path / "models", "I2V-A14B")
    both = Studio(tmp_path / "both", warm_models=2)
    picture = both.picture()
    alone = both.generate("T2V-A14B", snapshot=one, quantization="bf16")
    run.free()
    image_alone = both.generate("I2V-A14B", image=picture, snapshot=other, quantization="bf16")
    again = both.generate("T2V-A14B", snapshot=one, quantization="bf16")
    assert again.sha256 == alone.sha256
    image, text = loaded()
    assert text.pipeline.text_encoder is image.pipeline.text_encoder
    assert text.pipeline.vae is image.pipeline.vae
    assert text.pipeline.transformer is not image.pipeline.transformer
    warm = both.generate("I2V-A14B", image=picture, snapshot=other, quantization="bf16", seed=7)
    assert warm.outcome.warm
    assert warm.sha256 == image_alone.sha256


def test_unequal_parts_are_not_shared(tmp_path: Path, studio: Studio) -> None:
    one, other = with_equal_parts(tmp_path / "models", components=("vae",))
    both = Studio(tmp_path / "both", warm_models=2)
    both.generate("T2V-A14B", snapshot=one)
    both.generate("I2V-A14B", image=both.picture(), snapshot=other)
    text, image = loaded()
    assert text.pipeline.text_encoder is not image.pipeline.text_encoder
    assert text.pipeline.vae is image.pipeline.vae


def test_hooks_on_a_shared_part_end_with_their_model(tmp_path: Path, studio: Studio) -> None:
    one, other = with_equal_parts(tmp_path / "models")
    both = Studio(tmp_path / "both", warm_models=2)
    both.generate("I2V-A14B", image=both.picture(), snapshot=other)
    gc.collect()  # models of earlier tests that came from equal files
    block = loaded()[0].pipeline.text_encoder.encoder.block[0]
    before = len(block._forward_pre_hooks)
    both.generate("T2V-A14B", snapshot=one)
    text = loaded()[1]
    assert len(block._forward_pre_hooks) == before + 1
    tokens = torch.ones(1, 4, dtype=torch.long)

    def stop() -> None:
        raise InterruptedError

    text.stops.check = stop
    with pytest.raises(InterruptedError):
        text.pipeline.text_encoder(input_ids=tokens)
    text.stops.clear()
    text.pipeline.text_encoder(input_ids=tokens)
    models = run._warm_models
    assert models is not None
    del models._models[text.key], text
    gc.collect()
    assert len(block._forward_pre_hooks) == before
