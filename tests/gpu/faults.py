"""The section of fault drills: a poisoned context in its own process, out of memory, the probe of the device."""

import json
import subprocess
import sys

import torch

from tests.gpu.components import Size
from tests.gpu.table import Table
from workers.generation.pipelines import device_health

PROBE_SECONDS = 20.0
POISONED = """
import json, time, torch
from shared.errors import DeviceFailed
from workers.devices.discovery import this_device
from workers.generation import device_errors
from workers.generation.pipelines import device_health

healthy, found = device_health.probe("cuda"), ["", ""]
try:
    with device_errors.reported(this_device):
        torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()
except DeviceFailed as error:
    found = [error.kind, error.detail]
since = time.perf_counter()
after = device_health.probe("cuda", 20.0)
print(json.dumps([healthy, found, after, time.perf_counter() - since]))
"""


def drills(table: Table, device: torch.device, size: Size) -> None:
    """Poison a context, and run out of memory; both are told apart, and neither outlives its process."""
    if device.type != "cuda":
        table.require("a healthy device answers the probe", device_health.probe("cpu") is None)
        return
    healthy, found, after, seconds = poisoned()
    table.require("a healthy device answers the probe", healthy is None)
    table.require("an illegal access is reported as a fault of the device", found[0] == "cuda_error")
    table.require("the probe finds the poisoned context", after is not None)
    table.row("the probe on a poisoned context", seconds, "s", at_most=PROBE_SECONDS)
    table.require("another process is not affected", device_health.probe("cuda") is None)
    table.require("running out of memory is no fault", _out_of_memory(device))
    table.require("and the device works afterwards", device_health.probe("cuda") is None)


def poisoned() -> tuple[str | None, list[str], str | None, float]:
    """Return what the probe said before, what was reported, what the probe said after, and how long it took."""
    done = subprocess.run([sys.executable, "-c", POISONED], capture_output=True, text=True, check=True, timeout=180)
    healthy, found, after, seconds = json.loads(done.stdout.splitlines()[-1])
    return healthy, found, after, seconds


def _out_of_memory(device: torch.device) -> bool:
    try:
        torch.empty(2 * torch.cuda.mem_get_info(device)[1], dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError as error:
        return device_health.lacks_memory(error) and device_health.cuda_error(error) is None
    return False
