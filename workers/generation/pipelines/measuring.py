"""Measure on meta tensors how much memory a model needs, and fit the formulas that the memory plan uses.

A forward pass on meta tensors allocates nothing, but each tensor has its real size, so the largest sum of live tensors
is what the pass needs beside the weights. Attention is replaced by an empty result, because the kernels of GPUs and
CPUs never hold the matrix of scores. No weights are read; the components are built from their `config.json`.
"""

import math
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers import transformer_wan
from safetensors import safe_open
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import UMT5Config, UMT5EncoderModel

from shared.catalogue.memory_facts import Activations, Encodes, Memory, Sizes, Weights
from shared.catalogue.models import load as load_catalogue
from shared.errors import ModelUnavailable
from shared.models.replicas import snapshot_dir
from shared.settings import load as load_settings
from workers.generation.frames.geometry import TEMPORAL_STEP
from workers.generation.pipelines import decoding
from workers.generation.pipelines.running import MAX_TOKENS
from workers.generation.pipelines.weights import quantizing

Size = tuple[int, int, int]  # width, height, frames

# The formulas are fitted to these sizes; the tests compare them at others.
FITTED: Sequence[Size] = (
    (256, 256, 17), (832, 480, 33), (832, 480, 81), (640, 640, 121), (1280, 704, 81), (1920, 1088, 49),
)  # fmt: skip
_SETTLED = 4  # latent frames after which the caches of the causal convolutions no longer grow
_KEPT_WEIGHTS_IN_FP32 = ("wo",)  # of the text encoder, under fp16 (UMT5's `_keep_in_fp32_modules`)


