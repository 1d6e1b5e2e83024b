"""What the header of a LoRA file tells: whether it is one, its rank, the model that it was made for, its experts. Pure.

A safetensors file begins with the length of its header in eight bytes, little-endian, then the header as JSON: for each
tensor its type, shape and place in the file (the format's own description). Nothing else of the file is read, and
nothing in it is run.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from shared.errors import InvalidField

Expert = Literal["both", "high", "low"]
HEADER_BYTES = 20_000_000  # a LoRA with 2,000 keys has about 300 KB
_TENSORS = 100_000
_LENGTH_BYTES = 8
# As in `workers/generation/pipelines/weights/lora_formats.py`, which applies them.
_DOWN = re.compile(r"\.lora_A(\.\w+)?(\.weight)?$|[._]lora(_linear_layer)?[._]down(\.\w+)?(\.weight)?$")
_CHANGES = re.compile(r"lora_[AB]\b|[._]lora(_linear_layer)?[._](down|up)\b|\.(diff|diff_b)$")
# A module whose input is as wide as the transformer.
_WIDE = re.compile(r"(attn1?|self_attn|cross_attn|attn2)[._](to_)?(q|k|v)\b")
_WIDTHS = {5120: "14B", 3072: "5B", 1536: "1.3B"}
_EXPERTS = re.compile(
    r"^(?:(?P<high>transformer_1|high_noise(?:_model)?)|(?P<low>transformer_2|low_noise(?:_model)?))\."
)


@dataclass(frozen=True)
class Described:
    """What a header tells. None: it does not tell."""

    keys: int
    rank: int | None  # the largest
    base: str | None  # the size of the model that it fits: 14B, 5B or 1.3B
    experts: tuple[str, ...]  # that its own keys name; empty if they name none

    def as_dict(self) -> dict[str, Any]:
        return {"keys": self.keys, "rank": self.rank, "base": self.base, "experts": list(self.experts)}


def read(file: BinaryIO, size: int) -> Described:
    """Read the header of a file of `size` bytes. Raises InvalidField if it is no safetensors file, or no LoRA."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES + 2 or length < 2 or length > size - _LENGTH_BYTES:
        raise _refused(
            "is not a safetensors file; only safetensors files are accepted, because others can run programs"
        )
    if length > HEADER_BYTES:
        raise _refused(f"has a header of {length} bytes; at most {HEADER_BYTES} are accepted")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise _refused("is not a safetensors file: its header is not JSON") from None
    if not isinstance(header, dict):
        raise _refused("is not a safetensors file: its header is no object")
    header.pop("__metadata__", None)
    shapes = _shapes(header, size - _LENGTH_BYTES - length)
    if not any(_CHANGES.search(name) for name in shapes):
        first = next(iter(shapes), "none")
        raise _refused(
            f"is no LoRA: none of its {len(shapes)} keys is the change of a weight, for example {first[:100]!r}"
        )
    return describe(shapes)


def describe(shapes: Mapping[str, tuple[int, ...]]) -> Described:
    """Return what the names and shapes of a LoRA's tensors tell."""
    ranks = [min(shape) for name, shape in shapes.items() if _DOWN.search(name) and len(shape) == 2 and min(shape) > 0]
    widths = {max(shape) for name, shape in shapes.items() if _WIDE.search(name) and len(shape) >= 2}
    base = next((label for width, label in _WIDTHS.items() if width in widths), None)
    named = {
        kind for name in shapes if (match := _EXPERTS.match(name)) for kind, found in match.groupdict().items() if found
    }
    return Described(len(shapes), max(ranks, default=None), base, tuple(sorted(named)))


def _shapes(header: Mapping[str, Any], content: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor. Raises InvalidField if one does not lie in the file."""
    if len(header) > _TENSORS:
        raise _refused(f"has {len(header)} tensors; at most {_TENSORS} are accepted")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, about in header.items():
        try:
            begin, end = about["data_offsets"]
            shape = tuple(int(edge) for edge in about["shape"])
            good = 0 <= begin <= end <= content
        except (TypeError, KeyError, ValueError):
            good = False
        if not good:
            raise _refused(
                f"is damaged or cut off: the tensor {name[:100]!r} does not lie in it; copy or download it again"
            )
        shapes[name] = shape
    return shapes


def _refused(msg: str) -> InvalidField:
    return InvalidField.of("file", msg, "not_a_lora")
