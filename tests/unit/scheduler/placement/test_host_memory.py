"""The memory of a host is shared by its devices."""

from scheduler.placement.devices import Assignment
from scheduler.placement.host_memory import in_the_way, shared, within_hosts
from shared.forecast.slots import DeviceView, fits
from shared.jobs.dispatch import Busy, Queue, Waiting

NEEDS = "16000:70000;140000"  # 16 GB on the device, 70 GB on its host
HOLDS = frozenset({"a"})


def device(index: int, node: str = "n", host_mb: int | None = 100_000) -> DeviceView:
    return DeviceView(f"{node}/{index}", node, "cuda", 24_000, frozenset(), HOLDS, host_mb=host_mb)


def waiting(name: str, dispatched_to: str | None = None) -> Waiting:
    at = None if dispatched_to is None else 1.0
    return Waiting(
        name, "generation", "a", "a:none", None, 1, None, 0.0, 0.0, 1.0, False, 0, 0, None, dispatched_to, at,
        memory_needs=NEEDS,
    )  # fmt: skip


def busy(name: str, key: str) -> Busy:
    return Busy(name, "generation", "a", key, "a:none", "n", 1, None, None, 1.0, 0.0, False, NEEDS)


def test_a_running_job_leaves_less_for_the_other_devices_of_its_host() -> None:
    queue = Queue(1.0, (waiting("w"),), (busy("b", "n/0"),))
    devices = shared(queue, [device(0), device(1), device(0, "m")])
    assert [one.host_mb for one in devices] == [100_000, 30_000, 100_000]
    assert [fits(queue.waiting[0], one) for one in devices] == [True, False, True]


def test_two_jobs_of_one_pass_do_not_share_what_fits_one() -> None:
    queue = Queue(1.0, (waiting("v"), waiting("w"), waiting("x")), ())
    decided = [Assignment("v", "n/0"), Assignment("w", "n/1"), Assignment("x", "m/0")]
    devices = [device(0), device(1), device(0, "m")]
    assert [one.job_id for one in within_hosts(decided, queue, devices)] == ["v", "x"]


def test_the_next_job_of_a_device_takes_the_place_of_the_present_one() -> None:
    queue = Queue(1.0, (waiting("w"),), (busy("b", "n/0"),))
    assert [one.job_id for one in within_hosts([Assignment("w", "n/0")], queue, [device(0), device(1)])] == ["w"]


def test_unknown_host_memory_is_not_compared() -> None:
    queue = Queue(1.0, (waiting("v"), waiting("w")), ())
    devices = [device(0, host_mb=None), device(1, host_mb=None)]
    decided = [Assignment("v", "n/0"), Assignment("w", "n/1")]
    assert list(within_hosts(decided, queue, shared(queue, devices))) == decided


def test_an_idle_device_gives_way() -> None:
    queue = Queue(1.0, (waiting("w"),), ())
    devices = [device(0), device(1), device(2, "m")]
    assert in_the_way([Assignment("w", "n/0")], queue, devices, {"n/1": 69_000, "m/2": 69_000}) == ["n/1"]
    assert in_the_way([Assignment("w", "n/0")], queue, devices, {"n/1": 20_000}) == []
    assert in_the_way([Assignment("w", "n/0")], queue, devices, {"n/0": 69_000}) == []


def test_a_busy_device_is_not_asked() -> None:
    queue = Queue(1.0, (waiting("w"),), (busy("b", "n/1"),))
    assert in_the_way([Assignment("w", "n/0")], queue, [device(0), device(1)], {"n/1": 69_000}) == []
