"""The device, the reduced models, and the table of measurements."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from shared.catalogue import models
from shared.catalogue.models import CatalogueEntry
from tests.support.models.generating import Studio
from workers.devices import discovery
from workers.devices.discovery import Device
from workers.generation import demo_models, run

WEIGHTS_SHARE = 0.12  # of the card, for one reduced model: several profiles and the bare pipeline must fit beside it
BLOCK_GB = {"T2V-A14B": 0.70, "TI2V-5B": 0.33}  # one transformer block in bfloat16, at the real width
SIZE = {"resolution": "832x480", "frames": 17, "steps": 4}


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    check: str
    measured: str
    bound: str


_figures: list[Figure] = []


@pytest.fixture
def record() -> "Recorder":
    return Recorder()


class Recorder:
    """Add a figure to the table, and fail the check if it exceeds its bound."""

    def __call__(self, check: str, value: float | str, unit: str = "", at_most: float | None = None) -> None:
        shown = value if isinstance(value, str) else f"{value:,.3f}".rstrip("0").rstrip(".")
        bound = "" if at_most is None else f"at most {at_most:g} {unit}".strip()
        _figures.append(Figure(check, f"{shown} {unit}".strip(), bound))
        if at_most is not None:
            assert not isinstance(value, str)
            assert value <= at_most, f"{check}: {shown} {unit}, {bound}"


@pytest.fixture(scope="session")
def device() -> Device:
    found = discovery.enumerate_devices("auto")[0]
    if found.kind != "cuda":
        pytest.skip("no CUDA device")
    return found


@dataclass(frozen=True)
class Reduced:
    """A model at the real layer widths with fewer layers, and its catalogue entry."""

    entry: CatalogueEntry
    snapshot: Path
    layers: int


@pytest.fixture(scope="session", params=["T2V-A14B", "TI2V-5B"])
def model(request: pytest.FixtureRequest, device: Device, models_folder: Path) -> Reduced:
    return reduced(request.param, device, models_folder)


@pytest.fixture(scope="session")
def two_experts(device: Device, models_folder: Path) -> Reduced:
    return reduced("T2V-A14B", device, models_folder)


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def reduced(model_id: str, device: Device, folder: Path) -> Reduced:
    """Return a model as deep as the GPU's memory allows; made once per session."""
    entry = models.load("default").get(model_id)
    experts = 1 if entry.boundary_ratio is None else 2
    layers = max(1, min(6, int(device.memory_mb / 1000 * WEIGHTS_SHARE / experts / BLOCK_GB[model_id])))
    shape = demo_models.reduced(
        demo_models.REAL[model_id], {"num_layers": layers}, {}, {"num_layers": 2}, half=True, shard_bytes=5 * 10**9
    )
    snapshot = demo_models.make_repo(folder, f"{demo_models.OWNER}/{model_id}-{layers}", shape)
    # The memory facts of the full model would refuse the reduced one on GPUs that it fits.
    from workers.generation.pipelines import measuring

    memory = measuring.measure(measuring.from_snapshot(snapshot, entry.memory.encodes))
    offered = (*entry.resolutions, str(SIZE["resolution"]))
    return Reduced(entry.model_copy(update={"memory": memory, "resolutions": offered}), snapshot, layers)


@pytest.fixture
def studio(tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    import torch

    monkeypatch.setenv("WANWORKS_DEVICE", device.label)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", device.uuid)
    monkeypatch.setattr(run, "_warm_models", None)
    yield Studio(tmp_path)
    torch.cuda.set_per_process_memory_fraction(1.0)
    run.free()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _figures:
        terminalreporter.write_line("Not measured: no CUDA device.")
        return
    found = discovery.enumerate_devices("auto")[0]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "torchao"))
    terminalreporter.write_line(f"\nDevice: {found.name}, {found.memory_mb / 1000:.0f} GB")
    terminalreporter.write_line(f"Python {platform.python_version()}, {versions}\n")
    terminalreporter.write_line("| check | measured | bound |\n|---|---|---|")
    for figure in _figures:
        terminalreporter.write_line(f"| {figure.check} | {figure.measured} | {figure.bound} |")
