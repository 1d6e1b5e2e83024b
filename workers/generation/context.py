"""Input and output of a generation. It must not depend on the database, Redis or Celery."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import CatalogueEntry
from shared.settings import Settings
from shared.states import Phase
from wanworks.requests import OutputFormat
from workers.generation.frames.previews import Cells
from workers.generation.frames.quality import Quality
from workers.generation.seats import Member, Seat

if TYPE_CHECKING:
    import numpy


class Report(Protocol):
    """Reports the attempt's phase and step. Takes well under 1 ms and never raises if Redis is unavailable.

    Every call also counts as progress: the phase's time limit counts from the last one.
    """

    def __call__(self, phase: Phase, step: int | None = None, steps: int | None = None) -> None: ...


@dataclass(frozen=True)
class GenerationContext:
    """One attempt at one generation."""

    job_id: str
    attempt: int
    params: GenerationParams
    entry: CatalogueEntry
    settings: Settings
    mock: bool  # make labelled placeholder output and load no model
    snapshot: Path | None  # folder of the model's files on this node; None only for placeholder output
    image: Path | None  # the stored input image, already decoded and rotated upright by the API
    output_dir: Path | None  # None: the files are made later; else it exists, is empty, belongs to this attempt only
    report: Report
    check: Callable[[], None]  # raises Cancelled, Fenced or Draining; call it wherever stopping is possible
    last_image: Path | None = None  # the picture with which the video ends
    # Of its checkpoint on this node; None: it takes none, and always starts from the first step.
    checkpoint: Path | None = None
    asked_to_yield: Callable[[], bool] = lambda: False  # whether to stop after this step, with a checkpoint
    checkpointed: Callable[[int], None] = lambda _step: None  # called once a checkpoint after that step is on the disk
    lora_snapshot: Path | None = None  # of a preset: folder of its LoRA's files
    lora_paths: Mapping[str, Path] = field(default_factory=dict)  # of LoRAs from the library, by SHA-256
    # Receives each frame by its index as soon as it is decoded; again, if decoding is repeated.
    on_frame: Callable[[int, "numpy.ndarray"], None] = lambda _index, _frame: None
    # Receives previews while it denoises, and how a failure is counted; None: there are none.
    on_preview: Callable[[Cells], None] | None = None
    preview_failed: Callable[[], None] = lambda: None
    gang: tuple[Member, ...] = ()  # the other devices that it runs on; this process leads them
    seat: Seat | None = None  # in a process that another one leads: its place


@dataclass(frozen=True)
class Decoded:
    """What is known of a generation once its frames are decoded. JSON can carry it to another process."""

    width: int
    height: int
    frames: int
    fps: int
    seed: int
    output_format: OutputFormat
    timings: dict[str, float]
    warm: bool
    profile: str | None
    peak_vram_mb: float | None
    manifest: dict[str, Any]
    loras: list[dict[str, Any]]
    speed: dict[str, Any] | None  # the tier that was used, and how
    prompt_tokens: dict[str, Any] | None
    notes: list[str]
    resumed_from_step: int | None = None  # of a checkpoint, from which this attempt has continued


@dataclass(frozen=True)
class Artifact:
    """A file that the job made in `output_dir`, complete and fsynced."""

    name: str
    kind: str  # video, thumbnail, contact_sheet, manifest, frame
    bytes: int
    sha256: str
    content_type: str


@dataclass(frozen=True)
class Outcome:
    """The result of a generation; every value is measured."""

    artifacts: tuple[Artifact, ...]
    width: int
    height: int
    frames: int
    fps: int
    seed: int
    timings: dict[str, float]  # seconds by phase name (Phase values); phases that did not run are absent
    warm: bool  # the model was already loaded
    profile: str | None  # the memory profile used; None for placeholder output
    peak_vram_mb: float | None  # None if the device does not measure it
    quality: Quality  # technical, of the frames and the file
    manifest: dict[str, Any] = field(default_factory=dict)
    loras: tuple[dict[str, Any], ...] = ()  # for each file and expert: how many keys applied, and which did not
    speed: dict[str, Any] | None = None  # the tier, and what it used; None for placeholder output
    prompt_tokens: dict[str, Any] | None = None  # of both prompts: tokens, limit, cut; None for placeholder output
    resumed_from_step: int | None = None
    notes: tuple[str, ...] = ()  # sentences for the user, for example a leaner profile after running out of memory
