"""The catalogue: the models that this installation offers, as typed data.

Figures come from the models' configuration files (Wan-Video/Wan2.2, `wan/configs`), the sizes of the published weights,
and the hardware requirements that wanworks documents. Sizes in GB are 10^9 bytes.
"""

import logging
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from shared.catalogue import memory_data
from shared.catalogue.memory_facts import Memory
from shared.catalogue.tiers import Tiers
from shared.errors import ConfigurationError, NotFound
from wanworks.requests import OutputFormat, Quantization

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


Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


class Defaults(_Frozen):
    """The values for fields that a request omits: the model's native ones."""

    resolution: Resolution
    frames: int = Field(ge=1)
    fps: int = Field(ge=1)
    steps: int = Field(ge=1)
    guidance_scale: float = Field(ge=0)  # the high-noise expert's, if there are two
    guidance_scale_2: float | None = Field(None, ge=0)  # the low-noise expert's
    flow_shift: float = Field(gt=0)
    negative_prompt: str = Field("", max_length=4000)  # of a request that has none; an empty one of its own stays empty


class Hardware(_Frozen):
    """What the model's authors document. Jobs are placed by the memory plan (`shared/models/memory_plan.py`)."""

    min_vram_gb: float = Field(gt=0)
    recommended_vram_gb: float = Field(gt=0)
    cuda_compute_capability: str = Field("7.0", pattern=r"^\d+\.\d+$")

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


class CatalogueEntry(_Frozen):
    """One model that can be requested."""

    model_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    model_type: str
    aliases: tuple[Alias, ...] = ()  # other names that /v1/videos accepts; see `Catalogue.named`
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = "main"
    pipeline: Literal["wan-t2v", "wan-i2v", "wan-ti2v"]
    image: Literal["refused", "optional", "required"]
    resolutions: tuple[Resolution, ...] = Field(min_length=1)
    min_frames: int = Field(8, ge=1)
    max_frames: int = Field(ge=1)
    fps: tuple[int, ...] = (8, 12, 16, 24)
    output_formats: tuple[OutputFormat, ...] = ("mp4", "webm")
    quantizations: tuple[Quantization, ...] = ("none", "fp16", "bf16", "int8")
    loras: bool = True
    min_steps: int = Field(2, ge=1)  # with one step the low-noise expert would never run
    max_steps: int = Field(100, ge=1)
    size_multiple: int = Field(ge=1)  # the model's grid in pixels
    boundary_ratio: float | None = Field(None, gt=0, lt=1)  # from where the low-noise expert is used
    defaults: Defaults
    tiers: Tiers = Tiers()  # what `balanced` and `fast` use
    hardware: Hardware
    memory: Memory  # `wanworks measure-memory` prints it for other weights
    download_gb: float = Field(gt=0)
    notes: str = ""

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

    @property
    def names(self) -> tuple[str, ...]:
        """The names that `/v1/videos` accepts: id, aliases, and repository with and without `-Diffusers`."""
        plain = self.repo.removesuffix("-Diffusers")
        return tuple(dict.fromkeys((self.model_id, *self.aliases, self.repo, plain)))


class Catalogue(_Frozen):
    """The offered models."""

    name: str
    entries: tuple[CatalogueEntry, ...]

    def get(self, model_id: str) -> CatalogueEntry:
        """Return the entry of that id. Raises NotFound."""
        for entry in self.entries:
            if entry.model_id == model_id:
                return entry
        raise NotFound("model", model_id)

    def named(self, name: str) -> CatalogueEntry:
        """Return the entry by `model_id`, alias, or name on the hub. Raises NotFound.

        Aliases are accepted by `/v1/videos` only. Everything that is stored uses the `model_id`.
        """
        for entry in self.entries:
            if name == entry.model_id or name in entry.aliases:
                return entry
        # Several entries may share a repository: the first one counts.
        for entry in self.entries:
            if name in entry.names:
                return entry
        raise NotFound("model", name)

    @property
    def model_ids(self) -> tuple[str, ...]:
        return tuple(entry.model_id for entry in self.entries)


