"""Find LoRAs by name in one folder, apply them to a loaded model for one job, and remove them completely afterwards.

``NAME.safetensors`` applies to every expert; ``NAME.high.safetensors`` and ``NAME.low.safetensors`` to one each.
A file of the same name with ``.json`` may be PEFT's ``adapter_config.json``, which contains the alpha.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from shared.catalogue.entries import CatalogueEntry
from shared.catalogue.job_types import LoraFile as StoredFile
from shared.errors import BadInput, ModelUnavailable
from shared.models.stored_files import is_pointer
from shared.models.verification import is_oid
from wanworks.requests import LORA_NAME, Lora
from workers.generation.pipelines.memory.freeing import ran_out
from workers.generation.pipelines.weights import lora_formats
from workers.generation.pipelines.weights.lora_formats import HIGH, LOW, Reading, Scaling, Targets

log = logging.getLogger(__name__)

_PAIR = "The LoRA {!r} is a pair for high and low noise; this model has one transformer."
_LISTED_KEYS = 100  # at most this many keys that did not apply are listed for each file and expert


@dataclass(frozen=True)
class LoraFile:
    """One file of a LoRA, and its expert (1: high noise or the only one, 2: low noise)."""

    path: Path
    expert: int
    sha256: str


@dataclass(frozen=True)
class FoundLora:
    """A LoRA that a job requests, and its files on this node."""

    name: str
    scale: float
    files: tuple[LoraFile, ...]

    def described(self) -> dict[str, Any]:
        """Return the LoRA's entry in the manifest."""
        files = {file.path.name: file.sha256 for file in self.files}
        for config in {_config_of(file.path) for file in self.files}:
            if config.is_file():
                files[config.name] = _sha256(config)
        return {"name": self.name, "scale": self.scale, "files": files}


def find(
    loras: Sequence[Lora], folder: Path, experts: int, library: Sequence[tuple[StoredFile, Path | None]] = ()
) -> tuple[FoundLora, ...]:
    """Return the files of each LoRA: those in `library`, with their paths on this node, else those in the folder.

    Raises BadInput for one that is missing or made for another number of experts.
    """
    found = []
    for lora in loras:
        stored = [(file, path) for file, path in library if file.name == lora.name]
        files = _of_library(lora.name, stored, experts) if stored else _files(lora.name, folder, experts)
        found.append(FoundLora(lora.name, lora.scale, files))
    return tuple(found)


def of_preset(entry: CatalogueEntry, snapshot: Path | None) -> FoundLora:
    """Return the LoRA of a preset. Raises ModelUnavailable if its files are not on this node."""
    assert entry.lora is not None
    pairs = ((entry.lora.high, HIGH), (entry.lora.low, LOW))
    places = [(snapshot / path, expert) for path, expert in pairs if path is not None] if snapshot is not None else []
    if not places or not all(place.is_file() for place, _ in places):
        raise ModelUnavailable(f"The LoRA of {entry.model_id} is not on this node.")
    files = tuple(LoraFile(place, expert, _checksum(place)) for place, expert in places)
    return FoundLora(entry.model_id, entry.lora.scale, files)


def bytes_by_expert(loras: Sequence[FoundLora]) -> int:
    """Return the bytes of all LoRA files of one expert, the one with more."""
    sizes = {HIGH: 0, LOW: 0}
    for file in (file for lora in loras for file in lora.files):
        sizes[file.expert] += file.path.stat().st_size
    return max(sizes.values())


@contextmanager
def applied(
    pipeline: Any,
    dtype: torch.dtype,
    loras: Sequence[FoundLora],
    adopt: Callable[[torch.nn.Module], None] = lambda _module: None,
) -> Iterator[list[dict[str, Any]]]:
    """Apply LoRAs to the pipeline's transformers inside the block, and restore the weights bit for bit afterwards.

    `dtype` is the type that the transformers compute in. `adopt` is called with each transformer after modules were
    added to it: they were made where its weights are, and must be where it computes. Yields for each file and expert
    how many of its keys applied, and which did not. Raises BadInput if a file is no LoRA for this model.
    """
    if not loras:
        yield []
        return
    with ExitStack() as undo:
        undo.callback(pipeline.unload_lora_weights)
        yield _apply(pipeline, dtype, loras, adopt, undo)


def _of_library(name: str, stored: Sequence[tuple[StoredFile, Path | None]], experts: int) -> tuple[LoraFile, ...]:
    files: list[LoraFile] = []
    for file, path in stored:
        if path is None:
            raise BadInput(f"The file of the LoRA {name!r} is no longer in the store.")
        if file.expert != "both" and experts == 1:
            raise BadInput(_PAIR.format(name))
        its_experts = range(1, experts + 1) if file.expert == "both" else (HIGH if file.expert == "high" else LOW,)
        files += [LoraFile(path, expert, file.sha256) for expert in its_experts]
    return tuple(files)


