"""The memory plan: what fits on which card, and what a job that does not fit may be instead."""

from dataclasses import replace

import pytest

from shared.catalogue import models as catalogue
from shared.catalogue.models import DEFAULT, CatalogueEntry
from shared.management import reductions
from shared.management.reductions import Request
from shared.models import memory_plan
from shared.models.memory_plan import MB, Needs, Size, together

# The memory that each kind of card reports in all, in MB (10^6 bytes), and a usual host for it.
CARDS = {16: 17_180, 24: 25_770, 32: 34_190, 40: 42_950, 48: 48_300, 80: 85_520, 141: 150_750}
HOST_MB = 256_000
GB = 1000 * MB


def sizes(entry: CatalogueEntry) -> list[tuple[str, int]]:
    """Return the default and the largest size."""
    largest = max(entry.resolutions, key=lambda text: eval(text.replace("x", "*")))
    return [(entry.defaults.resolution, entry.defaults.frames), (largest, entry.max_frames)]


def fits(request: Request, card: int, host_mb: int = HOST_MB) -> bool:
    return Needs.read(reductions.needs(request)).host_mb("cuda", CARDS[card], host_mb) is not None


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("entry", DEFAULT, ids=lambda entry: entry.model_id)
@pytest.mark.parametrize("quantization", ["none", "fp16", "bf16", "int8", "fp8"])
def test_every_request_fits_every_card_or_an_alternative_does(
    card: int, entry: CatalogueEntry, quantization: str
) -> None:
    for resolution, frames in sizes(entry):
        request = Request(entry, resolution, frames, quantization, entry.image == "required")  # type: ignore[arg-type]
        if fits(request, card):
            continue
        found = reductions.alternatives(request, DEFAULT, lambda one: fits(one, card))
        assert found, (card, entry.model_id, quantization, resolution)
        assert all(fits(one, card) for one in found)
        assert all(one != request for one in found)


@pytest.mark.parametrize(
    ("card", "model_id", "quantization", "expected"),
    [
        (16, "T2V-A14B", "none", "stream"), (24, "T2V-A14B", "none", "stream"), (32, "T2V-A14B", "none", "stream"),
        (40, "T2V-A14B", "none", "offload"), (48, "T2V-A14B", "none", "offload"),
        # Everything resident would need 89.7 GB, in the decode, after all steps.
        (80, "T2V-A14B", "none", "text-offload"), (141, "T2V-A14B", "none", "full"),
        (24, "T2V-A14B", "int8", "offload"), (80, "T2V-A14B", "int8", "full"),
        (16, "TI2V-5B", "none", "offload"), (24, "TI2V-5B", "none", "offload"),
        (40, "TI2V-5B", "none", "text-offload"), (48, "TI2V-5B", "none", "full"),
        (16, "TI2V-5B", "int8", "offload"), (24, "TI2V-5B", "int8", "offload"),
        (32, "TI2V-5B", "int8", "text-offload"), (40, "TI2V-5B", "int8", "full"),
    ],
)  # fmt: skip
def test_the_layout_at_the_default_size(card: int, model_id: str, quantization: str, expected: str) -> None:
    entry = catalogue.load("default").get(model_id)
    plans = memory_plan.plans(entry, quantization, memory_plan.default_size(entry), "cuda")  # type: ignore[arg-type]
    plan = memory_plan.choose(plans, CARDS[card] * MB, None)
    assert plan is not None
    assert plan.name == expected
    assert plan.device <= CARDS[card] * MB


def test_every_stage_is_within_the_peak() -> None:
    for entry in DEFAULT:
        for plan in memory_plan.plans(entry, "none", memory_plan.default_size(entry), "cuda"):
            assert max(size for _, size in plan.stages) + memory_plan.CONTEXT_BYTES <= plan.device


def test_a_larger_video_never_needs_less() -> None:
    for entry in DEFAULT:
        before = 0
        for width, height in ((256, 256), (832, 480), (1280, 720), (1920, 1088)):
            plan = memory_plan.plans(entry, "none", Size(width, height, 81, image=False), "cuda")[0]
            assert plan.device > before
            before = plan.device


