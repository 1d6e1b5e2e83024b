"""Every write in a job's life, each with what must be true after it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from shared import daily_window
from shared.access import audit, keys
from shared.access.audit import Act
from shared.access.keys import Limits
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import (
    ApiKey,
    AuditEntry,
    CollectedVideo,
    Collection,
    Device,
    DeviceFault,
    Favourite,
    Job,
    StoredLora,
    Use,
    WebhookMessage,
)
from shared.errors import FaultKind
from shared.jobs import (
    accepting,
    attempts,
    batches,
    bulk,
    device_faults,
    dispatch,
    download_control,
    finishing,
    ordering,
    records,
)
from shared.jobs.attempts import Claimant, Failure, Fetched
from shared.jobs.bulk import Selection, Tally
from shared.jobs.device_faults import Fault
from shared.jobs.flows import accepting as flow_accepting
from shared.jobs.flows import advancing, changing
from shared.jobs.gallery import collections, favourites
from shared.jobs.lines import holding, windows
from shared.jobs.reading import running_attempts
from shared.models import replica_files
from shared.models.loras import library as lora_library
from shared.models.loras.header import Described
from shared.models.verification import Verdict
from shared.states import JobState, Phase, Priority, Scope
from tests.integration.shared.database.losing_commits import row, rows
from tests.support.batches import batch_of, stored
from tests.support.flows import Node, accepted_flow, follow, new_flow, run, states
from tests.support.jobs import accepted, claimed, new_job
from tests.support.models import library

IO = Claimant("here", "io@here", None, "here/io", pid=7)
WEBHOOK = "http://198.51.100.7/told"


@dataclass(frozen=True)
class Written:
    """One write, ready to be made, and what must be true after it."""

    write: Callable[[], Any]
    check: Callable[[Any], None]


def _accept(database: Database) -> Written:
    new = [new_job(idempotency_key="k", request_hash="h"), new_job()]

    def check(outcome: Any) -> None:
        assert [(one.job.id, one.replayed) for one in outcome] == [(job.id, False) for job in new]
        assert {job.id for job in rows(database, Job)} == {job.id for job in new}

    return Written(lambda: accepting.accept(database, new), check)


def _follow_windows(database: Database) -> Written:
    windows.set_installation(database, "00:00-00:01 UTC")
    in_force = windows.Windows(daily_window.parse("always"))
    job = accepted(database, priority=Priority.LOW)
    ordering.set_priority(database, job.id, Priority.NORMAL)
    ordering.set_priority(database, job.id, Priority.LOW)

    def check(_: tuple[int, int]) -> None:
        assert row(database, job.id).held is None

    return Written(lambda: holding.follow_windows(database, in_force), check)


def _set_window(database: Database) -> Written:
    def check(_: None) -> None:
        assert str(windows.read(database).installation) == "22:00-07:00 UTC"

    return Written(lambda: windows.set_installation(database, "22:00-07:00 UTC"), check)


def _claim(database: Database) -> Written:
    job = accepted(database)
    claimed(database, accepted(database).id)  # the node holds the model
    dispatch.mark_dispatched(database, [(job.id, "n/1")])
    me = Claimant("n", "gpu-1@n", "cpu-1", "n/1", pid=42)

    def check(claim: Job | None) -> None:
        assert claim is not None
        assert (claim.status, claim.attempt, claim.pid) == (JobState.RUNNING, 1, 42)
        assert row(database, job.id).attempt == 1

    return Written(lambda: attempts.claim(database, job.id, me, 60), check)


def _ending(state: JobState) -> Callable[[Database], Written]:
    def make(database: Database) -> Written:
        job = claimed(database, accepted(database, webhook_url=WEBHOOK).id)
        ends: dict[JobState, Callable[[], Job]] = {
            JobState.SUCCEEDED: lambda: attempts.succeed(database, job.id, 1, {"timings": {"denoising": 0.1}}),
            JobState.FAILED: lambda: attempts.fail(database, job.id, 1, Failure("x", "why", True), 12.5),
            JobState.CANCELLED: lambda: attempts.cancelled(database, job.id, 1, 3.0),
        }

        def check(ended: Job) -> None:
            assert (ended.status, row(database, job.id).status) == (state, state)
            assert [use.outcome for use in rows(database, Use)] == [state]
            assert [message.type for message in rows(database, WebhookMessage)] == [f"job.{state}"]

        return Written(ends[state], check)

    return make


def _second_attempt(database: Database) -> Written:
    job = claimed(database, accepted(database).id)
    attempts.crashed(database, job.id, 1, "died", 0.0)
    claimed(database, job.id)

    def check(ended: Job) -> None:
        assert ended.status == JobState.SUCCEEDED
        assert _history(database, job) == [(1, "lost"), (2, "succeeded")]

    return Written(lambda: attempts.succeed(database, job.id, 2, {"timings": {}}), check)


def _given_back(database: Database) -> Written:
    job = claimed(database, accepted(database).id)

    def check(back: Job | None) -> None:
        assert back is not None
        assert (row(database, job.id).status, row(database, job.id).failures) == (JobState.QUEUED, 0)
        assert _history(database, job) == [(1, "returned")]

    return Written(lambda: attempts.give_back(database, job.id, 1), check)


def _crashed(database: Database) -> Written:
    job = claimed(database, accepted(database).id)

    def check(after: Job | None) -> None:
        assert after is not None
        assert (row(database, job.id).status, row(database, job.id).failures) == (JobState.QUEUED, 1)
        assert _history(database, job) == [(1, "lost")]

    return Written(lambda: attempts.crashed(database, job.id, 1, "died", 0.0), check)


def _cancel_waiting(database: Database) -> Written:
    job = accepted(database, webhook_url=WEBHOOK)

    def check(stopped: records.Stopped) -> None:
        assert (stopped.job.status, stopped.ended) == (JobState.CANCELLED, True)
        assert [use.outcome for use in rows(database, Use)] == ["cancelled"]
        assert len(rows(database, WebhookMessage)) == 1

    return Written(lambda: records.request_cancel(database, job.id), check)


def _cancel_running(database: Database) -> Written:
    job = claimed(database, accepted(database).id)

    def check(stopped: records.Stopped) -> None:
        assert stopped.job.status == JobState.RUNNING
        assert attempts.renew(database, job.id, 1, 60).cancel

    return Written(lambda: records.request_cancel(database, job.id), check)


def _release_device(database: Database) -> Written:
    job = claimed(database, accepted(database).id)

    def check(_: None) -> None:
        after = row(database, job.id)
        assert (after.status, after.phase, after.attempt) == (JobState.RUNNING, Phase.FINISHING, 1)
        assert after.released_at is not None
        assert finishing.take_up(database, job.id, 1, 60) is not None

    return Written(lambda: finishing.release_device(database, job.id, 1, 60), check)


def _take_up(database: Database) -> Written:
    job = claimed(database, accepted(database).id, lease_seconds=-1.0)
    finishing.release_device(database, job.id, 1, -1.0)

    def check(taken: Job | None) -> None:
        assert taken is not None
        assert running_attempts.lapsed(database) == []

    return Written(lambda: finishing.take_up(database, job.id, 1, 60), check)


def _delete(database: Database) -> Written:
    job = accepted(database, idempotency_key="k", request_hash="h")

    def check(stopped: records.Stopped) -> None:
        assert stopped.job.id == job.id
        after = row(database, job.id)
        assert (after.deleted, after.status, after.idempotency_key) == (True, JobState.CANCELLED, None)
        assert len(rows(database, Use)) == 1

    return Written(lambda: records.remove(database, job.id), check)


def _pause_running(database: Database) -> Written:
    job = library.start(database, library.download(database))

    def check(after: Job) -> None:
        assert (after.status, row(database, job.id).requested_action) == (JobState.RUNNING, "pause")

    return Written(lambda: download_control.pause(database, job.id), check)


def _pause_waiting(database: Database) -> Written:
    job = library.download(database)
    return Written(
        lambda: download_control.pause(database, job.id), lambda after: _is(database, job, after, JobState.PAUSED)
    )


def _resume(database: Database) -> Written:
    job = library.download(database)
    download_control.pause(database, job.id)
    return Written(
        lambda: download_control.resume(database, job.id), lambda after: _is(database, job, after, JobState.QUEUED)
    )


def _take_pause_back(database: Database) -> Written:
    job = library.start(database, library.download(database))
    download_control.pause(database, job.id)

    def check(after: Job) -> None:
        assert (after.status, row(database, job.id).requested_action) == (JobState.RUNNING, None)

    return Written(lambda: download_control.resume(database, job.id), check)


def _paused(database: Database) -> Written:
    job = library.start(database, library.download(database))
    download_control.pause(database, job.id)
    return Written(
        lambda: attempts.paused(database, job.id, 1, download_control.BY_OWNER, Fetched(1, 2, 50.0)),
        lambda after: _is(database, job, after, JobState.PAUSED, [(1, "paused")]),
    )


def _is(
    database: Database, job: Job, after: Job | None, state: JobState, history: Sequence[tuple[int, str]] = ()
) -> None:
    assert after is not None
    assert (after.status, row(database, job.id).status) == (state, state)
    assert _history(database, job) == list(history)


def _history(database: Database, job: Job) -> list[tuple[int, str]]:
    """Return the number and the outcome of each ended attempt."""
    return [(one["attempt"], one["outcome"]) for one in row(database, job.id).attempt_history or []]


def _commit_of_a_download(database: Database) -> Written:
    job = library.start(database, library.download(database))
    return Written(
        lambda: download_control.keep_commit(database, job.id, 1, "c" * 40),
        lambda _: None if row(database, job.id).params["sha"] == "c" * 40 else pytest.fail("not kept"),
    )


def _drain(database: Database) -> Written:
    library.node(database)

    def check(node: Any) -> None:
        assert node.drained_at is not None
        assert nodes.drained(database) == {"here"}

    return Written(lambda: nodes.drain(database, "here"), check)


def _undrain(database: Database) -> Written:
    library.node(database)
    nodes.drain(database, "here")

    def check(node: Any) -> None:
        assert nodes.drained(database) == frozenset()

    return Written(lambda: nodes.undrain(database, "here"), check)


def _remove_node(database: Database) -> Written:
    library.node(database)
    job = library.download(database)
    nodes.deregister_node(database, "here")

    def check(ended: list[Job]) -> None:
        assert [one.id for one in ended] == [job.id]
        assert nodes.nodes(database) == []
        assert row(database, job.id).status == JobState.FAILED

    return Written(lambda: nodes.remove(database, "here", 30.0), check)


def _dispatch(database: Database) -> Written:
    job = accepted(database)

    def check(dispatched: list[tuple[str, str]]) -> None:
        assert dispatched == [(job.id, "n/0")]
        assert row(database, job.id).dispatched_to == "n/0"

    return Written(lambda: dispatch.mark_dispatched(database, [(job.id, "n/0")]), check)


def _give_up(database: Database) -> Written:
    job = accepted(database, webhook_url=WEBHOOK)

    def check(ended: Job | None) -> None:
        assert ended is not None
        assert row(database, job.id).status == JobState.FAILED
        assert (len(rows(database, Use)), len(rows(database, WebhookMessage))) == (1, 1)

    return Written(lambda: dispatch.give_up(database, job.id, Failure("no_device", "none", True)), check)


def _key(database: Database) -> Written:
    def check(made: Any) -> None:
        key, secret = made
        assert [found.id for found in rows(database, ApiKey)] == [key.id]
        assert keys.find(database, secret) is not None

    return Written(lambda: keys.make(database, "one", [Scope.READ], Limits()), check)


def _revoke(database: Database) -> Written:
    keys.make(database, "one", [Scope.READ], Limits())

    def check(key: ApiKey) -> None:
        assert key.revoked_at is not None
        assert [found.revoked_at is not None for found in rows(database, ApiKey)] == [True]

    return Written(lambda: keys.revoke(database, "one"), check)


def _audited(database: Database) -> Written:
    act = Act(actor="local", key_id=None, act="node.drained", subject="/x", outcome=200, detail={})

    def check(_: Any) -> None:
        assert len(rows(database, AuditEntry)) == 1

    return Written(lambda: audit.record(database, act), check)


def _repaired(database: Database) -> Written:
    library.replica(database, state="corrupted", faults=[{"path": "a", "type": "checksum_mismatch"}])
    whole = Verdict(faults=(), verified_bytes=1, expected_bytes=1)

    def check(changed: bool) -> None:
        (replica,) = [one for one in rows(database, library.Replica) if one.model_id == "T2V-A14B"]
        assert (replica.state, replica.generation) == ("available", 1), "loaded once from before, stale once"

    return Written(
        lambda: replica_files.record_verification(
            database, "here", "T2V-A14B", library.COMMIT, whole, [], full=True, at=library.clock.now()
        ),
        check,
    )


def _quarantined(database: Database) -> Written:
    library.device(database)

    def check(changed: bool) -> None:
        assert changed
        assert [one.quarantine_reason for one in rows(database, Device)] == ["Xid 79"]
        assert len(rows(database, DeviceFault)) == 1

    return Written(lambda: device_faults.quarantine(database, "here/0", FaultKind.XID, "Xid 79"), check)


def _released(database: Database) -> Written:
    library.device(database)
    device_faults.quarantine(database, "here/0", FaultKind.XID, "Xid 79")

    def check(device: Device) -> None:
        assert device.quarantined_at is None
        assert [one.quarantined_at for one in rows(database, Device)] == [None]
        assert [one.cleared_at is not None for one in rows(database, DeviceFault)] == [True]

    return Written(lambda: device_faults.release(database, "here/0"), check)


def _faulty(database: Database) -> Written:
    job = claimed(database, accepted(database).id)
    fault = Fault(FaultKind.CUDA_ERROR, "CUDA error")

    def check(after: Job | None) -> None:
        assert after is not None
        assert (after.failures, after.avoid_device) == (1, "n/0")
        assert [(one.job_id, one.attempt) for one in rows(database, DeviceFault)] == [(job.id, 1)], "counted once"

    return Written(lambda: attempts.crashed(database, job.id, 1, "died", 0.0, fault=fault), check)


def _accept_flow(database: Database) -> Written:
    new = new_flow(a=Node(), b=Node(("a",)))

    def check(outcome: Any) -> None:
        assert (outcome.flow.id, outcome.replayed) == (new.id, False)
        assert states(database, new.id) == {"a": "queued", "b": "held"}
        assert len(rows(database, Job)) == 2

    return Written(lambda: flow_accepting.accept(database, new), check)


def _advance_flow(database: Database) -> Written:
    flow = accepted_flow(database, WEBHOOK, a=Node(), b=Node(("a",)))
    run(database, flow.id, "a", fails=True)

    def check(_: Any) -> None:
        assert states(database, flow.id) == {"a": "failed", "b": "skipped"}
        assert len(rows(database, Use)) == 2
        assert [message.type for message in rows(database, WebhookMessage)] == ["flow.failed"]

    return Written(lambda: advancing.advance(database, flow.id), check)


def _cancel_flow(database: Database) -> Written:
    flow = accepted_flow(database, WEBHOOK, a=Node(), b=Node(("a",)))

    def check(done: Any) -> None:
        assert done.flow.state == "cancelled"
        assert len(rows(database, Use)) == 2
        assert [message.type for message in rows(database, WebhookMessage)] == ["flow.cancelled"]

    return Written(lambda: changing.cancel(database, flow.id), check)


def _retry_flow(database: Database) -> Written:
    flow = accepted_flow(database, a=Node(), b=Node(("a",)))
    run(database, flow.id, "a", fails=True)
    follow(database)
    was = changing.retriable(database, flow.id)
    new = {name: new_job(retry_of=job.id) for name, job in was.jobs.items()}

    def check(flow_now: Any) -> None:
        assert flow_now.retries == 1
        assert states(database, flow.id) == {"a": "queued", "b": "held"}
        assert len(rows(database, Job)) == 4

    return Written(lambda: changing.retry(database, was, new), check)


def _accept_batch(database: Database) -> Written:
    new, jobs = batch_of(2, idempotency_key="k", request_hash="h")

    def check(done: batches.Accepted) -> None:
        assert (done.batch.id, done.replayed) == (new.id, False)
        assert {job.id for job in rows(database, Job)} == {job.id for job in jobs}

    return Written(lambda: batches.accept(database, new, jobs), check)


def _cancel_batch(database: Database) -> Written:
    batch, _ = stored(database, 2, webhook_url=WEBHOOK)

    def check(done: Any) -> None:
        after, stopped = done
        assert (after.cancelled, after.unended, [one.ended for one in stopped]) == (2, 0, [True, True])
        assert [message.type for message in rows(database, WebhookMessage)] == ["batch.cancelled"]

    return Written(lambda: batches.cancel(database, batch.id), check)


def _end_batch(database: Database) -> Written:
    batch, (job,) = stored(database, 1, webhook_url=WEBHOOK)
    claimed(database, job.id)

    def check(_: Job) -> None:
        assert (batches.get(database, batch.id).succeeded, batches.get(database, batch.id).unended) == (1, 0)
        assert [message.type for message in rows(database, WebhookMessage)] == ["batch.succeeded"]

    return Written(lambda: attempts.succeed(database, job.id, 1, {"timings": {}}), check)


def _bulk_step(database: Database) -> Written:
    job = claimed(database, accepted(database).id)
    targets = [accepted(database).id for _ in range(2)]
    task = bulk.Task(job.id, job.attempt, 60.0)

    def check(done: Any) -> None:
        tally, _ = done
        assert (tally.changed, tally.skipped, tally.cursor) == (2, {}, targets[1])
        assert row(database, job.id).result == bulk.as_result(tally)
        assert len(rows(database, Use)) == 2

    return Written(lambda: bulk.act(database, "cancel", Selection(), targets, Tally(2), task=task), check)


def _bulk_deletion(database: Database) -> Written:
    targets = [accepted(database).id for _ in range(2)]

    def check(done: Any) -> None:
        tally, stopped = done
        assert (tally.changed, tally.skipped, [one.ended for one in stopped]) == (2, {}, [True, True])
        assert all(row(database, target).deleted for target in targets)

    return Written(lambda: bulk.act(database, "delete", Selection(), targets, Tally(2)), check)


def _lora(expert: Literal["both", "high", "low"], sha256: str) -> lora_library.NewFile:
    return lora_library.NewFile(expert, sha256, 7, Described(2, 4, "14B", ()), "upload", "")


def _add_lora(database: Database) -> Written:
    def check(added: StoredLora) -> None:
        assert (added.name, [one["sha256"] for one in added.files]) == ("rain", ["a" * 64])
        assert [one.id for one in rows(database, StoredLora)] == [added.id]

    return Written(lambda: lora_library.add(database, "rain", _lora("both", "a" * 64), owner=None), check)


def _complete_lora(database: Database) -> Written:
    lora_library.add(database, "rain", _lora("high", "a" * 64), owner=None)

    def check(added: StoredLora) -> None:
        assert [one["expert"] for one in added.files] == ["high", "low"]
        assert [one.files for one in rows(database, StoredLora)] == [added.files]

    return Written(lambda: lora_library.add(database, "rain", _lora("low", "b" * 64), owner=None), check)


def _share_lora(database: Database) -> Written:
    lora = lora_library.add(database, "rain", _lora("both", "a" * 64), owner=None)

    def check(changed: StoredLora) -> None:
        assert changed.shared
        assert [one.shared for one in rows(database, StoredLora)] == [True]

    return Written(lambda: lora_library.change(database, lora.id, {"shared": True}), check)


def _remove_lora(database: Database) -> Written:
    lora = lora_library.add(database, "rain", _lora("both", "a" * 64), owner=None)

    def check(_: None) -> None:
        assert [one.removed_at is not None for one in rows(database, StoredLora)] == [True]

    return Written(lambda: lora_library.remove(database, lora.id), check)


def _video(database: Database) -> Job:
    job = claimed(database, accepted(database).id)
    return attempts.succeed(database, job.id, 1, {"timings": {}})


def _favourite(database: Database) -> Written:
    job = _video(database)

    def check(marked: Job) -> None:
        assert marked.id == job.id
        assert [(one.holder, one.job_id) for one in rows(database, Favourite)] == [("", job.id)]

    return Written(lambda: favourites.mark(database, "", job.id), check)


def _no_favourite(database: Database) -> Written:
    job = _video(database)
    favourites.mark(database, "", job.id)

    def check(marked: Job) -> None:
        assert marked.id == job.id
        assert rows(database, Favourite) == []

    return Written(lambda: favourites.unmark(database, "", job.id), check)


def _collection(database: Database) -> Written:
    def check(made: Collection) -> None:
        assert made.name == "rain"
        assert [one.id for one in rows(database, Collection)] == [made.id]

    return Written(lambda: collections.create(database, "", "rain"), check)


def _collect(database: Database) -> Written:
    made = collections.create(database, "", "rain")
    kept, removed = _video(database), _video(database)
    collections.change(database, "", made.id, add=[removed.id])

    def check(counted: collections.Counted) -> None:
        assert (counted.collection.name, counted.videos) == ("snow", 1)
        assert [one.name for one in rows(database, Collection)] == ["snow"]
        assert [one.job_id for one in rows(database, CollectedVideo)] == [kept.id]

    change = {"name": "snow", "add": [kept.id], "remove": [removed.id]}
    return Written(lambda: collections.change(database, "", made.id, **change), check)  # type: ignore[arg-type]


def _remove_collection(database: Database) -> Written:
    made = collections.create(database, "", "rain")
    collections.change(database, "", made.id, add=[_video(database).id])

    def check(_: None) -> None:
        assert (rows(database, Collection), rows(database, CollectedVideo)) == ([], [])

    return Written(lambda: collections.remove(database, "", made.id), check)


WRITES: dict[str, Callable[[Database], Written]] = {
    "accept": _accept,
    "accept a flow": _accept_flow,
    "follow the ends of a flow": _advance_flow,
    "cancel a flow": _cancel_flow,
    "retry a flow": _retry_flow,
    "follow_windows": _follow_windows,
    "set_window": _set_window,
    "claim": _claim,
    "release the device": _release_device,
    "take up what is finishing": _take_up,
    "succeed": _ending(JobState.SUCCEEDED),
    "fail": _ending(JobState.FAILED),
    "succeed in the second attempt": _second_attempt,
    "end as cancelled": _ending(JobState.CANCELLED),
    "give back": _given_back,
    "crash": _crashed,
    "crash by a fault of the device": _faulty,
    "quarantine a device": _quarantined,
    "release a device": _released,
    "cancel a waiting job": _cancel_waiting,
    "cancel a running job": _cancel_running,
    "accept a batch": _accept_batch,
    "cancel a batch": _cancel_batch,
    "end a batch": _end_batch,
    "cancel many jobs": _bulk_step,
    "delete many jobs": _bulk_deletion,
    "delete": _delete,
    "pause a running download": _pause_running,
    "pause a waiting download": _pause_waiting,
    "resume": _resume,
    "take a pause back": _take_pause_back,
    "end paused": _paused,
    "keep a download's commit": _commit_of_a_download,
    "drain": _drain,
    "undrain": _undrain,
    "remove a node": _remove_node,
    "dispatch": _dispatch,
    "give up": _give_up,
    "make a key": _key,
    "revoke a key": _revoke,
    "audit": _audited,
    "record a repair": _repaired,
    "add a LoRA": _add_lora,
    "add the other half of a LoRA": _complete_lora,
    "share a LoRA": _share_lora,
    "remove a LoRA": _remove_lora,
    "mark a favourite": _favourite,
    "unmark a favourite": _no_favourite,
    "create a collection": _collection,
    "change a collection": _collect,
    "delete a collection": _remove_collection,
}
