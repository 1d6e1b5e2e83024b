"""Integrity checks on real files: each fault is found, reported and repaired from a real hub; no file is read twice."""

import ctypes
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from shared.catalogue.job_types import INTEGRITY_CHECK, IntegrityCheckParams
from shared.database.engine import Database
from shared.errors import Cancelled, Draining
from shared.jobs import attempts, dispatch, records
from shared.messaging.progress import read_event, stream_key
from shared.models import replica_files, replicas
from shared.models.verification import Expected
from shared.settings import Settings
from tests.conftest import both_databases
from tests.support.jobs import UNCOUNTED, accepted
from tests.support.models.io_node import WEIGHTS, Node, make_model
from tests.support.servers.faulty_hub import HubProcess
from tests.support.working import HERE
from workers.attempts.runner import Runner
from workers.models import checksums


@pytest.fixture
def node(settings: Settings, database: Database) -> Node:
    """A node with one complete model that has scanned its disk."""
    node = Node(settings, database)
    make_model(node.models)
    node.scan()
    return node


@pytest.fixture
def hub(node: Node, tmp_path: Path) -> Iterator[HubProcess]:
    """A hub that serves the node's model."""
    shutil.copytree(node.models, tmp_path / "hub", symlinks=True)
    hub = HubProcess(tmp_path / "hub").start()
    yield hub
    hub.kill()


def with_hub(node: Node, url: str) -> Node:
    return Node(node.settings.model_copy(update={"hub_url": url}), node.database)


def snapshot(node: Node) -> Path:
    found = replicas.snapshot_dir(node.models, node.integrity._catalogue.get("T2V-A14B"))
    assert found is not None
    return found


def rewrite(place: Path, change: Callable[[bytearray], None], *, keep_time: bool = False) -> None:
    """Changes the blob behind a link in place, as a failing disk does; `keep_time`: without a trace in its times."""
    blob = place.resolve()
    status = blob.stat()
    content = bytearray(blob.read_bytes())
    change(content)
    with blob.open("r+b") as file:
        file.truncate(len(content))
        file.write(content)
    if keep_time:
        os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip(content: bytearray) -> None:
    content[-10] ^= 1


def bad_header(content: bytearray) -> None:
    content[8] = ord("x")


def truncate(content: bytearray) -> None:
    del content[-100:]


def extend(content: bytearray) -> None:
    content += b"more"


def result_of(job: Any, model_id: str = "T2V-A14B") -> dict[str, Any]:
    assert job.status == "succeeded", job.error
    found: dict[str, Any] = job.result["models"][model_id]
    return found


def break_it(place: Path, how: str) -> None:
    match how:
        case "missing_file":
            place.unlink()
        case "broken_link":
            place.resolve().unlink()
        case "unreadable":
            blob = place.resolve()
            blob.unlink()
            blob.mkdir()
        case _:
            changes = {
                "checksum_mismatch": flip,
                "truncated": truncate,
                "size_mismatch": extend,
                "bad_safetensors_header": bad_header,
            }
            rewrite(place, changes[how])


FAULTS = (
    "missing_file",
    "truncated",
    "size_mismatch",
    "checksum_mismatch",
    "unreadable",
    "bad_safetensors_header",
    "broken_link",
)


@both_databases
def test_a_whole_model_is_proven(node: Node) -> None:
    found = result_of(node.check())
    assert found["integrity_score"] == 1.0
    assert found["faults"] == []
    assert found["expected_bytes"] == found["verified_bytes"] > 100_000
    row = node.replica()
    assert (row.state, row.verified_full, row.verified_bytes) == ("available", True, found["verified_bytes"])
    assert row.verified_at is not None
    rows = replica_files.files(node.database, "here", "T2V-A14B", snapshot(node).name)
    assert set(rows) == {str(path.relative_to(snapshot(node))) for path in snapshot(node).rglob("*") if path.is_file()}
    assert all(row.verified_at and row.fault is None for row in rows.values())


@pytest.mark.parametrize("how", FAULTS)
def test_each_fault_is_found_and_takes_the_model_out_of_service(node: Node, how: str) -> None:
    break_it(snapshot(node) / WEIGHTS, how)
    found = result_of(node.check())
    assert found["faults"] == [{"path": WEIGHTS, "type": how}]
    assert 0 < found["integrity_score"] < 1
    row = node.replica()
    assert (row.state, row.generation) == ("corrupted", 1)
    assert row.faults == [{"path": WEIGHTS, "type": how}]
    node.scan()
    assert node.replica().state == "corrupted", "a look at which files are there does not clear it"
    assert result_of(node.check())["faults"] == [{"path": WEIGHTS, "type": how}]
    assert node.replica().generation == 1, "it was out of service already"


@pytest.mark.parametrize("how", FAULTS)
def test_what_was_once_proven_keeps_its_size_and_checksum(node: Node, how: str) -> None:
    """After a first check, the score counts the whole file as lost, whatever is left of it."""
    whole = result_of(node.check())["expected_bytes"]
    size = (snapshot(node) / WEIGHTS).stat().st_size
    break_it(snapshot(node) / WEIGHTS, how)
    found = result_of(node.check())
    assert found["expected_bytes"] == whole
    assert found["verified_bytes"] == whole - size
    assert found["integrity_score"] == pytest.approx((whole - size) / whole)


