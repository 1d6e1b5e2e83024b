"""Jobs on several devices beside jobs on one: each gets all its devices or none, and every job starts."""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from scheduler.placement.devices import Assignment, Moment
from scheduler.placement.fairness import FairStarts
from scheduler.placement.gangs import decide, enough
from shared.forecast.slots import DeviceView, Estimates
from shared.jobs.claims.gangs import joined, keys_of
from shared.jobs.dispatch import Busy, Queue, Waiting
from tests.support.simulation import device, job, running

FLAT = Estimates(lambda _key: 0.0, lambda _key, work, _volume: work)


def decided(waiting: Sequence[Waiting], devices: Sequence[DeviceView], busy: Sequence[Busy] = ()) -> list[Assignment]:
    return list(decide(Moment(Queue(100.0, tuple(waiting), tuple(busy)), tuple(devices), FLAT)))


def four() -> list[DeviceView]:
    return [device(0, "A"), device(1, "A"), device(0, "A", node="m"), device(1, "A", node="m")]


def test_a_gang_gets_all_its_devices_of_one_node_or_none() -> None:
    pair = job("pair", "A", devices=2)
    assert decided([pair], four()) == [Assignment("pair", "m/0", ("m/1",))]
    one_free_on_each = [running("x", "n/0", "A"), running("y", "m/1", "A")]
    assert decided([pair], four(), one_free_on_each) == []
    assert decided([job("many", "A", devices=4)], four()) == []
    assert not enough(job("many", "A", devices=4), four())


def test_nothing_is_dispatched_to_a_member_even_in_advance() -> None:
    gang = running("pair", "n/0", "A", since=99.0, devices=2, members="n/1", work=50.0)
    dispatched = decided([job("s1", "A"), job("s2", "A")], four()[:2], [gang])
    assert [one.device_key for one in dispatched] == ["n/0"]  # behind the gang on the device that leads it


def test_a_due_gang_holds_devices_and_later_singles_use_the_others() -> None:
    busy = [running("x", "n/0", "A", since=99.0, work=5.0), running("y", "m/0", "A", since=99.0, work=90.0)]
    pair, later = job("pair", "A", at=1.0, devices=2), [job(f"s{n}", "A", at=2.0 + n) for n in range(4)]
    dispatched = decided([pair, *later], four(), busy)
    keys = {one.device_key for one in dispatched}
    assert "m/1" in keys
    assert keys.isdisjoint({"n/0", "n/1"})


def test_the_devices_held_for_a_gang_are_those_whose_jobs_report_the_first_ends() -> None:
    busy = [running(str(n), one.key, "A", since=99.0, work=5.0) for n, one in enumerate(four())]
    moment = Moment(
        Queue(100.0, (job("pair", "A", devices=2), job("s", "A", at=1.0)), tuple(busy)), tuple(four()), FLAT
    )
    by_node = {one.key: str(n) for n, one in enumerate(four())}
    for late, soon in (("m", "n"), ("n", "m")):
        ends = {number: 900.0 if key.startswith(late) else 110.0 for key, number in by_node.items()}
        (single,) = decide(replace(moment, ends=ends))
        assert single.device_key.startswith(late), f"those of {soon} are held"


def test_singles_that_came_before_a_gang_go_first() -> None:
    first, pair = [job("s0", "A", at=1.0)], job("pair", "A", at=2.0, devices=2)
    dispatched = decided([*first, pair], four()[:2])
    assert [one.job_id for one in dispatched] == ["s0"]


def test_an_unanswered_gang_is_sent_again_with_its_members() -> None:
    pair = job("pair", "A", devices=2, dispatched_to="n/0", members="n/1", dispatched_at=80.0)
    assert decided([pair], four()[:2]) == [Assignment("pair", "n/0", ("n/1",))]
    assert decided([pair._replace(dispatched_at=95.0), job("s", "A")], four()[:2]) == []
    (again,) = decided([pair], [*four()[:1], *four()[2:]])  # a member is gone
    assert (again.device_key, again.members) == ("m/0", ("m/1",))


@dataclass
class Played:
    starts: dict[str, float] = field(default_factory=dict)
    most_waits: float = 0.0


