"""What `wanworks doctor` concludes from what it finds."""

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.catalogue.models import DEFAULT
from wanworks.cli.doctor import fitting, host, services
from workers.devices.discovery import Device

GPU = Device("cuda", 0, "GPU-1", "NVIDIA H100", 85_520, 90)
CPU = Device("cpu", 0, "", "cpu", 24_000)


@pytest.mark.parametrize(
    ("version", "cuda", "gpus", "driver", "state", "words"),
    [
        ("2.13.0", "13.0", [GPU], 13_010, "ok", "CUDA 13.0"),
        ("2.13.0+cpu", None, [], 0, "ok", "for the CPU"),
        ("2.13.0+cpu", None, [GPU], 13_000, "problem", "built for the CPU and cannot use the GPU"),
        ("2.13.0", "13.0", [GPU], 12_040, "problem", "needs CUDA 13.0; the driver runs up to 12.4"),
        (None, None, [], 0, "problem", "not installed"),
    ],
)
def test_the_installed_torch(
    version: str | None, cuda: str | None, gpus: Sequence[Device], driver: int, state: str, words: str
) -> None:
    check = host.torch_build(version, cuda, gpus, driver)
    assert (check.state, words in check.found) == (state, True)
    assert (check.remedy is None) == (state == "ok")


def test_a_disk_that_is_too_full_for_jobs(tmp_path: Path) -> None:
    assert host.disk("models", tmp_path / "not" / "there", 0).state == "ok"
    check = host.disk("models", tmp_path, 10**12)
    assert (check.state, check.remedy) == ("problem", "free some space, or run `wanworks cleanup`")


def test_a_port_that_another_process_uses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        check = services.port("port", "127.0.0.1", number, "WANWORKS_PORT", running=False)
        assert (check.state, check.remedy) == ("problem", "set WANWORKS_PORT to another port, or to 0")
        assert services.port("port", "127.0.0.1", number, "WANWORKS_PORT", running=True).state == "ok"
    assert services.port("port", "127.0.0.1", 0, "WANWORKS_PORT", running=False).state == "ok"


def test_which_models_fit() -> None:
    large = {check.name: check for check in fitting.fits(DEFAULT, [GPU], 500_000, 1000)}
    assert {check.state for check in large.values()} == {"ok"}
    assert "16 bits as" in large["T2V-A14B"].found
    small = list(fitting.fits(DEFAULT, [CPU], CPU.memory_mb, 1000))
    assert {check.state for check in small} == {"note"}
    full = {check.name: check for check in fitting.fits(DEFAULT, [GPU], 500_000, 75)}
    assert (full["T2V-A14B"].state, full["TI2V-5B"].state) == ("warning", "ok")
    assert "126 GB, and 75 GB are free" in full["T2V-A14B"].found
