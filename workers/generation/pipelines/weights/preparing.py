"""Write weights in the form in which they are loaded: cast to bfloat16, or quantized to int8 or fp8.

A node's io worker starts this program as a child process (`python -m workers.generation.pipelines.weights.preparing`).
It reads one task per line from stdin (JSON: component, form, config, source, target) and writes reports to stdout
(JSON: `done` bytes, and at the end of a task `size` and `sha256`, or `error`). It ends with its parent: a report to a
closed pipe fails.

One tensor is read, converted in pieces and written at a time, so memory stays bounded by the largest tensor. A cast
or a quantization by rows gives the same bytes for a part of a tensor as for the whole.
"""

import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import SafetensorError, safe_open

from shared.models.prepared import FP8_MULTIPLE, KEPT_IN_FP32, PREVIEW, Form
from workers.generation.pipelines.chatter import hush
from workers.generation.pipelines.previews.fitting import fit
from workers.generation.pipelines.weights import quantizing

_PIECE_NUMBERS = 1 << 22
_REPORT_SECONDS = 0.25
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class _Entry:
    """One tensor of the file to be written, and the tensor that it is made of."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    source: str
    part: str | None = None  # of a quantized tensor: qdata, scale or zero_point

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def convert(
    component: str, form: Form, config: Path, source: Path, target: Path, report: Callable[[int], None]
) -> tuple[int, str]:
    """Write the weights of `source` to `target` in that form, durably. Return the size and the sha256.

    `report` receives the bytes written so far. Raises OSError, SafetensorError, ValueError.
    """
    quantized = quantizing.form_of(form)
    linears = _linears(config) if quantized is not None else frozenset()
    with safe_open(source, framework="pt") as file:
        entries, extra = _layout(file, component, quantized, linears)
    digest, done = hashlib.sha256(), 0
    target.unlink(missing_ok=True)  # another process may still have it open for a moment
    with target.open("xb") as out:

        def put(piece: Any) -> None:
            nonlocal done
            out.write(piece)
            digest.update(piece)
            done += len(piece)
            report(done)

        put(_header(entries, {form: extra} if extra else {}))
        waiting: dict[str, torch.Tensor] = {}
        for entry in entries:
            # Opened for each tensor, so that pages of the earlier ones do not count as this process's memory.
            with safe_open(source, framework="pt") as file:
                for piece in _pieces(entry, quantized, file.get_tensor, waiting):
                    put(piece.contiguous().view(torch.uint8).numpy().data)
        out.flush()
        os.fsync(out.fileno())
    return done, digest.hexdigest()


def dtype_of(component: str, name: str, published: torch.dtype) -> torch.dtype:
    """Return the type of a tensor in a model that computes in bfloat16, as the libraries' loaders choose it."""
    if not published.is_floating_point:
        return published
    if component != "text_encoder" and not KEPT_IN_FP32.isdisjoint(name.split(".")):
        return torch.float32
    return torch.bfloat16


def _linears(config: Path) -> frozenset[str]:
    """Return the names of the linear layers of the transformer with that configuration."""
    hush()
    from accelerate import init_empty_weights
    from diffusers import WanTransformer3DModel

    with init_empty_weights():
        model = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(config))
    return frozenset(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))