def load(source: str) -> Catalogue:
    """Return the catalogue. `source`: `default`, `demo`, or a TOML file.

    The file's ``[models.ID]`` tables add to or replace the default entries. A table may name another entry in
    ``extends`` and give only what differs. Raises ConfigurationError with the line.
    """
    if source == "default":
        return Catalogue(name="default", entries=DEFAULT)
    if source == "demo":
        return Catalogue(name="demo", entries=tuple(_demo(entry) for entry in DEFAULT))
    return _from_file(Path(source).expanduser())


def _both_ways(*landscape: str) -> tuple[str, ...]:
    portrait = ("x".join(reversed(size.split("x"))) for size in landscape)
    return (*landscape, *portrait)


# The four documented sizes; each model adds its native one.
_SIZES = ("854x480", "1024x576", "1280x720", "1920x1080")

# What the models' authors steer away from, in our words.
_NEGATIVE_PROMPT = (
    "oversaturated colours, overexposed, blown-out highlights, washed-out grey, static frame, frozen, motionless, "
    "blurred, out of focus, unclear details, subtitles, captions, watermark, logo, signature, painting-like still, "
    "compression artefacts, blocky, worst quality, low quality, ugly, incomplete, deformed hands, extra fingers, fused "
    "fingers, badly drawn hands, badly drawn face, distorted face, disfigured, malformed limbs, extra limbs, three "
    "legs, cluttered background, crowded background, many people in the background, walking backwards"
)
_A14B_HARDWARE = Hardware(min_vram_gb=10, recommended_vram_gb=16)
_5B_HARDWARE = Hardware(min_vram_gb=6, recommended_vram_gb=10)

