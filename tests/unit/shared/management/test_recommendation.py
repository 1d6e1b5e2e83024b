"""Recommendations: the worked examples of docs/scores.md, the words, the hard limit, and that each says why."""

import pytest

from shared.catalogue import models
from shared.insight.assessment import Performance, Status
from shared.management.recommendation import Advice, Candidate, Reading, Wish, read, recommend
from shared.states import ReplicaState

DEFAULT = models.load("default")


def candidates(**performances: Performance) -> list[Candidate]:
    """Every model of the default catalogue, ready."""
    return [
        Candidate(
            entry,
            ReplicaState.AVAILABLE,
            Status.HEALTHY,
            performances.get(entry.model_id.replace("-", "_"), Performance(entry.model_id)),
        )
        for entry in DEFAULT.entries
    ]


def best(use_case: str, **wish: object) -> str | None:
    found = recommend(Wish(use_case, **wish), candidates()).best  # type: ignore[arg-type]
    return found.model_id if found is not None else None


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Animate PRODUCT photos", Reading(image=True, words=("animate", "product", "photos"))),
        ("storytelling from a script", Reading(text=True, words=("storytelling", "script"))),
        ("a quick draft", Reading(fast=True, words=("quick", "draft"))),
        ("cinematic final cut", Reading(fine=True, words=("cinematic", "final"))),
        ("text and an image", Reading(image=True, text=True, words=("text", "image"))),
        ("a clip without any input image", Reading(text=True, words=("image",))),
        ("not fast, but detailed", Reading(fine=True, words=("fast", "detailed"))),
        ("keep it in storage at the store", Reading()),
        ("猫の動画 🎬", Reading()),
    ],
)
def test_words(text: str, reading: Reading) -> None:
    assert read(text) == reading


@pytest.mark.parametrize(
    ("use_case", "wish", "model_id"),
    [
        ("animate product photos", {}, "I2V-A14B"),
        ("animate product photos", {"speed": "fast", "quality": "low"}, "I2V-A14B-Lightning"),
        ("animate product photos", {"speed": "fast", "quality": "high"}, "I2V-A14B"),
        ("storytelling from text", {}, "T2V-A14B"),
        ("storytelling from text", {"quality": "high"}, "T2V-A14B"),
        ("a quick draft of a story", {"quality": "low"}, "T2V-A14B-Lightning"),
        ("a quick draft of a story", {"quality": "low", "speed": "slow"}, "T2V-A14B"),
        ("image and text together", {"quality": "low"}, "TI2V-5B"),
        ("portrait animation, professional quality", {"speed": "slow"}, "I2V-A14B"),
        ("storytelling from text", {"memory_gb": 8.0}, "TI2V-5B"),
    ],
)
def test_which_model(use_case: str, wish: dict[str, object], model_id: str) -> None:
    assert best(use_case, **wish) == model_id


def test_the_formula_by_hand() -> None:
    """T2V-A14B: (0.40 x 1 + 0.20 x 1 + 0.20 x 34/126 + 0.15 x 1) / 0.95; for TI2V-5B 0.9, 34/126, 1 and 1."""
    found = recommend(Wish("storytelling from text"), candidates())
    assert found.best is not None
    assert found.best.score == round((0.40 + 0.20 + 0.20 * 34 / 126 + 0.15) / 0.95, 4) == 0.8463
    assert found.others[0].model_id == "TI2V-5B"
    assert found.others[0].score == round((0.36 + 0.20 * 34 / 126 + 0.20 + 0.15) / 0.95, 4) == 0.8042
    margin = (0.8463 - 0.8042) / 0.2
    assert found.confidence == round((margin + 1 / 3) / 2, 4), "words were understood, nothing was measured"
    assert (found.quality_source, found.speed_source) == ("catalogue", "catalogue")


def measured() -> Advice:
    performances = {
        "T2V_A14B": Performance(
            "T2V-A14B", successes=20, average_seconds=60.0, quality_score=0.6, qualities=10, work_per_second=3.0
        ),
        "I2V_A14B": Performance(
            "I2V-A14B", successes=20, average_seconds=60.0, quality_score=0.5, qualities=10, work_per_second=3.0
        ),
        "TI2V_5B": Performance(
            "TI2V-5B", successes=20, average_seconds=20.0, quality_score=0.9, qualities=10, work_per_second=12.0
        ),
    }
    return recommend(Wish("storytelling from text"), candidates(**performances))


