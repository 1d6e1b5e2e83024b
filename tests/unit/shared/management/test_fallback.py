"""The worked examples of docs/fallback.md: each strategy is the best one somewhere."""

from dataclasses import replace
from typing import Any

import pytest

from shared.catalogue import models
from shared.management.fallback import compatibility, nearest_resolution, suggest
from shared.management.fallback_types import ModelFacts, Strategy, Suggestion, Wish
from shared.management.reductions import Request
from shared.states import ReplicaState

ENTRIES = {entry.model_id: entry for entry in models.load("default").entries}
READY: dict[str, Any] = {
    "availability": ReplicaState.AVAILABLE, "carried": True, "queue_seconds": 0.0, "bytes_left": 0
}  # fmt: skip
INT8 = Request(ENTRIES["T2V-A14B"], "1280x720", 81, "int8", image=False)
ABSENT: dict[str, Any] = {**READY, "availability": ReplicaState.MISSING, "bytes_left": 126_000_000_000}


def ask(wish: Wish, **states: dict[str, Any]) -> Suggestion:
    """With these models as said, and the others missing without a way to fetch them."""
    facts = {
        model_id: ModelFacts(entry, **{**ABSENT, **states.get(model_id.replace("-", "_"), {})})
        for model_id, entry in ENTRIES.items()
    }
    return suggest(wish, facts)


def test_alternative_model() -> None:
    found = ask(Wish("T2V-A14B"), TI2V_5B=READY)
    choice = found.choice
    assert (choice.strategy, choice.alternative) == (Strategy.ALTERNATIVE_MODEL, "TI2V-5B")
    assert choice.action == "Use TI2V-5B as alternative"
    assert (choice.wait_seconds, choice.can_queue) == (0.0, False)
    assert found.alternative is not None
    assert found.alternative.compatibility == 0.9992  # 0.5 x 1 + 0.3 x 1 + 0.2 x (121 / 24) / (81 / 16)
    assert found.alternative.quality_difference == "lower", "34 GB against 126 GB"
    assert found.wait.seconds is None, "no rate has been measured"


def test_queue_and_wait_for_a_download() -> None:
    fetching = {
        "availability": ReplicaState.DOWNLOADING, "fetching": True, "bytes_left": 6_000_000_000,
        "bytes_per_second": 50e6, "queue_seconds": 30.0,
    }  # fmt: skip
    found = ask(Wish("T2V-A14B", quality="high"), T2V_A14B=fetching)
    assert found.choice.strategy == Strategy.QUEUE_AND_WAIT
    assert found.choice.wait_seconds == 150.0, "6 GB at 50 MB/s, then 30 s in the queue"
    assert found.choice.can_queue
    assert (found.wait.download_seconds, found.wait.queue_seconds, found.wait.seconds) == (120.0, 30.0, 150.0)


def test_queue_and_wait_where_the_model_is_ready() -> None:
    found = ask(Wish("T2V-A14B"), T2V_A14B=READY, TI2V_5B=READY)
    assert found.choice.strategy == Strategy.QUEUE_AND_WAIT
    assert found.choice.message == "It is ready; the request starts immediately"


def test_download_and_retry() -> None:
    found = ask(Wish("T2V-A14B"), T2V_A14B={"fetchable": True, "bytes_per_second": 100e6})
    assert found.choice.strategy == Strategy.DOWNLOAD_AND_RETRY
    assert found.choice.wait_seconds == 1260.0, "126 GB at 100 MB/s"
    unmeasured = ask(Wish("T2V-A14B"), T2V_A14B={"fetchable": True})
    assert unmeasured.choice.strategy == Strategy.DOWNLOAD_AND_RETRY
    assert unmeasured.choice.wait_seconds is None


def test_reduce_requirements_to_int8() -> None:
    found = ask(Wish("T2V-A14B"), T2V_A14B={**READY, "carried": False, "reduced": INT8})
    assert found.choice.strategy == Strategy.REDUCE_REQUIREMENTS
    assert (found.choice.quantization, found.choice.resolution) == ("int8", None)


def test_reduce_requirements_to_a_size_and_a_length_that_fit() -> None:
    less = Request(ENTRIES["T2V-A14B"], "832x480", 41, "int8", image=False)
    found = ask(Wish("T2V-A14B"), T2V_A14B={**READY, "carried": False, "reduced": less})
    assert (found.choice.resolution, found.choice.frames, found.choice.quantization) == ("832x480", 41, "int8")
    assert found.choice.action == "Request T2V-A14B with 832x480 and 41 frames and quantization int8"
    assert "no device has the memory for more" in found.choice.message