def test_no_job_runs_on_a_corrupted_model(node: Node) -> None:
    rewrite(snapshot(node) / WEIGHTS, flip)
    node.check()
    job = accepted(node.database)
    dispatch.mark_dispatched(node.database, [(job.id, HERE.device_key)])
    assert attempts.claim(node.database, job.id, HERE, lease_seconds=60) is None


def test_a_quick_check_trusts_what_is_untouched_and_a_full_one_does_not(node: Node) -> None:
    assert node.check().status == "succeeded"
    rewrite(snapshot(node) / WEIGHTS, flip, keep_time=True)
    assert result_of(node.check(full=False))["faults"] == []
    assert not node.replica().verified_full
    assert result_of(node.check(full=True))["faults"] == [{"path": WEIGHTS, "type": "checksum_mismatch"}]
    assert node.replica().verified_full


def test_a_quick_check_reads_what_has_been_touched(node: Node) -> None:
    assert node.check(full=False).status == "succeeded"
    assert node.replica().verified_full, "nothing had been read before"
    rewrite(snapshot(node) / WEIGHTS, flip)
    assert result_of(node.check(full=False))["faults"] == [{"path": WEIGHTS, "type": "checksum_mismatch"}]


def test_a_file_without_a_checksum_in_its_name_is_taken_as_it_is_first_found(node: Node) -> None:
    place = snapshot(node) / "extra.bin"
    place.write_bytes(b"plain")
    assert result_of(node.check())["integrity_score"] == 1.0
    place.write_bytes(b"plaid")
    assert result_of(node.check())["faults"] == [{"path": "extra.bin", "type": "checksum_mismatch"}]


def test_all_models_of_the_node_are_checked(node: Node) -> None:
    other = make_model(node.models, "TI2V-5B")
    node.scan()
    rewrite(other / WEIGHTS, flip)
    job = node.check(None)
    assert set(job.result["models"]) == {"T2V-A14B", "TI2V-5B"}
    assert (node.replica().state, node.replica("TI2V-5B").state) == ("available", "corrupted")


def test_a_model_that_is_not_here_cannot_be_checked(node: Node) -> None:
    job = node.check("TI2V-5B")
    assert (job.status, job.error["code"]) == ("failed", "model_unavailable")


@pytest.mark.parametrize("how", [how for how in FAULTS if how != "unreadable"])
def test_repair_fetches_only_what_is_broken(node: Node, hub: HubProcess, how: str) -> None:
    node = with_hub(node, hub.url)
    size = (snapshot(node) / WEIGHTS).stat().st_size
    break_it(snapshot(node) / WEIGHTS, how)
    found = result_of(node.check(repair=True))
    assert found["faults"] == [{"path": WEIGHTS, "type": how}]
    assert (found["repaired"], found["integrity_score"]) == ([WEIGHTS], 1.0)
    # Where only the link was lost, its blob was right all the time.
    assert hub.served() == (0 if how == "missing_file" else size)
    assert {request["path"].partition("/resolve/")[2].partition("/")[2] for request in hub.requests()} <= {WEIGHTS}
    row = node.replica()
    assert (row.state, row.faults, row.generation) == ("available", [], 2)
    assert result_of(node.check())["integrity_score"] == 1.0


