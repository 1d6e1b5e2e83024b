"""Cleanup on real files and both databases: removed files are gone from the disk, and needed files stay."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared import clock
from shared.catalogue.job_types import CLEANUP, DOWNLOAD, CleanupParams, DownloadParams
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device, Job
from shared.jobs import attempts, dispatch, records
from shared.jobs.attempts import Claimant
from shared.management import cleanup_facts
from shared.management.cleanup_plan import CleanupPlan, plan
from shared.models import removals, replica_files, replicas
from shared.settings import Settings
from shared.states import JobState
from tests.conftest import both_databases
from tests.support.jobs import DEMO, accepted
from tests.support.models.io_node import WEIGHTS, Node, make_model
from tests.support.uses import used
from tests.support.working import HERE, finish

pytestmark = both_databases


@pytest.fixture
def node(settings: Settings, database: Database) -> Node:
    """Two models of 100 KB and one of 1 MB, used 60 days ago, yesterday, and never; all files are 90 days old."""
    node = Node(settings, database)
    make_model(node.models, "T2V-A14B")
    make_model(node.models, "I2V-A14B")
    make_model(node.models, "TI2V-5B", size=1_000_000)
    age(node.models, 90)
    used(database, "T2V-A14B", days_ago=60)
    used(database, "I2V-A14B", days_ago=1)
    node.scan()
    beat(node)
    return node


def age(folder: Path, days: float) -> None:
    moment = (clock.now() - timedelta(days=days)).timestamp()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (moment, moment))


def beat(node: Node) -> None:
    disk = os.statvfs(node.models)
    size = disk.f_frsize / 1e6
    nodes.node_beat(node.database, "here", disk.f_blocks * size, disk.f_bavail * size)


def planned(node: Node, **options: Any) -> CleanupPlan:
    """As the dry run: from rows alone."""
    return plan(cleanup_facts.gather(node.database, DEMO, "here", clock.now(), **options))


def proposed(node: Node, **options: Any) -> list[tuple[str, str | None]]:
    return [(str(action.kind), action.model_id) for action in planned(node, **options).actions]


def why_kept(node: Node, model_id: str) -> str:
    return next(kept.reason for kept in planned(node).kept if kept.model_id == model_id)


def repo(node: Node, model_id: str = "T2V-A14B") -> Path:
    return node.models / f"models--wanworks-demo--{model_id}"


def blobs(node: Node, model_id: str = "T2V-A14B") -> set[str]:
    return {path.name for path in (repo(node, model_id) / "blobs").iterdir()}


def on_disk(node: Node) -> int:
    """Return the size of all files and links of the model storage, as `du` counts it."""
    return sum(
        path.lstat().st_blocks * 512 for path in node.models.rglob("*") if not path.is_dir() or path.is_symlink()
    )


def load(node: Node, model_id: str) -> None:
    """A device of the node holds the model."""
    device = Device(
        key="here/0", node="here", index=0, kind="cpu", uuid="cpu-0", name="CPU", memory_mb=1, worker="gpu-0@here",
        pid=1, started_at=clock.now(), seen_at=0.0, warm=[{"model_id": model_id, "quantization": "none"}],
    )  # fmt: skip
    nodes.register_device(node.database, device)


def test_a_dry_run_proposes_unused_files(node: Node) -> None:
    """A model that was never used is removed first: it is 90 days old."""
    result = planned(node)
    assert [(str(each.kind), each.model_id) for each in result.actions] == [
        ("remove_model", "TI2V-5B"),
        ("remove_model", "T2V-A14B"),
    ]
    assert result.actions[1].reason == "Unused for 60 days"
    assert result.actions[1].last_used is not None
    assert why_kept(node, "I2V-A14B") == "It was used in the last 30 days"
    weights = sum(path.stat().st_size for path in (repo(node) / "blobs").iterdir())
    assert result.actions[1].bytes == weights
    assert result.free_bytes == pytest.approx(
        os.statvfs(node.models).f_bavail * os.statvfs(node.models).f_frsize, rel=0.1
    )
    free = (result.free_bytes or 0) / 1e9
    assert proposed(node, target_space_gb=free + 0.0005) == [("remove_model", "TI2V-5B")]
    assert proposed(node, target_space_gb=free - 0.1) == []
    assert proposed(node, keep_recent_days=0)[-1] == ("remove_model", "I2V-A14B")


def test_executed_is_what_was_proposed_and_the_disk_says_so(node: Node) -> None:
    before = planned(node)
    allocated = on_disk(node)
    result = node.clean()
    assert [(each["action_type"], each["model_id"]) for each in result["executed_actions"]] == [
        (str(action.kind), action.model_id) for action in before.actions
    ]
    assert result["freed_bytes"] == sum(each["freed_bytes"] for each in result["executed_actions"])
    assert result["freed_bytes"] == allocated - on_disk(node) > 1_000_000
    assert result["skipped"] == []
    assert blobs(node) == blobs(node, "TI2V-5B") == set()
    assert not any((repo(node) / "snapshots").iterdir())
    assert not (repo(node) / "refs" / "main").exists()
    assert len(blobs(node, "I2V-A14B")) > 3
    assert (node.replica().state, node.replica().revision) == ("missing", None)
    assert node.replica("I2V-A14B").state == "available"
    assert planned(node).actions == ()
    assert replica_files.files(node.database, "here", "T2V-A14B", "x") == {}


def test_a_dry_run_as_a_job_changes_nothing(node: Node) -> None:
    before = {path: path.lstat().st_mtime for path in node.models.rglob("*")}
    result = node.clean(dry_run=True)
    assert result["executed_actions"] == []
    assert [each["model_id"] for each in result["proposed_actions"]] == ["TI2V-5B", "T2V-A14B"]
    assert {path: path.lstat().st_mtime for path in node.models.rglob("*")} == before


def test_only_as_much_as_the_target_needs(node: Node) -> None:
    free = os.statvfs(node.models).f_bavail * os.statvfs(node.models).f_frsize / 1e9
    result = node.clean(target_space_gb=free - 0.5)
    assert (result["executed_actions"], result["reaches_target"]) == ([], True)


def test_what_is_pinned_stays(node: Node) -> None:
    replicas.pin(node.database, "T2V-A14B")
    assert proposed(node) == [("remove_model", "TI2V-5B")]
    replicas.unpin(node.database, "T2V-A14B")
    assert len(proposed(node)) == 2


def test_what_is_loaded_stays(node: Node) -> None:
    load(node, "T2V-A14B")
    assert proposed(node) == [("remove_model", "TI2V-5B")]
    assert not removals.begin_removal(node.database, "here", "T2V-A14B")
    result = node.clean()
    assert [each["model_id"] for each in result["executed_actions"]] == ["TI2V-5B"]


def test_what_a_job_waits_for_or_runs_on_stays(node: Node) -> None:
    job = accepted(node.database)
    assert why_kept(node, "T2V-A14B") == "A queued job needs it"
    assert not removals.begin_removal(node.database, "here", "T2V-A14B")
    dispatch.mark_dispatched(node.database, [(job.id, HERE.device_key)])
    running = attempts.claim(node.database, job.id, HERE, 60)
    assert running is not None
    assert why_kept(node, "T2V-A14B") == "It is in use"
    assert not removals.begin_removal(node.database, "here", "T2V-A14B")
    finish(node.database, running, [])
    assert why_kept(node, "T2V-A14B") == "It was used in the last 30 days"


def test_a_mock_needs_no_model(node: Node) -> None:
    accepted(node.database, mock=True)
    assert len(proposed(node)) == 2


def test_what_is_being_fetched_stays(node: Node) -> None:
    job = node.accept(DOWNLOAD, DownloadParams(model_id="T2V-A14B", node="here"))
    assert why_kept(node, "T2V-A14B") == "A download of it has not ended"
    records.request_cancel(node.database, job.id)
    node.accept(DOWNLOAD, DownloadParams(model_id="T2V-A14B", node="elsewhere"))
    assert len(proposed(node)) == 2


def test_old_revisions_go_first_and_shared_blobs_stay(node: Node) -> None:
    """A new revision replaces the weights; the rest of the old one is shared with it."""
    old = next((repo(node, "I2V-A14B") / "snapshots").iterdir())
    new = old.with_name("f" * 40)
    new.mkdir()
    for place in (path for path in old.rglob("*") if path.is_symlink() and "transformer" not in str(path)):
        link = new / place.relative_to(old)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(place.readlink())
    (repo(node, "I2V-A14B") / "refs" / "main").write_text(new.name)
    node.scan()
    first = planned(node).actions[0]
    assert (str(first.kind), first.name, first.model_id) == ("remove_revision", old.name, "I2V-A14B")
    own = (old / WEIGHTS).resolve()
    # The configuration lies under a second path too, in the revision that stays.
    assert first.bytes == own.stat().st_size
    node.clean()
    assert not old.exists()
    assert not own.exists()
    assert all(place.exists() for place in new.rglob("*"))


def test_partial_files_are_removed_once_no_download_needs_them(node: Node) -> None:
    replicas.pin(node.database, "TI2V-5B")
    partial = repo(node, "I2V-A14B") / "blobs" / f"{'c' * 64}.incomplete"
    partial.write_bytes(b"x" * 50_000)
    node.scan()
    assert ("remove_partial", "I2V-A14B") not in proposed(node), "it has just been written"
    age(repo(node, "I2V-A14B") / "blobs", 2)
    node.scan()
    assert proposed(node)[0] == ("remove_partial", "I2V-A14B")
    job = node.accept(DOWNLOAD, DownloadParams(model_id="I2V-A14B", node="here"))
    assert ("remove_partial", "I2V-A14B") not in proposed(node)
    records.request_cancel(node.database, job.id)
    node.clean()
    assert not partial.exists()


def test_expired_artifacts_go_with_their_jobs(node: Node) -> None:
    job = accepted(node.database)
    folder = node.store.attempt_dir(job.id, 1)
    (folder / "video.mp4").write_bytes(b"x" * 40_000)
    with node.database.write() as session:
        row = session.get(Job, job.id)
        assert row is not None
        row.status = JobState.SUCCEEDED
        row.finished_at = clock.now() - timedelta(days=40)
        row.result = {"artifacts": [{"name": "video.mp4", "bytes": 40_000}]}
        session.add(row)
    first = planned(node).actions[0]
    assert (str(first.kind), first.bytes, first.job_ids) == ("remove_artifacts", 40_000, (job.id,))
    result = node.clean()
    assert result["executed_actions"][0]["freed_bytes"] >= 40_000
    assert not folder.exists()


def test_a_corrupted_cache_can_be_removed(node: Node) -> None:
    """A dangling link, where the library's own removal gives up."""
    (next((repo(node) / "snapshots").iterdir()) / WEIGHTS).resolve().unlink()
    node.scan()
    assert ("T2V-A14B") in [each["model_id"] for each in node.clean()["executed_actions"]]
    assert blobs(node) == set()


