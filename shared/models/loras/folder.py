"""The LoRA files in the folder that the setting `loras_dir` names: the operator's own. It reads no contents.

Names are as in `workers/generation/pipelines/weights/loras.py`: one file for every expert, or one each for high and low
noise.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from shared.catalogue.job_types import LoraFile
from wanworks.requests import Lora


def names(folder: Path) -> set[str]:
    """Return the names of the LoRAs in the folder."""
    stems = {path.stem for path in folder.glob("*.safetensors")} if folder.is_dir() else set()
    return {stem.removesuffix(".high").removesuffix(".low") for stem in stems}


def bytes_of(folder: Path, loras: Iterable[Lora], files: Sequence[LoraFile] = ()) -> int:
    """Return the bytes of the LoRAs' files for one expert, the larger of a pair. `files`: of those from the library.

    0 for one that is not in the folder: the worker counts those that only its own host has.
    """
    total = 0
    for lora in loras:
        sizes = [file.bytes for file in files if file.name == lora.name]
        total += max(sizes or (_size(folder / f"{lora.name}{part}.safetensors") for part in _PARTS), default=0)
    return total


_PARTS = ("", ".high", ".low")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