def test_where_the_hub_says_no_the_job_says_so_and_what_was_found_stays_written(node: Node, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    hub = HubProcess(tmp_path / "empty").start()
    rewrite(snapshot(node) / WEIGHTS, flip)
    job = with_hub(node, hub.url).check(repair=True)
    hub.kill()
    assert (job.status, job.error["code"], job.error["retryable"]) == ("failed", "cannot_repair", True)
    assert node.replica().faults == [{"path": WEIGHTS, "type": "checksum_mismatch"}]
    assert node.replica().state == "corrupted"


@pytest.mark.slow
def test_so_it_is_without_a_hub(node: Node, monkeypatch: Any) -> None:
    monkeypatch.setattr("workers.models.repair._HUB_PATIENCE_SECONDS", 0.5)
    rewrite(snapshot(node) / WEIGHTS, flip)
    job = with_hub(node, "http://127.0.0.1:9").check(repair=True)
    assert (job.error["code"], node.replica().state) == ("cannot_repair", "corrupted")


def test_a_file_that_the_hub_does_not_have_cannot_be_repaired(node: Node, hub: HubProcess) -> None:
    node = with_hub(node, hub.url)
    place = snapshot(node) / "extra.bin"
    place.write_bytes(b"plain")
    node.check()
    place.write_bytes(b"other")
    job = node.check(repair=True)
    assert job.error["code"] == "cannot_repair"
    assert "extra.bin" in job.error["message"]


class _Counting:
    """Counts the bytes that are hashed."""

    def __init__(self, monkeypatch: Any) -> None:
        self.bytes = 0
        count = checksums._Reading.count

        def counted(reading: Any, size: int) -> None:
            self.bytes += size
            count(reading, size)

        monkeypatch.setattr(checksums._Reading, "count", counted)


def test_an_interrupted_check_continues(node: Node, monkeypatch: Any) -> None:
    """The second attempt does not read again what the first verified; another job's does."""
    monkeypatch.setattr("workers.models.checksums.os.sched_getaffinity", lambda pid: {0})
    counting = _Counting(monkeypatch)
    job = node.accept(INTEGRITY_CHECK, IntegrityCheckParams(model_id="T2V-A14B", node="here"))
    read_files = checksums.read_files

    def stopped(*args: Any, **options: Any) -> Iterator[int]:
        """As a worker that is told to stop once the largest file has been read."""
        came = options["came"]

        def first(read: Any) -> None:
            came(read)
            if read.path == WEIGHTS:  # what was read at once with it is told in any order
                raise Draining

        yield from read_files(*args, **{**options, "came": first})

    monkeypatch.setattr(checksums, "read_files", stopped)
    dispatch.mark_dispatched(node.database, [(job.id, node.key)])
    runner = Runner(node.settings, node.database, node.claimant, {INTEGRITY_CHECK: node.integrity}, UNCOUNTED)
    with pytest.raises(Draining):
        runner.run(INTEGRITY_CHECK, job.id)
    monkeypatch.setattr(checksums, "read_files", read_files)
    counting.bytes = 0
    ended = node.run(records.get(node.database, job.id))
    whole = result_of(ended)["expected_bytes"]
    largest = (snapshot(node) / WEIGHTS).stat().st_size
    assert counting.bytes < whole - largest + 1000
    assert node.replica().verified_full
    counting.bytes = 0
    node.check()
    assert counting.bytes > largest


def test_a_cancel_takes_effect_within_a_second(settings: Settings, database: Database) -> None:
    node = Node(settings, database)
    with (make_model(node.models) / "large.bin").open("wb") as file:
        file.truncate(30_000_000_000)  # half a minute of reading, and no byte on the disk
    node.scan()
    job = node.accept(INTEGRITY_CHECK, IntegrityCheckParams(model_id="T2V-A14B", node="here"))
    asked: list[float] = []

    def cancel() -> None:
        asked.append(time.monotonic())
        records.request_cancel(database, job.id)
        node.integrity._progress.ask_to_cancel(job.id)

    timer = threading.Timer(0.4, cancel)
    timer.start()
    dispatch.mark_dispatched(database, [(job.id, node.key)])
    with pytest.raises(Cancelled):
        Runner(settings, database, node.claimant, {INTEGRITY_CHECK: node.integrity}, UNCOUNTED).run(
            INTEGRITY_CHECK, job.id
        )
    timer.join()
    assert time.monotonic() - asked[0] < 1.0
    assert records.get(database, job.id).status == "cancelled"


def test_progress_is_reported_in_bytes(node: Node, redis_url: str) -> None:
    job = node.check()
    told = [read_event(fields) for _, fields in redis.Redis.from_url(redis_url).xrange(stream_key(job.id))]
    progress = [event for event in told if event["kind"] == "progress"]
    assert progress
    size = job.result["models"]["T2V-A14B"]["expected_bytes"]
    for event in progress:
        assert (event["phase"], event["attempt"], event["bytes_total"]) == ("verifying", 1, size)
        assert 0 <= event["bytes_done"] <= size
    assert job.percent == 100.0


def test_a_download_that_replaces_the_revision_is_not_undone(node: Node) -> None:
    """A verdict on files that are no longer served changes nothing."""
    old = snapshot(node)
    rewrite(old / WEIGHTS, flip)
    node.check()
    assert node.replica().state == "corrupted"
    make_model(node.models)
    node.scan()
    row = node.replica()
    assert (row.state, row.faults, row.verified_at) == ("available", [], None)
    assert not replica_files.take_out(node.database, "here", "T2V-A14B", old.name, [])


def test_the_reading_has_low_priority(node: Node, monkeypatch: Any) -> None:
    """Only its threads use the idle class of the disk and the lowest processor priority."""
    libc = ctypes.CDLL(None)
    ioprio_get = {"x86_64": 252, "aarch64": 31}[platform.machine()]
    seen: list[tuple[int, int]] = []
    read = checksums._read

    def observed(*args: Any) -> checksums.Read:
        thread = threading.get_native_id()
        seen.append((os.getpriority(os.PRIO_PROCESS, thread), libc.syscall(ioprio_get, 1, 0) >> 13))
        return read(*args)

    monkeypatch.setattr(checksums, "_read", observed)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    list(checksums.read_files(snapshot(node), [Expected(WEIGHTS, None, None)], {}, check=lambda: None, came=print))
    assert seen == [(19, 3)]
    assert (os.getpriority(os.PRIO_PROCESS, 0), libc.syscall(ioprio_get, 1, 0) >> 13) == (before, 0)
