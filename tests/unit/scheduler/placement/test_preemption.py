"""A critical job takes the device of a low one only where no device is free for it soon."""

from dataclasses import replace
from typing import Any

from scheduler.placement.devices import Moment, decide
from scheduler.placement.preemption import Preemption, applied, choose
from shared.forecast.slots import DeviceView, Estimates
from shared.jobs.checkpoints import PREEMPT
from shared.jobs.dispatch import Busy, Queue, Waiting
from tests.support.simulation import device, job, running

TWO = [device(0, "a"), device(1, "a")]


def low(job_id: str, index: int, since: float = 0.0, **values: Any) -> Busy:
    return running(job_id, f"n/{index}", "a", since, priority=3, **values)


def urgent(job_id: str = "c", **values: Any) -> Waiting:
    return job(job_id, "a", 100.0, priority=0, **values)


def moment(waiting: list[Waiting], busy: list[Busy], devices: list[DeviceView], seconds: float = 1000.0) -> Moment:
    queue = Queue(101.0, tuple(waiting), tuple(busy))
    return Moment(queue, tuple(devices), Estimates(lambda _: 0.0, lambda _, work, __: seconds * work))


def chosen(at: Moment, wait: float = 10.0) -> list[tuple[str, str, str]]:
    return [(one.job_id, one.device_key, one.victim.job_id) for one in choose(at, wait)]


def test_the_victim_is_the_job_with_the_least_lost_work() -> None:
    late_start, late_checkpoint = low("1", 1, since=50.0), low("0", 0, checkpoint_at=90.0)
    assert chosen(moment([urgent()], [low("0", 0), late_start], TWO)) == [("c", "n/1", "1")]
    assert chosen(moment([urgent()], [late_checkpoint, late_start], TWO)) == [("c", "n/0", "0")]


def test_only_low_generations_of_one_device_are_preempted_and_at_most_twice() -> None:
    for other in ({"priority": 2}, {"type": "benchmark"}, {"devices": 2}, {"preempted": 2}, {"requested_action": "x"}):
        assert chosen(moment([urgent()], [low("0", 0)._replace(**other)], TWO[:1])) == []
    assert chosen(moment([job("h", "a", priority=1)], [low("0", 0)], TWO[:1])) == []
    assert chosen(moment([urgent(), urgent("d")], [low("0", 0, preempted=1)], TWO[:1])) == [("c", "n/0", "0")]


def test_an_idle_device_or_one_that_is_free_soon_is_taken_instead() -> None:
    assert chosen(moment([urgent()], [low("0", 0)], TWO)) == []
    soon = moment([urgent()], [low("0", 0)], TWO[:1], seconds=105.0)
    assert chosen(soon) == []
    assert chosen(soon, wait=0.5) == [("c", "n/0", "0")], "it has waited for longer"
    overdue = moment([urgent()], [low("0", 0)], TWO[:1], seconds=30.0)
    assert chosen(overdue) == [("c", "n/0", "0")], "its estimate says nothing any more"


def test_the_end_that_a_job_reports_counts_more_than_its_estimate() -> None:
    overdue = moment([urgent()], [low("0", 0)], TWO[:1], seconds=30.0)
    assert chosen(replace(overdue, ends={"0": 105.0})) == []
    soon = moment([urgent()], [low("0", 0)], TWO[:1], seconds=105.0)
    assert chosen(replace(soon, ends={"0": 500.0})) == [("c", "n/0", "0")]


def test_the_critical_job_keeps_the_device_that_it_was_given() -> None:
    """Although the preempted one has waited so long that it counts as critical, and came first."""
    before = job("1", "a", dispatched_to="n/0", dispatched_at=90.0)
    now = moment([before, urgent()], [low("0", 0)], TWO[:1])
    (one,) = choose(now, 10.0)
    assert isinstance(one, Preemption)
    after = applied(now.queue, [one])
    assert [(each.job_id, each.dispatched_to) for each in after.waiting] == [("1", None), ("c", "n/0")]
    assert after.busy[0].requested_action == PREEMPT
    next_pass = Moment(after, now.devices, now.estimates)
    assert list(choose(next_pass, 0.0)) == []
    aged = job("0", "a", -9000.0, priority=3, not_before=101.0)
    given_back = Moment(Queue(101.0, (*after.waiting, aged), ()), now.devices, now.estimates)
    assert list(decide(given_back)) == []


def test_a_job_waits_a_minute_for_the_node_of_its_checkpoint() -> None:
    here, there = device(0, "a"), device(0, "a", node="m")
    kept = job("k", "a", checkpoint_node="m", not_before=60.0)
    taken = running("r", "m/0", "a", since=100.0)
    assert [one.device_key for one in decide(moment([kept], [], [here, there]))] == ["m/0"]
    assert all(one.device_key == "m/0" for one in decide(moment([kept], [taken], [here, there])))
    assert [one.device_key for one in decide(moment([kept._replace(not_before=40.0)], [taken], [here, there]))] == [
        "n/0"
    ]
    assert [one.device_key for one in decide(moment([kept], [], [here]))] == ["n/0"], "that node is gone"
