"""LoRA files of every format change the weights as specified, and are removed completely.

The reference is a second transformer whose weights are changed by plain arithmetic. Names in the original WAN code are
turned into those of diffusers by diffusers' own converter of checkpoints, not by ours.
"""

import copy
import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import save_file

from shared.errors import BadInput, Cancelled
from wanworks.requests import Lora
from workers.generation.pipelines import lora_formats, loras
from workers.generation.pipelines.lora_formats import Targets

RANK = 4
LINEAR = (
    "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
    "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o", "ffn.0", "ffn.2",
)  # fmt: skip
OTHERS = ("time_embedding.0", "time_embedding.2", "text_embedding.0", "text_embedding.2", "time_projection.1")
ALL = (*(f"blocks.{block}.{name}" for block in (0, 1) for name in LINEAR), *OTHERS, "head.head")
# {module in the original naming: (down, up, alpha)}
Pairs = dict[str, tuple[torch.Tensor, torch.Tensor, float | None]]


@cache
def _transformers() -> tuple[Any, Any]:
    torch.manual_seed(0)
    shape = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 16, "ffn_dim": 32}
    made = [WanTransformer3DModel(num_layers=2, in_channels=4, out_channels=4, **shape) for _ in range(2)]
    return made[0].eval(), made[1].eval()


def pipeline(experts: int = 2) -> Any:
    high, low = _transformers()
    return WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=UniPCMultistepScheduler(),
        transformer=high, transformer_2=low if experts == 2 else None,
    )  # fmt: skip


def diffusers_name(original: str) -> str:
    """Of a parameter, as diffusers itself converts it."""
    (name,) = convert_wan_transformer_to_diffusers({original: torch.zeros(1)})
    return str(name)


def pairs(modules: tuple[str, ...] = ALL, alpha: float | None = None, rank: int = RANK) -> Pairs:
    generator = torch.Generator().manual_seed(3)
    made: Pairs = {}
    for module in modules:
        weight = dict(_transformers()[0].named_parameters())[diffusers_name(f"{module}.weight")]
        down = torch.randn(rank, weight.shape[1], generator=generator) * 0.2
        made[module] = down, torch.randn(weight.shape[0], rank, generator=generator) * 0.2, alpha
    return made


def changed(expert: int, changes: dict[str, torch.Tensor]) -> Any:
    """A transformer with these added to its parameters, by original name."""
    made = copy.deepcopy(_transformers()[expert - 1])
    parameters = dict(made.named_parameters())
    for name, added in changes.items():
        parameters[diffusers_name(name)].data += added.reshape(parameters[diffusers_name(name)].shape)
    return made


def of_pairs(given: Pairs, scale: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        f"{module}.weight": scale * (1.0 if alpha is None else alpha / down.shape[0]) * up @ down
        for module, (down, up, alpha) in given.items()
    }


def output(transformer: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 2, 4, 4, generator=generator)
    text = torch.randn(1, 6, 8, generator=generator)
    with torch.no_grad():
        made: torch.Tensor = transformer(latents, torch.tensor([500]), text, return_dict=False)[0]
    return made


def lay_on(folder: Path, scale: float = 1.0, experts: int = 2) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """(what each transformer makes with the LoRA `style` on it, the reports); checks that no trace is left."""
    pipe = pipeline(experts)
    transformers = [pipe.transformer, pipe.transformer_2][:experts]
    before = [{name: tensor.clone() for name, tensor in each.state_dict().items()} for each in transformers]
    found = loras.find([Lora(name="style", scale=scale)], folder, experts)
    with loras.applied(pipe, torch.float32, found) as reports:
        made = [output(each) for each in transformers]
    for each, old in zip(transformers, before, strict=True):
        after = each.state_dict()
        assert after.keys() == old.keys()
        assert all(torch.equal(after[name], old[name]) for name in old)
    return made, reports


def counts(reports: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    return [(each["expert"], each["keys_applied"], each["keys"]) for each in reports]


def _suffixed(prefix: str, given: Pairs, down: str, up: str, rename: Callable[[str], str]) -> dict[str, torch.Tensor]:
    made = {}
    for module, (low, high, alpha) in given.items():
        made[f"{prefix}{rename(module)}{down}"] = low
        made[f"{prefix}{rename(module)}{up}"] = high
        if alpha is not None:
            made[f"{prefix}{rename(module)}.alpha"] = torch.tensor(alpha)
    return made


def _in_diffusers(module: str) -> str:
    return diffusers_name(f"{module}.weight").removesuffix(".weight")


def _same(module: str) -> str:
    return module


PEFT_PARTS = (".lora_A.weight", ".lora_B.weight")
KOHYA_PARTS = (".lora_down.weight", ".lora_up.weight")
FORMATS: dict[str, tuple[str, tuple[str, str], Callable[[str], str]]] = {
    "DiffSynth": ("", (".lora_A.default.weight", ".lora_B.default.weight"), _same),
    "DiffSynth, older": ("pipe.dit.", (".lora_A.default.weight", ".lora_B.default.weight"), _same),
    "musubi": ("lora_unet_", KOHYA_PARTS, lambda module: module.replace(".", "_")),
    "kohya of diffusers' modules": ("lora_unet_", KOHYA_PARTS, lambda module: _in_diffusers(module).replace(".", "_")),
    "kohya, half flattened": ("lora_unet_", KOHYA_PARTS, _same),
    "diffusers": ("transformer.", PEFT_PARTS, _in_diffusers),
    "diffusers, older": ("transformer.", (".lora.down.weight", ".lora.up.weight"), _in_diffusers),
    "ComfyUI": ("diffusion_model.", PEFT_PARTS, _same),
    "lightx2v": ("diffusion_model.", KOHYA_PARTS, _same),
    "PEFT": ("base_model.model.", PEFT_PARTS, _in_diffusers),
    "PEFT of the original modules": ("base_model.model.", PEFT_PARTS, _same),
    "no prefix": ("", KOHYA_PARTS, _same),
    "a whole checkpoint's prefix": ("model.diffusion_model.", PEFT_PARTS, _same),
    "without .weight": ("diffusion_model.", (".lora_A", ".lora_B"), _same),
}


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


def differences() -> dict[str, torch.Tensor]:
    """As lightx2v's files have them, beside the pairs, on some modules only."""
    generator = torch.Generator().manual_seed(9)
    wanted = {
        "blocks.0.self_attn.q.diff_b": (24,),
        "blocks.1.ffn.2.diff_b": (24,),
        "blocks.0.norm3.diff": (24,),
        "blocks.0.norm3.diff_b": (24,),
        "blocks.1.self_attn.norm_k.diff": (24,),
        "blocks.1.diff_m": (1, 6, 24),
        "head.diff_m": (1, 2, 24),
        "head.head.diff": (16, 24),
        "head.head.diff_b": (16,),
        "patch_embedding.diff": (24, 4, 1, 2, 2),
        "patch_embedding.diff_b": (24,),
        "time_projection.1.diff_b": (144,),
    }
    return {name: torch.randn(*shape, generator=generator) * 0.3 for name, shape in wanted.items()}


_PARAMETER = {"diff": "weight", "diff_b": "bias", "diff_m": "modulation"}


def of_differences(scale: float) -> dict[str, torch.Tensor]:
    parts = ((key.rpartition("."), added) for key, added in differences().items())
    return {f"{module}.{_PARAMETER[part]}": scale * added for (module, _, part), added in parts}


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
