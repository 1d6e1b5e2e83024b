"""The soak's checker on forged histories: one that is clean, and for each promise one that breaks it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.soak import checker
from tests.soak.history import Event, History, Remains

JOB, OTHER = "01a22132-0000-7000-8000-000000000001", "01a22132-0000-7000-8000-000000000002"
FILE = {"name": "video.mp4", "kind": "video", "sha256": "aa"}


def row(job: str = JOB, **values: Any) -> dict[str, Any]:
    """Of a generation that succeeded at its first attempt."""
    result = {"artifacts": [FILE], "manifest": {"seed": 1, "prompt": job}}
    return {
        "id": job,
        "type": "generation",
        "status": "succeeded",
        "attempt": 1,
        "failures": 0,
        "hidden": False,
        "mock": False,
        "model_id": "T2V-A14B",
        "worker": "gpu-0@here",
        "device_key": "here/0",
        "pid": 70,
        "params": {},
        "result": result,
        "error": None,
        "started_at": 2.0,
        "finished_at": 4.0,
        "lease_until": None,
        "cancel_at": None,
        "webhook_url": None,
        **values,
    }


class Forged:
    """A history of one job, to be bent: events in order, and what is left."""

    def __init__(self, **values: Any) -> None:
        self.events: list[Event] = []
        self.left = Remains(
            rows=(row(**values),), uses=((JOB, "succeeded"),), files=(("artifacts", JOB, 1, "video.mp4"),)
        )
        self.add("submit", 1.0, by="first", key="k", code=202, status="queued", type="generation", webhook=False)

    def add(self, kind: str, at: float, job: str | None = JOB, asked: float | None = None, **facts: Any) -> "Forged":
        self.events.append(Event(len(self.events), at - 0.1 if asked is None else asked, at, kind, job, facts))
        return self

    def seen(self, at: float, status: str, by: str = "poll", asked: float | None = None, attempt: int = 1) -> "Forged":
        return self.add("see", at, asked=asked, by=by, code=200, status=status, attempt=attempt)

    def leaving(self, **values: Any) -> "Forged":
        self.left = dataclasses.replace(self.left, **values)
        return self

    def history(self) -> History:
        return History(tuple(self.events), self.left)


def broken(forged: Forged) -> set[str]:
    return {violation.rule for violation in checker.check(forged.history())}


def download(status: str = "succeeded") -> Forged:
    forged = Forged(type="download", status=status, result=None, model_id="soak-extra-0")
    forged.events[0] = dataclasses.replace(forged.events[0], facts={**forged.events[0].facts, "type": "download"})
    return forged.leaving(uses=(), files=())


def fault(at: float, job: str, reason: str | None = None, **values: Any) -> dict[str, Any]:
    return {
        "device_key": "here/0", "job_id": job, "pid": 7, "kind": "cuda_error", "at": at, "cleared_at": None,
        "quarantine_reason": reason, **values,
    }  # fmt: skip


def clean() -> Forged:
    """With everything in it that a good leg has."""
    forged = Forged(webhook_url="http://127.0.0.1:1/")
    forged.add("submit", 1.2, by="again", key="k", code=200, status="queued", type="generation", webhook=True)
    forged.add("submit", 1.3, None, by="other_body", key="k", code=422, type=None, webhook=True)
    forged.seen(2.5, "running").seen(4.5, "succeeded").seen(4.6, "running", by="list", asked=3.0)
    forged.add("message", 5.0, id="msg_1", type="job.succeeded", status="succeeded", digest="d", answered=500)
    forged.add("message", 6.0, id="msg_1", type="job.succeeded", status="succeeded", digest="d", answered=204)
    forged.add("cancel", 7.0, code=409, status=None)
    forged.add("drain", 8.0, None, node="here", code=200).add("undrain_asked", 9.0, None, node="here")
    forged.add("fault", 2.4, None, name="kill web", what="kill -9 1")
    forged.seen(10.0, "succeeded", by="final")
    forged.add("artifact", 10.1, name="video.mp4", code=200, sha256="aa", promised="aa")
    forged.add("release_asked", 1.9, None, device="here/0").add("release", 1.95, None, device="here/0", code=200)
    faults = (
        fault(0.5, OTHER, cleared_at=0.9),
        fault(1.0, OTHER, cleared_at=1.9),
        fault(1.1, OTHER, cleared_at=1.9),
        fault(1.2, "another", "3 faults", cleared_at=1.9),
        fault(5.0, OTHER),
    )
    return forged.leaving(
        redis_keys=((f"wanworks:events:{JOB}", 86_000), ("wanworks:meters", -1)), device_faults=faults
    )


def deleted() -> Forged:
    """Accepted, seen, deleted and gone."""
    forged = Forged().seen(2.0, "running").add("delete_asked", 3.0).add("delete", 3.2, code=204)
    forged.add("see", 4.0, by="after_delete", code=404)
    return forged.leaving(rows=(), files=(), uses=((JOB, "cancelled"),))


def paused(success: bool = True, word: str = "paused") -> Forged:
    """A download that was paused at 3 s."""
    forged = download().seen(2.0, "running")
    return forged.add("manage", 3.0, action="pause", code=200, success=success, current_status=word)


@pytest.mark.parametrize(
    "forged",
    [
        clean(),
        deleted(),
        Forged(status="cancelled", result=None)
        .leaving(uses=((JOB, "cancelled"),), files=())
        .add("cancel", 3.0, code=202, status="running"),
        paused().seen(4.0, "paused").add("resume_asked", 5.0).seen(6.0, "running"),
        paused(False, "downloading").seen(3.5, "running").seen(4.0, "paused").add("resume_asked", 5.0),
        paused(False, "downloading").seen(4.0, "succeeded").add("resume_asked", 5.0),
        download("failed").leaving(partials=(("soak-extra-0", "x.incomplete"),)),
        # A key is free again once its job was deleted.
        deleted()
        .add("submit", 5.0, OTHER, by="other_body", key="k", code=202, type="cleanup")
        .leaving(rows=(row(OTHER, type="cleanup", result=None),)),
    ],
)
def test_a_clean_history_passes(forged: Forged) -> None:
    assert checker.check(forged.history()) == []


def _two_videos() -> Forged:
    manifest = {"seed": 1}
    rows = [row(job, result={"artifacts": [FILE], "manifest": manifest}) for job in (JOB, OTHER)]
    rows[1]["result"]["artifacts"] = [{**FILE, "sha256": "bb"}]
    held = tuple(("artifacts", job, 1, "video.mp4") for job in (JOB, OTHER))
    return Forged().leaving(rows=tuple(rows), files=held, uses=((JOB, "succeeded"), (OTHER, "succeeded")))


def _hooked(*messages: dict[str, Any]) -> Forged:
    forged = Forged(webhook_url="http://127.0.0.1:1/")
    usual = {"id": "msg_1", "type": "job.succeeded", "status": "succeeded", "digest": "d", "answered": 204}
    for place, message in enumerate(messages):
        forged.add("message", 5.0 + place, **{**usual, **message})
    return forged


def _flow(*outcomes: str | None, state: str = "succeeded", messages: int = 1, **values: Any) -> Forged:
    """A chain of two jobs in a flow, of which the second starts when the first has ended."""
    names = ("a", "b")
    nodes = [
        {"name": name, "job_id": job, "outcome": outcome, "depends_on": after, "on_failure": "skip"}
        for name, job, outcome, after in zip(names, (JOB, OTHER), outcomes, ([], ["a"]), strict=True)
    ]
    second = row(OTHER, **{"started_at": 5.0, "finished_at": 6.0, **values})
    told = tuple({"id": f"msg_{at}", "job_id": "flow", "state": "delivered", "tries": 1} for at in range(messages))
    flow = {"id": "flow", "state": state, "retries": 0, "nodes": nodes}
    held = tuple(("artifacts", job, 1, "video.mp4") for job in (JOB, OTHER))
    uses = ((JOB, "succeeded"), (OTHER, second["status"]))
    return Forged().leaving(rows=(row(), second), flows=(flow,), messages=told, files=held, uses=uses)


def _batch(messages: int = 1, **values: Any) -> Forged:
    """A batch of one job, which has ended."""
    batch = {"id": "batch", "total": 1, "succeeded": 1, "failed": 0, "cancelled": 0, "finished_at": "then", **values}
    told = tuple({"id": f"msg_{at}", "job_id": "batch", "state": "delivered", "tries": 1} for at in range(messages))
    return Forged(batch_id="batch").leaving(batches=(batch,), messages=told)


def _paused_model(created_at: float, until: float | None, ended_at: float | None) -> Forged:
    pause = {"kind": "model_id", "value": "T2V-A14B", "created_at": created_at, "until": until, "ended_at": ended_at}
    return Forged().leaving(pauses=(pause,))


def _preempted(after_step: int | None, node: str = "here") -> Forged:
    """A job that was preempted with a checkpoint after 4 steps, and then succeeded."""
    first = {"attempt": 1, "node": "here", "outcome": "preempted", "checkpoint_step": 4, "resumed_from_step": None}
    last = {"attempt": 2, "node": node, "outcome": "succeeded", "checkpoint_step": 4, "resumed_from_step": after_step}
    return Forged(attempt_history=[first, last])


_BROKEN: list[tuple[Callable[[History], Any], Forged]] = [
    (checker.every_accepted_job_ends, Forged(status="queued").leaving(uses=(), files=())),
    (checker.every_accepted_job_ends, Forged().leaving(rows=(row(), row(OTHER, type="cleanup", status="queued")))),
    (checker.no_job_fails_without_a_cause, Forged(status="failed", error={"code": "internal_error"})),
    (checker.an_end_stays, Forged().seen(5.0, "succeeded").seen(6.0, "running")),
    (checker.an_end_stays, Forged().seen(5.0, "failed").seen(6.0, "succeeded")),
    (checker.all_tell_the_same_end, Forged().seen(5.0, "failed", by="events")),
    (checker.all_tell_the_same_end, _hooked({"status": "cancelled"})),
    (checker.an_attempt_never_falls, Forged().seen(2.0, "running", attempt=2).seen(3.0, "running", attempt=1)),
    (checker.one_use_for_each_generation, Forged().leaving(uses=())),
    (checker.one_use_for_each_generation, Forged().leaving(uses=((JOB, "succeeded"), (JOB, "succeeded")))),
    (checker.one_use_for_each_generation, Forged().leaving(uses=((JOB, "failed"),))),
    (checker.one_use_for_each_generation, download().leaving(uses=((JOB, "succeeded"),))),
    (checker.one_use_for_each_generation, deleted().leaving(uses=())),
    (
        checker.what_is_served_is_the_winners,
        Forged().add("artifact", 9.0, name="video.mp4", code=404, sha256="", promised="aa"),
    ),
    (
        checker.what_is_served_is_the_winners,
        Forged().add("artifact", 9.0, name="video.mp4", code=200, sha256="bb", promised="aa"),
    ),
    (checker.equal_jobs_make_equal_bytes, _two_videos()),
    (checker.every_end_reaches_its_webhook, _hooked()),
    (checker.every_end_reaches_its_webhook, _hooked({"answered": 500})),
    (checker.every_end_reaches_its_webhook, _hooked({}, {"id": "msg_2"})),
    (checker.every_end_reaches_its_webhook, _hooked({}, {"digest": "e"})),
    (checker.a_cancel_is_obeyed, Forged().add("cancel", 3.0, code=202, status="running")),
    (checker.a_pause_is_obeyed, paused().seen(4.0, "running")),
    (checker.a_pause_is_obeyed, paused().seen(4.0, "succeeded")),
    (checker.a_pause_is_obeyed, paused(False, "downloading").seen(4.0, "paused").seen(5.0, "running")),
    (checker.a_pause_is_obeyed, paused(False, "downloading").seen(4.0, "running").seen(40.0, "running")),
    (
        checker.one_key_is_one_job,
        Forged().add("submit", 2.0, OTHER, by="again", key="k", code=202, type="generation", webhook=False),
    ),
    (
        checker.one_key_is_one_job,
        Forged().add("submit", 2.0, by="other_body", key="k", code=200, type="generation", webhook=False),
    ),
    (checker.an_accepted_job_is_there, Forged().add("see", 3.0, by="poll", code=404)),
    (checker.an_accepted_job_is_there, Forged().leaving(rows=())),
    (checker.an_accepted_job_is_there, Forged(hidden=True)),
    (checker.a_deleted_job_disappears, deleted().seen(5.0, "running")),
    (checker.a_deleted_job_disappears, deleted().leaving(rows=(row(status="cancelled", hidden=True),))),
    (checker.a_deleted_job_disappears, deleted().leaving(files=(("artifacts", JOB, 1, "video.mp4"),))),
    (checker.a_deleted_job_disappears, Forged().add("delete_asked", 3.0).add("delete", 3.1, code=409)),
    (checker.no_file_is_left, Forged().leaving(files=())),
    (
        checker.no_file_is_left,
        Forged().leaving(files=(("artifacts", JOB, 1, "video.mp4"), ("artifacts", JOB, 2, "video.mp4"))),
    ),
    (
        checker.no_file_is_left,
        Forged().leaving(files=(("artifacts", JOB, 1, "video.mp4"), ("artifacts", JOB, 1, ".video.mp4.writing"))),
    ),
    (checker.no_file_is_left, Forged().leaving(files=(("artifacts", JOB, 1, "video.mp4"), ("inputs", OTHER, 0, "x")))),
    (checker.no_frames_are_left, Forged().leaving(handovers=(f"0.{JOB}.1",))),
    (
        checker.a_device_runs_one_job_and_finishes_one,
        Forged().leaving(
            rows=(
                row(device_key="here/0", started_at=1.0, released_at=2.0, finished_at=2.5),
                row(OTHER, device_key="here/0", started_at=1.9, finished_at=4.0),
            )
        ),
    ),
    (
        checker.a_device_runs_one_job_and_finishes_one,
        Forged().leaving(
            rows=(
                row(device_key="here/0", started_at=1.0, released_at=2.0, finished_at=3.5),
                row(OTHER, device_key="here/0", started_at=2.1, released_at=3.0, finished_at=4.0),
            )
        ),
    ),
    (checker.no_partial_download_is_left, download("cancelled").leaving(partials=(("soak-extra-0", "x"),))),
    (checker.no_partial_download_is_left, download().leaving(partials=(("soak-extra-7", "x"),))),
    (checker.no_key_stays_in_redis, Forged().leaving(redis_keys=((f"wanworks:events:{JOB}", -1),))),
    (checker.no_process_is_left, Forged().leaving(strangers=("123 python -m api",))),
    (checker.no_process_is_left, Forged().leaving(left_after_stop=("123",))),
    (
        checker.a_running_job_is_alive,
        Forged(status="running", lease_until=5.0).seen(9.0, "running").leaving(uses=(), files=()),
    ),
    (
        checker.a_drained_node_takes_nothing,
        Forged().add("drain", 1.5, None, node="here", code=200).add("undrain_asked", 3.0, None, node="here"),
    ),
    (
        checker.the_job_after_a_poisoned_context_runs_in_a_new_process,
        Forged(device_key="here/0", pid=7).leaving(device_faults=(fault(1.0, OTHER),)),
    ),
    (
        checker.a_device_is_quarantined_only_as_the_rule_says,
        Forged().leaving(device_faults=(fault(1.0, OTHER), fault(1.1, JOB, "2 faults"))),
    ),
    (
        checker.a_device_is_quarantined_only_as_the_rule_says,
        Forged().leaving(device_faults=(fault(1.0, OTHER), fault(1.1, OTHER), fault(1.2, OTHER, "3 faults"))),
    ),
    (
        checker.a_device_is_quarantined_only_as_the_rule_says,
        Forged().leaving(device_faults=(fault(1.0, OTHER), fault(1.1, OTHER), fault(1.2, JOB))),
    ),
    (
        checker.a_device_is_quarantined_only_as_the_rule_says,
        Forged(device_key="here/0", pid=8).leaving(
            device_faults=(fault(1.0, OTHER), fault(1.1, OTHER), fault(5.0, "another", "3 faults"))
        ),
    ),
    (
        checker.a_quarantined_device_takes_nothing,
        Forged(device_key="here/0", pid=8, started_at=3.0)
        .add("release_asked", 3.5, None, device="here/0")
        .leaving(device_faults=(fault(1.0, OTHER), fault(1.1, OTHER), fault(1.2, "another", "3 faults"))),
    ),
    (checker.every_flow_ends_as_its_jobs_did, _flow("succeeded", "succeeded", state="running")),
    (checker.every_flow_ends_as_its_jobs_did, _flow("succeeded", None, status="running", messages=1)),
    (checker.a_dependant_starts_after_its_parents, _flow("succeeded", "succeeded", started_at=3.0)),
    (checker.a_skip_has_a_cause, _flow("succeeded", "skipped", status="cancelled", started_at=None)),
    (checker.one_message_for_each_end_of_a_flow, _flow("succeeded", "succeeded", messages=2)),
    (checker.one_message_for_each_end_of_a_flow, _flow("succeeded", "succeeded", messages=0)),
    (checker.a_batch_ends_once_and_counts_right, _batch(finished_at=None)),
    (checker.a_batch_ends_once_and_counts_right, _batch(total=2)),
    (checker.a_batch_ends_once_and_counts_right, _batch(succeeded=0, failed=1)),
    (checker.a_batch_ends_once_and_counts_right, _batch(messages=2)),
    (checker.nothing_starts_before_its_time, Forged(start_after=3.0)),
    (checker.nothing_starts_while_paused, _paused_model(1.0, 9.0, None)),
    (checker.nothing_starts_while_paused, _paused_model(1.0, 9.0, 3.0)),
    (checker.a_preempted_job_continues, _preempted(after_step=None)),
    (checker.a_preempted_job_continues, _preempted(after_step=3)),
    (checker.no_answer_is_a_fault, Forged().add("refused", 3.0, to="GET /api/v1/jobs", code=500, text="")),
]


@pytest.mark.parametrize(("rule", "forged"), _BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_promise_is_found_and_named(rule: Callable[[History], Any], forged: Forged) -> None:
    assert rule.__name__ in broken(forged)


def test_a_flow_that_ended_well_breaks_nothing() -> None:
    assert broken(_flow("succeeded", "succeeded")) == set()


@pytest.mark.parametrize(
    "forged",
    [
        _batch(),
        Forged(start_after=1.5),
        _paused_model(1.0, 9.0, 1.9),
        _paused_model(2.5, 9.0, None),
        _paused_model(1.0, None, None),
        _preempted(after_step=4),
        _preempted(after_step=None, node="other"),
    ],
)
def test_a_kept_promise_of_the_queue_breaks_nothing(forged: Forged) -> None:
    assert broken(forged) == set()


def test_every_promise_has_a_history_that_breaks_it() -> None:
    assert {rule for rule, _ in _BROKEN} == set(checker.RULES)


def test_a_violation_shows_the_lines_of_its_job_and_the_faults_about_them() -> None:
    forged = clean().add("cancel", 3.0, code=202, status="running").add("fault", 60.0, None, name="later", what="")
    (violation,) = checker.check(forged.history())
    assert violation.job == JOB
    text = "\n".join(violation.lines)
    assert "cancel" in text
    assert "kill web" in text
    assert "later" not in text
    assert violation.lines[-1].startswith("row: type=generation status=succeeded")


def test_a_history_is_the_same_once_it_was_written_and_read(tmp_path: Path) -> None:
    history = clean().history()
    history.save(tmp_path / "history.jsonl")
    assert History.load(tmp_path / "history.jsonl") == history