def _files(name: str, folder: Path, experts: int) -> tuple[LoraFile, ...]:
    if LORA_NAME.fullmatch(name) is None:
        raise BadInput(f"{name[:128]!r} is not a valid LoRA name.")
    single = folder / f"{name}.safetensors"
    high, low = folder / f"{name}.high.safetensors", folder / f"{name}.low.safetensors"
    if single.is_file():
        digest = _sha256(single)
        return tuple(LoraFile(single, expert, digest) for expert in range(1, experts + 1))
    if not high.is_file() and not low.is_file():
        raise BadInput(f"There is no LoRA {name!r} on this node.")
    if experts == 1:
        raise BadInput(_PAIR.format(name))
    pair = ((high, HIGH), (low, LOW))
    return tuple(LoraFile(path, expert, _sha256(path)) for path, expert in pair if path.is_file())


class _Content:
    """The contents of one file."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises BadInput if it cannot be read or contains values that are not finite numbers."""
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
                f"The LoRA file {path.name} is damaged or no safetensors file: copy or download it again."
            ) from error
        for key, tensor in self.tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
                raise BadInput(
                    f"The LoRA file {path.name} contains values that are not finite numbers, first in {key!r}."
                )
        self.scaling, self.alpha = _scaling(path, metadata)
        if any(key.endswith(".alpha") for key in self.tensors):
            self.alpha = "keys"


def _scaling(path: Path, metadata: Mapping[str, str]) -> tuple[Scaling, str]:
    """Return the alpha from outside the keys, and where it was found."""
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
        raise BadInput(f"{where} is not a valid PEFT adapter configuration (adapter_config.json): {error}") from error
    return given, "header" if given.alpha is not None else "none, so the rank"


def _config_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _apply(
    pipeline: Any,
    dtype: torch.dtype,
    loras: Sequence[FoundLora],
    adopt: Callable[[torch.nn.Module], None],
    undo: ExitStack,
) -> list[dict[str, Any]]:
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
                # Adapter names, unlike file names, must not contain dots.
                changes.append(_Change(f"lora_{index}", expert, lora.scale, reading))
                reports.append(_report(lora, path, content, expert, len(experts), reading))
    for expert, transformer in experts.items():
        mine = [change for change in changes if change.expert == expert]
        _adapt(pipeline, transformer, targets[expert], dtype, mine)
        adopt(transformer)
        _add(targets[expert], mine, undo)
    return reports


@dataclass(frozen=True)
class _Change:
    adapter: str
    expert: int
    scale: float
    reading: Reading


def _require_effect(lora: FoundLora, path: Path, readings: Mapping[int, Reading]) -> None:
    """Raise BadInput if no key of a file applies, or all its values are zero."""
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
        "not_applied": refused[:_LISTED_KEYS],
    }


def _adapt(pipeline: Any, transformer: Any, targets: Targets, dtype: torch.dtype, changes: Sequence[_Change]) -> None:
    """Apply the low-rank pairs with PEFT, each module with its own factor."""
    factors: dict[str, dict[str, float]] = {}  # by module and adapter
    for change in changes:
        state: dict[str, torch.Tensor] = {}
        pairs = {module: (pair.down, pair.up, pair.factor) for module, pair in change.reading.low_rank.items()}
        for name, added in change.reading.additions.items():
            if _quantized(
                targets.parameters[name]
            ):  # a difference cannot be added to it; a pair of full rank has the same effect
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
    """Return the pair that has the effect of `pair` and of adding `added` to the weight."""
    whole = (added, torch.eye(added.shape[0], dtype=added.dtype))
    if pair is None:
        return *whole, 1.0
    down, up, factor = pair
    return torch.cat([down, whole[0].to(down.dtype)]), torch.cat([up * factor, whole[1].to(up.dtype)], dim=1), 1.0


def _add(targets: Targets, changes: Sequence[_Change], undo: ExitStack) -> None:
    """Add the differences to the parameters in place, and register their restoration with `undo`."""
    for change in changes:
        for name, added in change.reading.additions.items():
            parameter = targets.parameters[name]
            if _quantized(parameter):
                continue
            held = parameter.data  # of a weight that visits the device: the host's master, from which each visit copies
            undo.callback(_restore, parameter, held, held.clone())
            held.add_((added.to(held.device, torch.float32) * change.scale).to(held.dtype))


def _restore(parameter: torch.nn.Parameter, held: torch.Tensor, before: torch.Tensor) -> None:
    held.copy_(before)
    parameter.data.copy_(before)  # another tensor if the parameter has been moved meanwhile


def _quantized(parameter: torch.Tensor) -> bool:
    return hasattr(parameter.data, "__tensor_flatten__")


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert to at least the model's precision; a 16-bit file stays unchanged on a 16-bit model."""
    return tensor.to(dtype) if dtype == torch.float32 else tensor


def _checksum(path: Path) -> str:
    """Return the checksum that the link of a downloaded file names; it was verified when the file arrived."""
    name = path.readlink().name if path.is_symlink() else ""
    return name if is_oid(name) and len(name) == 64 else _sha256(path)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"The LoRA file {path.name} cannot be read.") from error
