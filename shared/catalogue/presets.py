"""Presets: entries that run another entry's weights with fixed parameters, and mostly with a LoRA of their own.

The tables of the default catalogue's presets are written like those of a catalogue file, so they follow an entry that
a file changes.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared import patterns

# The defaults that a preset may fix.
Fixable = Literal["steps", "guidance_scale", "guidance_scale_2", "flow_shift"]

NOT_TRIED = "not tried with real weights"


def _within(path: str) -> str:
    if ".." in path.split("/"):
        raise ValueError("must be a path within the repository")
    return path


File = Annotated[str, Field(pattern=patterns.REPO_FILE, max_length=400), AfterValidator(_within)]


class PresetLora(BaseModel):
    """The LoRA of a preset: files of one repository, one for each expert."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo: str = Field(pattern=patterns.REPO)
    revision: str = "main"
    high: File | None = None  # or of the only transformer
    low: File | None = None
    scale: float = Field(1.0, ge=-4, le=4)
    file_mb: float = Field(gt=0)  # of its larger file, 10^6 bytes; memory is planned with it

    @property
    def paths(self) -> tuple[str, ...]:
        """The files within the repository."""
        return tuple(dict.fromkeys(path for path in (self.high, self.low) if path is not None))

    @property
    def gb(self) -> float:
        """The size of all files, in 10^9 bytes."""
        return len(self.paths) * self.file_mb / 1e3


_FOUR_STEPS = {"steps": 4, "guidance_scale": 1.0, "guidance_scale_2": 1.0, "flow_shift": 5.0}
_FIXED: tuple[Fixable, ...] = ("steps", "guidance_scale", "guidance_scale_2", "flow_shift")
_LIGHTNING = "lightx2v/Wan2.2-Lightning"
# Derived: rank 64 on the ten linear layers of each of 40 blocks, in 32 bits.
_LIGHTNING_MB = 1227.0
_NOTES = (
    "Four steps without guidance, by a LoRA that was distilled for that: videos move less than with all steps. The "
    "negative prompt is not used. It was published for the Euler solver; here UniPC runs its steps."
)


def _lightning(base: str, folder: str) -> Mapping[str, Any]:
    return {
        "extends": base,
        "defaults": dict(_FOUR_STEPS),
        "fixed": _FIXED,
        "lora": {
            "repo": _LIGHTNING,
            "high": f"{folder}/high_noise_model.safetensors",
            "low": f"{folder}/low_noise_model.safetensors",
            "file_mb": _LIGHTNING_MB,
        },
        "caveat": NOT_TRIED,
        "notes": _NOTES,
    }


DEFAULT_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "T2V-A14B-Lightning": _lightning("T2V-A14B", "Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1"),
    "I2V-A14B-Lightning": _lightning("I2V-A14B", "Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1"),
}

# The same with a tiny LoRA, which `workers/generation/demo_models.py` writes.
DEMO_PRESETS: Mapping[str, Mapping[str, Any]] = {
    model_id: {
        **table,
        "lora": {**table["lora"], "repo": "wanworks-demo/Wan2.2-Lightning", "file_mb": 0.1},
        "caveat": None,
        "notes": "Random weights: every picture is noise.",
    }
    for model_id, table in DEFAULT_PRESETS.items()
}
