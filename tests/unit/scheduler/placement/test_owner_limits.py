"""Limits of jobs that an owner may have on devices at once, as placement keeps them."""

from scheduler.placement.devices import Assignment
from scheduler.placement.owner_limits import OwnerLimits
from shared.jobs.dispatch import Busy, Queue, Waiting

WAITING = Waiting("", "generation", "m", "m:none", None, 2, "a", 0.0, 0.0, 1.0, False, 0, 0, None, None, None)
BUSY = Busy("r", "generation", "m", "n/0", "m:none", "n", 2, None, "a", 1.0, 0.0, False)


def queue(*waiting: Waiting, busy: tuple[Busy, ...] = ()) -> Queue:
    return Queue(10.0, waiting, busy)


def test_an_owner_at_its_limit_is_left_out_and_others_are_not() -> None:
    mine, other = WAITING._replace(job_id="1"), WAITING._replace(job_id="2", owner="b")
    limits = OwnerLimits(queue(mine, other, busy=(BUSY,)), {"a": 1})
    assert [job.job_id for job in limits.queue().waiting] == ["2"]
    assert OwnerLimits(queue(mine, other, busy=(BUSY,)), {}).queue().waiting == (mine, other)


def test_a_decision_is_cut_off_where_the_limit_is_reached() -> None:
    jobs = [WAITING._replace(job_id=str(n)) for n in range(3)]
    limits = OwnerLimits(queue(*jobs), {"a": 2})
    decided = [Assignment(job.job_id, f"n/{job.job_id}") for job in jobs]
    assert list(limits.within(decided)) == decided[:2]
    assert limits.skipped


def test_a_dispatched_job_counts_and_may_be_dispatched_again() -> None:
    out = WAITING._replace(job_id="1", dispatched_to="n/1", dispatched_at=5.0)
    limits = OwnerLimits(queue(out, WAITING._replace(job_id="2")), {"a": 1})
    assert limits.queue().waiting == (out,)
    assert list(limits.within([Assignment("1", "n/1")])) == [Assignment("1", "n/1")]
    assert not limits.skipped


def test_what_is_dispatched_over_a_lowered_limit_is_recalled() -> None:
    jobs = [WAITING._replace(job_id=str(n), dispatched_to=f"n/{n}", dispatched_at=float(n)) for n in range(1, 4)]
    assert OwnerLimits(queue(*jobs, busy=(BUSY,)), {"a": 2}).excess() == ["3", "2"]
    assert OwnerLimits(queue(*jobs), {"a": 3}).excess() == []
