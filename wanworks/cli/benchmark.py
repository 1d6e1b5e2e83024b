"""The command for benchmarks of speed tiers."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from wanworks.cli import screen
from wanworks.cli.models import Model, given, rounded, watched
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.client.shapes import succeeded, why_not
from wanworks.errors import ApiRefused


def register(app: typer.Typer) -> None:
    app.command()(benchmark)


def benchmark(
    model: Model,
    tiers: Annotated[bool, typer.Option("--tiers", help="Run it. [show what was measured]")] = False,
    resolution: Annotated[str | None, typer.Option(help="For example 832x480. [the model's own]")] = None,
    frames: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    steps: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    quantization: Annotated[str | None, typer.Option(help="none, fp16, bf16, int8 or fp8. [none]")] = None,
    runs: Annotated[int | None, typer.Option(help="Prompts for each tier. [3]", min=1, max=20)] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare the speed tiers of a model with `exact` on a device: time, SSIM and PSNR of the frames."""
    with client_of(url, home) as client:
        if tiers:
            sizes = {"resolution": resolution, "frames": frames, "steps": steps}
            asked = given({**sizes, "quantization": quantization, "runs": runs})
            job = watched(client, [client.benchmark(model, **asked)])[0]
            if not succeeded(job):
                raise ApiRefused(why_not(job))
        found = client.tiers(model)
    if as_json:
        screen.print_json(found)
        return
    columns = ("tier", "device", "size", "seconds", "exact", "times as fast", "SSIM", "least", "PSNR dB", "frames are")
    rows = (row for tier in found["tiers"] for row in _tier_rows(tier))
    screen.print_table(columns, rows, least=("device", "least", "PSNR dB", "exact"))


def _tier_rows(tier: Mapping[str, Any]) -> Iterable[tuple[Any, ...]]:
    """Yield a row for each measurement, or one that says that there is none."""
    for one in tier["measured"]:
        psnr = one["psnr_mean"]
        yield (
            tier["tier"], one["device_name"], f"{one['resolution']}x{one['frames']}", rounded(one["seconds"]),
            rounded(one["exact_seconds"]), f"{one['speedup']:.2f}", f"{one['ssim_mean']:.4f}",
            f"{one['ssim_min']:.4f}", "equal" if psnr is None else f"{psnr:.1f}", one["quality"],
        )  # fmt: skip
    if not tier["measured"]:
        yield (tier["tier"], *[None] * 8, "exact" if tier["tier"] == "exact" else "not measured")
