"""What shows nothing is not delivered, and what is delivered has a score."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shared.errors import BadOutput
from tests.support.models.generating import Studio


def test_values_that_are_no_numbers_fail_the_job(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import UniPCMultistepScheduler

    step = UniPCMultistepScheduler.step
    monkeypatch.setattr(
        UniPCMultistepScheduler,
        "step",
        lambda self, output, *args, **kwargs: step(self, output * float("nan"), *args, **kwargs),
    )
    with pytest.raises(BadOutput):
        studio.generate("TI2V-5B")


@pytest.mark.parametrize("size", ["64x64", "96x64", "256x256"])
@pytest.mark.parametrize("model_id", ["T2V-A14B", "I2V-A14B", "TI2V-5B"])
def test_what_the_demo_models_make_may_be_delivered(studio: Studio, model_id: str, size: str) -> None:
    """Random weights make noise of varying brightness: valid frames of low quality."""
    image = studio.picture() if model_id == "I2V-A14B" else None
    quality = studio.generate(model_id, image=image, resolution=size).outcome.quality
    assert all(quality.checks.values())
    assert 0.1 < quality.score < 1.0
    assert quality.measures.frozen_share == 0.0
    assert quality.measures.sharpness > 1.0
    assert quality.measures.contrast > 10


@pytest.mark.parametrize("size", ["64x64", "256x144", "1280x720"])
def test_a_mock_may_be_delivered(tmp_path: Path, size: str) -> None:
    quality = Studio(tmp_path).generate("T2V-A14B", mock=True, resolution=size).outcome.quality
    assert all(quality.checks.values())
    assert quality.score > 0.5


def dazzle(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """A VAE whose output is changed as by broken weights."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d

    forward = WanDecoder3d.forward
    monkeypatch.setattr(WanDecoder3d, "forward", lambda self, *args, **kwargs: change(forward(self, *args, **kwargs)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda picture: torch.full_like(picture, -1.0), "every frame is black"),
        (lambda picture: picture * 0.001, "every frame is of one flat colour"),
        (lambda picture: torch.full_like(picture, float("nan")), "values that are not finite numbers"),
        (lambda picture: picture / 0.0, "values that are not finite numbers"),
    ],
)
def test_output_that_shows_nothing_is_not_delivered(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor], fault: str
) -> None:
    with monkeypatch.context() as patch:
        dazzle(patch, change)
        with pytest.raises(BadOutput, match=fault):
            studio.generate("T2V-A14B")
    assert studio.generate("T2V-A14B").outcome.quality.score > 0.1, "the model itself goes on"


def test_a_still_is_delivered_with_a_low_score(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[torch.Tensor] = []

    def still(picture: torch.Tensor) -> torch.Tensor:
        first.append(picture[:, :, :1])
        return first[0].expand_as(picture)

    dazzle(monkeypatch, still)
    quality = studio.generate("T2V-A14B").outcome.quality
    assert (quality.score, quality.checks["not_frozen"]) == (0.0, False)
