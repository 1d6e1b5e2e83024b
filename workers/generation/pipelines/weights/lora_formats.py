"""Read the keys of a LoRA file of any supported program as changes to the parameters of one transformer.

A key is a prefix, a module in the original WAN naming or in that of diffusers (with dots or with underscores), and the
role of the tensor: half of a low-rank pair, its alpha, or a difference to add. The naming of a file need not be known
in advance: each module of the transformer is looked up under all of its names.

diffusers' own converters accept two of the prefixes, require every attention module, and drop differences and unknown
keys without reporting them. They are therefore the reference in the tests, but not used here.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

HIGH, LOW = 1, 2  # the experts: high noise or the only one, and low noise

# Prefixes of a key before the module's name. After `lora_unet_` and the like, the name is joined with underscores.
_PREFIX = re.compile(
    r"(?:module|base_model\.model|base_model|model|pipe|dit|unet|diffusion_model|transformer)\."
    r"|lora_(?:unet|transformer|dit|diffusion_model)_+|lycoris_(?:unet_|transformer_)?"
)
_EXPERT_PREFIX = re.compile(
    r"(?:(?P<high>transformer_1|high_noise(?:_model)?)|(?P<low>transformer_2|low_noise(?:_model)?))\."
)
# `default` in `lora_A.default.weight` is the name of the adapter while it was trained.
_ADAPTER = r"(?:\.(?!weight$|bias$)\w[\w-]*)?"
_PART = re.compile(
    r"(?P<module>.+?)(?:"
    rf"\.lora_(?P<letter>[AB]){_ADAPTER}(?P<kind>\.weight|\.bias)?"
    rf"|[._]lora(?:_linear_layer)?[._](?P<word>down|up){_ADAPTER}(?:\.weight)?"
    r"|\.(?P<other>alpha|diff|diff_b|diff_m)"
    r"|\.(?P<foreign>dora_scale|lora_magnitude_vector|lora_mid|hada_\w+|lokr_\w+|oft_\w+|boft_\w+|[wb]_norm|set_weight)"
    r"(?:\..+)?)"
)
_FOREIGN = (
    ("dora_scale", "DoRA is not supported"),
    ("lora_magnitude_vector", "DoRA is not supported"),
    ("lora_mid", "a Tucker decomposition (LoCon with lora_mid) is not supported"),
    ("hada_", "LoHa is not supported"),
    ("lokr_", "LoKr is not supported"),
    ("oft_", "OFT is not supported"),
    ("boft_", "BOFT is not supported"),
)
_OTHER_KIND = "this kind of change is not supported"
_NO_MODULE = "the model has no such module"
_OTHER_EXPERT = "it is for the other expert"

# From a parameter's name in diffusers to its name in the original WAN code, in this order.
_ORIGINAL = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.image_embedder\.norm1\.", "img_emb.proj.0."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj\.", "img_emb.proj.1."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2\.", "img_emb.proj.3."),
    (r"^condition_embedder\.image_embedder\.norm2\.", "img_emb.proj.4."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.add_([kv])_proj\.", r".\1_img."),
    (r"\.norm_added_k\.", ".norm_k_img."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"^(blocks\.\d+)\.norm2\.", r"\1.norm3."),
)


@dataclass(frozen=True)
class LowRank:
    """W + factor * up @ down, on the weight of one module."""

    down: torch.Tensor
    up: torch.Tensor
    factor: float  # alpha / rank


@dataclass
class Reading:
    """What a file changes in one transformer, and its keys that did not apply."""

    low_rank: dict[str, LowRank] = field(default_factory=dict)  # by module
    additions: dict[str, torch.Tensor] = field(default_factory=dict)  # by parameter
    applied: list[str] = field(default_factory=list)  # keys
    refused: dict[str, str] = field(default_factory=dict)  # key and reason

    @property
    def keys(self) -> int:
        """Return how many keys the file has for this transformer."""
        return len(self.applied) + len(self.refused)

    def changes_something(self) -> bool:
        """Return whether any value differs from zero."""
        pairs = any(pair.factor and pair.up.any() and pair.down.any() for pair in self.low_rank.values())
        return bool(pairs or any(added.any() for added in self.additions.values()))


@dataclass(frozen=True)
class Scaling:
    """The alpha of a file's header or configuration, for keys without one, by PEFT's rules."""

    alpha: float | None = None
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False

    def factor(self, module: str, original: str, rank: int) -> float:
        """Return alpha / rank, or alpha / sqrt(rank) for rsLoRA; 1 if no alpha is known."""
        alpha = self.alpha
        for pattern, value in self.alpha_pattern.items():
            if any(name == pattern or name.endswith(f".{pattern}") for name in (module, original)):
                alpha = float(value)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def scaling(config: Mapping[str, Any], prefix: str = "") -> Scaling:
    """Read the fields of a PEFT configuration. Raises ValueError if one has the wrong type."""
    alpha = config.get(f"{prefix}lora_alpha")
    pattern = config.get(f"{prefix}alpha_pattern") or {}
    if not (alpha is None or isinstance(alpha, int | float)) or not isinstance(pattern, dict):
        raise ValueError("lora_alpha must be a number and alpha_pattern an object")
    return Scaling(
        None if alpha is None else float(alpha),
        {str(name).lstrip("^"): float(value) for name, value in pattern.items()},
        bool(config.get(f"{prefix}use_rslora")),
    )


def header_scaling(metadata: Mapping[str, str]) -> Scaling:
    """Read the header that diffusers writes. Raises ValueError if it cannot be read."""
    written = metadata.get("lora_adapter_metadata")
    config = json.loads(written) if written else {}
    if not isinstance(config, dict):
        raise ValueError("lora_adapter_metadata must be an object")
    return scaling(config, "transformer.")


class Targets:
    """The parameters of a transformer under every name that a file may use. Create it before any LoRA is applied."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        self.parameters = dict(transformer.named_parameters())
        self._found: dict[str, str] = {}
        for name in self.parameters:
            for alias in (name, original_name(name)):
                self._found[_flat(alias)] = name

    def parameter(self, name: str) -> str | None:
        """Return the parameter of that name in either naming, with dots or underscores."""
        return self._found.get(_flat(name))


