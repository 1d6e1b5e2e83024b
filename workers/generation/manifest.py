"""The reproducibility manifest: everything that decided the frames, so that they can be made again.

Plain data in, plain data out. It loads no library; it asks the installation which versions are there.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from workers.devices.discovery import Device
from workers.generation.context import GenerationContext
from workers.generation.frames.geometry import Plan

LIBRARIES = (
    "wanworks", "torch", "diffusers", "transformers", "accelerate", "peft", "torchao", "safetensors", "tokenizers",
    "av", "pillow", "numpy",
)  # fmt: skip

# Raise it whenever the same manifest makes other latents, be it by rounding alone. Manifests without it: engine 1.
# 2: TI2V-5B from text denoises with one timestep for all tokens; an expert with guidance 1 runs one pass, and guidance
# of the low-noise expert counts if that of the high-noise one is 1.
ENGINE = 2


# Versions that decide the frames and the speed of a tier.
_DECIDING = ("torch", "diffusers", "torchao")


def deciding_versions() -> dict[str, str]:
    """Return the versions that a measurement of a tier holds for."""
    return {name: version for name, version in _versions() if name in _DECIDING}


def of_run(
    context: GenerationContext,
    plan: Plan,
    device: Device,
    *,
    dtype: str,
    profile: str,
    vae_tiled: bool,
    scheduler: Mapping[str, Any],
    loras: Sequence[Mapping[str, Any]],
    tier: Mapping[str, Any],
    notes: Sequence[str],
    resumed_from_step: int | None = None,
) -> dict[str, Any]:
    """The manifest of frames that a model made."""
    return {
        **asked(context),
        "engine": ENGINE,
        "dtype": dtype,
        "grid": {"width": plan.grid_width, "height": plan.grid_height, "frames": plan.grid_frames},
        "profile": profile,
        "vae_tiled": vae_tiled,
        "scheduler": {**scheduler, "flow_shift": context.params.flow_shift},
        "boundary_ratio": context.entry.boundary_ratio,
        "loras": list(loras),
        "speed_settings": tier["used"],
        "device": {"kind": device.kind, "name": device.name, "memory_mb": device.memory_mb},
        "resumed_from_step": resumed_from_step,
        "mock": False,
        "notes": list(notes),
    }


def of_test_card(context: GenerationContext, notes: Sequence[str]) -> dict[str, Any]:
    """Return the manifest of placeholder output, which states that no model was run."""
    return {**asked(context), "mock": True, "notes": list(notes)}


def asked(context: GenerationContext) -> dict[str, Any]:
    """Return what was asked for, and of which files and libraries."""
    params, entry = context.params, context.entry
    chosen = params.model_dump(
        include={
            "prompt", "negative_prompt", "width", "height", "frames", "fps", "output_format", "steps",
            "guidance_scale", "guidance_scale_2", "flow_shift", "seed", "quantization", "speed", "devices_per_job",
            "fit",
        }
    )  # fmt: skip
    return {
        "model_id": entry.model_id,
        "repo": entry.repo,
        "revision": context.snapshot.name if context.snapshot is not None else None,
        "pipeline": entry.pipeline,
        "image_sha256": _sha256(context.image) if context.image is not None else None,
        "last_image_sha256": _sha256(context.last_image) if context.last_image is not None else None,
        "libraries": dict(_versions()),
        **chosen,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for name in LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:  # a node may lack what its jobs never use
            continue
    return tuple(found)
