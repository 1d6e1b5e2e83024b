"""Sections about layouts: what streaming costs, how soon a cancel takes effect, LoRAs on int8, host memory."""

import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import torch
from safetensors.torch import save_file

from tests.gpu.components import Size, components, denoise, inputs, pipeline, released, seconds, synchronize
from tests.gpu.table import Table
from wanworks.requests import Lora
from workers.generation.pipelines.memory import host_memory
from workers.generation.pipelines.memory.placement import LAYOUTS, Placement, layout_bytes, place
from workers.generation.pipelines.stopping import Stops
from workers.generation.pipelines.weights import loras


def stream(table: Table, device: torch.device, size: Size) -> None:
    """Compare a pass under each layout with a resident one: the same bits, its time, its memory; then stop it."""
    tokens = size.frames * size.height * size.width // 4
    expected, plain = torch.empty(0), 0.0
    for layout in LAYOUTS:
        torch.manual_seed(2)
        held = SimpleNamespace(parts=components(size, device))
        planned = layout_bytes(layout, *held.parts.all)
        held.placement = place(layout, device, *held.parts.all)
        transformer, given = held.parts.transformers[0], inputs(held.parts, size, device)
        _weights(table, device, layout, planned.device, held.placement, transformer)
        made = denoise(transformer, given).cpu()
        taken = seconds(device, partial(denoise, transformer, given), 3)
        if layout == "none":
            expected, plain = made, taken
            table.row(f"`none`: pass, {size.layers} blocks, {tokens:,} tokens", taken, "s")
        table.require(f"`{layout}`: the same bits as resident", torch.equal(made, expected))
        table.row(f"`{layout}`: pass over the resident one's", taken / plain, at_most=1.1 if size.real else None)
        if layout == "model":
            turn = seconds(device, partial(_turn, held.placement, transformer), 3)
            table.row("`model`: to bring the transformer", turn, "s")
        _cancel(table, device, layout, transformer, given, taken / size.layers, size)
        table.require(f"`{layout}`: the same bits after cancels", torch.equal(denoise(transformer, given).cpu(), made))
        held.placement.bring(None)
        del transformer, given
        released(held)


def _weights(
    table: Table, device: torch.device, layout: str, planned: int, placement: Placement, transformer: torch.nn.Module
) -> None:
    """Compare the weights on the device with the plan. Only the largest component's visit reaches it."""
    if device.type == "cuda":
        placement.bring(transformer)
        synchronize(device)
        measured = torch.cuda.memory_allocated(device) / 1e9
        table.row(f"`{layout}`: weights on the device", measured, "GB", at_most=round(planned / 1e9 + 0.1, 2))


def _turn(placement: Placement, transformer: torch.nn.Module) -> None:
    placement.bring(None)
    placement.bring(transformer)


class _Stopped(Exception):
    pass


def _cancel(
    table: Table,
    device: torch.device,
    layout: str,
    transformer: torch.nn.Module,
    given: dict[str, torch.Tensor],
    block_seconds: float,
    size: Size,
) -> None:
    """Ask for a stop at several times during a pass, and measure until the device is idle."""
    stops = Stops(device)
    stops.watch_blocks(transformer.blocks)
    asked = threading.Event()
    asked_at = worst = 0.0

    def check() -> None:
        if asked.is_set():
            raise _Stopped

    def ask() -> None:
        nonlocal asked_at
        asked_at = time.perf_counter()
        asked.set()

    stops.check = check
    for part in range(1, size.layers):
        asked.clear()
        timer = threading.Timer((part - 0.5) * block_seconds, ask)
        timer.start()
        try:
            denoise(transformer, given)
        except _Stopped:
            synchronize(device)
            worst = max(worst, time.perf_counter() - asked_at)
        timer.join()
    stops.clear()
    table.row(
        f"`{layout}`: from a cancel to an idle device, at worst",
        worst,
        "s",
        at_most=round(2 * block_seconds + 0.1, 3) if size.real else None,
    )


def lora(table: Table, device: torch.device, size: Size) -> None:
    """Apply a LoRA to an int8 model on the first job after a load, and on later ones, under each layout."""
    expected: list[torch.Tensor] = []
    with tempfile.TemporaryDirectory() as folder:
        for layout in LAYOUTS:
            torch.manual_seed(2)
            held = SimpleNamespace(parts=components(size, device, int8=True))
            width = held.parts.transformers[0].blocks[0].attn1.to_q.in_features
            write_lora(Path(folder) / "style.safetensors", width)
            found = loras.find([Lora(name="style", scale=1.0)], Path(folder), 1)
            held.placement = place(layout, device, *held.parts.all)
            held.pipeline = pipeline(held.parts)
            transformer, given = held.parts.transformers[0], inputs(held.parts, size, device)
            results = []
            for styled in (True, False, True, True, False):
                with loras.applied(held.pipeline, torch.bfloat16, found if styled else (), held.placement.adopt):
                    results.append(denoise(transformer, given).cpu())
                held.placement.bring(None)
            first, plain, again, third, last = results
            table.require(
                f"int8 `{layout}`: a LoRA on the first job after a load and on later ones",
                torch.equal(first, again) and torch.equal(again, third),
            )
            table.require(
                f"int8 `{layout}`: it changes the output and leaves no trace",
                torch.equal(plain, last) and not torch.equal(plain, first),
            )
            if layout == "none":
                expected = results
            table.require(
                f"int8 `{layout}`: the same bits as resident",
                all(torch.equal(one, other) for one, other in zip(results, expected, strict=True)),
            )
            del transformer, given, results
            released(held)


def write_lora(path: Path, width: int) -> None:
    random = torch.Generator().manual_seed(5)
    name = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {
            f"{name}.lora_A.weight": torch.randn(16, width, generator=random) * 0.05,
            f"{name}.lora_B.weight": torch.randn(width, 16, generator=random) * 0.05,
        },
        path,
    )


def host(table: Table, device: torch.device, size: Size) -> None:
    """Measure host memory before placing, after it and after evicting, for each layout that has masters."""
    process = psutil.Process()
    for layout in ("text", "model", "group"):
        released()
        before, locked = process.memory_info().rss, host_memory.locked_bytes()
        held = SimpleNamespace(parts=components(size, device, experts=2))
        planned = layout_bytes(layout, *held.parts.all)
        since = time.perf_counter()
        held.placement = place(layout, device, *held.parts.all)
        table.row(f"`{layout}`: to place {planned.host / 1e9:.1f} GB of masters", time.perf_counter() - since, "s")
        placed = process.memory_info().rss - before
        table.row(f"`{layout}`: resident set over the masters", (placed - planned.host) / 1e9, "GB")
        wanted = planned.host if device.type == "cuda" else 0
        table.require(f"`{layout}`: exactly the masters are locked", host_memory.locked_bytes() - locked == wanted)
        _torch_pinned(table, f"`{layout}`, placed")
        released(held)
        table.row(f"`{layout}`: locked after evicting", (host_memory.locked_bytes() - locked) / 1e9, "GB", at_most=0)
        _torch_pinned(table, f"`{layout}`, evicted")
        table.row(f"`{layout}`: resident set kept after evicting", (process.memory_info().rss - before) / 1e9, "GB")


def _torch_pinned(table: Table, when: str) -> None:
    """Report what torch's own allocator of pinned memory holds; masters are not from it."""
    if torch.cuda.is_available():
        held = torch.cuda.host_memory_stats().get("allocated_bytes.current", 0)
        table.row(f"{when}: pinned by torch's allocator", held / 1e9, "GB", at_most=0.1)