DEFAULT = (
    CatalogueEntry(
        model_id="T2V-A14B",
        model_type="T2V-A14B",
        aliases=("wan2.2-t2v-a14b", "Wan-AI/Wan2.2-T2V-A14B", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"),
        repo="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        pipeline="wan-t2v",
        image="refused",
        resolutions=_both_ways("832x480", *_SIZES),
        max_frames=81,
        size_multiple=16,
        boundary_ratio=0.875,
        defaults=Defaults(
            resolution="1280x720",
            frames=81,
            fps=16,
            steps=40,
            guidance_scale=4.0,
            guidance_scale_2=3.0,
            flow_shift=12.0,
            negative_prompt=_NEGATIVE_PROMPT,
        ),
        hardware=_A14B_HARDWARE,
        memory=memory_data.T2V_A14B,
        download_gb=126,
    ),
    CatalogueEntry(
        model_id="I2V-A14B",
        model_type="I2V-A14B",
        aliases=("wan2.2-i2v-a14b", "Wan-AI/Wan2.2-I2V-A14B", "Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
        repo="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        pipeline="wan-i2v",
        image="required",
        resolutions=_both_ways("832x480", *_SIZES),
        max_frames=81,
        size_multiple=16,
        boundary_ratio=0.9,
        defaults=Defaults(
            resolution="1280x720",
            frames=81,
            fps=16,
            steps=40,
            guidance_scale=3.5,
            guidance_scale_2=3.5,
            flow_shift=5.0,
            negative_prompt=_NEGATIVE_PROMPT,
        ),
        hardware=_A14B_HARDWARE,
        memory=memory_data.I2V_A14B,
        download_gb=126,
    ),
    CatalogueEntry(
        model_id="TI2V-5B",
        model_type="TI2V-5B",
        aliases=("wan2.2-ti2v-5b", "Wan-AI/Wan2.2-TI2V-5B", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
        repo="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        pipeline="wan-ti2v",
        image="optional",
        resolutions=_both_ways("1280x704", *_SIZES),
        max_frames=121,
        size_multiple=32,
        defaults=Defaults(
            resolution="1280x704",
            frames=121,
            fps=24,
            steps=50,
            guidance_scale=5.0,
            flow_shift=5.0,
            negative_prompt=_NEGATIVE_PROMPT,
        ),
        hardware=_5B_HARDWARE,
        memory=memory_data.TI2V_5B,
        download_gb=34,
    ),
)

_DEMO_SIZES = ("64x64", "96x64", "128x128", "256x256", "256x144", "416x240", *_SIZES)


def _demo(entry: CatalogueEntry) -> CatalogueEntry:
    """Return the entry with a tiny repository of random weights (`wanworks demo-models`): every picture is noise."""
    return entry.model_copy(
        update={
            "repo": f"wanworks-demo/{entry.model_id}",
            "resolutions": tuple(dict.fromkeys((*_both_ways(*_DEMO_SIZES), *entry.resolutions))),
            "defaults": entry.defaults.model_copy(update={"resolution": "256x256", "frames": 17, "fps": 8, "steps": 4}),
            "hardware": entry.hardware.model_copy(update={"min_vram_gb": 1.0, "recommended_vram_gb": 1.0}),
            "memory": memory_data.TINY[entry.model_id],
            "download_gb": 0.01,
            "notes": "Random weights: every picture is noise.",
        }
    )


def _from_file(path: Path) -> Catalogue:
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"catalogue {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"catalogue {path}: {error}") from None
    unknown = set(content) - {"models"}
    if unknown or not isinstance(content.get("models"), dict):
        key = sorted(unknown)[0] if unknown else "models"
        raise ConfigurationError(f"catalogue {path}, line {_line(text, key)}: expected only [models.ID] tables")
    entries = {entry.model_id: entry for entry in DEFAULT}
    for model_id, table in content["models"].items():
        entries[model_id] = _entry(path, text, model_id, table, entries)
    taken = set(entries)
    for entry in entries.values():
        for alias in entry.aliases:
            if alias in taken:
                where = f"catalogue {path}, line {_line(text, entry.model_id, 'aliases')}: [models.{entry.model_id}]"
                raise ConfigurationError(f"{where} aliases: {alias!r} is already the name or alias of a model")
            taken.add(alias)
    return Catalogue(name=str(path), entries=tuple(entries.values()))


def _entry(path: Path, text: str, model_id: str, table: Any, entries: Mapping[str, CatalogueEntry]) -> CatalogueEntry:
    def refuse(reason: str, *keys: str) -> ConfigurationError:
        line = _line(text, model_id, *keys)
        return ConfigurationError(f"catalogue {path}, line {line}: [models.{model_id}] {reason}")

    if not isinstance(table, dict):
        raise refuse("must be a table")
    values = dict(table)
    base = values.pop("extends", None)
    if base is not None and base not in entries:
        raise refuse(f"extends {base!r}, which is not an entry", "extends")
    if base is not None:
        own = {"aliases"} if base != model_id else set()  # an alias belongs to one model
        values = _merged(entries[base].model_dump(exclude=own), values)
    try:
        return CatalogueEntry.model_validate({**values, "model_id": model_id})
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(part) for part in first["loc"]]
        raise refuse(f"{'.'.join(keys) or 'entry'}: {first['msg']}", *keys) from None


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated by `over`, table by table, so that a single default can be changed."""
    result = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _merged(base[key], value) if both_tables else value
    return result


def _line(text: str, *keys: str) -> int:
    """Return the line of the innermost of `keys`; of the last one found if an inner key is absent."""
    lines = text.splitlines()
    found = 0
    for key in keys:
        pattern = re.compile(rf"""(^|[\[.\s{{,"']){re.escape(key)}["']?(\s*[=\].]|$)""")
        found = next((index for index in range(found, len(lines)) if pattern.search(lines[index])), found)
    return found + 1