def play(jobs: Sequence[Waiting], devices: Sequence[DeviceView]) -> Played:
    """Run the trace to its end. Fails if a device would run two jobs, or if jobs are left that nothing starts."""
    turns, played = FairStarts(), Played()
    waiting: dict[str, Waiting] = {}
    busy: dict[str, Busy] = {}  # by job
    events: list[tuple[float, int, str]] = [(one.queued_at, 1, one.job_id) for one in jobs]
    by_id = {one.job_id: one for one in jobs}
    heapq.heapify(events)

    def taken() -> set[str]:
        return {key for one in busy.values() for key in (one.device_key, *keys_of(one.members))}

    def claim(now: float) -> None:
        for one in list(waiting.values()):
            keys = {one.dispatched_to, *keys_of(one.members)} if one.dispatched_to else set()
            if not keys or one.dispatched_to in {other.device_key for other in busy.values()}:
                continue  # the worker of the first device is busy, so it reads its next message later
            assert keys.isdisjoint(taken()), f"{one.job_id} was dispatched to a device of another job"
            del waiting[one.job_id]
            busy[one.job_id] = running(
                one.job_id, one.dispatched_to or "", one.model_id or "", now,
                work=one.work, owner=one.owner, devices=one.devices, members=one.members,
            )  # fmt: skip
            played.starts[one.job_id] = now
            heapq.heappush(events, (now + one.work, 0, one.job_id))

    while events:
        now = events[0][0]
        while events and events[0][0] == now:
            _, arrives, name = heapq.heappop(events)
            if arrives:
                waiting[name] = by_id[name]
            else:
                del busy[name]
        claim(now)
        for _ in range(3 * len(devices)):
            queue = Queue(now, tuple(waiting.values()), tuple(busy.values()))
            deadlines = turns.observe(queue, devices, FLAT)
            assignments = list(decide(Moment(queue, tuple(devices), FLAT, deadlines)))
            if not assignments:
                break
            for each in assignments:
                members = joined(each.members)
                moved = waiting[each.job_id]._replace(dispatched_to=each.device_key, dispatched_at=now, members=members)
                waiting[each.job_id] = moved
                for other in list(waiting.values()):  # as `displaced`
                    if other.dispatched_to == each.device_key and other.job_id != each.job_id:
                        waiting[other.job_id] = other._replace(dispatched_to=None, dispatched_at=None)
            claim(now)
    assert not waiting, f"never started: {sorted(waiting)}"
    return played


@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_random_traces_have_no_deadlock_and_nothing_starves(seed: int) -> None:
    for number in range(100):
        dice = random.Random(1000 * seed + number)
        nodes = [f"n{n}" for n in range(dice.randint(1, 2))]
        devices = [device(n, "AB", node=node) for node in nodes for n in range(4)]
        jobs = [
            job(
                f"j{n:03}", dice.choice("AB"), at=dice.uniform(0, 120), work=dice.uniform(1, 20),
                devices=dice.choices((1, 2, 4), (6, 3, 1))[0], owner=dice.choice(("ann", "ben")),
            )
            for n in range(40)
        ]  # fmt: skip
        starts = play(jobs, devices).starts
        # At most all other jobs run before it, and beside each gang all other devices may be idle.
        limit = sum(one.work for one in jobs)
        late = {one.job_id for one in jobs if starts[one.job_id] - one.queued_at > limit}
        assert len(starts) == len(jobs), number
        assert not late, number


@pytest.mark.parametrize("devices", [1, 4])
def test_a_job_starts_under_an_endless_stream_of_the_other_kind(devices: int) -> None:
    views = [device(n, "A") for n in range(4)]
    others = 4 if devices == 1 else 1
    stream = [job(f"o{n:03}", "A", at=n * 1.0, work=9.0, devices=others) for n in range(200)]
    wanted = job("wanted", "A", at=20.5, work=9.0, devices=devices)
    played = play([*stream, wanted], views)
    before = [name for name, at in played.starts.items() if at < played.starts["wanted"]]
    # Those that came first, and what was already dispatched behind a running job.
    assert len(before) <= 21 + 2 * len(views), len(before)
