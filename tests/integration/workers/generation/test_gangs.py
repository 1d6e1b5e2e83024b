"""Two processes compute one generation: the same frames as one, and every fault of one of them ends the attempt."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest

from shared.errors import Cancelled, DeviceFailed
from shared.states import Phase
from tests.support.models.generating import Studio
from tests.support.stack import children, command_line
from workers.generation.seats import Member

OTHER = (Member("here/1", "cpu:1", ""),)


def members() -> list[int]:
    return [pid for pid in children(os.getpid()) if "workers.processes.gang_member" in command_line(pid)]


def frames_of(studio: Studio, model: str, devices: int, **request: object) -> numpy.ndarray:
    kept: list[Sequence[numpy.ndarray]] = []
    gang = OTHER if devices == 2 else ()
    made = studio.generate(model, keep_frames=kept.append, gang=gang, devices_per_job=devices, **request)
    assert made.outcome.manifest["devices_per_job"] == devices
    return numpy.stack(kept[0]).astype(int)


@pytest.mark.parametrize(
    "model",
    [
        "T2V-A14B",
        pytest.param("TI2V-5B", marks=pytest.mark.slow),
        pytest.param("T2V-A14B-Lightning", marks=pytest.mark.slow),
    ],
)
def test_two_processes_make_the_frames_of_one(tmp_path: Path, model: str) -> None:
    studio = Studio(tmp_path)
    steps = {"steps": 4}
    alone = frames_of(studio, model, 1, **steps)
    together = frames_of(studio, model, 2, **steps)
    assert numpy.abs(alone - together).max() <= 2
    assert members() == []
    after = frames_of(studio, model, 1, **steps)  # the model that stays loaded computes alone again
    assert (after == alone).all()


@pytest.mark.slow
def test_a_picture_starts_the_video_of_two_processes(tmp_path: Path) -> None:
    studio = Studio(tmp_path)
    picture = studio.picture()
    alone = frames_of(studio, "I2V-A14B", 1, image=picture)
    assert numpy.abs(alone - frames_of(studio, "I2V-A14B", 2, image=picture)).max() <= 2


@pytest.mark.slow
def test_a_cancel_stops_both_after_the_same_step(tmp_path: Path) -> None:
    seen: list[int] = []

    def report(phase: Phase, step: int | None = None, steps: int | None = None) -> None:
        if phase is Phase.DENOISING and step is not None:
            seen.append(step)

    def check() -> None:
        if seen and seen[-1] >= 2:
            raise Cancelled()

    with pytest.raises(Cancelled):
        Studio(tmp_path).generate("T2V-A14B", report=report, check=check, gang=OTHER, devices_per_job=2, steps=50)
    assert seen[-1] == 2
    assert members() == []


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 2])
def test_the_death_of_a_member_ends_the_attempt(tmp_path: Path, at: int) -> None:
    killed: list[int] = []

    def report(phase: Phase, step: int | None = None, steps: int | None = None) -> None:
        ready = phase is Phase.ENCODING if at == 0 else phase is Phase.DENOISING and step == at
        if ready and not killed:
            killed.extend(members())
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(DeviceFailed, match="a process of the gang"):
        Studio(tmp_path).generate("T2V-A14B", report=report, gang=OTHER, devices_per_job=2, steps=50)
    assert len(killed) == 1
    assert members() == []
