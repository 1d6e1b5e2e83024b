"""Run the GPU checks on the first CUDA device and print their table. Called by `make gpu-check`.

Without a device every check is skipped, and the answer says so. Further arguments go to pytest.
"""

import os
import sys
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from workers.devices import discovery

HERE = Path(__file__).parent


def main(arguments: list[str]) -> int:
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
