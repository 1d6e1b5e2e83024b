"""LoRA files for the tiny models."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def write_lora(path: Path, width: int = 96, scale: float = 0.5) -> None:
    """A LoRA for the first block's queries, in the published key layout."""
    random = torch.Generator().manual_seed(5)
    name = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {
            f"{name}.lora_A.weight": torch.randn(4, width, generator=random) * scale,
            f"{name}.lora_B.weight": torch.randn(width, 4, generator=random) * scale,
        },
        path,
    )


def write_differences(path: Path) -> None:
    """A LoRA in lightx2v's manner: a pair, and differences of a weight, a bias, a norm and the modulation."""
    write_lora(path)
    name = "diffusion_model.blocks.0"
    random = torch.Generator().manual_seed(6)
    shapes = {"self_attn.q.diff": (96, 96), "self_attn.k.diff": (96, 96), "ffn.2.diff_b": (96,), "norm3.diff": (96,)}
    shapes["diff_m"] = (1, 6, 96)
    added = {f"{name}.{key}": torch.randn(*shape, generator=random) * 0.2 for key, shape in shapes.items()}
    save_file({**load_file(path), **added}, path)
