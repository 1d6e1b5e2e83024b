"""Which numbers of devices a request may name, and what a request without one gets."""

from typing import Any

import pytest
from pydantic import ValidationError

from shared.catalogue import models
from shared.catalogue.entries import extended
from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import CatalogueEntry
from shared.catalogue.resolving import resolve
from shared.errors import InvalidField
from wanworks.requests import GenerationRequest

DEMO, REAL = models.load("demo"), models.load("default")


def settled(entry: CatalogueEntry, default_speed: Any = "exact", **request: Any) -> GenerationParams:
    wanted = GenerationRequest(model_id=entry.model_id, prompt="a cat", **request)
    return resolve(wanted, entry, None, default_speed)


def refusal(entry: CatalogueEntry, **request: Any) -> tuple[str, str]:
    with pytest.raises(InvalidField) as caught:
        settled(entry, **request)
    (error,) = caught.value.errors
    return str(error.loc[-1]), error.msg


@pytest.mark.parametrize("entry", REAL.entries, ids=lambda entry: entry.model_id)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_every_model_runs_at_its_own_size_on_any_number(entry: CatalogueEntry, devices: int) -> None:
    image = "input" if entry.image == "required" else None
    wanted = GenerationRequest(model_id=entry.model_id, prompt="a cat", devices_per_job=devices)
    assert resolve(wanted, entry, image).devices_per_job == devices


def test_a_number_that_the_model_cannot_use_is_refused_with_those_that_it_can() -> None:
    entry = DEMO.get("T2V-A14B")
    assert refusal(entry, devices_per_job=3) == (
        "devices_per_job",
        "3 is not supported by T2V-A14B; allowed: 1, 2, 4",
    )
    assert refusal(entry, devices_per_job=8)[1].endswith("allowed: 1, 2, 4")
    assert refusal(entry, devices_per_job=4, resolution="416x240", frames=9) == (
        "devices_per_job",
        "4 devices cannot share 416x240 with 9 frames equally; choose another number or size",
    )


def test_a_tier_and_several_devices_exclude_each_other() -> None:
    entry = DEMO.get("T2V-A14B")
    field, said = refusal(entry, devices_per_job=2, speed="balanced")
    assert (field, "allowed: exact" in said) == ("speed", True)
    assert settled(entry, "balanced", devices_per_job=2).speed == "exact"
    assert settled(entry, "balanced").speed == "balanced"


def test_an_entry_may_have_its_own_default() -> None:
    base = DEMO.get("T2V-A14B")
    two = extended("two", {"extends": "T2V-A14B", "devices_per_job": 2}, {"T2V-A14B": base})
    assert settled(two).devices_per_job == 2
    assert settled(two, devices_per_job=1).devices_per_job == 1
    assert settled(two, speed="fast").devices_per_job == 1  # the tier was asked for, the devices were not
    with pytest.raises(ValidationError, match="must divide the 4 heads; allowed: 1, 2, 4"):
        extended("eight", {"extends": "T2V-A14B", "devices_per_job": 8}, {"T2V-A14B": base})