@dataclass(frozen=True)
class Components:
    """The components of a model on meta tensors, in the types that they are loaded in."""

    text_encoder: Any
    transformer: Any
    vae: Any
    encodes: Encodes

    @property
    def scale(self) -> int:
        """Return how many pixels one latent covers along an edge."""
        return int(self.vae.config.scale_factor_spatial)

    def latents(self, size: Size) -> tuple[int, int, int]:
        """Return the latents' (frames, height, width)."""
        width, height, frames = size
        return (frames - 1) // TEMPORAL_STEP + 1, height // self.scale, width // self.scale

    def tokens(self, size: Size) -> int:
        """Return how many tokens the transformer reads."""
        frames, height, width = self.latents(size)
        depth, rows, columns = self.transformer.config.patch_size
        return int((frames // depth) * (height // rows) * (width // columns))


def build(
    transformer: Mapping[str, Any], vae: Mapping[str, Any], text_encoder: Mapping[str, Any], encodes: Encodes
) -> Components:
    """Return the components for these arguments of their classes. Allocates nothing."""
    with torch.device("meta"):
        made = WanTransformer3DModel(**transformer).to(torch.bfloat16).eval()
        for name, parameter in made.named_parameters():
            if _is_kept(made, name):
                parameter.data = parameter.data.float()
        encoder = UMT5EncoderModel(UMT5Config(**text_encoder)).to(torch.bfloat16).eval()
        return Components(encoder, made, AutoencoderKLWan(**vae).eval(), encodes)


def from_snapshot(snapshot: Path, encodes: Encodes) -> Components:
    """Return the components of a model's folder. Raises OSError if it has no such configuration."""
    text = UMT5Config.from_pretrained(snapshot / "text_encoder", local_files_only=True).to_dict()
    configs = [
        {
            name: value
            for name, value in component.load_config(folder, local_files_only=True).items()
            if not name.startswith("_")
        }
        for component, folder in (
            (WanTransformer3DModel, snapshot / "transformer"),
            (AutoencoderKLWan, snapshot / "vae"),
        )
    ]
    return build(configs[0], configs[1], text, encodes)


def measure(components: Components) -> Memory:
    """Return what the memory plan needs to know about the model. Afterwards its transformer is quantized to fp8."""
    areas = [(width * height, frames) for width, height, frames in FITTED]
    latents = [
        (1.0, float(area), float(area * components.latents(size)[0]))
        for (area, _), size in zip(areas, FITTED, strict=True)
    ]
    encoded = [(1.0, float(area), float(area * _encoded_frames(components, frames))) for area, frames in areas]
    encode = [0.0, 0.0, 0.0]
    if components.encodes != "nothing":
        encode = _fit(encoded, [encode_peak(components, size) for size in FITTED])
    decode = _fit(latents, [decode_peak(components, size) for size in FITTED])
    denoise = _fit(
        [(1.0, float(components.tokens(size))) for size in FITTED], [denoise_peak(components, size) for size in FITTED]
    )
    weights = _weights(components.transformer, "blocks.")
    quantizing.apply(components.transformer, "fp8")
    in_fp8 = _fit(
        [(1.0, float(components.tokens(size))) for size in FITTED], [denoise_peak(components, size) for size in FITTED]
    )
    return Memory(
        transformer=weights,
        text_encoder=_weights(components.text_encoder, "encoder.block."),
        vae=_weights(components.vae, None),
        activations=Activations(
            text=text_peak(components),
            denoise=(denoise[0], denoise[1]),
            denoise_fp8=(in_fp8[0], in_fp8[1]),
            decode=(decode[0], decode[1], decode[2]),
            encode=(encode[0], encode[1], encode[2]),
            encode_tile=encode_tile_peak(components) if components.encodes != "nothing" else 0,
        ),
        encodes=components.encodes,
        pixels_per_token=components.transformer.config.patch_size[1] * components.scale,
        pixels_per_latent=components.scale,
        width=components.transformer.config.num_attention_heads * components.transformer.config.attention_head_dim,
    )


def text_peak(components: Components) -> int:
    """Return the peak of encoding one prompt."""
    words = torch.empty(1, MAX_TOKENS, dtype=torch.long, device="meta")
    # Without the mask of the padding: whether it may be skipped depends on its values, which do not exist here.
    return _peak(components.text_encoder, lambda: components.text_encoder(words))


def denoise_peak(components: Components, size: Size) -> int:
    """Return the peak of one forward pass of a transformer, including its inputs."""
    transformer = components.transformer
    shape = (1, transformer.config.in_channels, *components.latents(size))

    def run() -> None:
        latents = torch.empty(shape, dtype=torch.bfloat16, device="meta")
        # Of a model whose first frame may be an image, each token has a timestep.
        timestep = torch.empty((1, components.tokens(size)) if components.encodes == "image" else 1, device="meta")
        text = torch.empty(1, MAX_TOKENS, transformer.config.text_dim, dtype=torch.bfloat16, device="meta")
        transformer(latents, timestep, text, return_dict=False)

    return _peak(transformer, run)


def decode_peak(components: Components, size: Size) -> int:
    """Return the peak of decoding a video whole, chunk by chunk, including its latents."""
    vae = components.vae
    frames, height, width = components.latents(size)

    def run() -> None:
        latents = torch.empty(1, vae.config.z_dim, frames, height, width, device="meta")
        for index, chunk in enumerate(decoding.chunks(vae, latents)):
            _ = ((chunk.clamp(-1, 1) * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            if index >= _SETTLED:
                break

    return _peak(vae, run)


def encode_peak(components: Components, size: Size) -> int:
    """Return the peak of encoding the first image (and the empty frames after it) whole, as the pipelines do."""
    width, height, frames = size

    def run() -> None:
        image = torch.empty(1, 3, 1, height, width, device="meta")
        video = image
        if components.encodes == "video":
            video = torch.cat([image, image.new_zeros(1, 3, frames - 1, height, width)], dim=2)
        components.vae.encode(video)

    return _peak(components.vae, run)


def encode_tile_peak(components: Components) -> int:
    """Return the peak of encoding one tile, without the encoded frames."""
    vae = components.vae
    edges = (vae.tile_sample_min_width, vae.tile_sample_min_height)
    edge = max(edges) * (vae.config.patch_size or 1)
    frames = _SETTLED * TEMPORAL_STEP + 1 if components.encodes == "video" else 1
    video = torch.empty(1, 3, frames, edge, edge, device="meta")
    return _peak(vae, lambda: vae.encode(video))


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations return, for as long as they live, except views of the weights."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        held = (plain for tensor in (*module.parameters(), *module.buffers()) for plain in _plain(tensor.data))
        self._known = {tensor.untyped_storage()._cdata for tensor in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor):
                for plain in _plain(tensor):
                    self._add(plain.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def _plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the tensor, or those that a quantized one consists of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain(getattr(tensor, name))


def _peak(module: torch.nn.Module, run: Callable[[], object]) -> int:
    with torch.no_grad(), _without_scores(), _LiveBytes(module) as live:
        run()
    return int(live.peak)


@contextmanager
def _without_scores() -> Iterator[None]:
    """Replace attention by an empty tensor of its result's shape, in the transformer and the VAE."""
    dispatch, attend = transformer_wan.dispatch_attention_fn, functional.scaled_dot_product_attention
    transformer_wan.dispatch_attention_fn = lambda query, key, value, **options: torch.empty_like(query)
    functional.scaled_dot_product_attention = lambda query, key, value, **options: torch.empty_like(query)
    try:
        yield
    finally:
        transformer_wan.dispatch_attention_fn = dispatch
        functional.scaled_dot_product_attention = attend


def _encoded_frames(components: Components, frames: int) -> int:
    return frames if components.encodes == "video" else 1


def _fit(features: Sequence[Sequence[float]], peaks: Sequence[int]) -> list[float]:
    """Return the coefficients with the least sum of squared relative errors."""
    rows, values = numpy.array(features), numpy.array(peaks, dtype=float)
    solved = numpy.linalg.lstsq(rows / values[:, None], numpy.ones(len(values)), rcond=None)[0]
    return [float(f"{value:.6g}") for value in solved]


def _weights(module: Any, blocks: str | None) -> Weights:
    """Return the sizes of a component; the names of the weights in its blocks begin with `blocks` and a number."""
    places: dict[str, list[tuple[str, Any]]] = {"outside": []}
    for name, parameter in module.named_parameters():
        inside = blocks is not None and name.startswith(blocks)
        place = name[len(blocks or "") :].partition(".")[0] if inside else "outside"
        places.setdefault(place, []).append((name, parameter))
    sizes = {place: _sizes(module, parameters) for place, parameters in places.items()}
    outside = sizes.pop("outside")
    largest = max(sizes.values(), key=lambda one: one.fp32, default=Sizes(bf16=0, fp16=0, fp32=0, int8=0, fp8=0))
    return Weights(whole=_sizes(module, list(module.named_parameters())), block=largest, outside=outside)


def _sizes(module: Any, parameters: Sequence[tuple[str, Any]]) -> Sizes:
    bf16 = fp16 = fp32 = int8 = fp8 = 0
    linears = frozenset(name for name, each in module.named_modules() if isinstance(each, torch.nn.Linear))
    for name, parameter in parameters:
        count = parameter.numel()
        kept = _is_kept(module, name)
        half = isinstance(module, UMT5EncoderModel) and set(name.split(".")) & set(_KEPT_WEIGHTS_IN_FP32)
        bf16 += count * (4 if kept else 2)
        fp16 += count * (4 if kept or half else 2)
        fp32 += count * 4
        if parameter.ndim == 2 and name.endswith("weight") and not kept:
            int8 += count + parameter.shape[0] * 5  # a scale of 32 bits and a zero point of 8 bits for each row
        else:
            int8 += count * (4 if kept else 2)
        in_fp8 = isinstance(module, WanTransformer3DModel) and quantizing.quantizes(
            "fp8", name, parameter.shape, linears
        )
        fp8 += count + parameter.shape[0] * 4 if in_fp8 else count * (4 if kept else 2)
    return Sizes(bf16=bf16, fp16=fp16, fp32=fp32, int8=int8, fp8=fp8)


def _is_kept(module: Any, name: str) -> bool:
    """Return whether the weight stays in 32 bits in every type. The VAE is in 32 bits as a whole."""
    if isinstance(module, AutoencoderKLWan):
        return True
    kept = module._keep_in_fp32_modules if isinstance(module, WanTransformer3DModel) else None
    return any(part in name for part in kept or ())


def main(model_id: str, folder: str | None = None) -> None:
    """Print the facts of a model of the catalogue, as the table that a catalogue file takes.

    `folder`: the model's folder, if it is not in the model storage. Raises ModelUnavailable, NotFound.
    """
    settings = load_settings()
    entry = load_catalogue(settings.catalogue).get(model_id)
    snapshot = Path(folder) if folder is not None else snapshot_dir(settings.models_dir, entry)
    if snapshot is None:
        raise ModelUnavailable(f"{model_id} is not in {settings.models_dir}: download it, or name its folder")
    try:
        components = from_snapshot(snapshot, entry.memory.encodes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"{snapshot} has not the configuration of such a model: {error}") from error
    _compare_with_files(snapshot, components)
    print(f"[models.{model_id}.memory]")
    for name, value in measure(components).model_dump().items():
        print(f"{name} = {toml_value(value)}")


def _compare_with_files(snapshot: Path, components: Components) -> None:
    """Compare the sizes of the components with the headers of their files. Raises ModelUnavailable."""
    for name in ("text_encoder", "transformer", "vae"):
        module = getattr(components, name)
        there = 0
        for path in sorted((snapshot / name).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                there += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        if there and there != (wanted := sum(parameter.numel() for parameter in module.parameters())):
            raise ModelUnavailable(f"The files of {name} have {there} weights, and its configuration has {wanted}.")


def toml_value(value: Any) -> str:
    """Return a value as TOML writes it on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml_value(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    from shared.errors import WanworksError
    from workers.generation.pipelines.chatter import hush

    hush()
    try:
        main(*sys.argv[1:])
    except WanworksError as error:
        sys.exit(f"wanworks: {error.message}")
