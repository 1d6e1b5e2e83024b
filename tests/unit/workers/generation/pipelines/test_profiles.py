"""Which memory profile a model runs under."""

import pytest

from shared.catalogue import models
from shared.errors import ConfigurationError, OutOfMemory
from workers.generation.pipelines.profiles import choose, leaner

HARDWARE = models.load("default").get("T2V-A14B").hardware
WIDE = HARDWARE.fitting("bf16")
INT8 = HARDWARE.fitting("int8")


@pytest.mark.parametrize(
    ("available_gb", "expected"),
    [(139, "full"), (78, "full"), (77.9, "offload"), (42, "offload"), (24, "stream"), (16, "stream")],
)
def test_the_richest_profile_that_fits(available_gb: float, expected: str) -> None:
    assert choose(WIDE, "cuda", available_gb * 1000).name == expected


@pytest.mark.parametrize(("available_gb", "expected"), [(80, "int8-full"), (26, "int8-offload"), (10, "int8-stream")])
def test_int8_has_its_own(available_gb: float, expected: str) -> None:
    assert choose(INT8, "cuda", available_gb * 1000).name == expected


def test_too_little_memory_says_how_much_is_needed() -> None:
    with pytest.raises(OutOfMemory, match=r"needs 16 GB of device memory; 12\.0 GB are available"):
        choose(WIDE, "cuda", 12_000)


def test_a_cpu_uses_the_richest_profile() -> None:
    assert choose(WIDE, "cpu", 1).name == "full"
    assert choose(INT8, "cpu", 1).name == "int8-full"


@pytest.mark.parametrize("setting", ["stream", "int8-stream"])
def test_a_profile_may_be_set_with_or_without_its_prefix(setting: str) -> None:
    assert choose(WIDE, "cuda", 139_000, setting).name == "stream"
    assert choose(INT8, "cuda", 139_000, setting).name == "int8-stream"


def test_an_unknown_profile_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"'huge' is not auto or one of full, offload, stream"):
        choose(WIDE, "cuda", 139_000, "huge")


def test_leaner_goes_down_one_at_a_time_and_ends() -> None:
    full, offload, stream = WIDE
    assert leaner(WIDE, "cuda", full) == offload
    assert leaner(WIDE, "cuda", offload) == stream
    assert leaner(WIDE, "cuda", stream) is None


def test_on_a_cpu_moving_components_about_saves_nothing() -> None:
    full, _, stream = WIDE
    assert leaner(WIDE, "cpu", full) == stream
    assert leaner(WIDE, "cpu", stream) is None