def test_reduce_requirements_to_a_size_that_it_makes() -> None:
    found = ask(Wish("T2V-A14B", resolution="1600x900"), T2V_A14B=READY)
    assert found.choice.strategy == Strategy.REDUCE_REQUIREMENTS
    assert (found.choice.quantization, found.choice.resolution) == (None, "1280x720")


def test_hybrid_approach_serves_now_and_fetches_what_was_wanted() -> None:
    wanted = {"fetchable": True, "bytes_per_second": 10e6}
    found = ask(Wish("T2V-A14B", quality="high"), T2V_A14B=wanted, TI2V_5B=READY)
    assert found.choice.strategy == Strategy.HYBRID_APPROACH
    assert found.choice.parts == (Strategy.ALTERNATIVE_MODEL, Strategy.DOWNLOAD_AND_RETRY)
    assert found.choice.alternative == "TI2V-5B"
    assert found.choice.can_queue
    medium = ask(Wish("T2V-A14B"), T2V_A14B=wanted, TI2V_5B=READY)
    assert medium.choice.strategy == Strategy.ALTERNATIVE_MODEL, "126 GB are not fetched for nothing"


def test_hybrid_approach_fetches_and_asks_for_less() -> None:
    found = ask(Wish("T2V-A14B"), T2V_A14B={"carried": False, "reduced": INT8, "fetchable": True})
    assert found.choice.strategy == Strategy.HYBRID_APPROACH
    assert found.choice.parts == (Strategy.DOWNLOAD_AND_RETRY, Strategy.REDUCE_REQUIREMENTS)
    assert found.choice.quantization == "int8"


def test_mock_generation_is_the_last_resort() -> None:
    assert ask(Wish("T2V-A14B")).choice.strategy == Strategy.MOCK_GENERATION
    slow = {"fetchable": True, "bytes_per_second": 10e6}
    found = ask(Wish("T2V-A14B", max_wait_seconds=1800.0), T2V_A14B=slow)
    assert found.choice.strategy == Strategy.MOCK_GENERATION, "126 GB at 10 MB/s are three and a half hours"
    assert found.wait.seconds == 12_600.0


def test_a_wait_beyond_the_limit_is_no_choice() -> None:
    busy = {**READY, "queue_seconds": 3600.0}
    found = ask(Wish("T2V-A14B", max_wait_seconds=600.0), T2V_A14B=busy)
    assert found.choice.strategy == Strategy.MOCK_GENERATION
    patient = ask(Wish("T2V-A14B", max_wait_seconds=3600.0), T2V_A14B=busy)
    assert patient.choice.strategy == Strategy.QUEUE_AND_WAIT


@pytest.mark.parametrize(
    ("wanted", "other", "score"),
    [("T2V-A14B", "I2V-A14B", 0.75), ("I2V-A14B", "T2V-A14B", 0.6), ("I2V-A14B", "TI2V-5B", 0.9984)],
)
def test_compatibility(wanted: str, other: str, score: float) -> None:
    assert compatibility(ENTRIES[wanted], ENTRIES[other], "1280x720") == pytest.approx(score, abs=0.002)


def test_only_ready_models_with_enough_in_common_stand_in() -> None:
    assert ask(Wish("I2V-A14B"), T2V_A14B=READY).choice.strategy == Strategy.ALTERNATIVE_MODEL
    cannot = {**READY, "carried": False}
    assert ask(Wish("T2V-A14B"), TI2V_5B=cannot).choice.strategy == Strategy.MOCK_GENERATION


def test_the_performance_difference_is_between_measured_scores() -> None:
    found = ask(Wish("T2V-A14B"), T2V_A14B={"performance": 0.9}, TI2V_5B={**READY, "performance": 0.8})
    assert found.alternative is not None
    assert found.alternative.performance_difference == -0.1
    facts = {model_id: ModelFacts(entry, **ABSENT) for model_id, entry in ENTRIES.items()}
    alone = {"T2V-A14B": replace(facts["T2V-A14B"], performance=0.9)}
    assert suggest(Wish("T2V-A14B"), alone).alternative is None, "a catalogue of one"


def test_the_nearest_size_keeps_the_orientation() -> None:
    assert nearest_resolution(ENTRIES["T2V-A14B"], "640x360") == "832x480"
    assert nearest_resolution(ENTRIES["T2V-A14B"], "900x1600") == "720x1280"
