"""The section about fp8: its arithmetic on the card, what a pass takes, its peak against the plan, and LoRAs."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

from shared.catalogue import memory_data
from shared.models import memory_plan
from tests.gpu.components import Size, components, denoise, inputs, pipeline, released, seconds, synchronize
from tests.gpu.layouts import write_lora
from tests.gpu.table import Table
from wanworks.requests import Lora
from workers.generation.pipelines.memory.placement import place
from workers.generation.pipelines.weights import loras, quantizing

_NEEDED = (8, 9)
# One pass of random weights, not frames: e4m3 has three bits of mantissa for weights and activations.
_MOST_DIFFERENCE = 0.2


def fp8(table: Table, device: torch.device, size: Size) -> None:
    """Compare a transformer in fp8 with the same one in bf16. Report it if the card cannot compute in fp8."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _NEEDED:
        print("Not measured: this card has no fp8; it needs compute capability 8.9.")
        return
    _layer(table, device)
    torch.manual_seed(3)
    held = SimpleNamespace(parts=components(size, device))
    transformer, given = held.parts.transformers[0].to(device), inputs(held.parts, size, device)
    expected, before = denoise(transformer, given), _seconds(device, size, lambda: denoise(transformer, given))
    quantizing.apply(transformer, "fp8")
    facts = memory_data.T2V_A14B if size.real else memory_data.TINY["T2V-A14B"]
    planned = memory_plan.Size(8 * size.width, 8 * size.height, 4 * (size.frames - 1) + 1, image=False)
    with_margin = memory_plan.denoise_bytes(facts, planned, "fp8") / 1e9
    if device.type == "cuda":
        torch.cuda.empty_cache()
        there = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    made = denoise(transformer, given)
    synchronize(device)
    if device.type == "cuda":
        peak = (torch.cuda.max_memory_allocated(device) - there) / 1e9
        table.row(f"a pass: peak; planned {with_margin:.2f} GB with margin", peak, "GB", at_most=with_margin)
    difference = float((made.float() - expected.float()).norm() / expected.float().norm())
    table.row("a pass: difference from bf16, relative", difference, at_most=_MOST_DIFFERENCE)
    table.require("a pass: twice the same bits", torch.equal(made, denoise(transformer, given)))
    taken = _seconds(device, size, lambda: denoise(transformer, given))
    table.row(f"a pass over one in bf16 ({taken:.3f} s over {before:.3f} s)", taken / before)
    transformer.to("cpu")
    _lora(table, device, size, held)


def _seconds(device: torch.device, size: Size, work: object) -> float:
    return seconds(device, work, times=5 if size.real else 1)  # type: ignore[arg-type]


def _layer(table: Table, device: torch.device) -> None:
    """Compare the card's multiplication with one of the dequantized numbers in float32."""
    from torchao.quantization import Float8Tensor
    from torchao.quantization.granularity import PerRow

    random = torch.Generator().manual_seed(1)
    weight = torch.randn(512, 1024, generator=random).to(device, torch.bfloat16)
    given = torch.randn(64, 1024, generator=random).to(device, torch.bfloat16)
    quantized = quantizing.quantized("fp8", weight)
    made = torch.nn.functional.linear(given, quantized)
    plain = Float8Tensor.from_hp(given, granularity=PerRow())
    one, other = plain.qdata.float() * plain.scale, quantized.qdata.float() * quantized.scale  # type: ignore[attr-defined]
    expected = (one.double() @ other.double().t()).float()
    worst = float((made.float() - expected).abs().max() / expected.abs().max())
    table.row("a layer: difference from its dequantized numbers, relative", worst, at_most=0.01)


def _lora(table: Table, device: torch.device, size: Size, held: SimpleNamespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_lora(Path(folder) / "style.safetensors", held.parts.transformers[0].blocks[0].attn1.to_q.in_features)
        found = loras.find([Lora(name="style", scale=1.0)], Path(folder), 1)
        held.placement = place("group", device, *held.parts.all)
        held.pipeline = pipeline(held.parts)
        results = []
        for styled in (True, False, True, False):
            with loras.applied(held.pipeline, torch.bfloat16, found if styled else (), held.placement.adopt):
                given = inputs(held.parts, size, device)
                results.append(denoise(held.parts.transformers[0], given).cpu())
            held.placement.bring(None)
        first, plain, again, last = results
        table.require("under `stream`: a LoRA on each job after a load", torch.equal(first, again))
        changed = not torch.equal(plain, first)
        table.require("under `stream`: it changes the output and leaves no trace", torch.equal(plain, last) and changed)
        released(held)
