"""What a LoRA file's header tells, and what is refused."""

import io
import json
import struct
from typing import Any

import pytest

from shared.errors import InvalidField
from shared.models.loras import header


def content(tensors: dict[str, tuple[int, ...]], **changes: Any) -> bytes:
    """A safetensors file with these tensors of 16 bits."""
    place, described = 0, {}
    for name, shape in tensors.items():
        size = 2
        for edge in shape:
            size *= edge
        described[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps({**described, **changes}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(place)


def read(data: bytes) -> header.Described:
    return header.read(io.BytesIO(data), len(data))


Q = "diffusion_model.blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("tensors", "rank", "base", "experts"),
    [
        ({f"{Q}.lora_A.weight": (32, 5120), f"{Q}.lora_B.weight": (5120, 32)}, 32, "14B", ()),
        ({"lora_unet_blocks_0_self_attn_q.lora_down.weight": (8, 3072)}, 8, "5B", ()),
        ({"transformer.blocks.0.attn1.to_q.lora_A.default.weight": (4, 5120)}, 4, "14B", ()),
        ({"transformer_2.blocks.0.attn1.to_q.lora_A.weight": (16, 5120)}, 16, "14B", ("low",)),
        ({f"{Q}.diff": (96, 96)}, None, None, ()),
        ({f"{Q}.lora_A.weight": (64, 5120), "blocks.0.ffn.0.lora_A.weight": (128, 5120)}, 128, "14B", ()),
    ],
)
def test_what_it_tells(
    tensors: dict[str, tuple[int, ...]], rank: int | None, base: str | None, experts: tuple[str, ...]
) -> None:
    found = read(content(tensors, __metadata__={"format": "pt"}))
    assert (found.rank, found.base, found.experts, found.keys) == (rank, base, experts, len(tensors))


GOOD = content({f"{Q}.lora_A.weight": (4, 64)})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a safetensors file"),
        (b"PK\x03\x04" + bytes(100), "is not a safetensors file"),
        (b"\x80\x02}q\x00." + bytes(100), "is not a safetensors file"),
        (struct.pack("<Q", 4) + b"nope" + bytes(10), "its header is not JSON"),
        (struct.pack("<Q", 2) + b"[]" + bytes(10), "its header is no object"),
        (struct.pack("<Q", 20_000) + b"[" * 20_000 + bytes(10), "its header is not JSON"),
        (struct.pack("<Q", header.HEADER_BYTES + 1) + bytes(header.HEADER_BYTES + 9), "at most 20000000 are accepted"),
        (GOOD[:-1], "is damaged or cut off"),
        (content({f"{Q}.lora_A.weight": (4, 64)}, x={"shape": "no"}), "the tensor 'x' does not lie in it"),
        (content({"blocks.0.attn1.to_q.weight": (64, 64)}), "is no LoRA: none of its 1 keys"),
        (content({}), "is no LoRA: none of its 0 keys"),
    ],
)
def test_what_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidField) as refused:
        read(data)
    assert words in refused.value.errors[0].msg
