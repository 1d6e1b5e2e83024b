"""The types of the catalogue: one entry, its defaults and its hardware, and how an entry extends another."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from shared import patterns
from shared.catalogue.memory_facts import Memory
from shared.catalogue.presets import Fixable, PresetLora
from shared.catalogue.tiers import Tiers
from wanworks.requests import DEVICES_PER_JOB, OutputFormat, Quantization

log = logging.getLogger(__name__)

# Where the weights are during a job. none: all on the device; text: the text encoder takes turns; model: one component
# on the device at a time; group: streamed block by block.
Offload = Literal["none", "text", "model", "group"]


def parse_resolution(text: str) -> tuple[int, int]:
    """Return (width, height) in pixels from a text such as ``"1280x720"``. Raises ValueError."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise ValueError("a resolution must be WIDTHxHEIGHT, for example 1280x720")
    return int(match[1]), int(match[2])


def _check_resolution(text: str) -> str:
    if any(edge % 2 for edge in parse_resolution(text)):
        raise ValueError("width and height must be even, because colour is stored at half the resolution")
    return text


Resolution = Annotated[str, AfterValidator(_check_resolution)]


Alias = Annotated[str, Field(pattern=patterns.ALIAS)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


class Defaults(Frozen):
    """The values for fields that a request omits: the model's native ones."""

    resolution: Resolution
    frames: int = Field(ge=1)
    fps: int = Field(ge=1)
    steps: int = Field(ge=1)
    guidance_scale: float = Field(ge=0)  # the high-noise expert's, if there are two
    guidance_scale_2: float | None = Field(None, ge=0)  # the low-noise expert's
    flow_shift: float = Field(gt=0)
    negative_prompt: str = Field("", max_length=4000)  # of a request that has none; an empty one of its own stays empty


class Hardware(Frozen):
    """What the model's authors document. Jobs are placed by the memory plan (`shared/models/memory_plan.py`)."""

    min_vram_gb: float = Field(gt=0)
    recommended_vram_gb: float = Field(gt=0)
    cuda_compute_capability: str = Field("7.0", pattern=patterns.CAPABILITY)

    @model_validator(mode="before")
    @classmethod
    def _without_profiles(cls, values: Any) -> Any:
        """Drop what earlier versions read here: memory is now planned from `memory`."""
        if not isinstance(values, dict):
            return values
        for name in ("profiles", "cpu_ram_gb"):
            if name in values:
                log.warning("catalogue: hardware.%s is no longer used; memory is planned from the table `memory`", name)
        return {name: value for name, value in values.items() if name not in ("profiles", "cpu_ram_gb")}


class CatalogueEntry(Frozen):
    """One model that can be requested."""

    model_id: str = Field(pattern=patterns.NAME)
    model_type: str
    aliases: tuple[Alias, ...] = ()  # other names that /v1/videos accepts; see `Catalogue.named`
    repo: str = Field(pattern=patterns.REPO)
    revision: str = "main"
    pipeline: Literal["wan-t2v", "wan-i2v", "wan-ti2v"]
    image: Literal["refused", "optional", "required"]
    resolutions: tuple[Resolution, ...] = Field(min_length=1)
    min_frames: int = Field(8, ge=1)
    max_frames: int = Field(ge=1)
    fps: tuple[int, ...] = (8, 12, 16, 24)
    output_formats: tuple[OutputFormat, ...] = ("mp4", "webm")
    quantizations: tuple[Quantization, ...] = ("none", "fp16", "bf16", "int8", "fp8")
    loras: bool = True
    min_steps: int = Field(2, ge=1)  # with one step the low-noise expert would never run
    max_steps: int = Field(100, ge=1)
    size_multiple: int = Field(ge=1)  # the model's grid in pixels
    heads: int = Field(40, ge=1)  # of attention; devices that compute together share them equally
    devices_per_job: Literal[1, 2, 4, 8] = 1  # of a request that names none
    boundary_ratio: float | None = Field(None, gt=0, lt=1)  # from where the low-noise expert is used
    defaults: Defaults
    tiers: Tiers = Tiers()  # what `balanced` and `fast` use
    hardware: Hardware
    memory: Memory  # `wanworks measure-memory` prints it for other weights
    download_gb: float = Field(gt=0)  # of the weights; a preset's LoRA adds to it
    notes: str = ""
    caveat: str | None = Field(None, max_length=200)  # what has not been proven about the entry, for example by a run
    # Of a preset: the entry whose weights it uses, the defaults that a request cannot change, and its LoRA.
    extends: str | None = None
    fixed: tuple[Fixable, ...] = ()
    lora: PresetLora | None = None

    def __hash__(self) -> int:
        return hash((self.model_id, self.repo, self.revision))  # quick, for caches by entry

    @model_validator(mode="after")
    def _defaults_are_allowed(self) -> Self:
        allowed = {
            "resolution": self.defaults.resolution in self.resolutions,
            "frames": self.min_frames <= self.defaults.frames <= self.max_frames,
            "fps": self.defaults.fps in self.fps,
            "steps": self.min_steps <= self.defaults.steps <= self.max_steps,
        }
        for name, good in allowed.items():
            if not good:
                raise ValueError(f"defaults.{name} is not among the values that the entry allows")
        return self

    @model_validator(mode="after")
    def _heads_can_be_shared(self) -> Self:
        if self.devices_per_job not in self.team_sizes:
            allowed = ", ".join(map(str, self.team_sizes))
            raise ValueError(f"devices_per_job must divide the {self.heads} heads; allowed: {allowed}")
        return self

    @model_validator(mode="after")
    def _preset_fits(self) -> Self:
        for name in self.fixed:
            if getattr(self.defaults, name) is None:
                raise ValueError(f"fixed names {name}, which has no default")
        if self.lora is None:
            return self
        if self.extends is None:
            raise ValueError("an entry with a LoRA must extend another entry and use its weights (repo and revision)")
        if not self.lora.paths:
            raise ValueError("lora needs a file: high, low or both")
        if self.lora.low is not None and self.boundary_ratio is None:
            raise ValueError("lora.low is for a second transformer, which this model does not have; give high alone")
        return self

    @property
    def takes_last_image(self) -> bool:
        """Whether a video can end with a given picture. `wan-ti2v` conditions the first frame alone."""
        return self.pipeline == "wan-i2v"

    @property
    def team_sizes(self) -> tuple[int, ...]:
        """The numbers of devices that can compute a video together."""
        return tuple(count for count in DEVICES_PER_JOB if self.heads % count == 0)

    @property
    def weights_id(self) -> str:
        """The entry under whose name the weights are loaded: a preset has its base's model cache key."""
        return self.extends or self.model_id

    @property
    def requires(self) -> str | None:
        """The entry whose files this one needs beside its own."""
        return self.extends if self.lora is not None else None

    @property
    def own_repo(self) -> str:
        """The repository of the files that are recorded under this entry: a preset's are those of its LoRA."""
        return self.lora.repo if self.lora is not None else self.repo

    @property
    def own_revision(self) -> str:
        return self.lora.revision if self.lora is not None else self.revision

    @property
    def own_gb(self) -> float:
        """The size of these files by the catalogue, in 10^9 bytes."""
        return self.lora.gb if self.lora is not None else self.download_gb

    @property
    def total_gb(self) -> float:
        """The size of all files that the entry needs, in 10^9 bytes."""
        return round(self.download_gb + (self.lora.gb if self.lora is not None else 0.0), 3)

    @property
    def passes(self) -> float:
        """The forward passes of a request with the defaults: two for a guided step, one for another."""
        return self.defaults.steps * passes_per_step(self.defaults.guidance_scale, self.defaults.guidance_scale_2)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that `/v1/videos` accepts: id, aliases, and repository with and without `-Diffusers`.

        A preset is not meant by the name of the repository, which is its base's.
        """
        if self.extends is not None:
            return (self.model_id, *self.aliases)
        plain = self.repo.removesuffix("-Diffusers")
        return tuple(dict.fromkeys((self.model_id, *self.aliases, self.repo, plain)))


def passes_per_step(guidance_scale: float, guidance_scale_2: float | None) -> float:
    """Return the mean number of forward passes of a step, each expert counted half: one without guidance, else two."""
    second = guidance_scale if guidance_scale_2 is None else guidance_scale_2
    return 1 + ((guidance_scale > 1) + (second > 1)) / 2


def with_presets(
    entries: Iterable[CatalogueEntry], tables: Mapping[str, Mapping[str, Any]]
) -> tuple[CatalogueEntry, ...]:
    """Return the entries, followed by those of the presets' tables."""
    found = {entry.model_id: entry for entry in entries}
    found.update({model_id: extended(model_id, table, found) for model_id, table in tables.items()})
    return tuple(found.values())


def extended(model_id: str, table: Mapping[str, Any], entries: Mapping[str, CatalogueEntry]) -> CatalogueEntry:
    """Return the entry of a table. Raises ValidationError, and ValueError if it extends what is not there."""
    values = dict(table)
    base = values.pop("extends", None)
    if base is None:
        return CatalogueEntry.model_validate({**values, "model_id": model_id})
    if base not in entries:
        raise ValueError(f"extends {base!r}, which is not an entry")
    own = {"aliases"} if base != model_id else set()  # an alias belongs to one model
    values = _merged(entries[base].model_dump(exclude=own), values)
    weights = entries[base].weights_id
    made = CatalogueEntry.model_validate({**values, "model_id": model_id, "lora": None, "extends": None})
    is_preset = bool(values["fixed"] or values["lora"]) and same_weights(made, entries[base]) and weights != model_id
    values["extends"] = weights if is_preset else None
    return CatalogueEntry.model_validate({**values, "model_id": model_id})


def same_weights(one: CatalogueEntry, other: CatalogueEntry) -> bool:
    """Return whether both entries load the same weights in the same way."""
    names = ("repo", "revision", "pipeline", "image", "boundary_ratio", "memory")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated by `over`, table by table, so that a single default can be changed."""
    result = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _merged(base[key], value) if both_tables else value
    return result
