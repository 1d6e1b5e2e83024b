"""Node jobs: downloads share slots and give way to more urgent ones; of the other types one runs at a time."""

from scheduler.placement.nodes import decide
from shared.catalogue.job_types import CLEANUP, DOWNLOAD, INTEGRITY_CHECK
from shared.jobs.dispatch import Busy, Queue, Waiting

BASE = Waiting("", DOWNLOAD, "a", "", "n", 2, None, 0.0, 0.0, 0.0, False, 0, 0, None, None, None)
RUNNING = Busy("", DOWNLOAD, "a", "n/io", "", "n", 2, None, None, 0.0, 0.0, False)


def waits(job_id: str, **values: object) -> Waiting:
    return BASE._replace(job_id=job_id, **values)  # type: ignore[arg-type]


def runs(job_id: str, **values: object) -> Busy:
    return RUNNING._replace(job_id=job_id, **values)  # type: ignore[arg-type]


def assignments(waiting: list[Waiting], busy: list[Busy] | None = None, slots: int = 2, now: float = 1.0) -> list[str]:
    decision = decide(Queue(now, tuple(waiting), tuple(busy or [])), ["n"], slots, 15.0)
    assert {assignment.device_key for assignment in decision.assignments} <= {"n/io"}
    return [assignment.job_id for assignment in decision.assignments]


def yields(waiting: list[Waiting], busy: list[Busy], slots: int = 2) -> tuple[str, ...]:
    return decide(Queue(1.0, tuple(waiting), tuple(busy)), ["n"], slots, 15.0).yields


def test_downloads_share_the_nodes_slots_the_most_urgent_first() -> None:
    queue = [waits("1"), waits("2", queued_at=0.5), waits("urgent", priority=0, queued_at=0.9)]
    assert assignments(queue) == ["urgent", "1"]
    assert assignments(queue, [runs("r")]) == ["urgent"]
    assert assignments(queue, [runs("r"), runs("s")]) == []


def test_a_sent_message_holds_its_slot_until_it_is_lost() -> None:
    dispatched = waits("1", dispatched_to="n/io", dispatched_at=0.0)
    assert assignments([dispatched, waits("2")], slots=1) == []
    assert assignments([dispatched], slots=1, now=16.0) == ["1"]


def test_of_the_other_types_one_runs_at_a_time_beside_any_download() -> None:
    queue = [waits("i1", type=INTEGRITY_CHECK), waits("i2", type=INTEGRITY_CHECK), waits("c", type=CLEANUP)]
    assert assignments(queue, [runs("r"), runs("s")]) == ["c", "i1"]


def test_a_more_urgent_download_takes_the_slot_of_the_least_urgent() -> None:
    busy = [runs("normal", priority=2), runs("low", priority=3)]
    assert yields([waits("high", priority=1)], busy) == ("low",)
    assert yields([waits("critical", priority=0), waits("high", priority=1)], busy) == ("low", "normal")
    assert yields([waits("low too", priority=3)], busy) == ()
    assert yields([waits("high", priority=1)], busy, slots=3) == ()


def test_one_place_is_asked_for_once() -> None:
    busy = [runs("normal", priority=2), runs("low", priority=3, requested_action="yield")]
    assert yields([waits("high", priority=1)], busy) == ()


def test_waiting_long_does_not_make_two_downloads_swap_for_ever() -> None:
    assert yields([waits("old", priority=2, queued_at=-10_000.0)], [runs("young", priority=2)], slots=1) == ()


def test_a_node_that_is_not_alive_gets_nothing() -> None:
    assert decide(Queue(1.0, (waits("1"),), ()), ["other"], 2, 15.0).assignments == ()


def recalls(waiting: list[Waiting], slots: int = 2) -> tuple[tuple[str, ...], list[str]]:
    """Return (recalled jobs, assignments)."""
    decision = decide(Queue(1.0, tuple(waiting), ()), ["n"], slots, 15.0)
    return decision.recalls, [assignment.job_id for assignment in decision.assignments]


def sent(job_id: str, **values: object) -> Waiting:
    return waits(job_id, dispatched_to="n/io", dispatched_at=0.5, **values)


def test_a_more_urgent_download_takes_the_place_of_the_least_urgent_that_was_sent_ahead() -> None:
    ahead = [sent("low", priority=3), sent("lowest", priority=3, queued_at=0.4)]
    assert recalls([*ahead, waits("high", priority=1)]) == (("lowest",), ["high"])
    both = [*ahead, waits("critical", priority=0), waits("high", priority=1)]
    assert recalls(both) == (("lowest", "low"), ["critical", "high"])
    assert recalls([*ahead, waits("as low", priority=3)]) == ((), [])
    assert recalls([*ahead, waits("high", priority=1)], slots=3) == ((), ["high"])


def test_a_node_job_takes_the_place_of_its_own_type_alone() -> None:
    check = sent("check", type=INTEGRITY_CHECK, priority=3)
    assert recalls([check, waits("cleanup", type=CLEANUP, priority=0)]) == ((), ["cleanup"])
    assert recalls([check, waits("now", type=INTEGRITY_CHECK, priority=1)]) == (("check",), ["now"])
