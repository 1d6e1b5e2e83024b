"""Write docs/hardware.md from the catalogue and the memory plan: ``python -m shared.models.hardware_page``. Pure.

Seconds are derived from published ones by arithmetic, because no such card has run this project yet.
"""

from dataclasses import dataclass

from shared.catalogue.models import DEFAULT, CatalogueEntry, parse_resolution
from shared.models import memory_plan
from shared.models.memory_plan import MB, Size
from wanworks.requests import Quantization

GB = 1000 * MB


@dataclass(frozen=True)
class Card:
    """A common card: its memory in all, in MB (10^6 bytes), and its dense bf16 throughput by its data sheet."""

    name: str
    memory_mb: int
    tflops: float
    per_step: "Cited"
    capability: int  # compute capability, times ten

    @property
    def model(self) -> str:
        """The name of the card without its memory, as devices name it."""
        return self.name.partition("(")[2].rstrip(")")


@dataclass(frozen=True)
class Cited:
    """Published seconds of one guided step of a 14B model (832x480, 81 frames), and the throughput of that card."""

    seconds: float
    tflops: float


# Both from the README of LightX2V, which timed diffusers (Wan2.1 14B, 480p): H100 and RTX 4090D.
_H100, _4090D = Cited(9.77, 989), Cited(30.5, 148)
CARDS = (
    Card("16 GB (RTX 4080)", 17_170, 97, _4090D, 89),
    Card("24 GB (RTX 4090)", 25_750, 165, _4090D, 89),
    Card("32 GB (RTX 5090)", 34_190, 210, _4090D, 120),
    Card("40 GB (A100)", 42_950, 312, _H100, 80),
    Card("48 GB (L40S)", 48_300, 362, _H100, 89),
    Card("80 GB (H100)", 85_520, 989, _H100, 90),
    Card("141 GB (H200)", 150_750, 989, _H100, 90),
)
# Of a 14B transformer: parameters, layers, width. The figures of 5B stand beside them.
_SHAPES = {True: (14.3e9, 40, 5120), False: (5.0e9, 30, 3072)}
_HEAD = """# Which card runs what

What the memory plan chooses for each model on common cards. This page is written by `python -m
shared.models.hardware_page` from the catalogue and from the plan that also accepts and places jobs.

- **16 bits, int8, fp8**: the layout for these weights. `full`: everything stays on the card. `text-offload`: the text
  encoder takes turns. `offload`: one component is on the card at a time. `stream`: weights pass through it block by
  block. "tiles": the video is decoded in tiles. "-": it does not fit; a request is refused with alternatives that do.
  fp8 needs compute capability 8.9 (Ada, Hopper or later); what it gains in time was not measured on a GPU. A pass takes
  about twice the memory beside the weights, because a layer's input is held in 32 bits while it is quantized.
- **GB**: the peak on the card, and the memory of its host, both with the plan's margin. Several cards of one host
  share its memory.
- **time**: for the default number of steps, without loading and decoding. *Derived*: published seconds of one step
  (LightX2V's README: diffusers, a 14B model at 832x480 with 81 frames: 9.77 s on an H100, 30.5 s on an RTX 4090D),
  multiplied by the ratio of arithmetic of the two jobs and by that of the cards' dense bf16 throughput. `stream` may
  take longer. Nothing on this page was measured on a card by this project.

Disk: T2V-A14B and I2V-A14B take 126 GB each, and 57 GB more for bf16 copies (`wanworks prepare`); TI2V-5B takes 34
GB, and 10 GB more. With `WANWORKS_KEEP_SOURCES=false` the published weights that have a copy are removed: then A14B
takes 69 GB and 5B 24 GB. A Lightning preset takes 2.5 GB more (derived), on the disk, and on the card until the last
step.
"""


def page() -> str:
    """Return the page as Markdown."""
    return _HEAD + "".join(_of_model(entry) for entry in DEFAULT)


def _of_model(entry: CatalogueEntry) -> str:
    lines = [f"\n## {entry.model_id}\n"]
    largest = max(entry.resolutions, key=lambda text: _area(text))
    for resolution, frames in ((entry.defaults.resolution, entry.defaults.frames), (largest, entry.max_frames)):
        lines.append(f"\n{resolution}, {frames} frames, {entry.defaults.steps} steps:\n\n")
        head = "| card | 16 bits | GB card / host | int8 | GB card / host | fp8 | GB card / host | time |\n"
        lines.append(head + "|---|---|---|---|---|---|---|---|\n")
        for card in CARDS:
            cells = [cell for each in ("none", "int8", "fp8") for cell in _cells(entry, each, resolution, frames, card)]
            fits = any(cell not in ("-", "no fp8") for cell in cells)
            lines.append(
                f"| {card.name} | {' | '.join(cells)} | {_time(entry, resolution, frames, card) if fits else '-'} |\n"
            )
    return "".join(lines)


def _cells(
    entry: CatalogueEntry, quantization: Quantization, resolution: str, frames: int, card: Card
) -> tuple[str, str]:
    size = _size(entry, resolution, frames)
    if quantization == "fp8" and card.capability < memory_plan.FP8_CAPABILITY:
        return "no fp8", "-"
    plan = memory_plan.choose(memory_plan.plans(entry, quantization, size, "cuda"), card.memory_mb * MB, None)
    if plan is None:
        return "-", "-"
    return f"`{plan.name}`{', tiles' if plan.decode_tiled else ''}", f"{plan.device / GB:.1f} / {plan.host / GB:.0f}"


def _time(entry: CatalogueEntry, resolution: str, frames: int, card: Card) -> str:
    seconds = derived_seconds(entry, resolution, frames, card)
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def card_of(device_name: str) -> Card | None:
    """Return the card that a device's name names, for example `NVIDIA H100 80GB HBM3`. None: another one."""
    return next((card for card in CARDS if card.model in device_name), None)


def derived_seconds(entry: CatalogueEntry, resolution: str, frames: int, card: Card) -> float:
    """Return the time of the default number of steps, from published seconds of one step by arithmetic."""
    size, cited = _size(entry, resolution, frames), card.per_step
    edge = entry.memory.pixels_per_token
    tokens = size.latent_frames * (size.width // edge) * (size.height // edge)
    known = 21 * (832 // 16) * (480 // 16)
    ratio = _arithmetic(tokens, *_SHAPES[entry.boundary_ratio is not None]) / _arithmetic(known, *_SHAPES[True])
    return entry.defaults.steps * cited.seconds * ratio * cited.tflops / card.tflops


def _arithmetic(tokens: int, parameters: float, layers: int, width: int) -> float:
    """Return the operations of one forward pass: two a parameter and token, and attention's."""
    return 2 * parameters * tokens + 4 * layers * width * tokens**2


def _size(entry: CatalogueEntry, resolution: str, frames: int) -> Size:
    width, height = parse_resolution(resolution)
    return Size.of(entry, width, height, frames, image=entry.image == "required")


def _area(resolution: str) -> int:
    width, height = parse_resolution(resolution)
    return width * height


if __name__ == "__main__":
    print(page(), end="")
