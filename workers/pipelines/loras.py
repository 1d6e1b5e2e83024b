"""LoRAs: found by name in one folder, hashed, laid on a loaded model for one job, and taken off again without a trace.

``NAME.safetensors`` goes onto every expert; ``NAME.high.safetensors`` and ``NAME.low.safetensors`` onto the one each.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from shared.errors import BadInput
from shared.job_types import LORA_NAME, Lora
from workers.pipelines.memory import ran_out

log = logging.getLogger(__name__)


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
        return {"name": self.name, "scale": self.scale, "files": files}


def find(loras: Sequence[Lora], folder: Path, experts: int) -> tuple[FoundLora, ...]:
    """The files of each. Raises BadInput for one that is not in the folder or fits another number of experts."""
    return tuple(FoundLora(lora.name, lora.scale, _files(lora.name, folder, experts)) for lora in loras)


@contextmanager
def applied(pipeline: Any, loras: Sequence[FoundLora]) -> Iterator[None]:
    """Have them on the pipeline's transformers inside the block; afterwards the weights are bit for bit the old ones.

    Raises BadInput where a file is no LoRA for this model.
    """
    if not loras:
        yield
        return
    try:
        _apply(pipeline, loras)
        yield
    finally:
        pipeline.unload_lora_weights()


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
    pair = ((high, 1), (low, 2))
    return tuple(LoraFile(path, expert, _sha256(path)) for path, expert in pair if path.is_file())


def _apply(pipeline: Any, loras: Sequence[FoundLora]) -> None:
    on_expert: dict[int, dict[str, float]] = {1: {}, 2: {}}
    for index, lora in enumerate(loras):
        adapter = f"lora_{index}"  # adapter names may not hold the dots that file names may
        for file in lora.files:
            try:
                pipeline.load_lora_weights(
                    str(file.path.parent),
                    weight_name=file.path.name,
                    adapter_name=adapter,
                    use_safetensors=True,
                    local_files_only=True,
                    load_into_transformer_2=file.expert == 2,
                )
            except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
                if ran_out(error):
                    raise
                log.warning("LoRA %s does not load: %s", file.path, error)
                raise BadInput(f"The LoRA {lora.name!r} does not fit this model.") from error
            on_expert[file.expert][adapter] = lora.scale
    for expert, transformer in ((1, pipeline.transformer), (2, pipeline.transformer_2)):
        chosen = on_expert[expert]
        if chosen:
            transformer.set_adapters(list(chosen), list(chosen.values()))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"The LoRA file {path.name} cannot be read.") from error
