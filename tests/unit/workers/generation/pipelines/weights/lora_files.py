"""LoRA files of every format, and the weights that they must give."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from wanworks.requests import Lora
from workers.generation.pipelines.weights import loras

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