def test_a_removal_that_was_killed_is_finished_by_the_next(node: Node) -> None:
    assert removals.begin_removal(node.database, "here", "T2V-A14B")
    next((repo(node) / "refs").iterdir()).unlink()
    assert node.replica().state == "removing"
    node.scan()
    assert node.replica().state == "available", "no cleanup runs: the mark was left by a crash, and every file is there"
    node.clean()
    assert blobs(node) == set()


def test_a_scan_does_not_restore_a_model_that_is_being_removed(node: Node) -> None:
    job = node.accept(CLEANUP, CleanupParams(node="here"))
    dispatch.mark_dispatched(node.database, [(job.id, node.key)])
    assert attempts.claim(node.database, job.id, node.claimant, 60, at_most=1) is not None
    assert removals.begin_removal(node.database, "here", "T2V-A14B")
    node.scan()
    assert node.replica().state == "removing"


def test_a_scan_that_began_before_a_removal_does_not_restore_the_model(node: Node) -> None:
    began = clock.now()
    found = {entry.model_id: replicas.scan(node.models, entry) for entry in DEMO.entries}
    node.clean()
    assert node.replica().state == "missing"
    replicas.record(node.database, "here", DEMO, found, began)
    assert node.replica().state == "missing"


def test_removal_and_claim_at_the_same_moment(node: Node) -> None:
    """Whichever comes first, never both: a job that was claimed has its model, or the model goes and no job has it."""
    rounds = 25
    claims = removed = 0
    for place in range(rounds):
        with node.database.write() as session:
            row = session.get(type(node.replica()), ("here", "T2V-A14B"))
            assert row is not None
            row.state = "available"
            session.add(row)
        job = accepted(node.database, mock=False)
        claimant = Claimant("here", f"w{place}", "cpu-0", HERE.device_key)
        dispatch.mark_dispatched(node.database, [(job.id, HERE.device_key)])
        gate = threading.Barrier(2)

        def claim(job_id: str = job.id, claimant: Claimant = claimant, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return attempts.claim(node.database, job_id, claimant, 60) is not None

        def remove(gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return _begin(node)

        with ThreadPoolExecutor(2) as pool:
            outcomes = pool.submit(claim), pool.submit(remove)
            claimed, gone = outcomes[0].result(), outcomes[1].result()
        assert claimed != gone
        claims += claimed
        removed += gone
        records.request_cancel(node.database, job.id)
        if claimed:
            attempts.cancelled(node.database, job.id, 1)
    assert claims + removed == rounds


def _begin(node: Node) -> bool:
    """As `begin_removal`, but blind to the queued job, so that only the lock and the running job decide."""
    needed = removals._needed
    try:
        removals._needed = _running_alone
        return removals.begin_removal(node.database, "here", "T2V-A14B")
    finally:
        removals._needed = needed


def _running_alone(session: Any, node: str, model_id: str) -> bool:
    from sqlmodel import select

    query = select(Job.id).where(Job.status == JobState.RUNNING, Job.node == node, Job.model_id == model_id)
    return session.exec(query).first() is not None
