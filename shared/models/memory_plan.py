"""Plan the memory of a generation: what each stage needs under each layout, on the device and on its host. Pure.

A layout says where the weights are while a job runs. The API, placement and the workers compute with this module, so a
job is accepted, placed and run by the same figures. Weights come from the files' own sizes, everything else from
formulas that were derived on meta tensors (`shared/catalogue/memory_facts.py`). All figures are bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

from shared.catalogue.memory_facts import Memory, Plane, Weights
from shared.catalogue.models import CatalogueEntry, Offload, parse_resolution
from wanworks.requests import Quantization, Speed

Kind = Literal["cpu", "cuda"]
Stage = Literal["text_encoding", "image_encoding", "denoising", "decoding"]

MB = 1_000_000
# Above every difference between formula and measurement (tests/unit/workers/generation/pipelines/test_measuring.py and
# the measured decode in docs/measurements.md), for what allocators round up and leave between blocks.
MARGIN = 1.12
# CUDA's context, the libraries' handles and workspaces, which no tensor accounts for. Derived: a card reports 0.5 to
# 0.7 GB less as free than it has once torch has started.
CONTEXT_BYTES = 700 * MB
# A worker's process with torch and diffusers, measured at 0.9 GB, and its main process.
PROCESS_BYTES = 1_500 * MB
TILE_PIXELS = 256  # the edge of a tile that is decoded, see `pipelines/decoding.py`
# In this order: what costs least time comes first. Tiles change the picture slightly at their seams.
_ORDER: Sequence[tuple[Offload, bool]] = (
    ("none", False), ("text", False), ("model", False), ("model", True), ("group", False), ("group", True),
)  # fmt: skip
# Above the ratio of denoising in fp8 to that in 16 bits of every known model, for one of which it was not derived.
_FP8_BOUND = 2.5
FP8_CAPABILITY = 89
"""The compute capability from which on a card multiplies in fp8, times ten: Ada, Hopper and later."""
# A capability is added to the needs as so many times this. A version that does not know it finds no device that large.
_CAPABILITY_MB = 10**9
_STEP_MB = 250  # needs are rounded up to multiples of this, so that similar jobs share one line of the queue


@dataclass(frozen=True)
class Size:
    """What the memory of one generation depends on: the model's grid, its input, its LoRAs and the speed tier."""

    width: int
    height: int
    frames: int
    image: bool  # it starts from one
    loras: int = 0  # bytes of the LoRA files of one expert
    speed: Speed = "exact"

    @classmethod
    def of(
        cls,
        entry: CatalogueEntry,
        width: int,
        height: int,
        frames: int,
        image: bool,
        loras: int | None = None,
        speed: Speed = "exact",
    ) -> "Size":
        """Return the size that the model generates for a requested one. `loras` None: those of the entry alone."""
        multiple = entry.size_multiple
        return cls(
            -(-width // multiple) * multiple,
            -(-height // multiple) * multiple,
            -(-(frames - 1) // 4) * 4 + 1,
            image,
            lora_bytes(entry) if loras is None else loras,
            speed,
        )

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def latent_frames(self) -> int:
        return (self.frames - 1) // 4 + 1


@dataclass(frozen=True)
class Plan:
    """What one layout needs."""

    layout: Offload
    decode_tiled: bool
    encode_tiled: bool
    stages: tuple[tuple[Stage, int], ...]  # on the device, weights included
    resident: int  # weights that stay on the device between jobs
    device: int  # the largest stage, with margin and context; of a CPU device the same as `host`
    host: int

    @property
    def name(self) -> str:
        """Return the layout's name, as in the setting `memory_profile`."""
        return LAYOUT_NAMES[self.layout]


def profile_name(quantization: Quantization, layout: Offload) -> str:
    """Return a layout's name in results: ``stream``, or ``int8-stream`` for int8 weights, ``fp8-stream`` for fp8."""
    return f"{f'{quantization}-' if quantization in ('int8', 'fp8') else ''}{LAYOUT_NAMES[layout]}"


LAYOUT_NAMES: dict[Offload, str] = {"none": "full", "text": "text-offload", "model": "offload", "group": "stream"}


@lru_cache(maxsize=4096)
def plans(entry: CatalogueEntry, quantization: Quantization, size: Size, kind: Kind) -> tuple[Plan, ...]:
    """Return the possible plans, the fastest first. A CPU has one memory, so nothing takes turns there."""
    if kind == "cpu":
        return tuple(_plan(entry, quantization, size, "cpu", "none", tiled=tiled) for tiled in (False, True))
    return tuple(_plan(entry, quantization, size, "cuda", layout, tiled=tiled) for layout, tiled in _ORDER)


def choose(options: Sequence[Plan], device: float, host: float | None) -> Plan | None:
    """Return the first plan that fits into these bytes; None if none does. `host` None: unknown, so not compared."""
    return next((plan for plan in options if plan.device <= device and (host is None or plan.host <= host)), None)


def decode_bytes(memory: Memory, size: Size, *, half: bool = False) -> int:
    """Return what decoding a whole video at once needs beside the weights, margin included. `half`: in 16 bits."""
    return round(MARGIN * _decode(memory, size, tiled=False, half=half))


def denoise_bytes(memory: Memory, size: Size, quantization: Quantization = "none") -> int:
    """Return what a forward pass of a transformer in 16 bits or fp8 needs beside the weights, margin included."""
    return round(MARGIN * _denoise(memory, size, quantization))


def encode_bytes(memory: Memory, size: Size) -> int:
    """Return what encoding the image (and the empty frames after it) at once needs beside the weights, with margin."""
    return round(MARGIN * _encode(memory, size, tiled=False))


def needs(entry: CatalogueEntry, quantization: Quantization, size: Size) -> str:
    """Return what a device must have for a job, in the short form that `Needs.read` reads.

    Device and host memory in MB of each plan for a GPU, the richest first, and the memory of a CPU's host:
    ``78000:14250,16250:72000;140000``.
    """
    steps: list[tuple[int, int]] = []
    for plan in plans(entry, quantization, size, "cuda"):
        pair = (_rounded(plan.device), _rounded(plan.host))
        if not any(device <= pair[0] and host <= pair[1] for device, host in steps):
            steps.append(pair)
    on_cpu = min(plan.host for plan in plans(entry, quantization, size, "cpu"))
    more = FP8_CAPABILITY * _CAPABILITY_MB if quantization == "fp8" else 0
    return ",".join(f"{device + more}:{host}" for device, host in steps) + f";{_rounded(on_cpu) + more}"


def together(every: Sequence[str]) -> str:
    """Return what a device must have that fulfils all these needs, one after the other. All are of one quantization."""
    read = [Needs.read(one) for one in every]
    more = max(one.capability for one in read) * _CAPABILITY_MB
    pairs = {
        (max(device for device, _ in chosen), max(host for _, host in chosen))
        for chosen in product(*(one.cuda for one in read))
    }
    steps = [
        f"{device + more}:{host}"
        for device, host in sorted(pairs, reverse=True)
        if not any(other[0] <= device and other[1] <= host for other in pairs - {(device, host)})
    ]
    return ",".join(steps) + f";{max(one.cpu for one in read) + more}"


def lora_bytes(entry: CatalogueEntry) -> int:
    """Return the size of a preset's LoRA for one expert, by the catalogue."""
    return round(entry.lora.file_mb * MB) if entry.lora is not None else 0


def work_factor(entry: CatalogueEntry, width: int, height: int, frames: int) -> float:
    """Return how much more arithmetic a step of this size takes than one of the model's default size.

    Quadratic in the number of tokens, as attention is: an upper bound of the ratio.
    """
    wanted = tokens(entry.memory, Size.of(entry, width, height, frames, image=False))
    usual = tokens(entry.memory, default_size(entry))
    return float((wanted / usual) ** 2)


def least_device_gb(entry: CatalogueEntry, quantization: Quantization) -> float:
    """Return the device memory that the model needs at its default size under its leanest layout, in GB."""
    return _up_to_gb(min(plan.device for plan in plans(entry, quantization, default_size(entry), "cuda")))


def least_host_gb(entry: CatalogueEntry) -> float:
    """Return the host memory that the model needs on a GPU with as little memory as possible, in GB."""
    size = default_size(entry)
    found = [plan for each in entry.quantizations for plan in plans(entry, each, size, "cuda")]
    return _up_to_gb(min(found, key=lambda plan: plan.device).host)


def default_size(entry: CatalogueEntry) -> Size:
    """Return the size of a request that names none."""
    width, height = parse_resolution(entry.defaults.resolution)
    return Size.of(entry, width, height, entry.defaults.frames, image=entry.image != "refused")


@dataclass(frozen=True)
class Needs:
    """What a job needs: on a GPU one of the pairs of (device, host) memory, on a CPU the host's. MB (10^6 bytes).

    With a capability it needs a GPU that has at least that: 89 is compute capability 8.9.
    """

    cuda: tuple[tuple[int, int], ...]
    cpu: int
    capability: int = 0

    @staticmethod
    @lru_cache(maxsize=65536)
    def read(text: str) -> "Needs":
        """Return the needs that `needs` has written."""
        cuda, _, cpu = text.partition(";")
        pairs = (pair.partition(":") for pair in cuda.split(","))
        capability, on_cpu = divmod(int(cpu), _CAPABILITY_MB)
        on_cuda = tuple((int(device) % _CAPABILITY_MB, int(host)) for device, _, host in pairs)
        return Needs(on_cuda, on_cpu, capability)

    @property
    def least_mb(self) -> tuple[int, int]:
        """Return the least (device memory of a GPU, host memory of a CPU device) in MB."""
        return min(device for device, _ in self.cuda), self.cpu

    def runs_on(self, capability: int | None) -> bool:
        """Return whether a device of that compute capability can run it. None: a CPU, or unknown."""
        return not self.capability or (capability or 0) >= self.capability

    def host_mb(self, kind: str, memory_mb: int, host_mb: float | None, capability: int | None = None) -> int | None:
        """Return the host memory that the job takes on such a device; None if it does not fit.

        `memory_mb`: the device's memory; of a CPU the host's. `host_mb`: what the host has for this device; None if
        unknown. `capability`: see `runs_on`.
        """
        if not self.runs_on(capability):
            return None
        if kind == "cpu":
            return self.cpu if self.cpu <= memory_mb and (host_mb is None or self.cpu <= host_mb) else None
        fitting = (host for device, host in self.cuda if device <= memory_mb and (host_mb is None or host <= host_mb))
        return next(fitting, None)

    def missing_mb(self, kind: str, memory_mb: int, host_mb: float | None) -> tuple[int, int]:
        """Return how much (device, host) memory is missing on such a device, which can run it; (0, 0) if it fits."""
        if self.host_mb(kind, memory_mb, host_mb, self.capability) is not None:
            return 0, 0
        if kind == "cpu":
            room = memory_mb if host_mb is None else min(memory_mb, host_mb)
            return 0, max(0, self.cpu - int(room))
        gaps = [
            (max(0, device - memory_mb), 0 if host_mb is None else max(0, host - int(host_mb)))
            for device, host in self.cuda
        ]
        return min(gaps, key=sum)


def _plan(
    entry: CatalogueEntry, quantization: Quantization, size: Size, kind: Kind, layout: Offload, *, tiled: bool
) -> Plan:
    memory, experts = entry.memory, 1 if entry.boundary_ratio is None else 2
    activations = memory.activations
    text, block_of_text = _bytes(memory.text_encoder, quantization, kind, quantizes=False)
    expert, block = _bytes(memory.transformer, quantization, kind, quantizes=True)
    outside = _one(memory.transformer.outside, quantization, kind, quantizes=True)
    vae = memory.vae.whole.fp32
    wide = 2 if kind == "cpu" and quantization == "none" else 1  # the formulas are those of 16 bits
    denoise = wide * round(_denoise(memory, size, quantization))
    if quantization == "int8":
        denoise += 2 * memory.transformer.block.bf16 // 4  # the largest layers, expanded while they are used
    encodes = size.image
    encode = _encode(memory, size, tiled=tiled) if encodes else 0
    tier = entry.tiers.of(size.speed, kind)
    if tier.step_cache is not None:
        denoise += wide * _step_cache(memory, size)
    decode = _decode(memory, size, tiled=tiled, half=tier.decode == "bfloat16")
    prompt = wide * activations.text
    # Both experts have theirs on the device until the last step, under every layout.
    loras = wide * experts * size.loras
    resident = {"none": text + experts * expert + vae, "text": experts * expert + vae, "model": 0, "group": 0}[layout]
    match layout:
        case "none":
            bases = (resident, resident, resident, resident)
        case "text":
            bases = (resident + text, resident, resident, resident)
        case "model":
            bases = (text, vae, expert, vae)
        case "group":
            # Two blocks: while one computes, the next one is copied.
            bases = (
                text - _blocks(memory.text_encoder, quantization, kind) + 2 * block_of_text,
                vae,
                outside + 2 * block,
                vae,
            )
    found: dict[Stage, int] = {
        "text_encoding": bases[0] + loras + prompt,
        "image_encoding": bases[1] + loras + encode,
        "denoising": bases[2] + loras + denoise,
        "decoding": bases[3] + decode,
    }
    if not encodes:
        del found["image_encoding"]
    activity = {"text_encoding": prompt, "image_encoding": encode, "denoising": denoise, "decoding": decode}
    with_margin = max(found[stage] + round((MARGIN - 1) * activity[stage]) for stage in found)
    weights = text + experts * expert + vae
    frames = 3 * size.area * size.frames  # the decoded frames, 8 bits a colour
    if tiled:
        frames += 2 * 4 * 3 * size.area * size.frames  # tiles are blended on the host, in 32 bits
    if kind == "cpu":
        host = with_margin + frames + PROCESS_BYTES
        return Plan(layout, tiled, tiled, tuple(found.items()), weights, host, host)
    # Weights that are not on the device wait in page-locked memory. A component that is being loaded is there too.
    waiting = {"none": 0, "text": text, "model": weights, "group": weights}[layout]
    largest = max(text, expert)
    loading = largest if layout in ("none", "text") else block + block_of_text
    host = waiting + max(frames, loading, loras) + PROCESS_BYTES  # LoRA files are read as a whole, one after the other
    return Plan(layout, tiled, tiled, tuple(found.items()), resident, with_margin + CONTEXT_BYTES, host)


def tokens(memory: Memory, size: Size) -> int:
    """Return how many tokens a transformer reads."""
    edge = memory.pixels_per_token
    return size.latent_frames * (size.width // edge) * (size.height // edge)


def _step_cache(memory: Memory, size: Size) -> int:
    """Return what a first-block cache keeps in 16 bits.

    For each of the two passes of a guided step three tensors of the transformer's width: the output and the residual of
    the first block, and the residual of all others (diffusers, `FBCSharedBlockState`). A fourth is compared with them.
    """
    return 2 * (2 * 3 + 1) * tokens(memory, size) * memory.width


def _denoise(memory: Memory, size: Size, quantization: Quantization) -> float:
    fixed, by_tokens = memory.activations.denoise
    if quantization == "fp8":
        fixed, by_tokens = memory.activations.denoise_fp8 or (_FP8_BOUND * fixed, _FP8_BOUND * by_tokens)
    return fixed + by_tokens * tokens(memory, size)


def _decode(memory: Memory, size: Size, *, tiled: bool, half: bool = False) -> int:
    area = min(size.width, TILE_PIXELS) * min(size.height, TILE_PIXELS) if tiled else size.area
    latents = size.area * size.latent_frames
    fixed, by_area, by_latents = memory.activations.decode
    whole = round(fixed + by_area * area + by_latents * latents)
    # The formula is that of 32 bits. A decoder in 16 bits is a copy that exists during the decode.
    return whole // 2 + memory.vae.whole.fp32 // 2 if half else whole


def _encode(memory: Memory, size: Size, *, tiled: bool) -> int:
    frames = size.frames if memory.encodes == "video" else 1
    whole = _plane(memory.activations.encode, size.area, size.area * frames)
    if not tiled:
        return whole
    # The encoded frames, once empty and once joined with the image, in 32 bits.
    return min(whole, memory.activations.encode_tile + 2 * 4 * 3 * size.area * frames)


def _plane(formula: Plane, area: int, volume: int) -> int:
    return round(formula[0] + formula[1] * area + formula[2] * volume)


def _bytes(weights: Weights, quantization: Quantization, kind: Kind, *, quantizes: bool) -> tuple[int, int]:
    """Return the bytes of (the component, its largest block)."""
    return (
        _one(weights.whole, quantization, kind, quantizes=quantizes),
        _one(weights.block, quantization, kind, quantizes=quantizes),
    )


def _blocks(weights: Weights, quantization: Quantization, kind: Kind) -> int:
    """Return the bytes of all blocks of the text encoder."""
    return _one(weights.whole, quantization, kind, quantizes=False) - _one(
        weights.outside, quantization, kind, quantizes=False
    )


def _one(sizes: object, quantization: Quantization, kind: Kind, *, quantizes: bool) -> int:
    if quantization in ("int8", "fp8"):
        name: str = quantization if quantizes and getattr(sizes, quantization) is not None else "bf16"
    elif quantization == "fp16":
        name = "fp16"
    else:
        name = "fp32" if quantization == "none" and kind == "cpu" else "bf16"
    return int(getattr(sizes, name))


def _up_to_gb(size: int) -> float:
    return -(-size // (1000 * MB // 10)) / 10


def _rounded(size: int) -> int:
    return -(-size // (_STEP_MB * MB)) * _STEP_MB
