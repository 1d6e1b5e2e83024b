"""Device readings: GPUs through the real NVML bindings with a fake library, CPU devices with real processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import lacking
from tests.support.places import ROOT
from workers.devices import readings
from workers.devices.discovery import Device
from workers.devices.xids import XidWatch

SOURCE = ROOT / "tests/support/nvml.c"
CPU = Device("cpu", 0, "", "a CPU", 16_000)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the fake driver library."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        lacking("no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run([str(compiler), "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", SOURCE], check=True)
    return folder


def asked(script: str, library: Path | None, **environment: str) -> Any:
    """Return the script's JSON output, in a process that loads that library."""
    head = "import ctypes, json, os; from dataclasses import asdict\nfrom workers.devices import readings\n"
    head += "from workers.devices.discovery import Device\n"
    head += "gpu = lambda uuid: readings.gauge(Device('cuda', 0, uuid, 'GPU', 80_000))\n"
    path = {"LD_LIBRARY_PATH": str(library)} if library is not None else {}
    done = subprocess.run(
        [sys.executable, "-c", head + script],
        env={**os.environ, **path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("uuid", "figures"),
    [
        ("GPU-whole", (83.0, 20_500.0, 80_000.0, 61.0, 512.3, 2, "hw_slowdown,hw_thermal_slowdown,sw_power_cap")),
        ("MIG-slice", (None, 2_500.0, 10_000.0, 61.0, 512.3, 2, "hw_slowdown,hw_thermal_slowdown,sw_power_cap")),
        ("GPU-quiet", (83.0, 20_500.0, 80_000.0, 61.0, None, None, None)),
        ("GPU-not-there", (None,) * 7),
    ],
)
def test_a_gpu_is_read_by_its_uuid_and_missing_values_are_none(
    library: Path, uuid: str, figures: tuple[float | str | None, ...]
) -> None:
    read = asked(f"print(json.dumps(asdict(gpu({uuid!r}).read())))", library)
    names: tuple[str, ...] = (
        "utilization_percent",
        "memory_used_mb",
        "memory_total_mb",
        "temperature_celsius",
        "power_watts",
    )
    names += ("ecc_uncorrected", "throttle_reasons")
    assert read == dict(zip(names, figures, strict=True))


def test_the_driver_stays_open_and_is_opened_again_after_a_restart(library: Path, tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    script = f"""
gauge, stub, seen = gpu("GPU-whole"), ctypes.CDLL("libnvidia-ml.so.1"), []
def look():
    seen.append([gauge.read().utilization_percent, stub.stub_openings()])
look(); look(); look()
open({str(lost)!r}, "w").close()
look(); look()
os.unlink({str(lost)!r})
look(); look()
gauge.close(); gauge.close()
print(json.dumps(seen))
"""
    assert asked(script, library, STUB_LOST=str(lost)) == [
        [83, 1], [83, 1], [83, 1], [None, 1], [None, 2], [83, 3], [83, 3],
    ]  # fmt: skip


XIDS = """
from workers.devices.xids import XidWatch
def report(*lines):
    with open(os.environ["STUB_XIDS"], "a") as file:
        file.writelines(f"{line}\\n" for line in lines)
def read(watch):
    return [str(xid) for xid in watch.read()]
report()
"""


def test_xids_are_received_in_order_and_once(library: Path, tmp_path: Path) -> None:
    script = f"""{XIDS}
watch = XidWatch(Device("cuda", 0, "GPU-whole", "GPU", 80_000))
seen = [read(watch)]
report("31 4294967295", "79 4294967295")
seen += [read(watch), read(watch)]
report("48 4294967295")
seen.append([xid.critical for xid in watch.read()])
watch.close()
print(json.dumps(seen))
"""
    assert asked(script, library, STUB_XIDS=str(tmp_path / "xids")) == [
        [],
        ["Xid 31: an invalid memory access", "Xid 79: it has fallen off the bus"],
        [],
        [True],
    ]


def test_a_slice_hears_of_itself_and_of_its_whole_gpu(library: Path, tmp_path: Path) -> None:
    script = f"""{XIDS}
watch = XidWatch(Device("cuda", 0, "MIG-second", "GPU", 10_000))
watch.read()
report("13 1", "94 2", "79 4294967295")
print(json.dumps(read(watch)))
"""
    assert asked(script, library, STUB_XIDS=str(tmp_path / "xids")) == [
        "Xid 94: a memory error that only one process suffered from",
        "Xid 79: it has fallen off the bus",
    ]


def test_a_gpu_that_the_driver_has_lost_is_reported_once(library: Path, tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    script = f"""{XIDS}
watch = XidWatch(Device("cuda", 0, "GPU-whole", "GPU", 80_000))
seen = [read(watch)]
open({str(lost)!r}, "w").close()
seen += [read(watch), read(watch), read(watch)]
os.unlink({str(lost)!r})
report("43 4294967295")
seen.append(read(watch))
print(json.dumps(seen))
"""
    assert asked(script, library, STUB_XIDS=str(tmp_path / "xids"), STUB_LOST=str(lost)) == [
        [], ["Xid 79: it has fallen off the bus"], [], [], ["Xid 43: a process's channel was reset"],
    ]  # fmt: skip


def test_without_events_a_driver_or_a_gpu_no_xids_are_received(library: Path) -> None:
    for uuid, where in (("GPU-quiet", library), ("GPU-whole", None)):
        script = "from workers.devices.xids import XidWatch\n"
        script += (
            f"watch = XidWatch(Device('cuda', 0, {uuid!r}, 'GPU', 1)); print(json.dumps([watch.read(), watch.read()]))"
        )
        assert asked(script, where) == [[], []]
    assert XidWatch(CPU).read() == []


def test_a_gpu_without_a_driver_reads_nothing() -> None:
    assert set(asked("print(json.dumps(asdict(gpu('GPU-whole').read())))", None).values()) == {None}


def test_readings_need_no_torch() -> None:
    script = (
        "import sys; readings.gauge(Device('cpu', 0, '', 'CPU', 1)).read(); print(json.dumps('torch' in sys.modules))"
    )
    assert asked(script, None) is False


def test_a_cpu_device_is_read_by_its_workers_processes() -> None:
    gauge = readings.gauge(CPU)
    busy = "import time; held = bytearray(b'x' * 100_000_000); end = time.monotonic() + 60\n"
    busy += "while time.monotonic() < end: pass"
    child = subprocess.Popen([sys.executable, "-c", busy])
    try:
        own = psutil.Process().memory_info().rss / 1e6
        deadline = time.monotonic() + 30
        while True:
            time.sleep(0.3)
            read = gauge.read()
            assert read.utilization_percent is not None
            assert read.memory_used_mb is not None
            if read.utilization_percent > 30 and read.memory_used_mb > own + 90:
                break
            assert time.monotonic() < deadline, read
    finally:
        child.kill()
        child.wait()
    assert read.utilization_percent < 100 * (os.cpu_count() or 1) + 50
    assert read.memory_total_mb == 16_000.0
    assert (read.temperature_celsius, read.power_watts) == (None, None)
    gauge.read()
    time.sleep(0.3)
    idle = gauge.read()
    assert idle.utilization_percent is not None
    assert idle.utilization_percent < 30, "a process that has ended counts no more"


def listed(library: Path, spec: str, **environment: str) -> list[str] | str:
    """Return the discovered UUIDs through the real NVML bindings, or the error."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    done = subprocess.run(
        [sys.executable, "-m", "workers.devices.discovery", spec],
        env={**plain, "LD_LIBRARY_PATH": str(library), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        return done.stderr.strip()
    return [one["uuid"] or one["kind"] for one in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("spec", "variables", "expected"),
    [
        ("auto", {}, ["GPU-whole", "MIG-slice", "MIG-second", "GPU-quiet"]),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "2"}, ["GPU-quiet"]),
        ("cuda:1,0", {"CUDA_VISIBLE_DEVICES": "2,0"}, ["GPU-whole", "GPU-quiet"]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "GPU-qui"}, ["GPU-quiet"]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "MIG-GPU-parted/2/0,MIG-slice"}, ["MIG-second", "MIG-slice"]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "2", "NVIDIA_VISIBLE_DEVICES": "0"}, ["GPU-quiet"]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, ["GPU-quiet"]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ["cpu"]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "MIG-unknown"}, "'MIG-unknown' matches none of them. The driver reports"),
        ("auto", {"CUDA_VISIBLE_DEVICES": "1"}, "GPU 1 is divided into MIG slices"),
        ("auto", {"CUDA_VISIBLE_DEVICES": "0,0"}, "names GPU-whole a second time"),
        ("auto", {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "FASTEST_FIRST", "STUB_UNLIKE": "1"}, "PCI_BUS_ID"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "2"}, "names GPU 1, but CUDA_VISIBLE_DEVICES='2' selects: 0"),
    ],
)  # fmt: skip
def test_which_gpus_are_listed(library: Path, spec: str, variables: dict[str, str], expected: list[str] | str) -> None:
    found = listed(library, spec, **variables)
    assert found == expected if isinstance(expected, list) else expected in found
