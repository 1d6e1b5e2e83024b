"""Each rule, on a clock of the test's own: it opens once its cause has lasted, stays single, and resolves by itself."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scheduler.alerts.evaluation import evaluate
from scheduler.alerts.fact_types import (
    DeviceFact,
    Facts,
    FailedDownload,
    LateFact,
    LoopFact,
    ModelFact,
    NodeFact,
    ProcessFact,
    ReplicaFact,
    RunningFact,
)
from scheduler.alerts.facts import hours_to_full, living_loops
from scheduler.alerts.rules import RULES
from shared.cluster.alerts import Changes, Known
from shared.cluster.nodes import SeenDevice, is_heard
from shared.database.tables import Device, Snapshot
from shared.settings import Settings
from shared.states import ReplicaState
from shared.telemetry.loop_reports import SeenLoop, dispatcher_heard

SETTINGS = Settings()
START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = ModelFact("T2V-A14B", (ReplicaFact("one", ReplicaState.AVAILABLE),))
DEVICE = DeviceFact("one/0", "NVIDIA H200", 1.0, False, temperature_celsius=60.0, memory_percent=50.0)
NODE = NodeFact("one", 1.0, False, disk_used_percent=50.0, disk_free_gb=100.0)
FINE = Facts(
    models=(MODEL,), devices=(DEVICE,), nodes=(NODE,), dispatcher_silent=False, beat_silent_seconds=3.0, succeeded_1h=9
)
JOB = RunningFact("job-1", "generation", "T2V-A14B", "one", idle_seconds=700.0)

WRONG: dict[str, tuple[Facts, str]] = {
    "model_corrupted": (
        replace(FINE, models=(replace(MODEL, replicas=(ReplicaFact("one", ReplicaState.CORRUPTED, ("vae.bin",)),)),)),
        "T2V-A14B on one",
    ),
    "model_missing": (
        replace(FINE, models=(ModelFact("T2V-A14B", (ReplicaFact("one", ReplicaState.MISSING),), waiting=3),)),
        "T2V-A14B",
    ),
    "worker_lost": (replace(FINE, devices=(replace(DEVICE, silent_seconds=31.0),)), "one/0"),
    "node_lost": (replace(FINE, nodes=(replace(NODE, silent_seconds=31.0),)), "one"),
    "crash_loop": (replace(FINE, processes=(ProcessFact("one", "gpu-0", "crash_loop", 5),)), "gpu-0 on one"),
    "device_too_hot": (replace(FINE, devices=(replace(DEVICE, temperature_celsius=87.0),)), "one/0"),
    "device_quarantined": (replace(FINE, devices=(replace(DEVICE, quarantine_reason="3 faults in a row"),)), "one/0"),
    "device_throttled": (
        replace(FINE, devices=(replace(DEVICE, throttle_reasons=("sw_power_cap", "hw_thermal_slowdown")),)),
        "one/0",
    ),
    "device_memory_errors": (replace(FINE, devices=(replace(DEVICE, ecc_uncorrected=2),)), "one/0"),
    "device_memory_full": (replace(FINE, devices=(replace(DEVICE, memory_percent=98.0),)), "one/0"),
    "queue_age": (replace(FINE, queued=4, oldest_queued_seconds=1801.0), ""),
    "start_late": (replace(FINE, late=(LateFact("job-4", "T2V-A14B", 1000.0, 1500.0),)), "job-4"),
    "job_stuck": (replace(FINE, running=(JOB,)), "job-1"),
    "failure_rate": (replace(FINE, succeeded_1h=3, failed_1h=1), ""),
    "slower_than_usual": (
        replace(FINE, models=(replace(MODEL, relative_seconds=(3.0,) * 5 + (2.0,) * 10),)),
        "T2V-A14B",
    ),
    "disk_nearly_full": (replace(FINE, nodes=(replace(NODE, disk_used_percent=90.0),)), "one"),
    "disk_fills": (replace(FINE, disk_full_in_hours=23.0), ""),
    "download_stalled": (
        replace(FINE, running=(RunningFact("job-2", "download", "T2V-A14B", "one", 0.2, no_bytes=True),)),
        "job-2",
    ),
    "download_failed": (
        replace(FINE, failed_downloads=(FailedDownload("job-3", "T2V-A14B", "one", "It is gated"),)),
        "T2V-A14B to one",
    ),
    "redis_away": (replace(FINE, redis_away=True), ""),
    "redis_data_lost": (replace(FINE, redis_lost_seconds=5.0), ""),
    "dispatcher_silent": (replace(FINE, dispatcher_silent=True), ""),
    "beat_silent": (replace(FINE, beat_silent_seconds=241.0), ""),
    "loop_silent": (
        replace(FINE, loops=(LoopFact("io@one", "model-storage", "one", 5.0, 61.0),)),
        "model-storage of io@one",
    ),
    "flower_down": (replace(FINE, processes=(ProcessFact("one", "flower", "backoff", 2),)), "one"),
}


class Installation:
    """What would be in the tables, moved on by one look after the other."""

    def __init__(self) -> None:
        self.now = START
        self.known = Known()

    def run_pass(self, facts: Facts, after_seconds: float = 0.0) -> Changes:
        self.now += timedelta(seconds=after_seconds)
        changes = evaluate(facts, SETTINGS, self.known, self.now)
        opened = {(cause.rule, cause.subject) for cause in changes.opened}
        self.known = Known(changes.watches, (self.known.open | opened) - set(changes.resolved))
        return changes


def opened(changes: Changes) -> list[tuple[str, str]]:
    return [(cause.rule, cause.subject) for cause in changes.opened]


def test_every_rule_is_tried() -> None:
    assert [rule.name for rule in RULES] == list(WRONG)


def test_a_power_limit_is_no_slowdown() -> None:
    facts = replace(FINE, devices=(replace(DEVICE, throttle_reasons=("sw_power_cap",), ecc_uncorrected=0),))
    assert Installation().run_pass(facts) == Changes()


def test_nothing_is_wrong_with_what_is_fine() -> None:
    assert Installation().run_pass(FINE) == Changes()
    assert Installation().run_pass(Facts()) == Changes()


@pytest.mark.parametrize("name", list(WRONG))
def test_it_opens_once_stays_single_and_resolves(name: str) -> None:
    rule = next(rule for rule in RULES if rule.name == name)
    wrong, subject = WRONG[name]
    here = Installation()
    lasting, gone = rule.for_seconds(SETTINGS), rule.gone_seconds
    if lasting:
        assert opened(here.run_pass(wrong)) == []
        assert opened(here.run_pass(wrong, lasting - 1)) == []
        assert opened(here.run_pass(wrong, 1)) == [(name, subject)]
    else:
        assert opened(here.run_pass(wrong)) == [(name, subject)]
    again = here.run_pass(wrong, 15)
    assert opened(again) == []
    assert [(cause.rule, cause.subject) for cause in again.still] == [(name, subject)]
    for cause in again.still:
        assert cause.title
        assert cause.message
        assert cause.suggested_action
    if gone:
        assert here.run_pass(FINE, 15).resolved == ()
        assert here.run_pass(FINE, gone - 1).resolved == ()
        assert here.run_pass(FINE, 1).resolved == ((name, subject),)
    else:
        assert here.run_pass(FINE, 15).resolved == ((name, subject),)
    assert here.known == Known()
    assert here.run_pass(FINE, 15) == Changes()


def test_a_cause_that_comes_and_goes_must_last_anew() -> None:
    here, (hot, _) = Installation(), WRONG["device_too_hot"]
    for _ in range(5):
        assert opened(here.run_pass(hot, 100)) == []
        here.run_pass(FINE, 15)
    here.run_pass(hot, 15)
    assert opened(here.run_pass(hot, 120)) == [("device_too_hot", "one/0")]


def test_an_alert_is_not_resolved_by_a_short_lull() -> None:
    here, (hot, _) = Installation(), WRONG["device_too_hot"]
    here.run_pass(hot)
    here.run_pass(hot, 120)
    for _ in range(5):
        assert here.run_pass(FINE, 100).resolved == ()
        assert opened(here.run_pass(hot, 15)) == []


def test_between_the_thresholds_what_is_open_stays_open() -> None:
    warm = replace(FINE, devices=(replace(DEVICE, temperature_celsius=84.0),))
    assert Installation().run_pass(warm, 0).watches == ()
    here, (hot, _) = Installation(), WRONG["device_too_hot"]
    here.run_pass(hot)
    here.run_pass(hot, 120)
    assert here.run_pass(warm, 600).resolved == ()
    assert here.run_pass(warm, 600).resolved == ()


def test_unknown_facts_change_nothing() -> None:
    here, (silent, _) = Installation(), WRONG["dispatcher_silent"]
    here.run_pass(silent)
    here.run_pass(silent, 30)
    unknown = here.run_pass(replace(FINE, dispatcher_silent=None), 600)
    assert (unknown.opened, unknown.still, unknown.resolved) == ((), (), ())
    assert here.run_pass(FINE, 15).resolved == (("dispatcher_silent", ""),)


def test_two_subjects_are_two_alerts() -> None:
    other = replace(DEVICE, key="one/1", silent_seconds=50.0)
    both = replace(FINE, devices=(replace(DEVICE, silent_seconds=50.0), other))
    here = Installation()
    assert opened(here.run_pass(both)) == [("worker_lost", "one/0"), ("worker_lost", "one/1")]
    assert here.run_pass(replace(FINE, devices=(DEVICE, other)), 15).resolved == (("worker_lost", "one/0"),)


def test_a_deregistered_worker_is_not_lost() -> None:
    gone = replace(FINE, devices=(replace(DEVICE, silent_seconds=1e9, stopped=True),))
    assert Installation().run_pass(gone) == Changes()


def test_few_failures_are_no_rate() -> None:
    assert Installation().run_pass(replace(FINE, succeeded_1h=0, failed_1h=3)) == Changes()


def test_corrupted_files_that_nothing_depends_on_are_a_warning() -> None:
    replicas = (ReplicaFact("one", ReplicaState.AVAILABLE), ReplicaFact("two", ReplicaState.CORRUPTED, ("a",)))
    (cause,) = Installation().run_pass(replace(FINE, models=(replace(MODEL, replicas=replicas),))).opened
    assert (cause.severity, cause.subject) == ("warning", "T2V-A14B on two")


def test_a_rule_that_is_no_more_leaves_no_open_alert() -> None:
    changes = evaluate(FINE, SETTINGS, Known(open=frozenset({("rule_of_old", "x")})), START)
    assert changes.resolved == (("rule_of_old", "x"),)


def _free(*gigabytes: float, minutes: float = 30.0) -> list[Snapshot]:
    return [
        Snapshot(at=START + timedelta(minutes=minutes * place), disk_free_gb=free)  # type: ignore[call-arg]
        for place, free in enumerate(gigabytes)
    ]


def test_when_the_disk_is_full() -> None:
    assert hours_to_full(_free(100, 90, 80)) == pytest.approx(4.0)  # 20 GB an hour, 80 left
    assert hours_to_full(_free(80, 90, 100)) is None
    assert hours_to_full(_free(80, 80, 80)) is None
    assert hours_to_full(_free(100, 50, minutes=10)) is None
    assert hours_to_full([]) is None


# --- background loops


@pytest.mark.parametrize(
    ("every", "silent", "wrong"), [(2.0, 60.0, False), (2.0, 60.1, True), (30.0, 150.0, False), (30.0, 150.1, True)]
)
def test_a_loop_is_missed_after_a_minute_or_five_periods(every: float, silent: float, wrong: bool) -> None:
    facts = replace(FINE, loops=(LoopFact("io@one", "webhooks", "one", every, silent),))
    assert (("loop_silent", "webhooks of io@one") in opened(Installation().run_pass(facts))) is wrong


def test_only_loops_of_processes_that_live_are_missed() -> None:
    def seen(process: str, loop: str, silent: float) -> SeenLoop:
        return SeenLoop(process, loop, "one", 2.0, silent)

    loops = [
        seen("io@one", "webhooks", 500.0),
        seen("io@one", "node-heartbeat", 3.0),  # another loop of it is fresh
        seen("gpu-0@one", "sampler", 500.0),  # its only loop, and its device is heard
        seen("gpu-1@one", "sampler", 500.0),  # the whole process is gone
        seen("gpu-1@one", "guard", 500.0),
    ]
    found = {(fact.process, fact.loop) for fact in living_loops(loops, {"gpu-0@one"})}
    assert found == {("io@one", "webhooks"), ("io@one", "node-heartbeat"), ("gpu-0@one", "sampler")}


# --- who lives, and what is not known


def test_one_word_on_who_lives() -> None:
    device = Device(key="one/0", node="one", index=0, kind="cpu", uuid="", name="", memory_mb=1, worker="", pid=1,
                    visible="", started_at=START, seen_at=1.0, message_protocol=1, warm=[])  # fmt: skip
    assert (is_heard(30.0, 30.0), is_heard(30.1, 30.0)) == (True, False)
    assert SeenDevice(device, 30.0, deregistered=False).alive(30.0)
    assert not SeenDevice(device, 30.0, deregistered=True).alive(30.0)
    on_the_line = replace(
        FINE, devices=(replace(DEVICE, silent_seconds=30.0),), nodes=(replace(NODE, silent_seconds=30.0),)
    )
    assert opened(Installation().run_pass(on_the_line)) == []


def test_a_dispatcher_is_heard_by_its_own_loop_alone() -> None:
    def seen(loop: str, silent: float) -> SeenLoop:
        return SeenLoop("dispatcher@one", loop, "one", 2.0, silent)

    assert dispatcher_heard([seen("dispatcher", 15.0)])
    assert not dispatcher_heard([seen("dispatcher", 15.1), seen("alerts", 1.0)])
    assert not dispatcher_heard([])


def test_a_flower_that_runs_and_does_not_answer_is_down() -> None:
    running = replace(FINE, processes=(ProcessFact("one", "flower", "running", 0),))
    one = Installation()
    one.run_pass(replace(running, flower_answers=False))
    assert opened(one.run_pass(replace(running, flower_answers=False), 61.0)) == [("flower_down", "")]
    assert one.run_pass(replace(running, flower_answers=None), 1.0).resolved == (("flower_down", ""),)


def test_a_preset_has_no_alert_of_its_own_for_the_files_of_its_model() -> None:
    bad = (ReplicaFact("one", ReplicaState.CORRUPTED, ("vae.bin",)),)
    preset = ModelFact("T2V-A14B-Lightning", bad, weights_id="T2V-A14B")
    (rule,) = [one for one in RULES if one.name == "model_corrupted"]

    def subjects(*models: ModelFact) -> list[str]:
        return [found.subject for found in rule.find(replace(FINE, models=models), SETTINGS, ())]

    assert subjects(replace(MODEL, replicas=bad), preset) == ["T2V-A14B on one"]
    assert subjects(MODEL, preset) == ["T2V-A14B-Lightning on one"], "its own files"
    both = replace(preset, replicas=(ReplicaFact("one", ReplicaState.CORRUPTED, ("lora.safetensors", "vae.bin")),))
    assert subjects(replace(MODEL, replicas=bad), both) == ["T2V-A14B on one", "T2V-A14B-Lightning on one"]