def test_measurements_take_the_place_of_the_catalogue_where_all_have_them() -> None:
    found = measured()
    assert (found.quality_source, found.speed_source) == ("measured", "measured")
    assert found.best is not None
    assert (found.best.model_id, found.best.quality, found.best.speed) == ("TI2V-5B", 0.9, 1.0)
    by_id = {one.model_id: one for one in found.others}
    assert by_id["T2V-A14B"].speed == 0.25
    assert (found.best.score, by_id["T2V-A14B"].score) == (0.9368, 0.7579)
    assert found.confidence == round(((0.9368 - 0.7579) / 0.2 + (1 + 1 + 0.5) / 3) / 2, 4)
    assert any("as measured" in reason for reason in found.reasons)


def test_a_preset_is_recommended_where_time_matters_and_its_cost_is_said() -> None:
    found = recommend(Wish("a quick draft of a story"), candidates())
    assert found.best is not None
    assert found.best.model_id == "T2V-A14B-Lightning"
    gain = "Time matters: it takes 4 forward passes of the same weights, where T2V-A14B takes 80"
    assert gain in found.reasons
    assert found.limitations[0].startswith(
        "A preset of T2V-A14B with 4 steps instead of 40. Four steps without guidance"
    )
    assert found.limitations[1] == "Not tried with real weights"
    otherwise = recommend(Wish("storytelling from text"), candidates())
    assert not any("Lightning" in one.model_id for one in otherwise.others)


def test_measured_rates_of_a_preset_count_its_fewer_steps() -> None:
    alike = {
        entry.model_id.replace("-", "_"): Performance(
            entry.model_id, successes=20, quality_score=0.5, qualities=10, work_per_second=3.0
        )
        for entry in DEFAULT.entries
    }
    found = recommend(Wish("a quick draft"), candidates(**alike))
    speeds = {one.model_id: one.speed for one in (found.best, *found.others) if one is not None}
    assert (speeds["T2V-A14B-Lightning"], speeds["T2V-A14B"]) == (1.0, 0.1)


def test_memory_is_a_hard_limit() -> None:
    found = recommend(Wish("anything", memory_gb=5.9), candidates())
    assert (found.best, found.others, found.confidence) == (None, (), None)
    assert found.reasons == (
        "T2V-A14B needs 10 GB of device memory; the device has 5.9 GB",
        "I2V-A14B needs 10 GB of device memory; the device has 5.9 GB",
        "TI2V-5B needs 6 GB of device memory; the device has 5.9 GB",
    )
    lean = recommend(Wish("storytelling", memory_gb=12), candidates())
    assert "With 12 GB it runs with int8 weights only; its native type needs 12.3 GB" in lean.limitations
    assert "16 GB of device memory is recommended" in lean.limitations


def test_what_cannot_serve_comes_later_and_says_so() -> None:
    ready = candidates()
    broken = [
        Candidate(one.entry, ReplicaState.CORRUPTED, Status.CRITICAL, one.performance)
        if one.entry.model_id == "T2V-A14B"
        else one
        for one in ready
    ]
    found = recommend(Wish("storytelling from text"), broken)
    assert found.best is not None
    assert found.best.model_id == "TI2V-5B"
    away = [Candidate(one.entry, ReplicaState.MISSING, Status.MISSING, one.performance) for one in ready]
    missing = recommend(Wish("animate this photo"), away)
    assert missing.best is not None
    assert missing.limitations == (
        "It needs an input image",
        "At most 81 frames: 5.1 s at 16 fps",
        "It is not ready (missing): no node has its files of 126 GB",
        "Its duration was never measured here",
    )


def test_no_word_understood_is_said_and_lowers_confidence() -> None:
    told, untold = (recommend(Wish(text), candidates()) for text in ("storytelling from text", "猫"))
    assert any("No word of the use case" in reason for reason in untold.reasons)
    assert (told.confidence or 0) > (untold.confidence or 0) >= 0


def test_an_empty_catalogue_recommends_nothing() -> None:
    assert recommend(Wish("x"), []).reasons == ("The catalogue is empty",)
