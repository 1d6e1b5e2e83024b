"""The sizes of LoRA files in the folder that the setting `loras_dir` names. It reads no contents.

Names are as in `workers/generation/pipelines/weights/loras.py`: one file for every expert, or one each for high and low
noise.
"""

from collections.abc import Iterable
from pathlib import Path

from wanworks.requests import Lora


def bytes_of(folder: Path, loras: Iterable[Lora]) -> int:
    """Return the bytes of the LoRAs' files for one expert, the larger of a pair; 0 for one that is not in the folder.

    The worker counts those that only its own host has.
    """
    return sum(max((_size(folder / f"{lora.name}{part}.safetensors") for part in _PARTS), default=0) for lora in loras)


_PARTS = ("", ".high", ".low")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
