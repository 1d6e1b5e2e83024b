"""LoRA files of every format change the weights as specified, and are removed completely.

The reference is a second transformer whose weights are changed by plain arithmetic. Names in the original WAN code are
turned into those of diffusers by diffusers' own converter of checkpoints, not by ours.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from safetensors.torch import save_file

from tests.unit.workers.generation.pipelines.weights.lora_files import (
    ALL,
    FORMATS,
    KOHYA_PARTS,
    PEFT_PARTS,
    RANK,
    _in_diffusers,
    _same,
    _suffixed,
    _transformers,
    changed,
    counts,
    differences,
    diffusers_name,
    lay_on,
    of_differences,
    of_pairs,
    output,
    pairs,
    pipeline,
)
from wanworks.requests import Lora
from workers.generation.pipelines.weights import lora_formats, loras
from workers.generation.pipelines.weights.lora_formats import Targets


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_adds_scale_alpha_over_rank_times_up_times_down(tmp_path: Path, name: str) -> None:
    prefix, (down, up), rename = FORMATS[name]
    alphas = itertools.cycle((None, 2.0, 12.0, 1.0))
    given = {module: (*pair[:2], next(alphas)) for module, pair in pairs().items()}
    file = _suffixed(prefix, given, down, up, rename)
    save_file(file, tmp_path / "style.safetensors")
    made, reports = lay_on(tmp_path, scale=0.7)
    for expert in (1, 2):
        expected = output(changed(expert, of_pairs(given, 0.7)))
        assert not torch.allclose(expected, output(_transformers()[expert - 1]), atol=1e-3)
        torch.testing.assert_close(made[expert - 1], expected, atol=1e-5, rtol=1e-4)
    assert counts(reports) == [("high_noise", len(file), len(file)), ("low_noise", len(file), len(file))]
    assert all(report["not_applied"] == [] for report in reports)


def test_our_names_are_those_of_diffusers() -> None:
    """For every parameter, and for the image parts that WAN 2.1 has."""
    shape = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 16, "ffn_dim": 32}
    image = WanTransformer3DModel(num_layers=1, in_channels=4, image_dim=8, added_kv_proj_dim=24, **shape)
    names = [name for name, _ in (*_transformers()[0].named_parameters(), *image.named_parameters())]
    assert any("image_embedder" in name for name in names)
    assert [diffusers_name(lora_formats.original_name(name)) for name in names] == names


@pytest.mark.parametrize("format", ["musubi", "ComfyUI", "lightx2v"])
def test_a_complete_file_is_read_as_diffusers_reads_it(format: str) -> None:
    prefix, (down, up), rename = FORMATS[format]
    blocks = tuple(name for name in ALL if name.startswith("blocks."))
    given = pairs(blocks, alpha=3.0 if format == "musubi" else None)
    file = _suffixed(prefix, given, down, up, rename)
    convert = (
        _convert_musubi_wan_lora_to_diffusers if format == "musubi" else _convert_non_diffusers_wan_lora_to_diffusers
    )
    theirs = convert(dict(file))
    ours = lora_formats.read(file, Targets(_transformers()[0]), 1, 2).low_rank
    assert {f"transformer.{module}.lora_A.weight" for module in ours} < theirs.keys()
    assert 2 * len(ours) == len(theirs)
    for module, pair in ours.items():
        their_delta = theirs[f"transformer.{module}.lora_B.weight"] @ theirs[f"transformer.{module}.lora_A.weight"]
        torch.testing.assert_close(pair.factor * pair.up @ pair.down, their_delta)


@pytest.mark.parametrize("prefix", ["diffusion_model.", ""])
def test_differences_are_added(tmp_path: Path, prefix: str) -> None:
    given = pairs(("blocks.0.self_attn.q", "blocks.1.cross_attn.v"))
    file = _suffixed(prefix, given, *KOHYA_PARTS, _same) | {f"{prefix}{key}": v for key, v in differences().items()}
    save_file(file, tmp_path / "style.safetensors")
    made, reports = lay_on(tmp_path, scale=-0.5)
    for expert in (1, 2):
        expected = output(changed(expert, {**of_pairs(given, -0.5), **of_differences(-0.5)}))
        torch.testing.assert_close(made[expert - 1], expected, atol=1e-5, rtol=1e-4)
    assert {report["keys_applied"] for report in reports} == {len(file)}


def test_differences_alone_are_a_lora(tmp_path: Path) -> None:
    save_file({f"diffusion_model.{key}": added for key, added in differences().items()}, tmp_path / "style.safetensors")
    made, _ = lay_on(tmp_path)
    torch.testing.assert_close(made[0], output(changed(1, of_differences(1.0))), atol=1e-5, rtol=1e-4)


def test_the_bias_of_a_pair_is_scaled_with_it(tmp_path: Path) -> None:
    given = pairs(("blocks.0.ffn.0", "blocks.0.ffn.2"), alpha=8.0)
    file = _suffixed("base_model.model.", given, *PEFT_PARTS, _same)
    bias = torch.linspace(-1, 1, 32)
    save_file({**file, "base_model.model.blocks.0.ffn.0.lora_B.bias": bias}, tmp_path / "style.safetensors")
    made, _ = lay_on(tmp_path)
    expected = changed(1, {**of_pairs(given), "blocks.0.ffn.0.bias": bias * 8.0 / RANK})
    torch.testing.assert_close(made[0], output(expected), atol=1e-5, rtol=1e-4)


def test_pairs_of_different_ranks_and_a_convolution(tmp_path: Path) -> None:
    small, large = pairs(("blocks.0.self_attn.q",), alpha=1.0, rank=2), pairs(("blocks.1.ffn.0",), alpha=4.0, rank=16)
    generator = torch.Generator().manual_seed(4)
    down, up = torch.randn(3, 4, 1, 2, 2, generator=generator), torch.randn(24, 3, 1, 1, 1, generator=generator)
    file = _suffixed("diffusion_model.", {**small, **large}, *KOHYA_PARTS, _same)
    file |= {
        "diffusion_model.patch_embedding.lora_down.weight": down,
        "diffusion_model.patch_embedding.lora_up.weight": up,
    }
    save_file(file, tmp_path / "style.safetensors")
    made, _ = lay_on(tmp_path)
    expected = {**of_pairs({**small, **large}), "patch_embedding.weight": up.flatten(1) @ down.flatten(1)}
    torch.testing.assert_close(made[0], output(changed(1, expected)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_every_type_of_number(tmp_path: Path, dtype: torch.dtype) -> None:
    given = {name: (down.to(dtype), up.to(dtype), alpha) for name, (down, up, alpha) in pairs(alpha=2.0).items()}
    save_file(_suffixed("diffusion_model.", given, *KOHYA_PARTS, _same), tmp_path / "style.safetensors")
    made, _ = lay_on(tmp_path)
    exact = {name: (down.float(), up.float(), alpha) for name, (down, up, alpha) in given.items()}
    torch.testing.assert_close(made[0], output(changed(1, of_pairs(exact))), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({"r": RANK, "lora_alpha": 8}, 2.0),
        ({"r": RANK, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": RANK, "lora_alpha": 1, "alpha_pattern": {"attn1.to_q": 16, "self_attn.q": 16}}, 4.0),
    ],
)
@pytest.mark.parametrize("where", ["header", "file"])
def test_an_alpha_outside_the_keys_counts(tmp_path: Path, config: dict[str, Any], factor: float, where: str) -> None:
    given = pairs(("blocks.0.self_attn.q", "blocks.1.self_attn.q"))
    file = _suffixed("transformer.", given, *PEFT_PARTS, _in_diffusers)
    header = json.dumps({f"transformer.{name}": value for name, value in config.items()})
    save_file(file, tmp_path / "style.safetensors", {"lora_adapter_metadata": header} if where == "header" else None)
    if where == "file":
        (tmp_path / "style.json").write_text(json.dumps(config))
    made, reports = lay_on(tmp_path)
    torch.testing.assert_close(made[0], output(changed(1, of_pairs(given, factor))), atol=1e-5, rtol=1e-4)
    assert reports[0]["alpha"] == ("header" if where == "header" else "style.json")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("transformer.", "transformer_2."),
        ("transformer_1.", "transformer_2."),
        ("high_noise_model.", "low_noise_model."),
    ],
)
def test_one_file_for_two_experts(tmp_path: Path, first: str, second: str) -> None:
    high, low = pairs(("blocks.0.self_attn.q",)), pairs(("blocks.1.ffn.2", "blocks.0.ffn.0"))
    file = _suffixed(first, high, *PEFT_PARTS, _same) | _suffixed(second, low, *PEFT_PARTS, _same)
    save_file(file, tmp_path / "style.safetensors")
    made, reports = lay_on(tmp_path)
    torch.testing.assert_close(made[0], output(changed(1, of_pairs(high))), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made[1], output(changed(2, of_pairs(low))), atol=1e-5, rtol=1e-4)
    assert counts(reports) == [("high_noise", 2, 2), ("low_noise", 4, 4)]


def test_a_pair_of_files_reaches_each_its_expert(tmp_path: Path) -> None:
    high, low = pairs(("blocks.0.self_attn.q",)), pairs(("blocks.1.ffn.2", "blocks.0.ffn.0"))
    save_file(_suffixed("", high, *PEFT_PARTS, _same), tmp_path / "style.high.safetensors")
    save_file(
        _suffixed("lora_unet_", low, *KOHYA_PARTS, lambda name: name.replace(".", "_")),
        tmp_path / "style.low.safetensors",
    )
    made, reports = lay_on(tmp_path)
    torch.testing.assert_close(made[0], output(changed(1, of_pairs(high))), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made[1], output(changed(2, of_pairs(low))), atol=1e-5, rtol=1e-4)
    assert [(each["file"], each["expert"], each["keys_applied"]) for each in reports] == [
        ("style.high.safetensors", "high_noise", 2),
        ("style.low.safetensors", "low_noise", 4),
    ]


def test_a_model_with_one_transformer(tmp_path: Path) -> None:
    given, low = pairs(("blocks.0.self_attn.q",)), pairs(("blocks.0.self_attn.q",))
    file = _suffixed("transformer.", given, *PEFT_PARTS, _same) | _suffixed("transformer_2.", low, *PEFT_PARTS, _same)
    save_file(file, tmp_path / "style.safetensors")
    made, reports = lay_on(tmp_path, experts=1)
    torch.testing.assert_close(made[0], output(changed(1, of_pairs(given))), atol=1e-5, rtol=1e-4)
    assert counts(reports) == [("only", 2, 4)]
    assert "one transformer" in reports[0]["not_applied"][0]["reason"]


def test_two_loras_add_up(tmp_path: Path) -> None:
    given = pairs(alpha=2.0)
    save_file(_suffixed("", given, *PEFT_PARTS, _same), tmp_path / "one.safetensors")
    save_file({f"diffusion_model.{key}": added for key, added in differences().items()}, tmp_path / "other.safetensors")
    pipe = pipeline()
    chosen = [Lora(name="one", scale=0.5), Lora(name="other", scale=2.0)]
    with loras.applied(pipe, torch.float32, loras.find(chosen, tmp_path, 2)):
        made = output(pipe.transformer)
    both = of_pairs(given, 0.5)
    for name, added in of_differences(2.0).items():
        both[name] = both.get(name, torch.zeros(1)) + added
    torch.testing.assert_close(made, output(changed(1, both)), atol=1e-5, rtol=1e-4)
