"""LoRAs: found by name in one folder, hashed, laid on a loaded model for one job, and taken off again without a trace.

``NAME.safetensors`` goes onto every expert; ``NAME.high.safetensors`` and ``NAME.low.safetensors`` onto the one each.
Beside a file, ``.json`` in the place of ``.safetensors`` may be PEFT's ``adapter_config.json``, where the alpha stands.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from shared.errors import BadInput
from shared.models.stored_files import is_pointer
from wanworks.requests import LORA_NAME, Lora
from workers.generation.pipelines import lora_formats
from workers.generation.pipelines.lora_formats import HIGH, LOW, Reading, Scaling, Targets
from workers.generation.pipelines.memory import ran_out

log = logging.getLogger(__name__)

_TOLD_KEYS = 100  # keys that did not apply are told one by one, up to this many for each file and expert


@dataclass(frozen=True)
class LoraFile:
    """One file of a LoRA and the expert that it is for (1: high noise or the only one, 2: low noise)."""

    path: Path
    expert: int
    sha256: str


@dataclass(frozen=True)
class FoundLora:
    """A LoRA that a job asked for, and its files here."""

    name: str
    scale: float
    files: tuple[LoraFile, ...]

    def described(self) -> dict[str, Any]:
        """For the manifest."""
        files = {file.path.name: file.sha256 for file in self.files}
        for config in {_config_of(file.path) for file in self.files}:
            if config.is_file():
                files[config.name] = _sha256(config)
        return {"name": self.name, "scale": self.scale, "files": files}


def find(loras: Sequence[Lora], folder: Path, experts: int) -> tuple[FoundLora, ...]:
    """The files of each. Raises BadInput for one that is not in the folder or fits another number of experts."""
    return tuple(FoundLora(lora.name, lora.scale, _files(lora.name, folder, experts)) for lora in loras)


@contextmanager
def applied(pipeline: Any, dtype: torch.dtype, loras: Sequence[FoundLora]) -> Iterator[list[dict[str, Any]]]:
    """Have them on the pipeline's transformers inside the block; afterwards the weights are bit for bit the old ones.

    `dtype`: what the transformers compute in. Yields for each file and expert how many of its keys applied, and which
    did not. Raises BadInput where a file is no LoRA for this model.
    """
    if not loras:
        yield []
        return
    with ExitStack() as undo:
        undo.callback(pipeline.unload_lora_weights)
        yield _apply(pipeline, dtype, loras, undo)


def _files(name: str, folder: Path, experts: int) -> tuple[LoraFile, ...]:
    if LORA_NAME.fullmatch(name) is None:
        raise BadInput(f"{name[:128]!r} is no LoRA name.")
    single = folder / f"{name}.safetensors"
    high, low = folder / f"{name}.high.safetensors", folder / f"{name}.low.safetensors"
    if single.is_file():
        digest = _sha256(single)
        return tuple(LoraFile(single, expert, digest) for expert in range(1, experts + 1))
    if not high.is_file() and not low.is_file():
        raise BadInput(f"There is no LoRA {name!r} on this node.")
    if experts == 1:
        raise BadInput(f"The LoRA {name!r} is a pair for high and low noise; this model has one transformer.")
    pair = ((high, HIGH), (low, LOW))
    return tuple(LoraFile(path, expert, _sha256(path)) for path, expert in pair if path.is_file())


class _Content:
    """What one file holds."""

    def __init__(self, path: Path) -> None:
        """Raises BadInput for a file that cannot be read, and for values that are no numbers."""
        if is_pointer(path):
            raise BadInput(
                f"The LoRA file {path.name} is a git-LFS pointer, not the file itself: fetch it with `git lfs pull`."
            )
        try:
            with safe_open(path, framework="pt") as file:
                self.tensors: dict[str, torch.Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                metadata: Mapping[str, str] = file.metadata() or {}
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            if ran_out(error):
                raise
            log.warning("LoRA %s cannot be read: %s", path, error)
            raise BadInput(
                f"The LoRA file {path.name} is no whole safetensors file: copy or download it again."
            ) from error
        for key, tensor in self.tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
                raise BadInput(f"The LoRA file {path.name} holds values that are not numbers, the first in {key!r}.")
        self.scaling, self.alpha = _scaling(path, metadata)
        if any(key.endswith(".alpha") for key in self.tensors):
            self.alpha = "keys"


def _scaling(path: Path, metadata: Mapping[str, str]) -> tuple[Scaling, str]:
    """(the alpha that stands outside the keys, where it was found)"""
    config = _config_of(path)
    try:
        if config.is_file():
            content = json.loads(config.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("must be an object")
            return lora_formats.scaling(content), config.name
        given = lora_formats.header_scaling(metadata)
    except (OSError, ValueError) as error:
        log.warning("the configuration of LoRA %s cannot be read: %s", path, error)
        where = config.name if config.is_file() else f"The header of {path.name}"
        raise BadInput(f"{where} is no configuration of a PEFT adapter (adapter_config.json): {error}") from error
    return given, "header" if given.alpha is not None else "none, so the rank"


def _config_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _apply(pipeline: Any, dtype: torch.dtype, loras: Sequence[FoundLora], undo: ExitStack) -> list[dict[str, Any]]:
    experts = {HIGH: pipeline.transformer}
    if pipeline.transformer_2 is not None:
        experts[LOW] = pipeline.transformer_2
    targets = {expert: Targets(transformer) for expert, transformer in experts.items()}
    reports: list[dict[str, Any]] = []
    changes: list[_Change] = []
    for index, lora in enumerate(loras):
        for path in dict.fromkeys(file.path for file in lora.files):
            content = _Content(path)
            readings = {
                file.expert: lora_formats.read(
                    content.tensors, targets[file.expert], file.expert, len(experts), content.scaling
                )
                for file in lora.files
                if file.path == path
            }
            _require_effect(lora, path, readings)
            for expert, reading in readings.items():
                # Adapter names may not hold the dots that file names may.
                changes.append(_Change(f"lora_{index}", expert, lora.scale, reading))
                reports.append(_report(lora, path, content, expert, len(experts), reading))
    for expert, transformer in experts.items():
        mine = [change for change in changes if change.expert == expert]
        _adapt(pipeline, transformer, targets[expert], dtype, mine)
        _add(targets[expert], mine, undo)
    return reports


@dataclass(frozen=True)
class _Change:
    adapter: str
    expert: int
    scale: float
    reading: Reading


def _require_effect(lora: FoundLora, path: Path, readings: Mapping[int, Reading]) -> None:
    """Raises BadInput for a file of which nothing applies, or that holds nothing but zeros."""
    if not any(reading.applied for reading in readings.values()):
        keys = len({key for reading in readings.values() for key in reading.refused})
        refused = next((reading.refused for reading in readings.values() if reading.refused), {})
        first = next((f" For example {key!r}: {reason}." for key, reason in refused.items()), "")
        raise BadInput(
            f"The LoRA {lora.name!r} does not fit this model: none of the {keys} keys of {path.name} applies.{first} "
            "Use a LoRA that was made for this model."
        )
    if not any(reading.changes_something() for reading in readings.values()):
        raise BadInput(f"The LoRA {lora.name!r} would change nothing: every value that applies in {path.name} is zero.")


def _report(
    lora: FoundLora, path: Path, content: _Content, expert: int, experts: int, reading: Reading
) -> dict[str, Any]:
    names = {HIGH: "high_noise", LOW: "low_noise"} if experts == 2 else {HIGH: "only"}
    refused = [{"key": key, "reason": reason} for key, reason in reading.refused.items()]
    return {
        "name": lora.name,
        "scale": lora.scale,
        "file": path.name,
        "format": lora_formats.format_of(list(content.tensors)),
        "alpha": content.alpha,
        "expert": names[expert],
        "keys": reading.keys,
        "keys_applied": len(reading.applied),
        "keys_not_applied": len(refused),
        "not_applied": refused[:_TOLD_KEYS],
    }


def _adapt(pipeline: Any, transformer: Any, targets: Targets, dtype: torch.dtype, changes: Sequence[_Change]) -> None:
    """Lays the low-rank pairs on with PEFT, each module with its own factor."""
    factors: dict[str, dict[str, float]] = {}  # by module and adapter
    for change in changes:
        state: dict[str, torch.Tensor] = {}
        pairs = {module: (pair.down, pair.up, pair.factor) for module, pair in change.reading.low_rank.items()}
        for name, added in change.reading.additions.items():
            if _quantized(targets.parameters[name]):  # it cannot be added to; a pair of full rank does the same
                module = name.removesuffix(".weight")
                pairs[module] = _joined(pairs.get(module), added)
        for module, (down, up, factor) in pairs.items():
            state[f"{module}.lora_A.weight"], state[f"{module}.lora_B.weight"] = _cast(down, dtype), _cast(up, dtype)
            factors.setdefault(module, {})[change.adapter] = factor * change.scale
        if state:
            transformer.load_lora_adapter(
                state, prefix=None, adapter_name=change.adapter, _pipeline=pipeline, low_cpu_mem_usage=True
            )
    if not factors:
        return
    adapters = [change.adapter for change in changes if change.adapter in transformer.peft_config]
    transformer.set_adapters(adapters, [1.0] * len(adapters))
    for module, of_adapters in factors.items():
        for adapter, factor in of_adapters.items():
            transformer.get_submodule(module).set_scale(adapter, factor)


def _joined(
    pair: tuple[torch.Tensor, torch.Tensor, float] | None, added: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The pair that changes a weight by `added` besides what `pair` does."""
    whole = (added, torch.eye(added.shape[0], dtype=added.dtype))
    if pair is None:
        return *whole, 1.0
    down, up, factor = pair
    return torch.cat([down, whole[0].to(down.dtype)]), torch.cat([up * factor, whole[1].to(up.dtype)], dim=1), 1.0


def _add(targets: Targets, changes: Sequence[_Change], undo: ExitStack) -> None:
    """Adds the differences to the parameters, in place, and has the old values put back by `undo`."""
    for change in changes:
        for name, added in change.reading.additions.items():
            parameter = targets.parameters[name]
            if _quantized(parameter):
                continue
            held = parameter.data  # an offloaded parameter keeps this one, and moves copies of it to the device
            undo.callback(_restore, parameter, held, held.clone())
            held.add_((added.to(held.device, torch.float32) * change.scale).to(held.dtype))


def _restore(parameter: torch.nn.Parameter, held: torch.Tensor, before: torch.Tensor) -> None:
    held.copy_(before)
    parameter.data.copy_(before)  # another tensor by now, where the parameter has been moved meanwhile


def _quantized(parameter: torch.Tensor) -> bool:
    return hasattr(parameter.data, "__tensor_flatten__")


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """At least as exact as what the model computes in; a 16-bit file is left as it is on a 16-bit model."""
    return tensor.to(dtype) if dtype == torch.float32 else tensor


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"The LoRA file {path.name} cannot be read.") from error
