"""Run the GPU checks and print their tables. Called by `make gpu-check`.

Without arguments: the checks of whole jobs on the first CUDA device, with pytest. If there is no device, every check is
skipped, and the output says so. With the name of a section: only that section, in at most eight minutes. A section
needs torch 2.11 or newer and no pytest. `--small` runs a section with tiny components on the CPU.
"""

import faulthandler
import os
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
SECTION_SECONDS = 480
SECTIONS = {  # the module, and the function in it
    "stream": ("tests.gpu.layouts", "stream"),
    "lora": ("tests.gpu.layouts", "lora"),
    "host-memory": ("tests.gpu.layouts", "host"),
    "memory-plan": ("tests.gpu.peaks", "peaks"),
    "fp8": ("tests.gpu.fp8", "fp8"),
    "steps": ("tests.gpu.loads", "steps"),
    "loading": ("tests.gpu.loads", "loading"),
    "faults": ("tests.gpu.faults", "drills"),
}


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in SECTIONS:
        return section(arguments[0], small="--small" in arguments)
    if arguments and not arguments[0].startswith("-"):
        print(f"There is no section {arguments[0]!r}. The sections are {', '.join(SECTIONS)}.")
        return 2
    return whole_jobs(arguments)


def section(name: str, small: bool) -> int:
    """Run one section. Return 1 if a figure exceeds its bound, or there is no device."""
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # as a worker has it
    import torch

    from tests.gpu.components import REAL, SMALL
    from tests.gpu.table import Table

    if not small and not torch.cuda.is_available():
        print("Not measured: no CUDA device.")
        return 1
    faulthandler.dump_traceback_later(SECTION_SECONDS, exit=True)
    try:
        table = Table(name)
        table.begin("the CPU, tiny components" if small else torch.cuda.get_device_name(0))
        module, function = SECTIONS[name]
        device = torch.device("cpu") if small else torch.device("cuda", 0)
        getattr(import_module(module), function)(table, device, SMALL if small else REAL)
    finally:
        faulthandler.cancel_dump_traceback_later()
    for check in table.exceeded:
        print(f"FAILED: {check}")
    return 1 if table.exceeded else 0


def whole_jobs(arguments: list[str]) -> int:
    """Run the checks of whole jobs. `arguments` go to pytest."""
    import pytest

    from shared.errors import ConfigurationError
    from workers.devices import discovery

    try:
        device = discovery.enumerate_devices("auto")[0]
    except ConfigurationError as error:
        print(error.message)
        return 1
    if device.kind == "cuda":
        # Before anything imports torch: this process is to see one device, as a worker does.
        os.environ["CUDA_VISIBLE_DEVICES"] = device.uuid
        os.environ["WANWORKS_DEVICE"] = device.label
    options = [str(HERE), f"--confcutdir={HERE}", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider", *arguments]
    return int(pytest.main(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