def original_name(name: str) -> str:
    """Return a parameter's name in the original WAN code."""
    for pattern, replacement in _ORIGINAL:
        name = re.sub(pattern, replacement, name)
    return name


def format_of(keys: list[str]) -> str:
    """Return the name of the format, for the report only."""
    known = sorted((key for key in keys if _PART.fullmatch(key)), key=lambda key: ("lora_" not in key, key))
    first = known[0] if known else ""
    if first.startswith("base_model."):
        return "PEFT"
    if re.match(r"lora_|lycoris_", first):
        return "kohya / musubi"
    if first.startswith(("diffusion_model.", "model.diffusion_model.")):
        diffs = any(key.endswith((".diff", ".diff_b", ".diff_m")) for key in keys)
        return "ComfyUI with differences (lightx2v)" if diffs else "ComfyUI"
    if re.match(r"transformer(_\d)?\.", first) or re.search(r"\.attn\d\.|\.to_(q|k|v|out)\b", first):
        return "diffusers"
    if re.search(r"\.lora_[AB]\.", first):
        return "DiffSynth"
    return "original names" if first else "unknown"


def read(
    tensors: Mapping[str, torch.Tensor], targets: Targets, expert: int, experts: int, given: Scaling = Scaling()
) -> Reading:
    """Return what the file changes in the transformer of `expert`.

    Keys for another expert are not counted, unless the model has no such expert. Never raises: keys that cannot be used
    are in `refused`.
    """
    reading = Reading()
    pairs: dict[str, dict[str, str]] = {}  # by module: which part is under which key
    named_experts = {_expert(key) for key in tensors}
    for key in tensors:
        meant_for = _expert(key) or (HIGH if LOW in named_experts and key.startswith("transformer.") else None)
        if meant_for not in (None, expert):
            if meant_for > experts:
                reading.refused[key] = "the model has one transformer, and this is for a second one"
            continue
        _sort(key, tensors[key], targets, reading, pairs)
    for module, parts in pairs.items():
        _pair(module, parts, tensors, targets, reading, given)
    return reading


def _expert(key: str) -> int | None:
    found = _EXPERT_PREFIX.search(key)
    if found is None:
        return None
    return HIGH if found["high"] else LOW


