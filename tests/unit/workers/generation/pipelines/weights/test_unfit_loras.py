"""What of a LoRA file does not apply is reported, and an invalid file is bad input."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shared.errors import BadInput, Cancelled
from tests.unit.workers.generation.pipelines.weights.lora_files import (
    KOHYA_PARTS,
    PEFT_PARTS,
    _same,
    _suffixed,
    changed,
    counts,
    differences,
    lay_on,
    of_pairs,
    output,
    pairs,
    pipeline,
)
from wanworks.requests import Lora
from workers.generation.pipelines.weights import loras


def test_keys_that_do_not_apply_are_reported_with_the_reason(tmp_path: Path) -> None:
    given = pairs(("blocks.0.self_attn.q", "blocks.0.self_attn.k", "blocks.0.self_attn.v"))
    file = _suffixed("diffusion_model.", given, *KOHYA_PARTS, _same)
    file |= {
        "diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": torch.ones(4, 24),
        "diffusion_model.blocks.7.self_attn.q.lora_up.weight": torch.ones(24, 4),
        "diffusion_model.blocks.1.self_attn.q.lora_down.weight": torch.ones(4, 24),
        "diffusion_model.blocks.1.ffn.0.lora_down.weight": torch.ones(4, 99),
        "diffusion_model.blocks.1.ffn.0.lora_up.weight": torch.ones(32, 4),
        "diffusion_model.blocks.0.self_attn.k.dora_scale": torch.ones(24, 1),
        "diffusion_model.blocks.1.ffn.2.hada_w1_a": torch.ones(24, 4),
        "diffusion_model.blocks.1.ffn.2.weight": torch.ones(24, 32),
        "diffusion_model.patch_embedding.diff": torch.ones(24, 36, 1, 2, 2),
        "text_encoders.nothing": torch.ones(1),
    }
    save_file(file, tmp_path / "style.safetensors")
    made, reports = lay_on(tmp_path)
    kept = {name: pair for name, pair in given.items() if not name.endswith(".k")}
    torch.testing.assert_close(made[0], output(changed(1, of_pairs(kept))), atol=1e-5, rtol=1e-4)
    assert counts(reports)[0] == ("high_noise", 4, len(file))
    reasons = {item["key"].removeprefix("diffusion_model."): item["reason"] for item in reports[0]["not_applied"]}
    assert reasons == {
        "blocks.0.cross_attn.k_img.lora_down.weight": "the model has no such module",
        "blocks.7.self_attn.q.lora_up.weight": "the model has no such module",
        "blocks.1.self_attn.q.lora_down.weight": "the other half of the pair is not in the file",
        "blocks.1.ffn.0.lora_down.weight": "its shape is [4, 99], and the model's is [4, 24]",
        "blocks.1.ffn.0.lora_up.weight": "its shape is [4, 99], and the model's is [4, 24]",
        "blocks.0.self_attn.k.lora_down.weight": "DoRA is not supported",
        "blocks.0.self_attn.k.lora_up.weight": "DoRA is not supported",
        "blocks.0.self_attn.k.dora_scale": "DoRA is not supported",
        "blocks.1.ffn.2.hada_w1_a": "LoHa is not supported",
        "blocks.1.ffn.2.weight": "it is a weight of a model, not of a LoRA",
        "patch_embedding.diff": "its shape is [24, 36, 1, 2, 2], and the model's is [24, 4, 1, 2, 2]",
        "text_encoders.nothing": "it is no key of a LoRA",
    }


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ({"text_model.layers.0.lora_A.weight": torch.ones(4, 24)}, "none of the 1 keys .* no such module"),
        ({"blocks.0.self_attn.q.weight": torch.ones(24, 24)}, "a weight of a model, not of a LoRA"),
        ({"blocks.0.self_attn.q.lokr_w1": torch.ones(2, 2)}, "LoKr is not supported"),
        ({f"blocks.0.ffn.0.lora_{half}.weight": torch.ones(128, 128) for half in "AB"}, "its shape is"),
        ({f"blocks.0.ffn.0.lora_{half[0]}.weight": torch.zeros(half[1]) for half in (("A", (4, 24)), ("B", (32, 4)))},
         "would change nothing"),
        ({f"blocks.0.ffn.0.lora_{half[0]}.weight": torch.full(half[1], float("nan"))
          for half in (("A", (4, 24)), ("B", (32, 4)))}, "not finite numbers, first in 'blocks"),
        ({"blocks.0.ffn.0.alpha": torch.tensor(4.0)}, "other half"),
        ({}, "none of the 0 keys"),
    ],
)  # fmt: skip
def test_a_file_that_changes_nothing_is_bad_input(tmp_path: Path, file: dict[str, torch.Tensor], reason: str) -> None:
    save_file(file, tmp_path / "style.safetensors")
    with pytest.raises(BadInput, match=f"style.*{reason}"):
        lay_on(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 300\n", "git-LFS pointer"),
        (b"", "damaged or no safetensors file"),
        (b"PK\x03\x04 a pickle", "damaged or no safetensors file"),
    ],
)
def test_an_invalid_file_is_bad_input(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "style.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=f"style.*{reason}"):
        lay_on(tmp_path)


def test_a_file_that_is_cut_off_is_bad_input(tmp_path: Path) -> None:
    save_file(_suffixed("", pairs(), *PEFT_PARTS, _same), tmp_path / "whole")
    (tmp_path / "style.safetensors").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    with pytest.raises(BadInput, match="damaged or no safetensors file"):
        lay_on(tmp_path)


@pytest.mark.parametrize("content", ["[]", "not JSON", '{"lora_alpha": "high"}', '{"alpha_pattern": [1]}'])
def test_an_invalid_configuration_is_bad_input(tmp_path: Path, content: str) -> None:
    save_file(_suffixed("", pairs(), *PEFT_PARTS, _same), tmp_path / "style.safetensors")
    (tmp_path / "style.json").write_text(content)
    with pytest.raises(BadInput, match=r"style\.json is not a valid PEFT adapter configuration"):
        lay_on(tmp_path)


def test_what_is_applied_when_the_job_fails_is_taken_off_again(tmp_path: Path) -> None:
    save_file({f"diffusion_model.{key}": added for key, added in differences().items()}, tmp_path / "style.safetensors")
    pipe = pipeline()
    before = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
    found = loras.find([Lora(name="style")], tmp_path, 2)

    def stopped() -> None:
        with loras.applied(pipe, torch.float32, found):
            # As a cancelled job may leave it where parameters are moved to the device and back.
            pipe.transformer.to(torch.float64).to(torch.float32)
            raise Cancelled

    with pytest.raises(Cancelled):
        stopped()
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipe.transformer.state_dict().items())
