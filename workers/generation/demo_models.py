"""Write models with random weights: the classes, index layout and cache layout of the real ones, a few MB each.

With them everything but the images is real on a machine without a GPU or a download. The GPU checks build their models
here too, at the real layer widths. This module must not read an installation's catalogue or start a pipeline.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

RECIPE = 1  # raise it whenever the files change, so that older ones are replaced
OWNER = "wanworks-demo"


@dataclass(frozen=True)
class Shape:
    """All parameters that determine a repo's files, as the classes' own keyword arguments."""

    pipeline: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    flow_shift: float  # of the published scheduler file, not the native one
    boundary_ratio: float | None = None  # if set, there is a second transformer, for low noise
    expand_timesteps: bool = False
    half: bool = False  # weights in bfloat16; the published transformers are float32
    shard_bytes: int = 300_000


def make(directory: Path, model_ids: Iterable[str] = ("T2V-A14B", "I2V-A14B", "TI2V-5B")) -> dict[str, Path]:
    """Write the demo catalogue's models under `directory`, a Hugging Face cache. Return their snapshot folders.

    The files are byte-identical in every run. Complete models are kept. Raises KeyError for an unknown id. The LoRA of
    the demo's presets is written too.
    """
    make_loras(directory)
    return {model_id: make_repo(directory, f"{OWNER}/{model_id}", DEMO[model_id]) for model_id in model_ids}


def make_repo(directory: Path, repo: str, shape: Shape) -> Path:
    """Write one repo with that shape. Return its snapshot folder."""
    card = _card(repo, shape)
    storage = directory / f"models--{repo.replace('/', '--')}"
    present = _present(storage, card)
    if present is not None:
        return present
    storage.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=storage))
    try:
        files = work / "files"
        _write_files(files, repo, shape)
        (files / "README.md").write_text(card, encoding="utf-8")
        return _publish(files, storage, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def make_loras(directory: Path) -> Path:
    """Write the repository with the LoRAs of the demo's presets. Return its snapshot folder."""
    digest = hashlib.sha256(repr((RECIPE, sorted(LORA_FILES), DEMO)).encode()).hexdigest()
    card = f"# {LORA_REPO}\n\nLow-rank pairs of random numbers for the demo's models.\n\nRecipe {digest}\n"
    storage = directory / f"models--{LORA_REPO.replace('/', '--')}"
    present = _present(storage, card, len(LORA_FILES) + 1)
    if present is not None:
        return present
    storage.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=storage))
    try:
        files = work / "files"
        for path, base in LORA_FILES.items():
            _write_lora(files / path, DEMO[base])
        (files / "README.md").write_text(card, encoding="utf-8")
        return _publish(files, storage, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


# The widths of the published models (from their config.json files); reduced copies have fewer layers.
A14B_TRANSFORMER: Mapping[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
TI2V_TRANSFORMER: Mapping[str, Any] = {
    **A14B_TRANSFORMER,
    "num_attention_heads": 24,
    "in_channels": 48,
    "out_channels": 48,
    "ffn_dim": 14336,
    "num_layers": 30,
}
UMT5_XXL: Mapping[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
}
VAE_16: Mapping[str, Any] = {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
VAE_48: Mapping[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}

REAL: Mapping[str, Shape] = {
    "T2V-A14B": Shape("WanPipeline", A14B_TRANSFORMER, VAE_16, UMT5_XXL, flow_shift=3.0, boundary_ratio=0.875),
    "I2V-A14B": Shape(
        "WanImageToVideoPipeline",
        {**A14B_TRANSFORMER, "in_channels": 36},
        VAE_16,
        UMT5_XXL,
        flow_shift=3.0,
        boundary_ratio=0.9,
    ),
    "TI2V-5B": Shape("WanPipeline", TI2V_TRANSFORMER, VAE_48, UMT5_XXL, flow_shift=5.0, expand_timesteps=True),
}


def reduced(
    shape: Shape, transformer: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping[str, Any], **others: Any
) -> Shape:
    """Return the same architecture with some figures changed; `others` are fields of the shape itself."""
    return replace(
        shape,
        transformer={**shape.transformer, **transformer},
        vae={**shape.vae, **vae},
        text_encoder={**shape.text_encoder, **text},
        **others,
    )


_TINY_TRANSFORMER = {
    "num_attention_heads": 4,
    "attention_head_dim": 24,
    "text_dim": 64,
    "freq_dim": 64,
    "ffn_dim": 256,
    "num_layers": 2,
}
_TINY_TEXT = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
_TINY_VAE = {"base_dim": 4, "num_res_blocks": 1}

LORA_REPO = f"{OWNER}/Wan2.2-Lightning"
# The files of the demo's LoRA: as in the published repository, one for each expert of each base.
LORA_FILES: Mapping[str, str] = {
    f"Wan2.2-{base}-4steps-lora-rank64-{version}/{expert}_noise_model.safetensors": base
    for base, version in (("T2V-A14B", "Seko-V1.1"), ("I2V-A14B", "Seko-V1"))
    for expert in ("high", "low")
}

DEMO: Mapping[str, Shape] = {
    "T2V-A14B": reduced(REAL["T2V-A14B"], _TINY_TRANSFORMER, _TINY_VAE, _TINY_TEXT),
    "I2V-A14B": reduced(REAL["I2V-A14B"], _TINY_TRANSFORMER, _TINY_VAE, _TINY_TEXT),
    "TI2V-5B": reduced(REAL["TI2V-5B"], _TINY_TRANSFORMER, {**_TINY_VAE, "decoder_base_dim": 4}, _TINY_TEXT),
}


def _card(repo: str, shape: Shape) -> str:
    digest = hashlib.sha256(repr((RECIPE, _versions(), shape)).encode()).hexdigest()
    return (
        f"---\nlibrary_name: diffusers\ntags: [random-weights]\n---\n# {repo}\n\n"
        f"Random weights in the classes of the published model: every picture is noise.\n\nRecipe {digest}\n"
    )


def _versions() -> tuple[str, ...]:
    """Return the versions of the libraries that write their version into the files."""
    from importlib.metadata import version

    return version("diffusers"), version("transformers")


def _present(storage: Path, card: str, least: int = 11) -> Path | None:
    """Return the snapshot that `refs/main` names if it has at least that many files and is of this recipe."""
    try:
        snapshot = storage / "snapshots" / (storage / "refs" / "main").read_text(encoding="ascii").strip()
        if (snapshot / "README.md").read_text(encoding="utf-8") != card:
            return None
    except OSError:
        return None
    files = [path for path in snapshot.rglob("*") if path.is_symlink() or path.is_file()]
    return snapshot if all(path.exists() for path in files) and len(files) >= least else None


def _write_files(folder: Path, repo: str, shape: Shape) -> None:
    """Write the repo's files as plain files, in the layout of the published ones."""
    from workers.generation.pipelines.chatter import hush

    hush()
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    vocabulary = _vocabulary()
    _write_tokenizer(folder / "tokenizer", vocabulary)
    config = UMT5Config(vocab_size=len(vocabulary), **shape.text_encoder)
    config.architectures = ["UMT5EncoderModel"]
    parts: dict[str, Any] = {"text_encoder": UMT5EncoderModel(config), "vae": AutoencoderKLWan(**shape.vae)}
    experts = ["transformer"] if shape.boundary_ratio is None else ["transformer", "transformer_2"]
    for name in ("text_encoder", *experts, "vae"):
        part = parts.pop(name, None) or WanTransformer3DModel(**shape.transformer)
        _randomize(part, f"{repo}/{name}")
        if shape.half and name != "vae":
            import torch

            part.to(torch.bfloat16)
        limit = shape.shard_bytes if name in experts else 10**10
        part.save_pretrained(folder / name, max_shard_size=limit, safe_serialization=True)
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shape.flow_shift, num_train_timesteps=1000
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": shape.pipeline,
        "_diffusers_version": _versions()[0],
        "boundary_ratio": shape.boundary_ratio,
        "expand_timesteps": shape.expand_timesteps,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": ["diffusers", "WanTransformer3DModel"] if len(experts) == 2 else [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    if shape.pipeline == "WanImageToVideoPipeline":
        index |= {"image_encoder": [None, None], "image_processor": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _randomize(part: "torch.nn.Module", name: str) -> None:
    """Fill every parameter from a seed derived from its name, independently of torch's version and the CPU.

    Scaled by the fan-in: signals keep their magnitude through the layers, and the result is noise, not a flat field.
    """
    # Threads help: the generator releases the GIL, and at the real widths there are billions of numbers.
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda item: _fill(item[1], item[0], name), part.named_parameters()))


def _fill(parameter: "torch.nn.Parameter", key: str, name: str) -> None:
    import numpy
    import torch

    if "norm" in key or key.endswith("gamma"):
        parameter.data.fill_(0.0 if key.endswith("bias") else 1.0)
        return
    fan_in = parameter[0].numel() if parameter.ndim != 3 else parameter.shape[-1]
    deviation = 0.02 if parameter.ndim < 2 else fan_in**-0.5
    seed = int.from_bytes(hashlib.sha256(f"{RECIPE}/{name}/{key}".encode()).digest()[:8], "big")
    random = numpy.random.Generator(numpy.random.PCG64(seed))
    values = random.standard_normal(tuple(parameter.shape), dtype=numpy.float32)
    values *= numpy.float32(deviation)
    parameter.data.copy_(torch.from_numpy(values))


def _write_lora(file: Path, shape: Shape) -> None:
    """Write one file with the keys of the published LoRA: a pair for each linear layer of each block, and its alpha."""
    import numpy
    import torch
    from safetensors.torch import save_file

    heads, dim = shape.transformer["num_attention_heads"], shape.transformer["attention_head_dim"]
    width, inner, rank = heads * dim, shape.transformer["ffn_dim"], 4
    square = {f"{kind}.{name}": (width, width) for kind in ("self_attn", "cross_attn") for name in "qkvo"}
    layers = {**square, "ffn.0": (width, inner), "ffn.2": (inner, width)}
    content: dict[str, torch.Tensor] = {}
    for block in range(shape.transformer["num_layers"]):
        for layer, (before, after) in layers.items():
            name = f"diffusion_model.blocks.{block}.{layer}"
            for part, size in (("lora_down", (rank, before)), ("lora_up", (after, rank))):
                seed = hashlib.sha256(f"{RECIPE}/{LORA_REPO}/{file.parent.name}/{file.name}/{name}/{part}".encode())
                random = numpy.random.Generator(numpy.random.PCG64(int.from_bytes(seed.digest()[:8], "big")))
                values = random.standard_normal(size, dtype=numpy.float32) * numpy.float32(0.2)
                content[f"{name}.{part}.weight"] = torch.from_numpy(values)
            content[f"{name}.alpha"] = torch.tensor(float(rank))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(content, file)


_WORDS = """
a an the of in on at over under with and to from by cat dog horse bird fish man woman child city street sea
sky sun moon rain snow fire water forest mountain river night day light dark red green blue white black slow
fast running walking flying dancing camera close up wide shot cinematic style high quality detailed
"""


def _vocabulary() -> list[tuple[str, float]]:
    """Return a fixed unigram vocabulary: special tokens, single characters, and some words common in prompts."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    characters = ["▁", *(chr(code) for code in range(0x21, 0x7F)), *(chr(code) for code in range(0xA1, 0x180))]
    return [*special, *((char, -8.0) for char in characters), *((f"▁{word}", -4.0) for word in _WORDS.split())]


def _write_tokenizer(folder: Path, vocabulary: list[tuple[str, float]]) -> None:
    from transformers import T5TokenizerFast

    tokenizer = T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(folder)


def _publish(files: Path, storage: Path, work: Path) -> Path:
    """Move plain files into blobs, link them from a snapshot, and name that snapshot last."""
    (storage / "blobs").mkdir(exist_ok=True)
    (storage / "snapshots").mkdir(exist_ok=True)
    (storage / "refs").mkdir(exist_ok=True)
    links: dict[str, str] = {}
    for path in sorted(path for path in files.rglob("*") if path.is_file()):
        links[path.relative_to(files).as_posix()] = _blob_name(path)
    commit = hashlib.sha1("".join(f"{blob} {name}\n" for name, blob in links.items()).encode()).hexdigest()
    tree = work / "tree"
    for name, blob in links.items():
        source, target, link = files / name, storage / "blobs" / blob, tree / name
        source.chmod(0o644)
        os.replace(source, target)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("/".join([".."] * (2 + name.count("/")) + ["blobs", blob]))
    snapshot = storage / "snapshots" / commit
    if not snapshot.exists():
        os.replace(tree, snapshot)
    reference = work / "main"
    reference.write_text(commit, encoding="ascii")
    os.replace(reference, storage / "refs" / "main")
    return snapshot


def _blob_name(path: Path) -> str:
    """Return the Hub's name for a file: its sha256 if it is stored as a large file, else its git blob hash."""
    if path.suffix == ".safetensors":
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m workers.generation.demo_models DIR")
    for made_id, made_path in make(Path(sys.argv[1]).expanduser().absolute()).items():
        print(f"{made_id}  {made_path}")