def _sort(key: str, tensor: torch.Tensor, targets: Targets, reading: Reading, pairs: dict[str, dict[str, str]]) -> None:
    part = _PART.fullmatch(key)
    if part is None:
        known = targets.parameter(_module(key))
        reading.refused[key] = "it is a weight of a model, not of a LoRA" if known else "it is no key of a LoRA"
        return
    module = _module(part["module"])
    weight = targets.parameter(f"{module}.weight")
    if part["foreign"]:
        reason = next((text for kind, text in _FOREIGN if part["foreign"].startswith(kind)), _OTHER_KIND)
        reading.refused[key] = reason
        if weight is not None and part["foreign"] in ("dora_scale", "lora_magnitude_vector", "lora_mid"):
            pairs.setdefault(weight.removesuffix(".weight"), {})["foreign"] = key
        return
    if part["letter"] and part["kind"] != ".bias":
        what = "down" if part["letter"] == "A" else "up"
    else:
        what = part["word"] or part["other"] or "bias"
    if what in ("down", "up", "alpha", "bias"):
        if weight is None:
            reading.refused[key] = _NO_MODULE
        elif what in pairs.setdefault(weight.removesuffix(".weight"), {}):
            reading.refused[key] = "the file has this part of the module twice"
        else:
            pairs[weight.removesuffix(".weight")][what] = key
        return
    names = {"diff": (f"{module}.weight", module), "diff_b": (f"{module}.bias",), "diff_m": (f"{module}.modulation",)}
    name = next(filter(None, map(targets.parameter, names[what])), None)
    if name is None:
        reading.refused[key] = _NO_MODULE
        return
    _add(key, name, tensor, targets, reading)


def _add(key: str, name: str, tensor: torch.Tensor, targets: Targets, reading: Reading, factor: float = 1.0) -> None:
    wanted = targets.parameters[name].shape
    fitted = _fitted(tensor, wanted)
    if fitted is None:
        reading.refused[key] = _shapes(tensor, wanted)
        return
    added = _computable(fitted) * factor
    reading.additions[name] = reading.additions[name] + added if name in reading.additions else added
    reading.applied.append(key)


def _pair(
    module: str,
    parts: dict[str, str],
    tensors: Mapping[str, torch.Tensor],
    targets: Targets,
    reading: Reading,
    given: Scaling,
) -> None:
    def refuse(reason: str) -> None:
        for what, key in parts.items():
            if what != "foreign":
                reading.refused[key] = reason

    if "foreign" in parts:
        refuse(reading.refused[parts["foreign"]])
        return
    if "down" not in parts or "up" not in parts:
        refuse("the other half of the pair is not in the file")
        return
    shape = targets.parameters[f"{module}.weight"].shape
    down, up = tensors[parts["down"]], tensors[parts["up"]]
    if down.ndim < 2 or up.ndim < 2 or len(shape) < 2 or down.shape[0] == 0:
        refuse(_shapes(down, shape))
        return
    rank = down.shape[0]
    down_shape, up_shape = torch.Size((rank, *shape[1:])), torch.Size((shape[0], rank, *(1 for _ in shape[2:])))
    fitted_down, fitted_up = _fitted(down, down_shape), _fitted(up, up_shape)
    if fitted_down is None or fitted_up is None:
        wrong, wanted = (down, down_shape) if fitted_down is None else (up, up_shape)
        refuse(_shapes(wrong, wanted))
        return
    factor = given.factor(module, original_name(f"{module}.weight").removesuffix(".weight"), rank)
    if "alpha" in parts:
        alpha = tensors[parts["alpha"]]
        if alpha.numel() != 1:
            refuse("its alpha is not one number")
            return
        factor = float(alpha) / rank
    reading.low_rank[module] = LowRank(_computable(fitted_down), _computable(fitted_up), factor)
    reading.applied += [parts[what] for what in ("down", "up", "alpha") if what in parts]
    if "bias" in parts:
        bias = targets.parameter(f"{module}.bias")
        if bias is None:
            reading.refused[parts["bias"]] = _NO_MODULE
        else:
            _add(parts["bias"], bias, tensors[parts["bias"]], targets, reading, factor)


def _module(name: str) -> str:
    """Return the name without its prefix."""
    while found := _PREFIX.match(name) or _EXPERT_PREFIX.match(name):
        name = name[found.end() :]
    return name.replace(".processor.", ".")


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _fitted(tensor: torch.Tensor, wanted: torch.Size) -> torch.Tensor | None:
    """Return the tensor in that shape if it differs only by dimensions of one or by flattened kernels; else None."""
    if tensor.numel() != wanted.numel():
        return None
    plain = [size for size in tensor.shape if size != 1] == [size for size in wanted if size != 1]
    flat = tensor.ndim == 2 and len(wanted) > 2 and tensor.shape[0] == wanted[0]
    return tensor.reshape(wanted) if plain or flat else None


def _shapes(tensor: torch.Tensor, wanted: torch.Size) -> str:
    return f"its shape is {list(tensor.shape)}, and the model's is {list(wanted)}"


def _computable(tensor: torch.Tensor) -> torch.Tensor:
    """Convert to a type that supports arithmetic on every device; 8-bit floats, for example, do not."""
    if tensor.dtype in (torch.float32, torch.float16, torch.bfloat16):
        return tensor
    return tensor.to(torch.bfloat16 if tensor.dtype.itemsize == 1 else torch.float32)