def test_host_memory_can_be_what_is_missing() -> None:
    entry = DEFAULT[0]
    needs = Needs.read(memory_plan.needs(entry, "none", memory_plan.default_size(entry)))
    assert needs.host_mb("cuda", CARDS[24], 128_000) is not None
    assert needs.host_mb("cuda", CARDS[24], 64_000) is None
    device, host = needs.missing_mb("cuda", CARDS[24], 64_000)
    assert (device, host > 0) == (0, True)
    assert needs.missing_mb("cuda", CARDS[24], 128_000) == (0, 0)


def test_a_cpu_has_one_memory() -> None:
    entry = DEFAULT[0]
    needs = Needs.read(memory_plan.needs(entry, "none", memory_plan.default_size(entry)))
    assert needs.host_mb("cpu", 24_000, 24_000) is None
    assert needs.missing_mb("cpu", 24_000, 24_000)[1] > 100_000
    assert needs.host_mb("cpu", 256_000, None) == needs.cpu


def test_the_weights_are_those_of_the_published_files() -> None:
    sizes = {entry.model_id: entry.memory.transformer.whole.bf16 / GB for entry in DEFAULT}
    assert {name: round(size, 1) for name, size in sizes.items()} == {
        "T2V-A14B": 28.6,
        "I2V-A14B": 28.6,
        "TI2V-5B": 10.0,
    }
    assert round(DEFAULT[0].memory.text_encoder.whole.bf16 / GB, 1) == 11.4


def test_the_time_limits_grow_with_the_work() -> None:
    entry = DEFAULT[0]
    assert memory_plan.work_factor(entry, 1280, 720, 81) == 1.0
    assert 5.0 < memory_plan.work_factor(entry, 1920, 1080, 81) < 5.5, "2.27 times the tokens"
    assert memory_plan.work_factor(entry, 832, 480, 81) < 1.0


@pytest.mark.parametrize("entry", DEFAULT, ids=lambda entry: entry.model_id)
def test_tiers_differ_by_what_they_keep(entry: CatalogueEntry) -> None:
    """The tensors of a first-block cache, in 16 bits; and a decode in half the bytes, beside a copy of the decoder."""
    exact = memory_plan.default_size(entry)
    stages = {
        speed: dict(memory_plan.plans(entry, "none", replace(exact, speed=speed), "cuda")[0].stages)
        for speed in ("exact", "balanced", "fast")
    }
    kept = 7 * memory_plan.tokens(entry.memory, exact) * entry.memory.width * 2
    assert stages["balanced"]["denoising"] == stages["exact"]["denoising"]
    assert stages["fast"]["denoising"] == stages["exact"]["denoising"] + kept
    weights = memory_plan.plans(entry, "none", exact, "cuda")[0].resident
    whole, half = stages["exact"]["decoding"] - weights, stages["balanced"]["decoding"] - weights
    assert half == whole // 2 + entry.memory.vae.whole.fp32 // 2
    assert stages["fast"]["text_encoding"] == stages["exact"]["text_encoding"]


def test_a_tier_that_does_not_fit_has_exact_as_an_alternative() -> None:
    entry = catalogue.load("default").get("T2V-A14B")
    request = Request(entry, "1280x720", 81, "none", image=False, speed="fast")
    assert not fits(request, 16)
    first = reductions.alternatives(request, DEFAULT, lambda one: fits(one, 16))[0]
    assert first == replace(request, speed="exact")


def test_needs_together_are_met_only_where_each_is() -> None:
    every = ("78000:14250,16250:72000;140000", "80000:14250,12000:72000;90000")
    both = Needs.read(together(every))
    assert together(every) == "80000:14250,16250:72000;140000"
    for device in (12_000, 16_250, 78_000, 80_000):
        for host in (14_250, 72_000):
            fits = all(Needs.read(one).host_mb("cuda", device, host) is not None for one in every)
            assert (both.host_mb("cuda", device, host) is not None) == fits
    assert both.host_mb("cpu", 139_000, None) is None


def test_fp8_needs_together_keep_their_capability() -> None:
    entry = DEFAULT[0]
    usual = memory_plan.default_size(entry)
    each = [memory_plan.needs(entry, "fp8", replace(usual, speed=speed)) for speed in ("exact", "fast")]
    both = Needs.read(together(each))
    assert both.capability == memory_plan.FP8_CAPABILITY
    assert both.least_mb == tuple(map(max, zip(*(Needs.read(one).least_mb for one in each), strict=True)))
    assert both.host_mb("cuda", 150_000, None, 80) is None
    assert both.host_mb("cuda", 150_000, None, 90) is not None
    assert both.host_mb("cpu", 999_000, None) is None