def _layout(
    file: Any, component: str, form: quantizing.Quantized | None, linears: frozenset[str]
) -> tuple[list[_Entry], dict[str, Any]]:
    """Return the tensors of the new file in their order, and a description of each quantized one.

    Wide types come first, so that every tensor is aligned. A quantized tensor's scale precedes its numbers, because
    both come from one computation and the file is written from front to back.
    """
    plain: list[_Entry] = []
    later: list[_Entry] = []
    extra: dict[str, Any] = {}
    for name in file.keys():  # noqa: SIM118 - it is not a mapping
        lazily = file.get_slice(name)
        shape = tuple(lazily.get_shape())
        published = next(dtype for dtype, code in _NAMES.items() if code == lazily.get_dtype())
        if form is None or not quantizing.quantizes(form, name, shape, linears):
            plain.append(_Entry(name, dtype_of(component, name, published), shape, name))
            continue
        like = quantizing.quantized(form, torch.zeros(FP8_MULTIPLE, shape[1], dtype=torch.bfloat16))
        extra[name] = quantizing.described(form, like)
        for part in sorted(extra[name]["parts"], key=lambda each: -getattr(like, each).dtype.itemsize):
            tensor = getattr(like, part)
            if tensor.shape[0] != FP8_MULTIPLE:
                raise ValueError(f"{name} is not quantized by rows")
            later.append(_Entry(f"{name}.{part}", tensor.dtype, (shape[0], *tensor.shape[1:]), name, part))
    entries = [*sorted(plain, key=lambda entry: (-entry.dtype.itemsize, entry.name)), *later]
    offset = 0
    for entry in entries:
        if offset % entry.dtype.itemsize:
            raise ValueError(f"{entry.name} cannot be aligned")
        offset += entry.bytes
    return entries, extra


def _header(entries: list[_Entry], extra: dict[str, Any]) -> bytes:
    content: dict[str, Any] = {
        "__metadata__": {"format": "pt", **{form: json.dumps(each) for form, each in extra.items()}}
    }
    offset = 0
    for entry in entries:
        ends = [offset, offset + entry.bytes]
        content[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": ends}
        offset = ends[1]
    header = json.dumps(content, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _pieces(
    entry: _Entry,
    form: quantizing.Quantized | None,
    read: Callable[[str], torch.Tensor],
    waiting: dict[str, torch.Tensor],
) -> Iterator[torch.Tensor]:
    """Yield the entry's numbers in pieces, flat. `waiting`: the parts of the present quantized tensor."""
    if entry.part is not None and form is not None:
        if entry.name not in waiting:
            waiting.clear()
            for part, tensor in _quantized_parts(form, read(entry.source)):
                waiting[f"{entry.source}.{part}"] = tensor
        yield waiting.pop(entry.name).reshape(-1)
        return
    flat = read(entry.source).reshape(-1)
    for begin in range(0, flat.numel(), _PIECE_NUMBERS):
        yield flat[begin : begin + _PIECE_NUMBERS].to(entry.dtype)


def _quantized_parts(form: quantizing.Quantized, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parts of the quantized weight. It is quantized some rows at a time, because float32 copies are made."""
    rows = max(1, _PIECE_NUMBERS // weight.shape[1] // FP8_MULTIPLE) * FP8_MULTIPLE
    found: dict[str, list[torch.Tensor]] = {}
    for begin in range(0, weight.shape[0], rows):
        made = quantizing.quantized(form, weight[begin : begin + rows].to(torch.bfloat16))
        for part in made.__tensor_flatten__()[0]:  # type: ignore[attr-defined]
            found.setdefault(part, []).append(getattr(made, part))
    for part, pieces in found.items():
        yield part, torch.cat(pieces)


def main(lines: TextIO, out: TextIO) -> None:
    """Carry out the tasks, one per line, until the lines end."""
    reported_at = 0.0

    def say(**report: Any) -> None:
        out.write(json.dumps(report) + "\n")
        out.flush()

    def report(done: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= _REPORT_SECONDS:
            reported_at = time.monotonic()
            say(done=done)

    for line in lines:
        task = json.loads(line)
        config, source, target = (Path(task[name]) for name in ("config", "source", "target"))
        try:
            with torch.no_grad():
                if task["form"] == PREVIEW:
                    size, sha256 = fit(config, target, report)
                else:
                    size, sha256 = convert(task["component"], task["form"], config, source, target, report)
            say(size=size, sha256=sha256)
        except OSError as error:
            say(error=str(error), full=error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
        except (SafetensorError, ValueError, RuntimeError, KeyError, ImportError, StopIteration) as error:
            say(error=f"{type(error).__name__}: {error}", full=False)


if __name__ == "__main__":
    os.nice(10)  # generations on this node come first
    try:
        main(sys.stdin, sys.stdout)
    except BrokenPipeError:
        os._exit(1)  # the parent has ended
